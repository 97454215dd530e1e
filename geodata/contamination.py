"""Whether a sample shows what a downstream benchmark is made of, so that a score can be trusted.

Where a benchmark says where it lies, ground is compared: a chip counts as contaminated within a buffer of it. How well
places are known differs and is said with every match: the outline of each picture ('exact'), the map or satellite tile that
holds it ('tile'), a circle around a city ('city'), a whole country ('country'), or nothing ('unknown'). A country is
reported but excludes nothing. Where nothing is known, only pictures can be compared: name the folders that hold the
benchmark, and samples are held against their perceptual hashes. Most of those pictures come from the same map
engines that corpora are made from.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Geod, Transformer

from geodata.errors import Missing
from geodata.grid import Grid, unproject
from geodata.likeness import Hashes, distance, of_folder
from geodata.source import at_home

Precision = Literal["exact", "tile", "city", "country", "unknown"]

EXCLUDES: tuple[Precision, ...] = ("exact", "tile", "city")
"""How well a place must be known to cost a chip its place in the corpus."""
_EARTH = Geod(ellps="WGS84")
_SLACK = 1.005
"""Spheres differ from the ellipsoid by less: what the quick test on a sphere lets pass is measured truly."""
_RADIUS_KM = 6371.0


@dataclass(frozen=True)
class Place:
    """Where one part of a benchmark lies: an outline in longitude and latitude, grown by `radius_km`."""

    name: str
    outline: shapely.Geometry
    radius_km: float = 0.0


@dataclass(frozen=True)
class Footprint:
    """A downstream data set: what it is for, how well its places are known, and who says so."""

    name: str
    task: str
    precision: Precision
    source: str
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Match:
    """A sample that is near a benchmark: `km` from it (0 inside), or showing one of its pictures but for `bits`."""

    name: str
    precision: Precision
    place: str
    km: float = math.nan
    bits: int = -1

    def __str__(self) -> str:
        if self.bits >= 0:
            return f"{self.name} {self.place} {self.bits} bits"
        return f"{self.name} {self.km:.1f} km ({self.precision}: {self.place})"


@functools.cache
def benchmarks() -> Mapping[str, Footprint]:
    """The benchmarks that are known here, by name."""
    text = importlib.resources.files("geodata").joinpath("data/benchmarks.json").read_text(encoding="utf-8")
    return {
        name: Footprint(
            name, known["task"], known["precision"], known["source"], tuple(map(_place, known["places"]))
        )
        for name, known in json.loads(text)["benchmarks"].items()
    }


def known(names: Sequence[str]) -> tuple[Footprint, ...]:
    """Benchmarks by their names; 'all' stands for all. Raises ValueError with the names there are."""
    every = benchmarks()
    for name in names:
        if name != "all" and name not in every:
            raise ValueError(f"no benchmark is called {name!r}; known are all, {', '.join(every)}")
    return tuple(every[name] for name in (every if "all" in names else dict.fromkeys(names)))


def near_ground(grid: Grid, names: Sequence[str], buffer_km: float) -> list[Match]:
    """The named benchmarks within so many kilometres of a chip: of each the nearest place, in the order of the names.

    Distances run along the ellipsoid, from the chip's outline to the place's. Raises ValueError for an unknown name.
    """
    lon, lat = grid.centre()
    half_km = _half_diagonal_km(grid)
    found = []
    for benchmark in known(names):
        if not benchmark.places:
            continue
        reach = _circles(benchmark.name)
        close = np.flatnonzero(
            _sphere_km(lon, lat, reach[0], reach[1]) <= (reach[2] + half_km + buffer_km) * _SLACK + 0.1
        )
        measured = [(_distance_km(grid, benchmark.places[place]), place) for place in close]
        if measured and min(measured)[0] <= buffer_km:
            km, place = min(measured)
            found.append(Match(benchmark.name, benchmark.precision, benchmark.places[place].name, km))
    return found


def same_pictures(hashes: Sequence[int | None], folders: Sequence[str], bits: int) -> list[Match]:
    """The folders of which a picture differs from one of these perceptual hashes in at most so many bits, and which.

    Of each folder the nearest picture is told. Folders are hashed once a process, which takes a few milliseconds a
    picture; `~/` is the user's home. Raises Missing for a folder that is not there or holds no picture.
    """
    seen = np.array([value for value in hashes if value is not None], np.uint64)
    found = []
    for folder in folders:
        pictures, names = _hashed(folder)
        if not len(seen):
            continue
        apart = distance(seen[:, None], pictures[None]).min(axis=0)
        nearest = int(apart.argmin())
        if apart[nearest] <= bits:
            found.append(Match(Path(folder).name, "exact", names[nearest], bits=int(apart[nearest])))
    return found


def excluding(matches: Sequence[Match]) -> Match | None:
    """The first match that is known well enough to refuse a chip for, or None."""
    return next((match for match in matches if match.precision in EXCLUDES), None)


@functools.lru_cache(maxsize=64)
def _hashed(folder: str) -> tuple[Hashes, tuple[str, ...]]:
    path = Path(at_home(folder))
    if not path.is_dir():
        raise Missing(
            f"{folder}, against whose pictures samples are to be held, is no folder; check `images`"
        )
    hashes, names, unreadable = of_folder(path)
    if not names:
        raise Missing(
            f"{folder} holds no picture that opens ({len(unreadable)} do not), so nothing can be held against it; "
            f"check `images`"
        )
    return hashes, tuple(names)


def _place(told: Mapping[str, Any]) -> Place:
    name = told["name"]
    if "circle" in told:
        lon, lat, radius = told["circle"]
        return Place(name, shapely.Point(lon, lat), radius)
    if "box" in told:
        return Place(name, _along(shapely.box(*told["box"]), told["epsg"]))
    if "tile" in told:
        zoom, column, row = told["tile"]
        return Place(name, shapely.box(*_tile(zoom, column, row + 1), *_tile(zoom, column + 1, row)))
    return Place(name, shapely.MultiPolygon([shapely.Polygon(ring) for ring in told["outline"]]))


def _tile(zoom: int, column: int, row: int) -> tuple[float, float]:
    """Longitude and latitude of the upper left corner of a map tile."""
    count = 2.0**zoom
    return column / count * 360.0 - 180.0, math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * row / count))))


def _along(box: shapely.Polygon, epsg: int, step: float = 5_000.0) -> shapely.Polygon:
    """A box of metres in longitude and latitude, with a corner every 5 km so that its sides stay straight on the ground."""
    x, y = np.array(shapely.segmentize(box, step).exterior.coords).T
    return shapely.Polygon(np.stack(unproject(x, y, epsg), axis=1))


@functools.cache
def _circles(name: str) -> NDArray[np.float64]:
    """Longitude, latitude and radius in km (3, N) of circles around the places of a benchmark."""
    circles = []
    for place in benchmarks()[name].places:
        middle = place.outline.envelope.centroid
        corners = shapely.get_coordinates(place.outline)
        away = _sphere_km(middle.x, middle.y, corners[:, 0], corners[:, 1]).max()
        circles.append((middle.x, middle.y, away * _SLACK + place.radius_km))
    return np.array(circles).T


def _sphere_km(lon: float, lat: float, lons: NDArray[Any], lats: NDArray[Any]) -> NDArray[np.float64]:
    """Distances from one point to others on a sphere, in km; right to half a percent."""
    a, b = np.radians(lat), np.radians(lats)
    half = np.sin((b - a) / 2) ** 2 + np.cos(a) * np.cos(b) * np.sin(np.radians(lons - lon) / 2) ** 2
    return np.asarray(2 * _RADIUS_KM * np.arcsin(np.sqrt(np.minimum(half, 1.0))))


def _half_diagonal_km(grid: Grid) -> float:
    west, south, east, north = grid.bbox()
    return float(_EARTH.inv(west, south, east, north)[2]) / 2000.0


def _distance_km(grid: Grid, place: Place) -> float:
    """From the outline of a chip to that of a place, 0 where they touch.

    Both are drawn on a plane that is true to distance and direction from the middle of the chip.
    """
    lon, lat = grid.centre()
    plane = Transformer.from_crs(4326, f"+proj=aeqd +lon_0={lon} +lat_0={lat} +ellps=WGS84", always_xy=True)

    def drawn(outline: shapely.Geometry) -> shapely.Geometry:
        def moved(points: NDArray[Any]) -> NDArray[Any]:
            return np.stack(plane.transform(points[:, 0], points[:, 1]), axis=1)

        return shapely.transform(outline, moved)

    apart = drawn(grid.footprint()).distance(drawn(place.outline)) / 1000.0
    return max(0.0, float(apart) - place.radius_km)
