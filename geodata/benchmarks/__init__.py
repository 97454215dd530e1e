"""Downstream data sets as labelled samples: what each is, where its files lie, how it is divided, how it is scored.

A module of this folder is a data set; its `BENCHMARKS` are the ways in which papers use it (bands, splits), each with a
name of its own, which is also the name of its corpus: `swath prepare aid_tr20_0` makes `aid_tr20_0@1`. So a corpus has
one split of its samples and nothing about it has to be remembered. What is stored:

* one label for a picture: the label `class`, a number into `classes`;
* several labels: the label `classes`, whose bit i says that class i is there;
* a label for each pixel: the layer `mask`, uint8, where 255 is not scored; change is a mask over a layer of two dates.

Large scenes are cut as their protocol says, and the id of each chip ends with where it was cut (`origin`).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any, Literal, Protocol

from geodata.benchmarks.dividing import fraction
from geodata.folders import Picture
from geodata.sample import Layer
from geodata.sensors import MASK, Sensor

__all__ = [
    "IGNORED",
    "Benchmark",
    "Labelled",
    "Published",
    "check",
    "find",
    "fraction",
    "modules",
    "names",
    "origin",
    "samples",
    "tile_id",
]

IGNORED = MASK.nodata
"""The value of a mask that no score counts."""

Task = Literal["classify", "multilabel", "segment", "change", "crops"]


@dataclass(frozen=True)
class Labelled:
    """What a reader finds for one planned sample: layers by prefix (the mask among them) and labels by name.

    `scene` names the image that a chip was cut from, so that nothing of one scene is taken for independent.
    """

    layers: Mapping[str, Layer]
    labels: Mapping[str, int] = field(default_factory=dict)
    lon: float = nan
    lat: float = nan
    scene: str = ""


class Published(Protocol):
    """How a data set lies on disk, as it was published."""

    def missing(self, root: Path) -> list[str]:
        """What must be there and is not, one sentence each; nothing is opened."""
        ...

    def planned(self, root: Path) -> list[Picture]:
        """Every sample with its id, its path and its split. Raises ValueError for a class that is not known."""
        ...

    def read(self, root: Path, one: Picture) -> Labelled:
        """One of them. Raises Missing, Corrupt, and ValueError for a label that is none of the classes."""
        ...


@dataclass(frozen=True)
class Benchmark:
    """A data set as one protocol uses it.

    `splits` are the numbers of samples there should be, or `total` where those of splits are nowhere stated; what is there
    may be a part of them, and is then said to be.
    `protocols` are ids of the published protocols that it serves, `metric` the one they report. Layers other than the mask
    are pictures; `shard_rows` bounds what one worker writes at a time.
    """

    name: str
    title: str
    task: Task
    classes: tuple[str, ...]
    sensors: tuple[Sensor, ...]
    splits: Mapping[str, int]
    protocols: tuple[str, ...]
    metric: str
    url: str
    license: str
    attribution: str
    contained: tuple[str, ...]
    reader: Published
    shard_rows: int = 1024
    total: int = 0

    @property
    def dense(self) -> bool:
        """Whether every pixel has a label."""
        return MASK in self.sensors

    @property
    def label(self) -> str:
        """The name of the label, or of the layer, whose values are the classes."""
        return MASK.prefix if self.dense else "classes" if self.task == "multilabel" else "class"

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels that samples have."""
        return () if self.dense else (self.label,)

    @property
    def layers(self) -> tuple[str, ...]:
        """Prefixes of all layers."""
        return tuple(sensor.prefix for sensor in self.sensors)

    def described(self) -> dict[str, Any]:
        """Plain values, for the manifest of its corpus."""
        return {
            "title": self.title,
            "task": self.task,
            "classes": list(self.classes),
            "ignored": IGNORED if self.dense else None,
            "bands": {sensor.prefix: list(sensor.band_names) for sensor in self.sensors},
            "splits": dict(self.splits),
            "protocols": list(self.protocols),
            "metric": self.metric,
            "url": self.url,
            "license": self.license,
            "attribution": self.attribution,
        }

    def partial(self, found: Mapping[str, int]) -> list[str]:
        """Where samples found by split are not as many as there should be: one phrase a split, none when all are."""
        short = [
            f"{name} has {found.get(name, 0):,} of {count:,}"
            for name, count in self.splits.items()
            if found.get(name, 0) != count
        ]
        there = sum(found.values())
        return [*short, f"{there:,} of {self.total:,} are there"] if self.total not in (0, there) else short


def check(benchmark: Benchmark, root: Path) -> list[str]:
    """What is missing below `root`, one sentence each with its remedy; empty when it can be read."""
    layout = "; ".join(benchmark.contained)
    remedy = f"{benchmark.title} is laid out as: {layout} (from {benchmark.url})"
    if not root.exists():
        return [f"there is no {root}; {remedy}"]
    found = benchmark.reader.missing(root)
    return [*found, remedy] if found else []


def modules() -> list[str]:
    """Names of the data sets there are."""
    return sorted(one.name for one in pkgutil.iter_modules(__path__) if one.name not in _NO_DATASETS)


_NO_DATASETS = ("dividing", "readers")


def names() -> tuple[str, ...]:
    """Names of all benchmarks, data set by data set."""
    return tuple(one.name for module in modules() for one in _of(module))


def find(name: str) -> Benchmark:
    """The benchmark of that name. Raises ValueError, naming those there are of its data set, or all data sets."""
    near = [module for module in modules() if name == module or name.startswith(f"{module}_")]
    for module in sorted(near, key=len, reverse=True):
        for one in _of(module):
            if one.name == name:
                return one
    ways = [one.name for module in near for one in _of(module)]
    if ways:
        raise ValueError(f"{name} is prepared in one of these ways: {', '.join(ways)}; name one")
    raise ValueError(f"no benchmark is called {name!r}; data sets are {', '.join(modules())}")


def _of(module: str) -> tuple[Benchmark, ...]:
    found: tuple[Benchmark, ...] = importlib.import_module(f"{__name__}.{module}").BENCHMARKS
    return found


def samples(benchmark: Benchmark, root: Path, split: str) -> Iterator[tuple[Picture, Labelled]]:
    """Every sample of a split as it is planned and as it is read, straight from the files."""
    for one in benchmark.reader.planned(root):
        if one.split == split:
            yield one, benchmark.reader.read(root, one)


def tile_id(dataset: str, scene: str, row: int, column: int) -> str:
    """The id of a chip whose upper left pixel is (row, column) of its scene; `origin` takes it apart."""
    return f"{dataset}-{scene}-r{row:05d}-c{column:05d}"


def origin(sample_id: str) -> tuple[str, int, int]:
    """LabelledScene (with its data set), row and column of a chip's upper left pixel. Raises ValueError for another id."""
    scene, _, place = sample_id.rpartition("-r")
    row, _, column = place.partition("-c")
    if not scene or not row.isdigit() or not column.isdigit():
        raise ValueError(
            f"{sample_id} does not say where it was cut (…-r00000-c00000); it is a picture of its own"
        )
    return scene, int(row), int(column)
