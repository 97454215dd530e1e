"""What was asked of a corpus against what it holds; and where it lies, on a map whose areas are true.

For cards: the counts come from records, the plan gives quotas and weights, and no pixel is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geodata import continents
from geodata.chips import Plan
from geodata.grid import project
from geodata.landcover import STRATA

__all__ = ["Line", "density", "flat", "frame", "lines", "outlines"]

EQUAL_EARTH = 8857
"""EPSG code of the projection: areas are true, so that equal density looks equal, and shapes are familiar."""
HALF_WIDTH, HALF_HEIGHT = 17_243_959.0, 8_392_928.0
"""Half the extent of the Earth in it, metres."""

Metres = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """One quota: `asked` chips, `planned` with those that replace rejected ones, `accepted` samples.

    `weight` is the stratum's share of the ground over its share of the plan: what one of its samples stands for.
    `accepted` is None where records cannot tell it from another quota's.
    """

    region: str
    stratum: str
    asked: int
    planned: int
    accepted: int | None
    weight: float


def lines(plan: Plan, counts: Mapping[str, Mapping[str, int]]) -> list[Line]:
    """The quotas of a plan beside what the records count, in the order of the plan; a quota without chips is there too."""
    labels = plan.columns["cell"].astype(np.int64) * len(STRATA) + plan.columns["stratum"]
    found, first, numbers = np.unique(labels, return_index=True, return_counts=True)
    planned = {
        (plan.regions[label // len(STRATA)], STRATA[label % len(STRATA)]): (int(number), place)
        for label, place, number in zip(found.tolist(), first.tolist(), numbers, strict=True)
    }
    accepted = counts.get("cell", {})
    out = []
    for region, wanted in plan.quotas.items():
        for stratum, asked in wanted.items():
            number, place = planned.get((region, stratum), (0, None))
            weight = math.nan if place is None else plan.chips[place].weight
            out.append(Line(region, stratum, asked, number, _accepted(accepted, region, stratum), weight))
    return out


def _accepted(accepted: Mapping[str, int], region: str, stratum: str) -> int | None:
    """Samples of a quota. One that is shared by all continents, or by an area, has its stratum to itself."""
    if not accepted:
        return None
    if region in continents.NAMES:
        return accepted.get(f"{region} {stratum}", 0)
    return sum(number for cell, number in accepted.items() if cell.split(" ")[-1] == stratum)


def flat(lon: Any, lat: Any) -> tuple[Metres, Metres]:
    """Longitude and latitude (degrees, arrays) on the Equal Earth map, metres."""
    x, y = project(np.asarray(lon, np.float64), np.asarray(lat, np.float64), EQUAL_EARTH)
    return x, y


def density(plan: Plan, columns: int = 120) -> tuple[NDArray[np.int64], tuple[float, float, float, float]]:
    """Chips per square of the Equal Earth map (rows from the north), and the map's bounds (metres)."""
    rows = round(columns * HALF_HEIGHT / HALF_WIDTH)
    x, y = flat(plan.columns["lon"], plan.columns["lat"])
    bounds = -HALF_WIDTH, -HALF_HEIGHT, HALF_WIDTH, HALF_HEIGHT
    counted, _, _ = np.histogram2d(
        y, x, bins=(rows, columns), range=((bounds[1], bounds[3]), (bounds[0], bounds[2]))
    )
    return counted[::-1].astype(np.int64), bounds


def outlines() -> list[tuple[list[float], list[float]]]:
    """The coasts of the six continents on the Equal Earth map: (x, y) of each ring, metres."""
    rings = []
    for name in continents.NAMES:
        for part in continents.polygons(name).geoms:
            at = shapely.get_coordinates(shapely.segmentize(part.exterior, 2.0))
            x, y = flat(at[:, 0], at[:, 1])
            rings.append((x.tolist(), y.tolist()))
    return rings


def frame(south: float = -60.0) -> tuple[list[float], list[float]]:
    """The edge of the Earth on the map, from a latitude (degrees) to the north pole: (x, y), metres."""
    lat = np.linspace(south, 90.0, 91)
    lon = np.concatenate([np.full(91, -180.0), np.full(91, 180.0)])
    x, y = flat(lon, np.concatenate([lat, lat[::-1]]))
    return x.tolist(), y.tolist()
