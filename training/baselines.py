"""What a score is worth nothing below: the commonest answer, and a random forest on simple statistics of the pixels.

Neither has an encoder. The forest sees each image as means, deviations, quantiles and roughness of its bands, each pixel
as its bands and their surroundings, a series as twelve dates; it takes seconds, and an encoder that does not beat it has
learned nothing of use here. Both are fitted on the samples that were trained on and judged by the task's own metric.

Letters: B batch, T dates, C bands, H W pixels, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.augment import PADDING
from training.evaluate import held_out, restore
from training.feed import Samples, once
from training.methods import Method
from training.metrics import IGNORE, Metric, MultiLabel, TopK
from training.recipe import Recipe

__all__ = ["MAJORITY", "beside", "features"]

MAJORITY, FOREST = "majority class", "random forest"

TRAINED = 20_000  # vectors that a forest is fitted on, at most
PIXELS = 256  # of an image that are fitted on and scored, at most, where every pixel has a label
TREES = 100
STEPS = 12  # dates that a series is brought to
BATCH = 32

Rows = tuple[NDArray[np.float32], NDArray[np.int64]]


def beside(run_dir: Path | str, split: str, seeds: int) -> list[dict[str, Any]]:
    """Scores of the baselines on the data of a finished run, each `{"arm", "seconds", "scores"}`, a row a seed.

    Of dense labels, evenly spread pixels are scored. Raises Missing when the run is not there.
    """
    recipe, method = restore(run_dir)
    (stream,) = recipe.streams.values()
    began = time.monotonic()
    vectors, target = _thinned(list(_rows(method, once(stream, BATCH))))
    common = _frequencies(target, len(cast(Any, method).task.spec.classes))
    metric = _scored(method, recipe, split, lambda rows: np.repeat(common[None], len(rows), 0))
    found = [_row(MAJORITY, metric, began)]
    for seed in range(seeds):
        began = time.monotonic()
        forest = _fitted(vectors, target, seed)
        width = len(common)
        metric = _scored(method, recipe, split, lambda rows: _shares(forest, rows, width))  # noqa: B023
        found.append(_row(FOREST, metric, began) | {"seed": seed})
    return found


def features(samples: Samples, layer: str, dates: str, *, dense: bool) -> Tensor:
    """Vectors (B, D) of images, or (B, D, H, W) of their pixels: what a forest sees. `dates` is one, pair or series.

    Units are those of the stored pixels; what is nodata or not there is 0.
    """
    pixels = samples.layers[layer]
    stored = (pixels.to(torch.int32) if pixels.dtype == torch.uint16 else pixels).float()  # (B, T, C, H, W)
    nodata = samples.nodata.get(layer)
    images = stored if nodata is None else stored.masked_fill(stored == nodata, 0.0)
    if dates == "one":
        images = images[:, :1]
    elif dates == "pair":
        images = torch.cat([images[:, :2], images[:, :1] - images[:, 1:2]], 1)
    else:
        images = _twelve(images, samples.dates[layer] != PADDING)
    if dense:
        flat = images.flatten(1, 2)  # (B, T * C, H, W)
        around = [flat] if dates == "series" else [flat, *_around(flat, 5), *_around(flat, 15)]
        return torch.cat(around, 1)
    return _summary(images.flatten(1, 2).flatten(2), images)


def _twelve(images: Tensor, present: Tensor) -> Tensor:
    """Twelve dates (B, 12, C, H, W) spread evenly over those that are there."""
    order = (~present).int().argsort(dim=1, stable=True)  # those that are there first, in time
    count = present.sum(1, keepdim=True).clamp(min=1)
    wanted = (torch.linspace(0, 1, STEPS) * (count - 1)).round().long()  # (B, 12)
    chosen = order.gather(1, wanted)
    return torch.stack([image[row] for image, row in zip(images, chosen, strict=True)])


def _around(images: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the `side` x `side` pixels around each."""
    mean = F.avg_pool2d(images, side, 1, side // 2, count_include_pad=False)
    square = F.avg_pool2d(images.square(), side, 1, side // 2, count_include_pad=False)
    return mean, (square - mean.square()).clamp(min=0).sqrt()


def _summary(values: Tensor, images: Tensor) -> Tensor:
    """Of each band and date (B, N, H * W): mean, deviation, five quantiles, and the mean step to the next pixel."""
    marks = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    parts = [values.mean(2), values.std(2, correction=0), *torch.quantile(values, marks, dim=2)]
    if images.shape[-1] > 1 and images.shape[-2] > 1:
        steps = images.diff(dim=-1).abs().mean((-1, -2)) + images.diff(dim=-2).abs().mean((-1, -2))
        parts.append(steps.flatten(1))
    return torch.cat(parts, 1)


def _rows(method: Method, batches: Iterator[Samples]) -> Iterator[Rows]:
    """Vectors and targets, of dense labels those of some pixels of each image; what has no label is left out."""
    task = cast(Any, method).task
    for samples in batches:
        vectors = features(samples, method.encoder.spec.inputs.layer, task.dates, dense=task.dense)
        target = task.target(samples)
        if task.dense:
            height, width = target.shape[-2:]
            vectors = (
                vectors if vectors.shape[-2:] == (height, width) else F.interpolate(vectors, (height, width))
            )
            some = torch.linspace(0, height * width - 1, min(PIXELS, height * width)).long()
            vectors = vectors.flatten(2)[..., some].transpose(1, 2).flatten(0, 1)
            target = target.flatten(1)[:, some].flatten()
        known = target != IGNORE if target.ndim == 1 else (target != IGNORE).all(1)
        yield vectors[known].numpy().astype(np.float32), target[known].numpy()


def _thinned(parts: list[Rows]) -> Rows:
    """At most TRAINED of the rows, evenly spread."""
    vectors, target = (np.concatenate(column) for column in zip(*parts, strict=True))
    chosen = np.linspace(0, len(vectors) - 1, min(TRAINED, len(vectors))).round().astype(np.int64)
    return vectors[chosen], target[chosen]


def _frequencies(target: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """The share of the samples (K,) that have each class."""
    if target.ndim == 2:
        return target.mean(0).astype(np.float32)
    return (np.bincount(target, minlength=classes) / len(target)).astype(np.float32)


def _fitted(vectors: NDArray[np.float32], target: NDArray[np.int64], seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(TREES, min_samples_leaf=2, n_jobs=1, random_state=seed)
    return forest.fit(vectors, target)


def _shares(forest: Any, rows: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """The forest's vote (N, K) for each class; of several labels a sample, for each that it is there."""
    votes, known = forest.predict_proba(rows), forest.classes_
    found = np.zeros((len(rows), width), np.float32)
    if isinstance(votes, list):
        for column, (vote, values) in enumerate(zip(votes, known, strict=True)):
            found[:, column] = vote[:, values == 1].sum(1)
    else:
        found[:, known] = votes
    return found


def _scored(method: Method, recipe: Recipe, split: str, votes: Any) -> Metric:
    metric: Metric = cast(Any, method).task.metric()
    batches = (samples for batch in held_out(recipe, split, BATCH) for samples in batch.values())
    for vectors, target in _rows(method, batches):
        if not len(vectors):
            continue
        found = torch.from_numpy(votes(vectors))
        said = found if isinstance(metric, MultiLabel | TopK) else found.argmax(1)
        metric = metric.update(said, torch.from_numpy(target))
    return metric


def _row(arm: str, metric: Metric, began: float) -> dict[str, Any]:
    return {"arm": arm, "seconds": time.monotonic() - began, "scores": metric.scores()}
