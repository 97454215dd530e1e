"""What a source of imagery is, and the values that pass through it: periods, scenes, rasters, addresses.

A source answers two questions and decides nothing: which scenes touch this ground in this period, and what are a
scene's pixels on exactly this grid. Which scene is best is for `compose`; retrying beyond its own transport is
for nobody.
"""

from __future__ import annotations

import importlib
import math
import re
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import rasterio.transform
import rasterio.warp
from affine import Affine
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from geodata.codec import Encoded
from geodata.errors import DataError
from geodata.governor import Limits
from geodata.grid import Bounds, Grid, whole
from geodata.sensors import Sensor

Pixels = NDArray[Any]
Value = str | int | float | bool | None

SCL_CLOUD = (3, 8, 9, 10)
"""Sentinel-2 scene classification: cloud shadow, cloud medium, cloud high, cirrus."""
SCL_BAD = (0, 1, *SCL_CLOUD)
"""What may not count as a clear observation: the above, no data and saturated. Snow is not cloud."""
_SHARES = {"cloud": SCL_CLOUD, "bad": SCL_BAD, "water": (6,), "snow": (11,)}


@dataclass(frozen=True)
class Period:
    """Dates from `first` up to, not including, `last`."""

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.first >= self.last:
            raise ValueError(
                f"a period runs forward, not from {self.first} to {self.last}; swap or move the dates"
            )

    @classmethod
    def from_text(cls, text: str) -> Period:
        """From 'YYYY-MM-DD/YYYY-MM-DD'. Raises ValueError for anything else."""
        parts = text.split("/")
        if len(parts) != 2:
            raise ValueError(f"a period is written YYYY-MM-DD/YYYY-MM-DD, not {text!r}")
        return cls(date.fromisoformat(parts[0]), date.fromisoformat(parts[1]))

    def __contains__(self, day: date) -> bool:
        return self.first <= day < self.last

    def __str__(self) -> str:
        return f"{self.first}/{self.last}"


@dataclass(frozen=True)
class Scene:
    """One acquisition by one sensor: metadata only. `bounds` (xmin, ymin, xmax, ymax) are in units of `epsg`.

    `date` is None where nobody states it, as with the mosaics of map engines. Every source sets the properties
    `license`, `attribution` and `redistribute` (bool), and those its sensor records for each date.
    """

    scene_id: str
    sensor: str
    date: date | None
    epsg: int
    bounds: Bounds
    assets: tuple[tuple[str, str], ...] = ()
    properties: tuple[tuple[str, Value], ...] = ()

    def get(self, key: str, default: Value = None) -> Value:
        """A property of the scene, or `default`."""
        return dict(self.properties).get(key, default)

    def asset(self, band: str) -> str | None:
        """Where a band's file is, or None when the scene lacks it."""
        return dict(self.assets).get(band)


@dataclass(frozen=True)
class Raster:
    """Pixels (C, H, W) on a grid, and which of them are valid (H, W).

    `scl` are Sentinel-2 scene classification codes on the same grid (H, W) where the source has them;
    `resampled` is True when any band was warped rather than read or repeated pixel by pixel. `encoded` are the
    original files of which these pixels are the decoded, stitched picture; a corpus then keeps those.
    """

    values: Pixels
    valid: NDArray[np.bool_]
    grid: Grid
    bands: tuple[str, ...]
    resampled: bool = False
    scl: NDArray[np.uint8] | None = None
    encoded: Encoded | None = None

    def __post_init__(self) -> None:
        expected = (len(self.bands), *self.grid.shape)
        if self.values.shape != expected or self.valid.shape != self.grid.shape:
            raise ValueError(
                f"pixels {self.values.shape} and validity {self.valid.shape} do not fit {expected}"
            )

    def share(self, what: str) -> float:
        """Share of the grid (0 to 1) that is 'valid', or of the valid pixels 'cloud', 'bad', 'water' or 'snow'.

        Without a classification the last four are nan: unknown is not zero.
        """
        if what == "valid":
            return float(self.valid.mean())
        if self.scl is None or not self.valid.any():
            return float("nan")
        return float(np.isin(self.scl[self.valid], _SHARES[what]).mean())


class ImagerySource(Protocol):
    """Where a sensor's pixels come from."""

    sensor: Sensor

    def search(self, grid: Grid, period: Period) -> list[Scene]:
        """Scenes that touch the grid in the period, ordered by date and id; cheap, metadata only."""
        ...

    def read(self, scene: Scene, grid: Grid) -> Raster:
        """The scene's pixels on exactly this grid. Raises Missing, Transient or Corrupt."""
        ...


@runtime_checkable
class Stacking(Protocol):
    """A source that reads several scenes on one grid in fewer requests than one each."""

    def stack(self, scenes: Sequence[Scene], grid: Grid) -> list[Raster | DataError]:
        """One entry a scene, in order: its raster, or the error (Missing, Corrupt, Transient) of that scene alone."""
        ...


@runtime_checkable
class Recalling(Protocol):
    """A source that finds a scene by its id, though a search may no longer list it."""

    def by_ids(self, scene_ids: Sequence[str]) -> list[Scene]:
        """The scenes of these ids, in order. Raises Missing for one that is gone."""
        ...


@dataclass(frozen=True)
class Ask:
    """What reading would take of a service, on average: requests, and bytes moved."""

    requests: float
    bytes: float

    def __add__(self, other: Ask) -> Ask:
        return Ask(self.requests + other.requests, self.bytes + other.bytes)


@runtime_checkable
class Priced(Protocol):
    """A source that knows beforehand what reading takes."""

    def cost(self, scene_count: int, grid: Grid) -> Ask:
        """What searching and reading so many scenes of one chip on this grid would take."""
        ...


@runtime_checkable
class Served(Protocol):
    """A source behind a service: several chips at a time are worth asking for, since most of the time is waiting.

    Whoever says so may be called by several threads at once.
    """

    @property
    def limits(self) -> Limits:
        """What the service allows one account."""
        ...


def regrid(
    values: Pixels, native: Grid, grid: Grid, *, nodata: float, categorical: bool
) -> tuple[Pixels, bool]:
    """Put pixels (C, h, w) of `native` onto `grid`: (C, H, W), and whether they had to be resampled.

    Where the grid's corner lies on a native pixel corner and the native GSD is a whole multiple of the grid's, each
    pixel is repeated and nothing is interpolated. Otherwise one `warp`. Ground outside `native` becomes `nodata`.
    """
    ratio = whole(native.gsd / grid.gsd)
    if ratio:
        try:
            row, col, height, width = native.window(grid)
        except ValueError:
            pass
        else:
            cut = np.full((values.shape[0], height, width), nodata, values.dtype)
            top, left = max(row, 0), max(col, 0)
            bottom, right = min(row + height, native.height), min(col + width, native.width)
            if top < bottom and left < right:
                cut[:, top - row : bottom - row, left - col : right - col] = values[:, top:bottom, left:right]
            repeated = cut.repeat(ratio, axis=1).repeat(ratio, axis=2) if ratio > 1 else cut
            return np.ascontiguousarray(repeated[:, : grid.height, : grid.width]), False
    return warp(values, native.affine(), native.epsg, grid, nodata=nodata, categorical=categorical), True


def warp(
    values: Pixels, affine: Affine, epsg: int, grid: Grid, *, nodata: float, categorical: bool
) -> Pixels:
    """Resample pixels (C, h, w) in any CRS and transform onto `grid`, once: (C, H, W).

    Nearest for categories, bilinear for measurements, average when the grid's pixels are 1.5 times as large or
    more (bilinear would skip pixels). `nodata` takes no part and marks ground outside; it may be nan.
    """
    height, width = values.shape[1:]
    bounds = rasterio.transform.array_bounds(height, width, affine)
    west, south, east, north = rasterio.warp.transform_bounds(f"EPSG:{epsg}", f"EPSG:{grid.epsg}", *bounds)
    native_gsd = math.sqrt((east - west) * (north - south) / (height * width))
    measured = "average" if grid.gsd >= 1.5 * native_gsd else "bilinear"
    out = np.full((values.shape[0], *grid.shape), nodata, values.dtype)
    rasterio.warp.reproject(
        values,
        out,
        src_transform=affine,
        src_crs=f"EPSG:{epsg}",
        dst_transform=grid.affine(),
        dst_crs=f"EPSG:{grid.epsg}",
        src_nodata=nodata,
        dst_nodata=nodata,
        resampling=rasterio.warp.Resampling["nearest" if categorical else measured],
    )
    return out


def at_home(path: str) -> str:
    """A path with `~/` at its start, or at the start of the archive in `/vsizip/{~/...}`, in the user's home.

    Specs keep the `~`, so that the same corpus has the same fingerprint on another machine.
    """
    return re.sub(r"^~/|(?<=\{)~/", lambda _: f"{Path.home()}/", path)


class Address(BaseModel):
    """A function that opens a source or a land-cover map, by its dotted name, and its arguments.

    `sources.geotiff.files` is short for `geodata.sources.geotiff.files`; a dotted name of your own package works
    as well. Names are addresses: to find the code, follow the name through the file tree.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    call: str
    options: dict[str, Any] = Field(default_factory=dict)

    def open(self) -> Any:
        """Call the function. Raises ValueError when it does not exist, is no opener, or refuses the options.

        Only a function that declares to return an `ImagerySource` or a `LandCover` is called: a spec file from
        elsewhere cannot name anything else.
        """
        function = _function(self.call)
        returned = getattr(typing.get_type_hints(function).get("return"), "__name__", None)
        if returned not in ("ImagerySource", "LandCover"):
            raise ValueError(
                f"{self.call!r} opens no source: it must be a function declared to return ImagerySource"
            )
        try:
            return function(**self.options)
        except TypeError as error:
            raise ValueError(
                f"{self.call!r} does not take options {sorted(self.options)}: {error}"
            ) from error


def _function(call: str) -> Callable[..., Any]:
    module_name, _, name = call.rpartition(".")
    for candidate in (f"geodata.{module_name}", module_name):
        try:
            module = importlib.import_module(candidate)
        except ModuleNotFoundError as error:
            if error.name and not candidate.startswith(error.name):
                raise
            continue
        function = getattr(module, name, None)
        if callable(function):
            return typing.cast("Callable[..., Any]", function)
    raise ValueError(
        f"{call!r} is no function here; write module.function as in 'sources.synthetic.sentinel2'"
    )
