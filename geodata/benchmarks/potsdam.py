"""ISPRS Potsdam: 38 true orthophotos of 6000 x 6000 pixels at 0.05 m, six classes of which clutter is not scored.

24 tiles train and 14 are scored, as in mmsegmentation's lists (7_10, whose labels have known errors, included). Chips of
512 pixels at a stride of 384, as BFM and PerA cut them; red, green and blue of the four bands. The labels with full
boundaries are read by default; those without, whose boundaries are black, as `potsdam_noboundary`: papers use either.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geodata.benchmarks import IGNORED, Benchmark, Labelled
from geodata.benchmarks.readers.rasters import Box, found, mask, raster, size, stack
from geodata.benchmarks.readers.tiles import Chips, LabelledScene
from geodata.layout import Split
from geodata.sensors import MASK, PHOTO

COLOURS = {
    "impervious surfaces": (1, 1, 1),
    "building": (0, 0, 1),
    "low vegetation": (0, 1, 1),
    "tree": (0, 1, 0),
    "car": (1, 1, 0),
}
"""Red, green and blue of each class, 1 for 255."""
CLUTTER, BOUNDARY = (1, 0, 0), (0, 0, 0)
CLASSES = tuple(COLOURS)
TRAIN = tuple(f"{row}_{col}" for row in range(2, 6) for col in (10, 11, 12)) + tuple(
    f"{row}_{col}" for row in (6, 7) for col in range(7, 13)
)
TEST = (
    *("2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15"),
    *("5_13", "5_14", "5_15", "6_13", "6_14", "6_15", "7_13"),
)
TERMS = ("research only", "ISPRS Potsdam 2D Semantic Labeling Contest; BSF Swissphoto")
CHIP, STRIDE, GSD_M = 512, 384, 0.05
_SLACK = 8  # two published masks are a few grey values off


def coloured(pixels: NDArray[np.uint8], *, boundaries: bool, what: object) -> NDArray[np.uint8]:
    """Classes (H, W) of a coloured mask (3, H, W). Raises ValueError for a colour that no class has."""
    bright = pixels >= 128
    off = np.where(bright, 255 - pixels.astype(np.int16), pixels)
    corner = (bright[0] * 4 + bright[1] * 2 + bright[2]).astype(np.int64)
    table = np.full(8, -1, np.int16)
    for code, (red, green, blue) in enumerate(COLOURS.values()):
        table[red * 4 + green * 2 + blue] = code
    for red, green, blue in (CLUTTER, *(() if boundaries else (BOUNDARY,))):
        table[red * 4 + green * 2 + blue] = IGNORED
    classes = table[corner]
    wrong = (classes < 0) | (off > _SLACK).any(0)
    if wrong.any():
        colour = tuple(int(value) for value in pixels[:, wrong][:, 0])
        raise ValueError(
            f"{what}: colour {colour} is that of no class of Potsdam; is it a label as published?"
        )
    return classes.astype(np.uint8)


@dataclass(frozen=True)
class Tiles:
    """Images and masks by the number of their tile, wherever below the root they lie."""

    boundaries: bool

    def absent(self, root: Path) -> list[str]:
        """One sentence when no tile has both."""
        told = (
            f"no tile has both an image (top_potsdam_2_10_RGBIR.tif) and a label (top_potsdam_2_10{self.end})"
        )
        return [] if self._there(root) else [told]

    def scenes(self, root: Path) -> list[LabelledScene]:
        """The tiles that are there; a scene's path names image and mask."""
        parts: tuple[tuple[Split, tuple[str, ...]], ...] = (("train", TRAIN), ("test", TEST))
        there = self._there(root)
        return [
            LabelledScene(
                tile,
                "|".join(str(path.relative_to(root)) for path in there[tile]),
                split,
                *size(there[tile][0]),
            )
            for split, tiles in parts
            for tile in tiles
            if tile in there
        ]

    def load(self, root: Path, path: str, box: Box) -> Labelled:
        """A window of a tile."""
        image, label = (root / part for part in path.split("|"))
        codes = coloured(raster(label, [1, 2, 3], box), boundaries=self.boundaries, what=label)
        table = {**{code: code for code in range(len(CLASSES))}, IGNORED: IGNORED}
        layers = {
            "hr": stack(PHOTO, raster(image, [1, 2, 3], box)[None], TERMS, names=(image.name,), gsd=GSD_M),
            "mask": mask(codes, table, TERMS, what=label, gsd=GSD_M),
        }
        return Labelled(layers, scene=image.stem.rpartition("_")[0])

    @property
    def end(self) -> str:
        """How names of masks end."""
        return "_label.tif" if self.boundaries else "_label_noBoundary.tif"

    def _there(self, root: Path) -> dict[str, tuple[Path, Path]]:
        start = "top_potsdam_"
        images = {
            path.name[len(start) : -len(end)]: path
            for end in ("_RGB.tif", "_RGBIR.tif")
            for path in found(root, f"{start}*{end}")
        }
        labels = {path.name[len(start) : -len(self.end)]: path for path in found(root, f"{start}*{self.end}")}
        return {tile: (images[tile], labels[tile]) for tile in sorted(images.keys() & labels)}


def _as(*, boundaries: bool) -> Benchmark:
    tiles = Tiles(boundaries)
    windows = 16 * 16  # of 6000 pixels at this chip and stride
    return Benchmark(
        name="potsdam" if boundaries else "potsdam_noboundary",
        title=f"ISPRS Potsdam{'' if boundaries else ', labels without boundaries'}",
        task="segment",
        classes=CLASSES,
        sensors=(PHOTO, MASK),
        splits={"train": 24 * windows, "test": 14 * windows},
        protocols=("bfm_potsdam", "pera_potsdam", "skysense_potsdam"),
        metric="oa_mf1",
        url="https://www.isprs.org/education/benchmarks/UrbanSemLab/2d-sem-label-potsdam.aspx",
        license=TERMS[0],
        attribution=TERMS[1],
        contained=(
            "4_Ortho_RGBIR/top_potsdam_2_10_RGBIR.tif",
            f"5_Labels_all{'' if boundaries else '_noBoundary'}/top_potsdam_2_10_label{'' if boundaries else '_noBoundary'}.tif",
        ),
        reader=Chips("potsdam", CHIP, STRIDE, tiles.scenes, tiles.load, tiles.absent),
    )


BENCHMARKS = (_as(boundaries=True), _as(boundaries=False))
