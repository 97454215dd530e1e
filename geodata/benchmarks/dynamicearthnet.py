"""DynamicEarthNet: 75 cubes of 1024 x 1024 pixels at 3 m, 24 months of labels under daily images (Toker et al. 2022).

Six classes; snow and ice, and whatever no class covers, is not scored. A sample is a month: the image of its first day,
as in the single-image setting (`pla`), or the Sentinel-2 composite of the month on the same grid (`s2`), or both with
the first two bands of Sentinel-1 (`mm`). Months whose image was never published are refused as missing, not silently left out. The split is
that of `splits.csv`; two training cubes, 1417_3281_13 and 2235_3403_13, are not in all of its versions.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from geodata.benchmarks import IGNORED, Benchmark, Labelled
from geodata.benchmarks.readers.pictures import split_named
from geodata.benchmarks.readers.rasters import (
    Array,
    decibels,
    found,
    lonlat,
    mask,
    one_of,
    raster,
    reflectance,
    stack,
    told,
)
from geodata.errors import Corrupt
from geodata.folders import Picture
from geodata.sample import Layer
from geodata.sensors import MASK, PLANET, SENTINEL1, SENTINEL2_L2A, Sensor

CLASSES = ("impervious surface", "agriculture", "forest and other vegetation", "wetlands", "soil", "water")
TERMS = ("CC-BY-NC-SA-4.0", "DynamicEarthNet, Toker et al. 2022; Planet Labs, Copernicus Sentinel data")
GSD_M = 3.0
_COLUMNS = {"ps": "planet_path", "s2": "s2_path", "s1": "s1_path"}


def classes_of(one_hot: Array, what: object) -> Array:
    """Classes (H, W) of a mask of seven bands (7, H, W), each 255 where its class is. Raises ValueError for another."""
    if len(one_hot) != 7 or not np.isin(one_hot, (0, 255)).all():
        raise ValueError(
            f"{what}: {len(one_hot)} bands of {np.unique(one_hot)[:5]}, where seven of 0 and 255 are; check it"
        )
    classes = np.where(one_hot.any(0), one_hot.argmax(0), IGNORED)
    return np.where(classes == len(CLASSES), IGNORED, classes).astype(np.uint8)


@dataclass(frozen=True)
class Months:
    """A table of months, and the paths in it."""

    prefixes: tuple[str, ...]

    def missing(self, root: Path) -> list[str]:
        """The table of splits, and the labels."""
        told_ = [] if found(root, "splits.csv") else ["there is no split_info/splits.csv"]
        return told_ + ([] if (root / "labels").is_dir() else ["there is no labels/"])

    def planned(self, root: Path) -> list[Picture]:
        """Every month of the table."""
        table = one_of(found(root, "splits.csv"), "splits.csv")
        with told(table), table.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        pictures = []
        for row in rows:
            paths = [row["label_path"], row["year_month"], *(row[_COLUMNS[name]] for name in self.prefixes)]
            name = f"dynamicearthnet-{_cube(row['label_path'])}-{row['year_month']}"
            pictures.append(Picture(name, "|".join(paths), split_named(row["split"], name), ()))
        return pictures

    def read(self, root: Path, one: Picture) -> Labelled:
        """A month of a cube."""
        labels, month, *images = one.path.split("|")
        day = date.fromisoformat(f"{month}-01")
        path = root / labels.lstrip("/")
        codes = classes_of(raster(path), path)
        lon, lat = lonlat(path)
        layers = {
            name: _image(name, root / place.lstrip("/"), day)
            for name, place in zip(self.prefixes, images, strict=True)
        }
        table = {**{code: code for code in range(len(CLASSES))}, IGNORED: IGNORED}
        layers["mask"] = mask(codes, table, TERMS, what=path, gsd=GSD_M)
        return Labelled(layers, lon=lon, lat=lat, scene=one.sample_id.split("-")[1])


def _cube(path: str) -> str:
    """The name of a cube (1311_3077_13_10N) in a path. Raises ValueError when there is none."""
    for part in path.split("/"):
        if part.count("_") >= 2 and part[0].isdigit():
            return part
    raise ValueError(f"{path} names no cube (1311_3077_13_10N); is it a path of DynamicEarthNet?")


def _image(prefix: str, path: Path, day: date) -> Layer:
    sensor: Sensor = _SENSORS[prefix]
    if prefix == "ps":
        path = path / f"{day.isoformat()}.tif"
    pixels = raster(path)
    if len(pixels) < len(sensor.bands):
        raise Corrupt(
            f"{path} has {len(pixels)} bands where {', '.join(sensor.band_names)} are wanted; check it"
        )
    pixels = pixels[: len(sensor.bands)]
    stored = decibels(pixels) if prefix == "s1" else reflectance(pixels)
    return stack(sensor, stored[None], TERMS, [day], names=(path.name,), gsd=GSD_M)


_MORE = {"mm": ("", "_prototypes")}
"""What is added to the name of a way, where it serves several protocols."""
_SENSORS = {"ps": PLANET, "s2": SENTINEL2_L2A, "s1": SENTINEL1}


def _as(way: str, prefixes: tuple[str, ...]) -> Benchmark:
    return Benchmark(
        name=f"dynamicearthnet_{way}",
        title="DynamicEarthNet",
        task="segment",
        classes=CLASSES,
        sensors=(*(_SENSORS[name] for name in prefixes), MASK),
        splits={"train": 55 * 24, "val": 10 * 24, "test": 10 * 24},
        protocols=tuple(f"skysense_dynamicearthnet_{way}{more}" for more in _MORE.get(way, ("",))),
        metric="miou",
        url="https://mediatum.ub.tum.de/1650201",
        license=TERMS[0],
        attribution=TERMS[1],
        contained=(
            "split_info/splits.csv (split, planet_path, s1_path, s2_path, label_path, year_month)",
            "labels/CUBE/Labels/Raster/.../*.tif",
            "planet/ZONE/.../CUBE/PF-SR/2018-01-01.tif, sentinel2/..., sentinel1/... as the table names them",
        ),
        reader=Months(prefixes),
        shard_rows=24,
    )


BENCHMARKS = (_as("pla", ("ps",)), _as("s2", ("s2",)), _as("mm", ("ps", "s2", "s1")))
