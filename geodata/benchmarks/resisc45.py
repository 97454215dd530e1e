"""NWPU-RESISC45: 31,500 pictures of 256 x 256 pixels, 0.2 to 30 m, 700 of each of 45 scenes (Cheng et al. 2017).

There is no official split; papers train on 10 % or 20 % of each class, drawn anew. Ours are three draws of the first and
five of the second, which GeRSP reports.
"""

from __future__ import annotations

from geodata.benchmarks import Benchmark
from geodata.benchmarks.readers.pictures import ByList, ClassFolders, Photo
from geodata.sensors import PHOTO

CLASSES = (
    "airplane",
    "airport",
    "baseball_diamond",
    "basketball_court",
    "beach",
    "bridge",
    "chaparral",
    "church",
    "circular_farmland",
    "cloud",
    "commercial_area",
    "dense_residential",
    "desert",
    "forest",
    "freeway",
    "golf_course",
    "ground_track_field",
    "harbor",
    "industrial_area",
    "intersection",
    "island",
    "lake",
    "meadow",
    "medium_residential",
    "mobile_home_park",
    "mountain",
    "overpass",
    "palace",
    "parking_lot",
    "railway",
    "railway_station",
    "rectangular_farmland",
    "river",
    "roundabout",
    "runway",
    "sea_ice",
    "ship",
    "snowberg",
    "sparse_residential",
    "stadium",
    "storage_tank",
    "tennis_court",
    "terrace",
    "thermal_power_station",
    "wetland",
)
LICENSE = "research only"
ATTRIBUTION = "NWPU-RESISC45, Cheng et al. 2017; images from Google Earth"
SHARES = {f"tr10_{seed}": (0.1, seed) for seed in range(3)} | {
    f"tr20_{seed}": (0.2, seed) for seed in range(5)
}
_PROTOCOLS = {
    0.1: ("skysense_resisc45_tr10",),
    0.2: (
        "gersp_resisc45",
        "mtp_resisc45",
        "skysense_resisc45_tr20",
        "resisc45_tr20_knn",
        "resisc45_tr20_stages",
    ),
}


def names() -> dict[str, list[str]]:
    """The keys of all pictures, by class, as they were published."""
    return {name: [f"{name}/{name}_{number:03d}" for number in range(1, 701)] for name in CLASSES}


def _as(way: str) -> Benchmark:
    share = SHARES[way][0]
    train = round(31_500 * share)
    return Benchmark(
        name=f"resisc45_{way}",
        title="NWPU-RESISC45",
        task="classify",
        classes=CLASSES,
        sensors=(PHOTO,),
        splits={"train": train, "test": 31_500 - train},
        protocols=_PROTOCOLS[share],
        metric="oa",
        url="https://doi.org/10.1109/jproc.2017.2675998",
        license=LICENSE,
        attribution=ATTRIBUTION,
        contained=("NWPU-RESISC45/CLASS/class_001.jpg, 45 folders",),
        reader=ClassFolders(
            "resisc45", CLASSES, ByList("resisc45", way), Photo((256, 256), (LICENSE, ATTRIBUTION)), (".jpg",)
        ),
    )


BENCHMARKS = tuple(_as(way) for way in SHARES)
