"""Pictures in a folder for each class: AID, UC Merced, EuroSAT, RESISC-45, Million-AID.

The folder that holds a picture names its class, wherever above it the data set was unpacked; a zip is read as it is. A
picture that has the size it should have is kept as its file, every other one is scaled to it.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geodata import codec
from geodata.archive import Files, Room, opened
from geodata.benchmarks import Labelled
from geodata.benchmarks.dividing import key, listed, stratified
from geodata.benchmarks.readers.rasters import stack
from geodata.codec import Encoded
from geodata.errors import Corrupt, Missing
from geodata.folders import SUFFIXES, Picture
from geodata.layout import SPLITS, Split
from geodata.likeness import perceptual_of
from geodata.sample import Layer
from geodata.sensors import PHOTO

__all__ = [
    "ByIndex",
    "ByList",
    "ByNames",
    "ByShare",
    "ClassFolders",
    "Divided",
    "Photo",
    "picture_layer",
    "split_named",
    "split_of",
]

ROOM = Room(ratio=1040.0)  # rasters without a sensor's noise, as in small tests, compress without bound


@dataclass(frozen=True)
class ByList:
    """Lists that ship with this package: the column of a data set's table in `splits/`."""

    dataset: str
    column: str

    def missing(self, files: Mapping[str, int]) -> list[str]:
        """Nothing: the list is here."""
        return []

    def splits(self, files: Files) -> Mapping[str, str]:
        """The split of each key."""
        return listed(self.dataset, self.column)


@dataclass(frozen=True)
class ByNames:
    """Lists beside the data, as others published them: a text file for each split, with a file name a line."""

    lists: Mapping[str, str]

    def missing(self, files: Mapping[str, int]) -> list[str]:
        """Those lists that are not there."""
        return [
            f"there is no {name}, the list of {split}"
            for split, name in self.lists.items()
            if _named(files, name) is None
        ]

    def splits(self, files: Files) -> Mapping[str, str]:
        """The split of each name, in lower case and without suffix."""
        sizes, found = files.sizes(), {}
        for split, name in self.lists.items():
            for line in files.read(str(_named(sizes, name))).decode().split():
                found[PurePosixPath(line).stem.lower()] = split
        return found


@dataclass(frozen=True)
class ByIndex:
    """A table beside the data with the columns path, label and split."""

    name: str = "index.csv"

    def missing(self, files: Mapping[str, int]) -> list[str]:
        """The table, when it is not there."""
        return [] if _named(files, self.name) else [f"there is no {self.name} with path, label and split"]

    def splits(self, files: Files) -> Mapping[str, str]:
        """The split of each key. Raises ValueError when a label is not that of the folder."""
        text = files.read(str(_named(files.sizes(), self.name))).decode("utf-8-sig")
        found = {}
        for row in csv.DictReader(io.StringIO(text)):
            if PurePosixPath(row["path"]).parent.name != row["label"]:
                raise ValueError(
                    f"{self.name} calls {row['path']} {row['label']!r}, its folder does not; mend one"
                )
            found[key(row["path"])] = row["split"]
        return found


@dataclass(frozen=True)
class ByShare:
    """No list at all: of each class a share is trained on, by a hash of seed and path, and the rest is scored."""

    share: float
    seed: int = 0

    def missing(self, files: Mapping[str, int]) -> list[str]:
        """Nothing."""
        return []

    def splits(self, files: Files) -> Mapping[str, str]:
        """The split of each key."""
        classes: dict[str, list[str]] = {}
        for name in files.sizes():
            classes.setdefault(key(name).partition("/")[0], []).append(key(name))
        chosen = stratified(classes, self.share, self.seed)
        return {one: "train" if one in chosen else "test" for names in classes.values() for one in names}


Divided = ByList | ByNames | ByIndex | ByShare


@dataclass(frozen=True)
class ClassFolders:
    """A folder for each class; `layer` makes the bytes of a file, whose path is told too, the one layer of its sample."""

    dataset: str
    classes: tuple[str, ...]
    split: Divided
    layer: Callable[[bytes, str], Layer]
    suffixes: tuple[str, ...] = SUFFIXES

    def missing(self, root: Path) -> list[str]:
        """Classes without a folder, and lists of splits."""
        with opened(root, ROOM) as files:
            sizes = files.sizes()
        there = {PurePosixPath(name).parent.name for name in sizes}
        absent = [name for name in self.classes if name not in there]
        few = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        told = [f"{len(absent)} of {len(self.classes)} class folders are not there: {few}"] if absent else []
        return told + self.split.missing(sizes)

    def planned(self, root: Path) -> list[Picture]:
        """Every picture below a class folder. Raises ValueError for a folder or a picture that is in no list."""
        with opened(root, ROOM) as files:
            names = [name for name in files.sizes() if PurePosixPath(name).suffix.lower() in self.suffixes]
            splits = self.split.splits(files)
        codes = [self.code(name) for name in names]
        return [
            Picture(self._id(name), name, split_of(splits, name), (code,))
            for name, code in zip(names, codes, strict=True)
        ]

    def read(self, root: Path, one: Picture) -> Labelled:
        """A picture and its class."""
        with _kept_open(root) as files:
            data = files.read(one.path)
        layer = self.layer(data, one.path)
        return Labelled({layer.sensor.prefix: layer}, {"class": self.code(one.path)})

    def code(self, path: str) -> int:
        """The class of a path. Raises ValueError when its folder is none."""
        folder = PurePosixPath(path).parent.name
        if folder not in self.classes:
            raise ValueError(
                f"{path} lies in {folder!r}, which is none of the {len(self.classes)} classes of {self.dataset}; "
                "move it away, or check the folder"
            )
        return self.classes.index(folder)

    def _id(self, path: str) -> str:
        """Classes are mixed by a hash in front: batches are made of neighbours."""
        name = key(path).partition("/")[2]
        return f"{self.dataset}-{hashlib.sha256(key(path).encode()).hexdigest()[:8]}-{name}"


def split_of(splits: Mapping[str, str], path: str) -> Split:
    """The split of a path, by its key or its bare name. Raises ValueError when it is in no list."""
    found = splits.get(key(path)) or splits.get(PurePosixPath(path).stem.lower())
    if found is None:
        raise ValueError(
            f"{path} is in no published list of splits; move it away, or check that names are the original ones"
        )
    return split_named(found, path)


def split_named(word: str, path: str) -> Split:
    """The split that a list calls so. Raises ValueError."""
    for known in SPLITS:
        if known == word:
            return known
    raise ValueError(f"{path}: its split {word!r} is none of {', '.join(SPLITS)}; mend the list")


@dataclass(frozen=True)
class Photo:
    """Pictures of `size` (height, width) under `terms` (licence, attribution), at `gsd` metres where they share one."""

    size: tuple[int, int]
    terms: tuple[str, str]
    gsd: float = 0.0

    def __call__(self, data: bytes, path: str) -> Layer:
        """One picture as a layer. Raises Corrupt."""
        return picture_layer((data,), (path,), self.terms, self.size, gsd=self.gsd)


def picture_layer(
    files: tuple[bytes, ...],
    paths: tuple[str, ...],
    terms: tuple[str, str],
    size: tuple[int, int] | None = None,
    *,
    gsd: float = 0.0,
) -> Layer:
    """Picture files, one a date, as a layer of `size` (height, width): the files themselves where they have that size.

    Others are scaled bilinearly, with a wide filter when they shrink. Without a size it is that of the first. Raises
    Corrupt.
    """
    encoded, pixels = [], []
    for data, path in zip(files, paths, strict=True):
        mime = codec.mime_of(data)
        if mime is None:
            raise Corrupt(f"{path} begins with {data[:8]!r}, which no picture does; fetch it again")
        encoded.append(Encoded(mime, ((data,),)))
        pixels.append(codec.decoded(encoded[-1]))
    wanted = size or pixels[0].shape[1:]
    same = all(one.shape[1:] == wanted for one in pixels)
    scaled = np.stack([one if one.shape[1:] == wanted else _scaled(one, wanted) for one in pixels])
    layer = stack(PHOTO, scaled, terms, names=paths, gsd=gsd, encoded=tuple(encoded) if same else ())
    return replace(layer, phash=perceptual_of(PHOTO, scaled[0]))


def _scaled(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    resized = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized).transpose(2, 0, 1)


def _named(files: Mapping[str, int], name: str) -> str | None:
    """The path of a file by its name, wherever it lies; None when it is not there."""
    return next((path for path in files if PurePosixPath(path).name == name), None)


@contextmanager
def _kept_open(root: Path) -> Iterator[Files]:
    """The files below a folder or in a zip. Raises Missing."""
    if not root.exists():
        raise Missing(f"there is no {root} any more; put it back and run again")
    with opened(root, ROOM) as files:
        yield files
