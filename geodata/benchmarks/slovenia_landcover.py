"""Land cover of a square kilometre of Slovenia under three clear Sentinel-2 dates, from the sample of eo-learn.

One patch of 101 x 101 pixels: the west trains, in chips of 32 pixels that overlap, and the east, five pixels away, is
scored in chips that do not. Trees and grass are most of it. `none` of the register is not scored.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np

from geodata.benchmarks import IGNORED, Benchmark, Labelled, origin, tile_id
from geodata.benchmarks.readers.rasters import cut, lonlat, mask, raster, reflectance, stack
from geodata.folders import Picture
from geodata.layout import Split
from geodata.sensors import MASK, SENTINEL2_L1C

CODES = {"cultivated land": 1, "forest": 2, "grassland": 3, "shrubland": 4, "artificial surface": 8}
CLASSES = tuple(CODES)
DAYS = (date(2015, 7, 11), date(2015, 8, 30), date(2015, 9, 9))
"""The reference dates without cloud."""
TERMS = ("MIT (samples), open data (register)", "eo-learn, Sinergise; Copernicus; Republic of Slovenia, MKGP")
CHIP, GSD_M = 32, 10.0
WEST = tuple((row, col) for row in range(0, 70, 8) for col in range(0, 33, 8))
EAST = tuple((row, 69) for row in (0, 32, 64))


class Patch:
    """One GeoTIFF for each date, and one of the register."""

    def missing(self, root: Path) -> list[str]:
        """Files that are not there."""
        names = [*(_name(day) for day in DAYS), "LULC.tif"]
        return [f"there is no {name}" for name in names if not (root / name).exists()]

    def planned(self, root: Path) -> list[Picture]:
        """Chips of the west and of the east."""
        parts: tuple[tuple[Split, tuple[tuple[int, int], ...]], ...] = (("train", WEST), ("test", EAST))
        return [
            Picture(tile_id("slovenia_landcover", "patch", row, col), "LULC.tif", split, ())
            for split, corners in parts
            for row, col in corners
        ]

    def read(self, root: Path, one: Picture) -> Labelled:
        """One chip."""
        _, row, col = origin(one.sample_id)
        box = (row, col, CHIP, CHIP)
        labels = root / "LULC.tif"
        scenes = np.stack([cut(raster(root / _name(day)), box, 0) for day in DAYS])
        table = {code: index for index, code in enumerate(CODES.values())} | {0: IGNORED}
        layers = {
            "s2": stack(
                SENTINEL2_L1C, reflectance(scenes, 10_000), TERMS, DAYS, names=[_name(day) for day in DAYS]
            ),
            "mask": mask(cut(raster(labels, [1])[0], box, 0), table, TERMS, what=labels, gsd=GSD_M),
        }
        lon, lat = lonlat(labels)
        return Labelled(layers, lon=lon, lat=lat, scene="patch")


def _name(day: date) -> str:
    return f"S2L1C_{day:%Y%m%d}.tif"


BENCHMARKS = (
    Benchmark(
        name="slovenia_landcover",
        title="Land cover of a patch of Slovenia",
        task="segment",
        classes=CLASSES,
        sensors=(SENTINEL2_L1C, MASK),
        splits={"train": len(WEST), "test": len(EAST)},
        protocols=("slovenia_landcover_finetune",),
        metric="miou",
        url="https://github.com/sentinel-hub/eo-learn",
        license=TERMS[0],
        attribution=TERMS[1],
        contained=(*(_name(day) for day in DAYS), "LULC.tif"),
        reader=Patch(),
    ),
)
