"""fMoW-Sentinel: Sentinel-2 at the places of the Functional Map of the World, 62 classes of function (Cong et al. 2022).

Each place has a dozen composites of three months from 2015 to 2019. `fmow_s2` takes each as a picture of its own, as
SatMAE does; `fmow_s2_series` all of a place as one series, as SkySense does. Pictures have all sizes about 50 pixels and
are brought to 96 x 96 bilinearly, because a batch has one size.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from geodata.benchmarks import Benchmark, Labelled
from geodata.benchmarks.readers.rasters import raster, reflectance, stack, told
from geodata.errors import Corrupt
from geodata.folders import Picture
from geodata.layout import Split
from geodata.sensors import SENTINEL2_L1C

CLASSES = (
    "airport",
    "airport_hangar",
    "airport_terminal",
    "amusement_park",
    "aquaculture",
    "archaeological_site",
    "barn",
    "border_checkpoint",
    "burial_site",
    "car_dealership",
    "construction_site",
    "crop_field",
    "dam",
    "debris_or_rubble",
    "educational_institution",
    "electric_substation",
    "factory_or_powerplant",
    "fire_station",
    "flooded_road",
    "fountain",
    "gas_station",
    "golf_course",
    "ground_transportation_station",
    "helipad",
    "hospital",
    "impoverished_settlement",
    "interchange",
    "lake_or_pond",
    "lighthouse",
    "military_facility",
    "multi-unit_residential",
    "nuclear_powerplant",
    "office_building",
    "oil_or_gas_facility",
    "park",
    "parking_lot_or_garage",
    "place_of_worship",
    "police_station",
    "port",
    "prison",
    "race_track",
    "railway_bridge",
    "recreational_facility",
    "road_bridge",
    "runway",
    "shipyard",
    "shopping_mall",
    "single-unit_residential",
    "smokestack",
    "solar_farm",
    "space_facility",
    "stadium",
    "storage_tank",
    "surface_mine",
    "swimming_pool",
    "toll_booth",
    "tower",
    "tunnel_opening",
    "waste_disposal",
    "water_treatment_facility",
    "wind_farm",
    "zoo",
)
LISTS: dict[Split, str] = {"train": "train.csv", "val": "val.csv", "test": "test_gt.csv"}
FOLDERS: dict[Split, str] = {"train": "train", "val": "val", "test": "test_gt"}
TERMS = ("fMoW Challenge Public License", "fMoW-Sentinel, Cong et al. 2022; Copernicus Sentinel data")
SIDE = 96


@dataclass(frozen=True)
class Composites:
    """Tables of images, and a folder for each place. A path is the folder of a place, `#` and its images `id=date`."""

    series: bool

    def missing(self, root: Path) -> list[str]:
        """Tables and folders."""
        wanted = [*LISTS.values(), *FOLDERS.values()]
        return [f"there is no {name}" for name in wanted if not (root / name).exists()]

    def planned(self, root: Path) -> list[Picture]:
        """Every image, or every place, of the tables. Raises ValueError for a class that is none of the 62."""
        pictures = []
        for split, name in LISTS.items():
            places: defaultdict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
            with told(root / name), (root / name).open(newline="") as stream:
                rows = list(csv.DictReader(stream))
            for row in rows:
                if row["category"] not in CLASSES:
                    raise ValueError(
                        f"{name}: {row['category']!r} is none of the {len(CLASSES)} classes of fMoW"
                    )
                images = places[row["category"], row["location_id"]]
                images.append((row["timestamp"][:10], row["image_id"]))
            for (category, place), images in places.items():
                pictures += self._of(split, category, place, sorted(images))
        return pictures

    def _of(self, split: Split, category: str, place: str, images: list[tuple[str, str]]) -> list[Picture]:
        start, code = f"fmow_s2-{split}-{category}_{place}", CLASSES.index(category)
        folder = f"{FOLDERS[split]}/{category}/{category}_{place}"
        named = [f"{number}={day}" for day, number in images]
        if self.series:
            return [Picture(start, f"{folder}#{';'.join(named)}", split, (code,))]
        return [
            Picture(f"{start}_{one.partition('=')[0]}", f"{folder}#{one}", split, (code,)) for one in named
        ]

    def read(self, root: Path, one: Picture) -> Labelled:
        """The images of a place, oldest first."""
        folder, _, named = one.path.partition("#")
        name = folder.rpartition("/")[2]
        category = name.rpartition("_")[0]
        dates, paths, pixels = [], [], []
        for image in named.split(";"):
            number, _, day = image.partition("=")
            path = root / folder / f"{name}_{number}.tif"
            values = raster(path, shape=(SIDE, SIDE))
            if len(values) != len(SENTINEL2_L1C.bands):
                raise Corrupt(f"{path} has {len(values)} bands where fMoW-Sentinel has 13; fetch it again")
            pixels.append(reflectance(values))
            dates.append(date.fromisoformat(day))
            paths.append(f"{folder}/{path.name}")
        layer = stack(SENTINEL2_L1C, np.stack(pixels), TERMS, dates, names=paths)
        return Labelled({"s2": layer}, {"class": CLASSES.index(category)}, scene=name)


def _as(*, series: bool) -> Benchmark:
    return Benchmark(
        name="fmow_s2_series" if series else "fmow_s2",
        title="fMoW-Sentinel",
        task="classify",
        classes=CLASSES,
        sensors=(SENTINEL2_L1C,),
        splits={} if series else {"train": 712_874, "val": 84_939, "test": 84_966},
        protocols=("skysense_fmow_s2",) if series else (),
        metric="top1_top5",
        url="https://purl.stanford.edu/vg497cb6002",
        license=TERMS[0],
        attribution=TERMS[1],
        contained=(
            "train.csv, val.csv, test_gt.csv",
            "train/CLASS/CLASS_0/CLASS_0_6.tif, and so for val and test_gt",
        ),
        reader=Composites(series),
        shard_rows=256 if series else 2048,
    )


BENCHMARKS = (_as(series=False), _as(series=True))
