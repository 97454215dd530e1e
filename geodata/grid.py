"""Where pixels are. A `Grid` is a CRS, a transform and a shape, and nothing else in the project may decide
whether two rasters are aligned, which UTM zone a chip belongs to, or where a pixel lies.

Why so narrow: half-pixel shifts and swapped axes come from geometry decided twice. Grids here are north-up, with
square pixels in metres, because every chip is cut in a UTM zone, or from web map tiles in their own web Mercator;
rotated or geographic rasters exist only inside the sources that read them, which warp once and say so. Sentinel-2 pixels of all resolutions begin on multiples of
60 m in their zone, so a chip whose corner is a multiple of 60 m needs no resampling in any band.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer

Float = NDArray[np.floating[Any]]
Bounds = tuple[float, float, float, float]

LATTICE_M = 60.0
"""Sentinel-2 tile origins are multiples of this in UTM, for its 10, 20 and 60 m bands alike."""

_UTM_SOUTH, _UTM_NORTH = -80.0, 84.0
_WEB_MERCATOR, _MERCATOR_RADIUS_M = 3857, 6_378_137.0
_TOLERANCE = 1e-6
"""Share of a pixel by which a coordinate may miss its lattice and still be on it (float noise, not geometry)."""


@functools.lru_cache(maxsize=256)
def _transformer(source: int, target: int) -> Transformer:
    return Transformer.from_crs(source, target, always_xy=True)


def project(lon: Any, lat: Any, epsg: int) -> tuple[Any, Any]:
    """Longitude and latitude (degrees, scalars or arrays) to x and y of a CRS (metres)."""
    return _transformer(4326, epsg).transform(lon, lat)


def unproject(x: Any, y: Any, epsg: int) -> tuple[Any, Any]:
    """x and y of a CRS (metres, scalars or arrays) to longitude and latitude (degrees)."""
    return _transformer(epsg, 4326).transform(x, y)


def utm_epsg(lon: float, lat: float) -> int:
    """EPSG code of the plain 6-degree UTM zone of a point (the exceptions for Norway and Svalbard are left out).

    Raises ValueError beyond UTM's latitudes.
    """
    if not _UTM_SOUTH <= lat <= _UTM_NORTH:
        raise ValueError(
            f"latitude {lat:.4f} is outside UTM ({_UTM_SOUTH:g} to {_UTM_NORTH:g}); plan no chips there"
        )
    zone = int((lon + 180.0) // 6.0) % 60 + 1
    return (32600 if lat >= 0 else 32700) + zone


def whole(value: float) -> int | None:
    """The integer that a float stands for, or None when it is not one."""
    nearest = round(value)
    return nearest if abs(value - nearest) <= _TOLERANCE * max(1.0, abs(value)) else None


@dataclass(frozen=True)
class Grid:
    """North-up square pixels in a metric CRS: pixel (row, col) covers x = a*col + c .. and y = e*row + f ..

    `transform` is (a, b, c, d, e, f) in the order of rasterio and GeoTIFF: a = -e = GSD in metres, b = d = 0,
    (c, f) the upper left corner. Raises ValueError when that is not so.
    """

    epsg: int
    transform: tuple[float, float, float, float, float, float]
    height: int
    width: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "transform", tuple(float(value) for value in self.transform))
        a, b, _, d, e, _ = self.transform
        if b or d or a <= 0 or not math.isclose(a, -e, rel_tol=1e-9):
            raise ValueError(
                f"transform {self.transform} is not north-up with square pixels (a = -e > 0, b = d = 0); warp it first"
            )
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a grid has at least one pixel, not {self.height} x {self.width}")

    @property
    def gsd(self) -> float:
        """Ground sample distance, metres per pixel."""
        return self.transform[0]

    @property
    def ground_gsd(self) -> float:
        """Metres on the ground of a pixel in the middle: the GSD, but on web Mercator, whose metres grow with latitude.

        There it is the published resolution of map tiles, on the sphere: right to 0.7 % on the ellipsoid.
        """
        if self.epsg != _WEB_MERCATOR:
            return self.gsd
        middle = self.origin[1] - self.height * self.gsd / 2
        return self.gsd / math.cosh(middle / _MERCATOR_RADIUS_M)

    @property
    def origin(self) -> tuple[float, float]:
        """x and y of the upper left corner (metres)."""
        return self.transform[2], self.transform[5]

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    @property
    def bounds(self) -> Bounds:
        """(xmin, ymin, xmax, ymax) in metres."""
        x, y = self.origin
        return x, y - self.height * self.gsd, x + self.width * self.gsd, y

    def affine(self) -> Affine:
        """The transform as rasterio takes it."""
        return Affine(*self.transform)

    def at(self, gsd: float) -> Grid:
        """The same ground at another GSD (metres); refuses one that does not divide it into whole pixels."""
        height, width = whole(self.height * self.gsd / gsd), whole(self.width * self.gsd / gsd)
        if not height or not width or whole(max(gsd / self.gsd, self.gsd / gsd)) is None:
            raise ValueError(
                f"{gsd:g} m does not divide a chip of {self.height} x {self.width} pixels at {self.gsd:g} m evenly; "
                f"choose a GSD in whole ratio to {self.gsd:g}"
            )
        x, y = self.origin
        return Grid(self.epsg, (gsd, 0.0, x, 0.0, -gsd, y), height, width)

    def pad(self, pixels: int) -> Grid:
        """Grown by `pixels` on every side (shrunk when negative)."""
        return self.crop(-pixels, -pixels, self.height + 2 * pixels, self.width + 2 * pixels)

    def crop(self, row: int, col: int, height: int, width: int) -> Grid:
        """The grid of the window that begins at (row, col); it may reach outside this one."""
        x, y = self.origin
        moved = (self.gsd, 0.0, x + col * self.gsd, 0.0, -self.gsd, y - row * self.gsd)
        return Grid(self.epsg, moved, height, width)

    def tiles(self, size: int) -> Iterator[Grid]:
        """Pieces of at most `size` x `size` pixels, row by row, that cover this grid without overlap."""
        for row in range(0, self.height, size):
            for col in range(0, self.width, size):
                yield self.crop(row, col, min(size, self.height - row), min(size, self.width - col))

    def aligned(self, other: Grid) -> bool:
        """The definition of alignment: same CRS, same bounds, GSDs in whole ratio."""
        same = all(
            abs(a - b) <= _TOLERANCE * self.gsd for a, b in zip(self.bounds, other.bounds, strict=True)
        )
        ratio = max(self.gsd / other.gsd, other.gsd / self.gsd)
        return self.epsg == other.epsg and same and whole(ratio) is not None

    def covers(self, other: Grid) -> bool:
        """Whether all of `other`, in the same CRS, lies inside this grid."""
        slack = _TOLERANCE * self.gsd
        a, b = self.bounds, other.bounds
        inside = (
            a[0] <= b[0] + slack and a[1] <= b[1] + slack and a[2] >= b[2] - slack and a[3] >= b[3] - slack
        )
        return self.epsg == other.epsg and inside

    def on_lattice(self, step: float = LATTICE_M) -> bool:
        """Whether the corner is a multiple of `step` metres in both axes."""
        return all(whole(value / step) is not None for value in self.origin)

    def window(self, other: Grid) -> tuple[int, int, int, int]:
        """(row, col, height, width) of this grid's pixels that hold `other`, whose corner must lie on a pixel corner.

        The window may reach outside this grid, and beyond `other` by less than a pixel when its extent is no
        multiple of this GSD (64 px at 10 m are 10.67 pixels at 60 m: the window has 11). Raises ValueError when
        CRS or lattice differ: then only a warp helps.
        """
        if other.epsg != self.epsg:
            raise ValueError(f"EPSG:{other.epsg} is not EPSG:{self.epsg}; only a warp brings them together")
        (x, y), (left, top) = self.origin, other.origin
        col, row = whole((left - x) / self.gsd), whole((y - top) / self.gsd)
        if row is None or col is None:
            raise ValueError(
                f"corner ({left:g}, {top:g}) is off the {self.gsd:g} m lattice that begins at ({x:g}, {y:g}); "
                f"snap the chip to {LATTICE_M:g} m or warp"
            )
        height = math.ceil(other.height * other.gsd / self.gsd - _TOLERANCE)
        width = math.ceil(other.width * other.gsd / self.gsd - _TOLERANCE)
        return row, col, height, width

    def xy(self) -> tuple[Float, Float]:
        """Pixel centres: x of the columns (W,), y of the rows (H,), metres."""
        x, y = self.origin
        return x + (np.arange(self.width) + 0.5) * self.gsd, y - (np.arange(self.height) + 0.5) * self.gsd

    def lonlat(self) -> tuple[Float, Float]:
        """Longitude and latitude of every pixel centre, both (H, W), degrees."""
        x, y = np.meshgrid(*self.xy())
        return unproject(x, y, self.epsg)

    def centre(self) -> tuple[float, float]:
        """Longitude and latitude of the middle of the grid, degrees."""
        west, south, east, north = self.bounds
        lon, lat = unproject((west + east) / 2, (south + north) / 2, self.epsg)
        return float(lon), float(lat)

    def footprint(self) -> shapely.Polygon:
        """The outline in longitude and latitude."""
        west, south, east, north = self.bounds
        lon, lat = unproject([west, east, east, west], [north, north, south, south], self.epsg)
        return shapely.Polygon(list(zip(lon, lat, strict=True)))

    def bbox(self) -> Bounds:
        """(west, south, east, north) of the footprint, degrees."""
        west, south, east, north = self.footprint().bounds
        return west, south, east, north

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "epsg": self.epsg,
            "transform": list(self.transform),
            "height": self.height,
            "width": self.width,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Grid:
        """The inverse of `as_dict`."""
        return cls(values["epsg"], tuple(values["transform"]), values["height"], values["width"])


def chip_grid(
    lon: float, lat: float, gsd: float, size: int, *, epsg: int | None = None, lattice: float = LATTICE_M
) -> Grid:
    """The chip of `size` x `size` pixels at `gsd` metres around a point, its corner snapped to the lattice (metres).

    The zone is the point's own unless `epsg` names another. Raises ValueError when the lattice is no whole
    number of pixels: such a chip would lie off the pixels it is cut from.
    """
    if whole(lattice / gsd) is None:
        raise ValueError(
            f"a lattice of {lattice:g} m holds no whole number of {gsd:g} m pixels; choose another GSD"
        )
    zone = utm_epsg(lon, lat) if epsg is None else epsg
    x, y = project(lon, lat, zone)
    half = size * gsd / 2
    left, top = round((x - half) / lattice) * lattice, round((y + half) / lattice) * lattice
    return Grid(zone, (gsd, 0.0, left, 0.0, -gsd, top), size, size)
