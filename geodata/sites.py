"""Where chips may lie: regions of the Earth, the sites in them, and the blocks that keep splits apart.

A region is drawn from evenly by area: over a box of degrees, or over the cells in which a map says that a stratum may
occur. Each point is moved to its site on the lattice of chips; sites at the edge of a UTM zone are not used, which keeps
the spacing across zones and keeps chips out of two zones at once. Blocks are squares of a metric area, or fields of an
equal-area-like grid of rows and columns on the sphere, so that no zone's edge can bring ground of two splits together.

Why sites of a cell's edge are drawn a little less often than others: a point is drawn in the cell and then moved, and
part of the ground around such a site lies in another cell. Cells are much larger than chips wherever this is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from geodata import continents
from geodata.grid import Bounds, unproject
from geodata.landcover import Cells
from geodata.lattice import DEGREE_M, Flags, Float, Ints, Reach, Snapped, centres_and_reach, lattice
from geodata.quotas import ANYWHERE
from geodata.spec import CONTINENTS, Area, ChipSpec, Continents, CorpusSpec, TileSpec, blocks

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
_WHOLE_WORLD: Bounds = (-180.0, -90.0, 180.0, 90.0)


@dataclass(frozen=True)
class Sites(Snapped):
    """Candidates moved to their sites, as arrays (N,), and what region and block each is in.

    `inside` is False off the region; `wet` is the same for water, which may lie a little off the coast, and must not
    lie farther off.
    """

    region: Ints
    block_row: Ints
    block_col: Ints
    inside: Flags
    wet: Flags


class Ground(Protocol):
    """The sites of one region. `extent` is its share of the ground that all regions are drawn from."""

    extent: float

    def sites(self, numbers: Float) -> Sites:
        """The site that each row of uniform numbers (N, 4) falls on."""
        ...

    def touched(self, sites: Sites, which: Ints) -> list[tuple[Ints, Ints]]:
        """Block rows and columns that the guarded footprints of some sites touch: arrays (n,), several of them."""
        ...


def ground(spec: CorpusSpec, cell: str, regions: tuple[str, ...], boxes: Float | None = None) -> Ground:
    """The ground of one quota cell, whose chips are numbered by their place in `regions`.

    With `boxes` (N, 4), only points in these are drawn.
    """
    if isinstance(spec.regions, Area) and spec.regions.metric:
        assert isinstance(spec.chip, ChipSpec)
        return _Plane(spec, spec.chip, spec.regions)
    world = _WHOLE_WORLD if isinstance(spec.chip, TileSpec) else _WORLD
    if not isinstance(spec.regions, Continents):
        bounds = spec.regions.bounds if isinstance(spec.regions, Area) else world
        return _Sphere(spec, _Boxes.within(bounds, boxes), bounds, None)
    names = tuple(spec.regions.weights) if cell == ANYWHERE else (cell,)
    place = np.full(len(CONTINENTS) + 1, -1)
    for name in names:
        place[CONTINENTS.index(name)] = regions.index(name)
    bounds = world if cell == ANYWHERE else BOXES[cell]
    return _Sphere(spec, _Boxes.within(bounds, None) if boxes is None else _Boxes(boxes), bounds, place)


def cells_of(spec: CorpusSpec, stratum: str, cells: Cells, regions: Iterable[str]) -> dict[str, Float | None]:
    """By quota cell, the boxes (N, 4) of a stratum that meet its ground; None on a metric area, drawn site by site.

    Boxes at a border reach over it: what is drawn there is still judged.
    """
    if isinstance(spec.regions, Area) and spec.regions.metric:
        return dict.fromkeys(regions)
    boxes = cells.of(stratum)
    if not isinstance(spec.regions, Continents):
        return dict.fromkeys(regions, boxes)
    reach = (spec.inland_km or 0.0) if stratum == "watershed" else 0.0
    meets = continents.meeting(boxes, reach, spec.regions.outlines)
    found: dict[str, Float | None] = {}
    for cell in regions:
        names = list(spec.regions.weights) if cell == ANYWHERE else [cell]
        found[cell] = boxes[meets[:, [continents.NAMES.index(name) for name in names]].any(1)]
    return found


class _Plane:
    """A metric area: the sites whose footprints lie in it, each as likely as any other."""

    extent = 1.0

    def __init__(self, spec: CorpusSpec, chip: ChipSpec, area: Area) -> None:
        self.area, self.chip, self.split = area, chip, spec.split
        xmin, ymin, xmax, ymax = area.bounds
        step = chip.steps * chip.lattice
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
        """See `Ground`; the first two columns say which site."""
        left = self.left + (numbers[:, 0] * self.columns).astype(np.int64) * self.chip.steps
        top = self.top - (numbers[:, 1] * self.rows).astype(np.int64) * self.chip.steps
        half = self.chip.footprint_m / 2
        x, y = left * self.chip.lattice + half, top * self.chip.lattice - half
        lon, lat = unproject(x, y, self.area.epsg)
        row, col = self._block(x, y)
        epsg, zoom = np.full(len(x), self.area.epsg), np.full(len(x), -1)
        key = lattice(self.chip).keys({"epsg": epsg, "zoom": zoom, "left": left, "top": top})
        none = np.zeros(len(x), bool)
        region = np.zeros(len(x), np.int64)
        return Sites(epsg, zoom, left, top, lon, lat, key, none, region, row, col, ~none, ~none)

    def touched(self, sites: Sites, which: Ints) -> list[tuple[Ints, Ints]]:
        """See `Ground`."""
        x, y, reach = centres_and_reach(self.chip, self.split.guard_m, sites.left[which], sites.top[which])
        return [self._block(x + dx, y + dy) for dx in (-reach, reach) for dy in (-reach, reach)]

    def _block(self, x: Float, y: Float) -> tuple[Ints, Ints]:
        xmin, _, _, ymax = self.area.bounds
        columns, rows = blocks(self.area, self.split.block_m)
        row = np.clip((ymax - y) // self.split.block_m, 0, rows - 1).astype(np.int64)
        return row, np.clip((x - xmin) // self.split.block_m, 0, columns - 1).astype(np.int64)


class _Boxes:
    """Boxes of longitude and latitude (N, 4) that do not overlap, drawn from evenly by area on the sphere."""

    def __init__(self, boxes: Float) -> None:
        self.west, south, self.east, north = np.asarray(boxes, float).T
        self.low, self.high = np.sin(np.radians(south)), np.sin(np.radians(north))
        areas = (self.east - self.west) / 360 * (self.high - self.low) / 2
        self.edges = np.cumsum(areas)
        self.extent = float(self.edges[-1]) if len(areas) else 0.0

    @classmethod
    def within(cls, bounds: Bounds, boxes: Float | None) -> _Boxes:
        """One box, or what others have in it."""
        if boxes is None:
            return cls(np.array([bounds]))
        west, south, east, north = boxes.T
        cut = np.stack(
            [
                np.maximum(west, bounds[0]),
                np.maximum(south, bounds[1]),
                np.minimum(east, bounds[2]),
                np.minimum(north, bounds[3]),
            ],
            1,
        )
        return cls(cut[(cut[:, 0] < cut[:, 2]) & (cut[:, 1] < cut[:, 3])])

    def points(self, numbers: Float) -> tuple[Float, Float]:
        """Longitude and latitude by rows of uniform numbers (N, 4): one box needs the first two, several the third."""
        across, box = numbers[:, 0], np.zeros(len(numbers), np.int64)
        if len(self.edges) > 1:
            box = np.searchsorted(self.edges, numbers[:, 2] * self.extent, side="right")
            box = np.minimum(box, len(self.edges) - 1)
        west, low = self.west[box], self.low[box]
        lon = (west + across * (self.east[box] - west) + 180) % 360 - 180
        return lon, np.degrees(np.arcsin(low + numbers[:, 1] * (self.high[box] - low)))


class _Sphere:
    """Boxes of longitude and latitude, drawn evenly by area; of continents where `place` numbers them."""

    def __init__(self, spec: CorpusSpec, boxes: _Boxes, bounds: Bounds, place: Ints | None) -> None:
        self.lattice, self.split, self.inland_km = lattice(spec.chip), spec.split, spec.inland_km
        self.boxes, self.bounds, self.place = boxes, bounds, place
        self.outlines: continents.Outlines = "fine"
        if isinstance(spec.regions, Continents):
            self.outlines = spec.regions.outlines
        self.extent = boxes.extent

    def sites(self, numbers: Float) -> Sites:
        """See `Ground`."""
        lon, lat = self.boxes.points(numbers)
        near = np.arange(len(lon))
        if len(self.boxes.edges) == 1:  # most of a box is elsewhere; cells are chosen to be here
            near = np.flatnonzero(self._regions(lon, lat)[0] >= 0)
        snapped = self.lattice.snap(lon[near], lat[near], numbers[near, 3])
        found = {name: np.zeros(len(lon), np.int64) for name in ("epsg", "zoom", "left", "top", "key")}
        for name, values in found.items():
            values[near] = getattr(snapped, name)
        lon[near], lat[near] = snapped.lon, snapped.lat
        edge, inside, wet = (np.zeros(len(lon), bool) for _ in range(3))
        region = np.full(len(lon), -1)
        region[near], inside[near], wet[near] = self._regions(snapped.lon, snapped.lat)
        edge[near] = snapped.edge
        row, col = self._block(lon, lat)
        return Sites(
            **found,
            lon=lon,
            lat=lat,
            edge=edge,
            region=region,
            block_row=row,
            block_col=col,
            inside=inside,
            wet=wet,
        )

    def touched(self, sites: Sites, which: Ints) -> list[tuple[Ints, Ints]]:
        """See `Ground`."""
        reach: Reach = self.lattice.reached(sites, which, self.split.guard_m)
        return [
            self._block((reach.lon + shift + 180) % 360 - 180, lat)
            for lat in (reach.south, reach.north)
            for shift in (reach.west, 0.0, reach.east)
        ]

    def _regions(self, lon: Float, lat: Float) -> tuple[Ints, Flags, Flags]:
        """Each point's region (-1 outside), whether it is in it, and whether water there would be.

        A point at sea within reach of land belongs to the continent there; a lake is land.
        """
        if self.place is None:
            west, south, east, north = self.bounds
            inside = (lon >= west) & (lon <= east) & (lat >= south) & (lat <= north)
            wet = inside
            if self.inland_km is not None:
                wet = inside & (continents.codes(lon, lat, self.inland_km, self.outlines) >= 0)
            return np.where(inside, 0, -1), inside, wet
        region = self.place[continents.codes(lon, lat, outlines=self.outlines)]
        inside = region >= 0
        if not self.inland_km:
            return region, inside, inside
        at_sea = np.flatnonzero(~inside)
        near = continents.codes(lon[at_sea], lat[at_sea], self.inland_km, self.outlines)
        region[at_sea] = self.place[near]
        return region, inside, region >= 0

    def _block(self, lon: Float, lat: Float) -> tuple[Ints, Ints]:
        """Rows of equal height from the south pole; columns as wide as high in the middle of their row."""
        height = self.split.block_m / DEGREE_M
        lon, lat = np.nan_to_num(lon), np.nan_to_num(lat)
        row = np.floor((lat + 90) / height).astype(np.int64)
        middle = np.clip((row + 0.5) * height - 90, -89.9, 89.9)
        columns = np.maximum(1, np.floor(360 * np.cos(np.radians(middle)) / height)).astype(np.int64)
        return row, np.minimum(((lon + 180) / 360 * columns).astype(np.int64), columns - 1)
