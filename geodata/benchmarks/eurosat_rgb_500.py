"""Ten classes of land use with 500 Sentinel-2 pictures each: a part of EuroSAT small enough to learn on two cores.

Its own table says who trains: 350 of each class, 75 to choose by, 75 to score. No paper reports numbers on it.
"""

from __future__ import annotations

from geodata.benchmarks import Benchmark
from geodata.benchmarks.eurosat_rgb import ATTRIBUTION, CLASSES, LICENSE, URL
from geodata.benchmarks.readers.pictures import ByIndex, ClassFolders, Photo
from geodata.sensors import PHOTO

BENCHMARKS = (
    Benchmark(
        name="eurosat_rgb_500",
        title="EuroSAT RGB, 500 pictures a class",
        task="classify",
        classes=CLASSES,
        sensors=(PHOTO,),
        splits={"train": 3500, "val": 750, "test": 750},
        protocols=(
            "eurosat_rgb_500_finetune",
            "eurosat_rgb_500_probe",
            "eurosat_rgb_500_knn",
            "eurosat_rgb_500_stages",
        ),
        metric="oa",
        url=URL,
        license=LICENSE,
        attribution=ATTRIBUTION,
        contained=("CLASS/*.jpg, ten folders", "index.csv with the columns path, label, split"),
        reader=ClassFolders(
            "eurosat_rgb", CLASSES, ByIndex(), Photo((64, 64), (LICENSE, ATTRIBUTION), gsd=10.0)
        ),
    ),
)
