"""WHU building change: one pair of 32,507 x 15,354 pixels at 0.2 m, Christchurch 2012 and 2016 (Ji et al. 2019).

Chips of 256 pixels side by side, the last of each row and column padded: 7,620. MTP's split of 70, 10 and 20 % is
unpublished; ours orders the chips by a hash of their ids, so the three shares are exact.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geodata.benchmarks import IGNORED, Benchmark, Labelled, tile_id
from geodata.benchmarks.readers.pairs import TABLE, changed
from geodata.benchmarks.readers.rasters import found, mask, one_of, raster, size, stack
from geodata.folders import Picture
from geodata.layout import Split
from geodata.sensors import MASK, PHOTO

CLASSES = ("unchanged", "changed")
TERMS = (
    "research only",
    "WHU Building Change Detection, Ji et al. 2019; images Land Information New Zealand",
)
CHIP, GSD_M = 256, 0.2
SHARES: tuple[tuple[Split, float], ...] = (("train", 0.7), ("val", 0.1), ("test", 0.2))
NAMES = ("before", "after", "change")


@dataclass(frozen=True)
class Pair:
    """Three GeoTIFFs, read window by window."""

    def missing(self, root: Path) -> list[str]:
        """Those of the three that are not there."""
        return [f"there is no GeoTIFF called {name}…" for name in NAMES if not found(root, f"{name}*.tif")]

    def planned(self, root: Path) -> list[Picture]:
        """Every chip, 70, 10 and 20 % of them in the order of a hash."""
        before = one_of(found(root, "before*.tif"), "before*.tif")
        height, width = size(before)
        ids = {
            tile_id("whu_cd", "christchurch", row, col): f"{row},{col}"
            for row in range(0, height, CHIP)
            for col in range(0, width, CHIP)
        }
        ordered = sorted(ids, key=lambda name: hashlib.sha256(name.encode()).digest())
        ends = np.cumsum([round(share * len(ordered)) for _, share in SHARES])
        splits = [
            SHARES[min(int(np.searchsorted(ends, place, "right")), 2)][0] for place in range(len(ordered))
        ]
        return [Picture(name, ids[name], split, ()) for name, split in zip(ordered, splits, strict=True)]

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
        splits={"train": 5334, "val": 762, "test": 1524},
        protocols=("mtp_whu",),
        metric="change_f1",
        url="http://gpcv.whu.edu.cn/data/building_dataset.html",
        license=TERMS[0],
        attribution=TERMS[1],
        contained=("before/before.tif, after/after.tif, change label/change_label.tif",),
        reader=Pair(),
    ),
)
