"""What covers the ground: class tables, and maps that answer in their codes.

A map keeps its own codes; a `ClassTable` says what each means and which stratum it belongs to, in one place, so that
quotas speak strata and never codes. Two systems of ESRI codes circulate (ten classes for 2020; nine for the yearly
series, where 3 and 6 are unused and 11 is rangeland), so a map that shows a code outside its table is refused
instead of being guessed at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyogrio.raw
import rasterio
import rasterio.errors
import rasterio.features
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS, Transformer

from geodata.errors import Corrupt, Missing
from geodata.grid import Float, Grid
from geodata.sensors import LANDCOVER
from geodata.source import Raster, at_home

Codes = NDArray[np.uint8]
Degrees = NDArray[np.floating[Any]]

STRATA = (
    "urban",
    "farmland",
    "wetland",
    "forest",
    "watershed",
    "grassland",
    "desert",
    "ice",
    "cloud",
    "shrub",
)
"""The words that quotas are written in. 'desert' is bare ground, rock and quarries included."""

NO_CLASS = LANDCOVER.nodata
"""The code of ground that the map says nothing about: 255."""


@dataclass(frozen=True)
class ClassTable:
    """What the codes of a map mean: `codes` to names, `strata` from code to stratum (a code may have none).

    `words` are the names by which a vector file calls the same classes, several to a code. Raises ValueError for a
    code outside 0 to 254, a stratum that is no stratum, or a word or stratum of a code the table lacks.
    """

    name: str
    codes: Mapping[int, str]
    strata: Mapping[int, str]
    words: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for code in self.codes:
            if not 0 <= code < NO_CLASS:
                raise ValueError(
                    f"{self.name}: code {code} is outside 0 to 254 (255 means no class); renumber it"
                )
        for key, code in [*((code, code) for code in self.strata), *self.words.items()]:
            if code not in self.codes:
                raise ValueError(
                    f"{self.name}: {key!r} stands for code {code}, which has no name; add it to codes"
                )
        for stratum in self.strata.values():
            if stratum not in STRATA:
                raise ValueError(f"{self.name}: {stratum!r} is no stratum; strata are {', '.join(STRATA)}")

    def strata_of(self, codes: Codes) -> NDArray[np.int8]:
        """Index into `STRATA` of each code, -1 where it has none (or is 255)."""
        lookup = np.full(256, -1, np.int8)
        for code, stratum in self.strata.items():
            lookup[code] = STRATA.index(stratum)
        return lookup[codes]

    def check(self, codes: NDArray[Any], where: str) -> None:
        """Raise ValueError when a code, other than 255, is not in the table."""
        strange = sorted({int(code) for code in np.unique(codes)} - {*self.codes, NO_CLASS})
        if strange:
            raise ValueError(
                f"{where} holds code {', '.join(map(str, strange[:8]))}, but table {self.name} has only "
                f"{', '.join(map(str, sorted(self.codes)))}; choose the map's own table, or name its nodata value"
            )


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


def _table(
    name: str, *rows: tuple[int, str, str | None], words: Mapping[str, int] | None = None
) -> ClassTable:
    """A table from rows of code, name and stratum."""
    strata = {code: stratum for code, _, stratum in rows if stratum}
    return ClassTable(name, {code: meaning for code, meaning, _ in rows}, strata, words or {})


ESRI_2020 = _table(
    "esri_2020",
    (1, "water", "watershed"),
    (2, "trees", "forest"),
    (3, "grass", "grassland"),
    (4, "flooded vegetation", "wetland"),
    (5, "crops", "farmland"),
    (6, "scrub", "shrub"),
    (7, "built", "urban"),
    (8, "bare ground", "desert"),
    (9, "snow or ice", "ice"),
    (10, "clouds", "cloud"),
)
"""The ten classes of the 2020 map (Karra et al. 2021)."""

ESRI_SERIES = _table(
    "esri_series",
    (1, "water", "watershed"),
    (2, "trees", "forest"),
    (4, "flooded vegetation", "wetland"),
    (5, "crops", "farmland"),
    (7, "built", "urban"),
    (8, "bare ground", "desert"),
    (9, "snow or ice", "ice"),
    (10, "clouds", "cloud"),
    (11, "rangeland", "grassland"),
)
"""The nine raw codes of the yearly series; rangeland merges grass and scrub, so its 'grassland' holds both."""

WORLDCOVER = _table(
    "worldcover",
    (10, "tree cover", "forest"),
    (20, "shrubland", "shrub"),
    (30, "grassland", "grassland"),
    (40, "cropland", "farmland"),
    (50, "built-up", "urban"),
    (60, "bare or sparse vegetation", "desert"),
    (70, "snow and ice", "ice"),
    (80, "permanent water", "watershed"),
    (90, "herbaceous wetland", "wetland"),
    (95, "mangroves", "wetland"),
    (100, "moss and lichen", None),
)
"""ESA WorldCover 2020 and 2021; moss and lichen belong to no stratum."""

DYNAMIC_WORLD = _table(
    "dynamic_world",
    (0, "water", "watershed"),
    (1, "trees", "forest"),
    (2, "grass", "grassland"),
    (3, "flooded vegetation", "wetland"),
    (4, "crops", "farmland"),
    (5, "shrub and scrub", "shrub"),
    (6, "built", "urban"),
    (7, "bare", "desert"),
    (8, "snow and ice", "ice"),
)
"""Google Dynamic World's `label` band; it masks clouds, so there is no cloud class."""

_OSM_WORDS = {
    0: (
        "residential",
        "commercial",
        "industrial",
        "retail",
    ),
    1: (
        "farm",
        "farmland",
        "orchard",
        "vineyard",
    ),
    2: (
        "meadow",
        "grass",
    ),
    3: ("forest",),
    4: (
        "scrub",
        "heath",
    ),
    5: ("wetland",),
    6: (
        "water",
        "reservoir",
        "river",
        "riverbank",
        "dock",
    ),
}
OSM_LANDUSE = _table(
    "osm_landuse",
    (0, "built", "urban"),
    (1, "farmland", "farmland"),
    (2, "grassland", "grassland"),
    (3, "forest", "forest"),
    (4, "scrub", "shrub"),
    (5, "wetland", "wetland"),
    (6, "water", "watershed"),
    words={word: code for code, words in _OSM_WORDS.items() for word in words},
)
"""OpenStreetMap land use by the `fclass` words of common regional extracts, in seven consecutive codes.

Meadow and grass are one class: ten polygons of mown grass in the demo scene could be learned by nobody. Parks, nature
reserves and the like are missing on purpose: they say who owns the ground, not what grows on it.
"""

TABLES = (ESRI_2020, ESRI_SERIES, WORLDCOVER, DYNAMIC_WORLD, OSM_LANDUSE)


def class_table(name: str) -> ClassTable:
    """A table by its name. Raises ValueError with the names there are."""
    for known in TABLES:
        if known.name == name:
            return known
    raise ValueError(
        f"no class table is called {name!r}; known are {', '.join(table.name for table in TABLES)}"
    )


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
            tile = row // _TILE * (source.width // _TILE + 1) + col // _TILE
            order = np.argsort(tile, kind="stable")
            for part in np.split(order, np.flatnonzero(np.diff(tile[order])) + 1):
                if part.size:
                    found[inside[part]] = self._window(source, row[part], col[part])
        return found

    def _window(self, source: Any, row: NDArray[np.int64], col: NDArray[np.int64]) -> Codes:
        top, left = int(row.min()), int(col.min())
        window = ((top, int(row.max()) + 1), (left, int(col.max()) + 1))
        try:
            pixels = source.read(self.band, window=window)
        except rasterio.errors.RasterioIOError as error:
            raise Corrupt(
                f"land cover {self.path} breaks off at row {top} ({error}); fetch it again"
            ) from error
        values = pixels[row - top, col - left]
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
