"""The chips of a corpus and the plan that holds them: values, their shards, their file.

A plan keeps columns rather than objects, and makes a `Chip` when one is asked for, because a corpus may have five
million and no step needs them all at once. On disk it is one Parquet file, which is there whole or not at all, with its
account in the file's metadata; `plan.json` beside it says the same account to people.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import TypeAdapter

from geodata.errors import Corrupt, Missing
from geodata.files import replacing
from geodata.grid import Grid
from geodata.landcover import STRATA
from geodata.lattice import lattice
from geodata.spec import SPLITS, AnyChip

Ints = NDArray[np.int64]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Chip:
    """A square of ground. `weight` is its stratum's share of the ground over its share of the plan (mean 1).

    `draw` is the number of its candidate, by which scenes are dealt out in turn; `zoom` that of a tile chip, else -1.
    """

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
    draw: int = 0
    zoom: int = -1


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
    "zoom": np.int8,
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
`region` where it lies; `left` and `top` are its corner in lattice steps, or its upper left tile of a zoom; `draw` is its
candidate's number, which the chips of one point share."""

FILE = "plan.parquet"
SUMMARY = "plan.json"
_ROWS = 1 << 18


@dataclass(frozen=True, eq=False)
class Plan:
    """Chips, in the order round, cell, stratum, draw, zoom; and an honest account of how they were found.

    `regions` name the quota regions in order; `quotas[region][stratum]` are points wanted, without replacements;
    `candidates[region][outcome]` what became of the first round's draws; `shares[region][stratum]` the estimated share
    of all ground of the corpus. Columns are arrays (N,); `chips` makes values of them on demand.
    """

    place_id: str
    chip: AnyChip
    region_layout: str
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
        if not isinstance(other, Plan) or self.summary() != other.summary():
            return False
        return all(np.array_equal(self.columns[name], other.columns[name]) for name in COLUMNS)

    @property
    def chips(self) -> Sequence[Chip]:
        """All chips, made on demand."""
        return View(len(self), self._chip)

    @property
    def rounds(self) -> int:
        """How many rounds of draws the plan holds."""
        return int(self.columns["round"].max(initial=-1)) + 1

    @property
    def points(self) -> int:
        """How many points were drawn: as many as chips, unless a point has one for each zoom."""
        return len(self._starts())

    def draws(self, region: str, stratum: str) -> Ints:
        """The candidates' numbers of all points that fill one quota, ascending within a round."""
        cell, place = self.regions.index(region), STRATA.index(stratum)
        starts = self._starts()
        mine = (self.columns["cell"][starts] == cell) & (self.columns["stratum"][starts] == place)
        return self.columns["draw"][starts[mine]]

    def lost(self, rejected: Iterable[str]) -> dict[tuple[str, str], int]:
        """Points of which every chip is among the rejected ids, counted by the region and stratum they filled.

        Ids that are none of this plan's are no chips of it, and count for nothing.
        """
        grid = lattice(self.chip)
        parsed = [
            grid.parsed(name.removeprefix(f"{self.place_id}-"))
            for name in set(rejected)
            if name.startswith(f"{self.place_id}-")
        ]
        sites = np.array([site for site in parsed if site], np.int64).reshape(-1, 4).T
        refused = grid.keys(dict(zip(("epsg", "zoom", "left", "top"), sites, strict=True)))
        hit = np.isin(grid.keys(self.columns), refused)
        starts = self._starts()
        lost = starts[np.logical_and.reduceat(hit, starts)] if len(starts) else starts
        labels = self.columns["cell"][lost].astype(np.int64) * len(STRATA) + self.columns["stratum"][lost]
        found, counts = np.unique(labels, return_counts=True)
        return {
            (self.regions[label // len(STRATA)], STRATA[label % len(STRATA)]): int(count)
            for label, count in zip(found, counts, strict=True)
        }

    def counts(self, *names: str) -> dict[str, int]:
        """Chips by 'split', 'stratum', 'region', 'cell', 'zoom', 'round' or several of them (joined by a blank)."""
        words: Mapping[str, Sequence[str]] = {
            "split": SPLITS,
            "stratum": STRATA,
            "region": self.regions,
            "cell": self.regions,
        }
        code, sizes = np.zeros(len(self), np.int64), []
        for name in names:
            values = self.columns[name].astype(np.int64) + (name == "zoom")
            sizes.append(int(values.max(initial=0)) + 1)
            code = code * sizes[-1] + values
        counts = np.bincount(code, minlength=1)
        found: dict[str, int] = {}
        for place in np.flatnonzero(counts):
            label = []
            for name, value in zip(names, np.unravel_index(place, sizes), strict=True):
                number = int(value) - (name == "zoom")
                label.append(words[name][number] if name in words else str(number))
            found[" ".join(label)] = int(counts[place])
        return found

    def shards(self, rows: int) -> Sequence[ShardPlan]:
        """The chips in shards of at most `rows`: one split and round a shard, neighbours together.

        Names are 'train-r0-00000' and so on; those of earlier rounds do not change when a round is added.
        """
        parts = self._parts(rows)
        return View(len(parts), functools.partial(self._shard, parts))

    def shard_names(self, rows: int) -> list[str]:
        """The names of these shards, without making a chip."""
        return [name for name, _ in self._parts(rows)]

    def places(self, ids: Collection[str]) -> dict[str, int]:
        """Where chips stand in the plan, by id. Goes through all of it."""
        wanted = set(ids)
        named = ((self.chip_id(place), place) for place in range(len(self))) if wanted else ()
        return {name: place for name, place in named if name in wanted}

    def _parts(self, rows: int) -> list[tuple[str, Ints]]:
        """Name and places of each shard."""
        if rows < 1:
            raise ValueError(f"a shard has at least one row, not {rows}")
        column = self.columns
        order = np.lexsort((*self._neighbourhood(), column["round"], column["split"]))
        parts: list[tuple[str, Ints]] = []
        group = np.stack([column["split"], column["round"]])[:, order]
        for part in np.split(order, np.flatnonzero(np.any(np.diff(group, axis=1), axis=0)) + 1):
            for number, start in enumerate(range(0, len(part), rows)):
                split, turn = SPLITS[column["split"][part[0]]], column["round"][part[0]]
                parts.append((f"{split}-r{turn}-{number:05d}", part[start : start + rows]))
        return parts

    def summary(self) -> dict[str, Any]:
        """The plan without its chips, as plain values: how they were found, and what is short."""
        return {
            "place_id": self.place_id,
            "chip": self.chip.model_dump(mode="json"),
            "region_layout": self.region_layout,
            "regions": list(self.regions),
            "quotas": {region: dict(counts) for region, counts in self.quotas.items()},
            "candidates": {region: dict(counts) for region, counts in self.candidates.items()},
            "shares": {region: dict(shares) for region, shares in self.shares.items()},
            "shortfalls": [vars(shortfall) for shortfall in self.shortfalls],
        }

    def write(self, folder: Path) -> None:
        """As plan.parquet in a folder, and its account once more as plan.json. Replaces what was there, whole."""
        account = self.summary()
        table = pa.table({name: self.columns[name] for name in COLUMNS})
        table = table.replace_schema_metadata({"swath.plan": json.dumps(account)})
        with replacing(folder / FILE) as temporary:
            pq.write_table(table, temporary, row_group_size=_ROWS, compression="zstd", compression_level=1)
        counts = {"chips": len(self), "points": self.points, "rounds": self.rounds}
        with replacing(folder / SUMMARY) as temporary:
            temporary.write_text(json.dumps(counts | account, indent=1), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """The plan written to a folder. Raises Missing when there is none, Corrupt when it does not read."""
        path = folder / FILE
        try:
            table = pq.read_table(path)
            account = json.loads(table.schema.metadata[b"swath.plan"])
            columns = {name: table.column(name).to_numpy().astype(kind) for name, kind in COLUMNS.items()}
        except FileNotFoundError as error:
            raise Missing(f"{folder} has no {FILE}; plan the corpus first") from error
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise Corrupt(f"plan {path} does not read ({reason}); remove it, and plan again") from error
        return cls(
            **{
                name: account[name]
                for name in ("place_id", "region_layout", "quotas", "candidates", "shares")
            },
            chip=TypeAdapter(AnyChip).validate_json(json.dumps(account["chip"])),
            regions=tuple(account["regions"]),
            columns=columns,
            shortfalls=tuple(Shortfall(**shortfall) for shortfall in account["shortfalls"]),
        )

    def chip_id(self, place: int) -> str:
        """Id of the chip at a place, without making the chip."""
        numbers = (int(self.columns[name][place]) for name in ("epsg", "zoom", "left", "top"))
        return f"{self.place_id}-{self.chip.site_id(*numbers)}"

    def _starts(self) -> Ints:
        """Places of the first chip of each point."""
        new = np.ones(len(self), bool)
        same = [
            self.columns[name][1:] == self.columns[name][:-1] for name in ("round", "cell", "stratum", "draw")
        ]
        new[1:] = ~np.logical_and.reduce(same)
        return np.flatnonzero(new)

    def _neighbourhood(self) -> tuple[NDArray[Any], ...]:
        """Keys that sort chips by where they are, the last one first: squares of about 100 km, or tiles within tiles."""
        column = self.columns
        if self.chip.kind == "tiles":
            deep = 24 - column["zoom"].astype(np.int64)
            x, y = (column[name].astype(np.int64) << deep for name in ("left", "top"))
            return column["zoom"], _woven(x, y)
        span = max(1, round(100_000 / self.chip.lattice))
        square = (column["top"] // span, column["left"] // span)
        return column["left"], column["top"], *square, column["epsg"]

    def _shard(self, parts: list[tuple[str, Ints]], number: int) -> ShardPlan:
        name, places = parts[number]
        return ShardPlan(name, tuple(self._chip(int(place)) for place in places))

    def _chip(self, place: int) -> Chip:
        row = {name: values[place].item() for name, values in self.columns.items()}
        corner = (row["epsg"], row["zoom"], row["left"], row["top"])
        return Chip(
            chip_id=f"{self.place_id}-{self.chip.site_id(*corner)}",
            lon=row["lon"],
            lat=row["lat"],
            stratum=STRATA[row["stratum"]],
            region=self.regions[row["region"]],
            grid=self.chip.grid(*corner),
            split=SPLITS[row["split"]],
            block_id=f"{row['block_row']}-{row['block_col']}",
            region_id=region_id(row["lon"], row["lat"], self.region_layout),
            weight=self._weights.get((row["cell"], row["stratum"]), 1.0),
            draw=row["draw"],
            zoom=row["zoom"],
        )

    def _cell_weights(self) -> dict[tuple[int, int], float]:
        """Share of the ground over share of the first round's chips, per (cell, stratum); their mean is 1."""
        first = self.columns["round"] == 0
        labels = self.columns["cell"][first].astype(np.int64) * len(STRATA) + self.columns["stratum"][first]
        every = np.bincount(labels, minlength=1)
        keys = [divmod(int(label), len(STRATA)) for label in np.flatnonzero(every)]
        counts = every[every > 0]
        ground = [self.shares[self.regions[region]].get(STRATA[stratum], 0.0) for region, stratum in keys]
        total, number = sum(ground), int(counts.sum())
        return {
            key: share / total * number / int(count)
            for key, share, count in zip(keys, ground, counts, strict=True)
        }


def region_id(lon: float, lat: float, layout: str = "equal_angle") -> int:
    """Number (0 to 4095) of a point's field on 64 x 64 fields, row by row from the north-west (SkySense).

    The paper divides the globe into 4,096 regions and does not say how: fields of equal angles are the default; those
    of 'equal_area' have rows that are equally high in the sine of latitude.
    """
    down = (90.0 - lat) / 180.0 if layout == "equal_angle" else (1.0 - math.sin(math.radians(lat))) / 2.0
    return min(63, int(down * 64)) * 64 + min(63, int((lon + 180.0) / 360.0 * 64))


def _woven(x: Ints, y: Ints) -> Ints:
    """Bits of x and y in turn (25 of each), so that numbers near each other are near each other on the map."""
    code = np.zeros(len(x), np.int64)
    for bit in range(25):
        code |= (x >> bit & 1) << (2 * bit) | (y >> bit & 1) << (2 * bit + 1)
    return code
