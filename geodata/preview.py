"""What a refused image looked like: a picture small enough to keep with the record of why it was refused.

Kept apart from `pictures`, which draws finished samples: this sees one raster, before anything is decided, and must be
cheap enough to be called for every rejection.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geodata.sensors import Sensor
from geodata.source import Raster

__all__ = ["SIDE", "preview"]

SIDE = 64
"""Pixels a side, at most."""
RANGES = {"optical": (0.0, 255.0, 1.0), "multispectral": (0.0, 0.8, 0.6), "radar": (-25.0, 0.0, 1.0)}
"""What is black and what is white, in the sensor's unit, and the power between them: fixed, so that a cloud looks like
one; below 1, so that ground shows beside it."""
_RGB = (("R", "G", "B"), ("B04", "B03", "B02"))
_EMPTY = 255


def preview(raster: Raster, sensor: Sensor) -> NDArray[np.uint8]:
    """A raster as colours (h, w, 3), at most `SIDE` pixels a side: true colour where its bands allow, else the first
    band in grey, between the limits of `RANGES`; pixels without data are white.
    """
    step = -(-max(raster.grid.shape) // SIDE)
    rows = next(
        ([raster.bands.index(name) for name in names] for names in _RGB if set(names) <= set(raster.bands)),
        [0, 0, 0],
    )
    low, high, power = RANGES.get(sensor.kind, (0.0, 255.0, 1.0))
    values = raster.values[rows, ::step, ::step] * sensor.scale
    shown = np.clip((values - low) / (high - low), 0.0, 1.0) ** power * 255.0
    there = raster.valid[::step, ::step]
    return np.where(there[..., None], np.moveaxis(shown, 0, -1), _EMPTY).astype(np.uint8)
