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

__all__ = ["IGNORE", "Change", "Confusion", "Mean", "Metric", "MultiLabel", "SemanticChange", "TopK"]

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


@dataclass(frozen=True, eq=False)
class Change:
    """Change maps, judged by the class "changed" alone: its pixels are few, and a mean with the rest would hide them."""

    counts: Confusion

    @classmethod
    def empty(cls) -> Change:
        """No counts yet, for maps of 0 (the same) and 1 (changed)."""
        return cls(Confusion.empty(("the same", "changed")))

    def update(self, predictions: Tensor, target: Tensor) -> Change:
        """With maps of 0 and 1 of any one shape added; targets equal to 255 are left out."""
        return Change(self.counts.update(predictions, target))

    def __add__(self, other: Change) -> Change:
        return Change(self.counts + other.counts)

    def scores(self) -> dict[str, float]:
        """`change_f1`, `change_iou`, `change_precision` and `change_recall` of the changed pixels, and `accuracy` of
        all; nan where nothing was or should have been called changed."""
        (_, false), (missed, right) = self.counts.counts.double()
        return {
            "change_f1": float(2 * right / (2 * right + false + missed)),
            "change_iou": float(right / (right + false + missed)),
            "change_precision": float(right / (right + false)),
            "change_recall": float(right / (right + missed)),
            "accuracy": self.counts.scores()["accuracy"],
        }


@dataclass(frozen=True, eq=False)
class SemanticChange:
    """SCS of DynamicEarthNet (Toker et al. 2022): whether change is seen where it is, and named as what it became.

    For each place with monthly maps in order, every pair of neighbours in time counts. A pixel has changed where its two
    maps differ; one whose truth goes from or to 255 has too, as the published scorer has it.
    """

    change: Confusion  # the same, changed
    became: Confusion  # of the later month, where the truth has changed

    @classmethod
    def empty(cls, names: tuple[str, ...]) -> SemanticChange:
        """No counts yet, for classes of these names."""
        return cls(Confusion.empty(("the same", "changed")), Confusion.empty(names))

    def update(self, predictions: Tensor, target: Tensor) -> SemanticChange:
        """With class indices (T, H, W) of one place added, in the order of time."""
        changed, said = (maps[1:] != maps[:-1] for maps in (target, predictions))
        return SemanticChange(
            self.change.update(said.long(), changed.long()),
            self.became.update(predictions[1:][changed], target[1:][changed]),
        )

    def __add__(self, other: SemanticChange) -> SemanticChange:
        return SemanticChange(self.change + other.change, self.became + other.became)

    def scores(self) -> dict[str, float]:
        """`binary_change` (IoU of changed), `semantic_change` (mean IoU over the classes that truth became) and their
        mean, `scs`."""
        binary = self.change.scores()["iou/changed"]
        counts = self.became.counts.double()
        right, truth, guess = counts.diagonal(), counts.sum(1), counts.sum(0)
        semantic = float((right / (truth + guess - right))[truth > 0].mean())
        return {"scs": (binary + semantic) / 2, "binary_change": binary, "semantic_change": semantic}


@dataclass(frozen=True)
class TopK:
    """How often the true class is among the k likeliest, for each k."""

    ranks: tuple[int, ...]
    hits: tuple[int, ...]
    count: int = 0

    @classmethod
    def empty(cls, ranks: tuple[int, ...] = (1, 5)) -> TopK:
        """Nothing counted yet, for these k."""
        return cls(ranks, (0,) * len(ranks))

    def update(self, predictions: Tensor, target: Tensor) -> TopK:
        """With logits (B, K) for targets (B,) added; targets equal to 255 are left out. Equal logits share no luck:
        the true class stands behind all that are as likely."""
        counted = target != IGNORE
        logits, truth = predictions[counted], target[counted].long()
        ahead = (logits >= logits.gather(1, truth[:, None])).sum(1)  # (B,), the true class included
        hits = tuple(
            hit + int((ahead <= rank).sum()) for rank, hit in zip(self.ranks, self.hits, strict=True)
        )
        return replace(self, hits=hits, count=self.count + len(truth))

    def __add__(self, other: TopK) -> TopK:
        if self.ranks != other.ranks:
            raise ValueError(f"scores of different ranks do not add: {self.ranks} and {other.ranks}")
        hits = tuple(one + two for one, two in zip(self.hits, other.hits, strict=True))
        return replace(self, hits=hits, count=self.count + other.count)

    def scores(self) -> dict[str, float]:
        """`accuracy` for rank 1 and `top5` for rank 5, and so on; nan where nothing was counted."""
        return {
            "accuracy" if rank == 1 else f"top{rank}": hit / self.count if self.count else math.nan
            for rank, hit in zip(self.ranks, self.hits, strict=True)
        }


@dataclass(frozen=True, eq=False)
class MultiLabel:
    """Average precision of labels that may hold together, exact: every score is kept, and added is appended.

    Average precision sums precision x gain of recall over the distinct scores from the highest down, without
    interpolation. The two averages differ and papers seldom say which they mean, so both are given.
    """

    names: tuple[str, ...]
    parts: tuple[tuple[Tensor, Tensor], ...] = ()

    @classmethod
    def empty(cls, names: tuple[str, ...]) -> MultiLabel:
        """No scores yet, for labels of these names."""
        return cls(names)

    def update(self, predictions: Tensor, target: Tensor) -> MultiLabel:
        """With scores (B, K) for targets (B, K) of 0 and 1 added; targets equal to 255 are left out."""
        if predictions.shape != target.shape or target.ndim != 2 or target.shape[1] != len(self.names):
            raise ValueError(
                f"predictions {tuple(predictions.shape)} and target {tuple(target.shape)} must be one row a sample and "
                f"one column for each of {len(self.names)} labels"
            )
        added = predictions.detach().cpu().float(), target.detach().cpu().to(torch.uint8)
        return replace(self, parts=(*self.parts, added))

    def __add__(self, other: MultiLabel) -> MultiLabel:
        if self.names != other.names:
            raise ValueError(f"scores of different labels do not add: {self.names} and {other.names}")
        return replace(self, parts=self.parts + other.parts)

    def scores(self) -> dict[str, float]:
        """`map_micro` (all samples x labels as one list), `map_macro` (mean over the labels that some sample has) and
        `ap/NAME` of each; in 0..1, nan for a label that no sample has."""
        width = len(self.names)
        scores = torch.cat([part[0] for part in self.parts] or [torch.empty(0, width)])
        truth = torch.cat([part[1] for part in self.parts] or [torch.empty(0, width, dtype=torch.uint8)])
        each = [_average_precision(*column) for column in zip(scores.unbind(1), truth.unbind(1), strict=True)]
        return {
            "map_micro": _average_precision(scores.flatten(), truth.flatten()),
            "map_macro": float(torch.tensor(each, dtype=torch.float64).nanmean()),
            **{f"ap/{name}": value for name, value in zip(self.names, each, strict=True)},
        }


def _average_precision(scores: Tensor, truth: Tensor) -> float:
    """Of scores (N,) for truths (N,) of 0, 1 and 255 (left out); nan without a 1. Equal scores are one step."""
    scores, truth = scores[truth != IGNORE], truth[truth != IGNORE].double()
    ordered, order = scores.sort(descending=True)
    last = torch.ones_like(ordered, dtype=torch.bool)  # of its equals
    last[:-1] = ordered[1:] != ordered[:-1]
    right = truth[order].cumsum(0)[last]
    called = torch.arange(1, len(ordered) + 1, dtype=torch.float64)[last]
    gained = right.diff(prepend=right.new_zeros(1))
    return float((right / called * gained).sum() / right[-1]) if len(right) and right[-1] else math.nan


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
