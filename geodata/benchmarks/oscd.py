"""OSCD: 24 pairs of Sentinel-2 pictures of cities and what changed, 14 to train and 10 to score (Caye Daudt et al. 2018).

All thirteen bands on the grid of 10 m; the papers that read three of them name B04, B03 and B02 as their inputs. Chips of
96 pixels, the last of each row and column flush with the border: 827 and 385 or so. Masks hold 0 and 255 (`cm.png`) or 1
and 2 (`REGION-cm.tif`).
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np

from geodata.benchmarks import IGNORED, Benchmark, Labelled
from geodata.benchmarks.readers.pairs import TABLE, changed
from geodata.benchmarks.readers.rasters import (
    Array,
    Box,
    coded,
    cut,
    mask,
    raster,
    reflectance,
    size,
    stack,
    told,
)
from geodata.benchmarks.readers.tiles import Chips, LabelledScene
from geodata.errors import Missing
from geodata.layout import Split
from geodata.sensors import MASK, SENTINEL2_L1C

CLASSES = ("unchanged", "changed")
TERMS = ("CC-BY-NC-SA-4.0", "OSCD, Caye Daudt et al. 2018; Copernicus Sentinel data")
CHIP, GSD_M = 96, 10.0
_START = "Onera Satellite Change Detection dataset - "
IMAGES = f"{_START}Images"
LABELS: dict[Split, str] = {"train": f"{_START}Train Labels", "test": f"{_START}Test Labels"}


def absent(root: Path) -> list[str]:
    """Those of the three folders that are not there."""
    return [
        f"there is no folder '{name}'" for name in (IMAGES, *LABELS.values()) if not (root / name).is_dir()
    ]


def scenes(root: Path) -> list[LabelledScene]:
    """Every region with labels."""
    return [
        LabelledScene(folder.name, f"{split}|{folder.name}", split, *size(_label(folder)))
        for split, name in LABELS.items()
        for folder in sorted((root / name).iterdir())
        if folder.is_dir()
    ]


def load(root: Path, path: str, box: Box) -> Labelled:
    """A window of a region."""
    split, _, region = path.partition("|")
    label = _label(root / LABELS["train" if split == "train" else "test"] / region)
    folder = root / IMAGES / region
    pixels = np.stack([_image(folder / f"imgs_{number}_rect", box) for number in (1, 2)])
    layers = {
        "s2": stack(
            SENTINEL2_L1C, pixels, TERMS, _days(folder / "dates.txt"), names=(f"{region}/1", f"{region}/2")
        ),
        "mask": mask(cut(_change(label), box, IGNORED), TABLE, TERMS, what=label, gsd=GSD_M),
    }
    return Labelled(layers, scene=region)


def _image(folder: Path, box: Box) -> Array:
    return np.stack(
        [reflectance(raster(folder / f"{band}.tif", [1], box)[0]) for band in SENTINEL2_L1C.band_names]
    )


def _label(folder: Path) -> Path:
    for path in (folder / "cm" / "cm.png", folder / "cm" / f"{folder.name}-cm.tif"):
        if path.exists():
            return path
    raise Missing(f"there is no mask of change in {folder / 'cm'}")


def _change(path: Path) -> Array:
    if path.suffix == ".png":
        return changed(coded(path), path)
    codes = raster(path, [1])[0]
    if not np.isin(codes, (1, 2)).all():
        raise ValueError(
            f"{path}: code {codes[~np.isin(codes, (1, 2))][0]} is none of 1 and 2; is it the mask of OSCD?"
        )
    return (codes == 2).astype(np.uint8)


def _days(path: Path) -> list[date]:
    with told(path):
        lines = [line.split()[-1] for line in path.read_text().splitlines() if line.strip()]
        return [date(int(day[:4]), int(day[4:6]), int(day[6:8])) for day in lines[:2]]


BENCHMARKS = (
    Benchmark(
        name="oscd",
        title="OSCD",
        task="change",
        classes=CLASSES,
        sensors=(SENTINEL2_L1C, MASK),
        splits={"train": 827, "test": 385},
        protocols=("skysense_oscd", "mtp_oscd"),
        metric="change_f1",
        url="https://rcdaudt.github.io/oscd/",
        license=TERMS[0],
        attribution=TERMS[1],
        contained=(
            f"{IMAGES}/REGION/imgs_1_rect/B01.tif, imgs_2_rect/B01.tif, dates.txt",
            f"{LABELS['train']}/REGION/cm/cm.png",
            f"{LABELS['test']}/REGION/cm/cm.png",
        ),
        reader=Chips("oscd", CHIP, CHIP, scenes, load, absent),
    ),
)
