"""Do PerA's claims show at a small scale? Its tables 9 and 11 on real EuroSAT RGB, scaled down.

Small ViTs pretrain on the same unlabelled pictures in the same order for the same steps, once by each method and by each
of PerA's parts; each is then scored by nearest neighbours, a linear probe and fine-tuning on a fifth of the labels. The
baselines are as in PerA's repository; DINOv2 also as upstream. An order is only claimed when a gap of two means exceeds
two pooled deviations. Everything is kept under --out and goes on after an interruption.

    python tests/claims/pera_eurosat.py FOLDER --out runs/claims/pera [--seeds 3] [--steps 300] [--arms PerA DINOv2]
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import ground
import torch

from training.crops import Crops
from training.encoders import IMAGENET_RGB, learned, vit
from training.methods import dino, dinov2, mae, moco, pera
from training.recipe import Recipe, Stream, replace

IMAGE, PATCH, LOCALS, LOCAL = 64, 8, 2, 32
WIDTH, DEPTH, HEADS = 96, 4, 3
HEAD = {"prototypes": 1024, "hidden": 256, "bottleneck": 64}
BATCH, RATE, SHARE, TUNE = 32, 1e-3, 0.2, 150


def small(spec: learned.Spec) -> learned.Spec:
    """The encoder of a published recipe, made small; what its code does otherwise stays."""
    return replace(spec, image=IMAGE, patch=PATCH, width=WIDTH, depth=DEPTH, heads=HEADS, drop_path=0.0)


def few(crops: Crops) -> Crops:
    return replace(crops, count=min(crops.count, LOCALS), size=LOCAL)


def of_pera(base: Recipe) -> Recipe:
    spec = base.method
    places = replace(spec.places, count=LOCALS, size=LOCAL)
    return replace(
        base,
        method=replace(spec, encoder=small(spec.encoder), places=places, head=replace(spec.head, **HEAD)),
    )


def of_crops(base: Recipe) -> Recipe:
    spec = base.method
    return replace(base, method=replace(spec, encoder=small(spec.encoder), crops=few(spec.crops), **HEAD))


def of_moco(base: Recipe) -> Recipe:
    spec = base.method
    changed = replace(spec, encoder=small(spec.encoder), crops=few(spec.crops), hidden=256, out=64)
    return replace(base, method=changed)


def of_mae(base: Recipe) -> Recipe:
    encoder = vit.Spec(
        inputs=IMAGENET_RGB, image=IMAGE, patch=PATCH, width=WIDTH, depth=DEPTH, heads=HEADS, norm_eps=1e-5
    )
    decoder = mae.Decoder(width=64, depth=2, heads=4)
    return replace(base, method=replace(base.method, encoder=encoder, decoder=decoder))


ARMS: dict[str, Callable[[], Recipe]] = {
    "PerA": lambda: of_pera(pera.vit_b16()),
    "DINOv2": lambda: of_crops(dinov2.as_pera_repo()),
    "DINOv2 as upstream": lambda: of_crops(dinov2.as_upstream()),
    "DINO": lambda: of_crops(dino.as_pera_repo()),
    "MAE": lambda: of_mae(mae.as_pera_repo()),
    "MoCo v3": lambda: of_moco(moco.as_pera_repo()),
    "alignment only": lambda: of_pera(pera.alignment_only()),
    "alignment, masks": lambda: of_pera(pera.alignment_masks()),
    "masks, pixels": lambda: of_pera(pera.masks_pixels()),
}
"""Tables 9 and 11 of the paper; its DINOv2 is table 11's iBOT row as well."""

CLAIMS = (
    ("PerA over DINOv2 (table 9)", "PerA", "DINOv2"),
    ("PerA over DINO (table 9)", "PerA", "DINO"),
    ("PerA over MAE (table 9)", "PerA", "MAE"),
    ("PerA over MoCo v3 (table 9)", "PerA", "MoCo v3"),
    ("disjoint masks (table 11)", "alignment, masks", "alignment only"),
    ("pixel prediction (table 11)", "PerA", "alignment, masks"),
    ("spatial alignment (table 11)", "PerA", "masks, pixels"),
    ("PerA over chance", "PerA", "random"),
)


def recipe(arm: str, root: Path, steps: int, seed: int) -> Recipe:
    """A published recipe on small pictures, with one rate and one batch for all."""
    base = ARMS[arm]()
    return replace(
        base,
        streams={"scenes": Stream(corpus=str(root), layers=("hr",))},
        batch=BATCH,
        steps=steps,
        optim=replace(base.optim, lr_per_256=RATE, batch_power=0.0),
        precision="fp32",
        seed=seed,
        log_every=50,
        checkpoint_every=steps,
        keep=1,
    )


def run(arm: str, seed: int, root: Path, out: Path, steps: int, tune: int) -> dict[str, float]:
    """Scores of one arm and seed, and the processor seconds of its pretraining."""
    place = out / f"{arm.replace(', ', '-').replace(' ', '-')}-seed{seed}"
    init, seconds = None, 0.0
    encoder = of_pera(pera.vit_b16()).method.encoder
    if arm != "random":
        settings = recipe(arm, root, steps, seed)
        init, seconds = ground.trained(settings, place / "pretraining")
        encoder = settings.method.encoder
    found = ground.scored(init, encoder, root, place / "transfer", share=SHARE, steps=tune, seed=seed)
    return found | {"cpu_s": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/claims/pera"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--tune", type=int, default=TUNE)
    parser.add_argument("--arms", nargs="+", choices=(*ARMS, "random"), default=(*ARMS, "random"))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    root = ground.prepared("eurosat_rgb_500", arguments.folder, arguments.out)
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for seed in range(arguments.seeds):
        for arm in arguments.arms:
            rows[arm].append(run(arm, seed, root, arguments.out, arguments.steps, arguments.tune))
            print(f"seed {seed}, {arm}: {rows[arm][-1]}", flush=True)
    report = [ground.table(rows), ""]
    for title, better, worse in CLAIMS:
        if {better, worse} <= rows.keys() and arguments.seeds > 1:
            for score in ("knn", "linear", "finetuned"):
                verdict = ground.ahead(*([one[score] for one in rows[arm]] for arm in (better, worse)))
                report.append(f"- {title}, {score}: {verdict}")
    print("\n".join(report))
    (arguments.out / "report.md").write_text("\n".join(report) + "\n")
    (arguments.out / "scores.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
