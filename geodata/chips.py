"""The chips of a corpus and the plan that holds them: values, their JSON, their shards.

A plan keeps columns rather than objects, and makes a `Chip` when one is asked for, because a corpus may have five
million and no step needs them all at once.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from geodata.grid import Grid
from geodata.landcover import STRATA
from geodata.spec import SPLITS

Ints = NDArray[np.int64]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Chip:
    """A square of ground. `weight` is its stratum's share of the ground over its share of the plan (mean 1)."""

    chip_id: str
    lon: float
    lat: float
    stratum: str
    region: str
    grid: Grid
    split: str
    block_id: str
    region_id: int
    weight: float


@dataclass(frozen=True)
class ShardPlan:
    """The chips of one shard and its name, which is the file's name without suffix."""

    name: str
    chips: tuple[Chip, ...]


@dataclass(frozen=True)
class Shortfall:
    """A stratum of a region that has fewer sites than its quota, after `candidates` draws; never refilled."""

    region: str
    stratum: str
    wanted: int
    found: int
    candidates: int


class View(Sequence[Item], Generic[Item]):
    """A read-only sequence whose items are made when asked for: five million chips need not exist at once."""

    def __init__(self, length: int, make: Callable[[int], Item]) -> None:
        self._length, self._make = length, make

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self._make(place) for place in range(*index.indices(self._length))]
        if not -self._length <= index < self._length:
            raise IndexError(f"{index} is not below {self._length}")
        return self._make(index % self._length)

    def __iter__(self) -> Iterator[Item]:
        return (self._make(place) for place in range(self._length))


COLUMNS = {
    "round": np.int16,
    "cell": np.int8,
    "region": np.int8,
    "stratum": np.int8,
    "epsg": np.int32,
    "left": np.int32,
    "top": np.int32,
    "lon": np.float64,
    "lat": np.float64,
    "split": np.int8,
    "block_row": np.int32,
    "block_col": np.int32,
    "draw": np.int64,
}
"""What a plan keeps of a chip. `cell` is the region whose quota it fills ('anywhere' for fixed quotas on continents),
`region` where it lies; `left` and `top` are its corner in lattice steps; `draw` is its candidate's number."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Chips, in the order round, cell, stratum, draw; and an honest account of how they were found.

    `regions` name the quota regions in order; `quotas[region][stratum]` are counts wanted, without replacements;
    `candidates[region][outcome]` what became of the first round's draws; `shares[region][stratum]` the estimated share
    of all ground of the corpus. Columns are arrays (N,); `chips` makes values of them on demand.
    """

    place_id: str
    gsd: float
    size: int
    lattice: float
    regions: tuple[str, ...]
    quotas: Mapping[str, Mapping[str, int]]
    columns: Mapping[str, NDArray[Any]]
    candidates: Mapping[str, Mapping[str, int]]
    shares: Mapping[str, Mapping[str, float]]
    shortfalls: tuple[Shortfall, ...] = ()
    _weights: dict[tuple[int, int], float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_weights", self._cell_weights())

    def __len__(self) -> int:
        return len(self.columns["draw"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.as_dict() == other.as_dict()

    @property
    def chips(self) -> Sequence[Chip]:
        """All chips, made on demand."""
        return View(len(self), self._chip)

    @property
    def rounds(self) -> int:
        """How many rounds of draws the plan holds."""
        return int(self.columns["round"].max(initial=-1)) + 1

    def counts(self, *names: str) -> dict[str, int]:
        """Chips by 'split', 'stratum', 'region' or several of them (joined by a blank)."""
        words = {"split": SPLITS, "stratum": STRATA}
        found: dict[str, int] = {}
        keys = np.stack([self.columns[name] for name in names])
        values, counts = np.unique(keys, axis=1, return_counts=True)
        for column, count in zip(values.T, counts, strict=True):
            label = (words.get(name, self.regions)[place] for name, place in zip(names, column, strict=True))
            found[" ".join(label)] = int(count)
        return found

    def shards(self, rows: int) -> Sequence[ShardPlan]:
        """The chips in shards of at most `rows`: one split and round a shard, neighbours together.

        Names are 'train-r0-00000' and so on; those of earlier rounds do not change when a round is added.
        """
        if rows < 1:
            raise ValueError(f"a shard has at least one row, not {rows}")
        column = self.columns
        span = max(1, round(100_000 / self.lattice))
        tile = (column["top"] // span, column["left"] // span)
        keys = (column["left"], column["top"], *tile, column["epsg"], column["round"], column["split"])
        order = np.lexsort(keys)
        parts: list[tuple[str, Ints]] = []
        group = np.stack([column["split"], column["round"]])[:, order]
        for part in np.split(order, np.flatnonzero(np.any(np.diff(group, axis=1), axis=0)) + 1):
            for number, start in enumerate(range(0, len(part), rows)):
                split, turn = SPLITS[column["split"][part[0]]], column["round"][part[0]]
                parts.append((f"{split}-r{turn}-{number:05d}", part[start : start + rows]))
        return View(len(parts), functools.partial(self._shard, parts))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "place_id": self.place_id,
            "gsd": self.gsd,
            "size": self.size,
            "lattice": self.lattice,
            "regions": list(self.regions),
            "quotas": {region: dict(counts) for region, counts in self.quotas.items()},
            "candidates": {region: dict(counts) for region, counts in self.candidates.items()},
            "shares": {region: dict(shares) for region, shares in self.shares.items()},
            "shortfalls": [vars(shortfall) for shortfall in self.shortfalls],
            "columns": {name: self.columns[name].tolist() for name in COLUMNS},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """The inverse of `as_dict`."""
        return cls(
            **{name: values[name] for name in ("place_id", "gsd", "size", "lattice", "quotas")},
            regions=tuple(values["regions"]),
            columns={name: np.array(values["columns"][name], kind) for name, kind in COLUMNS.items()},
            candidates=values["candidates"],
            shares=values["shares"],
            shortfalls=tuple(Shortfall(**shortfall) for shortfall in values["shortfalls"]),
        )

    def to_json(self) -> str:
        """As JSON text, the same for equal plans."""
        return json.dumps(self.as_dict(), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The inverse of `to_json`."""
        return cls.from_dict(json.loads(text))

    def _shard(self, parts: list[tuple[str, Ints]], number: int) -> ShardPlan:
        name, places = parts[number]
        return ShardPlan(name, tuple(self._chip(int(place)) for place in places))

    def _chip(self, place: int) -> Chip:
        row = {name: values[place].item() for name, values in self.columns.items()}
        transform = (self.gsd, 0.0, row["left"] * self.lattice, 0.0, -self.gsd, row["top"] * self.lattice)
        stratum = STRATA[row["stratum"]]
        return Chip(
            chip_id=self.chip_id(place),
            lon=row["lon"],
            lat=row["lat"],
            stratum=stratum,
            region=self.regions[row["region"]],
            grid=Grid(row["epsg"], transform, self.size, self.size),
            split=SPLITS[row["split"]],
            block_id=f"{row['block_row']}-{row['block_col']}",
            region_id=region_id(row["lon"], row["lat"]),
            weight=self._weights.get((row["cell"], row["stratum"]), 1.0),
        )

    def chip_id(self, place: int) -> str:
        """Id of the chip at a place, without making the chip."""
        epsg, left, top = (self.columns[name][place] for name in ("epsg", "left", "top"))
        return f"{self.place_id}-{epsg}-{left:06d}-{top:06d}"

    def _cell_weights(self) -> dict[tuple[int, int], float]:
        """Share of the ground over share of the first round's chips, per (cell, stratum); their mean is 1."""
        first = self.columns["round"] == 0
        cells, counts = np.unique(
            np.stack([self.columns["cell"][first], self.columns["stratum"][first]]),
            axis=1,
            return_counts=True,
        )
        keys = [(int(region), int(stratum)) for region, stratum in cells.T]
        ground = [self.shares[self.regions[region]].get(STRATA[stratum], 0.0) for region, stratum in keys]
        total, number = sum(ground), int(counts.sum())
        return {
            key: share / total * number / int(count)
            for key, share, count in zip(keys, ground, counts, strict=True)
        }


def region_id(lon: float, lat: float) -> int:
    """Number (0 to 4095) of a point's field on 64 x 64 equal angles, row by row from the north-west (SkySense)."""
    row = min(63, int((90.0 - lat) / 180.0 * 64))
    return row * 64 + min(63, int((lon + 180.0) / 360.0 * 64))
