"""The lattices that chips lie on: how a point finds its site, and what is between a site's numbers and its ground.

A site is a place that a chip may have, and no two sites of one zone, or of one zoom, overlap (or come nearer than the
spacing). Two lattices exist, as there are two kinds of chip: steps of metres in a UTM zone, and tiles of web Mercator,
where a chip of 2 x 2 tiles is one tile of the level above, so chips of all zooms nest. Either gives a site one number,
its key, by which sites are told apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from geodata import webmercator
from geodata.grid import project, unproject
from geodata.layout import ChipSpec, TileSpec

Float = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Columns = Mapping[str, NDArray[Any]]

EARTH_RADIUS_M = 6_371_007.2
"""Radius of the sphere with the Earth's area."""
DEGREE_M = EARTH_RADIUS_M * np.pi / 180

_UTM_SOUTH, _UTM_NORTH = -80.0, 84.0


@dataclass(frozen=True)
class Snapped:
    """Points moved to their sites, as arrays (N,): numbers of the corner, centre in degrees, key.

    `left` and `top` are lattice steps in zone `epsg`, or the upper left tile of `zoom` (-1 on UTM). `edge` is True where
    the lattice ends: too near the edge of a UTM zone, or beyond the latitudes that it has. Degrees are nan where a
    point is too far outside a zone to be projected.
    """

    epsg: Ints
    zoom: Ints
    left: Ints
    top: Ints
    lon: Float
    lat: Float
    key: Ints
    edge: Flags


@dataclass(frozen=True)
class Reach:
    """How far guarded footprints reach, degrees (N,): west and east of `lon` (as shifts), and latitudes."""

    lon: Float
    west: Float
    east: Float
    south: Float
    north: Float


class Lattice(Protocol):
    """Where the chips of one kind may lie."""

    def snap(self, lon: Float, lat: Float, chance: Float) -> Snapped:
        """The sites of points in degrees; `chance` in [0, 1) decides what a point alone does not, such as a zoom."""
        ...

    def reached(self, sites: Snapped, which: Ints, guard_m: float) -> Reach:
        """The ground of some sites, all their chips included, with half the guard around it."""
        ...

    def keys(self, columns: Columns) -> Ints:
        """Keys of sites by their columns epsg, zoom, left and top."""
        ...

    def parsed(self, site_id: str) -> tuple[int, int, int, int] | None:
        """(epsg, zoom, left, top) of a site by its id; None for what is none."""
        ...

    def spread(self, columns: Columns) -> Columns:
        """Columns of points as columns of chips: more rows where a point has more than one."""
        ...


def lattice(chip: ChipSpec | TileSpec) -> Lattice:
    """The lattice of a kind of chip."""
    return _Tiles(chip) if isinstance(chip, TileSpec) else _Zones(chip)


class _Zones:
    """Multiples of the spacing, in metres of each UTM zone (or of the one zone there is)."""

    def __init__(self, chip: ChipSpec) -> None:
        self.chip = chip

    def snap(self, lon: Float, lat: Float, chance: Float) -> Snapped:
        """See `Lattice`."""
        epsg = _zones(lon, lat) if self.chip.epsg is None else np.full(len(lon), self.chip.epsg)
        left, top = np.zeros(len(lon), np.int64), np.zeros(len(lon), np.int64)
        lon, lat = lon.copy(), lat.copy()
        for zone, mine in _by_zone(epsg, np.arange(len(lon))):
            left[mine], top[mine], lon[mine], lat[mine] = self._nearest(lon[mine], lat[mine], zone)
        zoom = np.full(len(lon), -1)
        return Snapped(
            epsg, zoom, left, top, lon, lat, _zone_keys(epsg, left, top), self._edge(lon, lat, epsg)
        )

    def reached(self, sites: Snapped, which: Ints, guard_m: float) -> Reach:
        """See `Lattice`; corners and middles of the sides of squares in metres."""
        x, y, reach = centres_and_reach(self.chip, guard_m, sites.left[which], sites.top[which])
        lon, lat = (np.empty((9, len(which))) for _ in range(2))
        steps = [(dx, dy) for dx in (-reach, 0.0, reach) for dy in (-reach, 0.0, reach)]
        for zone, mine in _by_zone(sites.epsg[which], np.arange(len(which))):
            for place, (dx, dy) in enumerate(steps):
                lon[place, mine], lat[place, mine] = unproject(x[mine] + dx, y[mine] + dy, zone)
        turned = (lon - lon[4] + 180) % 360 - 180
        return Reach(lon[4], turned.min(0), turned.max(0), lat.min(0), lat.max(0))

    def keys(self, columns: Columns) -> Ints:
        """See `Lattice`."""
        return _zone_keys(columns["epsg"], columns["left"], columns["top"])

    def parsed(self, site_id: str) -> tuple[int, int, int, int] | None:
        """See `Lattice`."""
        found = re.fullmatch(r"(\d+)-(-?\d+)-(-?\d+)", site_id)
        return (int(found[1]), -1, int(found[2]), int(found[3])) if found else None

    def spread(self, columns: Columns) -> Columns:
        """See `Lattice`: a point is a chip."""
        return columns

    def _nearest(self, lon: Float, lat: Float, zone: int) -> tuple[Ints, Ints, Float, Float]:
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
        return (across < reach) | (upward < reach) | (lat < _UTM_SOUTH) | (lat > _UTM_NORTH)


class _Tiles:
    """Tiles of web Mercator: columns and rows of the level above, so many that a chip is one of them."""

    def __init__(self, chip: TileSpec) -> None:
        self.chip = chip

    def snap(self, lon: Float, lat: Float, chance: Float) -> Snapped:
        """See `Lattice`; `chance` is where in its range the GSD lies. With all zooms, the site is the finest chip's."""
        finest = self.chip.gsd_range[0]
        if self.chip.zooms == "nearest":
            zoom = self._zoom(self._drawn(chance), lat)
            coarse = zoom
        else:
            coarse = self._coarsest(lon, lat)
            zoom = np.maximum(self._zoom(finest, lat), coarse)
        col, row = webmercator.tile_at(lon, lat, zoom - self.chip.levels)
        edge = ~(np.abs(lat) <= webmercator.NORTH)
        here = _middle(zoom - self.chip.levels, col, row)
        up = zoom - coarse
        key = _tile_keys(coarse, col >> up, row >> up)
        epsg = np.full(len(lon), webmercator.EPSG)
        return Snapped(epsg, zoom, col << self.chip.levels, row << self.chip.levels, *here, key, edge)

    def reached(self, sites: Snapped, which: Ints, guard_m: float) -> Reach:
        """See `Lattice`; with all zooms, the coarsest chip holds the others."""
        zoom, col, row = _key_parts(sites.key[which])
        level = zoom - self.chip.levels
        lon, _ = _middle(level, col, row)
        south, north = _latitude(level, row + 1), _latitude(level, row)
        margin = max(guard_m / 2 - 1e-3, 0.0) / DEGREE_M
        south, north = south - margin, north + margin
        widest = np.cos(np.radians(np.minimum(np.maximum(np.abs(south), np.abs(north)), 89.9)))
        half = 180.0 / np.exp2(level) - 1e-9 + margin / widest
        return Reach(lon, -half, half, south + 1e-9, north - 1e-9)

    def keys(self, columns: Columns) -> Ints:
        """See `Lattice`."""
        up = self.chip.levels
        return _tile_keys(columns["zoom"], columns["left"] >> up, columns["top"] >> up)

    def parsed(self, site_id: str) -> tuple[int, int, int, int] | None:
        """See `Lattice`."""
        if not re.fullmatch("q[0-3]{0,26}", site_id):
            return None
        digits = [int(digit) for digit in site_id[1:]]
        left, top = 0, 0
        for digit in digits:
            left, top = 2 * left + (digit & 1), 2 * top + (digit >> 1)
        return webmercator.EPSG, len(digits), left, top

    def spread(self, columns: Columns) -> Columns:
        """See `Lattice`: with all zooms, the chip of each zoom from the coarsest to the point's own, in that order."""
        if self.chip.zooms == "nearest":
            return columns
        levels = self.chip.levels
        coarse = self._coarsest(columns["lon"], columns["lat"])
        counts = columns["zoom"].astype(np.int64) - coarse + 1
        rows = np.repeat(np.arange(len(counts)), counts)
        wide = {name: values[rows] for name, values in columns.items()}
        first = np.repeat(np.cumsum(counts) - counts, counts)
        zoom = coarse[rows] + np.arange(len(rows)) - first
        up = wide["zoom"] - zoom
        col, row = (
            wide["left"].astype(np.int64) >> levels >> up,
            wide["top"].astype(np.int64) >> levels >> up,
        )
        lon, lat = _middle(zoom - levels, col, row)
        return {**wide, "zoom": zoom, "left": col << levels, "top": row << levels, "lon": lon, "lat": lat}

    def _drawn(self, chance: Float) -> Float:
        """One GSD a point, metres on the ground."""
        fine, coarse = self.chip.gsd_range
        if self.chip.gsd_draw == "uniform":
            return fine + (coarse - fine) * chance
        return fine * (coarse / fine) ** chance

    def _zoom(self, gsd: Float | float, lat: Float) -> Ints:
        """The zoom nearest to a ground GSD; at least so fine that the world holds a chip."""
        found: Ints = np.maximum(webmercator.zoom_for(gsd, lat, self.chip.tile), self.chip.levels)
        return found

    def _coarsest(self, lon: Float, lat: Float) -> Ints:
        """The coarsest zoom of each point: decided by the middle of the chip, so that all its points agree."""
        gsd = self.chip.gsd_range[1]
        low, high = (int(self._zoom(gsd, np.array(at))) for at in (webmercator.NORTH, 0.0))
        found = np.full(len(lon), high)
        for zoom in range(high - 1, low - 1, -1):
            col, row = webmercator.tile_at(lon, lat, zoom - self.chip.levels)
            _, middle = _middle(np.full(len(lon), zoom - self.chip.levels), col, row)
            found = np.where(self._zoom(gsd, middle) <= zoom, zoom, found)
        return found


def centres_and_reach(chip: ChipSpec, guard_m: float, left: Ints, top: Ints) -> tuple[Float, Float, float]:
    """Centres (metres) and how far the guarded footprint reaches from them; a hair less, so that touching is free."""
    half = chip.footprint_m / 2
    return left * chip.lattice + half, top * chip.lattice - half, half + guard_m / 2 - 1e-3


def _zone_keys(epsg: Any, left: Any, top: Any) -> Ints:
    """One number per site, from zone and corner."""
    epsg, left, top = (np.asarray(values, np.int64) for values in (epsg, left, top))
    return (epsg << 46) + ((left + (1 << 21)) << 24) + top


def _tile_keys(zoom: Any, col: Any, row: Any) -> Ints:
    """One number per site, from zoom, column and row."""
    zoom, col, row = (np.asarray(values, np.int64) for values in (zoom, col, row))
    return (zoom << 52) + (col << 26) + row


def _key_parts(keys: Ints) -> tuple[Ints, Ints, Ints]:
    """The inverse of `_tile_keys`."""
    low = (1 << 26) - 1
    return keys >> 52, keys >> 26 & low, keys & low


def _middle(level: Ints, col: Ints, row: Ints) -> tuple[Float, Float]:
    """Longitude and latitude of the middles of tiles."""
    return (col + 0.5) / np.exp2(level) * 360.0 - 180.0, _latitude(level, row + 0.5)


def _latitude(level: Ints, row: Float | Ints) -> Float:
    """Latitude of the upper edges of rows (or of places between them)."""
    found: Float = np.degrees(np.arctan(np.sinh(np.pi * (1.0 - 2.0 * row / np.exp2(level)))))
    return found


def _zones(lon: Float, lat: Float) -> Ints:
    """EPSG codes of plain UTM zones, as `grid.utm_epsg`, for arrays."""
    return np.where(lat >= 0, 32600, 32700) + ((lon + 180) // 6).astype(np.int64) % 60 + 1


def _by_zone(epsg: Ints, which: Ints) -> list[tuple[int, Ints]]:
    """The members of `which` by their zone."""
    order = which[np.argsort(epsg[which], kind="stable")]
    parts = np.split(order, np.flatnonzero(np.diff(epsg[order])) + 1)
    return [(int(epsg[part[0]]), part) for part in parts if len(part)]
