"""Land-cover maps of the Planetary Computer, as codes on a chip: for labels and checks of single chips.

A point costs a request, so quotas of many points are drawn from a map on this machine or from Earth Engine instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType

import numpy as np

from geodata.errors import Missing
from geodata.grid import Grid, chip_grid
from geodata.landcover import ESRI_SERIES, NO_CLASS, WORLDCOVER, ClassTable, Codes, Degrees, LandCover
from geodata.sensors import LANDCOVER
from geodata.source import Period, Raster
from geodata.sources import stac
from geodata.sources.stac_scenes import Product, StacSource

_CC_BY = "CC-BY-4.0"
MAPS: Mapping[str, tuple[ClassTable, Product]] = MappingProxyType(
    {
        "io-lulc-annual-v02": (
            ESRI_SERIES,
            Product("landcover", {"class": "data"}, nodata=0.0, license=_CC_BY, redistribute=True),
        ),
        "esa-worldcover": (
            WORLDCOVER,
            Product("landcover", {"class": "map"}, nodata=0.0, license=_CC_BY, redistribute=True),
        ),
    }
)
"""Collections, the tables of their codes and the assets they are in."""


def planetary_computer(
    collection: str = "io-lulc-annual-v02",
    year: int = 2020,
    *,
    api: str = stac.PLANETARY_COMPUTER,
    tokens: str = "",
) -> LandCover:
    """ESRI's yearly map (2017 on) or ESA WorldCover (2020, 2021) of a year. Raises ValueError for another collection."""
    if collection not in MAPS:
        raise ValueError(f"no map is called {collection!r} here, only {', '.join(MAPS)}")
    table, product = MAPS[collection]
    source = stac.opened(product, api, collection, tokens)
    return _Cover(table, source, Period(date(year, 1, 1), date(year + 1, 1, 1)))


@dataclass(frozen=True)
class _Cover:
    """Implements `LandCover` over the scenes of one year."""

    classes: ClassTable
    source: StacSource
    year: Period

    def at(self, lon: Degrees, lat: Degrees) -> Codes:
        """See `LandCover`: of the pixel that holds each point."""
        grids = (
            _around(float(east), float(north))
            for east, north in zip(np.asarray(lon), np.asarray(lat), strict=True)
        )
        return np.array([self.read(grid).values[0, 0, 0] for grid in grids], np.uint8)

    def read(self, grid: Grid) -> Raster:
        """See `LandCover`. Where scenes overlap, the first by id counts. Raises as the source, ValueError for a strange code."""
        codes = np.full((1, *grid.shape), NO_CLASS, np.uint8)
        resampled = False
        for scene in self.source.search(grid, self.year):
            lacking = codes == NO_CLASS
            if not lacking.any():
                break
            try:
                raster = self.source.read(scene, grid)
            except Missing:  # its box meets the chip, its pixels do not
                continue
            self.classes.check(raster.values, scene.scene_id)
            codes[lacking] = raster.values[lacking]
            resampled |= raster.resampled
        return Raster(codes, codes[0] != NO_CLASS, grid, LANDCOVER.band_names, resampled)


def _around(lon: float, lat: float) -> Grid:
    """A grid of one pixel of a metre whose middle is a point, within a metre."""
    return chip_grid(lon, lat, 1.0, 1, lattice=1.0)
