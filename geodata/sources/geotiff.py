"""Scenes in raster files: a folder, a list of paths or addresses, or the inside of a zip, named by a pattern.

A pattern says how files are named and thereby what is one scene: `{tile}_{date:%Y%m%dT%H%M%S}_{band}.jp2` reads
Sentinel-2's own names, `{scene}/{band}.tif` a folder for each acquisition, `{place}.tif` files that hold all bands.
Pixels are read in the file's own lattice wherever the grid lies on it; then nothing is interpolated, and 20 m and
60 m bands repeat exactly. Otherwise they are warped once, and the raster says `resampled`.

Only the files know what their numbers mean. Whatever that is, what leaves is in the units of `sensors`, by the rules
of `radiometry`: reflectance times 10,000 without offset, hundredths of a decibel, class codes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any, Literal

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.warp import transform_bounds

from geodata.errors import Corrupt, Missing
from geodata.grid import Bounds, Grid
from geodata.radiometry import Unit, as_stored, harmonise, offset_remover
from geodata.sensors import Sensor
from geodata.sensors import sensor as sensor_called
from geodata.source import ImagerySource, Period, Raster, Scene, Value, at_home, regrid, warp
from geodata.sources import cog
from geodata.sources.naming import SCL, WHOLE, Named, Pattern, band_of, listed, scenes_of

Offset = Literal["none", "remove", "baseline"]

SENTINEL2_NAMES = "{tile}_{date:%Y%m%dT%H%M%S}_{band}.*"
UNKNOWN = "unknown"
"""In place of a date: that of no scene is known."""
Member = tuple[int, cog.File, int]
"""Place of a band in the pixels, its file, and its number there."""
_MARGIN = 3
"""Pixels read around a window that is going to be warped: bilinear reaches one, rounding another."""


def files(
    root: str | Sequence[str],
    sensor: str,
    pattern: str = SENTINEL2_NAMES,
    *,
    bands: Sequence[str] = (),
    layout: Sequence[str] | Mapping[str, str] = (),
    date: str | None = None,
    properties: Mapping[str, Value] | None = None,
    unit: Unit = "stored",
    nodata: float | None = None,
    offset: Offset = "none",
    classification: str | None = None,
    codes: Mapping[str, int] | None = None,
) -> ImagerySource:
    """Scenes of one sensor in raster files.

    `root` (`~/` is the user's home) is a folder, a zip-shaped file or a folder in it (`/vsizip/{FILE.whl}/inner`), or a list of paths and
    http(s) addresses. `pattern` is matched against the end of each path: `{name}` is any text, `*` any text without
    a name, `{date:%Y%m%d}` the date (or give `date` for all, UNKNOWN where nobody tells it), `{band}` the band, `{gsd}` the pixel size of products that
    repeat bands at several; further names become properties, as do the fixed `properties` (baseline, orbit_pass ...;
    `license`, `attribution` and `redistribute` among them, which are "", "" and True when nobody says).
    `bands` are those to deliver. `layout` is, with `{band}`, how files call them ({'B02': 'blue'}; B2 for B02 is
    understood), without, the order of bands in each file (the file's own band names when left out).

    `unit` is what numbers in the files mean: the sensor's `stored` unit, reflectance from 0 to 1, dB, or linear
    power; `nodata` marks ground without any, besides what the file itself and the sensor call so. `offset` is
    'none' when DNs carry none, 'remove' when all do, 'baseline' to decide by the property of that name.
    `classification` is the `{band}` of a mask file, and `codes` translates its codes to those of Sentinel-2's SCL.

    Raises ValueError for options that do not fit, Missing when no file does.
    """
    known = sensor_called(sensor).pick(tuple(bands))
    naming = Pattern.of(pattern)
    day = datetime.fromisoformat(date).date() if date and date != UNKNOWN else None
    if not date and "date" not in naming.fields:
        raise ValueError(
            f"pattern {pattern!r} has no {{date:...}} and no date is given, so no scene has one; add either, or "
            f"date={UNKNOWN!r}"
        )
    if unit in ("dB", "power") and known.unit != "dB":
        raise ValueError(
            f"unit {unit!r} is for radar, but {known.name} is stored as {known.unit}; leave it out"
        )
    if offset != "none" and known.prefix != "s2":
        raise ValueError(f"offset {offset!r} is a matter of Sentinel-2, not of {known.name}; leave it out")
    tokens = {token: band for band, token in layout.items()} if isinstance(layout, Mapping) else {}
    whole = sensor_called(sensor)
    whole.pick(tuple(tokens.values()))
    names = listed(at_home(root) if isinstance(root, str) else [at_home(path) for path in root])
    found = scenes_of(names, naming, whole, tokens, classification)
    if not found:
        example = f" (one is called {names[0][0]})" if names else ""
        where = root if isinstance(root, str) else "the list"
        raise Missing(
            f"none of {len(names)} files under {where} is named {pattern}{example}; give the pattern that fits"
        )
    fixed: dict[str, Value] = {"license": "", "attribution": "", "redistribute": True}
    if known.prefix == "s2":
        fixed["offset_applied_by"] = "none"
    told = [_told(one, day, fixed | dict(properties or {}), offset) for one in found]
    return FileSource(
        sensor=known,
        found=tuple(sorted(told, key=lambda one: (one.date or datetime.max.date(), one.scene_id))),
        layout=() if isinstance(layout, Mapping) else tuple(layout),
        unit=unit,
        nodata=nodata,
        codes={int(code): scl for code, scl in (codes or {}).items()},
    )


def _told(named: Named, day: date | None, fixed: Mapping[str, Value], offset: Offset) -> Scene:
    """The scene as far as its names tell; where it lies is known when one of its files has been opened."""
    known = {**fixed, **named.properties}
    if offset == "remove":
        known["offset_applied_by"] = "us"
    elif offset == "baseline":
        known["offset_applied_by"] = offset_remover(named.scene_id, known.get("baseline"))
    if "offset_applied_by" in known:
        known.setdefault("cloud_by", "scl" if SCL in named.assets else "none")
    nowhere = (0.0, 0.0, 0.0, 0.0)
    return Scene(
        named.scene_id, "", named.day or day, 0, nowhere, tuple(named.assets.items()), tuple(known.items())
    )


@dataclass(eq=False)
class FileSource:
    """Implements `ImagerySource` over raster files; made by `files`."""

    sensor: Sensor
    found: tuple[Scene, ...]
    layout: tuple[str, ...]
    unit: Unit
    nodata: float | None
    codes: Mapping[int, int]
    scenes: dict[str, Scene] = field(default_factory=dict)

    def search(self, grid: Grid, period: Period) -> list[Scene]:
        """Scenes whose footprint meets the grid in the period, by date and id, undated ones in any period and last.

        The first search opens one file of each scene in the period. Raises Missing, Transient or Corrupt when
        none of a scene's files can be opened.
        """
        outlines: dict[int, Bounds] = {grid.epsg: grid.bounds}
        chosen = []
        for found in self.found:
            if found.date is not None and found.date not in period:
                continue
            scene = self.scenes.get(found.scene_id) or self._placed(found)
            if scene.epsg not in outlines:
                outlines[scene.epsg] = transform_bounds(
                    f"EPSG:{grid.epsg}", f"EPSG:{scene.epsg}", *grid.bounds
                )
            if _meet(scene.bounds, outlines[scene.epsg]):
                chosen.append(scene)
        return chosen

    def read(self, scene: Scene, grid: Grid) -> Raster:
        """The scene's pixels on exactly this grid; nodata where the grid leaves the scene.

        Raises Missing when a band has no file or no pixel of the grid lies in the scene, Corrupt when a file is
        damaged, Transient when a remote one does not answer.
        """
        stored = np.full((len(self.sensor.bands), *grid.shape), self.sensor.nodata, self.sensor.numpy_dtype)
        resampled, touched = False, False
        for head, members in self._lattices(scene):
            cut = _Cut.of(head, grid)
            if cut is None:
                continue
            raw, none = self._raw(members, cut)
            values, moved = cut.onto(grid, raw, none, self.sensor.kind == "map")
            stored[[place for place, _, _ in members]] = self._stored(values, none)
            resampled, touched = resampled or moved, True
        if not touched:
            raise Missing(
                f"scene {scene.scene_id} has no pixel on the chip {grid.bounds} of EPSG:{grid.epsg}"
            )
        if scene.get("offset_applied_by") == "us":
            stored = harmonise(stored)
        there = stored != self.sensor.nodata
        valid = there.any(axis=0) if self.sensor.kind == "optical" else there.all(axis=0)
        scl = self._classified(scene, grid)
        return Raster(stored, valid, grid, self.sensor.band_names, resampled, scl)

    def _lattices(self, scene: Scene) -> tuple[tuple[cog.FileLattice, tuple[Member, ...]], ...]:
        """Files of one lattice and dtype together."""
        assets = dict(scene.assets)
        absent = next((name for name in self.sensor.band_names if name not in assets), None)
        if absent is not None:
            raise Missing(
                f"scene {scene.scene_id} has no band {absent}; add its file, or list the wanted bands in `bands`"
            )
        split = [_split(assets[name]) for name in self.sensor.band_names]
        return _grouped(tuple((place, cog.file(path), index) for place, (path, index) in enumerate(split)))

    def _placed(self, found: Scene) -> Scene:
        assets = dict(found.assets)
        head = _first_readable(assets.values())
        if set(assets) == {WHOLE}:
            assets = self._stacked(assets[WHOLE], head)
        wanted = tuple(
            (name, path) for name, path in assets.items() if name in (*self.sensor.band_names, SCL)
        )
        scene = replace(
            found,
            sensor=self.sensor.name,
            epsg=head.lattice(1).epsg,
            bounds=head.lattice(1).bounds,
            assets=wanted,
        )
        self.scenes[found.scene_id] = scene
        return scene

    def _stacked(self, path: str, head: cog.Header) -> dict[str, str]:
        """Band -> path#number of a file that holds all bands."""
        whole = sensor_called(self.sensor.name)
        own = [band_of(name or "", whole) for name in head.names]
        if self.layout:
            names: Sequence[str | None] = self.layout
        elif any(own):
            names = own
        else:
            names = whole.band_names
        if len(names) > len(head.names) or (
            not self.layout and not any(own) and len(names) != len(head.names)
        ):
            raise Corrupt(
                f"{path} has {len(head.names)} bands where {len(names)} are expected ({', '.join(map(str, names))}); "
                f"name the order of its bands in `layout`"
            )
        return {name: f"{path}#{number}" for number, name in enumerate(names, 1) if name}

    def _raw(self, members: Sequence[Member], cut: _Cut) -> tuple[NDArray[Any], float]:
        """Pixels (C, h, w) in the files' own units, and the value that stands for 'none' among them."""
        parts = [cog.read(file, index, cut.row, cut.col, cut.height, cut.width) for _, file, index in members]
        raw = np.empty((len(parts), cut.height, cut.width), parts[0][0].dtype)
        for band, (pixels, _) in zip(raw, parts, strict=True):
            band[:] = pixels
        none = float(self.sensor.nodata)
        codes = {0.0, -32768.0} if self.unit in ("dB", "power") else {none}
        codes |= set() if self.nodata is None else {self.nodata}
        integer = raw.dtype.kind in "iu"
        same = integer and np.iinfo(raw.dtype).min <= none <= np.iinfo(raw.dtype).max
        if same and codes == {none} and all(absent is None for _, absent in parts):
            return raw, none
        lacking = np.zeros(raw.shape, bool)
        for gaps, (_, absent) in zip(lacking, parts, strict=True):
            if absent is not None:
                gaps |= absent
        for value in codes:
            lacking |= raw == value
        if not same:
            none = float("nan")
            raw = raw.astype(np.float64) if integer else raw
            lacking |= ~np.isfinite(raw)
        if lacking.any():
            raw[lacking] = none
        return raw, none

    def _stored(self, values: NDArray[Any], none: float) -> NDArray[Any]:
        """From the file's units to the sensor's; a measured value never takes the code for none."""
        if self.unit == "stored" and values.dtype == self.sensor.numpy_dtype:
            return values
        lacking = np.isnan(values) if none != none else values == none
        return as_stored(values, lacking, self.sensor, self.unit)

    def _classified(self, scene: Scene, grid: Grid) -> NDArray[np.uint8] | None:
        asset = scene.asset(SCL)
        if asset is None:
            return None
        path, index = _split(asset)
        cut = _Cut.of(cog.header(path).lattice(index), grid)
        if cut is None:
            return np.zeros(grid.shape, np.uint8)
        pixels, _ = cog.read(path, index, cut.row, cut.col, cut.height, cut.width)
        if self.codes:
            table = np.zeros(256, np.uint8)
            table[list(self.codes)] = list(self.codes.values())
            pixels = table[pixels.astype(np.uint8)]
        values, _ = cut.onto(grid, pixels[None].astype(np.uint8), 0, True)
        return np.asarray(values[0], np.uint8)


@functools.lru_cache(maxsize=4096)
def _grouped(members: tuple[Member, ...]) -> tuple[tuple[cog.FileLattice, tuple[Member, ...]], ...]:
    """Bands whose pixels lie alike and are of one dtype together, in order."""
    parts: dict[cog.FileLattice, list[Member]] = {}
    for member in members:
        _, file, index = member
        parts.setdefault(cog.header(file).lattice(index), []).append(member)
    return tuple((lattice, tuple(mine)) for lattice, mine in parts.items())


@dataclass(frozen=True)
class _Cut:
    """The part of a file that a grid needs: a window, and where it lies."""

    head: cog.FileLattice
    row: int
    col: int
    height: int
    width: int

    @classmethod
    def of(cls, head: cog.FileLattice, grid: Grid) -> _Cut | None:
        """None when no pixel of the file is under the grid."""
        window = _lattice_window(head, grid) or _outline_window(head, grid)
        row, col, height, width = window
        top, left = max(row, 0), max(col, 0)
        bottom, right = min(row + height, head.height), min(col + width, head.width)
        if top >= bottom or left >= right:
            return None
        return cls(head, top, left, bottom - top, right - left)

    def onto(
        self, grid: Grid, values: NDArray[Any], none: float, categorical: bool
    ) -> tuple[NDArray[Any], bool]:
        """The window's pixels (C, h, w) on the grid, and whether they were resampled."""
        native = self.head.grid
        if native is not None:
            part = native.crop(self.row, self.col, self.height, self.width)
            return regrid(values, part, grid, nodata=none, categorical=categorical)
        a, b, c, d, e, f = tuple(self.head.affine)[:6]
        moved = Affine(a, b, c + a * self.col + b * self.row, d, e, f + d * self.col + e * self.row)
        return warp(values, moved, self.head.epsg, grid, nodata=none, categorical=categorical), True


def _lattice_window(head: cog.FileLattice, grid: Grid) -> tuple[int, int, int, int] | None:
    """The window of a grid that lies on the file's lattice, no pixel more."""
    if head.grid is None or head.grid.gsd < grid.gsd:
        return None
    try:
        return head.grid.window(grid)
    except ValueError:
        return None


def _outline_window(head: cog.FileLattice, grid: Grid) -> tuple[int, int, int, int]:
    """The window that a warp to the grid can reach, with a margin."""
    bounds = grid.bounds
    if head.epsg != grid.epsg:
        bounds = transform_bounds(f"EPSG:{grid.epsg}", f"EPSG:{head.epsg}", *bounds)
    xmin, ymin, xmax, ymax = bounds
    inverse = ~head.affine
    corners = ((xmin, ymin), (xmin, ymax), (xmax, ymin), (xmax, ymax))
    cols = [inverse.a * x + inverse.b * y + inverse.c for x, y in corners]
    rows = [inverse.d * x + inverse.e * y + inverse.f for x, y in corners]
    col, row = int(np.floor(min(cols))) - _MARGIN, int(np.floor(min(rows))) - _MARGIN
    return row, col, int(np.ceil(max(rows))) + _MARGIN - row, int(np.ceil(max(cols))) + _MARGIN - col


def _first_readable(paths: Iterable[str]) -> cog.Header:
    """The header of the first file that opens; raises what the last one raised when none does."""
    failure: Missing | Corrupt | None = None
    for path in paths:
        try:
            return cog.header(_split(path)[0])
        except (Missing, Corrupt) as error:
            failure = error
    raise failure or Missing("a scene without files has no place")


def _split(asset: str) -> tuple[str, int]:
    """'path#3' is band 3 of a file, 'path' its first."""
    path, mark, number = asset.rpartition("#")
    return (path, int(number)) if mark and number.isdigit() else (asset, 1)


def _meet(scene: Bounds, chip: Bounds) -> bool:
    xmin, ymin, xmax, ymax = chip
    across = scene[0] < xmax and scene[2] > xmin
    if xmin > xmax:  # the chip crosses the antimeridian, seen in degrees
        across = scene[2] > xmin or scene[0] < xmax
    return across and scene[1] < ymax and scene[3] > ymin
