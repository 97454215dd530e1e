"""Sentinel-2, Sentinel-1, aerial images and land cover from Earth Engine.

Requests name the grid exactly (CRS and transform), so the service has no choice of projection left; its resampling is
then nearest neighbour, which on the 60 m lattice of a scene's own zone takes every 10 m pixel as it is and repeats those
of 20 and 60 m. All dates of a chip come in one request where they fit (`earth_engine_cube`). Which credentials are used,
and how a stand-in takes the place of the service, is for `earth_engine_account`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, Unpack

import numpy as np
from numpy.typing import NDArray

from geodata import radiometry
from geodata.errors import Corrupt, DataError, Missing
from geodata.governor import Limits
from geodata.grid import Bounds, Grid, project, whole
from geodata.landcover import (
    DYNAMIC_WORLD,
    ESRI_2020,
    ESRI_SERIES,
    NO_CLASS,
    WORLDCOVER,
    ClassTable,
    LandCover,
)
from geodata.sensors import LANDCOVER, OPTICAL, SENTINEL1, SENTINEL2, SENTINEL2_L1C, SENTINEL2_L2A, Sensor
from geodata.source import Ask, ImagerySource, Period, Raster, Scene, Value
from geodata.sources.earth_engine_account import Account, AccountOptions
from geodata.sources.earth_engine_cube import Answer, Query, itemsize, many, plan

Level = Literal["l1c", "l2a", "ten"]
Map = Literal["esri_2020", "esri_series", "worldcover", "dynamic_world"]

POINTS = 2_000
"""Points of a land-cover map asked in one request."""
PAGE = 1_000
"""Scenes in one answer to a search; there may be more answers."""
SCENE_BYTES = 400
"""What a search moves for one scene, about."""

S2_L1C, S2_L2A = "COPERNICUS/S2_HARMONIZED", "COPERNICUS/S2_SR_HARMONIZED"
CLOUD_SCORE = "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED"
S1, NAIP = "COPERNICUS/S1_GRD", "USDA/NAIP/DOQQ"
MAPS: Mapping[str, tuple[str, str, ClassTable, tuple[int, ...]]] = {
    "esri_2020": ("projects/sat-io/open-datasets/landcover/ESRI_Global-LULC_10m", "b1", ESRI_2020, ()),
    "esri_series": (
        "projects/sat-io/open-datasets/landcover/ESRI_Global-LULC_10m_TS",
        "b1",
        ESRI_SERIES,
        tuple(range(2017, 2025)),
    ),
    "worldcover": ("ESA/WorldCover/v{version}", "Map", WORLDCOVER, (2020, 2021)),
    "dynamic_world": ("GOOGLE/DYNAMICWORLD/V1", "label", DYNAMIC_WORLD, tuple(range(2016, 2100))),
}
"""Data set -> asset, band, class table, years there are (none: the map has one)."""

_NONE = 65_535
"""What stands for 'masked' in Sentinel-2 answers: 0 is also a measured value there, once the offset is off."""
_CLEAR, _COVERED = 1, 0  # 2: Cloud Score+ says nothing
_LEVELS = {"l1c": SENTINEL2_L1C, "l2a": SENTINEL2_L2A, "ten": SENTINEL2}
_SCL_SEEN, _SCL_CLOUD = 7, 9
_COPERNICUS = "Copernicus Sentinel data legal notice"


def sentinel2(
    level: Level = "ten", cloud_score: float = 0.6, **account: Unpack[AccountOptions]
) -> ImagerySource:
    """Sentinel-2, harmonised: DN without offset (the archive has taken it off), 10,000 times reflectance.

    `level`: "l1c" is top of atmosphere in 13 bands, "l2a" surface reflectance in 12, "ten" the 10 and 20 m bands of
    that. A pixel is cloud (or its shadow) where Cloud Score+ is below `cloud_score` (0 to 1; 1 is clear); where the
    score says nothing, the scene classification decides. Raises ValueError for another level, or no project.
    """
    if level not in _LEVELS:
        raise ValueError(f"level {level!r} is not there; choose {', '.join(_LEVELS)}")
    if not 0.0 < cloud_score < 1.0:
        raise ValueError(
            f"Cloud Score+ lies between 0 and 1, so no threshold is {cloud_score:g}; usual is 0.6"
        )
    return _Sentinel2(_LEVELS[level], Account(**account), S2_L1C if level == "l1c" else S2_L2A, cloud_score)


def sentinel1(**account: Unpack[AccountOptions]) -> ImagerySource:
    """Sentinel-1 IW in VV and VH at 10 m: sigma0 (ellipsoid, not terrain-flattened gamma0) in hundredths of a dB."""
    return _Sentinel1(SENTINEL1, Account(**account), S1)


def naip(gsd: float = OPTICAL.gsd, **account: Unpack[AccountOptions]) -> ImagerySource:
    """Aerial images of the United States: red, green and blue at 0.6 or 1 m, nearest pixels at `gsd` metres.

    A scene is one quarter quadrangle (about 6 km); neighbours overlap by some hundred metres.
    """
    return _Naip(replace(OPTICAL, gsd=gsd), Account(**account), NAIP)


def landcover(
    dataset: Map = "esri_2020", year: int | None = None, **account: Unpack[AccountOptions]
) -> LandCover:
    """A land-cover map in its own codes, which must be those of its table; ground that it leaves out is 255.

    `year` is needed for "esri_series" and "dynamic_world" (the most frequent class of that year); "worldcover" has
    2020 and 2021 (the default). Raises ValueError for another data set or year, or no project.
    """
    if dataset not in MAPS:
        raise ValueError(f"no land-cover map is called {dataset!r}; known are {', '.join(MAPS)}")
    asset, band, table, years = MAPS[dataset]
    chosen = 2021 if dataset == "worldcover" and year is None else year
    if chosen not in (years or (None,)):
        there = f"{years[0]} to {years[-1]}" if years else "one map without years, so leave year out"
        raise ValueError(f"{dataset} has no map of {year}; there is {there}")
    where = asset.format(version=200 if chosen == 2021 else 100)
    return _Map(table, Account(**account), where, band, chosen)


@dataclass
class _Imagery:
    """What the sensors share: search by columns of metadata, pixels by one answer for many scenes."""

    sensor: Sensor
    account: Account
    asset: str

    @property
    def limits(self) -> Limits:
        """See `Served`."""
        return self.account.limits

    def search(self, grid: Grid, period: Period) -> list[Scene]:
        """See `ImagerySource`. Raises Transient, Denied, or Corrupt when the answer is not to be understood."""
        found: list[Scene] = []
        token = ""
        while True:
            page = self.account.ask(lambda ee, token=token: self._page(ee, grid, period, token))  # type: ignore[misc]
            found += [self._scene(feature) for feature in page.get("features", ())]
            token = page.get("nextPageToken", "")
            if not token:
                return sorted(found, key=lambda scene: (str(scene.date), scene.scene_id))

    def read(self, scene: Scene, grid: Grid) -> Raster:
        """See `ImagerySource`."""
        (found,) = self.stack([scene], grid)
        if isinstance(found, DataError):
            raise found
        return found

    def stack(self, scenes: Sequence[Scene], grid: Grid) -> list[Raster | DataError]:
        """See `Stacking`."""
        answers = many(self._query, [f"{self.asset}/{scene.scene_id}" for scene in scenes], grid)
        return [self._raster(*pair, grid) for pair in zip(scenes, answers, strict=True)]

    def cost(self, scene_count: int, grid: Grid) -> Ask:
        """See `Priced`."""
        together, side = plan(self._query.fields, grid)
        pieces = sum(1 for _ in grid.tiles(side))
        size = scene_count * (grid.height * grid.width * itemsize(self._query.fields) + SCENE_BYTES)
        return Ask(1.0 + pieces * math.ceil(scene_count / together), float(size))

    def _raster(self, scene: Scene, answer: Answer, grid: Grid) -> Raster | DataError:
        if isinstance(answer, DataError):
            return answer
        values, valid, scl = self._stored(scene, answer)
        if not valid.any():
            return Missing(
                f"scene {scene.scene_id} has no pixel on the chip {grid.bounds} of EPSG:{grid.epsg}"
            )
        values[:, ~valid] = self.sensor.nodata
        return Raster(values, valid, grid, self.sensor.band_names, not _repeats(scene, grid), scl)

    def _page(self, ee: Any, grid: Grid, period: Period, token: str) -> dict[str, Any]:
        images = self._filtered(ee, _within(ee, ee.ImageCollection(self.asset), grid, period))
        computed = self._computed(ee, grid, period)

        def row(image: Any) -> Any:
            image = ee.Image(image)
            lattice = image.select([0]).projection()
            told = {"id": image.get("system:index"), "time": image.get("system:time_start")}
            told |= {"crs": lattice.crs(), "lattice": lattice.transform()}
            told |= {name: image.get(key) for name, key in self._columns.items()}
            told |= {name: of(image) for name, of in computed.items()}
            return ee.Feature(image.geometry(), told)

        params = {"expression": ee.FeatureCollection(images.map(row)), "pageSize": PAGE}
        if token:
            params["pageToken"] = token
        page: dict[str, Any] = ee.data.computeFeatures(params)
        return page

    def _scene(self, feature: Mapping[str, Any]) -> Scene:
        try:
            told = feature["properties"]
            when = datetime.fromtimestamp(int(told["time"]) / 1000, UTC).date()
            epsg = int(re.fullmatch(r"EPSG:(\d+)", told["crs"])[1])  # type: ignore[index]
            properties = {**self._properties(told, when.year), **_lattice(told.get("lattice"))}
            bounds = _bounds(feature["geometry"], epsg)
            return Scene(
                str(told["id"]), self.sensor.name, when, epsg, bounds, properties=tuple(properties.items())
            )
        except (KeyError, TypeError, ValueError) as error:
            start = str(dict(feature))[:120]
            raise Corrupt(
                f"a scene of {self.asset} is described by {start}, which is not understood"
            ) from error

    @property
    def _query(self) -> Query:
        raise NotImplementedError

    @property
    def _columns(self) -> Mapping[str, str]:
        """What is wanted of a scene besides its place and date: our name -> property of the asset."""
        raise NotImplementedError

    def _computed(self, ee: Any, grid: Grid, period: Period) -> Mapping[str, Callable[[Any], Any]]:
        """The same, for what is computed from the image."""
        return {}

    def _filtered(self, ee: Any, images: Any) -> Any:
        """Without the images that are none of this sensor's."""
        return images

    def _properties(self, told: Mapping[str, Any], year: int) -> dict[str, Value]:
        raise NotImplementedError

    def _stored(
        self, scene: Scene, answer: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.uint8] | None]:
        """Pixels (C, H, W) in the sensor's units, validity (H, W), and scene classification (H, W) where there is one."""
        raise NotImplementedError


@dataclass
class _Sentinel2(_Imagery):
    cloud_score: float

    @property
    def _surface(self) -> bool:
        return self.asset == S2_L2A

    @property
    def _query(self) -> Query:
        bands = [name.replace("B0", "B") for name in self.sensor.band_names]
        flags = ["SCL", "cs"] if self._surface else ["cs"]

        def image(ee: Any, asset: str) -> Any:
            whole = ee.Image(asset).linkCollection(ee.ImageCollection(CLOUD_SCORE), ["cs"])
            wanted = whole.select(bands).unmask(_NONE, False).toUint16()
            if self._surface:
                wanted = wanted.addBands(whole.select(["SCL"]).unmask(0, False).toByte())
            return wanted.addBands(whole.select(["cs"]).gte(self.cloud_score).unmask(2, False).toByte())

        fields = (*((name, "<u2") for name in bands), *((name, "|u1") for name in flags))
        return Query(self.account, fields, image)

    @property
    def _columns(self) -> Mapping[str, str]:
        return {
            "cloud": "CLOUDY_PIXEL_PERCENTAGE",
            "baseline": "PROCESSING_BASELINE",
            "orbit": "SENSING_ORBIT_NUMBER",
        }

    def _computed(self, ee: Any, grid: Grid, period: Period) -> Mapping[str, Callable[[Any], Any]]:
        scored = _within(ee, ee.ImageCollection(CLOUD_SCORE), grid, period).aggregate_array("system:index")
        return {"scored": lambda image: scored.contains(image.get("system:index"))}

    def _properties(self, told: Mapping[str, Any], year: int) -> dict[str, Value]:
        by = "cloud_score_plus" if told.get("scored") else "scl" if self._surface else "none"
        cloud = told.get("cloud")
        return {
            "cloud": None if cloud is None else round(float(cloud) / 100, 4),
            "baseline": None if told.get("baseline") is None else str(told["baseline"]),
            "offset_applied_by": "source",
            "cloud_by": by,
            "relative_orbit": told.get("orbit"),
            **_licensed(_COPERNICUS, f"Contains modified Copernicus Sentinel data {year}"),
        }

    def _stored(
        self, scene: Scene, answer: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.uint8] | None]:
        names = [name for name, dtype in self._query.fields if dtype == "<u2"]
        values = np.stack([answer[name] for name in names])
        valid = (values != _NONE).all(axis=0)
        values = np.maximum(values, 1)
        score = (
            answer["cs"] if scene.get("cloud_by") == "cloud_score_plus" else np.full(valid.shape, 2, np.uint8)
        )
        if self._surface:
            scl = cloud_by_score(answer["SCL"], score)
        elif (score == 2).all():
            return values, valid, None
        else:
            scl = cloud_by_score(np.full(valid.shape, _SCL_SEEN, np.uint8), score)
        scl[~valid] = 0
        return values, valid, scl


def cloud_by_score(scl: NDArray[np.uint8], score: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scene classification in which clouds are those of Cloud Score+; `score` is 1 clear, 0 covered, 2 unknown.

    Covered ground that is not yet cloud or shadow becomes 9 (cloud), clear ground that was becomes 7 (unclassified);
    no data, saturation, water and snow stay what they are where nothing covers them.
    """
    cloud = np.isin(scl, (3, 8, 9, 10))
    out = np.where((score == _COVERED) & ~cloud & (scl != 0), np.uint8(_SCL_CLOUD), scl)
    return np.where((score == _CLEAR) & cloud, np.uint8(_SCL_SEEN), out)


@dataclass
class _Sentinel1(_Imagery):
    @property
    def _query(self) -> Query:
        def image(ee: Any, asset: str) -> Any:
            return ee.Image(asset).select(["VV", "VH"]).unmask(radiometry.RADAR_NONE, False).toFloat()

        return Query(self.account, (("VV", "<f4"), ("VH", "<f4")), image)

    @property
    def _columns(self) -> Mapping[str, str]:
        return {"pass": "orbitProperties_pass", "orbit": "relativeOrbitNumber_start"}

    def _filtered(self, ee: Any, images: Any) -> Any:
        both = [ee.Filter.listContains("transmitterReceiverPolarisation", name) for name in ("VV", "VH")]
        wide = ee.Filter.eq("instrumentMode", "IW")
        return images.filter(ee.Filter.And(wide, *both, ee.Filter.eq("resolution_meters", 10)))

    def _properties(self, told: Mapping[str, Any], year: int) -> dict[str, Value]:
        return {
            "product": "sigma0_grd",
            "orbit_pass": str(told["pass"]).lower(),
            "relative_orbit": int(told["orbit"]),
            **_licensed(_COPERNICUS, f"Contains modified Copernicus Sentinel data {year}"),
        }

    def _stored(
        self, scene: Scene, answer: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.uint8] | None]:
        values = radiometry.to_centi_db(np.stack([answer["VV"], answer["VH"]]), "dB")
        return values, (values != radiometry.RADAR_NONE).all(axis=0), None


@dataclass
class _Naip(_Imagery):
    @property
    def _query(self) -> Query:
        def image(ee: Any, asset: str) -> Any:
            return ee.Image(asset).select(["R", "G", "B"]).unmask(0, False).toByte()

        return Query(self.account, tuple((name, "|u1") for name in "RGB"), image)

    @property
    def _columns(self) -> Mapping[str, str]:
        return {}

    def _properties(self, told: Mapping[str, Any], year: int) -> dict[str, Value]:
        return {
            "provider": "USDA NAIP",
            **_licensed("public domain", "USDA National Agriculture Imagery Program"),
        }

    def _stored(
        self, scene: Scene, answer: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.uint8] | None]:
        values = np.stack([answer[name] for name in "RGB"])
        return values, np.asarray(values.any(axis=0)), None


@dataclass(frozen=True)
class _Map:
    """Implements `LandCover`."""

    classes: ClassTable
    account: Account
    asset: str
    band: str
    year: int | None

    def at(self, lon: NDArray[np.floating[Any]], lat: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
        """See `LandCover`. Raises Transient, Denied, or ValueError for a code outside the table."""
        points = np.stack([np.asarray(lon, float), np.asarray(lat, float)], axis=-1)
        found = np.full(len(points), NO_CLASS, np.uint8)
        known = np.flatnonzero(np.isfinite(points).all(axis=1))
        parts = [known[start : start + POINTS] for start in range(0, len(known), POINTS)]
        with ThreadPoolExecutor(max(1, min(len(parts), self.account.concurrency))) as pool:
            for part, codes in zip(parts, pool.map(lambda part: self._at(points[part]), parts), strict=True):
                found[part] = codes
        return found

    def read(self, grid: Grid) -> Raster:
        """See `LandCover`. Raises Missing, Transient, Corrupt, Denied, or ValueError for a code outside the table."""
        query = Query(self.account, ((self.band, "|u1"),), lambda ee, _: self._image(ee))
        (answer,) = many(query, [self.asset], grid)
        if isinstance(answer, DataError):
            raise answer
        codes = self._checked(answer[self.band])
        return Raster(codes[None], codes != NO_CLASS, grid, LANDCOVER.band_names)

    def _at(self, points: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Codes (N,) at points (N, 2); a scale of 1 m takes the pixel that a point lies in."""

        def asked(ee: Any) -> Any:
            places = ee.List(points.round(9).tolist()).map(
                lambda place: ee.Feature(ee.Geometry.Point(ee.List(place)))
            )
            codes = self._image(ee).reduceRegions(
                collection=ee.FeatureCollection(places), reducer=ee.Reducer.first(), scale=1, crs="EPSG:4326"
            )
            return ee.data.computeValue(codes.aggregate_array("first"))

        codes = self.account.ask(asked)
        if not isinstance(codes, list) or len(codes) != len(points):
            raise Corrupt(f"{self.asset} answers with no code for each of {len(points)} points; ask again")
        return self._checked(np.asarray(codes))

    def _image(self, ee: Any) -> Any:
        images = ee.ImageCollection(self.asset)
        if self.year is not None and self.classes is not WORLDCOVER:
            images = images.filterDate(f"{self.year}-01-01", f"{self.year + 1}-01-01")
        one = images.mode() if self.classes is DYNAMIC_WORLD else images.mosaic()
        return one.select([self.band]).unmask(NO_CLASS, False).toByte()

    def _checked(self, codes: NDArray[Any]) -> NDArray[np.uint8]:
        """Raw codes of the table; 0 is no class unless the table has it."""
        if 0 not in self.classes.codes:
            codes = np.where(codes == 0, NO_CLASS, codes)
        self.classes.check(codes, self.asset)
        return codes.astype(np.uint8)


def _within(ee: Any, images: Any, grid: Grid, period: Period) -> Any:
    """The images of a collection that touch the grid in the period."""
    area = ee.Geometry.Rectangle([*grid.bounds], proj=f"EPSG:{grid.epsg}", geodesic=False)
    return images.filterBounds(area).filterDate(str(period.first), str(period.last))


def _bounds(geometry: Mapping[str, Any], epsg: int) -> Bounds:
    """Of a GeoJSON footprint in degrees, in metres of a CRS, to the metre."""
    points = np.array([*_points(geometry["coordinates"])], float)
    x, y = project(points[:, 0], points[:, 1], epsg)
    west, south, east, north = (round(float(value)) for value in (x.min(), y.min(), x.max(), y.max()))
    return float(west), float(south), float(east), float(north)


def _points(coordinates: Sequence[Any]) -> Iterator[Sequence[float]]:
    if isinstance(coordinates[0], int | float):
        yield coordinates[:2]
    else:
        for part in coordinates:
            yield from _points(part)


def _lattice(text: object) -> dict[str, Value]:
    """Pixel size and corner of an image's first band, of the WKT of its transform; nothing when it says none."""
    terms = {
        (row, col): float(value)
        for row, col, value in re.findall(r'"elt_(\d)_(\d)",\s*([-+.\deE]+)', str(text))
    }
    places = {"gsd_m": ("0", "0"), "left": ("0", "2"), "top": ("1", "2")}
    return {name: terms[place] for name, place in places.items() if set(places.values()) <= set(terms)}


def _repeats(scene: Scene, grid: Grid) -> bool:
    """Whether the nearest pixel of the scene is the pixel itself, or a part of it, everywhere on the grid."""
    if scene.epsg != grid.epsg:
        return False
    gsd, left, top = (scene.get(name) for name in ("gsd_m", "left", "top"))
    if not isinstance(gsd, float) or not isinstance(left, float) or not isinstance(top, float):
        return True
    x, y = grid.origin
    offsets = ((left - x) / grid.gsd, (top - y) / grid.gsd)
    return bool(whole(gsd / grid.gsd)) and all(whole(value) is not None for value in offsets)


def _licensed(licence: str, attribution: str) -> dict[str, Value]:
    return {"license": licence, "attribution": attribution, "redistribute": True}
