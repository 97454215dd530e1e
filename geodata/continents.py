"""Which continent a point lies on, and whether it lies near land: packaged outlines of six continents.

There are two sets, whose files' `source` says how they were made. 'coarse' (`data/continents.json`) is Natural Earth's
1:110m countries dissolved and simplified to a few hundred corners; a coast may be some 50 km off, which is good enough
for an invented Earth. 'fine' (`data/outlines_50m.json.gz`) is 1:50m, right to some 2 km, for corpora of the real one:
towns lie on coasts, and the sea must not pass for lakes. In both, Russia is split at the Urals, Turkey is in Asia,
Central America and the Caribbean in North America; Antarctica is left out.
"""

from __future__ import annotations

import functools
import gzip
import importlib.resources
import json
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray

Outlines = Literal["coarse", "fine"]
NAMES = ("africa", "asia", "europe", "north_america", "oceania", "south_america")
"""The six continents, in the order of their codes: 0 to 5; -1 is the sea."""

SHORT = {
    "africa": "AF",
    "asia": "AS",
    "europe": "EU",
    "north_america": "NA",
    "oceania": "OC",
    "south_america": "SA",
}

Degrees = NDArray[np.floating[Any]]


def continent_of(lon: Degrees, lat: Degrees) -> NDArray[np.str_]:
    """Names of the continents that points (degrees, any shape) lie on; '' at sea and for points without coordinates."""
    return np.array([*NAMES, ""])[codes(lon, lat)]


def codes(
    lon: Degrees, lat: Degrees, reach_km: float = 0.0, outlines: Outlines = "coarse"
) -> NDArray[np.int8]:
    """Places in `NAMES` of the continents that points (degrees, any shape) lie on; -1 at sea.

    With `reach_km`, a point at sea no farther than that from a coast belongs to the continent there (of two, to the
    first in `NAMES`).
    """
    lon, lat = np.broadcast_arrays(np.asarray(lon, float), np.asarray(lat, float))
    found = np.full(lon.shape, -1, np.int8)
    here = np.isfinite(lon) & np.isfinite(lat)
    x, y = (lon[here] + 180) % 360 - 180, lat[here]
    inside = _owners(x, y, *_tree(outlines))
    if reach_km:
        at_sea = np.flatnonzero(inside < 0)
        inside[at_sea] = _owners(x[at_sea], y[at_sea], *_coasts(reach_km, outlines))
    found[here] = inside
    return found


def meeting(boxes: Degrees, reach_km: float = 0.0, outlines: Outlines = "coarse") -> NDArray[np.bool_]:
    """Which of `NAMES` boxes (N, 4) of west, south, east, north in degrees meet, or come within `reach_km` of: (N, 6).

    Nearness is taken generously: a box a little too far away may count, none that is near is missed.
    """
    west, south, east, north = np.asarray(boxes, float).T
    up = reach_km / _DEGREE_KM * 1.01
    south, north = np.maximum(south - up, -90), np.minimum(north + up, 90)
    across = up / np.cos(np.radians(np.minimum(np.maximum(abs(south), abs(north)), 89.0)))
    found = np.zeros((len(boxes), len(NAMES)), bool)
    tree, owner = _tree(outlines)
    for turn in (-360.0, 0.0, 360.0):
        left, right = west - across + turn, east + across + turn
        here = np.flatnonzero((right >= -180) & (left <= 180))
        shapes = shapely.box(left[here], south[here], right[here], north[here])
        shape, part = tree.query(shapes)
        meets = shapely.intersects(tree.geometries[part], shapes[shape])
        found[here[shape[meets]], owner[part[meets]]] = True
    return found


def polygons(name: str, outlines: Outlines = "coarse") -> shapely.MultiPolygon:
    """The outline of one continent in longitude and latitude. Raises ValueError for a name there is not."""
    if name not in NAMES:
        raise ValueError(f"{name!r} is no continent; continents are {', '.join(NAMES)}")
    return _outlines(outlines)[name]


@functools.cache
def areas() -> dict[str, float]:
    """Area of each continent on the sphere, square kilometres: the weights of draws that are even by area.

    In cylindrical equal-area coordinates (longitude, sine of latitude) area is planar; edges are cut into pieces of at
    most half a degree first, because they are straight in longitude and latitude.
    """
    found = {}
    for name, outline in _outlines("coarse").items():
        flat = shapely.transform(
            shapely.segmentize(outline, 0.5),
            lambda at: np.column_stack([np.radians(at[:, 0]), np.sin(np.radians(at[:, 1]))]),
        )
        found[name] = float(flat.area) * _RADIUS_KM**2
    return found


_RADIUS_KM = 6371.0072
"""Of the sphere with the area of the WGS 84 ellipsoid."""
_DEGREE_KM = _RADIUS_KM * np.pi / 180


@functools.cache
def _outlines(outlines: Outlines) -> dict[str, shapely.MultiPolygon]:
    folder = importlib.resources.files("geodata") / "data"
    if outlines == "coarse":
        rings = json.loads((folder / "continents.json").read_text(encoding="utf-8"))["continents"]
    else:
        packed = json.loads(gzip.decompress((folder / "outlines_50m.json.gz").read_bytes()))["continents"]
        rings = {
            name: [[np.cumsum(np.reshape(ring, (-1, 2)), axis=0) / 100 for ring in part] for part in parts]
            for name, parts in packed.items()
        }
    return {
        name: shapely.MultiPolygon([shapely.Polygon(part[0], part[1:]) for part in rings[name]])
        for name in NAMES
    }


@functools.cache
def _tree(outlines: Outlines) -> tuple[shapely.STRtree, NDArray[np.int8]]:
    """All parts in one index, and the continent of each."""
    parts = [(part, code) for code, name in enumerate(NAMES) for part in polygons(name, outlines).geoms]
    geometries = [part for part, _ in parts]
    shapely.prepare(geometries)
    return shapely.STRtree(geometries), np.array([code for _, code in parts], np.int8)


def _owners(lon: Degrees, lat: Degrees, tree: shapely.STRtree, owner: NDArray[np.int8]) -> NDArray[np.int8]:
    """The continent (first of several) whose parts hold each point; -1 for none.

    The tree only finds parts near a point: asked whether they hold it, it would walk along their whole coast, while
    parts that are prepared for the question look it up.
    """
    point, part = tree.query(shapely.points(lon, lat))
    held = shapely.intersects_xy(tree.geometries[part], lon[point], lat[point])
    inside = np.full(len(lon), len(NAMES), np.int8)
    np.minimum.at(inside, point[held], owner[part[held]])
    return np.where(inside == len(NAMES), -1, inside).astype(np.int8)


_PIECE = 0.25
"""Degrees of coast that are taken as flat."""


@functools.cache
def _coasts(reach_km: float, outlines: Outlines) -> tuple[shapely.STRtree, NDArray[np.int8]]:
    """Strips of `reach_km` to both sides of all coasts, and the continent of each.

    Each short piece of coast is grown where degrees of longitude and latitude are made equally long, which is right to
    a few parts in a hundred as far north as there is land.
    """
    lines, owner = [], []
    for code, name in enumerate(NAMES):
        edges = shapely.segmentize(shapely.boundary(shapely.get_parts(polygons(name, outlines))), _PIECE)
        for ring in shapely.get_parts(edges):
            at = shapely.get_coordinates(ring)
            lines.append(np.stack([at[:-1], at[1:]], 1))
            owner.append(np.full(len(at) - 1, code, np.int8))
    pieces, owners = np.concatenate(lines), np.concatenate(owner)
    scale = np.cos(np.radians(pieces[:, :, 1].mean(1)))
    flat = pieces * np.stack([scale, np.ones_like(scale)], 1)[:, None]
    strips = shapely.buffer(shapely.linestrings(flat), reach_km / _DEGREE_KM, quad_segs=8)
    at, strip = shapely.get_coordinates(strips, return_index=True)
    at[:, 0] /= scale[strip]
    strips = shapely.polygons(shapely.linearrings(at, indices=strip))
    west, _, east, _ = shapely.bounds(strips).T
    beyond, before = east > 180, west < -180
    turned = (
        shapely.transform(strips[beyond], lambda xy: xy - np.array([360.0, 0.0])),
        shapely.transform(strips[before], lambda xy: xy + np.array([360.0, 0.0])),
    )
    every = np.concatenate([strips, *turned])
    shapely.prepare(every)
    return shapely.STRtree(every), np.concatenate([owners, owners[beyond], owners[before]])
