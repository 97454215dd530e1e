"""UC Merced: 2,100 aerial pictures at 0.3 m, a hundred of each of 21 classes of land use (Yang and Newsam 2010).

Papers train on 50 % or 80 % of each class; of the 420 pictures that 80 % leave, one is 0.24 points. Some forty files are
a few pixels short of 256 x 256 and are scaled to it.
"""

from __future__ import annotations

from geodata.benchmarks import Benchmark
from geodata.benchmarks.readers.pictures import ByList, ClassFolders, Photo
from geodata.sensors import PHOTO

CLASSES = (
    "agricultural",
    "airplane",
    "baseballdiamond",
    "beach",
    "buildings",
    "chaparral",
    "denseresidential",
    "forest",
    "freeway",
    "golfcourse",
    "harbor",
    "intersection",
    "mediumresidential",
    "mobilehomepark",
    "overpass",
    "parkinglot",
    "river",
    "runway",
    "sparseresidential",
    "storagetanks",
    "tenniscourt",
)
LICENSE = "public domain (USGS)"
ATTRIBUTION = "UC Merced Land Use, Yang and Newsam 2010; images from the USGS National Map"
SHARES = {f"tr{percent}_{seed}": (percent / 100, seed) for percent in (50, 80) for seed in range(3)}
_PROTOCOLS = {0.5: ("pera_ucm_tr50", "ucmerced_tr50_knn"), 0.8: ("pera_ucm_tr80",)}


def names() -> dict[str, list[str]]:
    """The keys of all pictures, by class, as they were published."""
    return {name: [f"{name}/{name}{number:02d}" for number in range(100)] for name in CLASSES}


def _as(way: str) -> Benchmark:
    share = SHARES[way][0]
    train = round(2_100 * share)
    return Benchmark(
        name=f"ucmerced_{way}",
        title="UC Merced",
        task="classify",
        classes=CLASSES,
        sensors=(PHOTO,),
        splits={"train": train, "test": 2_100 - train},
        protocols=_PROTOCOLS[share],
        metric="oa",
        url="http://weegee.vision.ucmerced.edu/datasets/landuse.html",
        license=LICENSE,
        attribution=ATTRIBUTION,
        contained=("UCMerced_LandUse/Images/CLASS/class00.tif, 21 folders",),
        reader=ClassFolders(
            "ucmerced",
            CLASSES,
            ByList("ucmerced", way),
            Photo((256, 256), (LICENSE, ATTRIBUTION), gsd=0.3048),
            (".tif",),
        ),
    )


BENCHMARKS = tuple(_as(way) for way in SHARES)
