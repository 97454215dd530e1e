"""Land cover of three places of TerraMesh (Tanzania, Chile, Denmark) under Sentinel-2 and -1: train on two, score the third.

Chips of 32 pixels of 10 m, side by side; 98 to train, 49 to score. It asks whether an encoder carries over to another
continent, on far too little ground to rank encoders by it. Cloud and no data are not scored. Chile's Sentinel-2 numbers
carry the 1,000 that are added since 2022, which is taken off: its cirrus band, which sees no ground, has 1,011 where the
others have 54 and 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geodata.benchmarks import IGNORED, Benchmark, Labelled
from geodata.benchmarks.readers.rasters import (
    Box,
    cut,
    decibels,
    lonlat,
    mask,
    raster,
    reflectance,
    size,
    stack,
)
from geodata.benchmarks.readers.tiles import Chips, LabelledScene
from geodata.radiometry import harmonise
from geodata.sensors import MASK, SENTINEL1, SENTINEL2_L2A

CODES = {
    "water": 1,
    "trees": 2,
    "flooded vegetation": 3,
    "crops": 4,
    "built": 5,
    "bare ground": 6,
    "snow or ice": 7,
    "rangeland": 9,
}
NO_DATA, CLOUDS = 0, 8
CLASSES = tuple(CODES)
PLACES = {"tanzania": "38D_378R_2_3", "chile": "433D_629L_3_1", "denmark": "637U_59R_1_3"}
WITH_OFFSET = PLACES["chile"]
TERMS = (
    "CC-BY-SA-4.0",
    "TerraMesh, Blumenstiel et al. 2025; Copernicus Sentinel data; ESRI, Impact Observatory",
)
CHIP = 32
_FOLDERS = ("S2L2A", "S1RTC", "LULC")


@dataclass(frozen=True)
class Rasters:
    """A GeoTIFF for each place in a folder for each layer; `scored` is the place that is not trained on."""

    scored: str

    def absent(self, root: Path) -> list[str]:
        """Files that are not there."""
        names = [f"{folder}/{cell}.tif" for folder in _FOLDERS for cell in PLACES.values()]
        return [f"there is no {name}" for name in names if not (root / name).exists()]

    def scenes(self, root: Path) -> list[LabelledScene]:
        """The places."""
        return [
            LabelledScene(
                place, cell, "test" if place == self.scored else "train", *size(root / f"LULC/{cell}.tif")
            )
            for place, cell in PLACES.items()
        ]

    def load(self, root: Path, cell: str, box: Box) -> Labelled:
        """A window of a place."""
        optical, radar, labels = (root / folder / f"{cell}.tif" for folder in _FOLDERS)
        table = {code: index for index, code in enumerate(CODES.values())} | {
            NO_DATA: IGNORED,
            CLOUDS: IGNORED,
        }
        codes = raster(labels, [1])[0]
        numbers = reflectance(cut(raster(optical), box, 0))
        taken_off = "none"
        if cell == WITH_OFFSET:
            numbers, taken_off = harmonise(numbers), "us"
        known = {"offset_applied_by": (taken_off,)}
        layers = {
            "s2": stack(SENTINEL2_L2A, numbers[None], TERMS, names=(cell,), properties=known),
            "s1": stack(SENTINEL1, decibels(cut(raster(radar), box, 0))[None], TERMS, names=(cell,)),
            "mask": mask(cut(codes, box, NO_DATA), table, TERMS, what=labels, gsd=10.0),
        }
        lon, lat = lonlat(labels)
        return Labelled(layers, lon=lon, lat=lat, scene=cell)


def _as(place: str) -> Benchmark:
    reader = Rasters(place)
    return Benchmark(
        name=f"terramesh_landcover_{place}",
        title=f"TerraMesh land cover, scored in {place.title()}",
        task="segment",
        classes=CLASSES,
        sensors=(SENTINEL2_L2A, SENTINEL1, MASK),
        splits={"train": 98, "test": 49},
        protocols=(f"terramesh_landcover_{place}_finetune",),
        metric="miou",
        url="https://huggingface.co/datasets/ibm-esa-geospatial/TerraMesh",
        license=TERMS[0],
        attribution=TERMS[1],
        contained=tuple(f"{folder}/{cell}.tif" for folder in _FOLDERS for cell in PLACES.values()),
        reader=Chips("terramesh_landcover", CHIP, CHIP, reader.scenes, reader.load, reader.absent),
    )


BENCHMARKS = tuple(_as(place) for place in PLACES)
