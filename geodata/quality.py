"""Whether a chip's pixels are worth keeping: pure checks that answer None (fine) or one word, the reason.

Reasons are counted in the manifest, so there are few of them and they never change their meaning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Literal

import numpy as np
from rasterio.warp import transform_bounds

from geodata.grid import Grid
from geodata.radiometry import DB_RANGE
from geodata.sensors import Sensor
from geodata.source import Pixels, Raster, Scene

Reason = Literal[
    "no_scene",
    "outside",
    "nodata",
    "cloudy",
    "flat",
    "saturated",
    "missing_band",
    "missing",
    "corrupt",
    "too_few_dates",
    "placeholder",
    "overzoomed",
    "border",
    "mixed_product",
    "mixed",
    "contaminated",
    "duplicate",
    "unavailable",
]
"""No acquisition in the period; too much of the chip outside the scene, without data, or under cloud; all bands
constant; most pixels at the dtype's end; a scene without a wanted band; a file that is gone; a file that is damaged;
fewer acquisitions passed than are wanted; a tile that says there is no imagery; one enlarged from coarser pixels; radar at
the border of its swath; radar of two products; a stratum that covers too little of its chip; ground or a picture of a
benchmark; a sample that is there already; a service that did not answer in the end."""

SATURATED_LIMIT = 0.5
"""Share of pixels at the dtype's largest value above which an acquisition is refused (snow and roofs stay below)."""


def outside(scene: Scene, grid: Grid, min_valid: float) -> Reason | None:
    """'outside' when less than `min_valid` (share of the chip) lies within the scene's bounds."""
    return "outside" if inside_share(scene, grid) < min_valid - 1e-9 else None


def nodata(raster: Raster, min_valid: float) -> Reason | None:
    """'nodata' when fewer pixels than `min_valid` (share) have data, or none has."""
    share = raster.share("valid")
    return "nodata" if share < min_valid or not share else None


def cloudy(raster: Raster, limit: float) -> Reason | None:
    """'cloudy' when more of the valid pixels than `limit` (share) are cloud or its shadow; unknown passes."""
    return "cloudy" if raster.share("cloud") > limit else None


def flat(raster: Raster) -> Reason | None:
    """'flat' when every band is one value wherever it is valid: a placeholder, not a picture."""
    seen = raster.values[:, raster.valid]
    return "flat" if seen.size == 0 or bool((seen == seen[:, :1]).all()) else None


def saturated(raster: Raster, limit: float = SATURATED_LIMIT) -> Reason | None:
    """'saturated' when a larger share of pixels than `limit` has a band at the end of its dtype."""
    most = np.iinfo(raster.values.dtype).max
    return "saturated" if float((raster.values == most).any(axis=0).mean()) > limit else None


def border(raster: Raster, sensor: Sensor) -> Reason | None:
    """'border' when radar has more than 1 % nodata, or a patch of 3 x 3 pixels whose VV lies at -35 dB or below.

    That is what the edges of a swath look like, before 2018 with noise instead of nodata. Speckle over calm water makes
    single pixels as dark, and no patches.
    """
    if sensor.kind != "radar":
        return None
    if raster.share("valid") < 1 - _BORDER_NODATA:
        return "border"
    if "VV" not in raster.bands or min(raster.grid.shape) < _PATCH:
        return None
    level = raster.values[raster.bands.index("VV")]
    low = (level <= round(DB_RANGE[0] / sensor.scale)) & raster.valid
    if not low.any():
        return None
    patches = np.lib.stride_tricks.sliding_window_view(low, (_PATCH, _PATCH))
    return "border" if bool(patches.all(axis=(2, 3)).any()) else None


_BORDER_NODATA = 0.01
_PATCH = 3


def placeholder(scene: Scene, raster: Raster) -> Reason | None:
    """'placeholder' when a web tile of the raster is one colour, the same file as another, or listed by its provider.

    The scene's property `placeholders` is a list of SHA-256, between spaces.
    """
    if raster.encoded is None:
        return None
    digests = [hashlib.sha256(file).hexdigest() for row in raster.encoded.tiles for file in row]
    listed = str(scene.get("placeholders") or "").split()
    one_colour = any(bool((tile == tile[:, :1, :1]).all()) for tile in _tiles(raster))
    twice = len(set(digests)) < len(digests)
    return "placeholder" if one_colour or twice or any(one in listed for one in digests) else None


def overzoomed(raster: Raster) -> Reason | None:
    """'overzoomed' when at least half of the web tiles that can be judged were enlarged from coarser ones.

    Enlarging adds no detail: the finest octave of the spectrum is empty, or every 2 x 2 pixels are one. Tiles of
    little texture (water, fog) cannot be judged and pass. Compression puts noise where detail would be, so of tiles that
    were compressed again after enlarging about half are recognized; see tests for the rates.
    """
    if raster.encoded is None:
        return None
    told = [seen for tile in _tiles(raster) if (seen := enlarged(tile)) is not None]
    return "overzoomed" if told and 2 * sum(told) >= len(told) else None


def enlarged(pixels: Pixels) -> bool | None:
    """Whether a picture (C, N, N) was enlarged twice or more from a coarser one; None when it has too little texture.

    Means of the power spectrum in square rings of frequency (1 is Nyquist's), Hann-windowed: what is left at 0.6 to
    0.95, less the noise of rounding, beside the middle (0.15 to 0.4) and the coarse (0.06 to 0.2).
    """
    size = min(pixels.shape[1:]) // 2 * 2
    pixels = pixels[:, :size, :size]
    blocks = pixels.reshape(len(pixels), size // 2, 2, size // 2, 2)
    grey = pixels.mean(axis=0, dtype=np.float64)
    window = np.hanning(size)
    power = (
        np.abs(np.fft.rfft2((grey - grey.mean()) * window[:, None] * window)) ** 2 / (window**2).sum() ** 2
    )
    down, right = 2 * np.abs(np.fft.fftfreq(size)), 2 * np.fft.rfftfreq(size)
    frequency = np.maximum(down[:, None], right)
    fine, middle, coarse = (
        float(power[(frequency > low) & (frequency <= high)].mean())
        for low, high in ((0.6, 0.95), (0.15, 0.4), (0.06, 0.2))
    )
    if coarse < _TEXTURE:
        return None
    if bool((blocks == blocks[:, :, :1, :, :1]).all()):
        return True
    detail = max(fine - _ROUNDING, 0.0)
    return detail < _FINE_TO_MIDDLE * middle or detail < _FINE_TO_COARSE * coarse


_TEXTURE = 20.0
"""Power (squared digital numbers) below which a tile has too little texture to be judged."""
_ROUNDING = 1 / 36
"""Power of rounding three bands to whole numbers, in their mean."""
_FINE_TO_MIDDLE, _FINE_TO_COARSE = 0.004, 0.00017
"""Below these, detail is missing: two in a hundred native tiles of real imagery at 0.075 to 5 m lie below one of them."""


def _tiles(raster: Raster) -> Iterator[Pixels]:
    """The pixels (C, h, w) of each file that a raster is stitched from."""
    assert raster.encoded is not None, "callers have looked"
    rows, columns = len(raster.encoded.tiles), len(raster.encoded.tiles[0])
    height, width = raster.grid.height // rows, raster.grid.width // columns
    for row in range(rows):
        for column in range(columns):
            yield raster.values[:, row * height : (row + 1) * height, column * width : (column + 1) * width]


def check(
    scene: Scene, raster: Raster, sensor: Sensor, *, max_cloud: float, min_valid: float
) -> Reason | None:
    """The first reason to refuse one acquisition of a chip by this sensor, or None."""
    return (
        outside(scene, raster.grid, min_valid)
        or border(raster, sensor)
        or nodata(raster, min_valid)
        or cloudy(raster, max_cloud)
        or placeholder(scene, raster)
        or flat(raster)
        or saturated(raster)
        or overzoomed(raster)
    )


def inside_share(scene: Scene, grid: Grid) -> float:
    """Share (0 to 1) of a grid's area, as a rectangle in the scene's CRS, that lies within the scene's bounds."""
    xmin, ymin, xmax, ymax = (
        grid.bounds
        if scene.epsg == grid.epsg
        else transform_bounds(f"EPSG:{grid.epsg}", f"EPSG:{scene.epsg}", *grid.bounds)
    )
    if xmin > xmax:  # across the antimeridian, in degrees
        xmax += 360.0
    left, bottom, right, top = scene.bounds
    width, height = min(xmax, right) - max(xmin, left), min(ymax, top) - max(ymin, bottom)
    return max(width, 0.0) * max(height, 0.0) / ((xmax - xmin) * (ymax - ymin))
