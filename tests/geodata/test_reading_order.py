"""Chips of a shard are read neighbours together: each block of a scene is decoded once, though little is kept."""

import numpy as np
import pytest
import rasterio
from affine import Affine

from geodata.build import build_shard, nearest_first, opened_landcover
from geodata.corpus import CorpusSpec
from geodata.sampling import plan
from geodata.shards import read_samples, shard_path
from geodata.sources import cog

EPSG, LEFT, TOP, BLOCK = 32633, 600000.0, 5300040.0, 256
HEIGHT, WIDTH = 2 * BLOCK, 12 * BLOCK


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """One band at 20 m in 2 x 12 blocks over one class, and the spec of 120 chips anywhere in it."""
    folder = tmp_path_factory.mktemp("order")
    pixels = np.random.default_rng(0).integers(1, 4000, (HEIGHT, WIDTH), np.uint16)
    profile = {"driver": "GTiff", "count": 1, "crs": f"EPSG:{EPSG}", "tiled": True}
    profile |= {"blockxsize": BLOCK, "blockysize": BLOCK, "compress": "deflate"}
    at = {"height": HEIGHT, "width": WIDTH, "dtype": "uint16", "transform": Affine(20, 0, LEFT, 0, -20, TOP)}
    (folder / "scenes").mkdir()
    with rasterio.open(folder / "scenes" / "a_20200604_B05.tif", "w", **profile, **at) as file:
        file.write(pixels, 1)
    cover = {"height": 18, "width": 103, "dtype": "uint8", "transform": Affine(600, 0, LEFT, 0, -600, TOP)}
    with rasterio.open(
        folder / "cover.tif", "w", driver="GTiff", count=1, crs=f"EPSG:{EPSG}", **cover
    ) as file:
        file.write(np.full((18, 103), 2, np.uint8), 1)
    files = {"root": str(folder / "scenes"), "sensor": "sentinel2", "bands": ["B05"]}
    spec = {
        "name": "order",
        "chip": {"gsd": 10.0, "size": 64, "spacing_m": 240.0},
        "quotas": {"fixed": {"forest": 120}},
        "regions": {
            "kind": "area",
            "name": "a",
            "bounds": [LEFT, TOP - 20 * HEIGHT, LEFT + 20 * WIDTH, TOP],
            "epsg": EPSG,
        },
        "landcover": {
            "call": "landcover.raster",
            "options": {"path": str(folder / "cover.tif"), "table": "esri_2020"},
        },
        "sensors": [
            {
                "sensor": "sentinel2",
                "bands": ["B05"],
                "source": {
                    "call": "sources.geotiff.files",
                    "options": files | {"pattern": "{a}_{date:%Y%m%d}_{band}.tif"},
                },
                "period": "2020-01-01/2021-01-01",
            }
        ],
        "shard_rows": 120,
    }
    return CorpusSpec.model_validate(spec, strict=False), pixels


def test_a_shard_decodes_few_blocks_twice_though_it_keeps_four(scene, tmp_path, monkeypatch):
    spec, pixels = scene
    decoded = []
    decode = cog._Held.decode

    def counted(held, index, window):
        decoded.append((window.row_off, window.col_off))
        return decode(held, index, window)

    monkeypatch.setattr(cog._Held, "decode", counted)
    monkeypatch.setattr(cog, "BYTES", 5 * BLOCK * BLOCK * 2)
    cog.forget()
    (shard,) = plan(spec, opened_landcover(spec.landcover)).shards(spec.shard_rows)
    build_shard(shard, spec, tmp_path)
    touched = set()
    for chip in shard.chips:
        row, col = (TOP - chip.grid.origin[1]) // 20, (chip.grid.origin[0] - LEFT) // 20
        touched |= {
            (down // BLOCK * BLOCK, across // BLOCK * BLOCK)
            for down in (row, row + 31)
            for across in (col, col + 31)
        }
    assert set(decoded) == touched
    assert len(decoded) <= 2 * len(touched)  # in the order of the plan it is more than three times as many
    for sample in read_samples(shard_path(tmp_path, shard.name)):
        row, col = round((TOP - sample.grid.origin[1]) / 20), round((sample.grid.origin[0] - LEFT) / 20)
        expected = pixels[row : row + 32, col : col + 32].repeat(2, 0).repeat(2, 1)
        assert np.array_equal(sample.layers["s2"].pixels[0, 0], expected)


def test_the_order_of_reading_is_an_order_of_all_chips_and_leaves_the_shard_as_planned(scene, tmp_path):
    spec, _ = scene
    (shard,) = plan(spec, opened_landcover(spec.landcover)).shards(spec.shard_rows)
    order = nearest_first(shard.chips)
    assert sorted(order) == list(range(len(shard.chips)))
    assert order != list(range(len(shard.chips)))
    build_shard(shard, spec, tmp_path)
    found = [sample.sample_id for sample in read_samples(shard_path(tmp_path, shard.name))]
    planned = [chip.chip_id for chip in shard.chips]
    assert found in (planned, sorted(planned))
