"""Whether a chip's pixels are worth keeping: pure checks that answer None (fine) or one word, the reason.

Reasons are counted in the manifest, so there are few of them and they never change their meaning.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from rasterio.warp import transform_bounds

from geodata.grid import Grid
from geodata.source import Raster, Scene

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
]
"""No acquisition in the period; too much of the chip outside the scene, without data, or under cloud; all bands
constant; most pixels at the dtype's end; a scene without a wanted band; a file that is gone; a file that is damaged;
fewer acquisitions passed than are wanted."""

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


def check(scene: Scene, raster: Raster, *, max_cloud: float, min_valid: float) -> Reason | None:
    """The first reason to refuse one acquisition of a chip, or None."""
    return (
        outside(scene, raster.grid, min_valid)
        or nodata(raster, min_valid)
        or cloudy(raster, max_cloud)
        or flat(raster)
        or saturated(raster)
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
