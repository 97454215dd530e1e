"""WHU building change: one pair of 32,507 x 15,354 pixels at 0.2 m, Christchurch 2012 and 2016 (Ji et al. 2019).

Chips of 256 pixels side by side, the last of each row and column padded: 7,620. MTP's split of 70, 10 and 20 % is
unpublished; ours is `splits/whu_cd.csv.gz`, chip by chip.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geodata.benchmarks import IGNORED, Benchmark, Labelled, tile_id
from geodata.benchmarks.dividing import listed
from geodata.benchmarks.readers.pairs import TABLE, changed
from geodata.benchmarks.readers.pictures import split_of
from geodata.benchmarks.readers.rasters import found, mask, one_of, raster, size, stack
from geodata.folders import Picture
from geodata.sensors import MASK, PHOTO

CLASSES = ("unchanged", "changed")
TERMS = (
    "research only",
    "WHU Building Change Detection, Ji et al. 2019; images Land Information New Zealand",
)
CHIP, GSD_M = 256, 0.2
SIZE = (15_354, 32_507)
"""Height and width of the pair as it was published."""
COUNTS = {"train": 5334, "val": 762, "test": 1524}
NAMES = ("before", "after", "change")


def places(height: int, width: int) -> dict[str, tuple[int, int]]:
    """The id of each chip of a pair of this size, and its upper left pixel (row, column)."""
    return {
        tile_id("whu_cd", "christchurch", row, col): (row, col)
        for row in range(0, height, CHIP)
        for col in range(0, width, CHIP)
    }


@dataclass(frozen=True)
class Pair:
    """Three GeoTIFFs, read window by window."""

    def missing(self, root: Path) -> list[str]:
        """Those of the three that are not there."""
        return [f"there is no GeoTIFF called {name}…" for name in NAMES if not found(root, f"{name}*.tif")]

    def planned(self, root: Path) -> list[Picture]:
        """Every chip, in the split its list says. Raises ValueError for a pair that is larger than the published one."""
        before = one_of(found(root, "before*.tif"), "before*.tif")
        splits = listed("whu_cd", "split")
        return [
            Picture(name, f"{row},{col}", split_of(splits, name), ())
            for name, (row, col) in places(*size(before)).items()
        ]

    def read(self, root: Path, one: Picture) -> Labelled:
        """One chip; what lies beyond the image is 255 in the mask."""
        before, after, change = (one_of(found(root, f"{name}*.tif"), f"{name}*.tif") for name in NAMES)
        row, col = (int(part) for part in one.path.split(","))
        box = (row, col, CHIP, CHIP)
        pixels = np.stack([raster(path, [1, 2, 3], box) for path in (before, after)]).astype(np.uint8)
        codes = changed(raster(change, [1], box)[0], change)
        height, width = size(before)
        codes[max(0, height - row) :], codes[:, max(0, width - col) :] = IGNORED, IGNORED
        layers = {
            "hr": stack(PHOTO, pixels, TERMS, names=(before.name, after.name), gsd=GSD_M),
            "mask": mask(codes, TABLE, TERMS, what=change, gsd=GSD_M),
        }
        return Labelled(layers, scene="christchurch")


BENCHMARKS = (
    Benchmark(
        name="whu_cd",
        title="WHU building change",
        task="change",
        classes=CLASSES,
        sensors=(PHOTO, MASK),
        splits=COUNTS,
        protocols=("mtp_whu",),
        metric="change_f1",
        url="http://gpcv.whu.edu.cn/data/building_dataset.html",
        license=TERMS[0],
        attribution=TERMS[1],
        contained=("before/before.tif, after/after.tif, change label/change_label.tif",),
        reader=Pair(),
    ),
)
