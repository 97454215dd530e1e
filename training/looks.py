"""What a report shows of an encoder that was just pretrained: pictures as PNG files, and numbers for charts.

Drawn once, into the `pictures` folder of the run: `index.json` lists the pictures, `looks.json` holds the numbers.
A kind that a method has nothing to show for (attention without a class token, distances without a teacher) is listed
with the reason: a run that took days does not fail over a picture.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from geodata.errors import DataError
from geodata.files import write_atomic
from geodata.manifest import open_corpus
from training import encoders, evaluate, known, pictures, probe, projection, regional
from training.encoders import Encoder
from training.encoders.spatiotemporal import Spatiotemporal
from training.feed import Samples
from training.known import Ground
from training.methods import Method
from training.metrics import IGNORE
from training.probe import Known, Labelled

__all__ = ["KINDS", "Kind", "draw", "look"]

Kind = Literal["reconstruction", "attention", "features", "distances", "stages", "regions"]

KINDS: tuple[Kind, ...] = ("reconstruction", "attention", "features", "distances", "regions")
"""What is drawn of every encoder; `stages` trains lines on two encoders, and is for those who ask."""

EXAMPLES = 4  # of each kind of picture
POINTS = 600  # of a plane of features, at most
SERIES = 200  # samples of several sensors that are encoded for it, at most of either side
CELLS = 8  # a side of what is encoded of them
BINS = 48
CAPTIONS = {
    "reconstruction": "masked, guessed, original",
    "attention": "image, mean of all heads, the first heads one by one",
}

RGB = tuple[int, int, int]


def draw(
    run_dir: Path,
    kinds: Sequence[Kind] = KINDS,
    colours: Mapping[str, RGB] | None = None,
    device: str = "cpu",
) -> None:
    """Look at the encoder of a finished pretraining, held against what its corpus says of itself.

    `colours` are red, green, blue (0 to 255) of the classes of land cover by name.
    """
    recipe, method = evaluate.restore(run_dir, device)
    few = isinstance(method.encoder, Spatiotemporal)
    ground = known.ground(recipe, method.encoder.spec.inputs.layer, SERIES if few else known.MOST)
    shown = known.examples(ground.stream, "val", EXAMPLES)
    look(method, kinds, run_dir / "pictures", shown, ground, colours)


def look(
    method: Method,
    kinds: Sequence[Kind],
    folder: Path,
    examples: Iterable[Samples],
    ground: Ground,
    colours: Mapping[str, RGB] | None = None,
) -> None:
    """Draw what was asked for into a folder: of `examples` pictures, of the `ground` numbers and maps."""
    shown = [one.to(next(method.parameters()).device) for one in examples]
    index: list[Mapping[str, Any]] = []
    numbers: dict[str, Any] = {"classes": ground.classes, "absent": {}}
    for kind in kinds:
        try:
            if kind in CAPTIONS:
                paths = [path for one in shown for path in _pictures(kind, method, one, folder)]
                index += [_entry(path, kind, CAPTIONS[kind]) for path in paths]
            elif kind == "regions":
                numbers[kind], entries = _regions(method, ground, folder, colours or {})
                index += entries
            else:
                numbers[kind] = NUMBERS[kind](method, ground)
        except (ValueError, DataError) as reason:
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


def _entry(path: Path, kind: str, caption: str) -> dict[str, Any]:
    return {"file": path.name, "kind": kind, "alt": f"{kind} of {path.stem}", "caption": caption}


def _regions(
    method: Method, ground: Ground, folder: Path, colours: Mapping[str, RGB]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Maps of prototypes beside land cover (figure 5 of SkySense), a picture a region, and what they agree in."""
    encoder = method.encoder
    if not isinstance(encoder, Spatiotemporal) or encoder.places is None:
        raise ValueError(f"{type(encoder).__name__} keeps no prototypes of regions")
    corpus = open_corpus(ground.stream.corpus)
    found = regional.charted(encoder, known.covered(ground.stream, corpus))
    names = known.named(corpus)
    shades = [colours.get(names.get(code, ""), pictures.colour(code)) for code in range(IGNORE)]
    paths = pictures.regional_maps(found, folder, shades)
    numbers = regional.summary(found, encoder.places)
    entries = []
    for path, one, row in zip(paths, found, numbers["shown"], strict=True):
        codes = sorted(
            {int(code) for tile in one.tiles if tile.cover is not None for code in tile.cover.unique()}
        )
        legend = [
            (names.get(code, f"class {code}"), "#{:02x}{:02x}{:02x}".format(*shades[code]))
            for code in codes
            if code != IGNORE
        ]
        panels = "image, prototypes, land cover" if codes else "image, prototypes; no land cover is stored"
        caption = (
            f"region {one.region}, {row['where']}: {panels}; {row['used']} of {numbers['count']} prototypes"
        )
        entries.append(_entry(path, "regions", caption) | {"legend": legend})
    return numbers, entries


def _features(method: Method, ground: Ground) -> dict[str, Any]:
    """Features of test samples on the principal plane and on that of t-SNE, evenly chosen, and what neighbours say."""
    test = _described(method.encoder, ground.test())
    step = -(-len(test[0]) // POINTS)
    rows = test[0][::step]
    plane, shares = projection.principal(rows)
    return {
        "classes": test[1][::step].tolist(),
        "principal": _rounded(plane),
        "shares": _rounded(shares),
        "neighbours": _rounded(projection.neighbours(rows)),
        "knn": None if ground.train is None else probe.knn(_described(method.encoder, ground.train()), test),
        "samples": len(test[0]),
    }


def _described(encoder: Encoder, batches: Labelled) -> Known:
    """Features and classes of labelled samples: of several sensors the mean of fused cells in the middle of a tile."""
    if not isinstance(encoder, Spatiotemporal):
        return probe.features(encoder, batches)
    return probe.features(encoder, _middles(batches), shown=partial(regional.central, most=CELLS))


def _middles(batches: Labelled) -> Iterator[tuple[Samples, Tensor]]:
    for samples, labels in batches:
        yield samples, labels if labels.ndim == 1 else regional.cover(labels, samples, CELLS)


def _distances(method: Method, ground: Ground) -> dict[str, Any]:
    """How far the student's features of a whole image are from the teacher's, value by value (figure 6 of PerA)."""
    found = probe.networks(method)
    if found is None:
        raise ValueError(f"{type(method).__name__} has no teacher")
    student, teacher = (_described(one, ground.test())[0] for one in found)
    return {
        "differences": _histogram((student - teacher).abs().flatten(), low=0.0),
        "features": _histogram(teacher.flatten()),
    }


def _stages(method: Method, ground: Ground) -> dict[str, Any]:
    """Right answers of a linear probe on the mean of each stage's map, beside those of an untrained encoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = encoders.build(method.encoder.spec)
    return {
        "pretrained": _by_stage(method.encoder, ground),
        "untrained": _by_stage(untrained, ground),
    }


def _by_stage(encoder: Encoder, ground: Ground) -> list[float]:
    if ground.train is None:
        raise ValueError("the corpus has one split alone: there is nothing to learn its classes from")
    (rows, classes), (asked, truth) = (
        probe.staged(encoder, ground.train()),
        probe.staged(encoder, ground.test()),
    )
    return [probe.linear((one, classes), (other, truth)) for one, other in zip(rows, asked, strict=True)]


NUMBERS: dict[str, Callable[[Method, Ground], dict[str, Any]]] = {
    "features": _features,
    "distances": _distances,
    "stages": _stages,
}


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
