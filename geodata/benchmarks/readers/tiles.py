"""Scenes cut into chips: windows of one size at one stride, the last of each row and column flush with the border.

That is how published tools cut, and how a sliding window moves over a whole scene: adding up what is said of the chips
where their ids say they lie (`benchmarks.origin`) gives what sliding gives. A scene smaller than a chip is padded, with
255 in the mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from geodata.benchmarks import Labelled, tile_id
from geodata.benchmarks.readers.rasters import Box
from geodata.folders import Picture
from geodata.layout import Split

__all__ = ["Chips", "LabelledScene", "origins", "starts"]


@dataclass(frozen=True)
class LabelledScene:
    """A labelled image: its name, its file below the root (or what names its files), its split and its size in pixels."""

    name: str
    path: str
    split: Split
    height: int
    width: int


@dataclass(frozen=True)
class Chips:
    """A reader of a data set of scenes. `load` gives a window of a scene; `absent` says what is missing."""

    dataset: str
    chip: int
    stride: int
    scenes: Callable[[Path], list[LabelledScene]]
    load: Callable[[Path, str, Box], Labelled]
    absent: Callable[[Path], list[str]]
    divide: Callable[[str], Split] | None = None

    def missing(self, root: Path) -> list[str]:
        """What must be there and is not."""
        return self.absent(root)

    def planned(self, root: Path) -> list[Picture]:
        """Every chip of every scene, its place in its id; `divide`, where given, splits chip by chip, by their ids."""
        found = []
        for scene in self.scenes(root):
            for row, column in origins(scene.height, scene.width, self.chip, self.stride):
                name = tile_id(self.dataset, scene.name, row, column)
                split = self.divide(name) if self.divide else scene.split
                found.append(Picture(name, f"{scene.path}@{row},{column}", split, ()))
        return found

    def read(self, root: Path, one: Picture) -> Labelled:
        """One chip."""
        path, _, place = one.path.rpartition("@")
        row, column = (int(part) for part in place.split(","))
        return self.load(root, path, (row, column, self.chip, self.chip))


def origins(height: int, width: int, chip: int, stride: int) -> list[tuple[int, int]]:
    """Upper left pixels (row, column) of the windows over an image, row by row."""
    return [(row, column) for row in starts(height, chip, stride) for column in starts(width, chip, stride)]


def starts(length: int, chip: int, stride: int) -> list[int]:
    """Where windows begin along an axis: as many as cover it, the last flush with its end; one at 0 when it is short."""
    count = max(0, math.ceil((length - chip) / stride)) + 1
    return [max(0, min(number * stride, length - chip)) for number in range(count)]
