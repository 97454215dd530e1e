"""Outlines of what the synthetic Earth is made of: buildings and parcels, for those who want to score against them.

Buildings are exact: the rectangles that renderers test their pixels against. A parcel's outline is where its crop grows,
which ends at its edge or where other cover begins, so it is traced from the map on pixels of at most 2.5 m, and cut by
the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import rasterio.features
import shapely

from geodata.earth import ground as land
from geodata.earth.ground import survey
from geodata.earth.plots import CROP_TYPES, ROOFS, parcels, places, plots, rectangles, roofs, stands
from geodata.grid import Grid, project

TRACED_M = 2.5
"""Coarsest pixels that outlines are traced on, metres."""
_PROBE_M = 5.0
"""Spacing of the points that look for lots; every lot is wider than two of them."""


@dataclass(frozen=True)
class Outline:
    """A polygon in the grid's CRS, and what it is: a roof of `ROOFS` or a crop of `CROP_TYPES`."""

    polygon: shapely.Polygon
    kind: str


def truth(grid: Grid, seed: int) -> dict[str, list[Outline]]:
    """'buildings' that touch the grid, whole, and 'parcels' within it. Raises Missing beyond UTM's latitudes."""
    return {"buildings": _buildings(grid, seed), "parcels": _parcels(grid, seed)}


def _buildings(grid: Grid, seed: int) -> list[Outline]:
    west, south, east, north = grid.bounds
    margin = 60.0  # half the longest roof
    x = np.arange(west - margin, east + margin + _PROBE_M, _PROBE_M)
    y = np.arange(north + margin, south - margin - _PROBE_M, -_PROBE_M)
    probe = Grid(grid.epsg, (_PROBE_M, 0.0, float(x[0]), 0.0, -_PROBE_M, float(y[0])), len(y), len(x))
    ground = survey(probe, seed)
    built = np.flatnonzero(ground.surface == land.BUILT)
    at = places(ground.lon.ravel()[built], ground.lat.ravel()[built], seed)
    plot = plots(at)
    standing = np.flatnonzero(stands(at, plot, seed))
    names = np.stack([at.row, at.column, plot.key.astype(np.int64)])[:, standing]
    _, first = np.unique(names, axis=1, return_index=True)
    chosen = standing[first]
    outlines = rectangles(at.pick(chosen), plot.pick(chosen))
    turned = shapely.transform(
        outlines, lambda points: np.column_stack(project(points[:, 0], points[:, 1], grid.epsg))
    )
    kinds = roofs(plot.key[chosen])
    touching = np.flatnonzero(shapely.intersects(turned, shapely.box(*grid.bounds)))
    found = [Outline(turned[i], ROOFS[kinds[i]]) for i in touching]
    return sorted(found, key=lambda outline: outline.polygon.bounds)


def _parcels(grid: Grid, seed: int) -> list[Outline]:
    finer = int(np.ceil(grid.gsd / TRACED_M))
    traced = grid.at(grid.gsd / finer) if finer > 1 else grid
    ground = survey(traced, seed)
    field = parcels(places(ground.lon.ravel(), ground.lat.ravel(), seed))
    crops = ground.surface == land.CROPS
    _, first, owner = np.unique(field.key, return_index=True, return_inverse=True)
    if not crops.any():
        return []
    shapes = rasterio.features.shapes(
        owner.reshape(traced.shape).astype(np.int32), mask=crops, transform=traced.affine()
    )
    found = [
        Outline(shapely.geometry.shape(outline), CROP_TYPES[field.crop[first[int(value)]]])
        for outline, value in shapes
    ]
    return sorted(found, key=lambda outline: outline.polygon.bounds)
