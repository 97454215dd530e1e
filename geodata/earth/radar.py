"""What Sentinel-1 sees: gamma0 by cover, season and look direction, with speckle; clouds do not matter."""

from __future__ import annotations

from datetime import date

import numpy as np
from numpy.typing import NDArray

from geodata.earth import ground as land
from geodata.earth import sky, spectra
from geodata.earth.ground import Survey, survey
from geodata.earth.noise import Hash, again, hashed, salt, unit
from geodata.earth.plots import CROP_TYPES, places, plots
from geodata.earth.spectra import Surface
from geodata.grid import Grid

Float32 = NDArray[np.float32]

ENL = 5
"""Looks of the synthetic radar: speckle is a gamma variable of this shape."""

_VV = {1: -19.0, 2: -9.4, 3: -12.8, 4: -10.6, 5: -12.2, 6: -11.4, 7: -5.2, 8: -16.2, 9: -12.5}
_VH = {1: -26.5, 2: -14.8, 3: -19.8, 4: -17.6, 5: -20.2, 6: -17.3, 7: -13.0, 8: -24.5, 9: -19.2}
"""Mean gamma0 in dB by class."""


def sentinel1(grid: Grid, day: date, seed: int, *, ascending: bool) -> NDArray[np.int16]:
    """VV and VH gamma0 (2, H, W) in hundredths of a decibel on a 10 m grid; clouds do not matter."""
    ground, skin = survey(grid, seed), spectra.skin(grid, seed)
    level = backscatter(skin, day, ascending=ascending)
    left, top = (round(value / 10) for value in grid.origin)
    y, x = -top + np.arange(grid.height)[:, None], left + np.arange(grid.width)
    for place, name in enumerate(("VV", "VH")):
        key = hashed(salt(seed, "speckle", name, day.toordinal(), grid.epsg), y, x)
        level[place] += speckle(key).ravel()
    hundredths = np.clip(np.rint(level * 100), -5000, 2500).astype(np.int16)
    return hundredths.reshape(2, *ground.codes.shape)


def speckle(key: Hash) -> Float32:
    """Multi-look speckle of `ENL` looks by a hash, in dB around the mean power."""
    power = np.zeros(key.shape, np.float32)
    for look in range(ENL):
        power -= np.log(unit(again(key, 40 + look)) + np.float32(2.0**-25))
    return np.float32(10) * np.log10(power / np.float32(ENL))


def backscatter(skin: Surface, day: date, *, ascending: bool) -> Float32:
    """Mean gamma0 (2, N) in dB, without speckle."""
    ground, kind, year = skin.ground, skin.kind, sky.day_of_year(day)
    codes = ground.surface.ravel()
    tables = np.zeros((2, 10), np.float32)
    for place, table in enumerate((_VV, _VH)):
        tables[place, list(table)] = list(table.values())
    level = tables[:, codes] + np.array([[5.0], [6.0]], np.float32) * skin.texture
    grown = spectra.greenness(skin, year)
    crop = kind > 10
    level += np.where(crop, np.array([[3.2], [5.5]], np.float32) * (grown - 0.3), 0)
    level += np.where(
        (codes == land.GRASS) | (codes == land.SCRUB), np.array([[1.0], [2.0]], np.float32) * (grown - 0.5), 0
    )
    level += np.where(codes == land.TREES, np.array([[0.4], [1.2]], np.float32) * (grown - 0.6), 0)
    rice = crop & (kind == 16 + CROP_TYPES.index("rice"))
    level -= np.where(rice, np.maximum(0, 6 * (0.35 - grown) / 0.35) * _flooded(year, ground), 0).astype(
        np.float32
    )
    rough = 3.5 * (
        unit(
            hashed(
                salt(ground.seed, "wind", day.toordinal()),
                (ground.lat.ravel() // 2).astype(np.int64),
                (ground.lon.ravel() // 2).astype(np.int64),
            )
        )
        - 0.5
    )
    level += np.where(codes == land.WATER, rough, 0)
    turn = np.where(ascending, 1.0, -1.0) * (unit(again(skin.parcel.key, 23)) - 0.5)
    level += np.where(crop, 1.4 * turn, 0).astype(np.float32)
    east, west = np.clip(ground.east.ravel(), -2, 2), np.clip(ground.west.ravel(), -2, 2)
    level += np.where(codes == land.WATER, 0, np.float32(0.5) * east - np.float32(0.35) * west)
    level -= 3.0 * spectra.snow_cover(ground, year) * (codes != land.TREES) * (codes != land.BUILT)
    level += np.float32(0.09) * _incidence_bias(ground, ascending=ascending)
    _bright_walls(level, skin, codes, ascending=ascending)
    return level


def _flooded(year: int, ground: Survey) -> Float32:
    """1 in the two months before rice grows, 0 in winter."""
    day = np.where(ground.lat.ravel() < 0, year + 182.5, year) % 365
    return ((day > 110) & (day < 190)).astype(np.float32)


def _incidence_bias(ground: Survey, *, ascending: bool) -> Float32:
    """38 degrees less the incidence angle, over a swath of 2.5 degrees of longitude."""
    across = (ground.lon.ravel() % 2.5) / 2.5
    return ((0.5 - across if ascending else across - 0.5) * 14).astype(np.float32)


def _bright_walls(level: Float32, skin: Surface, codes: NDArray[np.uint8], *, ascending: bool) -> None:
    """Corners of walls shine, streets and parks do not."""
    built = np.flatnonzero(codes == land.BUILT)
    if not len(built):
        return
    ground = skin.ground
    where = places(ground.lon.ravel()[built], ground.lat.ravel()[built], ground.seed)
    plot = plots(where)
    glint = 6.0 * unit(again(plot.key, 50 if ascending else 51)) ** 3
    wall = (
        plot.builds
        & (np.abs(where.u - plot.u) < plot.half_u + 5)
        & (np.abs(where.v - plot.v) < plot.half_v + 5)
    )
    level[:, built] += np.where(plot.park, -4.0, np.where(wall, glint + 1.0, -1.8)).astype(np.float32)
