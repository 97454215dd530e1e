"""SpaceNet 1: 6,940 pictures of Rio de Janeiro at 0.5 m, about 406 x 439 pixels, with outlines of buildings (2016).

Outlines are burnt in where they hold the centre of a pixel. MTP draws 5,000 pictures to train and scores the rest; that
draw is unpublished, ours is `splits/spacenet1.csv.gz`. Chips of 384 pixels at a stride of 256, as it slides.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import rasterio
from rasterio.features import rasterize
from rasterio.warp import transform_geom

from geodata.benchmarks import IGNORED, Benchmark, Labelled
from geodata.benchmarks.dividing import listed
from geodata.benchmarks.readers.pictures import split_of
from geodata.benchmarks.readers.rasters import Array, Box, cut, found, lonlat, mask, raster, size, stack, told
from geodata.benchmarks.readers.tiles import Chips, LabelledScene
from geodata.sensors import MASK, PHOTO

CLASSES = ("background", "building")
TERMS = ("CC-BY-SA-4.0", "SpaceNet 1, Van Etten et al. 2018; images Maxar")
COUNTS = {"train": 5000, "test": 1940}
"""Pictures of each split."""
CHIP, STRIDE, GSD_M = 384, 256, 0.5
_START, _END = "3band_", ".tif"


def names() -> list[str]:
    """All pictures as they were published, in lower case."""
    return [f"{_START}aoi_1_rio_img{number}" for number in range(1, sum(COUNTS.values()) + 1)]


def absent(root: Path) -> list[str]:
    """Pictures and outlines, when there are none."""
    told_ = (
        []
        if found(root, f"{_START}*{_END}")
        else ["there is no picture 3band_AOI_1_RIO_img1.tif or the like"]
    )
    return told_ + (
        [] if found(root, "Geo_*.geojson") else ["there is no outline Geo_AOI_1_RIO_img1.geojson or the like"]
    )


def scenes(root: Path) -> list[LabelledScene]:
    """Every picture that has outlines (a file without any says that there is no building); a path names both.

    Raises ValueError for a picture that is in no list.
    """
    outlines = {path.stem.removeprefix("Geo_"): path for path in found(root, "Geo_*.geojson")}
    images = {path.stem.removeprefix(_START): path for path in found(root, f"{_START}*{_END}")}
    splits = listed("spacenet1", "split")
    return [
        LabelledScene(
            name,
            f"{images[name].relative_to(root)}|{outlines[name].relative_to(root)}",
            split_of(splits, images[name].name),
            *size(images[name]),
        )
        for name in sorted(images.keys() & outlines)
    ]


def load(root: Path, path: str, box: Box) -> Labelled:
    """A window of a picture with the buildings in it."""
    image, outlines = (root / part for part in path.split("|"))
    pixels = cut(raster(image, [1, 2, 3]), box, 0).astype(np.uint8)
    codes = cut(buildings(image, outlines), box, IGNORED)
    lon, lat = lonlat(image)
    layers = {
        "hr": stack(PHOTO, pixels[None], TERMS, names=(image.name,), gsd=GSD_M),
        "mask": mask(codes, {0: 0, 1: 1, IGNORED: IGNORED}, TERMS, what=outlines, gsd=GSD_M),
    }
    return Labelled(layers, lon=lon, lat=lat, scene=image.stem.removeprefix(_START))


def buildings(image: Path, outlines: Path) -> Array:
    """1 where a building is (H, W), on the grid of the picture."""
    with told(outlines):
        held = json.loads(outlines.read_bytes())
    with told(image), rasterio.open(image) as source:
        crs = held.get("crs", {}).get("properties", {}).get("name", "EPSG:4326")
        shapes = [one["geometry"] for one in held["features"] if one["geometry"]]
        if not shapes:
            return np.zeros(source.shape, np.uint8)
        placed = [transform_geom(crs, source.crs, shape) if source.crs else shape for shape in shapes]
        burnt: Array = rasterize(
            placed, source.shape, fill=0, default_value=1, transform=source.transform, dtype="uint8"
        )
        return burnt


BENCHMARKS = (
    Benchmark(
        name="spacenet1",
        title="SpaceNet 1 (Rio)",
        task="segment",
        classes=CLASSES,
        sensors=(PHOTO, MASK),
        splits={split: 4 * count for split, count in COUNTS.items()},
        protocols=("mtp_spacenet1",),
        metric="miou",
        url="https://spacenet.ai/spacenet-buildings-dataset-v1/",
        license=TERMS[0],
        attribution=TERMS[1],
        contained=("3band/3band_AOI_1_RIO_img1.tif", "geojson/Geo_AOI_1_RIO_img1.geojson"),
        reader=Chips("spacenet1", CHIP, STRIDE, scenes, load, absent),
    ),
)
