"""Million-AID with labels: aerial pictures of 51 scenes, 0.5 to 153 m, in a tree of folders (Long et al. 2021).

The labels of its test set are not public, so a fifth of each class of what is labelled is held out, drawn once. Pictures
have all sizes and are scaled to 256 x 256; those of more pixels than a decoder should open are refused and counted.
"""

from __future__ import annotations

from geodata.benchmarks import Benchmark
from geodata.benchmarks.readers.pictures import ByShare, ClassFolders, Photo
from geodata.sensors import PHOTO

CLASSES = (
    "apartment",
    "apron",
    "bapsketball_court",  # as its folder is called
    "bare_land",
    "baseball_field",
    "beach",
    "bridge",
    "cemetery",
    "church",
    "commercial_area",
    "dam",
    "desert",
    "detached_house",
    "dry_field",
    "forest",
    "golf_course",
    "greenhouse",
    "ground_track_field",
    "helipad",
    "ice_land",
    "intersection",
    "island",
    "lake",
    "meadow",
    "mine",
    "mobile_home_park",
    "oil_field",
    "orchard",
    "paddy_field",
    "parking_lot",
    "pier",
    "quarry",
    "railway",
    "river",
    "road",
    "rock_land",
    "roundabout",
    "runway",
    "solar_power_plant",
    "sparse_shrub_land",
    "stadium",
    "storage_tank",
    "substation",
    "swimming_pool",
    "tennis_court",
    "terraced_field",
    "train_station",
    "viaduct",
    "wastewater_plant",
    "wind_turbine",
    "works",
)
LICENSE = "research only"
ATTRIBUTION = "Million-AID, Long et al. 2021; images from Google Earth"

BENCHMARKS = (
    Benchmark(
        name="million_aid",
        title="Million-AID",
        task="classify",
        classes=CLASSES,
        sensors=(PHOTO,),
        splits={},
        protocols=(),
        metric="oa",
        url="https://captain-whu.github.io/DiRS/",
        license=LICENSE,
        attribution=ATTRIBUTION,
        contained=("train/.../CLASS/P0000001.jpg, 51 folders of leaves",),
        reader=ClassFolders(
            "million_aid", CLASSES, ByShare(0.8), Photo((256, 256), (LICENSE, ATTRIBUTION)), (".jpg",)
        ),
    ),
)
