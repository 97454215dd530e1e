"""Metrics that add: what each worker counted, summed, is what one worker would have counted.

Frozen values with `update`, `+` and `scores`. A class seen neither in the truth nor in the predictions has no score;
it is left out of every mean rather than counted as zero or one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

__all__ = ["IGNORE", "Confusion", "Mean", "Metric"]

IGNORE = 255  # the class index that never enters a loss or a count


class Metric(Protocol):
    """Counts so far. `update` and `+` return new ones; `scores` never fails on an empty one, it says nan."""

    def update(self, predictions: Tensor, target: Tensor) -> Self: ...

    def __add__(self, other: Self) -> Self: ...

    def scores(self) -> dict[str, float]: ...


@dataclass(frozen=True, eq=False)
class Confusion:
    """Counts (K, K) of true (row) x predicted (column) class over a whole evaluation set."""

    counts: Tensor
    names: tuple[str, ...]

    @classmethod
    def empty(cls, names: tuple[str, ...]) -> Confusion:
        """No counts yet, for classes of these names."""
        return cls(torch.zeros(len(names), len(names), dtype=torch.int64), names)

    def update(self, predictions: Tensor, target: Tensor) -> Confusion:
        """With class indices of any one shape added; targets equal to 255 are left out."""
        if predictions.shape != target.shape:
            raise ValueError(
                f"predictions {tuple(predictions.shape)} and target {tuple(target.shape)} must pair up"
            )
        size = len(self.names)
        counted = target != IGNORE
        truth, guess = target[counted].long(), predictions[counted].long()
        for what, values in (("target", truth), ("prediction", guess)):
            if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < size:
                raise ValueError(
                    f"a {what} lies outside the {size} classes: map codes to 0..{size - 1} or to {IGNORE}"
                )
        added = torch.bincount(truth * size + guess, minlength=size * size).reshape(size, size)
        return replace(self, counts=self.counts + added.to(self.counts.device))

    def __add__(self, other: Confusion) -> Confusion:
        if self.names != other.names:
            raise ValueError(f"confusions of different classes do not add: {self.names} and {other.names}")
        return replace(self, counts=self.counts + other.counts.to(self.counts.device))

    def scores(self) -> dict[str, float]:
        """`accuracy` (pixels or samples right), the means over classes `mean_accuracy`, `mean_iou`, `mean_f1`, and
        per class `iou/NAME` and `f1/NAME`; in 0..1, nan where nothing was counted.

        A class of the predictions alone counts 0 in `mean_iou` and `mean_f1`; `mean_accuracy`, a mean of recalls,
        covers the classes of the truth. Micro-averaged precision, recall and F1 all equal `accuracy`.
        """
        counts = self.counts.double()
        right, truth, guess = counts.diagonal(), counts.sum(1), counts.sum(0)
        iou, f1 = right / (truth + guess - right), 2 * right / (truth + guess)  # 0/0 is nan: the absent class
        means = {
            "accuracy": right.sum() / counts.sum(),
            "mean_accuracy": (right / truth).nanmean(),
            "mean_iou": iou.nanmean(),
            "mean_f1": f1.nanmean(),
        }
        scores = {name: float(value) for name, value in means.items()}
        for name, overlap, balance in zip(self.names, iou.tolist(), f1.tolist(), strict=True):
            scores |= {f"iou/{name}": overlap, f"f1/{name}": balance}
        return scores


@dataclass(frozen=True)
class Mean:
    """The mean of a quantity, by name: `total` of `count` values."""

    name: str
    total: float = 0.0
    count: int = 0

    def update(self, values: Tensor) -> Mean:
        """With every element of `values` added."""
        return replace(
            self, total=self.total + float(values.double().sum()), count=self.count + values.numel()
        )

    def __add__(self, other: Mean) -> Mean:
        if self.name != other.name:
            raise ValueError(f"means of different quantities do not add: {self.name!r} and {other.name!r}")
        return replace(self, total=self.total + other.total, count=self.count + other.count)

    def scores(self) -> dict[str, float]:
        """The mean under its name; nan before any value."""
        return {self.name: self.total / self.count if self.count else math.nan}
