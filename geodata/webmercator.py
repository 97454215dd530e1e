"""The lattice of web map tiles: EPSG:3857 cut into 2^z by 2^z squares, rows counted from the north.

Its metres are not metres on the ground: they are longer by 1/cos(latitude), so one zoom means another GSD at another
latitude. Zooms are therefore chosen by ground GSD, never listed. All functions take scalars or arrays.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geodata.grid import Bounds, Float, Grid, whole

Integer = NDArray[np.int64]

EPSG = 3857
RADIUS_M = 6_378_137.0
"""Of the sphere on which the projection is defined (the major axis of WGS 84)."""
HALF_M = math.pi * RADIUS_M
"""From the middle of the square world to its edges, Mercator metres."""
TILE = 256
"""Pixels a side of the tile that zoom levels are defined by."""
NORTH = math.degrees(math.atan(math.sinh(math.pi)))
"""Latitude of the upper edge of the square world, 85.05 degrees."""
ZOOMS = range(27)
"""Zoom levels whose tile numbers and quadkeys are of use: 26 is 2 mm."""
_TOLERANCE = 1e-3
"""Share of a pixel by which a grid may miss the lattice and still be on it (float noise, not geometry)."""


def gsd_at(zoom: Any, lat: Any = 0.0, tile: int = TILE) -> Any:
    """Metres on the ground of a pixel of a `tile` x `tile` tile at a latitude; at the equator, Mercator metres."""
    return 2.0 * HALF_M * np.cos(np.radians(lat)) / (tile * np.exp2(zoom))


def zoom_for(gsd: Any, lat: Any = 0.0, tile: int = TILE) -> Any:
    """The zoom level whose ground GSD (metres) is nearest, as a ratio, at a latitude; 0 to 26, int64."""
    level = np.log2(gsd_at(0, lat, tile) / np.asarray(gsd, float))
    return np.clip(np.rint(level), ZOOMS.start, ZOOMS.stop - 1).astype(np.int64)


def tile_at(lon: Any, lat: Any, zoom: Any) -> tuple[Integer, Integer]:
    """Column x and row y of the tile that holds a point (degrees).

    Longitudes wrap; a latitude beyond the square world (85.05 degrees) is put into its outermost row.
    """
    count = np.exp2(zoom)
    x = np.floor((np.asarray(lon, float) + 180.0) / 360.0 * count)
    sine = np.sin(np.radians(np.clip(lat, -NORTH, NORTH)))
    y = np.floor((0.5 - np.arctanh(sine) / (2.0 * np.pi)) * count)
    last = count - 1
    return np.mod(x, count).astype(np.int64), np.clip(y, 0, last).astype(np.int64)


def tile_bounds(zoom: Any, x: Any, y: Any) -> tuple[Any, Any, Any, Any]:
    """(xmin, ymin, xmax, ymax) of a tile, Mercator metres."""
    side = 2.0 * HALF_M / np.exp2(zoom)
    west, north = np.asarray(x) * side - HALF_M, HALF_M - np.asarray(y) * side
    return west, north - side, west + side, north


def quadkey(zoom: int, x: int, y: int) -> str:
    """The tile's address as digits 0 to 3, one a level: bit of the row, bit of the column (x=3, y=5, z=3 is 213).

    Raises ValueError for a tile that the zoom does not have.
    """
    count = 1 << zoom
    if not (0 <= x < count and 0 <= y < count):
        raise ValueError(
            f"zoom {zoom} has columns and rows 0 to {count - 1}, not {x}, {y}; wrap or clip them"
        )
    return "".join(str((y >> bit & 1) * 2 + (x >> bit & 1)) for bit in reversed(range(zoom)))


def grid_of(zoom: int, x: int, y: int, tiles: int = 1, size: int = TILE) -> Grid:
    """The grid of `tiles` x `tiles` tiles of `size` pixels a side that begin at column x, row y."""
    gsd = 2.0 * HALF_M / (size * 2**zoom)
    left, _, _, top = (float(value) for value in tile_bounds(zoom, x, y))
    return Grid(EPSG, (gsd, 0.0, left, 0.0, -gsd, top), tiles * size, tiles * size)


def tiles_of(grid: Grid, size: int = TILE) -> tuple[int, int, int, int, int] | None:
    """(zoom, x, y, rows, columns) when a grid is made of whole tiles of `size` pixels; None for any other grid."""
    level = whole(math.log2(2.0 * HALF_M / (size * grid.gsd))) if grid.epsg == EPSG else None
    if level is None or level not in ZOOMS or grid.height % size or grid.width % size:
        return None
    pixels = (grid.origin[0] + HALF_M) / grid.gsd, (HALF_M - grid.origin[1]) / grid.gsd
    x, y = (round(value / size) for value in pixels)
    if max(abs(pixels[0] - x * size), abs(pixels[1] - y * size)) > _TOLERANCE:
        return None
    return level, x, y, grid.height // size, grid.width // size


def window(bounds: Bounds, zoom: int) -> tuple[int, int, int, int]:
    """(x, y, rows, columns) of the tiles under (xmin, ymin, xmax, ymax) in Mercator metres."""
    side = 2.0 * HALF_M / 2**zoom
    slack = 1e-9 * side
    left, top = (
        math.floor((bounds[0] + HALF_M + slack) / side),
        math.floor((HALF_M - bounds[3] + slack) / side),
    )
    right, bottom = (
        math.ceil((bounds[2] + HALF_M - slack) / side),
        math.ceil((HALF_M - bounds[1] - slack) / side),
    )
    return left, top, bottom - top, right - left


def ground_scale(y: Float | float) -> Any:
    """Ground metres in a Mercator metre at height y (Mercator metres) of the map: the cosine of the latitude."""
    return 1.0 / np.cosh(np.asarray(y, float) / RADIUS_M)
