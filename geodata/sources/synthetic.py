"""An invented Earth, offline: Sentinel-2, Sentinel-1, an optical camera and a land-cover map, all of one world.

Pixels are a pure function of ground, date and seed (`geodata.earth` says how), so there are no files: a scene is a date,
an orbit and a square of 100 km, like a tile of Sentinel-2, that reaches 30 km over its edges. It serves runs without a
network, contract tests, benchmarks, and tests of what a method can learn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geodata.earth import camera, ground, msi, radar, sky
from geodata.earth.truth import Outline
from geodata.earth.truth import truth as outlines
from geodata.errors import Missing
from geodata.grid import Bounds, Grid, unproject
from geodata.landcover import ESRI_2020, ClassTable, LandCover
from geodata.sensors import LANDCOVER, OPTICAL, SENTINEL1, SENTINEL2, SENTINEL2_L1C, SENTINEL2_L2A, Sensor
from geodata.source import ImagerySource, Period, Raster, Scene, Value, regrid

Level = Literal["l1c", "l2a", "ten"]

_LEVELS = {"l1c": SENTINEL2_L1C, "l2a": SENTINEL2_L2A, "ten": SENTINEL2}
_TILE_M, _OVERLAP_M = 100_000.0, 30_000.0
_ORBITS = 143
_PIECE = 768
"""Pixels a side that are rendered at a time: memory stays small, and pixels do not change."""
_FREE: dict[str, Value] = {
    "license": "CC0-1.0",
    "attribution": "synthetic Earth",
    "redistribute": True,
}
BASELINE = "05.10"
"""Processing baseline that scenes carry; the offset of 1,000 that it has in the wild is already taken off."""


def sentinel2(seed: int = 0, level: Level = "ten") -> ImagerySource:
    """Sentinel-2 every five days, with clouds, shadows and their classification: DN, 10,000 times reflectance.

    `level`: "l1c" is top of atmosphere in 13 bands, "l2a" surface reflectance in 12, "ten" the 10 and 20 m bands of
    that. Raises ValueError for another.
    """
    if level not in _LEVELS:
        raise ValueError(f"level {level!r} is not made here; choose {', '.join(_LEVELS)}")
    return _Sentinel2(_LEVELS[level], seed, 5, 10.0)


def sentinel1(seed: int = 0) -> ImagerySource:
    """Sentinel-1 every six days, ascending and descending in turn: terrain-corrected gamma0 in hundredths of a dB."""
    return _Sentinel1(SENTINEL1, seed, 6, 10.0)


def optical(seed: int = 0, gsd: float = OPTICAL.gsd) -> ImagerySource:
    """Red, green and blue of a cloudless day every four weeks, at any GSD down to `gsd` metres.

    A grid finer than `gsd` gets pixels of that size, repeated. Raises ValueError outside 0.3 to 10 m.
    """
    if not 0.3 <= gsd <= 10.0:
        raise ValueError(f"the camera sees 0.3 to 10 m, not {gsd:g} m; choose a GSD in that range")
    return _Optical(replace(OPTICAL, gsd=gsd), seed, 28, gsd)


def landcover(seed: int = 0) -> LandCover:
    """The map that all the sensors see, in the ten classes of ESRI 2020."""
    return _Map(seed)


def truth(grid: Grid, seed: int = 0) -> dict[str, list[Outline]]:
    """Outlines of 'buildings' (by roof) and 'parcels' (by crop) in the grid's CRS. Missing beyond UTM's latitudes."""
    return outlines(grid, seed)


@dataclass
class _Synthetic:
    """What the sensors share: scenes by orbit, and pixels from native ones. `days` between passes, `gsd` native."""

    sensor: Sensor
    seed: int
    days: int
    gsd: float

    def search(self, grid: Grid, period: Period) -> list[Scene]:
        """See `ImagerySource`: scenes of the tile that holds the grid's middle."""
        ground.refuse_beyond_utm(grid)
        column, row, bounds = _tile(grid)
        orbit, phase = self._orbit(grid.epsg, bounds)
        first = period.first.toordinal()
        first += (phase - first) % self.days
        dates = [date.fromordinal(day) for day in range(first, period.last.toordinal(), self.days)]
        zone = f"{grid.epsg % 100:02d}{'N' if grid.epsg < 32700 else 'S'}"
        properties = self._properties(dates, orbit, grid.epsg, bounds)
        return [
            Scene(
                f"{self._name(day)}_{day:%Y%m%d}_R{orbit:03d}_{zone}{column:02d}{row:03d}",
                self.sensor.name,
                day,
                grid.epsg,
                bounds,
                properties=tuple((_FREE | known).items()),
            )
            for day, known in zip(dates, properties, strict=True)
        ]

    def read(self, scene: Scene, grid: Grid) -> Raster:
        """See `ImagerySource`. Raises Missing for ground outside the scene or in another zone."""
        ground.refuse_beyond_utm(grid)
        inside = self._inside(scene, grid)
        native = _covering(grid, self.gsd) if grid.gsd <= self.gsd or not self._any_gsd() else grid
        values, scl = self._rendered(scene, native)
        resampled = False
        if native != grid:
            values, resampled = regrid(values, native, grid, nodata=self.sensor.nodata, categorical=False)
            if scl is not None:
                scl = regrid(scl[None], native, grid, nodata=0, categorical=True)[0][0]
        values[:, ~inside] = self.sensor.nodata
        if scl is not None:
            scl[~inside] = 0
        return Raster(values, inside, grid, self.sensor.band_names, resampled, scl)

    def _rendered(self, scene: Scene, grid: Grid) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
        """Native pixels (C, H, W) and their classification, in pieces where the grid is large."""
        if max(grid.shape) <= _PIECE:
            return self._render(scene, grid)
        values = np.empty((len(self.sensor.bands), *grid.shape), self.sensor.numpy_dtype)
        scl = np.zeros(grid.shape, np.uint8)
        classified = False
        for piece in grid.tiles(_PIECE):
            here = _window(grid, piece)
            values[:, *here], codes = self._render(scene, piece)
            if codes is not None:
                scl[here], classified = codes, True
        return values, scl if classified else None

    def _inside(self, scene: Scene, grid: Grid) -> NDArray[np.bool_]:
        """Which pixels (H, W) the scene holds."""
        west, south, east, north = scene.bounds
        x, y = grid.xy()
        inside = ((y > south) & (y < north))[:, None] & ((x > west) & (x < east))
        if scene.epsg != grid.epsg or not inside.any():
            raise Missing(
                f"scene {scene.scene_id} (EPSG:{scene.epsg}) does not reach {grid.bounds} in EPSG:{grid.epsg}; "
                f"search with the grid that is read"
            )
        return inside

    def _orbit(self, epsg: int, bounds: Bounds) -> tuple[int, int]:
        """Relative orbit of a tile, and the day of the cycle it passes: both from the longitude of its middle."""
        west, south, east, north = bounds
        lon, _ = unproject((west + east) / 2, (south + north) / 2, epsg)
        orbit = int((float(lon) + 180.0) % 360.0 / 360.0 * _ORBITS) + 1
        return orbit, (2 * orbit + self.seed) % self.days

    def _any_gsd(self) -> bool:
        """Whether a coarser grid than native may be rendered as it is."""
        return False

    def _name(self, day: date) -> str:
        raise NotImplementedError

    def _properties(self, dates: list[date], orbit: int, epsg: int, bounds: Bounds) -> list[dict[str, Value]]:
        raise NotImplementedError

    def _render(self, scene: Scene, grid: Grid) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
        raise NotImplementedError


class _Sentinel2(_Synthetic):
    def _name(self, day: date) -> str:
        level = "L1C" if self.sensor is SENTINEL2_L1C else "L2A"
        return f"S2{'AB'[day.toordinal() // self.days % 2]}_MSI{level}"

    def _properties(self, dates: list[date], orbit: int, epsg: int, bounds: Bounds) -> list[dict[str, Value]]:
        west, south, east, north = bounds
        x, y = np.meshgrid(np.linspace(west, east, 8), np.linspace(south, north, 8))
        lon, lat = unproject(x.ravel(), y.ravel(), epsg)
        shares = sky.overcast(lon, lat, dates, self.seed)
        fixed: dict[str, Value] = {
            "baseline": BASELINE,
            "offset_applied_by": "source",
            "cloud_by": "scl",
            "relative_orbit": orbit,
        }
        return [{"cloud": round(float(share), 3), **fixed} for share in shares]

    def _render(self, scene: Scene, grid: Grid) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
        top = self.sensor is SENTINEL2_L1C
        return msi.sentinel2(grid, _day(scene), self.seed, self.sensor.band_names, top_of_atmosphere=top)


class _Sentinel1(_Synthetic):
    def _name(self, day: date) -> str:
        return "S1A_IW_GAMMA0"

    def _properties(self, dates: list[date], orbit: int, epsg: int, bounds: Bounds) -> list[dict[str, Value]]:
        passes = {True: "ascending", False: "descending"}
        return [
            {
                "product": "gamma0_rtc",
                "orbit_pass": passes[self._ascending(day)],
                "relative_orbit": orbit if self._ascending(day) else (orbit + 86) % _ORBITS + 1,
            }
            for day in dates
        ]

    def _ascending(self, day: date) -> bool:
        return day.toordinal() // self.days % 2 == 0

    def _render(self, scene: Scene, grid: Grid) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
        return radar.sentinel1(grid, _day(scene), self.seed, ascending=self._ascending(_day(scene))), None


class _Optical(_Synthetic):
    def _any_gsd(self) -> bool:
        return True

    def _name(self, day: date) -> str:
        return "CAMERA"

    def _properties(self, dates: list[date], orbit: int, epsg: int, bounds: Bounds) -> list[dict[str, Value]]:
        return [{"cloud": 0.0, "provider": "synthetic Earth"} for _ in dates]

    def _render(self, scene: Scene, grid: Grid) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
        if grid.gsd > 10.0:
            raise Missing(f"the camera sees 0.3 to 10 m, not {grid.gsd:g} m; read a finer grid")
        return camera.optical(grid, _day(scene), self.seed), None


@dataclass(frozen=True)
class _Map:
    seed: int

    @property
    def classes(self) -> ClassTable:
        """The ten classes of 2020."""
        return ESRI_2020

    def at(self, lon: NDArray[np.floating[Any]], lat: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
        """See `LandCover`."""
        return ground.classes_at(np.asarray(lon, float), np.asarray(lat, float), self.seed)

    def read(self, grid: Grid) -> Raster:
        """See `LandCover`. Raises Missing beyond UTM's latitudes."""
        codes = np.empty(grid.shape, np.uint8)
        for piece in grid.tiles(_PIECE):
            codes[_window(grid, piece)] = ground.survey(piece, self.seed).codes
        return Raster(codes[None], np.ones(grid.shape, bool), grid, LANDCOVER.band_names)


def _day(scene: Scene) -> date:
    assert scene.date is not None, "every scene made here has a date"
    return scene.date


def _tile(grid: Grid) -> tuple[int, int, Bounds]:
    """Column and row of the 100 km tile of a zone that holds a grid's middle, and the bounds of its scenes."""
    west, south, east, north = grid.bounds
    column, row = int((west + east) / 2 // _TILE_M), int((south + north) / 2 // _TILE_M)
    left, low = column * _TILE_M - _OVERLAP_M, row * _TILE_M - _OVERLAP_M
    side = _TILE_M + 2 * _OVERLAP_M
    return column, row, (left, low, left + side, low + side)


def _window(grid: Grid, piece: Grid) -> tuple[slice, slice]:
    """Rows and columns of a grid that a piece of it fills."""
    row, col, height, width = grid.window(piece)
    return slice(row, row + height), slice(col, col + width)


def _covering(grid: Grid, gsd: float) -> Grid:
    """Whole native pixels, which begin on multiples of their size, around a grid; the grid itself when it is made of them."""
    west, south, east, north = (value / gsd for value in grid.bounds)
    slack = 1e-6
    left, top = np.floor(west + slack), np.ceil(north - slack)
    width, height = int(np.ceil(east - slack) - left), int(top - np.floor(south + slack))
    return Grid(grid.epsg, (gsd, 0.0, float(left * gsd), 0.0, -gsd, float(top * gsd)), height, width)
