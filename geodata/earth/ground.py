"""What covers the ground: fields of climate, relief, water and towns on the sphere, and the class that wins.

`fields` is a function of longitude and latitude alone. `survey` takes it on nodes 20 m apart in a grid's zone and
interpolates, because every field is much smoother than that; classes are decided after, at each pixel, so that edges
are sharp at any GSD. `classes_at` decides directly at points; the two differ by less than a metre at edges.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio.features
from affine import Affine
from numpy.typing import NDArray

from geodata import continents
from geodata.earth.noise import noise, salt
from geodata.errors import Missing
from geodata.grid import Grid, unproject

Codes = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Float = NDArray[np.float64]

WATER, TREES, GRASS, WETLAND, CROPS, SCRUB, BUILT, BARE, ICE, CLOUDS = range(1, 11)
"""Codes of the ESRI 2020 table."""

NODE_M = 20.0
RADIUS_M = 6_371_007.0

SCORES = (WATER, TREES, GRASS, WETLAND, CROPS, SCRUB, BUILT, BARE, ICE)
_SCORED = np.array(SCORES, np.uint8)
FIELDS = (*(f"score_{code}" for code in SCORES), "cloudy", "east", "west", "cold", "wet")
"""Rows of `fields`: a score for each class; where it is always cloudy; two fields of region (mean 0, spread 1, over
1,000 km and more); how cold (in degrees of latitude) and how wet (about -1 to 1) it is."""
_ROW = {name: row for row, name in enumerate(FIELDS)}

_TERMS = {
    "temperature": 900e3,
    "moisture": 520e3,
    "mountain": 260e3,
    "peak": 38e3,
    "east": 1700e3,
    "west": 1250e3,
    "coast": 21e3,
    "shore": 4.2e3,
    "lake": 8.5e3,
    "bank": 1.4e3,
    "river": 16e3,
    "region_urban": 42e3,
    "town": 5.2e3,
    "suburb": 1.5e3,
    "cloudy": 70e3,
    "cloudy_edge": 9e3,
}
"""Noise over space and its wavelength, metres."""
_PATCHY = (TREES, GRASS, WETLAND, CROPS, SCRUB, BARE)
_PATCHES = {TREES: 1500.0, GRASS: 1100.0, WETLAND: 1900.0, CROPS: 2300.0, SCRUB: 1200.0, BARE: 2100.0}
"""Size of the patches of each class, metres; each has a second noise of 0.31 times that."""

_LATITUDES = (0.0, 8.0, 16.0, 24.0, 33.0, 42.0, 52.0, 62.0, 72.0, 90.0)
_MOISTURE = (0.95, 0.75, 0.15, -0.75, -0.35, 0.25, 0.5, 0.4, -0.05, -0.3)
"""How wet it is by latitude: rain forests, deserts around 25 degrees, temperate woods, dry cold."""


@dataclass(frozen=True, eq=False)
class Survey:
    """A grid's ground: positions, classes and smooth fields at every pixel (H, W).

    `codes` are the map, with its always cloudy places (10); `surface` is what lies under them.
    """

    grid: Grid
    seed: int
    x: Float
    y: Float
    lon: Float
    lat: Float
    codes: Codes
    surface: Codes
    east: Float32
    west: Float32
    cold: Float32
    wet: Float32
    cloudy: Float32


@functools.lru_cache(maxsize=4)
def survey(grid: Grid, seed: int) -> Survey:
    """The ground of a grid. Its arrays are shared between callers: read, never write. Missing beyond UTM's latitudes."""
    refuse_beyond_utm(grid)
    columns, rows = (exact(axis) for axis in grid.xy())
    nodes = Nodes.around(grid)
    places = nodes.places()
    lon, lat = nodes.lonlat(places, columns, rows)
    if grid.gsd > NODE_M:  # fewer pixels than nodes
        values = fields(lon.ravel(), lat.ravel(), seed).reshape(len(FIELDS), *grid.shape)
    else:
        values = nodes.spread(fields(*places, seed), columns, rows)
    surface = decide(values)
    codes = np.where(values[_ROW["cloudy"]] > 0, np.uint8(CLOUDS), surface)
    named = {
        name: np.ascontiguousarray(values[_ROW[name]]) for name in ("east", "west", "cold", "wet", "cloudy")
    }
    x, y = np.broadcast_to(columns, grid.shape), np.broadcast_to(rows[:, None], grid.shape)
    ground = Survey(grid, seed, x, y, lon, lat, codes, surface, **named)
    for array in vars(ground).values():
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
    return ground


def refuse_beyond_utm(grid: Grid) -> None:
    """Raise Missing when a grid is in no UTM zone or beyond its latitudes."""
    zone = grid.epsg - (32600 if grid.epsg < 32700 else 32700)
    _, lat = grid.centre() if 1 <= zone <= 60 else (0.0, 90.0)
    if not -80.0 <= lat <= 84.0:
        raise Missing(
            f"the synthetic Earth is rendered in UTM zones from 80 S to 84 N, not at latitude {lat:.2f} in "
            f"EPSG:{grid.epsg}; cut the grid in the point's own zone"
        )


def exact(values: NDArray[np.floating[Any]]) -> Float:
    """Coordinates (metres) rounded to 1/1024 m, so that a pixel has one position whichever grid it was counted from."""
    return np.round(values * 1024.0) / 1024.0


def classes_at(lon: Float, lat: Float, seed: int) -> Codes:
    """Codes of the map at points (N,) in degrees; 255 where a coordinate is no number."""
    lon, lat = np.asarray(lon, float), np.asarray(lat, float)
    known = np.isfinite(lon) & np.isfinite(lat)
    found = np.full(lon.shape, 255, np.uint8)
    values = fields(lon[known], lat[known], seed)
    found[known] = np.where(values[_ROW["cloudy"]] > 0, np.uint8(CLOUDS), decide(values))
    return found


def decide(values: Float32) -> Codes:
    """The class (any shape) with the highest score; `values` has the rows of `FIELDS` first."""
    return _SCORED[np.argmax(values[: len(SCORES)], axis=0)]


def margin(values: Float32, code: int) -> Float32:
    """By how much a class leads the best of the others; negative where it loses."""
    row = SCORES.index(code)
    others = np.delete(values[: len(SCORES)], row, axis=0).max(axis=0)
    return values[row] - others


def on_sphere(lon: Float, lat: Float) -> Float:
    """Points (3, N) in metres of space."""
    along, up = np.radians(lon), np.radians(lat)
    flat = np.cos(up)
    return RADIUS_M * np.stack([flat * np.cos(along), flat * np.sin(along), np.sin(up)])


def fields(lon: Float, lat: Float, seed: int) -> Float32:
    """Rows of `FIELDS` (K, N) at points (N,) in degrees."""
    points = on_sphere(lon, lat)
    bend = noise(points, [520.0] * 3 + [2600.0] * 3, [salt(seed, "bend", axis) for axis in range(6)])
    bent = points + 55.0 * bend[:3] + 260.0 * bend[3:]
    names = list(_TERMS)
    smooth = noise(bent, list(_TERMS.values()), [salt(seed, name) for name in names])
    term = dict(zip(names, smooth, strict=True))
    sizes = [_PATCHES[code] for code in _PATCHY]
    coarse = noise(bent, sizes, [salt(seed, "patch", code) for code in _PATCHY])
    fine = noise(bent, [0.31 * size for size in sizes], [salt(seed, "speck", code) for code in _PATCHY])
    patch = dict(zip(_PATCHY, 0.86 * coarse + 0.5 * fine, strict=True))
    return _scores(lon, lat, term, patch)


def _scores(lon: Float, lat: Float, term: dict[str, Float32], patch: dict[int, Float32]) -> Float32:
    north = np.abs(lat).astype(np.float32)
    mountain = np.maximum(0.75 * term["mountain"] + 0.45 * term["peak"] - 1.0, 0.0)
    cold = north + 4.5 * term["temperature"] + 21.0 * mountain
    wet = np.interp(north, _LATITUDES, _MOISTURE).astype(np.float32) + 0.32 * term["moisture"]
    land = _landness(lon, lat) + 0.07 * term["coast"] + 0.03 * term["shore"]
    frost = np.maximum(cold - 62.0, 0.0)

    lake = term["lake"] + 0.22 * term["bank"] + 0.3 * wet - 2.0 - 0.6 * mountain
    stream = term["river"] + 0.03 * term["bank"]
    river = (0.016 + 0.008 * wet) ** 2 - stream * stream
    fresh = np.maximum(9.0 * lake, np.where(wet > -0.45, 40000.0 * river, -9.0))
    water = np.clip(np.maximum(fresh, -150.0 * land), -9.0, 6.0)
    near_water = np.maximum(0.0, 1.0 + 1.1 * lake) + np.maximum(0.0, 1.0 - 14.0 * np.abs(stream))
    town = 0.85 * term["town"] + 0.55 * term["suburb"] + 0.9 * term["region_urban"]

    score = np.empty((len(FIELDS), lat.size), np.float32)
    score[0] = water
    score[1] = patch[TREES] + 0.1 + 1.7 * wet - 0.22 * np.maximum(cold - 63.0, 0.0) + 0.5 * mountain
    score[2] = patch[GRASS] + 0.25 - 0.9 * np.abs(wet - 0.05) - 0.03 * frost
    score[3] = patch[WETLAND] - 1.35 + 0.9 * wet + 1.25 * near_water - 1.0 * mountain - 0.04 * frost
    score[4] = (
        patch[CROPS] + 0.85 - 1.5 * np.abs(wet - 0.32) - 0.16 * np.maximum(cold - 54.0, 0.0) - 2.0 * mountain
    )
    score[5] = patch[SCRUB] - 0.1 - 1.1 * np.abs(wet + 0.2) + 0.05 * frost - 0.012 * frost * frost
    score[6] = (
        town - 0.85 - 0.9 * np.maximum(-wet - 0.2, 0.0) - 0.16 * np.maximum(cold - 56.0, 0.0) - 2.0 * mountain
    )
    score[7] = patch[BARE] - 1.15 - 3.4 * wet + 0.07 * frost + 1.2 * mountain
    score[8] = np.clip(
        0.55 * (cold - 71.0 - 7.0 * np.clip(0.5 - 4.0 * land, 0.0, 1.0)) + patch[BARE], -9.0, 8.0
    )
    score[9] = 1.2 * term["cloudy"] + 0.9 * term["cloudy_edge"] + 0.5 * wet - 3.1
    score[10], score[11], score[12], score[13] = term["east"], term["west"], cold, wet
    return score


@dataclass(frozen=True)
class Nodes:
    """The lattice of a zone, `step` metres apart, as much of it as a grid needs to interpolate on."""

    epsg: int
    x: Float
    y: Float
    step: float

    @classmethod
    def around(cls, grid: Grid, step: float | None = None) -> Nodes:
        """The nodes that surround every pixel centre of a grid."""
        size = step or (NODE_M if grid.gsd <= NODE_M else 12 * NODE_M)
        west, south, east, north = grid.bounds
        columns = np.arange(np.floor(west / size), np.floor(east / size) + 2)
        rows = np.arange(np.floor(south / size), np.floor(north / size) + 2)
        return cls(grid.epsg, columns * size, rows * size, size)

    def places(self) -> tuple[Float, Float]:
        """Longitude and latitude of every node (N,), row by row from the south."""
        x, y = np.meshgrid(self.x, self.y)
        return unproject(x.ravel(), y.ravel(), self.epsg)

    def lonlat(self, places: tuple[Float, Float], columns: Float, rows: Float) -> tuple[Float, Float]:
        """Longitude and latitude of pixels (H, W) between those of the nodes, true to millimetres."""
        lon, lat = places
        middle = (self.epsg % 100) * 6.0 - 183.0
        turned = (lon - middle + 180.0) % 360.0 - 180.0  # no jump at the antimeridian
        along, up = self.spread(np.stack([turned, lat]), columns, rows)
        return (along + middle + 180.0) % 360.0 - 180.0, up

    def spread(self, values: NDArray[Any], columns: Float, rows: Float) -> NDArray[Any]:
        """Values (K, N) at nodes, interpolated linearly to pixels (K, H, W) at x `columns` and y `rows`."""
        kind = values.dtype.type
        blocks = values.reshape(len(values), len(self.y), len(self.x))
        up, above = self._place(rows, self.y)
        left, across = self._place(columns, self.x)
        above, across = above.astype(kind)[:, None], across.astype(kind)
        strips = blocks[:, up] + above * (blocks[:, up + 1] - blocks[:, up])
        west = strips[:, :, left]
        return west + across * (strips[:, :, left + 1] - west)

    def _place(self, at: Float, nodes: Float) -> tuple[NDArray[np.int64], Float]:
        """The node before each coordinate, and the share of the way to the next."""
        steps = at / self.step
        whole = np.floor(steps)
        return (whole - nodes[0] / self.step).astype(np.int64), steps - whole


_CELL = 0.2
"""Degrees between the entries of the table of land."""


def _landness(lon: Float, lat: Float) -> Float32:
    """How far inland points (N,) are: 0 on the coast, up to 0.5 a degree or more inland, down to -0.5 at sea."""
    table = _land_table()
    across = ((lon + 180.0) % 360.0) / _CELL + 0.5
    up = np.clip((lat + 90.0) / _CELL + 0.5, 0.0, table.shape[0] - 1.001)
    left, low = np.floor(across).astype(np.int64), np.floor(up).astype(np.int64)
    x, y = (across - left).astype(np.float32), (up - low).astype(np.float32)
    south = table[low, left] + x * (table[low, left + 1] - table[low, left])
    north = table[low + 1, left] + x * (table[low + 1, left + 1] - table[low + 1, left])
    return south + y * (north - south) - np.float32(0.5)


@functools.cache
def _land_table() -> Float32:
    """Share of land (0 to 1) around cell centres, south-west first, one cell of margin on each side."""
    outlines = [(continents.polygons(name), 1) for name in continents.NAMES]
    rows, columns = int(180 / _CELL), int(360 / _CELL)
    half = _CELL / 2
    fine = rasterio.features.rasterize(
        outlines,
        (2 * rows, 2 * columns),
        transform=Affine(half, 0, -180, 0, half, -90),
        fill=0,
        dtype="uint8",
    )
    share = fine.reshape(rows, 2, columns, 2).mean(axis=(1, 3), dtype=np.float32)
    for _ in range(2):
        share = (np.roll(share, 1, axis=1) + share + np.roll(share, -1, axis=1)) / np.float32(3)
        tall = np.pad(share, ((1, 1), (0, 0)), mode="edge")
        share = (tall[:-2] + tall[1:-1] + tall[2:]) / np.float32(3)
    return np.pad(np.pad(share, ((0, 0), (1, 2)), mode="wrap"), ((1, 1), (0, 0)), mode="edge")
