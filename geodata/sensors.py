"""The sensors the project knows, as tables: bands, native GSD, dtype, nodata, unit.

A sensor's `prefix` names its columns in a shard, so one job can read one sensor. Radar is stored as hundredths of
a decibel in int16 (error at most 0.005 dB), reflectance as it is delivered: uint16, 10,000 = 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Kind = Literal["optical", "multispectral", "radar", "map"]


@dataclass(frozen=True)
class Band:
    """One band: its name, its native GSD in metres, its centre wavelength in nanometres where it has one."""

    name: str
    gsd: float
    centre_nm: float | None = None


@dataclass(frozen=True)
class Sensor:
    """What a sensor delivers, once it is in our hands.

    `gsd` is the grid that pixels are stored on (metres); a stored value times `scale` is in `unit`; `per_date`
    names what is recorded for each acquisition besides date, cloud and item id.
    """

    name: str
    prefix: str
    kind: Kind
    bands: tuple[Band, ...]
    gsd: float
    dtype: str
    nodata: int
    unit: str
    scale: float
    per_date: tuple[str, ...] = ()

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names in the order of the pixels' band axis."""
        return tuple(band.name for band in self.bands)

    @property
    def numpy_dtype(self) -> np.dtype[np.generic]:
        """The dtype of stored pixels."""
        return np.dtype(self.dtype)

    def band(self, name: str) -> Band:
        """One band by name. Raises ValueError with the names there are."""
        for band in self.bands:
            if band.name == name:
                return band
        raise ValueError(f"{self.name} has no band {name!r}; it has {', '.join(self.band_names)}")

    def pick(self, names: tuple[str, ...]) -> Sensor:
        """The same sensor with some of its bands, in the order given. Raises ValueError for a band it lacks."""
        return replace(self, bands=tuple(self.band(name) for name in names)) if names else self


_MSI = {
    "B01": Band("B01", 60.0, 442.7),
    "B02": Band("B02", 10.0, 492.4),
    "B03": Band("B03", 10.0, 559.8),
    "B04": Band("B04", 10.0, 664.6),
    "B05": Band("B05", 20.0, 704.1),
    "B06": Band("B06", 20.0, 740.5),
    "B07": Band("B07", 20.0, 782.8),
    "B08": Band("B08", 10.0, 832.8),
    "B8A": Band("B8A", 20.0, 864.7),
    "B09": Band("B09", 60.0, 945.1),
    "B10": Band("B10", 60.0, 1373.5),
    "B11": Band("B11", 20.0, 1613.7),
    "B12": Band("B12", 20.0, 2202.4),
}
"""Sentinel-2A MultiSpectral Instrument (ESA, Sentinel-2 spectral response functions)."""


def _msi(name: str, bands: tuple[str, ...], unit: str) -> Sensor:
    chosen = tuple(_MSI[band] for band in bands)
    recorded = ("baseline", "offset_applied_by", "cloud_by")
    return Sensor(name, "s2", "multispectral", chosen, 10.0, "uint16", 0, unit, 1e-4, recorded)


_TEN = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
_L2A = tuple(name for name in _MSI if name != "B10")

SENTINEL2_L1C = _msi("sentinel2_l1c", tuple(_MSI), "top-of-atmosphere reflectance")
SENTINEL2_L2A = _msi("sentinel2_l2a", _L2A, "surface reflectance")
SENTINEL2 = _msi("sentinel2", _TEN, "surface reflectance")
SENTINEL1 = Sensor(
    "sentinel1",
    "s1",
    "radar",
    (Band("VV", 10.0), Band("VH", 10.0)),
    10.0,
    "int16",
    -32768,
    "dB",
    0.01,
    ("product", "orbit_pass", "relative_orbit"),
)
OPTICAL = Sensor(
    "optical",
    "hr",
    "optical",
    (Band("R", 0.3125, 660.0), Band("G", 0.3125, 560.0), Band("B", 0.3125, 480.0)),
    0.3125,
    "uint8",
    0,
    "digital number",
    1.0,
    ("provider", "fetched", "zoom"),
)
PHOTO = replace(
    OPTICAL,
    name="photo",
    bands=(Band("R", 1.0), Band("G", 1.0), Band("B", 1.0)),
    gsd=1.0,
    per_date=(),
)
"""A picture of anything, from a folder: it need not lie anywhere, and its GSD is a placeholder where nobody told it."""
LANDCOVER = Sensor("landcover", "lc", "map", (Band("class", 10.0),), 10.0, "uint8", 255, "class code", 1.0)
MASK = Sensor("mask", "mask", "map", (Band("class", 1.0),), 1.0, "uint8", 255, "class index", 1.0)
"""The classes of a benchmark, pixel by pixel, in the order it lists them; 255 is scored by nobody."""
PLANET = Sensor(
    "planet_fusion",
    "ps",
    "multispectral",
    (Band("B", 3.0, 485.0), Band("G", 3.0, 545.0), Band("R", 3.0, 630.0), Band("NIR", 3.0, 820.0)),
    3.0,
    "uint16",
    0,
    "surface reflectance",
    1e-4,
)
MODIS_NDVI = Sensor(
    "modis_ndvi", "ndvi", "multispectral", (Band("NDVI", 231.656),), 231.656, "int16", -3000, "1", 1e-4
)
"""MOD13Q1: the NDVI of sixteen days."""

SENSORS = (
    OPTICAL,
    PHOTO,
    SENTINEL2_L1C,
    SENTINEL2_L2A,
    SENTINEL2,
    SENTINEL1,
    LANDCOVER,
    MASK,
    PLANET,
    MODIS_NDVI,
)


def sensor(name: str) -> Sensor:
    """A sensor by its name. Raises ValueError with the names there are."""
    for known in SENSORS:
        if known.name == name:
            return known
    raise ValueError(f"no sensor is called {name!r}; known are {', '.join(known.name for known in SENSORS)}")
