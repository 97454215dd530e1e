"""The synthetic Earth in the shape of Earth Engine's collections: images by id, with the properties those have.

Some traps of the real archive are kept: radar scenes of another mode among the wanted ones, scenes that Cloud Score+
lacks, and clouds that a land-cover map leaves out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geodata.earth import ground, sky
from geodata.errors import Missing
from geodata.grid import Bounds, Grid, project, unproject, utm_epsg
from geodata.source import ImagerySource, Period, Raster, Scene
from geodata.sources import synthetic

S2_L2A, S2_L1C = "COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S2_HARMONIZED"
CLOUD_SCORE = "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED"
S1, NAIP = "COPERNICUS/S1_GRD", "USDA/NAIP/DOQQ"
NAIP_GSD = 0.625
_TILE_M = 100_000.0
_SPARSE = 8  # of so many scenes, Cloud Score+ lacks one

_ESRI = "projects/sat-io/open-datasets/landcover/ESRI_Global-LULC_10m"
_SAME = {code: code for code in range(1, 11)}
_WORLDCOVER = {1: 80, 2: 10, 3: 30, 4: 90, 5: 40, 6: 20, 7: 50, 8: 60, 9: 70}
MAPS: Mapping[str, tuple[str, Mapping[int, int]]] = {
    _ESRI: ("b1", _SAME),
    f"{_ESRI}_TS": ("b1", {**_SAME, 3: 11, 6: 11}),
    "ESA/WorldCover/v100": ("Map", _WORLDCOVER),
    "ESA/WorldCover/v200": ("Map", _WORLDCOVER),
    "GOOGLE/DYNAMICWORLD/V1": ("label", {code: code - 1 for code in range(1, 10)}),
}
"""Collection -> band, and its code for each of the ten classes of the synthetic Earth (none: masked)."""


class Unanswerable(Exception):
    """The service would not do it: a status and its sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Points:
    """Places in degrees, both (N,)."""

    lon: NDArray[np.float64]
    lat: NDArray[np.float64]


Seen = tuple[NDArray[Any], NDArray[np.bool_]]
"""Values and validity, (H, W) on a grid or (N,) at points."""
Look = Callable[[Grid | Points], Seen]


@dataclass(frozen=True)
class Channel:
    """One band of an image: how its values are stored, and how they are found."""

    name: str
    dtype: str
    look: Look


@dataclass(frozen=True)
class Frame:
    """An image: its bands, what is told of it, and where its native pixels lie."""

    bands: tuple[Channel, ...]
    told: Mapping[str, Any] = field(default_factory=dict)
    epsg: int = 4326
    gsd: float = 1.0
    bounds: Bounds = (-180.0, -90.0, 180.0, 90.0)

    def each(self, change: Callable[[Channel], Channel]) -> Frame:
        """The same image with every band changed."""
        return replace(self, bands=tuple(change(band) for band in self.bands))


@dataclass(frozen=True)
class Archive:
    """Images and maps of one world."""

    seed: int

    def listed(self, collection: str, epsg: int, bounds: Bounds, period: Period) -> list[Frame]:
        """The images of a collection whose tile holds the middle of some ground, in a period."""
        x, y = (bounds[0] + bounds[2]) / 2, (bounds[1] + bounds[3]) / 2
        if not 32601 <= epsg <= 32760:
            lon, lat = unproject(x, y, epsg)
            epsg = utm_epsg(float(lon), float(lat))
            x, y = project(lon, lat, epsg)
        self._known(collection)
        tile = int(x // _TILE_M), int(y // _TILE_M)
        found = [(_index(scene), scene) for scene in _scenes(collection, self.seed, epsg, tile, period)]
        if collection == CLOUD_SCORE:
            found = [(index, scene) for index, scene in found if scored(index)]
        if collection == S1:
            found += [(index.replace("_IW_", "_EW_"), scene) for index, scene in found]
        return [self._framed(collection, index, scene) for index, scene in found]

    def frame(self, asset: str) -> Frame:
        """One image by its id. Raises Unanswerable (404) when there is none."""
        collection, _, index = asset.rpartition("/")
        scene = None
        if collection in _SENSORS and (collection != CLOUD_SCORE or scored(index)):
            scene = _scene(collection, self.seed, index.replace("_EW_", "_IW_"))
        if scene is None:
            raise Unanswerable(
                404,
                f"Image.load: Image asset '{asset}' not found (does not exist or caller does not have access).",
            )
        return self._framed(collection, index, scene)

    def map(self, collection: str) -> Frame:
        """A land-cover map of the whole Earth. Raises Unanswerable (404) when there is none of that id."""
        if collection not in MAPS:
            self._known(collection)
            raise Unanswerable(400, f"the stand-in makes no mosaic of {collection}")
        name, codes = MAPS[collection]
        table = np.array([codes.get(code, 255) for code in range(256)], np.uint8)
        truth = synthetic.landcover(self.seed)

        def look(place: Grid | Points) -> Seen:
            if isinstance(place, Points):
                found = table[truth.at(place.lon, place.lat)]
            elif 32601 <= place.epsg <= 32760:
                found = table[truth.read(place).values[0]]
            else:
                lon, lat = place.lonlat()
                found = table[truth.at(lon.ravel(), lat.ravel()).reshape(place.shape)]
            return found, found != 255

        return Frame((Channel(name, "|u1", look),))

    def _known(self, collection: str) -> None:
        if collection not in _SENSORS:
            known = ", ".join([*_SENSORS, *MAPS])
            raise Unanswerable(
                404, f"ImageCollection asset '{collection}' not found (the stand-in has {known})."
            )

    def _framed(self, collection: str, index: str, scene: Scene) -> Frame:
        """The image of a scene as a collection shows it."""
        assert scene.date is not None, "scenes of the synthetic Earth are dated"
        gsd = NAIP_GSD if collection == NAIP else 10.0
        told = {
            **_told(collection, index, scene),
            "system:index": index,
            "system:time_start": _millis(scene.date),
        }
        bands = (
            self._score(scene) if collection == CLOUD_SCORE else self._bands(collection, index, scene, gsd)
        )
        return Frame(bands, told, scene.epsg, gsd, scene.bounds)

    def _bands(self, collection: str, index: str, scene: Scene, gsd: float) -> tuple[Channel, ...]:
        source = _opened(collection, self.seed)
        rasters: dict[Grid, Raster | None] = {}

        def raster(native: Grid) -> Raster | None:
            if native not in rasters:
                try:
                    rasters[native] = source.read(scene, native)
                except Missing:
                    rasters[native] = None
            return rasters[native]

        def band(number: int) -> Look:
            def native(grid: Grid) -> Seen:
                found = raster(grid)
                if found is None:
                    return np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, bool)
                if number < 0:
                    assert found.scl is not None, "Sentinel-2 is classified"
                    return found.scl, found.scl > 0
                values = found.values[number] / 100.0 if collection == S1 else found.values[number]
                return values, found.valid

            return _nearest(native, scene.epsg, gsd)

        names = [name.replace("B0", "B") for name in source.sensor.band_names]
        if collection == S1:
            names, dtype = (["HH", "HV"] if "_EW_" in index else names), "<f8"
        else:
            dtype = source.sensor.numpy_dtype.str
        bands = [Channel(name, dtype, band(number)) for number, name in enumerate(names)]
        return (*bands, Channel("SCL", "|u1", band(-1))) if collection == S2_L2A else tuple(bands)

    def _score(self, scene: Scene) -> tuple[Channel, ...]:
        day = scene.date
        assert day is not None, "scenes of the synthetic Earth are dated"

        def native(grid: Grid) -> Seen:
            covers = np.max(sky.clouds(ground.survey(grid, self.seed), day), axis=0)
            return 1.0 - covers.astype(np.float64), np.ones(grid.shape, bool)

        return (Channel("cs", "<f8", _nearest(native, scene.epsg, 10.0)),)


_SENSORS = (S2_L2A, S2_L1C, CLOUD_SCORE, S1, NAIP)


def _opened(collection: str, seed: int) -> ImagerySource:
    if collection == S1:
        return synthetic.sentinel1(seed)
    if collection == NAIP:
        return synthetic.optical(seed, NAIP_GSD)
    return synthetic.sentinel2(seed, "l1c" if collection == S2_L1C else "l2a")


def scored(index: str) -> bool:
    """Whether Cloud Score+ has a scene: a few are missing, here by a hash of their index."""
    return hashlib.sha256(index.encode()).digest()[0] % _SPARSE != 0


def _index(scene: Scene) -> str:
    """What the archive calls a scene: the same for both levels of Sentinel-2 and for their score."""
    return re.sub(r"_MSIL(1C|2A)_", "_MSI_", scene.scene_id)


def _told(collection: str, index: str, scene: Scene) -> dict[str, Any]:
    if collection == S1:
        wide = "_IW_" in index
        return {
            "instrumentMode": "IW" if wide else "EW",
            "transmitterReceiverPolarisation": ["VV", "VH"] if wide else ["HH", "HV"],
            "resolution_meters": 10 if wide else 40,
            "orbitProperties_pass": str(scene.get("orbit_pass")).upper(),
            "relativeOrbitNumber_start": scene.get("relative_orbit"),
        }
    if collection in (S2_L2A, S2_L1C):
        return {
            "CLOUDY_PIXEL_PERCENTAGE": 100 * float(scene.get("cloud") or 0.0),
            "PROCESSING_BASELINE": scene.get("baseline"),
            "SENSING_ORBIT_NUMBER": scene.get("relative_orbit"),
        }
    return {}


def _millis(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, 10, 30, tzinfo=UTC).timestamp() * 1000)


@lru_cache(maxsize=512)
def _scenes(
    collection: str, seed: int, epsg: int, tile: tuple[int, int], period: Period
) -> tuple[Scene, ...]:
    """Scenes of a tile of 100 km (column, row) of a zone."""
    x, y = ((number + 0.5) * _TILE_M for number in tile)
    spot = Grid(epsg, (10.0, 0.0, x - 5.0, 0.0, -10.0, y + 5.0), 1, 1)
    return tuple(_opened(collection, seed).search(spot, period))


@lru_cache(maxsize=8192)
def _scene(collection: str, seed: int, index: str) -> Scene | None:
    """The scene of an index: its date, zone and tile of 100 km are in its name."""
    named = re.fullmatch(r".*_(\d{4})(\d\d)(\d\d)_R\d{3}_(\d\d)([NS])(\d\d)(\d{3})", index)
    if named is None:
        return None
    year, month, day, zone, hemisphere, column, row = named.groups()
    epsg = int(zone) + (32600 if hemisphere == "N" else 32700)
    try:
        first = date(int(year), int(month), int(day))
        that_day = Period(first, first + timedelta(days=1))
        scenes = _scenes(collection, seed, epsg, (int(column), int(row)), that_day)
    except (ValueError, Missing):
        return None
    return next((scene for scene in scenes if _index(scene) == index), None)


def _nearest(native: Callable[[Grid], Seen], epsg: int, gsd: float) -> Look:
    """Pixels on any grid from those of the image's own lattice: at each pixel centre, the one that it lies in."""

    def look(place: Grid | Points) -> Seen:
        if isinstance(place, Points):
            raise Unanswerable(400, "the stand-in takes values at points from maps only")
        if place.epsg == epsg and place.gsd == gsd and place.on_lattice(gsd):
            return native(place)
        x, y = np.meshgrid(*place.xy())
        if place.epsg != epsg:
            x, y = project(*unproject(x, y, place.epsg), epsg)
        col, row = np.floor(x / gsd + 1e-6).astype(int), np.floor(-y / gsd + 1e-6).astype(int)
        left, top = int(col.min()), int(row.min())
        height, width = int(row.max()) - top + 1, int(col.max()) - left + 1
        values, valid = native(Grid(epsg, (gsd, 0.0, left * gsd, 0.0, -gsd, -top * gsd), height, width))
        return values[row - top, col - left], valid[row - top, col - left]

    return look


@lru_cache(maxsize=4)
def archive(seed: int) -> Archive:
    """The archive of a world."""
    return Archive(seed)
