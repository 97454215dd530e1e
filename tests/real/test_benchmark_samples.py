"""Benchmarks made of the real samples: read whole, divided as they say, masks on the ground they belong to."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
import rasterio
import shapely
from PIL import Image, ImageDraw

from geodata import benchmarks
from geodata.benchmarks import slovenia_landcover, spacenet1, terramesh_landcover
from geodata.folders import FolderShard
from geodata.prepare import load, plan, prepare_shard
from geodata.sensors import SENTINEL2
from geodata.shards import read_samples, shard_path

pytestmark = pytest.mark.real

WHERE = {
    "eurosat_rgb_500": "eurosat_rgb",
    "kampala_buildings_19": "oam_kampala_buildings",
    "kampala_buildings_20": "oam_kampala_buildings",
    "kampala_buildings_21": "oam_kampala_buildings",
    "levir_cd_samples": "levir_cd_samples",
    "modis_sinop": "modis_sinop",
    "slovenia_landcover": "eolearn_slovenia_s2",
    "terramesh_landcover_tanzania": "terramesh_s1_s2_lulc",
    "terramesh_landcover_chile": "terramesh_s1_s2_lulc",
    "terramesh_landcover_denmark": "terramesh_s1_s2_lulc",
    "worldcereal_crops": "worldcereal_s1_s2",
}


def taken(shared_data, name, size=24):
    """A benchmark, its root, and some of its samples as they are read."""
    root, benchmark = shared_data / WHERE[name], benchmarks.find(name)
    pictures = plan(load(name, root)).pictures[:size]
    return benchmark, root, [(one, benchmark.reader.read(root, one)) for one in pictures]


@pytest.mark.parametrize("name", WHERE)
def test_all_of_it_is_there_and_divided_as_it_says(shared_data, name):
    benchmark, root = benchmarks.find(name), shared_data / WHERE[name]
    assert benchmarks.check(benchmark, root) == []
    planned = plan(load(name, root))
    assert benchmark.partial(planned.counts()) == [] and planned.counts() == dict(
        sorted(benchmark.splits.items())
    )
    if planned.classes:
        seen = Counter((one.split, one.labels[0]) for one in planned.pictures)
        assert len(seen) == len(benchmark.splits) * len(benchmark.classes)  # every class in every split


def test_eurosat_labels_and_splits_are_those_of_its_index(shared_data):
    benchmark, root, some = taken(shared_data, "eurosat_rgb_500")
    with (root / "index.csv").open(newline="") as stream:
        rows = {row["path"]: row for row in csv.DictReader(stream)}
    for one, found in some:
        row = rows[one.path]
        assert (benchmark.classes[found.labels["class"]], one.split) == (row["label"], row["split"])
        assert found.layers["hr"].encoded[0].tiles[0][0] == (root / one.path).read_bytes()


def test_building_masks_are_the_published_outlines(shared_data):
    """The masks against the polygons of the same release, burnt in by Pillow."""
    _, root, some = taken(shared_data, "kampala_buildings_20")
    coco = json.loads((root / "coco.json").read_text())
    numbers = {image["file_name"].rpartition("/")[2]: image["id"] for image in coco["images"]}
    agree = []
    for one, found in some:
        burnt = Image.new("L", (256, 256))
        for mark in coco["annotations"]:
            if mark["image_id"] == numbers[one.path.rpartition("/")[2]]:
                for ring in mark["segmentation"]:
                    ImageDraw.Draw(burnt).polygon(list(map(float, ring)), fill=1)
        mine = found.layers["mask"].pixels[0, 0]
        agree.append((mine == np.asarray(burnt)).mean())
        assert mine.max() <= 1
    assert min(agree) > 0.97


def test_land_cover_chips_are_windows_of_the_published_rasters(shared_data):
    benchmark, root, some = taken(shared_data, "terramesh_landcover_chile", 30)
    names = {code: name for name, code in terramesh_landcover.CODES.items()}
    for one, found in some:
        scene, row, column = benchmarks.origin(one.sample_id)
        cell = terramesh_landcover.PLACES[scene.partition("-")[2]]
        with rasterio.open(root / f"S2L2A/{cell}.tif") as file:
            whole = file.read() - (1000 if cell == terramesh_landcover.WITH_OFFSET else 0)
        with rasterio.open(root / f"LULC/{cell}.tif") as file:
            codes = file.read(1)[row : row + 32, column : column + 32]
        assert np.array_equal(found.layers["s2"].pixels[0], whole[:, row : row + 32, column : column + 32])
        mine = found.layers["mask"].pixels[0, 0]
        for code in np.unique(codes):
            wanted = benchmark.classes.index(names[code]) if code in names else benchmarks.IGNORED
            assert (mine[codes == code] == wanted).all()


def test_slovenia_trains_in_the_west_and_is_scored_in_the_east(shared_data):
    _, root, _ = taken(shared_data, "slovenia_landcover", 0)
    columns = {"train": set(), "test": set()}
    for one in plan(load("slovenia_landcover", root)).pictures:
        _, _, left = benchmarks.origin(one.sample_id)
        columns[one.split] |= set(range(left, left + slovenia_landcover.CHIP))
    assert max(columns["train"]) < min(columns["test"]) <= 69 and max(columns["test"]) == 100


def test_monthly_reflectance_of_crops_has_the_shape_of_plants(shared_data):
    """Near infrared above red in the growing months: bands are where they should be."""
    _, _, some = taken(shared_data, "worldcereal_crops", 200)
    red, infrared = (SENTINEL2.band_names.index(name) for name in ("B04", "B08"))
    pixels = np.stack([found.layers["s2"].pixels[:, :, 0, 0] for _, found in some]).astype(float)
    ndvi = (pixels[..., infrared] - pixels[..., red]) / (pixels[..., infrared] + pixels[..., red] + 1e-9)
    assert np.nanmedian(ndvi.max(1)) > 0.5
    radar = np.stack([found.layers["s1"].pixels[:, :, 0, 0] for _, found in some])
    known = radar[radar != -32768] / 100
    assert -25 < np.median(known) < -5


def test_changed_pixels_are_where_the_published_mask_is_white(shared_data):
    _, root, some = taken(shared_data, "levir_cd_samples")
    share = []
    for one, found in some:
        with Image.open(root / one.path.replace("A/", "label/")) as image:
            white = np.asarray(image) == 255
        assert np.array_equal(found.layers["mask"].pixels[0, 0] == 1, white)
        assert found.layers["hr"].pixels.shape == (2, 3, 256, 256)
        share.append(white.mean())
    assert max(share) > 0.05


def test_a_patch_of_bigearthnet_is_read_as_it_lies_in_the_release(shared_data, tmp_path):
    """One real patch of the first version, with its own labels, in a list of one."""
    name = "S2A_MSIL2A_20170617T113321_36_85"
    (tmp_path / "BigEarthNet-v1.0").mkdir()
    source = shared_data / "bigearthnet_samples/v1_tiny_s2" / name
    (tmp_path / "BigEarthNet-v1.0" / name).symlink_to(source)
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.csv").write_text(name if split == "train" else "")
    benchmark = benchmarks.find("bigearthnet_v1_s2")
    assert benchmarks.check(benchmark, tmp_path) == []
    (one,) = plan(load(benchmark.name, tmp_path)).pictures
    found = benchmark.reader.read(tmp_path, one)
    bits = found.labels["classes"]
    assert [label for bit, label in enumerate(benchmark.classes) if bits >> bit & 1] == [
        "Arable land",
        "Pastures",
    ]
    with rasterio.open(source / f"{name}_B03.tif") as file:
        assert np.array_equal(found.layers["s2"].pixels[0, 2], file.read(1))
    assert found.layers["s2"].pixels.shape == (1, 12, 120, 120)
    assert found.lon == pytest.approx(-6.9, abs=0.1) and found.lat == pytest.approx(52.3, abs=0.1)


def test_no_place_of_terramesh_keeps_the_offset_that_its_cirrus_band_tells_of(shared_data):
    """Top of atmosphere B10 is dark everywhere: where it is not, both products carry the offset."""
    _, root, some = taken(shared_data, "terramesh_landcover_chile", 147)
    for place, cell in terramesh_landcover.PLACES.items():
        with (
            rasterio.open(root / "S2L1C" / f"{cell}.tif") as file,
            rasterio.open(root / "S2L2A" / f"{cell}.tif") as other,
        ):
            cirrus, published = file.read(11).min(), other.read()
        carried = 1000 if cirrus > 900 else 0
        assert (carried > 0) == (place == "chile")
        ours = [one.layers["s2"].pixels[0] for _, one in some if one.scene == cell]
        assert len(ours) == 49 and min(one.min() for one in ours) == max(1, published.min() - carried)
        assert max(one.max() for one in ours) == published.max() - carried


def test_numbers_with_an_offset_are_flagged_when_a_benchmark_is_prepared(shared_data, tmp_path, monkeypatch):
    name = "terramesh_landcover_chile"
    spec = load(name, shared_data / WHERE[name])
    shard = FolderShard(
        "pictures-00000", tuple(one for one in plan(spec).pictures if "chile" in one.sample_id)[:8]
    )

    def flagged(folder):
        prepare_shard(shard, spec, tmp_path / folder)
        return [one.layers["s2"].flags[0] for one in read_samples(shard_path(tmp_path / folder, shard.name))]

    assert flagged("as_it_is") == [""] * 8
    monkeypatch.setattr(terramesh_landcover, "WITH_OFFSET", "")
    assert all(flag.endswith("offset not removed, or bright ground") for flag in flagged("kept"))


def test_outlines_of_real_buildings_are_burnt_as_shapely_says(shared_data):
    """Atlanta, 900 x 900 pixels of 0.5 m and 43 outlines: the pixels whose centres lie inside one."""
    place = shared_data / "spacenet_samples"
    burnt = spacenet1.buildings(place / "sample_geotiff.tif", place / "geotiff_labels.geojson")
    outlines = json.loads((place / "geotiff_labels.geojson").read_text())["features"]
    assert len(outlines) == 43 and burnt.shape == (900, 900)
    x = 733601.0 + 0.5 * (np.arange(900) + 0.5)
    y = 3725139.0 - 0.5 * (np.arange(900) + 0.5)
    inside = shapely.contains_xy(
        shapely.union_all([shapely.geometry.shape(one["geometry"]) for one in outlines]), *np.meshgrid(x, y)
    )
    assert inside.mean() == pytest.approx(0.0418, abs=1e-4)
    assert np.array_equal(burnt, inside)
