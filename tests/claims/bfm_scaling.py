"""Does a larger encoder transfer better, at the same data and steps? The billion-scale paper's claim, scaled down.

Four masked autoencoders of one depth, 1, 2 and 4 branches wide and twice as broad, pretrain on the same pictures in the
same order for the same steps; each is then fine-tuned to classify on nested shares of the labels. Seeds change the
weights, the masks and the order. The random start of each size is scored beside it: what size alone brings is not the claim.
Pictures are a class folder with an index (EuroSAT: columns path, label, split).

    python tests/claims/bfm_scaling.py FOLDER --out runs/claims/bfm [--seeds 3] [--steps 600] [--sizes '64 x1' '64 x4']

Everything is kept under --out and goes on after an interruption. Ends with a table and `scores.json`.
"""

import argparse
import csv
import itertools
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch

from geodata import manifest
from geodata.folders import FolderSpec, plan
from geodata.intake import import_shard
from geodata.manifest import Corpus
from training import evaluate, loop
from training.encoders import Inputs, vit
from training.methods import finetune, mae
from training.recipe import Cosine, Optimizer, Recipe, Stream
from training.tasks import classify

RGB = Inputs(layer="hr", bands=("R", "G", "B"))
SIZES = {"64 x1": (64, 1), "64 x2": (64, 2), "64 x4": (64, 4), "128 x4": (128, 4)}
DEPTH, IMAGE, PATCH = 6, 64, 8


def encoder(size: str) -> vit.Spec:
    width, branches = SIZES[size]
    return vit.Spec(
        inputs=RGB, image=IMAGE, patch=PATCH, width=width, depth=DEPTH, heads=width // 32, branches=branches
    )


def corpus(folder: Path, out: Path, share: float) -> tuple[Path, tuple[str, ...]]:
    """A sealed corpus with a share of each class's training pictures (nested: the first of the index), all of the test's."""
    root, index = out / f"eurosat-{share:g}", out / f"index-{share:g}.csv"
    with (folder / "index.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    seen: dict[tuple[str, str], int] = defaultdict(int)
    total: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        total[row["label"], row["split"]] += 1
    kept = []
    for row in rows:
        key = row["label"], row["split"]
        seen[key] += 1
        if row["split"] != "train" or seen[key] <= max(1, round(share * total[key])):
            kept.append(row)
    classes = tuple(sorted({row["label"] for row in rows}))
    if (root / "manifest.json").exists():
        return root, classes
    out.mkdir(parents=True, exist_ok=True)
    pictures = out / f"pictures-{share:g}"
    for row in kept:
        place = pictures / row["path"]
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.is_symlink():
            place.symlink_to((folder / row["path"]).resolve())
    with index.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(kept)
    (pictures / "index.csv").write_bytes(index.read_bytes())
    values = {"name": "eurosat", "root": str(pictures), "labels": "index", "index": "index.csv"}
    spec = FolderSpec.model_validate(
        values | {"split": {"kind": "column"}, "license": "MIT", "shard_rows": 500}
    )
    found = plan(spec)
    records = [import_shard(shard, spec, found.classes, root) for shard in found.shards(spec.shard_rows)]
    manifest.seal(Corpus(root, "eurosat", "1", spec.fingerprint, {}, tuple(records), classes=found.classes))
    return root, classes


def pretraining(size: str, root: Path, steps: int, seed: int) -> Recipe:
    return Recipe(
        name="mae.smoke",  # whose method this is
        method=mae.Spec(
            encoder=encoder(size),
            decoder=mae.Decoder(width=64, depth=2, heads=4),
            norm_pix=True,
            crop=(0.4, 1.0),
        ),
        streams={"scenes": Stream(corpus=str(root), layers=("hr",))},
        batch=64,
        steps=steps,
        optim=Optimizer(lr_per_256=4e-3, clip=1.0),
        schedule=Cosine(warmup=0.1),
        seed=seed,
        log_every=100,
        checkpoint_every=steps,
        keep=1,
    )


def transfer(
    size: str, init: Path | None, root: Path, classes: tuple[str, ...], steps: int, seed: int
) -> Recipe:
    task = classify.Spec(classes=classes, label="class", pool="mean")
    return Recipe(
        name="finetune.smoke",
        method=finetune.Spec(task=task, encoder=encoder(size), init=None if init is None else str(init)),
        streams={"labelled": Stream(corpus=str(root), layers=("hr",))},
        batch=40,
        steps=steps,
        optim=Optimizer(lr_per_256=6e-3, betas=(0.9, 0.999), layer_decay=0.8, clip=1.0),
        schedule=Cosine(warmup=0.1),
        seed=seed,
        log_every=100,
        checkpoint_every=steps,
        keep=1,
    )


def scored(recipe: Recipe, folder: Path) -> float:
    """Test accuracy after a run that is made once."""
    kept = folder / "accuracy.json"
    if kept.exists():
        return float(json.loads(kept.read_text()))
    loop.train(recipe, folder)
    done, method = evaluate.restore(folder)
    found = evaluate.evaluate(method, evaluate.held_out(done, "test", batch=250))
    kept.write_text(json.dumps(found["accuracy"]))
    return float(found["accuracy"])


def runs(arguments: argparse.Namespace) -> Iterator[tuple[str, int, float, str, float]]:
    out = arguments.out
    whole, classes = corpus(arguments.folder, out, 1.0)
    shares = {share: corpus(arguments.folder, out, share)[0] for share in arguments.shares}
    for seed, size in itertools.product(range(arguments.seeds), arguments.sizes):
        place = out / f"{size.replace(' ', '-')}-seed{seed}"
        began = time.monotonic()
        loop.train(pretraining(size, whole, arguments.steps, seed), place / "mae")
        print(f"seed {seed}, {size}: pretrained in {time.monotonic() - began:.0f} s", flush=True)
        for share, root in shares.items():
            for start, init in (("pretrained", place / "mae" / "encoder"), ("random", None)):
                recipe = transfer(size, init, root, classes, arguments.tune, seed)
                yield size, seed, share, start, scored(recipe, place / f"{start}-{share:g}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/claims/bfm"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--tune", type=int, default=150)
    parser.add_argument("--shares", type=float, nargs="+", default=(0.05, 1.0))
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=tuple(SIZES))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    scores: dict[tuple[str, float, str], list[float]] = defaultdict(list)
    for size, _, share, start, accuracy in runs(arguments):
        scores[size, share, start].append(accuracy)
    rows = []
    print(f"{'width x branches':18}{'parameters':>12}{'labels':>8}{'start':>12}{'accuracy':>18}")
    for (size, share, start), values in scores.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        count = sum(p.numel() for p in vit.build(encoder(size)).parameters())
        rows.append({"size": size, "parameters": count, "share": share, "start": start, "accuracy": values})
        print(f"{size:18}{count:12,}{share:8.0%}{start:>12}{statistics.mean(values):10.3f} ± {spread:.3f}")
    (arguments.out / "scores.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
