"""What the scaled-down claims share: a benchmark's corpus, small runs that are made once, and how an encoder is scored."""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from geodata import manifest, prepare
from geodata.manifest import Corpus
from training import evaluate, loop, probe
from training.encoders import AnyEncoder, build
from training.export import load_encoder
from training.feed import once
from training.methods import finetune
from training.recipe import Cosine, Optimizer, Recipe, Stream
from training.tasks import classify


def prepared(name: str, folder: Path, out: Path) -> Path:
    """The corpus of a benchmark, made once."""
    root = out / name
    if not (root / "manifest.json").exists():
        spec = prepare.load(name, folder)
        found = prepare.plan(spec)
        records = [prepare.prepare_shard(shard, spec, root) for shard in found.shards(spec.shard_rows)]
        made = Corpus(root, name, "1", spec.fingerprint, {}, tuple(records), classes=found.classes)
        manifest.seal(made)
    return root


def trained(recipe: Recipe, folder: Path) -> tuple[Path, float]:
    """The encoder of a run that is made once, and the processor seconds it took."""
    kept = folder / "seconds.json"
    if not kept.exists():
        began = time.process_time()
        loop.train(recipe, folder)
        kept.write_text(json.dumps(time.process_time() - began))
    return folder / "encoder", float(json.loads(kept.read_text()))


def scored(
    init: Path | None, encoder: AnyEncoder, root: Path, folder: Path, *, share: float, steps: int, seed: int
) -> dict[str, float]:
    """Test accuracies of nearest neighbours, of a linear probe and after fine-tuning, on a `share` of the labels.

    `init` is an exported encoder; without it `encoder` starts from chance.
    """
    kept = folder / "scores.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    torch.manual_seed(seed)
    network = build(encoder) if init is None else load_encoder(init)
    labelled = Stream(corpus=str(root), layers=("hr",), share=share)
    train, test = (
        probe.features(network, probe.labelled(once(stream, 250)))
        for stream in (labelled, Stream(corpus=str(root), layers=("hr",), split="test"))
    )
    found = {"knn": probe.knn(train, test), "linear": probe.linear(train, test)}
    recipe = Recipe(
        name="finetune.smoke",  # whose method this is
        method=finetune.Spec(
            task=classify.Spec(classes=classes(root), label="class"),
            encoder=encoder,
            init=None if init is None else str(init),
        ),
        streams={"labelled": labelled},
        batch=40,
        steps=steps,
        optim=Optimizer(lr_per_256=6e-3, betas=(0.9, 0.999), layer_decay=0.8, clip=1.0),
        schedule=Cosine(warmup=0.1),
        seed=seed,
        log_every=100,
        checkpoint_every=steps,
        keep=1,
    )
    loop.train(recipe, folder)
    done, method = evaluate.restore(folder)
    found["finetuned"] = evaluate.evaluate(method, evaluate.held_out(done, "test", batch=250))["accuracy"]
    kept.write_text(json.dumps(found))
    return found


def classes(root: Path) -> tuple[str, ...]:
    """The classes of a corpus's label."""
    return tuple(manifest.open_corpus(root).classes["class"])


def table(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """A Markdown table: arm, then mean ± standard deviation (n - 1) over seeds of each of its numbers."""
    names = list(next(iter(rows.values()))[0])
    lines = ["| arm | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for arm, runs in rows.items():
        cells = [said([run[name] for run in runs]) for name in names]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def said(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {spread:.3f}"


def ahead(better: Sequence[float], worse: Sequence[float]) -> str:
    """Whether the gap of two means exceeds two pooled deviations."""
    gap = statistics.mean(better) - statistics.mean(worse)
    pooled = ((statistics.variance(better) + statistics.variance(worse)) / 2) ** 0.5
    verdict = "not resolved" if abs(gap) <= 2 * pooled else "supported" if gap > 0 else "contradicted"
    return f"{gap:+.3f} at a pooled deviation of {pooled:.3f}: {verdict}"
