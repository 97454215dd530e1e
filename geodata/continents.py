"""Which continent a point lies on: six small polygons, packaged, for quotas and for the synthetic Earth.

The polygons (`data/continents.json`, whose `source` says how they were made) are Natural Earth's 1:110m countries
dissolved by continent and simplified, so a coast may be some 50 km off: good enough to share out a corpus, too coarse
to mask the sea. Russia is split at the Urals, Turkey is in Asia, Central America and the Caribbean in North America;
Antarctica is left out.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

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


def codes(lon: Degrees, lat: Degrees) -> NDArray[np.int8]:
    """Places in `NAMES` of the continents that points (degrees, any shape) lie on; -1 at sea."""
    lon, lat = np.broadcast_arrays(np.asarray(lon, float), np.asarray(lat, float))
    found = np.full(lon.shape, -1, np.int8)
    here = np.isfinite(lon) & np.isfinite(lat)
    points = shapely.points((lon[here] + 180) % 360 - 180, lat[here])
    tree, owner = _tree()
    point, part = tree.query(points, predicate="intersects")
    inside = np.full(points.shape, -1, np.int8)
    inside[point[::-1]] = owner[
        part[::-1]
    ]  # a point on a shared border goes to the first that the tree names
    found[here] = inside
    return found


def polygons(name: str) -> shapely.MultiPolygon:
    """The outline of one continent in longitude and latitude. Raises ValueError for a name there is not."""
    if name not in NAMES:
        raise ValueError(f"{name!r} is no continent; continents are {', '.join(NAMES)}")
    return _outlines()[name]


@functools.cache
def areas() -> dict[str, float]:
    """Area of each continent on the sphere, square kilometres: the weights of draws that are even by area.

    In cylindrical equal-area coordinates (longitude, sine of latitude) area is planar; edges are cut into pieces of at
    most half a degree first, because they are straight in longitude and latitude.
    """
    found = {}
    for name, outline in _outlines().items():
        flat = shapely.transform(
            shapely.segmentize(outline, 0.5),
            lambda at: np.column_stack([np.radians(at[:, 0]), np.sin(np.radians(at[:, 1]))]),
        )
        found[name] = float(flat.area) * _RADIUS_KM**2
    return found


_RADIUS_KM = 6371.0072
"""Of the sphere with the area of the WGS 84 ellipsoid."""


@functools.cache
def _outlines() -> dict[str, shapely.MultiPolygon]:
    text = (importlib.resources.files("geodata") / "data" / "continents.json").read_text(encoding="utf-8")
    continents = json.loads(text)["continents"]
    return {
        name: shapely.MultiPolygon([shapely.Polygon(rings[0], rings[1:]) for rings in continents[name]])
        for name in NAMES
    }


@functools.cache
def _tree() -> tuple[shapely.STRtree, NDArray[np.int8]]:
    """All parts in one index, and the continent of each."""
    parts = [(part, code) for code, name in enumerate(NAMES) for part in polygons(name).geoms]
    geometries = [part for part, _ in parts]
    shapely.prepare(geometries)
    return shapely.STRtree(geometries), np.array([code for _, code in parts], np.int8)
