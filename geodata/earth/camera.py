"""What an optical camera sees of the ground at 0.3 to 10 m: crowns, rows of crops, streets, roofs and their shadows."""

from __future__ import annotations

from datetime import date

import numpy as np
from numpy.typing import NDArray

from geodata.earth import ground as land
from geodata.earth import sky, spectra
from geodata.earth.noise import again, bell, hashed, salt, unit
from geodata.earth.plots import heights, places, plots, stands
from geodata.earth.spectra import ENDMEMBERS, Surface
from geodata.earth.towns import fabric, powdered
from geodata.grid import Grid

Float32 = NDArray[np.float32]

BANDS = ("B04", "B03", "B02")
_CROWN_M = 7.0


def optical(grid: Grid, day: date, seed: int) -> NDArray[np.uint8]:
    """Red, green and blue (3, H, W), 1 to 255, on a cloudless day."""
    skin, year = spectra.skin(grid, seed), sky.day_of_year(day)
    ground = skin.ground
    values = spectra.reflectance(skin, year, BANDS)
    height, east, north = sky.sun(ground.lat.ravel(), day)
    light = np.ones(values.shape[1], np.float32)
    if grid.gsd < 4:
        _crowns(light, skin, east, north)
        _rows_of_crops(light, skin, year)
    _field_edges(values, skin)
    _town(values, light, skin, year, (height, east, north))
    x, y = (
        np.floor(ground.x.ravel() / grid.gsd).astype(np.int64),
        np.floor(ground.y.ravel() / grid.gsd).astype(np.int64),
    )
    grain = bell(hashed(salt(seed, "film", day.toordinal(), grid.epsg), y, x))
    tone = np.sqrt(np.clip(values * light, 0, 0.6) * np.float32(1 / 0.38))  # a print, not a measurement
    out = np.clip(tone * 255 - 18 + 2.2 * grain, 1, 255)
    return out.astype(np.uint8).reshape(3, *grid.shape)


def _crowns(light: Float32, skin: Surface, east: Float32, north: Float32) -> None:
    """Crowns of trees: each pixel takes the nearest of the jittered stems around it, lit from the sun's side."""
    ground = skin.ground
    trees = np.flatnonzero((skin.kind == land.TREES) | (skin.kind == land.SCRUB))
    if not len(trees):
        return
    thin = skin.kind[trees] == land.SCRUB
    x, y = ground.x.ravel()[trees] / _CROWN_M, ground.y.ravel()[trees] / _CROWN_M
    cell_x, cell_y = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    at_x, at_y = (x - cell_x).astype(np.float32), (y - cell_y).astype(np.float32)
    nearest = np.full(len(trees), 9, np.float32)
    dx, dy, tone = (np.zeros(len(trees), np.float32) for _ in range(3))
    seed = salt(ground.seed, "crowns")
    for step_y in (-1, 0, 1):
        for step_x in (-1, 0, 1):
            key = hashed(seed, cell_y + step_y, cell_x + step_x)
            to_x = at_x - step_x - unit(key)
            to_y = at_y - step_y - unit(again(key, 1))
            size = 0.62 + 0.5 * unit(again(key, 2))
            away = np.sqrt(to_x * to_x + to_y * to_y) / size
            away += np.where(thin & (unit(again(key, 3)) < 0.6), np.float32(9), np.float32(0))
            closer = away < nearest
            nearest = np.where(closer, away, nearest)
            dx, dy = np.where(closer, to_x, dx), np.where(closer, to_y, dy)
            tone = np.where(closer, unit(again(key, 4)), tone)
    side = dx * east[trees] + dy * north[trees]
    lit = np.clip(0.95 + 0.55 * side + 0.3 * (tone - 0.5) - 0.5 * np.maximum(nearest - 0.6, 0), 0.35, 1.5)
    light[trees] *= np.where(thin, np.where(nearest < 0.75, 0.75 * lit, 1.0), lit)


def _rows_of_crops(light: Float32, skin: Surface, year: int) -> None:
    """Rows along each parcel, 1.5 to 3 m apart, and tramlines every 18 m."""
    crop = np.flatnonzero(skin.kind > 10)
    if not len(crop):
        return
    across = skin.parcel.across[crop]
    apart = 1.5 + 1.5 * unit(again(skin.parcel.key[crop], 24))
    if skin.ground.grid.gsd <= 0.8:
        wave = np.abs((across / apart) % 1 - 0.5) * 4 - 1
        light[crop] *= 1 + 0.07 * wave
    line = np.abs(across % 18 - 9)
    light[crop] *= np.where(line < 0.6, np.float32(0.88), np.float32(1))


def _field_edges(values: Float32, skin: Surface) -> None:
    """A grassy track around parcels, by the share of the pixel that it covers."""
    half = skin.ground.grid.gsd / 2
    crop = np.flatnonzero(skin.kind > 10)
    share = np.clip((2.0 + half - skin.parcel.inside[crop]) / (2 * half), 0, 1)
    rows = [spectra.BANDS.index(band) for band in BANDS]
    track = (0.5 * ENDMEMBERS["meadow"] + 0.5 * ENDMEMBERS["straw"])[rows][:, None]
    values[:, crop] += 0.75 * share * (track - values[:, crop])


def _town(
    values: Float32, light: Float32, skin: Surface, year: int, sun: tuple[Float32, Float32, Float32]
) -> None:
    """Roofs with a lit and a dark half, streets, yards, and the shadow of each house on its own lot."""
    built = np.flatnonzero(skin.kind == land.BUILT)
    if not len(built):
        return
    ground = skin.ground
    where = places(ground.lon.ravel()[built], ground.lat.ravel()[built], ground.seed)
    plot = plots(where)
    stand = stands(where, plot, ground.seed)
    colours = fabric(where, plot, stand).colours(BANDS, spectra.season(skin, year, built))
    values[:, built] = powdered(colours * (1 + skin.texture[built]), skin, BANDS, year, built)
    roof = stand & plot.over(where)
    height, east, north = (part[built] for part in sun)
    reach = heights(plot.key) * np.minimum(np.sqrt(1 - height * height) / height, 2.5)
    shaded = np.zeros(len(built), bool)
    for step in (0.25, 0.5, 0.75, 1.0):
        shaded |= plot.over(where.moved(step * reach * east, step * reach * north))
    shaded &= stand & ~roof
    side = np.sign(where.v - plot.v) * (north * where.cos - east * where.sin)
    pitched = np.where(unit(again(plot.key, 9)) < 0.7, 0.14, 0.0)
    light[built] *= np.where(roof, 1 + pitched * side, np.where(shaded, 0.42, 1.0)).astype(np.float32)
