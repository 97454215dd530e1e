"""Streets, roofs and yards: what exactly is at a point in town, for every sensor alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geodata.earth import ground as land
from geodata.earth import spectra
from geodata.earth.noise import again, unit
from geodata.earth.plots import ROOFS, STREET_M, Places, Plots, places, plots, roofs, stands
from geodata.earth.spectra import ENDMEMBERS, Surface

Float32 = NDArray[np.float32]


def build(values: Float32, skin: Surface, bands: tuple[str, ...], year: int) -> None:
    """Put roofs, streets and yards into the built pixels of 10 m reflectance (C, N): shares of four points a pixel."""
    built = np.flatnonzero(skin.kind == land.BUILT)
    if not len(built):
        return
    ground, rows = skin.ground, [spectra.BANDS.index(band) for band in bands]
    where = places(ground.lon.ravel()[built], ground.lat.ravel()[built], ground.seed)
    spread = np.zeros((len(bands), len(built)), np.float32)
    snow = spectra.snow_cover(ground, year)[built]
    for east, north in ((-2.5, -2.5), (2.5, -2.5), (-2.5, 2.5), (2.5, 2.5)):
        spot = moved(where, east, north)
        plot = plots(spot)
        spread += material(spot, plot, stands(spot, plot, ground.seed), rows, skin, built, year)
    texture = 1 + skin.texture[built]
    values[:, built] = (spread / 4) * texture * (1 - 0.5 * snow) + 0.5 * snow * ENDMEMBERS["snow"][rows][
        :, None
    ]


def moved(at: Places, east: float, north: float) -> Places:
    """Points moved by metres within their districts' charts."""
    u, v = at.u + east * at.cos + north * at.sin, at.v + north * at.cos - east * at.sin
    return Places(at.row, at.column, at.key, u, v, at.east + east, at.north + north, at.cos, at.sin)


def material(
    at: Places,
    plot: Plots,
    stand: NDArray[np.bool_],
    rows: list[int],
    skin: Surface,
    which: NDArray[np.intp],
    year: int,
) -> Float32:
    """Reflectance (C, N) of what is exactly at points in towns: roof, street or yard."""
    roof = stand & plot.over(at)
    table = np.stack([ENDMEMBERS[name][rows] for name in (*ROOFS, "asphalt", "soil", "meadow")], axis=1)
    kind = roofs(plot.key)
    tone = 0.82 + 0.36 * unit(again(plot.key, 8))
    values = table[:, kind] * tone
    street = ~roof & (plot.street < STREET_M / 2)
    values[:, street] = table[:, 4:5]
    open_ground = np.flatnonzero(~roof & ~street)
    green = 0.25 + 0.55 * unit(again(plot.key[open_ground], 31))
    green = np.where(plot.park[open_ground], 0.9, green) * spectra.season(skin, year, which[open_ground])
    values[:, open_ground] = table[:, 5:6] + green * (table[:, 6:7] - table[:, 5:6])
    return values
