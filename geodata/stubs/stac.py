"""A stand-in for STAC APIs: a Planetary Computer with its tokens, and an Earth Search, over the synthetic Earth.

Under `/pc/` lie Sentinel-2 L2A, Sentinel-1 RTC, an NAIP and a yearly land cover; their assets are opened only with a
token from `/token/ACCOUNT/CONTAINER`. Under `/es/` lies Sentinel-2 with the other names of bands, open to all. Scenes are
those of `sources.synthetic`, cut in tiles of 110 km, so every pixel that a client reads through all this can be held
against it.

Sentinel-2 comes in both conventions at once, as in the wild: acquisitions alternate between baseline 02.14 and 05.00,
whose numbers carry 1,000 more (in `/pc/`; Earth Search has taken it off and says so), and every seventh is listed in both.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
import threading
import urllib.parse
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

import numpy as np
import shapely
import shapely.affinity
from numpy.typing import NDArray

from geodata.errors import Missing
from geodata.grid import Bounds, Grid, project, unproject
from geodata.radiometry import OFFSET
from geodata.source import ImagerySource, Period, Scene
from geodata.sources import synthetic
from geodata.stubs.rasters import VirtualTiff
from geodata.stubs.server import Request, Response, Routes, refusal

Offsets = Literal["mixed", "none", "all"]
Lie = Literal["", "removed", "kept"]
Json = dict[str, Any]

PAGE, MOST = 10, 1000
"""Items in an answer to who does not say how many, and at most."""
_BEFORE, _AFTER = "02.14", "05.00"
_LISTED_TWICE = 7  # every so many acquisitions
_TILE_M, _SIDE_M, _LATTICE_M = 100_000, 109_800.0, 60.0
_NAIP_M, _NAIP_SIDE_M = 6_000, 6_600.0
_ZONE_REACH = 9.0  # degrees from a zone's middle beyond which none of its tiles lies
_WHOLE = 64 * 2**20  # bytes of a file that is sent without a Range
_KEPT = 24  # rendered pieces of scenes
_L2A = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
_COLOURS = (
    *("coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3"),
    *("nir", "nir08", "nir09", "swir16", "swir22"),
)
_BLOCKS = {60.0: 64, 20.0: 128, 10.0: 256, 1.0: 512}
"""Pixels a side of a block by GSD: about the same ground, so that one rendering serves the bands."""


@dataclass(frozen=True)
class _Asset:
    """A file of an item: the band of the synthetic sensor it holds ('' for all), and how its numbers are stored."""

    band: str
    gsd: float
    dtype: str
    nodata: float | None = None
    bands: int = 1


@dataclass(frozen=True, eq=False)
class _Collection:
    """A collection: its sensor, its files, and the containers they lie in (no account: open to all)."""

    flavour: str
    name: str
    kind: str
    account: str
    assets: dict[str, _Asset]
    license: str
    providers: tuple[str, ...]

    @property
    def pitch(self) -> int:
        return _NAIP_M if self.kind == "naip" else _TILE_M

    @property
    def side(self) -> float:
        return _NAIP_SIDE_M if self.kind == "naip" else _SIDE_M


def _sentinel2(names: Sequence[str], classification: str) -> dict[str, _Asset]:
    native = {band: 60.0 if band in ("B01", "B09") else 20.0 for band in _L2A}
    native |= dict.fromkeys(("B02", "B03", "B04", "B08"), 10.0)
    files = {name: _Asset(band, native[band], "uint16", 0.0) for name, band in zip(names, _L2A, strict=True)}
    return files | {classification: _Asset("SCL", 20.0, "uint8", 0.0)}


_COLLECTIONS = {
    (one.flavour, one.name): one
    for one in (
        _Collection(
            "pc",
            "sentinel-2-l2a",
            "s2",
            "sentinel2l2a01",
            _sentinel2(_L2A, "SCL"),
            "proprietary",
            ("ESA", "Esri", "Microsoft"),
        ),
        _Collection(
            "pc",
            "sentinel-1-rtc",
            "s1",
            "sentinel1euwestrtc",
            {name: _Asset(name.upper(), 10.0, "float32", -32768.0) for name in ("vv", "vh")},
            "CC-BY-4.0",
            ("ESA", "Catalyst", "Microsoft"),
        ),
        _Collection(
            "pc",
            "naip",
            "naip",
            "naipeuwest",
            {"image": _Asset("", 1.0, "uint8", None, 4)},
            "proprietary",
            ("USDA Farm Service Agency", "Esri", "Microsoft"),
        ),
        _Collection(
            "pc",
            "io-lulc-annual-v02",
            "lc",
            "ai4edataeuwest",
            {"data": _Asset("", 10.0, "uint8", 0.0)},
            "CC-BY-4.0",
            ("Esri", "Impact Observatory", "Microsoft"),
        ),
        _Collection(
            "es",
            "sentinel-2-l2a",
            "s2",
            "",
            _sentinel2(_COLOURS, "scl"),
            "proprietary",
            ("ESA", "Element 84"),
        ),
    )
}


@dataclass(frozen=True)
class _Item:
    """One scene of a tile, in one processing. The id tells everything."""

    collection: _Collection
    epsg: int
    column: int
    row: int
    day: date
    baseline: str = ""

    @property
    def id(self) -> str:
        zone = f"{self.epsg % 100:02d}{'N' if self.epsg < 32700 else 'S'}"
        middle = f"_N{self.baseline.replace('.', '')}" if self.baseline else ""
        return f"{self.collection.kind.upper()}_{self.day:%Y%m%d}{middle}_{zone}_{self.column}_{self.row}"

    @classmethod
    def called(cls, collection: _Collection, text: str) -> _Item:
        """Raises Missing for an id of none."""
        found = re.fullmatch(r"[A-Z0-9]+_(\d{8})(?:_N(\d\d)(\d\d))?_(\d\d)([NS])_(-?\d+)_(-?\d+)", text)
        if found is None:
            raise Missing(f"no item is called {text!r}")
        day, major, minor, zone, half, column, row = found.groups()
        epsg = (32600 if half == "N" else 32700) + int(zone)
        when = datetime.strptime(day, "%Y%m%d").date()
        return cls(collection, epsg, int(column), int(row), when, f"{major}.{minor}" if major else "")

    @property
    def bounds(self) -> Bounds:
        """Of its files: about the tile, from a multiple of 60 m, reaching into its neighbours."""
        over = (self.collection.side - self.collection.pitch) / 2
        left = math.floor((self.column * self.collection.pitch - over) / _LATTICE_M) * _LATTICE_M
        low = math.floor((self.row * self.collection.pitch - over) / _LATTICE_M) * _LATTICE_M
        return left, low, left + self.collection.side, low + self.collection.side

    def grid(self, gsd: float) -> Grid:
        left, _, _, top = self.bounds
        pixels = round(self.collection.side / gsd)
        return Grid(self.epsg, (gsd, 0.0, left, 0.0, -gsd, top), pixels, pixels)

    def outline(self) -> shapely.Geometry:
        """In degrees; in two pieces where the antimeridian runs through."""
        shape = self.grid(self.collection.side).footprint()
        west, _, east, _ = shape.bounds
        if east - west < 180.0:
            return shape
        whole = shapely.transform(shape, lambda points: points + [[360.0, 0.0]] * (points[:, :1] < 0))
        beyond = shapely.affinity.translate(shapely.clip_by_rect(whole, 180, -90, 540, 90), -360.0)
        return shapely.union(shapely.clip_by_rect(whole, -180, -90, 180, 90), beyond)


def routes(
    seed: int = 0,
    *,
    offsets: Offsets = "mixed",
    lie: Lie = "",
    lifetime_s: float = 3600.0,
    key: str = "",
) -> Routes:
    """The stand-in, for `server.serve`. Its APIs are at URL/pc and URL/es, its tokens at URL/token.

    `offsets` says which acquisitions of Sentinel-2 are in the new convention. `lie` is what Earth Search says falsely of
    those: that the offset is 'removed' though it was kept, or 'kept' though it was removed. Tokens live for `lifetime_s`
    seconds. With a `key`, tokens for Sentinel-1 are given only to who sends it.
    """
    stand_in = _Stac(seed, offsets, lie, lifetime_s, key)
    accounts = tuple(f"/{one.account}/" for one in _COLLECTIONS.values() if one.account)
    return Routes("stac", ("/pc/", "/es/", "/token/", *accounts), stand_in.answer, _kind)


def _kind(request: Request) -> str:
    """What a request is called in counters and fault scripts: token, search, item or file."""
    if request.path.startswith("/token/"):
        return "token"
    if request.path.endswith("/search"):
        return "search"
    return "item" if "/collections" in request.path else "file"


class _Stac:
    def __init__(self, seed: int, offsets: Offsets, lie: Lie, lifetime_s: float, key: str) -> None:
        self._offsets, self._lie, self._lifetime_s, self._key = offsets, lie, lifetime_s, key
        self._sources: dict[str, ImagerySource] = {
            "s2": synthetic.sentinel2(seed, "l2a"),
            "s1": synthetic.sentinel1(seed),
            "naip": synthetic.optical(seed, 1.0),
        }
        self._map = synthetic.landcover(seed)
        self._lock = threading.Lock()
        self._rendered: OrderedDict[Any, tuple[NDArray[Any], NDArray[np.uint8] | None]] = OrderedDict()
        self._found = functools.lru_cache(maxsize=64)(self._search)
        self._scenes_of = functools.lru_cache(maxsize=256)(self._scenes)

    def answer(self, request: Request) -> Response:
        parts = request.path.strip("/").split("/")
        host = f"http://{request.headers.get('host', '')}"
        try:
            if parts[0] == "token":
                return self._token(request, parts[1:])
            if parts[0] not in ("pc", "es") or parts[1:2] == ["files"]:
                return self._file(request, parts)
            if parts[1:] == ["search"]:
                return self._page(request, parts[0], host)
            return self._item(parts, host)
        except Missing as error:
            return refusal(404, str(error))

    # ---- tokens

    def _token(self, request: Request, where: list[str]) -> Response:
        known = next((one for one in _COLLECTIONS.values() if [one.account, one.name] == where), None)
        if known is None:
            return refusal(404, f"no container {'/'.join(where)}")
        sent = request.headers.get("ocp-apim-subscription-key")
        if self._key and known.kind == "s1" and sent != self._key:
            return refusal(401, "Access denied due to missing or invalid subscription key.")
        until = datetime.now(UTC) + timedelta(seconds=self._lifetime_s)
        text = until.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        signature = _signature(known, text)
        token = urllib.parse.urlencode({"sv": "2021-06-08", "se": text, "sp": "rl", "sig": signature})
        return Response.of_json({"msft:expiry": text, "token": token})

    @staticmethod
    def _admitted(request: Request, known: _Collection) -> bool:
        until, signature = request.query.get("se", ""), request.query.get("sig", "")
        if not known.account:
            return True
        if signature != _signature(known, until):
            return False
        return datetime.fromisoformat(until) > datetime.now(UTC)

    # ---- items

    def _page(self, request: Request, flavour: str, host: str) -> Response:
        asked = request.json() if request.method == "POST" else _asked_by_get(request)
        limit = min(int(asked.get("limit", PAGE)), MOST)
        start = int(str(asked.get("token", "next:0")).removeprefix("next:"))
        box, until = (
            tuple(asked.get("bbox") or (-180.0, -90.0, 180.0, 90.0)),
            asked.get("datetime") or "../..",
        )
        items = [
            item
            for name in asked.get("collections") or [one for known, one in _COLLECTIONS if known == flavour]
            if (flavour, name) in _COLLECTIONS
            for item in self._found(flavour, name, box, until)
        ]
        items = [item for item in items if not asked.get("ids") or item.id in asked["ids"]]
        page = [self._told(item, host) for item in items[start : start + limit]]
        links = [{"rel": "self", "href": f"{host}{request.path}"}]
        if start + limit < len(items):
            links.append(_next_link(request, asked, f"next:{start + limit}", host, flavour))
        return Response.of_json({"type": "FeatureCollection", "features": page, "links": links})

    def _search(self, flavour: str, name: str, box: Bounds, when: str) -> list[_Item]:
        """Newest first, as the services answer."""
        collection = _COLLECTIONS[flavour, name]
        west, south, east, north = box
        wanted, period = shapely.box(west, south, east, north), _period(when)
        found = []
        for zone in range(1, 61):
            middle = zone * 6 - 183
            if middle < west - _ZONE_REACH or middle > east + _ZONE_REACH:
                continue
            for base in (32600, 32700):
                for column, row in _tiles(base + zone, box, collection):
                    found += self._of_tile(
                        _Item(collection, base + zone, column, row, period.first), wanted, period
                    )
        return sorted(found, key=lambda item: (-item.day.toordinal(), item.id))

    def _of_tile(self, tile: _Item, wanted: shapely.Polygon, period: Period) -> list[_Item]:
        if not tile.outline().intersects(wanted):
            return []
        place = (tile.collection, tile.epsg, tile.column, tile.row)
        items = []
        for scene in self._scenes_of(*place, period):
            assert scene.date is not None, "synthetic scenes have dates"
            number = scene.date.toordinal() // 5
            for baseline in self._baselines(number) if tile.collection.kind == "s2" else ("",):
                items.append(_Item(*place, scene.date, baseline))
        return items

    def _baselines(self, number: int) -> tuple[str, ...]:
        if self._offsets != "mixed":
            return (_AFTER if self._offsets == "all" else _BEFORE,)
        if number % _LISTED_TWICE == 0:
            return (_BEFORE, _AFTER)
        return (_AFTER if number % 2 else _BEFORE,)

    def _scenes(
        self, collection: _Collection, epsg: int, column: int, row: int, period: Period
    ) -> tuple[Scene, ...]:
        """The synthetic scenes of a tile; of a map, one a year."""
        if collection.kind == "lc":
            days = [date(year, 1, 1) for year in range(period.first.year, period.last.year + 1)]
            return tuple(Scene("map", "landcover", day, epsg, (0, 0, 0, 0)) for day in days if day in period)
        tile = _Item(collection, epsg, column, row, period.first)
        left, low, _, _ = tile.bounds
        middle = (left + collection.side / 2, low + collection.side / 2)
        x, y = (round(value / _LATTICE_M) * _LATTICE_M for value in middle)
        grid = Grid(epsg, (10.0, 0.0, x, 0.0, -10.0, y), 1, 1)
        return tuple(self._sources[collection.kind].search(grid, period))

    def _scene(self, item: _Item) -> Scene:
        around = Period(item.day, item.day + timedelta(days=1))
        scenes = self._scenes_of(item.collection, item.epsg, item.column, item.row, around)
        if not scenes:
            raise Missing(f"nothing was taken for {item.id}")
        return scenes[0]

    def _item(self, parts: list[str], host: str) -> Response:
        flavour, rest = parts[0], parts[1:]
        if len(rest) in (2, 3, 4) and rest[0] == "collections" and (flavour, rest[1]) in _COLLECTIONS:
            collection = _COLLECTIONS[flavour, rest[1]]
            if len(rest) == 2:
                return Response.of_json(_collection_told(collection, host))
            if len(rest) == 4 and rest[2] == "items":
                return Response.of_json(self._told(_Item.called(collection, rest[3]), host))
        raise Missing(f"/{'/'.join(parts)} is neither a collection nor an item")

    def _told(self, item: _Item, host: str) -> Json:
        """An item as its service tells it."""
        scene, collection = self._scene(item), item.collection
        outline = item.outline()
        left, low, right, top = item.bounds
        finest = min(asset.gsd for asset in collection.assets.values())
        place = {"proj:epsg": item.epsg} if collection.flavour == "pc" else {"proj:code": f"EPSG:{item.epsg}"}
        properties: Json = {
            "datetime": f"{item.day}T10:10:31.024000Z",
            "created": f"{item.day + timedelta(days=1)}T00:00:00Z",
            "updated": f"{item.day + timedelta(days=2)}T00:00:00Z",
            "platform": f"{collection.kind}a",
            **place,
        }
        folder = f"{collection.account}/{collection.name}" if collection.account else "es/files"
        if collection.kind == "s2":
            properties |= {
                "s2:processing_baseline": item.baseline,
                "eo:cloud_cover": 100.0 * float(scene.get("cloud") or 0.0),
                "sat:relative_orbit": scene.get("relative_orbit"),
                "grid:code": f"MGRS-{item.epsg}-{item.column}-{item.row}",
            }
            if collection.flavour == "es":
                removed = item.baseline == _AFTER and self._lie != "kept"
                properties["earthsearch:boa_offset_applied"] = removed
        elif collection.kind == "s1":
            properties |= {
                "sat:orbit_state": scene.get("orbit_pass"),
                "sat:relative_orbit": scene.get("relative_orbit"),
                "sar:polarizations": ["VV", "VH"],
            }
        elif collection.kind == "lc":
            years = {
                "start_datetime": f"{item.day}T00:00:00Z",
                "end_datetime": f"{item.day.year + 1}-01-01T00:00:00Z",
            }
            properties |= {"datetime": None, **years}
        else:
            properties["gsd"] = finest
        assets = {}
        for name, asset in collection.assets.items():
            shape = [round((top - low) / asset.gsd), round((right - left) / asset.gsd)]
            assets[name] = {
                "href": f"{host}/{folder}/{item.id}/{name}.tif",
                "type": "image/tiff; application=geotiff; profile=cloud-optimized",
                "proj:shape": shape,
                "proj:transform": [asset.gsd, 0.0, left, 0.0, -asset.gsd, top],
                "roles": ["data"],
            }
        root = f"{host}/{collection.flavour}/collections/{collection.name}"
        return {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": item.id,
            "collection": collection.name,
            "geometry": json.loads(shapely.to_geojson(outline)),
            "bbox": list(outline.bounds),
            "properties": properties,
            "assets": assets,
            "links": [
                {"rel": "self", "href": f"{root}/items/{item.id}"},
                {"rel": "collection", "href": root},
            ],
        }

    # ---- files

    def _file(self, request: Request, parts: list[str]) -> Response:
        if len(parts) != 4:
            raise Missing(f"no file at {request.path}")
        account, name = ("", "sentinel-2-l2a") if parts[0] == "es" else (parts[0], parts[1])
        known = [one for one in _COLLECTIONS.values() if (one.account, one.name) == (account, name)]
        file = parts[3].removesuffix(".tif")
        if not known or file not in known[0].assets:
            raise Missing(f"no file at {request.path}")
        if not self._admitted(request, known[0]):
            return refusal(403, "Signature not valid in the specified time frame, or none was sent.")
        item, asset = _Item.called(known[0], parts[2]), known[0].assets[file]
        self._scene(item)
        tiff = VirtualTiff(item.grid(asset.gsd), asset.bands, asset.dtype, _BLOCKS[asset.gsd], asset.nodata)
        kind = "image/tiff"
        told = {
            "Accept-Ranges": "bytes",
            "ETag": f'"{hashlib.sha256(request.path.encode()).hexdigest()[:16]}"',
        }
        if request.method == "HEAD":
            return Response(b"", 200, kind, {**told, "Content-Length": str(tiff.size)})
        start, stop, status = 0, tiff.size, 200
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if found:
            start, stop, status = int(found[1]), min(int(found[2] or tiff.size) + 1, tiff.size), 206
            told["Content-Range"] = f"bytes {start}-{stop - 1}/{tiff.size}"
        if start >= stop or stop - start > _WHOLE:
            return Response(b"", 416, kind, {"Content-Range": f"bytes */{tiff.size}"})
        return Response(
            tiff.read(start, stop, lambda grid: self._block(item, asset, grid)), status, kind, told
        )

    def _block(self, item: _Item, asset: _Asset, grid: Grid) -> NDArray[Any]:
        """Pixels (C, H, W) of a block of a file, as its service stores them."""
        native = 1.0 if item.collection.kind == "naip" else 10.0
        step = round(grid.gsd / native)
        at_native = grid if step == 1 else grid.at(native)
        values, scl = self._pixels(item, at_native)
        if item.collection.kind == "lc":
            return values
        if asset.band == "SCL":
            assert scl is not None, "Sentinel-2 is classified"
            return scl[None, ::step, ::step]
        if item.collection.kind == "naip":
            return np.concatenate([values, values[:1]])  # near infrared: nobody reads it here
        names = self._sources[item.collection.kind].sensor.band_names
        pixels = values[names.index(asset.band)][None, ::step, ::step]
        if item.collection.kind == "s1":
            power = 10.0 ** (pixels.astype(np.float64) / 1000.0)
            return np.where(pixels == -32768, -32768.0, power)
        return np.where(pixels > 0, pixels + OFFSET, 0) if self._carries_offset(item) else pixels

    def _carries_offset(self, item: _Item) -> bool:
        if item.baseline != _AFTER:
            return False
        return item.collection.flavour == "pc" or self._lie == "removed"

    def _pixels(self, item: _Item, grid: Grid) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
        key = (item.collection.kind, item.epsg, item.day, grid)
        with self._lock:
            if key in self._rendered:
                self._rendered.move_to_end(key)
                return self._rendered[key]
        if item.collection.kind == "lc":
            raster = self._map.read(grid)
            rangeland = np.isin(raster.values, (3, 6))  # the yearly series merges grass and scrub
            raster = replace(raster, values=np.where(rangeland, np.uint8(11), raster.values))
        else:
            raster = self._sources[item.collection.kind].read(self._scene(item), grid)
        with self._lock:
            self._rendered[key] = raster.values, raster.scl
            if len(self._rendered) > _KEPT:
                self._rendered.popitem(last=False)
        return raster.values, raster.scl


def _collection_told(collection: _Collection, host: str) -> Json:
    root = f"{host}/{collection.flavour}/collections/{collection.name}"
    return {
        "type": "Collection",
        "stac_version": "1.0.0",
        "id": collection.name,
        "title": f"{collection.name} of a synthetic Earth",
        "description": "Rendered on demand.",
        "license": collection.license,
        "providers": [{"name": name} for name in collection.providers],
        "extent": {
            "spatial": {"bbox": [[-180.0, -80.0, 180.0, 84.0]]},
            "temporal": {"interval": [["2015-01-01T00:00:00Z", None]]},
        },
        "links": [
            {"rel": "self", "href": root},
            {"rel": "items", "href": f"{root}/items"},
            {"rel": "license", "href": f"{root}/license"},
        ],
    }


def _next_link(request: Request, asked: Json, token: str, host: str, flavour: str) -> Json:
    """The Planetary Computer repeats the question; Earth Search sends what is new, to be merged."""
    href = f"{host}{request.path}"
    if request.method == "GET":
        query = urllib.parse.urlencode({**request.query, "token": token})
        return {"rel": "next", "method": "GET", "href": f"{href}?{query}"}
    if flavour == "pc":
        return {"rel": "next", "method": "POST", "href": href, "body": {**asked, "token": token}}
    return {"rel": "next", "method": "POST", "href": href, "body": {"token": token}, "merge": True}


def _asked_by_get(request: Request) -> Json:
    asked: Json = dict(request.query)
    if "bbox" in asked:
        asked["bbox"] = [float(value) for value in asked["bbox"].split(",")]
    for name in ("collections", "ids"):
        if name in asked:
            asked[name] = asked[name].split(",")
    return asked


def _period(when: str) -> Period:
    """Of an interval of moments, both ends included and either of them open ('..')."""
    first, _, last = when.partition("/")
    begin = date(2015, 1, 1) if first in ("..", "") else datetime.fromisoformat(first).date()
    end = date(2030, 1, 1) if last in ("..", "") else datetime.fromisoformat(last).date()
    if not last and "/" not in when:
        end = begin
    return Period(begin, end + timedelta(days=1))


def _tiles(epsg: int, box: Bounds, collection: _Collection) -> list[tuple[int, int]]:
    """Columns and rows of a zone's tiles that may meet a box (degrees) and whose middle lies in the zone."""
    south_half = epsg >= 32700
    south, north = max(box[1], -80.0), min(box[3], 84.0)
    south, north = (south, min(north, 0.0)) if south_half else (max(south, 0.0), north)
    if south > north:
        return []
    middle = epsg % 100 * 6 - 183.0
    lons = np.linspace(max(box[0], middle - 5), min(box[2], middle + 5), 9)
    if lons[0] > lons[-1]:
        return []
    lon, lat = (axis.ravel() for axis in np.meshgrid(lons, np.linspace(south, north, 9)))
    x, y = project(lon, lat, epsg)
    over, pitch = collection.side - collection.pitch, collection.pitch
    columns = range(math.floor((min(x) - over) / pitch), math.floor((max(x) + over) / pitch) + 1)
    rows = range(math.floor((min(y) - over) / pitch), math.floor((max(y) + over) / pitch) + 1)
    if len(columns) * len(rows) > 5000:
        raise ValueError("a search over so large an area would list too many scenes; ask for a smaller one")
    tiles = [(column, row) for column in columns for row in rows]
    centres = unproject(
        np.array([(column + 0.5) * pitch for column, _ in tiles]),
        np.array([(row + 0.5) * pitch for _, row in tiles]),
        epsg,
    )
    reach = 3.0 + math.degrees(pitch / 2 / 6.371e6) * 1.5
    away = np.abs((centres[0] - middle + 180.0) % 360.0 - 180.0)
    return [tile for tile, degrees in zip(tiles, away, strict=True) if degrees <= reach]


def _signature(known: _Collection, until: str) -> str:
    return hashlib.sha256(f"{known.account} {known.name} {until}".encode()).hexdigest()
