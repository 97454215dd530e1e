"""Where chips may lie: the fixed lattice of sites, the blocks that keep splits apart, and how a random point finds
its site.

A site is a place on the lattice of chip corners; neighbours are `ChipSpec.steps` lattice steps apart, so two chips of
one zone are never nearer than that. Sites whose centre is less than half a step from the edge of their UTM zone are
not used, which keeps the promise across zones and keeps chips out of two zones at once. Blocks are squares of a metric
area, or fields of an equal-area-like grid of rows and columns on the sphere, so that no zone's edge can bring ground
of two splits together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from geodata.grid import Bounds, project, unproject
from geodata.landcover import STRATA, LandCover
from geodata.quotas import ANYWHERE, apportion
from geodata.spec import CONTINENTS, SPLITS, Area, ChipSpec, Continents, CorpusSpec, blocks

Float = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

EARTH_RADIUS_M = 6_371_007.2
"""Radius of the sphere with the Earth's area."""
DEGREE_M = EARTH_RADIUS_M * np.pi / 180

BOXES: Mapping[str, Bounds] = {
    "africa": (-26.0, -36.0, 58.0, 38.0),
    "asia": (25.0, -12.0, 192.0, 82.0),
    "europe": (-32.0, 34.0, 70.0, 82.0),
    "north_america": (-190.0, 5.0, -10.0, 84.0),
    "oceania": (90.0, -56.0, 252.0, 30.0),
    "south_america": (-110.0, -57.0, -25.0, 14.0),
}
"""(west, south, east, north) that hold each continent, to draw in; east may pass 180."""
_WORLD: Bounds = (-180.0, -80.0, 180.0, 84.0)


@dataclass(frozen=True)
class Sites:
    """Candidates moved to their sites, as arrays (N,): corner in lattice steps, centre in degrees, region and block.

    `inside` is False off the region and `edge` True too near the edge of a UTM zone.
    """

    epsg: Ints
    left: Ints
    top: Ints
    lon: Float
    lat: Float
    region: Ints
    block_row: Ints
    block_col: Ints
    inside: Flags
    edge: Flags

    def keys(self) -> Ints:
        """One number per site."""
        return site_keys(self.epsg, self.left, self.top)


def site_keys(epsg: Ints, left: Ints, top: Ints) -> Ints:
    """One number per site, from zone and corner."""
    return (epsg.astype(np.int64) << 46) + ((left.astype(np.int64) + (1 << 21)) << 24) + top.astype(np.int64)


class Ground(Protocol):
    """The sites of one region. `extent` is its share of the ground that all regions are drawn from."""

    extent: float

    def sites(self, numbers: Float) -> Sites:
        """The site that each row of uniform numbers (N, 4) falls on; the first two columns are used."""
        ...

    def touched(self, sites: Sites, which: Ints) -> list[tuple[Ints, Ints]]:
        """Block rows and columns that the guarded footprints of some sites touch: arrays (n,), several of them."""
        ...


def ground(spec: CorpusSpec, cell: str, regions: tuple[str, ...]) -> Ground:
    """The ground of one quota cell, whose chips are numbered by their place in `regions`."""
    if isinstance(spec.regions, Area) and spec.regions.metric:
        return _Plane(spec, spec.regions)
    if isinstance(spec.regions, Area):
        return _Sphere(spec, spec.regions.bounds, None)
    if not isinstance(spec.regions, Continents):
        return _Sphere(spec, _WORLD, None)
    names = tuple(spec.regions.weights) if cell == ANYWHERE else (cell,)
    place = np.full(len(CONTINENTS) + 1, -1)
    for name in names:
        place[CONTINENTS.index(name)] = regions.index(name)
    return _Sphere(spec, _WORLD if cell == ANYWHERE else BOXES[cell], place)


class _Plane:
    """A metric area: the sites whose footprints lie in it, each as likely as any other."""

    extent = 1.0

    def __init__(self, spec: CorpusSpec, area: Area) -> None:
        self.area, self.chip, self.split = area, spec.chip, spec.split
        xmin, ymin, xmax, ymax = area.bounds
        step, chip = self.chip.steps * self.chip.lattice, self.chip
        self.left, self.top = (
            int(np.ceil(xmin / chip.lattice - 1e-9)),
            int(np.floor(ymax / chip.lattice + 1e-9)),
        )
        wide, high = xmax - self.left * chip.lattice, self.top * chip.lattice - ymin
        self.columns = int((wide - chip.footprint_m) / step + 1e-9) + 1
        self.rows = int((high - chip.footprint_m) / step + 1e-9) + 1
        if wide < chip.footprint_m or high < chip.footprint_m:
            raise ValueError(
                f"area {area.name} {area.bounds} holds no chip of {chip.footprint_m:g} m on a lattice of "
                f"{chip.lattice:g} m; enlarge it"
            )

    def sites(self, numbers: Float) -> Sites:
        """See `Ground`."""
        left = self.left + (numbers[:, 0] * self.columns).astype(np.int64) * self.chip.steps
        top = self.top - (numbers[:, 1] * self.rows).astype(np.int64) * self.chip.steps
        half = self.chip.footprint_m / 2
        x, y = left * self.chip.lattice + half, top * self.chip.lattice - half
        lon, lat = unproject(x, y, self.area.epsg)
        row, col = self._block(x, y)
        none = np.zeros(len(x), bool)
        zone = np.full(len(x), self.area.epsg)
        return Sites(zone, left, top, lon, lat, np.zeros(len(x), np.int64), row, col, ~none, none)

    def touched(self, sites: Sites, which: Ints) -> list[tuple[Ints, Ints]]:
        """See `Ground`."""
        x, y, reach = _centres_and_reach(self.chip, self.split.guard_m, sites, which)
        return [self._block(x + dx, y + dy) for dx in (-reach, reach) for dy in (-reach, reach)]

    def _block(self, x: Float, y: Float) -> tuple[Ints, Ints]:
        xmin, _, _, ymax = self.area.bounds
        columns, rows = blocks(self.area, self.split.block_m)
        row = np.clip((ymax - y) // self.split.block_m, 0, rows - 1).astype(np.int64)
        return row, np.clip((x - xmin) // self.split.block_m, 0, columns - 1).astype(np.int64)


class _Sphere:
    """A box of longitude and latitude, drawn evenly by area; of continents where `place` numbers them."""

    def __init__(self, spec: CorpusSpec, box: Bounds, place: Ints | None) -> None:
        self.chip, self.split, self.box, self.place = spec.chip, spec.split, box, place
        west, south, east, north = box
        self.low, self.high = np.sin(np.radians([south, north]))
        self.extent = float((east - west) / 360 * (self.high - self.low) / 2)

    def sites(self, numbers: Float) -> Sites:
        """See `Ground`."""
        west, _, east, _ = self.box
        lon = (west + numbers[:, 0] * (east - west) + 180) % 360 - 180
        lat = np.degrees(np.arcsin(self.low + numbers[:, 1] * (self.high - self.low)))
        near = np.flatnonzero(self._regions(lon, lat) >= 0)
        epsg, left, top = (np.zeros(len(lon), np.int64) for _ in range(3))
        epsg[near] = _zones(lon[near], lat[near]) if self.chip.epsg is None else self.chip.epsg
        for zone, mine in _by_zone(epsg, near):
            left[mine], top[mine], lon[mine], lat[mine] = self._snap(lon[mine], lat[mine], zone)
        region = np.full(len(lon), -1)
        region[near] = self._regions(lon[near], lat[near])
        row, col = self._block(lon, lat)
        edge = np.zeros(len(lon), bool)
        edge[near] = self._edge(lon[near], lat[near], epsg[near])
        return Sites(epsg, left, top, lon, lat, region, row, col, region >= 0, edge)

    def touched(self, sites: Sites, which: Ints) -> list[tuple[Ints, Ints]]:
        """See `Ground`."""
        x, y, reach = _centres_and_reach(self.chip, self.split.guard_m, sites, which)
        found = []
        lon, lat = (np.empty((9, len(which))) for _ in range(2))
        steps = [(dx, dy) for dx in (-reach, 0.0, reach) for dy in (-reach, 0.0, reach)]
        for zone, mine in _by_zone(sites.epsg[which], np.arange(len(which))):
            for place, (dx, dy) in enumerate(steps):
                lon[place, mine], lat[place, mine] = unproject(x[mine] + dx, y[mine] + dy, zone)
        turned = (lon - lon[4] + 180) % 360 - 180
        for south_north in (lat.min(0), lat.max(0)):
            for shift in (turned.min(0), 0.0, turned.max(0)):
                found.append(self._block((lon[4] + shift + 180) % 360 - 180, south_north))
        return found

    def _snap(self, lon: Float, lat: Float, zone: int) -> tuple[Ints, Ints, Float, Float]:
        """Corner (lattice steps) and centre (degrees) of the nearest sites; far outside a zone, nan degrees."""
        chip, half = self.chip, self.chip.footprint_m / 2
        step = chip.steps * chip.lattice
        x, y = project(lon, lat, zone)
        lost = ~(np.isfinite(x) & np.isfinite(y)) | (np.abs(x) > 2e7) | (np.abs(y) > 2e7)
        x, y = np.where(lost, 0.0, x), np.where(lost, 0.0, y)
        left = np.rint((x - half) / step).astype(np.int64) * chip.steps
        top = np.rint((y + half) / step).astype(np.int64) * chip.steps
        lon, lat = unproject(left * chip.lattice + half, top * chip.lattice - half, zone)
        return left, top, np.where(lost, np.nan, lon), np.where(lost, np.nan, lat)

    def _regions(self, lon: Float, lat: Float) -> Ints:
        """Place of each point's region, -1 outside."""
        if self.place is not None:
            return self.place[_continent_places(lon, lat)]
        west, south, east, north = self.box
        return np.where((lon >= west) & (lon <= east) & (lat >= south) & (lat <= north), 0, -1)

    def _edge(self, lon: Float, lat: Float, epsg: Ints) -> Flags:
        """Whether centres lie nearer to their zone's meridians, or the equator, than half the spacing."""
        if self.chip.epsg is not None:
            return np.zeros(len(lon), bool)
        reach = self.chip.steps * self.chip.lattice / 2 * 1.01
        number = epsg % 100
        from_west = (lon - (number * 6.0 - 186.0) + 180) % 360 - 180
        across = np.minimum(from_west, 6.0 - from_west) * np.cos(np.radians(lat)) * DEGREE_M
        south = (epsg // 100) == 327
        upward = np.where(south, -lat, lat) * DEGREE_M
        return (across < reach) | (upward < reach) | (lat < -80) | (lat > 84)

    def _block(self, lon: Float, lat: Float) -> tuple[Ints, Ints]:
        """Rows of equal height from the south pole; columns as wide as high in the middle of their row."""
        height = self.split.block_m / DEGREE_M
        lon, lat = np.nan_to_num(lon), np.nan_to_num(lat)
        row = np.floor((lat + 90) / height).astype(np.int64)
        middle = np.clip((row + 0.5) * height - 90, -89.9, 89.9)
        columns = np.maximum(1, np.floor(360 * np.cos(np.radians(middle)) / height)).astype(np.int64)
        return row, np.minimum(((lon + 180) / 360 * columns).astype(np.int64), columns - 1)


class Splits:
    """Which split a block belongs to, and whether a chip keeps its distance from the others."""

    def __init__(self, spec: CorpusSpec, landcover: LandCover) -> None:
        self.seed = spec.seed
        self.fractions = np.array([spec.split.fractions.get(name, 0.0) for name in SPLITS])
        self.single = bool((self.fractions >= 1).any())
        self.table: Ints | None = None
        if spec.split.assign == "balanced" and isinstance(spec.regions, Area):
            self.table = _balanced(spec, spec.regions, landcover)

    def block_split(self, row: Ints, col: Ints) -> Ints:
        """Place in `SPLITS` of each block."""
        if self.table is not None:
            return self.table[row, col]
        if self.single:
            return np.full(len(row), int(self.fractions.argmax()))
        edges = np.cumsum(self.fractions) / self.fractions.sum()
        last = int(np.flatnonzero(self.fractions).max())
        return np.minimum(np.searchsorted(edges, _hash(self.seed, row, col), side="right"), last)

    def of(self, ground: Ground, sites: Sites, which: Ints) -> tuple[Ints, Flags]:
        """Split (n,) of some sites, and whether all ground within half the guard belongs to the same split."""
        split = self.block_split(sites.block_row[which], sites.block_col[which])
        apart = np.ones(len(which), bool)
        if not self.single and len(which):
            for row, col in ground.touched(sites, which):
                apart &= self.block_split(row, col) == split
        return split, apart


def _continent_places(lon: Float, lat: Float) -> Ints:
    """Place in `CONTINENTS` of each point; the sea, ice shelves and points without coordinates come after the last."""
    from geodata import continents

    here = np.isfinite(lon) & np.isfinite(lat)
    names = np.asarray(continents.continent_of(np.where(here, lon, 0.0), np.where(here, lat, -90.0)))
    found, which = np.unique(names, return_inverse=True)
    known = {name: place for place, name in enumerate(CONTINENTS)}
    return np.array([known.get(str(name), len(CONTINENTS)) for name in found])[which]


def _centres_and_reach(
    chip: ChipSpec, guard_m: float, sites: Sites, which: Ints
) -> tuple[Float, Float, float]:
    """Centres (metres) and how far the guarded footprint reaches from them; a hair less, so that touching is free."""
    half = chip.footprint_m / 2
    x, y = sites.left[which] * chip.lattice + half, sites.top[which] * chip.lattice - half
    return x, y, half + guard_m / 2 - 1e-3


def _zones(lon: Float, lat: Float) -> Ints:
    """EPSG codes of plain UTM zones, as `grid.utm_epsg`, for arrays."""
    return np.where(lat >= 0, 32600, 32700) + ((lon + 180) // 6).astype(np.int64) % 60 + 1


def _by_zone(epsg: Ints, which: Ints) -> list[tuple[int, Ints]]:
    """The members of `which` by their zone."""
    order = which[np.argsort(epsg[which], kind="stable")]
    parts = np.split(order, np.flatnonzero(np.diff(epsg[order])) + 1)
    return [(int(epsg[part[0]]), part) for part in parts if len(part)]


def _hash(seed: int, row: Ints, col: Ints) -> Float:
    """A number in [0, 1) per block: three rounds of splitmix64 over seed, row and column."""
    state = np.full(len(row), seed & (2**64 - 1), np.uint64)
    with np.errstate(over="ignore"):
        for word in (row, col, np.zeros_like(row)):
            state = (state ^ word.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


_DEALS = 512
_PROBES = 16


def _balanced(spec: CorpusSpec, area: Area, landcover: LandCover) -> Ints:
    """Split of every block of an area, (rows, columns).

    Block counts follow the fractions exactly. Of 512 seeded ways to deal the blocks out, the one whose splits are
    nearest to the area's mix of classes, by the worst ratio of a class share in a split to that in the area, both
    taken at 16 x 16 points a block.
    """
    columns, rows = blocks(area, spec.split.block_m)
    counts = _class_counts(spec, area, landcover, columns, rows)
    sizes = apportion(columns * rows, {name: spec.split.fractions.get(name, 0.0) for name in SPLITS})
    dealt = np.repeat(np.arange(len(SPLITS)), [sizes[name] for name in SPLITS])
    seed = hashlib.sha256(f"{spec.seed}/blocks".encode()).digest()
    best, least = dealt, np.inf
    for deal in range(_DEALS):
        order = np.argsort(
            [hashlib.sha256(seed + f"{deal}/{block}".encode()).digest() for block in range(len(dealt))]
        )
        split = np.empty_like(dealt)
        split[order] = dealt
        worst = _unevenness(counts, split)
        if worst < least:
            best, least = split, worst
    return best.reshape(rows, columns)


def _class_counts(spec: CorpusSpec, area: Area, landcover: LandCover, columns: int, rows: int) -> Float:
    """Probed points per block and stratum asked for, (blocks, strata)."""
    wanted = [*spec.quotas.shares, *spec.quotas.fixed]
    offset = (np.arange(_PROBES) + 0.5) / _PROBES * spec.split.block_m
    xmin, _, _, ymax = area.bounds
    x = xmin + (np.arange(columns)[:, None] * spec.split.block_m + offset).ravel()
    y = ymax - (np.arange(rows)[:, None] * spec.split.block_m + offset).ravel()
    across, down = np.meshgrid(x, y)
    lon, lat = unproject(across.ravel(), down.ravel(), area.epsg)
    strata = landcover.classes.strata_of(landcover.at(lon, lat)).reshape(rows, _PROBES, columns, _PROBES)
    flat = strata.transpose(0, 2, 1, 3).reshape(rows * columns, -1)
    return np.stack([(flat == STRATA.index(name)).sum(1) for name in wanted], axis=1).astype(float)


def _unevenness(counts: Float, split: Ints) -> float:
    """The worst log ratio of a class share in a split to that in the whole."""
    total = counts.sum(0) + 1.0
    worst = 0.0
    for part in np.unique(split):
        mine = counts[split == part].sum(0) + 1.0
        ratio = np.log(mine / mine.sum()) - np.log(total / total.sum())
        worst = max(worst, float(np.abs(ratio).max()))
    return worst
