"""Arrays out of the files that data sets are published as: GeoTIFF, PNG, JPEG, NumPy. Nothing is unpickled.

Whatever goes wrong in a file is Missing or Corrupt, and names it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import Resampling
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from geodata.benchmarks import IGNORED
from geodata.codec import Encoded
from geodata.errors import Corrupt, Missing
from geodata.grid import unproject
from geodata.sample import Layer
from geodata.sensors import MASK, SENTINEL1, Sensor

__all__ = [
    "Array",
    "Box",
    "coded",
    "cut",
    "decibels",
    "found",
    "lonlat",
    "mask",
    "npy",
    "one_of",
    "picture",
    "raster",
    "reflectance",
    "size",
    "stack",
    "told",
]

Array = NDArray[Any]
Box = tuple[int, int, int, int]
"""Row, column, height and width of a window; it may reach beyond the image, where nodata is put."""


def raster(
    path: Path,
    bands: Sequence[int] | None = None,
    box: Box | None = None,
    shape: tuple[int, int] | None = None,
) -> Array:
    """Bands (from 1; all of them by default) of a GeoTIFF (C, H, W), of a window or bilinearly resampled to a shape."""
    with told(path), rasterio.open(path) as source:
        chosen = list(bands) if bands is not None else list(source.indexes)
        if box is None:
            size = None if shape is None else (len(chosen), *shape)
            whole: Array = source.read(chosen, out_shape=size, resampling=Resampling.bilinear)
            return whole
        row, col, height, width = box
        inside = min(height, source.height - row), min(width, source.width - col)
        part = source.read(chosen, window=Window(col, row, inside[1], inside[0]))
        return cut(part, (0, 0, height, width), 0)


def size(path: Path) -> tuple[int, int]:
    """Height and width, from the header alone."""
    if path.suffix.lower() in (".tif", ".tiff"):
        with told(path), rasterio.open(path) as source:
            return source.height, source.width
    with told(path), Image.open(path) as image:
        return image.height, image.width


def lonlat(path: Path) -> tuple[float, float]:
    """Longitude and latitude of the middle of a GeoTIFF; nan where it does not say where it lies."""
    with told(path), rasterio.open(path) as source:
        epsg = source.crs.to_epsg() if source.crs else None
        if epsg is None:
            return nan, nan
        x, y = source.transform @ (source.width / 2, source.height / 2)
        lon, lat = unproject([x], [y], epsg)
        return float(lon[0]), float(lat[0])


@functools.lru_cache(maxsize=4)
def picture(path: Path) -> NDArray[np.uint8]:
    """A picture as RGB (3, H, W). The last few are kept: chips of one scene are read one after another."""
    with told(path), Image.open(path) as image:
        return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))


@functools.lru_cache(maxsize=4)
def coded(path: Path) -> NDArray[np.uint8]:
    """A picture of codes (H, W): grey values, or the indices of a palette."""
    with told(path), Image.open(path) as image:
        if image.mode not in ("1", "L", "P"):
            raise Corrupt(
                f"{path} has pixels of mode {image.mode}, but a mask has one value a pixel; check it"
            )
        plain = image.convert("L") if image.mode == "1" else image
        return np.asarray(plain).copy()


def npy(path: Path) -> Array:
    """An array of a NumPy file, never one that holds objects."""
    with told(path):
        array: Array = np.load(path, allow_pickle=False)
        return array


def cut(image: Array, box: Box, fill: int) -> Array:
    """A window of an image (..., H, W); what lies beyond is `fill`."""
    row, col, height, width = box
    inside = image[..., row : row + height, col : col + width]
    short = (height - inside.shape[-2], width - inside.shape[-1])
    if short == (0, 0):
        return inside
    padding = [(0, 0)] * (image.ndim - 2) + [(0, short[0]), (0, short[1])]
    return np.pad(inside, padding, constant_values=fill)


def found(root: Path, pattern: str) -> list[Path]:
    """Files below a folder, in order of path."""
    return sorted(path for path in root.rglob(pattern) if path.is_file())


def one_of(paths: Sequence[Path], what: str) -> Path:
    """The one file of that kind. Raises Missing when there is none, ValueError when there are several."""
    if not paths:
        raise Missing(f"there is no {what}")
    if len(paths) > 1:
        raise ValueError(f"there are {len(paths)} files for {what} ({paths[0]}, {paths[1]}); keep one")
    return paths[0]


def reflectance(values: Array, factor: float = 1.0) -> NDArray[np.uint16]:
    """Reflectance as it is stored: whole numbers from 0 to 65535 of `values` times `factor`; nan and less are nodata, 0."""
    scaled = np.nan_to_num(np.asarray(values, np.float64) * factor, nan=0.0, posinf=0.0, neginf=0.0)
    return np.clip(np.round(scaled), 0, 65535).astype(np.uint16)


def decibels(values: Array) -> NDArray[np.int16]:
    """Radar as it is stored: hundredths of a decibel; what is not finite is nodata."""
    known = np.isfinite(values)
    whole = np.clip(np.round(np.where(known, values, 0.0).astype(np.float64) * 100), -32767, 32767)
    return np.where(known, whole, SENTINEL1.nodata).astype(np.int16)


def stack(
    sensor: Sensor,
    pixels: Array,
    terms: tuple[str, str],
    dates: Sequence[date | None] | None = None,
    *,
    names: Sequence[str] = (),
    gsd: float = 0.0,
    properties: Mapping[str, tuple[str | None, ...]] | None = None,
    encoded: tuple[Encoded, ...] = (),
) -> Layer:
    """Pixels (T, C, H, W) as a layer under `terms`, which are licence and attribution; `names` are those of its files."""
    times = tuple(dates) if dates is not None else (None,) * len(pixels)
    return Layer(
        sensor,
        np.ascontiguousarray(pixels),
        times,
        tuple(names) or ("",) * len(times),
        "benchmark",
        properties=dict(properties or {}),
        gsd=gsd,
        license=terms[0],
        attribution=terms[1],
        redistribute=False,
        encoded=encoded,
    )


def mask(
    codes: Array, table: Mapping[int, int], terms: tuple[str, str], *, what: object, gsd: float = 0.0
) -> Layer:
    """A mask layer of stored codes (H, W), each made a class by `table`. Raises ValueError for a code that is not there."""
    lookup = np.full(256, -1, np.int16)
    for code, index in table.items():
        lookup[code] = index
    values = np.asarray(codes)
    outside = values[(values < 0) | (values > IGNORED)]
    classes = lookup[np.clip(values, 0, IGNORED).astype(np.uint8)]
    strange = values[classes < 0]
    if outside.size or strange.size:
        first = outside[0] if outside.size else strange[0]
        raise ValueError(
            f"{what}: code {first} is none of {sorted(table)}; is this the data set it should be?"
        )
    return stack(MASK, classes.astype(np.uint8)[None, None], terms, gsd=gsd)


@contextmanager
def told(path: Path | str) -> Iterator[None]:
    """Failures of a file in our own words."""
    try:
        yield
    except FileNotFoundError as error:
        raise Missing(f"there is no file {path}") from error
    except (
        RasterioIOError,
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        Image.DecompressionBombError,
    ) as error:
        if isinstance(path, Path) and not path.exists():
            raise Missing(f"there is no file {path}") from error
        raise Corrupt(f"{path} cannot be read ({error}); fetch it again") from error
