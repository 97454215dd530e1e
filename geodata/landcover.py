"""Maps of what covers the ground, that answer in their own codes: rasters and polygons.

What a code means is said by the map's `ClassTable` (see `classes`), and a code outside the table is refused when it is
met. A map may also know where its classes lie (`index`): then the points of a class that covers a thousandth of a
continent are drawn from its own cells, instead of a thousand elsewhere for each one kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyogrio.raw
import rasterio
import rasterio.errors
import rasterio.features
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS, Transformer

from geodata.classes import (
    DYNAMIC_WORLD,
    ESRI_2020,
    ESRI_NINE,
    ESRI_SERIES,
    GLCNMO_2008,
    NLCD_GROUPS,
    NO_CLASS,
    OSM_LANDUSE,
    STRATA,
    TABLES,
    WORLDCOVER,
    ClassTable,
    Codes,
    class_table,
    told_by,
)
from geodata.errors import Corrupt, Missing
from geodata.grid import Float, Grid
from geodata.sensors import LANDCOVER
from geodata.source import Raster, at_home

__all__ = [
    "DYNAMIC_WORLD",
    "ESRI_2020",
    "ESRI_NINE",
    "ESRI_SERIES",
    "GLCNMO_2008",
    "NLCD_GROUPS",
    "NO_CLASS",
    "OSM_LANDUSE",
    "STRATA",
    "TABLES",
    "WORLDCOVER",
    "Cells",
    "ClassTable",
    "Codes",
    "Indexed",
    "LandCover",
    "class_table",
    "polygons",
    "raster",
    "table_of",
]

Degrees = NDArray[np.floating[Any]]


class LandCover(Protocol):
    """A map of classes, asked at points or on a grid; 255 where it says nothing."""

    @property
    def classes(self) -> ClassTable:
        """What its codes mean."""
        ...

    def at(self, lon: Degrees, lat: Degrees) -> Codes:
        """Codes (N,) at points in degrees."""
        ...

    def read(self, grid: Grid) -> Raster:
        """Codes (1, H, W) on exactly this grid, taken at pixel centres."""
        ...


@dataclass(frozen=True, eq=False)
class Cells:
    """Where strata may occur: `boxes` (N, 4) of west, south, east, north in degrees, no two of which overlap.

    Bit i of `strata` (N,) says that `STRATA[i]` may occur in a box; where no box has the bit, the stratum is not.
    """

    boxes: Degrees
    strata: NDArray[np.uint16]

    def of(self, stratum: str) -> Degrees:
        """The boxes (M, 4) of one stratum."""
        return self.boxes[self.strata >> STRATA.index(stratum) & 1 == 1]


@runtime_checkable
class Indexed(Protocol):
    """A map that may know where its classes lie."""

    def index(self, strata: Sequence[str]) -> Cells | None:
        """The cells of these strata; None when the map cannot tell without being read whole."""
        ...


def raster(path: str, table: str | ClassTable, band: int = 1, nodata: int | None = None) -> LandCover:
    """A map in any raster file, in any CRS, read at the nearest pixel.

    `nodata` (the file's own when None) becomes 255, as does ground outside the file. A code outside the table
    raises ValueError when it is first read; a file that is not there raises Missing.
    """
    chosen = class_table(table) if isinstance(table, str) else table
    path = at_home(path)
    try:
        with rasterio.open(path) as source:
            if not 1 <= band <= source.count:
                raise ValueError(f"{path} has {source.count} bands, no band {band}; bands count from 1")
            if not np.issubdtype(np.dtype(source.dtypes[band - 1]), np.integer):
                raise ValueError(
                    f"{path} holds {source.dtypes[band - 1]}, but class codes are integers; convert it"
                )
            if source.crs is None:
                raise ValueError(f"{path} has no coordinate system; assign one with gdal_edit -a_srs")
            crs, none = CRS.from_user_input(source.crs.to_wkt()), source.nodata if nodata is None else nodata
    except rasterio.errors.RasterioIOError as error:
        raise Missing(f"land cover {path} does not open ({error}); check the path") from error
    return _RasterMap(path, chosen, band, None if none is None else int(none), crs)


_GLANCE = 2048


def table_of(path: str, band: int = 1) -> ClassTable:
    """The table that a raster's codes tell (see `classes.told_by`), by at most 2,048 x 2,048 pixels of it.

    Raises ValueError, with the tables there are, when they tell none or several, and Missing when there is no file.
    """
    path = at_home(path)
    try:
        with rasterio.open(path) as source:
            shape = min(source.height, _GLANCE), min(source.width, _GLANCE)
            codes = np.unique(source.read(band, out_shape=shape, masked=True).compressed())
    except rasterio.errors.RasterioIOError as error:
        raise Missing(f"land cover {path} does not open ({error}); check the path") from error
    told = told_by(codes.tolist())
    if len(told) == 1:
        return told[0]
    shown = ", ".join(str(code) for code in codes[:24]) + (" ..." if len(codes) > 24 else "")
    raise ValueError(
        f"{path} has codes {shown}, which do not say what they mean; name its table, one of "
        f"{', '.join(table.name for table in TABLES)}"
    )


def polygons(
    path: str,
    field: str,
    table: str | ClassTable,
    layer: str | None = None,
    background: int | None = None,
    ignore: Iterable[str] = (),
) -> LandCover:
    """A map in a vector file whose text `field` holds the table's words (or names).

    Where polygons overlap, the smallest is on top (a pond in a wood is a pond); of equals, the later in the file.
    Ground under none has code `background`, or 255. A word that is neither in the table nor in `ignore` raises
    ValueError; a file that is not there raises Missing, an unreadable one Corrupt.
    """
    chosen = class_table(table) if isinstance(table, str) else table
    if background is not None and background not in chosen.codes:
        raise ValueError(
            f"background {background} is no code of table {chosen.name}; leave it out for no class"
        )
    path = at_home(path)
    crs, shapes, words = _read_vectors(path, field, layer)
    known = {**{name: code for code, name in chosen.codes.items()}, **chosen.words}
    strange = sorted(set(words) - set(known) - set(ignore))
    if strange:
        raise ValueError(
            f"{field} of {path} says {', '.join(map(repr, strange[:8]))}, which table {chosen.name} does not know; "
            f"add it to the table's words or to ignore"
        )
    kept = np.array([word in known for word in words], bool)
    codes = np.array([known[word] for word in words if word in known], np.uint8)
    order = np.argsort(-shapely.area(shapes[kept]), kind="stable")
    none = NO_CLASS if background is None else background
    return _PolygonMap(chosen, crs, shapes[kept][order], codes[order], none)


_TILE = 512
"""Side, in pixels, of the windows that scattered points are read by."""
_WHOLE = 1 << 24
"""Pixels up to which a map in degrees is read once and kept: 16 MB, a world of 1/16 degree."""
_CELLS = 1 << 20
"""The most cells that an index has; a finer map has several pixels to a cell."""


@dataclass(frozen=True)
class _RasterMap:
    path: str
    classes: ClassTable
    band: int
    nodata: int | None
    crs: CRS

    def at(self, lon: Degrees, lat: Degrees) -> Codes:
        forward = Transformer.from_crs(4326, self.crs, always_xy=True)
        x, y = forward.transform(np.asarray(lon, float), np.asarray(lat, float))
        return self._lookup(x, y)

    def read(self, grid: Grid) -> Raster:
        x, y = np.meshgrid(*grid.xy())
        if self.crs != CRS.from_epsg(grid.epsg):
            x, y = Transformer.from_crs(grid.epsg, self.crs, always_xy=True).transform(x, y)
        return _as_raster(self._lookup(x.ravel(), y.ravel()).reshape(grid.shape), grid)

    def index(self, strata: Sequence[str]) -> Cells | None:
        """See `Indexed`: cells of whole pixels, of maps in degrees that are small enough to be kept."""
        if self._pixels is None:
            return None
        with rasterio.open(self.path) as source:
            a, _, left, _, e, top, *_ = source.transform
        rows, cols = self._pixels.shape
        step = int(np.ceil(np.sqrt(self._pixels.size / _CELLS)))
        found = self.classes.strata_of(self._pixels)
        bits = np.zeros((-(-rows // step), -(-cols // step)), np.uint16)
        for stratum in strata:
            place = STRATA.index(stratum)
            here = np.pad(found == place, ((0, -rows % step), (0, -cols % step)))
            blocks = here.reshape(bits.shape[0], step, bits.shape[1], step).any((1, 3))
            bits |= blocks.astype(np.uint16) << np.uint16(place)
        row, col = np.nonzero(bits)
        west, east = left + col * step * a, left + np.minimum((col + 1) * step, cols) * a
        north, south = top + row * step * e, top + np.minimum((row + 1) * step, rows) * e
        return Cells(np.stack([west, np.maximum(south, -90), east, np.minimum(north, 90)], 1), bits[row, col])

    @functools.cached_property
    def _pixels(self) -> Codes | None:
        """All codes (H, W) of a small map in degrees; None of any other."""
        with rasterio.open(self.path) as source:
            a, b, _, d, e, *_ = source.transform
            upright = a > 0 > e and b == d == 0
            if not upright or source.width * source.height > _WHOLE or not self._in_degrees:
                return None
            return self._codes(self._read(source, None))

    @property
    def _in_degrees(self) -> bool:
        return self.crs.equals(CRS.from_epsg(4326), ignore_axis_order=True)

    def _lookup(self, x: Float, y: Float) -> Codes:
        """Codes (N,) at coordinates of the file's own CRS; each window of the file is read once."""
        found = np.full(x.shape, NO_CLASS, np.uint8)
        with rasterio.open(self.path) as source:
            inverse = ~source.transform
            with np.errstate(invalid="ignore"):
                cols = np.floor(inverse.a * x + inverse.b * y + inverse.c)
                rows = np.floor(inverse.d * x + inverse.e * y + inverse.f)
                inside = np.flatnonzero(
                    (cols >= 0) & (rows >= 0) & (cols < source.width) & (rows < source.height)
                )
            col, row = cols[inside].astype(np.int64), rows[inside].astype(np.int64)
            if self._pixels is not None:
                found[inside] = self._pixels[row, col]
                return found
            tile = row // _TILE * (source.width // _TILE + 1) + col // _TILE
            order = np.argsort(tile, kind="stable")
            for part in np.split(order, np.flatnonzero(np.diff(tile[order])) + 1):
                if part.size:
                    found[inside[part]] = self._window(source, row[part], col[part])
        return found

    def _window(self, source: Any, row: NDArray[np.int64], col: NDArray[np.int64]) -> Codes:
        top, left = int(row.min()), int(col.min())
        window = ((top, int(row.max()) + 1), (left, int(col.max()) + 1))
        return self._codes(self._read(source, window)[row - top, col - left])

    def _read(self, source: Any, window: tuple[tuple[int, int], tuple[int, int]] | None) -> NDArray[Any]:
        try:
            pixels: NDArray[Any] = source.read(self.band, window=window)
        except rasterio.errors.RasterioIOError as error:
            row = window[0][0] if window else 0
            raise Corrupt(
                f"land cover {self.path} breaks off at row {row} ({error}); fetch it again"
            ) from error
        return pixels

    def _codes(self, values: NDArray[Any]) -> Codes:
        if self.nodata is not None:
            values = np.where(values == self.nodata, NO_CLASS, values)
        self.classes.check(values, self.path)
        return values.astype(np.uint8)


@dataclass(frozen=True, eq=False)
class _PolygonMap:
    """Shapes lie in drawing order, largest first, so the last that holds a point is on top."""

    classes: ClassTable
    crs: CRS
    shapes: NDArray[Any]
    codes: Codes
    none: int

    def at(self, lon: Degrees, lat: Degrees) -> Codes:
        x, y = Transformer.from_crs(4326, self.crs, always_xy=True).transform(
            np.asarray(lon), np.asarray(lat)
        )
        points, shapes = shapely.STRtree(self.shapes).query(shapely.points(x, y), predicate="intersects")
        top = np.full(len(x), -1)
        np.maximum.at(top, points, shapes)
        return np.where(top < 0, self.none, self.codes[top]).astype(np.uint8)

    def read(self, grid: Grid) -> Raster:
        here = self.shapes
        if self.crs != CRS.from_epsg(grid.epsg):
            forward = Transformer.from_crs(self.crs, grid.epsg, always_xy=True)
            here = shapely.transform(here, _moved(forward))
        near = np.sort(shapely.STRtree(here).query(shapely.box(*grid.bounds)))
        drawn = [(here[index], int(self.codes[index])) for index in near]
        out = np.full(grid.shape, self.none, np.uint8)
        if drawn:
            rasterio.features.rasterize(drawn, out=out, transform=grid.affine())
        return _as_raster(out, grid)


def _as_raster(codes: Codes, grid: Grid) -> Raster:
    return Raster(codes[None], codes != NO_CLASS, grid, LANDCOVER.band_names)


def _moved(forward: Transformer) -> Callable[[Float], Float]:
    return lambda points: np.column_stack(forward.transform(points[:, 0], points[:, 1]))


def _read_vectors(path: str, name: str, layer: str | None) -> tuple[CRS, NDArray[Any], list[str]]:
    try:
        meta, _, shapes, columns = pyogrio.raw.read(path, layer=layer)
    except DataLayerError as error:
        raise Missing(f"{path} has no layer {layer!r} ({error}); name one it has") from error
    except DataSourceError as error:
        raise Missing(f"land cover {path} does not open ({error}); check the path") from error
    fields = list(meta["fields"])
    if name not in fields:
        raise ValueError(f"{path} has no field {name!r}; it has {', '.join(fields)}")
    if meta["crs"] is None:
        raise ValueError(f"{path} has no coordinate system; assign one with ogr2ogr -a_srs")
    try:
        parsed = shapely.from_wkb(shapes)
    except shapely.errors.GEOSException as error:
        raise Corrupt(f"{path} holds a shape that cannot be read ({error}); fetch it again") from error
    present = ~(shapely.is_missing(parsed) | shapely.is_empty(parsed))
    words = columns[fields.index(name)]
    return CRS.from_user_input(meta["crs"]), parsed[present], [str(word) for word in words[present]]
