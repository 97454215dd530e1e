"""EuroSAT in three bands: 27,000 Sentinel-2 pictures of 64 x 64 pixels at 10 m, ten classes of land use (Helber et al. 2019).

Two protocols that must not be compared: GeRSP trains on a fifth and scores on the rest, five times (our seeded lists);
MTP and others use the published 60/20/20 lists, and MTP reports on the last fifth but one.
"""

from __future__ import annotations

from collections.abc import Mapping

from geodata.benchmarks import Benchmark
from geodata.benchmarks.readers.pictures import ByList, ByNames, ClassFolders, Divided, Photo
from geodata.sensors import PHOTO

COUNTS = {
    "AnnualCrop": 3000,
    "Forest": 3000,
    "HerbaceousVegetation": 3000,
    "Highway": 2500,
    "Industrial": 2500,
    "Pasture": 2000,
    "PermanentCrop": 2500,
    "Residential": 3000,
    "River": 2500,
    "SeaLake": 3000,
}
"""Pictures of each class."""
CLASSES = tuple(COUNTS)
URL = "https://github.com/phelber/EuroSAT"
LICENSE = "MIT"
ATTRIBUTION = "EuroSAT, Helber et al. 2019; contains modified Copernicus Sentinel data"
SHARES = {f"tr20_{seed}": (0.2, seed) for seed in range(5)}
LISTS = {"train": "eurosat-train.txt", "val": "eurosat-val.txt", "test": "eurosat-test.txt"}
_FIFTH = ("gersp_eurosat", "eurosat_rgb_tr20_knn")
WAYS: Mapping[str, tuple[Divided, Mapping[str, int], tuple[str, ...]]] = {
    **{way: (ByList("eurosat", way), {"train": 5400, "test": 21600}, _FIFTH) for way in SHARES},
    "indomain": (ByNames(LISTS), {"train": 16200, "val": 5400, "test": 5400}, ("mtp_eurosat",)),
}
"""How the pictures are divided, how many there are of each split, and who reports so."""


def names() -> dict[str, list[str]]:
    """The keys of all pictures, by class, as they were published."""
    return {
        name: [f"{name}/{name}_{number}".lower() for number in range(1, count + 1)]
        for name, count in COUNTS.items()
    }


def _as(way: str) -> Benchmark:
    split, counts, protocols = WAYS[way]
    lists = tuple(LISTS.values()) if isinstance(split, ByNames) else ()
    return Benchmark(
        name=f"eurosat_rgb_{way}",
        title="EuroSAT RGB",
        task="classify",
        classes=CLASSES,
        sensors=(PHOTO,),
        splits=counts,
        protocols=protocols,
        metric="oa",
        url=URL,
        license=LICENSE,
        attribution=ATTRIBUTION,
        contained=("CLASS/CLASS_1.jpg, ten folders", *lists),
        reader=ClassFolders("eurosat", CLASSES, split, Photo((64, 64), (LICENSE, ATTRIBUTION), gsd=10.0)),
    )


BENCHMARKS = tuple(_as(way) for way in WAYS)
