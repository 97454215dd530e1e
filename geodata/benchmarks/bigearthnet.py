"""BigEarthNet: 590,326 patches of Sentinel-2 (and Sentinel-1) over Europe, labelled by CORINE (Sumbul et al. 2019, 2021).

The nomenclature of 19 classes joins some of the 43 and drops eleven. Three sets of lists, whose numbers must not be mixed:
`v1`, the official lists of the first version; `seco`, those of the in-domain representation paper that SeCo and after it
SkySense use, without patches under snow or cloud; `v2`, the second version, with labels and splits of its own. `mm` adds
radar. Bands of 20 and 60 m are brought to 120 x 120 pixels bilinearly.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq

from geodata.benchmarks import Benchmark, Labelled
from geodata.benchmarks.readers.rasters import decibels, lonlat, raster, reflectance, stack, told
from geodata.folders import Picture
from geodata.layout import Split
from geodata.sample import Layer
from geodata.sensors import SENTINEL1, SENTINEL2_L2A

JOINED = {
    "Urban fabric": ("Continuous urban fabric", "Discontinuous urban fabric"),
    "Industrial or commercial units": ("Industrial or commercial units",),
    "Arable land": ("Non-irrigated arable land", "Permanently irrigated land", "Rice fields"),
    "Permanent crops": (
        "Vineyards",
        "Fruit trees and berry plantations",
        "Olive groves",
        "Annual crops associated with permanent crops",
    ),
    "Pastures": ("Pastures",),
    "Complex cultivation patterns": ("Complex cultivation patterns",),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
    ),
    "Agro-forestry areas": ("Agro-forestry areas",),
    "Broad-leaved forest": ("Broad-leaved forest",),
    "Coniferous forest": ("Coniferous forest",),
    "Mixed forest": ("Mixed forest",),
    "Natural grassland and sparsely vegetated areas": ("Natural grassland", "Sparsely vegetated areas"),
    "Moors, heathland and sclerophyllous vegetation": ("Moors and heathland", "Sclerophyllous vegetation"),
    "Transitional woodland, shrub": ("Transitional woodland/shrub",),
    "Beaches, dunes, sands": ("Beaches, dunes, sands",),
    "Inland wetlands": ("Inland marshes", "Peatbogs"),
    "Coastal wetlands": ("Salt marshes", "Salines"),
    "Inland waters": ("Water courses", "Water bodies"),
    "Marine waters": ("Coastal lagoons", "Estuaries", "Sea and ocean"),
}
"""The 19 classes, and those of the 43 that each joins."""
DROPPED = (
    "Road and rail networks and associated land",
    "Port areas",
    "Airports",
    "Mineral extraction sites",
    "Dump sites",
    "Construction sites",
    "Green urban areas",
    "Sport and leisure facilities",
    "Bare rock",
    "Burnt areas",
    "Intertidal flats",
)
CLASSES = tuple(JOINED)
TERMS = (
    "CDLA-Permissive-1.0",
    "BigEarthNet, Sumbul et al. 2019, 2021, Clasen et al. 2024; Copernicus Sentinel data",
)
SHAPE = (120, 120)
SNOWY = ("patches_with_seasonal_snow.csv", "patches_with_cloud_and_shadow.csv")
_CODES = {old: code for code, olds in enumerate(JOINED.values()) for old in olds}
_SPLITS: dict[str, Split] = {"train": "train", "val": "val", "validation": "val", "test": "test"}
Lists = Literal["v1", "seco", "v2"]


def bits(labels: Sequence[str], *, of_19: bool) -> int:
    """Names of classes as one number, bit i for class i. Raises ValueError for a name of neither nomenclature."""
    found_bits = 0
    for name in labels:
        if of_19 and name in CLASSES:
            found_bits |= 1 << CLASSES.index(name)
        elif not of_19 and name in _CODES:
            found_bits |= 1 << _CODES[name]
        elif of_19 or name not in DROPPED:
            raise ValueError(f"{name!r} is no class of BigEarthNet's {19 if of_19 else 43}; check the labels")
    return found_bits


@dataclass(frozen=True)
class Patches:
    """A folder for each patch, a file for each band. A sample's path is its optical patch, and its radar patch behind `|`."""

    lists: Lists
    radar: bool

    def missing(self, root: Path) -> list[str]:
        """Folders of patches and lists."""
        wanted = [self._s2, *([self._s1] if self.radar else [])]
        wanted += ["metadata.parquet"] if self.lists == "v2" else []
        told_ = [f"there is no {name}" for name in wanted if not (root / name).exists()]
        if self.lists != "v2":
            told_ += [
                f"there is no list of {split} ({' or '.join(_named(split))})"
                for split in self._parts
                if self._list(root, split) is None
            ]
        if self.lists == "seco":
            told_ += [f"there is no {name}" for name in SNOWY if not (root / name).exists()]
        return told_

    def planned(self, root: Path) -> list[Picture]:
        """Every patch of the lists."""
        if self.lists == "v2":
            return self._of_table(root)
        out = {name for path in SNOWY if self.lists == "seco" for name in _column(root / path)}
        pictures = []
        for split in self._parts:
            for line in _rows(Path(str(self._list(root, split)))):
                if line[0] in out:
                    continue
                if self.radar and len(line) < 2:
                    raise ValueError(
                        f"{line[0]} has no radar patch beside it in the list of {split}; use the lists of MM"
                    )
                path = f"{line[0]}|{line[1]}" if self.radar else line[0]
                pictures.append(Picture(f"bigearthnet-{line[0]}", path, _SPLITS[split], ()))
        return pictures

    def read(self, root: Path, one: Picture) -> Labelled:
        """A patch with its labels."""
        s2, _, s1 = one.path.partition("|")
        folder = root / self._s2 / (s2 if self.lists != "v2" else f"{s2.rsplit('_', 2)[0]}/{s2}")
        if one.labels:
            labels = one.labels[0]
        else:
            path = folder / f"{s2}_labels_metadata.json"
            with told(path):
                names = json.loads(path.read_bytes())["labels"]
            labels = bits(names, of_19=False)
        layers = {"s2": _optical(folder, s2)}
        if self.radar:
            layers["s1"] = _radar(
                root / self._s1 / (s1 if self.lists != "v2" else f"{s1.rsplit('_', 3)[0]}/{s1}"), s1
            )
        lon, lat = lonlat(folder / f"{s2}_B02.tif")
        return Labelled(layers, {"classes": labels}, lon, lat, scene=s2)

    def _of_table(self, root: Path) -> list[Picture]:
        columns = ["patch_id", "labels", "split", "s1_name"]
        table = pq.read_table(root / "metadata.parquet", columns=columns).to_pylist()
        return [
            Picture(
                f"bigearthnet-{row['patch_id']}",
                f"{row['patch_id']}|{row['s1_name']}" if self.radar else row["patch_id"],
                _SPLITS[row["split"]],
                (bits(row["labels"], of_19=True),),
            )
            for row in table
        ]

    @property
    def _s2(self) -> str:
        return "BigEarthNet-S2" if self.lists == "v2" else "BigEarthNet-v1.0"

    @property
    def _s1(self) -> str:
        return "BigEarthNet-S1" if self.lists == "v2" else "BigEarthNet-S1-v1.0"

    @property
    def _parts(self) -> tuple[str, ...]:
        return ("train", "val") if self.lists == "seco" else ("train", "val", "test")

    def _list(self, root: Path, split: str) -> Path | None:
        return next((root / name for name in _named(split) if (root / name).exists()), None)


def _named(split: str) -> tuple[str, ...]:
    return tuple(f"{start}{split}{end}" for end in (".csv", ".txt") for start in ("", "bigearthnet-"))


def _rows(path: Path) -> list[list[str]]:
    with told(path):
        return [[cell.strip() for cell in row] for row in csv.reader(path.read_text().splitlines()) if row]


def _column(path: Path) -> set[str]:
    return {row[0] for row in _rows(path)}


def _optical(folder: Path, name: str) -> Layer:
    pixels = [raster(folder / f"{name}_{band}.tif", [1], shape=SHAPE)[0] for band in SENTINEL2_L2A.band_names]
    return stack(SENTINEL2_L2A, reflectance(np.stack(pixels))[None], TERMS, [_day(name)], names=(name,))


def _radar(folder: Path, name: str) -> Layer:
    pixels = [raster(folder / f"{name}_{band}.tif", [1], shape=SHAPE)[0] for band in SENTINEL1.band_names]
    return stack(SENTINEL1, decibels(np.stack(pixels))[None], TERMS, [_day(name)], names=(name,))


def _day(name: str) -> date | None:
    """The date that a patch's name holds (..._20170613T101031_...)."""
    for part in name.split("_"):
        if len(part) == 15 and part[8] == "T" and part[:8].isdigit():
            return date(int(part[:4]), int(part[4:6]), int(part[6:8]))
    return None


_COUNTS: dict[Lists, dict[str, int]] = {
    "v1": {"train": 269_695, "val": 123_723, "test": 125_866},
    "seco": {"train": 311_667, "val": 103_944},
    "v2": {"train": 237_871, "val": 122_342, "test": 119_825},
}
_LAYOUT: dict[Lists, tuple[str, ...]] = {
    "v1": ("BigEarthNet-v1.0/PATCH/PATCH_B02.tif", "train.csv, val.csv, test.csv of BigEarthNet-MM"),
    "seco": ("BigEarthNet-v1.0/PATCH/PATCH_B02.tif", "bigearthnet-train.txt, bigearthnet-val.txt", *SNOWY),
    "v2": ("BigEarthNet-S2/TILE/PATCH/PATCH_B02.tif", "metadata.parquet"),
}


def _as(lists: Lists, *, radar: bool, protocols: tuple[str, ...]) -> Benchmark:
    extra = (f"BigEarthNet-S1{'' if lists == 'v2' else '-v1.0'}/.../PATCH_VV.tif",) if radar else ()
    return Benchmark(
        name=f"bigearthnet_{lists}_{'mm' if radar else 's2'}",
        title=f"BigEarthNet {'v2 (reBEN)' if lists == 'v2' else 'v1'}{', Sentinel-1 and -2' if radar else ''}",
        task="multilabel",
        classes=CLASSES,
        sensors=(SENTINEL2_L2A, SENTINEL1) if radar else (SENTINEL2_L2A,),
        splits=_COUNTS[lists],
        protocols=protocols,
        metric="map_micro",
        url="https://bigearth.net",
        license=TERMS[0],
        attribution=TERMS[1],
        contained=(*_LAYOUT[lists], *extra),
        reader=Patches(lists, radar),
        shard_rows=4096,
    )


BENCHMARKS = (
    _as("v1", radar=False, protocols=()),
    _as("v1", radar=True, protocols=("skysense_bigearthnet_mm",)),
    _as("seco", radar=False, protocols=("skysense_bigearthnet_s2",)),
    _as("v2", radar=False, protocols=()),
    _as("v2", radar=True, protocols=()),
)
