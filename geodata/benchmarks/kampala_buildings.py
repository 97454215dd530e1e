"""Buildings of Kampala in drone pictures at 0.3, 0.15 and 0.075 m: one ground as 6, 24 and 96 pictures of 256 pixels.

A picture of zoom 19 shows the ground of four of zoom 20 and sixteen of zoom 21, so places are divided, not pictures: the
same two of six places are scored at every scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geodata.benchmarks import Benchmark, Labelled
from geodata.benchmarks.readers.pictures import picture_layer
from geodata.benchmarks.readers.rasters import coded, mask, told
from geodata.folders import Picture
from geodata.sensors import MASK, PHOTO

CLASSES = ("background", "building")
TERMS = ("CC-BY-4.0 (images), ODbL-1.0 (outlines)", "OpenAerialMap contributors; OpenStreetMap contributors")
COARSEST = 19
SCORED = 2
"""Places that are scored, the last by column and row."""
GSD_M = {19: 0.3, 20: 0.15, 21: 0.075}


@dataclass(frozen=True)
class Zoom:
    """Pictures of one zoom: images/OAM-COLUMN-ROW-ZOOM.png and the mask of the same name."""

    zoom: int

    def missing(self, root: Path) -> list[str]:
        """Folders and pictures."""
        wanted = [f"{name}/" for name in ("images", "masks") if not (root / name).is_dir()]
        return [f"there is no {name}" for name in wanted] or (
            [] if self._pictures(root) else [f"there is no picture images/OAM-COLUMN-ROW-{self.zoom}.png"]
        )

    def planned(self, root: Path) -> list[Picture]:
        """Every picture, divided by the place it shows."""
        pictures = self._pictures(root)
        places = sorted({place(path) for path in (root / "images").glob("OAM-*.png")})
        scored = set(places[-SCORED:])
        return [
            Picture(
                f"kampala_buildings-{path.stem}",
                f"images/{path.name}",
                "test" if place(path) in scored else "train",
                (),
            )
            for path in pictures
        ]

    def read(self, root: Path, one: Picture) -> Labelled:
        """A picture and its mask."""
        path = root / one.path
        with told(path):
            data = path.read_bytes()
        labels = root / "masks" / path.name
        gsd = GSD_M[self.zoom]
        layers = {
            "hr": picture_layer((data,), (one.path,), TERMS, gsd=gsd),
            "mask": mask(coded(labels), {0: 0, 1: 1}, TERMS, what=labels, gsd=gsd),
        }
        column, row = place(path)
        return Labelled(layers, scene=f"{column}-{row}")

    def _pictures(self, root: Path) -> list[Path]:
        return sorted((root / "images").glob(f"OAM-*-{self.zoom}.png"))


def place(path: Path) -> tuple[int, int]:
    """Column and row of the tile of the coarsest zoom that a picture lies in."""
    _, column, row, zoom = path.stem.split("-")
    finer = int(zoom) - COARSEST
    return int(column) >> finer, int(row) >> finer


def _as(zoom: int, train: int, test: int) -> Benchmark:
    return Benchmark(
        name=f"kampala_buildings_{zoom}",
        title=f"Buildings of Kampala at {GSD_M[zoom]:g} m",
        task="segment",
        classes=CLASSES,
        sensors=(PHOTO, MASK),
        splits={"train": train, "test": test},
        protocols=(f"kampala_buildings_{zoom}_finetune",),
        metric="miou",
        url="https://github.com/hotosm/fAIr-utilities",
        license=TERMS[0],
        attribution=TERMS[1],
        contained=("images/OAM-COLUMN-ROW-ZOOM.png", "masks/ with the same names, 0 and 1"),
        reader=Zoom(zoom),
    )


BENCHMARKS = (_as(19, 4, 2), _as(20, 16, 8), _as(21, 64, 32))
