"""Streets, roofs and yards: what exactly is at a point in town, for every sensor alike."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geodata.earth import ground as land
from geodata.earth import spectra
from geodata.earth.noise import again, unit
from geodata.earth.plots import ROOFS, STREET_M, Places, Plots, places, plots, roofs, stands
from geodata.earth.spectra import ENDMEMBERS, Surface
from geodata.grid import Grid

Float32 = NDArray[np.float32]

_STREET, _OPEN = len(ROOFS), len(ROOFS) + 1
_MATERIALS = (*ROOFS, "asphalt", "soil")


@dataclass(frozen=True, eq=False)
class Fabric:
    """What is at points in town (N,): a place in `ROOFS`, then street and open ground; how bright; how green."""

    kind: NDArray[np.uint8]
    tone: Float32
    green: Float32

    def colours(self, bands: tuple[str, ...], season: Float32) -> Float32:
        """Reflectance (C, N); lawns are as green as their `season` (N,)."""
        rows = [spectra.BANDS.index(band) for band in bands]
        table = np.stack([ENDMEMBERS[name][rows] for name in _MATERIALS], axis=1)
        values = table[:, self.kind] * self.tone
        lawn = (ENDMEMBERS["meadow"] - ENDMEMBERS["soil"])[rows][:, None]
        values += self.green * season * lawn
        return values


def fabric(at: Places, plot: Plots, stand: NDArray[np.bool_]) -> Fabric:
    """What is exactly at points; `stand` says whether a building stands on their lot."""
    roof = stand & plot.over(at)
    street = ~roof & (plot.street < STREET_M / 2)
    kind = np.where(roof, roofs(plot.key), np.where(street, np.uint8(_STREET), np.uint8(_OPEN)))
    tone = np.where(roof, 0.82 + 0.36 * unit(again(plot.key, 8)), 1.0)
    green = np.where(plot.park, 0.9, 0.25 + 0.55 * unit(again(plot.key, 31)))
    green = np.where(kind == _OPEN, green, 0.0)
    return Fabric(kind.astype(np.uint8), tone.astype(np.float32), green.astype(np.float32))


def build(values: Float32, skin: Surface, bands: tuple[str, ...], day: int) -> None:
    """Put roofs, streets and yards into the built pixels of 10 m reflectance (C, N): the mean of four points each."""
    built, quarters = _quarters(skin.ground.grid, skin.ground.seed)
    if not len(built):
        return
    season = spectra.season(skin, day, built)
    mean = sum((quarter.colours(bands, season) for quarter in quarters), np.float32(0)) / np.float32(4)
    values[:, built] = powdered(mean * (1 + skin.texture[built]), skin, bands, day, built)


def powdered(
    values: Float32, skin: Surface, bands: tuple[str, ...], day: int, which: NDArray[np.intp]
) -> Float32:
    """Colours (C, N) of a town's pixels with the season's snow, half of which is cleared."""
    rows = [spectra.BANDS.index(band) for band in bands]
    snow = 0.5 * spectra.snow_cover(skin.ground, day)[which]
    return values + snow * (ENDMEMBERS["snow"][rows][:, None] - values)


@functools.lru_cache(maxsize=4)
def _quarters(grid: Grid, seed: int) -> tuple[NDArray[np.intp], list[Fabric]]:
    """The built pixels of a grid, and what is at four points of each."""
    ground = land.survey(grid, seed)
    built = np.flatnonzero(ground.surface == land.BUILT)
    where = places(ground.lon.ravel()[built], ground.lat.ravel()[built], seed)
    quarters = []
    for east, north in ((-2.5, -2.5), (2.5, -2.5), (-2.5, 2.5), (2.5, 2.5)):
        spot = where.moved(east, north)
        plot = plots(spot)
        quarters.append(fabric(spot, plot, stands(spot, plot, seed)))
    return built, quarters
