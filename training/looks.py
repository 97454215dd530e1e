"""What a report shows of an encoder that was just pretrained: pictures as PNG files, and numbers for charts.

Drawn once, into the `pictures` folder of the run: `index.json` lists the pictures, `looks.json` holds the numbers.
A kind that a method has nothing to show for (attention without a class token, distances without a teacher) is listed
with the reason: a run that took days does not fail over a picture.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from geodata.files import write_atomic
from training import encoders, pictures, probe, projection
from training.encoders import Encoder
from training.feed import Samples, once
from training.methods import Method
from training.probe import Labelled
from training.reading import Source
from training.recipe import Recipe, replace

__all__ = ["Ground", "Kind", "ground", "look"]

Kind = Literal["reconstruction", "attention", "features", "distances", "stages"]

POINTS = 600  # of a plane of features, at most
BINS = 48
CAPTIONS = {
    "reconstruction": "masked, guessed, original",
    "attention": "image, mean of all heads, the first heads one by one",
}


@dataclass(frozen=True)
class Ground:
    """Labelled samples to hold features against: each split is read as often as it is asked for."""

    train: Callable[[], Labelled]
    test: Callable[[], Labelled]
    classes: tuple[str, ...]


def ground(recipe: Recipe, method: Any, most: int = 2000) -> Ground:
    """The samples and targets of a fine-tuning: of each split all, or an even share of about `most`."""
    (stream,) = recipe.streams.values()

    def read(split: str) -> Iterator[tuple[Samples, Tensor]]:
        whole = replace(stream, split=split, share=1.0)
        size = sum(len(rows) for rows in Source(whole).rows)
        for samples in once(replace(whole, share=min(1.0, most / size)), 32):
            yield samples, method.target(samples)

    return Ground(partial(read, "train"), partial(read, "test"), method.task.spec.classes)


def look(
    method: Method, kinds: Sequence[Kind], folder: Path, examples: Iterable[Samples], known: Ground
) -> None:
    """Draw what was asked for into a folder: of `examples` pictures, of what is `known` numbers."""
    shown = list(examples)
    index: list[Mapping[str, str]] = []
    numbers: dict[str, Any] = {"classes": known.classes, "absent": {}}
    for kind in kinds:
        try:
            if kind in CAPTIONS:
                paths = [path for one in shown for path in _pictures(kind, method, one, folder)]
                index += [_entry(path, kind) for path in paths]
            else:
                numbers[kind] = NUMBERS[kind](method, known)
        except ValueError as reason:
            numbers["absent"][kind] = str(reason)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "looks.json", json.dumps(numbers).encode())
    write_atomic(folder / "index.json", json.dumps(index, indent=1).encode())


def _pictures(kind: str, method: Method, samples: Samples, folder: Path) -> list[Path]:
    if kind == "attention":
        return pictures.attentions(method.encoder, samples, folder)
    if not hasattr(method, "reconstruct"):
        raise ValueError(f"{type(method).__name__} reconstructs no pixels")
    return pictures.reconstructions(method, samples, folder)


def _entry(path: Path, kind: str) -> dict[str, str]:
    return {"file": path.name, "kind": kind, "alt": f"{kind} of {path.stem}", "caption": CAPTIONS[kind]}


def _features(method: Method, known: Ground) -> dict[str, Any]:
    """Features of test samples on the principal plane and on that of t-SNE, evenly chosen, and what neighbours say."""
    test = probe.features(method.encoder, known.test())
    step = -(-len(test[0]) // POINTS)
    rows = test[0][::step]
    plane, shares = projection.principal(rows)
    return {
        "classes": test[1][::step].tolist(),
        "principal": _rounded(plane),
        "shares": _rounded(shares),
        "neighbours": _rounded(projection.neighbours(rows)),
        "knn": probe.knn(probe.features(method.encoder, known.train()), test),
        "samples": len(test[0]),
    }


def _distances(method: Method, known: Ground) -> dict[str, Any]:
    """How far the student's features of a whole image are from the teacher's, value by value (figure 6 of PerA)."""
    found = probe.networks(method)
    if found is None:
        raise ValueError(f"{type(method).__name__} has no teacher")
    student, teacher = (probe.features(one, known.test())[0] for one in found)
    return {
        "differences": _histogram((student - teacher).abs().flatten(), low=0.0),
        "features": _histogram(teacher.flatten()),
    }


def _stages(method: Method, known: Ground) -> dict[str, Any]:
    """Right answers of a linear probe on the mean of each stage's map, beside those of an untrained encoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = encoders.build(method.encoder.spec)
    return {
        "pretrained": _by_stage(method.encoder, known),
        "untrained": _by_stage(untrained, known),
    }


def _by_stage(encoder: Encoder, known: Ground) -> list[float]:
    (rows, classes), (asked, truth) = (
        probe.staged(encoder, known.train()),
        probe.staged(encoder, known.test()),
    )
    return [probe.linear((one, classes), (other, truth)) for one, other in zip(rows, asked, strict=True)]


NUMBERS = {"features": _features, "distances": _distances, "stages": _stages}


def _histogram(values: Tensor, low: float | None = None) -> dict[str, list[float]]:
    """Edges of even bins and the share of values in each; the outermost half per cent lies beyond."""
    ends = torch.quantile(values[:: 1 + len(values) // 1_000_000], torch.tensor([0.005, 0.995]))
    first, last = float(ends[0]) if low is None else low, float(ends[1])
    counts = torch.histc(values, BINS, first, max(last, first + 1e-6))
    edges = torch.linspace(first, max(last, first + 1e-6), BINS + 1)
    return {"edges": _rounded(edges), "shares": _rounded(counts / len(values))}


def _rounded(values: Tensor) -> list[Any]:
    """Numbers for a file that people may open: five digits."""
    return json.loads(json.dumps(values.tolist()), parse_float=lambda text: float(f"{float(text):.5g}"))
