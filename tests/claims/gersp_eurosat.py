"""Do labelled photographs help an encoder of satellite pictures, and is it what they show? GeRSP's claims, scaled down.

A narrow residual network learns from EuroSAT's training pictures without labels and from a few thousand labelled
photographs; every arm takes the same recipe, steps and scenes, and starts from the same weights in the same seed:

    alpha 0       contrast of the scenes alone
    company       the photographs pass through the batch norms and teach nothing: what their company alone does
    alpha 0.5, 1  contrast and names
    lots          alpha 1, but each photograph is named by lot: the gain must vanish
    union         contrast of scenes and photographs together, labels unread
    imp           names alone
    random        the start

Each is scored on the test pictures by a linear probe of every stage and by fine-tuning, both with a fifth of the training
labels. Pairs of arms are compared seed by seed; a claim is supported when the mean difference is positive and no seed
clearly contradicts it: by more than one standard error of an accuracy on that many pictures.

    python tests/claims/gersp_eurosat.py EUROSAT CIFAR --out runs/claims/gersp [--seeds 3] [--steps 320] [--threads 1]

Both folders have an index of columns path, label, split. Data and network are thousands of times smaller than the
paper's: only directions can be read from this. In a seed that is not scored, the rate
of pretraining was chosen by alpha 1's training losses, that of fine-tuning by the mean accuracy of alpha 1 and random.
Every arm and seed leaves `scores.json`; what is there is not run again.
Ends with `table.md`.
"""

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from bfm_scaling import corpus

from training import encoders, evaluate, loop, probe
from training.contrast import Contrast
from training.encoders import IMAGENET_RGB, hierarchy
from training.export import export_encoder, load_encoder
from training.feed import once
from training.methods import finetune, gersp
from training.methods.gersp import Naming
from training.recipe import Cosine, Recipe, Restarts, Sgd, Stream
from training.tasks import classify
from training.views import Viewing

ENCODER = hierarchy.Spec(inputs=IMAGENET_RGB, name="resnet18", channels=(16, 32, 64, 128))
EACH = 64  # pictures of a domain in a step
CONTRAST = Contrast(queue=1024, temperature=0.2, momentum=0.99)
BOTH = Contrast(queue=1024, temperature=0.2, momentum=0.99, reads=("scenes", "natural"))
ARMS: dict[str, tuple[Contrast | None, Naming | None] | None] = {
    "random": None,
    "imp": (None, Naming(classes=10)),
    "alpha 0": (CONTRAST, None),
    "company": (CONTRAST, Naming(classes=10, weight=0.0)),
    "alpha 0.5": (CONTRAST, Naming(classes=10, weight=0.5)),
    "alpha 1": (CONTRAST, Naming(classes=10)),
    "lots": (CONTRAST, Naming(classes=10, shuffled=0)),
    "union": (BOTH, None),
}
CLAIMS = (
    ("G1", "half a weight on names helps", "alpha 0.5", "alpha 0"),
    ("G1", "names help", "alpha 1", "alpha 0"),
    ("G1 control", "the company of photographs helps", "company", "alpha 0"),
    ("G1 control", "names help beyond company", "alpha 1", "company"),
    ("G1 control", "names by lot help", "lots", "alpha 0"),
    ("G1 control", "true names help more than lots", "alpha 1", "lots"),
    ("G2", "joint beats names alone", "alpha 1", "imp"),
    ("G3", "joint beats contrast on the union", "alpha 1", "union"),
    ("sanity", "pretraining beats the start", "alpha 1", "random"),
)
SCORES = ("stage 1", "stage 2", "stage 3", "probe", "fine-tuned")  # the probe is that of stage 4


def pretraining(arm: str, scenes: Path, natural: Path, steps: int, seed: int) -> Recipe:
    contrast, naming = ARMS[arm] or (None, None)
    streams = {
        "scenes": Stream(corpus=str(scenes), layers=("hr",)),
        "natural": Stream(corpus=str(natural), layers=("hr",)),
    }
    read = {*(contrast.reads if contrast else ()), *(("natural",) if naming else ())}
    return Recipe(
        name="gersp.smoke",  # whose method this is
        method=gersp.Spec(
            encoder=ENCODER, contrast=contrast, naming=naming, image=32, colour=gersp.PAPER, groups=4
        ),
        streams={name: stream for name, stream in streams.items() if name in read},
        batch=EACH * len(read),
        steps=steps,
        optim=Sgd(lr_per_256=0.2, batch_power=0.0, weight_decay=5e-4, decay="all"),
        schedule=Restarts(rounds=2, floor=0.02),
        seed=seed,
        log_every=50,
        checkpoint_every=steps,
        keep=1,
    )


def transfer(init: Path, labelled: Path, classes: tuple[str, ...], steps: int, seed: int) -> Recipe:
    """The paper's fine-tuning (sec. IV-B) in fewer steps: all layers learn, only flips left to right."""
    return Recipe(
        name="finetune.smoke",
        method=finetune.Spec(
            task=classify.Spec(classes=classes, label="class"),
            encoder=ENCODER,
            init=str(init),
            views=Viewing(side=48, turns="across"),
        ),
        streams={"labelled": Stream(corpus=str(labelled), layers=("hr",))},
        batch=50,
        steps=steps,
        optim=Sgd(lr_per_256=0.2, batch_power=0.0, weight_decay=1e-4, decay="all"),
        schedule=Cosine(warmup=0.1),
        seed=seed,
        log_every=50,
        checkpoint_every=steps,
        keep=1,
    )


def pretrained(recipe: Recipe, arm: str, folder: Path) -> Path:
    """The folder of an arm's encoder; of the random one, the weights that all arms of the seed start from."""
    if ARMS[arm] is not None:
        return Path(loop.train(recipe, folder).encoder)
    torch.manual_seed(recipe.seed)
    return export_encoder(encoders.build(ENCODER), folder / "encoder", {})


def scored(
    arm: str,
    seed: int,
    roots: tuple[Path, Path, Path],
    classes: tuple[str, ...],
    arguments: argparse.Namespace,
) -> dict[str, float]:
    """The scores of an arm in a seed, found once."""
    folder = arguments.out / f"{arm.replace(' ', '-')}-seed{seed}"
    kept = folder / "scores.json"
    if kept.exists():
        found: dict[str, float] = json.loads(kept.read_text())
        return found
    scenes, natural, labelled = roots
    before = time.process_time()
    base = arm if ARMS[arm] is not None else "imp"
    init = pretrained(pretraining(base, scenes, natural, arguments.steps, seed), arm, folder / "gersp")
    encoder = load_encoder(init)
    known = [
        probe.staged(
            encoder, probe.labelled(once(Stream(corpus=str(labelled), split=split, layers=("hr",)), 250))
        )
        for split in ("train", "test")
    ]
    stages = [
        probe.linear((train, known[0][1]), (test, known[1][1]))
        for train, test in zip(known[0][0], known[1][0], strict=True)
    ]
    loop.train(transfer(init, labelled, classes, arguments.tune, seed), folder / "tuned")
    recipe, method = evaluate.restore(folder / "tuned")
    tuned = evaluate.evaluate(method, evaluate.held_out(recipe, "test", batch=250))["accuracy"]
    scores = dict(zip(SCORES, [*stages, float(tuned)], strict=True))
    scores |= {"pictures": len(known[1][1]), "cpu_seconds": time.process_time() - before}
    kept.write_text(json.dumps(scores, indent=1))
    return scores


Found = dict[str, list[dict[str, float]]]
"""arm -> the scores of each seed."""


def verdict(better: list[dict[str, float]], worse: list[dict[str, float]], score: str) -> str:
    """Mean and range of the paired differences in points, and whether they support that `better` is."""
    gains = [one[score] - two[score] for one, two in zip(better, worse, strict=True)]
    level = statistics.mean(one[score] for one in [*better, *worse])
    clear = math.sqrt(level * (1 - level) / better[0]["pictures"])
    supported = statistics.mean(gains) > 0 and min(gains) > -clear
    said = "supported" if supported else "not supported"
    return f"{100 * statistics.mean(gains):+.1f} ({100 * min(gains):+.1f} to {100 * max(gains):+.1f}), {said}"


def table(found: Found) -> Iterator[str]:
    """Accuracies of all arms in percent, then what they say of each claim."""
    yield f"| arm | {' | '.join(SCORES)} | CPU s |"
    yield "|---" * (len(SCORES) + 2) + "|"
    for arm, seeds in found.items():
        cells = []
        for score in SCORES:
            values = [100 * one[score] for one in seeds]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.1f} ± {spread:.1f}")
        yield f"| {arm} | {' | '.join(cells)} | {statistics.mean(one['cpu_seconds'] for one in seeds):.0f} |"
    yield ""
    yield "| | claim | probe: points, range | fine-tuned: points, range |"
    yield "|---|---|---|---|"
    for name, claim, better, worse in CLAIMS:
        cells = [verdict(found[better], found[worse], score) for score in ("probe", "fine-tuned")]
        yield f"| {name} | {claim}: {better} over {worse} | {' | '.join(cells)} |"
    for score in SCORES[:4]:
        cells = [verdict(found[arm], found["random"], score) for arm in ("imp", "alpha 1")]
        yield f"| G5 | {score} over the random start: imp, then alpha 1 | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenes", type=Path)
    parser.add_argument("natural", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/claims/gersp"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=320)
    parser.add_argument("--tune", type=int, default=140)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    out = arguments.out
    scenes, classes = corpus(arguments.scenes, out / "scenes", 1.0)
    labelled, _ = corpus(arguments.scenes, out / "scenes", arguments.share)
    natural, _ = corpus(arguments.natural, out / "natural", 1.0)
    found: Found = {arm: [] for arm in ARMS}
    for seed, arm in itertools.product(range(arguments.seeds), ARMS):
        found[arm].append(scored(arm, seed, (scenes, natural, labelled), classes, arguments))
        print(
            f"seed {seed}, {arm}: "
            + ", ".join(f"{key} {value:.3f}" for key, value in found[arm][-1].items()),
            flush=True,
        )
    text = "\n".join(table(found)) + "\n"
    (out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
