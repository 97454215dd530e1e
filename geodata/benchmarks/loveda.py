"""LoveDA: 5,987 pictures of 1024 x 1024 pixels at 0.3 m, seven classes in town and country (Wang et al. 2021).

Files hold 0 where there is no data, which is not scored, and 1 to 7 for the classes, background first; here they are 0 to
6. Background counts in the mean. The labels of the test split are on a server only, so it is not taken in: its maps are
made by `swath predict` from the pictures themselves. BFM, PerA and MTP report that server's numbers, GeRSP those of `val`.
"""

from __future__ import annotations

from pathlib import Path

from geodata.benchmarks import IGNORED, Benchmark, Labelled
from geodata.benchmarks.readers.pictures import picture_layer
from geodata.benchmarks.readers.rasters import coded, mask, told
from geodata.folders import Picture
from geodata.layout import Split
from geodata.sensors import MASK, PHOTO

CLASSES = ("background", "building", "road", "water", "barren", "forest", "agriculture")
TABLE = {0: IGNORED, **{code: code - 1 for code in range(1, 8)}}
TERMS = ("CC-BY-NC-SA-4.0", "LoveDA, Wang et al. 2021; images from Google Earth")
FOLDERS: dict[Split, str] = {"train": "Train", "val": "Val"}
SCENES = ("Rural", "Urban")
GSD_M = 0.3


class Pictures:
    """Split/LabelledScene/images_png/0.png and the mask of the same name in masks_png."""

    def missing(self, root: Path) -> list[str]:
        """Folders of pictures and masks."""
        wanted = [
            f"{split}/{scene}/{kind}"
            for split in FOLDERS.values()
            for scene in SCENES
            for kind in ("images_png", "masks_png")
        ]
        return [f"there is no {name}" for name in wanted if not (root / name).is_dir()]

    def planned(self, root: Path) -> list[Picture]:
        """Every picture of the labelled splits."""
        return [
            Picture(f"loveda-{scene.lower()}-{path.stem}", path.relative_to(root).as_posix(), split, ())
            for split, folder in FOLDERS.items()
            for scene in SCENES
            for path in sorted((root / folder / scene / "images_png").glob("*.png"))
        ]

    def read(self, root: Path, one: Picture) -> Labelled:
        """A whole picture and its mask."""
        path = root / one.path
        labels = root / one.path.replace("images_png", "masks_png")
        with told(path):
            data = path.read_bytes()
        layers = {
            "hr": picture_layer((data,), (one.path,), TERMS, gsd=GSD_M),
            "mask": mask(coded(labels), TABLE, TERMS, what=labels, gsd=GSD_M),
        }
        return Labelled(layers, scene=one.path.split("/")[1].lower())


BENCHMARKS = (
    Benchmark(
        name="loveda",
        title="LoveDA",
        task="segment",
        classes=CLASSES,
        sensors=(PHOTO, MASK),
        splits={"train": 2522, "val": 1669},
        protocols=(
            "bfm_loveda",
            "pera_loveda",
            "mtp_loveda",
            "gersp_loveda_psanet",
            "gersp_loveda_deeplabv3plus",
        ),
        metric="miou",
        url="https://zenodo.org/records/5706578",
        license=TERMS[0],
        attribution=TERMS[1],
        contained=(
            "Train/Urban/images_png/0.png",
            "Train/Urban/masks_png/0.png",
            "the same in Rural and in Val",
        ),
        reader=Pictures(),
        shard_rows=256,
    ),
)
