"""Samples that belong together when they are scored: chips of one scene, months of one place.

A benchmark's scenes are cut where a sliding window would stop, and the chips' ids say where they lie. Adding up what is
said of them there gives what sliding over the whole scene gives, so it is done here, a band of rows at a time: as soon as
the next row of chips begins, all above it is known, and a scene of any height takes the memory of one row of chips.

Letters: K classes, h w pixels of a chip, W pixels of a scene's width.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from geodata.benchmarks import origin
from training.metrics import IGNORE

__all__ = ["Chip", "bands", "months"]

Chip = tuple[str, Tensor, Tensor]
"""Id, logits (K, h, w) and target (h, w) of one sample."""


def bands(chips: Iterable[Chip]) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole rows of scenes, each pixel once: mean logits (K, rows, W) and target (rows, W), from chips in order of id.

        for each chip: total[its rows, its columns] += logits; seen likewise += 1
        yield total / seen

    What no chip shows has target 255. Raises ValueError for an id that does not say where its chip was cut, and for chips
    that do not come scene by scene and row by row.
    """
    done: set[str] = set()
    canvas: _Canvas | None = None
    for name, logits, target in chips:
        scene, row, column = origin(name)
        if canvas is None or canvas.scene != scene:
            if canvas is not None:
                yield from canvas.until(None)
                done.add(canvas.scene)
            if scene in done:
                raise ValueError(
                    f"chips of scene {scene} come apart from each other; feed them in order of id"
                )
            canvas = _Canvas(scene, row)
        if row < canvas.top:
            raise ValueError(f"{name} lies above chips that came before it; feed chips in order of id")
        yield from canvas.until(row)
        canvas.add(logits, target, row, column)
    if canvas is not None:
        yield from canvas.until(None)


@dataclass
class _Canvas:
    """The rows of one scene from `top` down that are not complete yet."""

    scene: str
    top: int
    total: Tensor = field(default_factory=lambda: torch.zeros(0, 0, 0))
    seen: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    target: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64))

    def add(self, logits: Tensor, target: Tensor, row: int, column: int) -> None:
        """A chip where it lies; the canvas grows to hold it."""
        height, width = target.shape
        self._grow(len(logits), row - self.top + height, column + width)
        rows, columns = slice(row - self.top, row - self.top + height), slice(column, column + width)
        self.total[:, rows, columns] += logits.float().cpu()
        self.seen[rows, columns] += 1
        self.target[rows, columns] = target.cpu()

    def until(self, row: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """The rows above `row`, or all, leave the canvas."""
        count = len(self.seen) if row is None else min(row - self.top, len(self.seen))
        if count > 0:
            yield self.total[:, :count] / self.seen[:count].clamp(min=1), self.target[:count]
            self.total, self.seen, self.target = self.total[:, count:], self.seen[count:], self.target[count:]
        if row is not None:
            self.top = row

    def _grow(self, classes: int, height: int, width: int) -> None:
        high, wide = max(height, self.seen.shape[0]), max(width, self.seen.shape[1])
        if (high, wide) == tuple(self.seen.shape):
            return
        total, seen = torch.zeros(classes, high, wide), torch.zeros(high, wide)
        target = torch.full((high, wide), IGNORE, dtype=torch.int64)
        old = tuple(slice(0, side) for side in self.seen.shape)
        if self.seen.numel():
            total[(slice(None), *old)], seen[old], target[old] = self.total, self.seen, self.target
        self.total, self.seen, self.target = total, seen, target


def months(maps: Iterable[Chip]) -> Iterator[tuple[Tensor, Tensor]]:
    """Predicted and true maps (T, h, w) of each place, in the order of time, from samples whose ids end in a month.

    Of each sample (id, predicted map, true map). Raises ValueError for an id that does not.
    """
    for _, group in groupby(maps, key=lambda one: _place(one[0])):
        ordered = sorted(group, key=lambda one: one[0])
        yield torch.stack([one[1].cpu() for one in ordered]), torch.stack([one[2].cpu() for one in ordered])


def _place(name: str) -> str:
    found = re.fullmatch(r"(.+)-\d{4}-\d{2}", name)
    if found is None:
        raise ValueError(f"{name} does not end in a month (-2018-01), so it has no neighbour in time")
    return found[1]
