"""PASTIS-R: 2,433 squares of 128 x 128 pixels in France, a year of Sentinel-2 and -1, eighteen crops (Garnot et al. 2021).

Five folds, and five runs: of run k, fold k+3 chooses and fold k+4 is scored (both counted round), the other three train;
papers print the mean of the five. Background counts; void (19) is not scored. `s1` is ascending and descending passes in
one series by date, of which `orbit_pass` says which is which; their third channel, a difference of the first two, is not
kept. Reflectance below 0 becomes 0, which means nodata.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.errors import ShapelyError

from geodata.benchmarks import IGNORED, Benchmark, Labelled
from geodata.benchmarks.readers.rasters import Array, decibels, mask, npy, reflectance, stack, told
from geodata.errors import Corrupt
from geodata.folders import Picture
from geodata.grid import unproject
from geodata.layout import Split
from geodata.sample import Layer
from geodata.sensors import MASK, SENTINEL1, SENTINEL2

CLASSES = (
    "background",
    "meadow",
    "soft winter wheat",
    "corn",
    "winter barley",
    "winter rapeseed",
    "spring barley",
    "sunflower",
    "grapevine",
    "beet",
    "winter triticale",
    "winter durum wheat",
    "fruits, vegetables, flowers",
    "potatoes",
    "leguminous fodder",
    "soybeans",
    "orchard",
    "mixed cereal",
    "sorghum",
)
VOID = 19
TERMS = ("CC-BY-4.0", "PASTIS-R, Garnot, Landrieu and Chehata 2021, 2022; Copernicus Sentinel data, IGN, ASP")
LAMBERT93 = 2154
FOLDS = 5


def split_of(fold: int, run: int) -> Split:
    """To which split a fold (1 to 5) belongs in a run (1 to 5)."""
    place = (fold - run) % FOLDS
    return "test" if place == FOLDS - 1 else "val" if place == FOLDS - 2 else "train"


@dataclass(frozen=True)
class Squares:
    """A table of squares in GeoJSON, and a NumPy file for each square and sensor."""

    run: int

    def missing(self, root: Path) -> list[str]:
        """The table and the folders."""
        wanted = ("metadata.geojson", "DATA_S2", "DATA_S1A", "DATA_S1D", "ANNOTATIONS")
        return [f"there is no {name}" for name in wanted if not (root / name).exists()]

    def planned(self, root: Path) -> list[Picture]:
        """Every square of the table; its path is the line of its table."""
        return [
            Picture(
                f"pastis-{one['ID_PATCH']}", str(one["ID_PATCH"]), split_of(int(one["Fold"]), self.run), ()
            )
            for one, _ in _table(root)
        ]

    def read(self, root: Path, one: Picture) -> Labelled:
        """A square: two series and the mask."""
        told_, outline = next(pair for pair in _table(root) if str(pair[0]["ID_PATCH"]) == one.path)
        target = root / "ANNOTATIONS" / f"TARGET_{one.path}.npy"
        codes = npy(target)
        lon, lat = _middle(outline)
        table = {**{code: code for code in range(len(CLASSES))}, VOID: IGNORED}
        layers = {
            "s2": _optical(root, one.path, _days(told_["dates-S2"])),
            "s1": _radar(root, one.path, told_),
            "mask": mask(codes[0] if codes.ndim == 3 else codes, table, TERMS, what=target, gsd=10.0),
        }
        return Labelled(layers, lon=lon, lat=lat, scene=one.path)


def _optical(root: Path, name: str, days: list[date]) -> Layer:
    path = root / "DATA_S2" / f"S2_{name}.npy"
    pixels = npy(path)
    _as_many(pixels, days, path)
    return stack(
        SENTINEL2, reflectance(pixels), TERMS, days, names=[f"S2_{name}[{n}]" for n in range(len(days))]
    )


def _radar(root: Path, name: str, told_: Mapping[str, Any]) -> Layer:
    """Both passes, in order of date."""
    images: list[tuple[date, str, str, Array]] = []
    for letter, orbit in (("A", "ascending"), ("D", "descending")):
        path = root / f"DATA_S1{letter}" / f"S1{letter}_{name}.npy"
        pixels, days = npy(path), _days(told_[f"dates-S1{letter}"])
        _as_many(pixels, days, path)
        stored = decibels(pixels[:, :2].astype(np.float32))
        images += [(day, orbit, f"S1{letter}_{name}[{n}]", stored[n]) for n, day in enumerate(days)]
    images.sort(key=lambda one: one[:3])
    return stack(
        SENTINEL1,
        np.stack([one[3] for one in images]),
        TERMS,
        [one[0] for one in images],
        names=[one[2] for one in images],
        properties={"orbit_pass": tuple(one[1] for one in images)},
    )


def _as_many(pixels: Any, days: list[date], path: Path) -> None:
    if len(pixels) != len(days):
        raise Corrupt(f"{path} has {len(pixels)} images, its table {len(days)} dates; fetch both again")


def _days(told_: Any) -> list[date]:
    """Dates of a series, which the table holds as {"0": 20180917, ...}, some tools as the text of that."""
    numbers = json.loads(told_) if isinstance(told_, str) else told_
    texts = [str(numbers[key]) for key in sorted(numbers, key=int)]
    return [date(int(day[:4]), int(day[4:6]), int(day[6:8])) for day in texts]


def _table(root: Path) -> list[tuple[dict[str, Any], Any]]:
    """Properties and geometry of every square."""
    path = root / "metadata.geojson"
    stamp = path.stat().st_mtime_ns if path.exists() else 0
    return _read_table(path, stamp)


@functools.lru_cache(maxsize=2)
def _read_table(path: Path, stamp: int) -> list[tuple[dict[str, Any], Any]]:
    with told(path):
        return [(one["properties"], one["geometry"]) for one in json.loads(path.read_bytes())["features"]]


def _middle(outline: Any) -> tuple[float, float]:
    """Longitude and latitude of a square, whose outline is in Lambert-93 whatever the file says; nan without one."""
    try:
        point = shapely.from_geojson(json.dumps(outline)).centroid
    except (ShapelyError, TypeError):
        return nan, nan
    lon, lat = unproject([point.x], [point.y], LAMBERT93)
    return float(lon[0]), float(lat[0])


def _as(run: int) -> Benchmark:
    return Benchmark(
        name=f"pastis_run{run}",
        title=f"PASTIS-R, run {run} of {FOLDS}",
        task="crops",
        classes=CLASSES,
        sensors=(SENTINEL2, SENTINEL1, MASK),
        splits={},
        total=2433,
        protocols=("skysense_pastis", "skysense_pastis_mm"),
        metric="oa",
        url="https://zenodo.org/records/5735646",
        license=TERMS[0],
        attribution=TERMS[1],
        contained=(
            "metadata.geojson (ID_PATCH, Fold, dates-S2, dates-S1A, dates-S1D)",
            "DATA_S2/S2_10000.npy, DATA_S1A/S1A_10000.npy, DATA_S1D/S1D_10000.npy",
            "ANNOTATIONS/TARGET_10000.npy",
        ),
        reader=Squares(run),
        shard_rows=32,
    )


BENCHMARKS = tuple(_as(run) for run in range(1, FOLDS + 1))
