"""EuroSAT in all thirteen bands of Sentinel-2 level 1C: the same places, classes and lists as in three bands.

The published files hold B8A behind B12; here it stands where the instrument has it.
"""

from __future__ import annotations

from rasterio.io import MemoryFile

from geodata.benchmarks import Benchmark
from geodata.benchmarks.eurosat_rgb import ATTRIBUTION, CLASSES, LICENSE, LISTS, URL, WAYS
from geodata.benchmarks.readers.pictures import ByNames, ClassFolders
from geodata.benchmarks.readers.rasters import reflectance, stack, told
from geodata.errors import Corrupt
from geodata.sample import Layer
from geodata.sensors import SENTINEL2_L1C

STORED = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
"""Bands in the order of the published files."""
_ORDER = [STORED.index(name) for name in SENTINEL2_L1C.band_names]


def bands(data: bytes, path: str) -> Layer:
    """One file as a layer. Raises Corrupt when it has other than thirteen bands."""
    with told(path), MemoryFile(data) as file, file.open() as source:
        pixels = source.read()
    if len(pixels) != len(STORED):
        raise Corrupt(
            f"{path} has {len(pixels)} bands where EuroSAT has {len(STORED)}; is it EuroSATallBands?"
        )
    return stack(SENTINEL2_L1C, reflectance(pixels[_ORDER])[None], (LICENSE, ATTRIBUTION), names=(path,))


def _as(way: str) -> Benchmark:
    split, counts, _ = WAYS[way]
    lists = tuple(LISTS.values()) if isinstance(split, ByNames) else ()
    return Benchmark(
        name=f"eurosat_ms_{way}",
        title="EuroSAT, all bands",
        task="classify",
        classes=CLASSES,
        sensors=(SENTINEL2_L1C,),
        splits=counts,
        protocols=(),
        metric="oa",
        url=URL,
        license=LICENSE,
        attribution=ATTRIBUTION,
        contained=("CLASS/CLASS_1.tif, ten folders", *lists),
        reader=ClassFolders("eurosat", CLASSES, split, bands, (".tif",)),
    )


BENCHMARKS = tuple(_as(way) for way in WAYS)
