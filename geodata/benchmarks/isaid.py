"""iSAID: 1,869 labelled aerial pictures of DOTA with fifteen classes of objects and background (Waqas Zamir et al. 2019).

Masks are coloured. Chips of 896 pixels at a stride of 512, as published tools cut them, and everybody scores the chips of
`val`; the labels of the test split are hidden. All sixteen classes count in the mean where RVSA and SkySense report it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geodata.benchmarks import IGNORED, Benchmark, Labelled
from geodata.benchmarks.readers.rasters import Box, cut, found, mask, picture, size, stack
from geodata.benchmarks.readers.tiles import Chips, LabelledScene
from geodata.layout import Split
from geodata.sensors import MASK, PHOTO

COLOURS = {
    "background": (0, 0, 0),
    "ship": (0, 0, 63),
    "store_tank": (0, 63, 63),
    "baseball_diamond": (0, 63, 0),
    "tennis_court": (0, 63, 127),
    "basketball_court": (0, 63, 191),
    "ground_track_field": (0, 63, 255),
    "bridge": (0, 127, 63),
    "large_vehicle": (0, 127, 127),
    "small_vehicle": (0, 0, 127),
    "helicopter": (0, 0, 191),
    "swimming_pool": (0, 0, 255),
    "roundabout": (0, 191, 127),
    "soccer_ball_field": (0, 127, 191),
    "plane": (0, 127, 255),
    "harbor": (0, 100, 155),
}
"""Red, green and blue of each class."""
CLASSES = tuple(COLOURS)
TERMS = ("research only", "iSAID, Waqas Zamir et al. 2019; images of DOTA, Xia et al. 2018")
CHIP, STRIDE = 896, 512
_SPLITS: tuple[Split, ...] = ("train", "val")
_END = "_instance_color_RGB.png"


def coloured(pixels: NDArray[np.uint8], what: object) -> NDArray[np.uint8]:
    """Classes (H, W) of a coloured mask (3, H, W). Raises ValueError for a colour that no class has."""
    red, green, blue = pixels.astype(np.int32)
    packed = (red << 16) | (green << 8) | blue
    known = np.array([(r << 16) | (g << 8) | b for r, g, b in COLOURS.values()])
    order = np.argsort(known)
    place = np.searchsorted(known[order], packed).clip(max=len(known) - 1)
    wrong = known[order][place] != packed
    if wrong.any():
        colour = tuple(int(value) for value in pixels[:, wrong][:, 0])
        raise ValueError(
            f"{what}: colour {colour} is that of no class of iSAID; is it a semantic mask as published?"
        )
    return order[place].astype(np.uint8)


def absent(root: Path) -> list[str]:
    """Splits without a single picture that has its mask."""
    return [
        f"there is no picture with a semantic mask below {split}/"
        for split in _SPLITS
        if not _named(root, split)
    ]


def scenes(root: Path) -> list[LabelledScene]:
    """Every picture that has a mask; a scene's path names both."""
    return [
        LabelledScene(name, f"{image.relative_to(root)}|{labels.relative_to(root)}", split, *size(image))
        for split in _SPLITS
        for name, (image, labels) in sorted(_named(root, split).items())
    ]


def load(root: Path, path: str, box: Box) -> Labelled:
    """A window of a picture, padded where the picture ends."""
    image, labels = (root / part for part in path.split("|"))
    pixels = picture(image)
    codes = coloured(cut(picture(labels), box, 0), labels)
    inside = cut(np.ones(pixels.shape[1:], bool), box, 0)
    table = {**{code: code for code in range(len(CLASSES))}, IGNORED: IGNORED}
    layers = {
        "hr": stack(PHOTO, cut(pixels, box, 0)[None], TERMS, names=(image.name,)),
        "mask": mask(np.where(inside, codes, IGNORED), table, TERMS, what=labels),
    }
    return Labelled(layers, scene=image.stem)


def _named(root: Path, split: str) -> dict[str, tuple[Path, Path]]:
    """Pictures that have a mask, and their masks, by name."""
    masks = {path.name[: -len(_END)]: path for path in found(root / split, f"*{_END}")}
    images = (path for path in found(root / split, "P*.png") if "_instance_" not in path.name)
    return {path.stem: (path, masks[path.stem]) for path in images if path.stem in masks}


BENCHMARKS = (
    Benchmark(
        name="isaid",
        title="iSAID",
        task="segment",
        classes=CLASSES,
        sensors=(PHOTO, MASK),
        splits={"train": 33_978, "val": 11_644},
        protocols=("skysense_isaid",),
        metric="miou",
        url="https://captain-whu.github.io/iSAID/",
        license=TERMS[0],
        attribution=TERMS[1],
        contained=(
            "train/images/P0000.png (of DOTA)",
            f"train/Semantic_masks/images/P0000{_END}",
            "the same in val",
        ),
        reader=Chips("isaid", CHIP, STRIDE, scenes, load, absent),
        shard_rows=256,
    ),
)
