"""Two pictures of one ground and what changed between them, in three folders of files of one name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geodata.benchmarks import IGNORED, Labelled
from geodata.benchmarks.readers.pictures import picture_layer
from geodata.benchmarks.readers.rasters import Array, Box, coded, cut, found, mask, picture, size, stack, told
from geodata.benchmarks.readers.tiles import LabelledScene
from geodata.folders import Picture
from geodata.layout import Split
from geodata.sample import Layer
from geodata.sensors import PHOTO

__all__ = ["Triples", "Whole", "changed"]

TABLE = {0: 0, 1: 1, IGNORED: IGNORED}
"""Codes of a mask of change, once `changed` has made it one."""


@dataclass(frozen=True)
class Triples:
    """Folders of the first date, the second date and the change; `split_of` says to which split a file belongs."""

    folders: tuple[str, str, str]
    terms: tuple[str, str]
    split_of: Callable[[Path], Split]
    gsd: float = 0.0

    def absent(self, root: Path) -> list[str]:
        """Folders that are nowhere below the root."""
        there = {path.parent.name for path in found(root, "*.*")}
        return [f"there is no folder {name}/ with pictures" for name in self.folders if name not in there]

    def firsts(self, root: Path) -> list[Path]:
        """The pictures of the first date."""
        return [path for path in found(root, "*.*") if path.parent.name == self.folders[0]]

    def of(self, first: Path) -> tuple[Path, Path, Path]:
        """The pair and its change, from the first picture."""
        before, after, change = (first.parent.parent / name / first.name for name in self.folders)
        return before, after, change

    def scenes(self, root: Path) -> list[LabelledScene]:
        """Every pair."""
        return [
            LabelledScene(path.stem, path.relative_to(root).as_posix(), self.split_of(path), *size(path))
            for path in self.firsts(root)
        ]

    def load(self, root: Path, path: str, box: Box) -> Labelled:
        """A window of a pair."""
        before, after, change = self.of(root / path)
        pixels = np.stack([cut(picture(one), box, 0) for one in (before, after)])
        names = (str(before.relative_to(root)), str(after.relative_to(root)))
        layer = stack(PHOTO, pixels, self.terms, names=names, gsd=self.gsd)
        codes = cut(changed(coded(change), change), box, IGNORED)
        return Labelled({"hr": layer, "mask": self.masked(codes, change)}, scene=before.stem)

    def masked(self, codes: Array, what: Path) -> Layer:
        """The mask of a pair."""
        return mask(codes, TABLE, self.terms, what=what, gsd=self.gsd)


@dataclass(frozen=True)
class Whole:
    """A reader of pairs that are chips already; pictures are kept as the files they are."""

    dataset: str
    triples: Triples

    def missing(self, root: Path) -> list[str]:
        """Folders that are nowhere below the root."""
        return self.triples.absent(root)

    def planned(self, root: Path) -> list[Picture]:
        """Every pair."""
        return [
            Picture(f"{self.dataset}-{split}-{path.stem}", path.relative_to(root).as_posix(), split, ())
            for path in self.triples.firsts(root)
            for split in [self.triples.split_of(path)]
        ]

    def read(self, root: Path, one: Picture) -> Labelled:
        """One pair."""
        before, after, change = self.triples.of(root / one.path)
        files = []
        for path in (before, after):
            with told(path):
                files.append(path.read_bytes())
        names = (str(before.relative_to(root)), str(after.relative_to(root)))
        layer = picture_layer((files[0], files[1]), names, self.triples.terms, gsd=self.triples.gsd)
        codes = changed(coded(change), change)
        return Labelled({"hr": layer, "mask": self.triples.masked(codes, change)}, scene=before.stem)


def changed(codes: Array, what: object) -> Array:
    """1 where a mask of 0 and 255 (or 0 and 1) says that something changed; between them a JPEG's noise is rounded.

    Raises ValueError for a mask of grey values, which says nothing.
    """
    top = 1 if codes.max(initial=0) <= 1 else 255
    grey = (codes > 0.25 * top) & (codes < 0.75 * top)
    if grey.mean() > 0.05:
        raise ValueError(
            f"{what}: {grey.mean():.0%} of its pixels are grey, but a mask of change is black and white; check it"
        )
    return (codes > 0.5 * top).astype(np.uint8)
