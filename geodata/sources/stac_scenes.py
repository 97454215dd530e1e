"""Items of STAC as scenes of a sensor, and their files as its pixels: what `stac` opens.

Pixels are read as `geotiff` reads them, in the files' own lattice where the chip lies on it; the only difference is
who names the files. Searches are asked for by cells of a quarter degree and kept, so that neighbouring chips do not ask
again, and so that what is found does not depend on which chip asked first. Of several processings of one acquisition
only the last is offered; the others are still found by id.
"""

from __future__ import annotations

import math
import re
import threading
import time
import urllib.parse
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any, Literal

import shapely
import shapely.affinity
import shapely.errors
import shapely.geometry

from geodata.errors import Corrupt, DataError, Denied, Missing, Transient
from geodata.governor import Limits
from geodata.grid import Bounds, Grid
from geodata.radiometry import offset_remover
from geodata.sensors import Sensor
from geodata.source import Ask, Period, Raster, Scene, Value
from geodata.sources.geotiff import FileSource, Unit
from geodata.sources.naming import SCL
from geodata.sources.stac_items import Items, Json, Signer, text_of
from geodata.transport import Verdict, call, redacted

Offset = Literal["metadata", "none", "remove"]

CELL_DEGREES = 0.25
CELLS, CELLS_FRESH_S = 128, 900.0
"""Searches that a source keeps, and for how long (seconds): a process may live through a refresh."""
FILE_LIMITS = Limits(concurrency=32, per_second=100.0)
"""Scenes that are read at once and in a second from one storage; public ones state no numbers."""
FILE_TRIES = 4
"""Times that a scene is read where its files answer brokenly; GDAL tries each request by itself before."""
_MOST_CELLS = 9
"""A grid over more cells than this is searched for as it is."""
_OPEN = re.compile(r"(CC0|CC-BY|PDDL|ODbL|ODC-BY|OGL|CDLA-PERMISSIVE|PUBLIC.?DOMAIN|USPD)", re.I)
_CLOSED = re.compile(r"-(NC|ND)\b", re.I)


@dataclass(frozen=True)
class Product:
    """How a collection's items become scenes of a sensor.

    `assets` names the asset of each band (`image#2` is the second band of one), `classification` that of the scene
    classification. `unit` and `nodata` are what numbers in the files mean. `offset` is for Sentinel-2: decided by each
    item's 'metadata', or known for all. `kind` is the radar product. What the collection says of licence and providers
    is kept unless `license` or `attribution` say better; `redistribute` None means: if the licence is an open one.
    """

    sensor: str
    assets: Mapping[str, str]
    classification: str = ""
    unit: Unit = "stored"
    nodata: float | None = None
    offset: Offset = "metadata"
    kind: str = ""
    gsd: float = 0.0
    license: str = ""
    attribution: str = ""
    redistribute: bool | None = None


@dataclass(frozen=True)
class _Listed:
    """A scene and the outline of its data (degrees)."""

    scene: Scene
    outline: shapely.Geometry
    acquisition: tuple[str, ...]
    processed: str


@dataclass(eq=False)
class StacSource:
    """Implements `ImagerySource`, `Priced` and re-reading by id over STAC items; made by the functions above."""

    sensor: Sensor
    product: Product
    items: Items
    files: FileSource
    signer: Signer | None = None
    _cells: OrderedDict[Any, tuple[float, tuple[_Listed, ...]]] = field(
        default_factory=OrderedDict, repr=False
    )
    _told: dict[str, Value] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def limits(self) -> Limits:
        """See `Served`: of the storage that the files are in."""
        return FILE_LIMITS

    def search(self, grid: Grid, period: Period) -> list[Scene]:
        """Scenes whose data meets the grid in the period, by date and id.

        Raises Transient when the service does not answer, Denied when it refuses us, Corrupt when an item is no item.
        """
        outline = _outline(grid)
        found: dict[str, _Listed] = {}
        for bounds in _cells_of(outline):
            for one in self._listed(bounds, period):
                found[one.scene.scene_id] = one
        near = [one for one in found.values() if _touch(one.outline, outline)]
        return sorted(
            (one.scene for one in _last_processed(near)),
            key=lambda scene: (scene.date or date.min, scene.scene_id),
        )

    def by_ids(self, scene_ids: Sequence[str]) -> list[Scene]:
        """The scenes of these ids, whether or not a search would find them still. Raises Missing for one that is gone."""
        return [self._scene(self.items.item(scene_id)).scene for scene_id in scene_ids]

    def read(self, scene: Scene, grid: Grid) -> Raster:
        """The scene's pixels on exactly this grid. Raises as `geotiff`'s, and Denied when tokens are refused.

        A token that the storage no longer takes is asked for anew, once.
        """
        raster = self._read(scene, grid)
        if self.signer is not None and isinstance(raster, Missing) and _REFUSED.search(str(raster)):
            self.signer.forget()
            raster = self._read(scene, grid)
            if isinstance(raster, Missing) and _REFUSED.search(str(raster)):
                raster = Denied(
                    f"the storage of scene {scene.scene_id} refuses a token that was just issued ({raster}); "
                    f"check that its collection is open to this account (PC_SDK_SUBSCRIPTION_KEY)"
                )
        if isinstance(raster, DataError):
            raise raster
        return raster

    def cost(self, scene_count: int, grid: Grid) -> Ask:
        """See `Priced`: a search, and for each band of a scene its header and the blocks under the grid."""
        requests, size = 1.0, 50e3
        scl = [20.0] if self.product.classification else []
        for gsd in [band.gsd for band in self.sensor.bands] + scl:
            across = [side * grid.gsd / gsd / _BLOCK + 1 for side in grid.shape]
            blocks = across[0] * across[1]
            requests += scene_count * (1 + across[0])
            size += scene_count * (_HEADER_BYTES + blocks * _BLOCK**2 * _BYTES_A_PIXEL)
        return Ask(requests, size)

    def _read(self, scene: Scene, grid: Grid) -> Raster | DataError:
        """Pixels, or the error in words that hold no signature.

        Files on the web are read under a lease, and again when they seem damaged: an answer that was cut off looks so.
        """
        seen: list[DataError] = []

        def once() -> Raster:
            try:
                assets = tuple((name, self._signed(href)) for name, href in scene.assets)
                return self.files.read(replace(scene, assets=assets), grid)
            except DataError as error:
                seen.append(type(error)(_QUERY.sub("", redacted(str(error)))))
            raise seen[-1]

        hosts = [urllib.parse.urlsplit(href).netloc for _, href in scene.assets]
        try:
            if not any(hosts):
                return once()
            return call(once, _judge, endpoint=f"{hosts[0]} (files)", limits=FILE_LIMITS, tries=FILE_TRIES)
        except DataError:
            return seen[-1]

    def _signed(self, href: str) -> str:
        if self.signer is None:
            return href
        address, mark, number = href.partition("#")
        return f"{self.signer.signed(address)}{mark}{number}"

    def _listed(self, bounds: Bounds, period: Period) -> tuple[_Listed, ...]:
        key = (bounds, period)
        with self._lock:
            kept = self._cells.get(key)
        if kept is not None and time.monotonic() - kept[0] < CELLS_FRESH_S:
            return kept[1]
        found = [self._scene(item) for item in self.items.search(bounds, period)]
        listed = tuple(one for one in found if one.scene.date is not None and one.scene.date in period)
        with self._lock:
            self._cells[key] = (time.monotonic(), listed)
            if len(self._cells) > CELLS:
                self._cells.popitem(last=False)
        return listed

    def _scene(self, item: Json) -> _Listed:
        item_id = str(item["id"])
        known: Json = item.get("properties") or {}
        assets: Mapping[str, Json] = item.get("assets") or {}
        wanted = {band: self.product.assets[band] for band in self.sensor.band_names}
        if self.product.classification:
            wanted[SCL] = self.product.classification
        hrefs = {}
        for band, name in wanted.items():
            key, mark, number = name.partition("#")
            if assets.get(key, {}).get("href"):
                hrefs[band] = f"{assets[key]['href']}{mark}{number}"
        first = next((assets[name.partition("#")[0]] for band, name in wanted.items() if band in hrefs), {})
        try:
            outline = shapely.geometry.shape(item.get("geometry") or _box_of(item))
            outline = outline if outline.is_valid else shapely.make_valid(outline)
            epsg, bounds = _place({**known, **first}, item)
            when = _moment(known)
        except (KeyError, TypeError, ValueError, AttributeError, shapely.errors.ShapelyError) as error:
            raise Corrupt(
                f"item {item_id} does not say where or when it was taken ({type(error).__name__}: {error}); "
                f"report it to who lists it"
            ) from error
        scene = Scene(
            item_id,
            self.sensor.name,
            when.date(),
            epsg,
            bounds,
            tuple(hrefs.items()),
            tuple(self._properties(item_id, known, first, SCL in hrefs).items()),
        )
        moment = when.replace(microsecond=0).isoformat()
        place = text_of(known, "s2:mgrs_tile", "grid:code") or item_id
        taken = (moment, text_of(known, "platform") or "", place)
        processed = f"{known.get('s2:processing_baseline') or ''} {known.get('s2:generation_time') or known.get('created') or ''}"
        return _Listed(scene, outline, taken if self.sensor.prefix == "s2" else (item_id,), processed)

    def _properties(self, item_id: str, known: Json, asset: Json, classified: bool) -> dict[str, Value]:
        found: dict[str, Value] = dict(self._license())
        cloud = known.get("eo:cloud_cover")
        if isinstance(cloud, int | float):
            found["cloud"] = float(cloud) / 100.0
        if known.get("updated"):
            found["updated"] = str(known["updated"])
        if self.sensor.prefix == "s2":
            baseline = text_of(known, "s2:processing_baseline", "processing:version")
            found["baseline"] = baseline
            found["offset_applied_by"] = self._offset(item_id, known, asset, baseline)
            found["cloud_by"] = "scl" if classified else "none"
            found["relative_orbit"] = text_of(known, "sat:relative_orbit")
        elif self.sensor.prefix == "s1":
            found["product"] = self.product.kind
            found["orbit_pass"] = text_of(known, "sat:orbit_state")
            found["relative_orbit"] = text_of(known, "sat:relative_orbit")
        elif self.sensor.prefix == "hr":
            found["provider"] = text_of(known, "constellation", "platform") or str(found["attribution"])
        return {name: value for name, value in found.items() if value is not None}

    def _offset(self, item_id: str, known: Json, asset: Json, baseline: str | None) -> str:
        """Who takes the offset off, as the item tells: an archive's own word first, then the baseline, then the asset."""
        if self.product.offset != "metadata":
            return "us" if self.product.offset == "remove" else "none"
        removed = known.get("earthsearch:boa_offset_applied")
        stated: Json = next(iter(asset.get("raster:bands") or asset.get("bands") or []), {})
        added = stated.get("offset", stated.get("raster:offset")) if baseline is None else None
        return offset_remover(
            item_id,
            baseline,
            add_offset=None if added is None else round(float(added) * 10_000),
            removed=bool(removed) if removed is not None else None,
        )

    def _license(self) -> Mapping[str, Value]:
        """Licence and attribution, as the collection tells them, asked for once."""
        with self._lock:
            if self._told:
                return self._told
        collection, product = self.items.collection(), self.product
        links = [
            str(link.get("href")) for link in collection.get("links") or [] if link.get("rel") == "license"
        ]
        code = str(collection.get("license") or "")
        license = product.license or " ".join([code, *links[:1]]).strip()
        providers = [str(one.get("name")) for one in collection.get("providers") or []]
        is_open = bool(_OPEN.search(license)) and not _CLOSED.search(license)
        with self._lock:
            self._told = {
                "license": license,
                "attribution": product.attribution or "; ".join(providers),
                "redistribute": is_open if product.redistribute is None else product.redistribute,
            }
            return self._told


def _judge(error: Exception) -> Verdict | None:
    """What a failed reading means; None is for what trying again does not change."""
    return Verdict("retry", str(error)) if isinstance(error, Corrupt | Transient) else None


_QUERY = re.compile(r"\?\S*\bsig=\*\*\*")
_REFUSED = re.compile(r"response code:? ?40[13]\b", re.I)
_BLOCK, _HEADER_BYTES, _BYTES_A_PIXEL = 512, 32_768, 1.4
"""Of usual cloud-optimized files: pixels a side of a block, bytes read to find it, bytes of a compressed pixel."""


def _moment(known: Json) -> datetime:
    text = known.get("datetime") or known["start_datetime"]
    when = datetime.fromisoformat(str(text))
    return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)


def _box_of(item: Json) -> Json:
    box = item["bbox"]
    west, south, east, north = box if len(box) == 4 else (box[0], box[1], box[3], box[4])
    return dict(shapely.geometry.mapping(shapely.box(west, south, east, north)))


def _place(known: Json, item: Json) -> tuple[int, Bounds]:
    """EPSG code and bounds of a scene, by the projection extension; in degrees where the item does not use it."""
    code = str(known.get("proj:code") or "")
    epsg = known.get("proj:epsg") or (int(code[5:]) if re.fullmatch(r"EPSG:\d+", code) else None)
    if epsg and known.get("proj:bbox"):
        west, south, east, north = (float(value) for value in known["proj:bbox"][:4])
        return int(epsg), (west, south, east, north)
    if epsg and known.get("proj:transform") and known.get("proj:shape"):
        a, b, c, d, e, f = (float(value) for value in known["proj:transform"][:6])
        height, width = (int(value) for value in known["proj:shape"])
        if not b and not d:
            return int(epsg), (c, f + e * height, c + a * width, f)
    west, south, east, north = shapely.geometry.shape(item.get("geometry") or _box_of(item)).bounds
    return 4326, (west, south, east, north)


def _outline(grid: Grid) -> shapely.Geometry:
    """The grid in degrees, in one piece: past 180 where it crosses the antimeridian."""
    shape = grid.footprint()
    west, _, east, _ = shape.bounds
    if east - west <= 180.0:
        return shape
    return shapely.transform(shape, lambda points: points + [[360.0, 0.0]] * (points[:, :1] < 0))


def _cells_of(outline: shapely.Geometry) -> list[Bounds]:
    """Boxes (degrees) to search for a shape: the cells it touches, or its own box when those are many."""
    step = CELL_DEGREES
    west, south, east, north = outline.bounds
    columns = range(math.floor(west / step), math.floor(east / step) + 1)
    rows = range(max(math.floor(south / step), round(-90 / step)), math.floor(north / step) + 1)
    if len(columns) * len(rows) > _MOST_CELLS:
        return [(west, south, east, north)]
    count = round(360 / step)
    lefts = [((column + count // 2) % count - count // 2) * step for column in columns]
    return [(left, row * step, left + step, (row + 1) * step) for row in rows for left in lefts]


def _touch(outline: shapely.Geometry, chip: shapely.Geometry) -> bool:
    """Whether two shapes in degrees meet, either of which may be told on the other side of the antimeridian."""
    if outline.intersects(chip):
        return True
    return any(outline.intersects(shapely.affinity.translate(chip, turn)) for turn in (-360.0, 360.0))


def _last_processed(listed: Sequence[_Listed]) -> list[_Listed]:
    """Of several processings of one acquisition, the last."""
    last: dict[tuple[str, ...], _Listed] = {}
    for one in sorted(listed, key=lambda one: (one.processed, one.scene.scene_id)):
        last[one.acquisition] = one
    return list(last.values())
