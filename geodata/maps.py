"""A scene in, strip by strip, and a map of the same ground out: what an encoder that has learned a task is used for.

A scene keeps the coordinate system and the pixels it came with, whatever they are, because a map has to lie on it
exactly; nothing is warped here. Its numbers are brought to what a corpus stores, in which the encoder has learned, and a
band is taken for another only by name: of the file, of its colours, or of the caller.
"""

from __future__ import annotations

import colorsys
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geodata.errors import Corrupt, Missing
from geodata.files import replacing, write_atomic
from geodata.pictures import RGB, STRATUM_COLOURS, faded
from geodata.radiometry import Unit, as_stored, harmonise
from geodata.sensors import SENSORS, Sensor
from geodata.sources.naming import band_of

__all__ = ["EMPTY", "Conventions", "Offset", "OpenScene", "Strip", "mapped", "opened", "palette", "style"]

EMPTY = 255
"""The value of a map where the scene has no data."""

Strip = tuple[NDArray[Any], NDArray[np.bool_]]
"""Pixels (T, C, h, W) in stored units, one T for each scene, and where (h, W) all scenes have data in some band."""

Offset = Literal["none", "remove"]
"""Whether numbers carry the 1,000 that Sentinel-2 adds since 2022, to be taken off."""

COLOURS = {"R": ColorInterp.red, "G": ColorInterp.green, "B": ColorInterp.blue}
BLOCK = 512

USUAL: tuple[tuple[str, RGB], ...] = (
    ("unchanged", (225, 225, 225)),
    ("changed", (214, 39, 40)),
    ("background", (225, 225, 225)),
    ("road", (110, 110, 120)),
    *(
        (start, STRATUM_COLOURS[stratum])
        for stratum, starts in {
            "wetland": ("wetland", "flooded"),
            "watershed": ("water", "river", "lake"),
            "forest": ("forest", "tree", "wood"),
            "shrub": ("shrub",),
            "farmland": ("crop", "cultivated", "agricultur", "farm", "field"),
            "grassland": ("grass", "pasture", "rangeland", "vegetation"),
            "urban": ("urban", "built", "building", "impervious", "artificial"),
            "desert": ("bare", "barren", "soil", "sand", "desert"),
            "ice": ("snow",),
            "cloud": ("cloud",),
        }.items()
        for start in starts
    ),
)
"""How a word of a class's name begins -> the colour it has on maps; the first that fits."""


@dataclass(frozen=True)
class Conventions:
    """How the numbers of a file are to be read.

    `bands` name its bands in order, where the file does not; `unit` is what numbers mean, the sensor's `stored` unit,
    reflectance from 0 to 1, dB, or linear power.
    """

    bands: tuple[str, ...] = ()
    unit: Unit = "stored"
    offset: Offset = "none"


@dataclass(frozen=True)
class OpenScene:
    """Files of one lattice, open for reading, and the numbers in them of the bands that are wanted, in their order."""

    files: tuple[Any, ...]
    sensor: Sensor
    indices: tuple[tuple[int, ...], ...]
    reading: Conventions

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.files[0].height, self.files[0].width

    def strip(self, top: int, height: int) -> Strip:
        """Rows `top` to `top + height` in the whole width, as many of them as there are. Raises Corrupt."""
        window = Window(0, top, self.shape[1], min(height, self.shape[0] - top))
        parts = [
            self._read(file, indices, window) for file, indices in zip(self.files, self.indices, strict=True)
        ]
        valid = np.logical_and.reduce([there.any(0) for _, there in parts])
        return np.stack([pixels for pixels, _ in parts]), valid

    def _read(
        self, file: Any, indices: tuple[int, ...], window: Window
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Stored pixels (C, h, W) and where each has data."""
        try:
            raw = file.read(list(indices), window=window)
            lacking = file.read_masks(list(indices), window=window) == 0
        except RasterioError as error:
            raise Corrupt(f"{file.name} cannot be read ({error}); fetch it again") from error
        if raw.dtype.kind == "f":
            lacking |= ~np.isfinite(raw)
        if self.reading.unit == "stored":
            lacking |= raw == self.sensor.nodata
        if self.reading.unit == "stored" and raw.dtype == self.sensor.numpy_dtype:
            stored = np.where(lacking, raw.dtype.type(self.sensor.nodata), raw)
        else:
            stored = as_stored(raw, lacking, self.sensor, self.reading.unit)
        if self.reading.offset == "remove":
            stored = harmonise(stored)
        return stored, ~lacking


@contextmanager
def opened(
    paths: Sequence[Path], layer: str, bands: Sequence[str], reading: Conventions | None = None
) -> Iterator[OpenScene]:
    """The scene of one or several dates in raster files of one lattice, for the bands of a corpus's layer.

    Raises Missing for a file that is not there or no raster; ValueError where a band is missing or unnamed, a file lies
    nowhere, or files do not lie on each other.
    """
    reading = reading or Conventions()
    sensor = _sensor(layer, tuple(bands))
    with ExitStack() as held:
        files = [held.enter_context(_file(path)) for path in paths]
        first = files[0]
        for file in files[1:]:
            if (file.crs, file.transform, file.shape) != (first.crs, first.transform, first.shape):
                raise ValueError(
                    f"{file.name} ({_lattice(file)}) does not lie on {first.name} ({_lattice(first)}): both dates must "
                    "have one lattice; warp one onto the other first"
                )
        indices = tuple(_indices(file, sensor, reading.bands) for file in files)
        yield OpenScene(tuple(files), sensor, indices, reading)


def _sensor(layer: str, bands: tuple[str, ...]) -> Sensor:
    """The bands wanted of a layer, as the sensor that has them delivers them."""
    known = [one for one in SENSORS if one.prefix == layer]
    for one in known:
        if set(bands) <= set(one.band_names):
            return one.pick(bands)
    raise ValueError(
        f"no sensor fills layer {layer!r} with {', '.join(bands)}: scenes can be read of "
        + ", ".join(sorted({one.prefix for one in SENSORS}))
    )


def _file(path: Path) -> Any:
    try:
        file = rasterio.open(path)
    except RasterioError as error:
        raise Missing(f"{path} is no raster that can be opened ({error}); check the path") from error
    if file.crs is None:
        file.close()
        raise ValueError(
            f"{path} has no coordinate system, so a map of it would lie nowhere; assign one to it"
        )
    return file


def _lattice(file: Any) -> str:
    return (
        f"{file.crs}, {file.height} x {file.width} pixels, corner {file.transform.c:g}, {file.transform.f:g}"
    )


def _indices(file: Any, sensor: Sensor, told: tuple[str, ...]) -> tuple[int, ...]:
    """Numbers, from 1, of the sensor's bands in a file: by what the caller says, by their names, by their colours."""
    if len(told) > file.count:
        raise ValueError(
            f"{file.name} has {file.count} bands, but {len(told)} are named ({', '.join(told)}); name at most as many"
        )
    names = [band_of(name, sensor) if name else None for name in (told or file.descriptions)]
    if not told and not any(names):
        colours = {colour: name for name, colour in COLOURS.items()}
        names = [colours.get(colour) for colour in file.colorinterp]
    missing = [band for band in sensor.band_names if band not in names]
    if missing:
        held = ", ".join(name or "?" for name in (told or file.descriptions))
        raise ValueError(
            f"{file.name} has {file.count} bands ({held}) and none is known to be {', '.join(missing)}; the encoder reads "
            f"{', '.join(sensor.band_names)}: choose a scene that has them, or name its bands in order with --bands"
        )
    return tuple(names.index(band) + 1 for band in sensor.band_names)


@contextmanager
def mapped(
    path: Path, scene: OpenScene, classes: Mapping[int, str], tags: Mapping[str, str]
) -> Iterator[Callable[[int, NDArray[np.uint8]], None]]:
    """A function that writes rows of class values (h, W) at a row; after it, the map is at `path`, whole or not at all.

    The map is a cloud-optimised GeoTIFF on the scene's lattice: one uint8 band, 255 where there is nothing, a colour for
    each class, overviews that take the nearest pixel, and tags, `classes` (JSON, value -> name) among them. Beside it a
    style of the same name (.qml) tells QGIS names and colours.
    """
    source = scene.files[0]
    if path.exists() and any(os.path.samefile(path, file.name) for file in scene.files):
        raise ValueError(f"{path} is the scene itself; write the map elsewhere")
    height, width = scene.shape
    profile = {
        "driver": "GTiff", "dtype": "uint8", "count": 1, "height": height, "width": width, "nodata": EMPTY,
        "crs": source.crs, "transform": source.transform, "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK,
        "compress": "deflate", "bigtiff": "if_safer",
    }  # fmt: skip
    with replacing(path) as temporary:
        draft = temporary.with_name(f"{temporary.name}.draft")
        try:
            with rasterio.open(draft, "w", **profile) as file:
                file.write_colormap(1, palette(classes))
                names = {str(value): name for value, name in classes.items()}
                file.update_tags(**{**tags, "classes": json.dumps(names)})

                def put(top: int, values: NDArray[np.uint8]) -> None:
                    file.write(values, 1, window=Window(0, top, width, len(values)))

                yield put
            options = {"overview_resampling": "nearest", "blocksize": BLOCK, "bigtiff": "if_safer"}
            rasterio.shutil.copy(draft, temporary, driver="COG", compress="deflate", **options)
        finally:
            draft.unlink(missing_ok=True)
    write_atomic(path.with_suffix(".qml"), style(classes))


def palette(classes: Mapping[int, str]) -> dict[int, tuple[int, int, int, int]]:
    """A colour (red, green, blue, alpha) for every value; the value where there is nothing is transparent.

    Ground that maps usually show in a colour of its own has that colour, lighter where several classes share it; other
    classes have hues a golden section apart.
    """
    found, used = {EMPTY: (255, 255, 255, 0)}, Counter[RGB]()
    for number, value in enumerate(sorted(classes)):
        words = classes[value].lower().replace("-", " ").replace("_", " ").split()
        usual = next(
            (colour for start, colour in USUAL if any(word.startswith(start) for word in words)), None
        )
        if usual:
            red, green, blue = faded(usual, used[usual])
            used[usual] += 1
        else:
            shade = colorsys.hsv_to_rgb(0.6 + number * 0.618034, 0.65, (0.85, 0.6)[number % 2])
            red, green, blue = (round(255 * part) for part in shade)
        found[value] = (red, green, blue, 255)
    return found


def style(classes: Mapping[int, str]) -> bytes:
    """A style of QGIS (QML): each class with its colour and its name, and no other value in the legend."""
    document = ElementTree.Element("qgis", version="3.22")
    renderer = ElementTree.SubElement(
        ElementTree.SubElement(document, "pipe"), "rasterrenderer", type="paletted", band="1", opacity="1"
    )
    entries = ElementTree.SubElement(renderer, "colorPalette")
    colours = palette(classes)
    for value in sorted(classes):
        red, green, blue, alpha = colours[value]
        colour = f"#{red:02x}{green:02x}{blue:02x}"
        told = {"value": str(value), "color": colour, "alpha": str(alpha), "label": classes[value]}
        ElementTree.SubElement(entries, "paletteEntry", told)
    return ElementTree.tostring(document)
