"""What Sentinel-2 sees: reflectance under sun, clouds and shadows, on each band's own pixels.

Rendered at 10 m and averaged over the 20 m and 60 m pixels of the coarser bands, which begin on multiples of their size
in the zone; on a 10 m grid those are repeated exactly.
"""

from __future__ import annotations

from datetime import date

import numpy as np
from numpy.typing import NDArray

from geodata.earth import ground as land
from geodata.earth import sky, spectra, towns
from geodata.earth.ground import survey
from geodata.earth.noise import bell, hashed, salt
from geodata.earth.spectra import ENDMEMBERS, Surface
from geodata.grid import Grid

Float32 = NDArray[np.float32]

_GSD = {"B01": 60, "B09": 60, "B10": 60, "B05": 20, "B06": 20, "B07": 20, "B8A": 20, "B11": 20, "B12": 20}


def sentinel2(
    grid: Grid, day: date, seed: int, bands: tuple[str, ...], *, top_of_atmosphere: bool
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Digital numbers (C, H, W), 10,000 times reflectance, and scene classification (H, W) on a 10 m grid."""
    outer, row, col = _widened(grid)
    ground, skin = survey(outer, seed), spectra.skin(outer, seed)
    year = sky.day_of_year(day)
    height, *_ = sky.sun(ground.lat.ravel(), day)
    values = spectra.reflectance(skin, year, bands)
    towns.build(values, skin, bands, year)
    values *= 0.9 + 0.12 * height
    snowy = (spectra.snow_cover(ground, year) > 0.6) | (skin.kind == land.ICE)
    cloud, shadow, cirrus = (layer.ravel() for layer in sky.clouds(ground, day))
    rows = [spectra.BANDS.index(band) for band in bands]
    values *= 1 - 0.62 * shadow
    white = ENDMEMBERS["cloud"][rows][:, None]
    values += cloud * (white * (1 + 0.12 * skin.texture + 0.15 * (cloud - 0.5)) - values)
    values += cirrus * (0.45 * white - 0.3 * values)
    if top_of_atmosphere:
        values = spectra.through_air(values, bands, height)
        if "B10" in bands:
            values[bands.index("B10")] += 0.09 * cirrus + 0.02 * cloud
    values = values.reshape(len(bands), *outer.shape)
    numbers = _as_seen(values, bands, outer, day, seed)
    scl = _classified(skin, snowy, cloud, shadow, cirrus, spectra.greenness(skin, year), outer)
    inner = (slice(row, row + grid.height), slice(col, col + grid.width))
    return np.ascontiguousarray(numbers[:, *inner]), np.ascontiguousarray(scl[inner])


def _widened(grid: Grid) -> tuple[Grid, int, int]:
    """The 10 m grid grown to whole 60 m pixels, and where the grid lies in it."""
    west, south, east, north = grid.bounds
    left, top = np.floor(west / 60) * 60, np.ceil(north / 60) * 60
    width, height = (
        round((np.ceil(east / 60) * 60 - left) / 10),
        round((top - np.floor(south / 60) * 60) / 10),
    )
    outer = Grid(grid.epsg, (10.0, 0.0, float(left), 0.0, -10.0, float(top)), height, width)
    return outer, round((top - north) / 10), round((west - left) / 10)


def _as_seen(values: Float32, bands: tuple[str, ...], grid: Grid, day: date, seed: int) -> NDArray[np.uint16]:
    """Each band on its own pixels, with noise, as digital numbers repeated at 10 m."""
    out = np.empty(values.shape, np.uint16)
    left, top = (round(value / 10) for value in grid.origin)
    for place, band in enumerate(bands):
        step = _GSD.get(band, 10) // 10
        rows, columns = grid.height // step, grid.width // step
        seen = (
            values[place].reshape(rows, step, columns, step).mean(axis=(1, 3)) if step > 1 else values[place]
        )
        y = -top // step + np.arange(rows)[:, None]
        x = left // step + np.arange(columns)
        grain = bell(hashed(salt(seed, "grain", band, day.toordinal(), grid.epsg), y, x))
        seen = seen * (1 + 0.008 * grain) + 0.0009 * grain
        numbers = np.clip(seen * 10000 + 0.5, 1, 16000).astype(np.uint16)
        out[place] = numbers.repeat(step, 0).repeat(step, 1) if step > 1 else numbers
    return out


def _classified(
    skin: Surface,
    snowy: NDArray[np.bool_],
    cloud: Float32,
    shadow: Float32,
    cirrus: Float32,
    green: Float32,
    grid: Grid,
) -> NDArray[np.uint8]:
    """Scene classification (H, W), decided on 20 m pixels."""

    def at_20(layer: NDArray) -> Float32:
        return layer.astype(np.float32).reshape(grid.height // 2, 2, grid.width // 2, 2).mean(axis=(1, 3))

    water = at_20(skin.kind == land.WATER) > 0.5
    plants = (
        at_20(green * np.isin(skin.kind, (land.WATER, land.ICE, land.BUILT, land.BARE), invert=True)) > 0.38
    )
    codes = np.where(plants, 4, 5).astype(np.uint8)
    codes[at_20(skin.kind == land.WETLAND) * (at_20(green) < 0.45) > 0.5] = 7
    codes[water] = 6
    codes[(at_20(snowy) > 0.5)] = 11
    dark = at_20(shadow)
    codes[dark > 0.15] = 2
    codes[dark > 0.3] = 3
    codes[at_20(cirrus) > 0.04] = 10
    thick = at_20(cloud)
    codes[thick > 0.2] = 8
    codes[thick > 0.6] = 9
    return codes.repeat(2, 0).repeat(2, 1)
