"""AID: 10,000 aerial pictures of 600 x 600 pixels, 0.5 to 8 m, thirty classes of scenes (Xia et al. 2017).

There is no official split; papers train on 20 % or 50 % of each class, drawn anew. Ours are three draws of each.
"""

from __future__ import annotations

from geodata.benchmarks import Benchmark
from geodata.benchmarks.readers.pictures import ByList, ClassFolders, Photo
from geodata.sensors import PHOTO

COUNTS = {
    "Airport": 360,
    "BareLand": 310,
    "BaseballField": 220,
    "Beach": 400,
    "Bridge": 360,
    "Center": 260,
    "Church": 240,
    "Commercial": 350,
    "DenseResidential": 410,
    "Desert": 300,
    "Farmland": 370,
    "Forest": 250,
    "Industrial": 390,
    "Meadow": 280,
    "MediumResidential": 290,
    "Mountain": 340,
    "Park": 350,
    "Parking": 390,
    "Playground": 370,
    "Pond": 420,
    "Port": 380,
    "RailwayStation": 260,
    "Resort": 290,
    "River": 410,
    "School": 300,
    "SparseResidential": 300,
    "Square": 330,
    "Stadium": 290,
    "StorageTanks": 360,
    "Viaduct": 420,
}
"""Pictures of each class."""
CLASSES = tuple(COUNTS)
LICENSE = "research only"
ATTRIBUTION = "AID, Xia et al. 2017; images from Google Earth"
SHARES = {f"tr{percent}_{seed}": (percent / 100, seed) for percent in (20, 50) for seed in range(3)}
_PROTOCOLS = {0.2: ("pera_aid_tr20", "skysense_aid_tr20", "aid_tr20_knn"), 0.5: ("skysense_aid_tr50",)}


def names() -> dict[str, list[str]]:
    """The keys of all pictures, by class, as they were published."""
    return {
        name: [f"{name}/{name}_{number}".lower() for number in range(1, count + 1)]
        for name, count in COUNTS.items()
    }


def _as(way: str) -> Benchmark:
    share = SHARES[way][0]
    train = round(10_000 * share)
    return Benchmark(
        name=f"aid_{way}",
        title="AID",
        task="classify",
        classes=CLASSES,
        sensors=(PHOTO,),
        splits={"train": train, "test": 10_000 - train},
        protocols=_PROTOCOLS[share],
        metric="oa",
        url="https://captain-whu.github.io/AID/",
        license=LICENSE,
        attribution=ATTRIBUTION,
        contained=("AID/CLASS/class_1.jpg, thirty folders",),
        reader=ClassFolders(
            "aid", CLASSES, ByList("aid", way), Photo((600, 600), (LICENSE, ATTRIBUTION)), (".jpg",)
        ),
    )


BENCHMARKS = tuple(_as(way) for way in SHARES)
