"""A finished run on scenes: what strips give is what sliding windows give, and the map lies on the scene."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import scipy.signal
import torch
import torch.nn.functional as F
from affine import Affine
from conftest import write_corpus
from PIL import ImageColor

from geodata.maps import Conventions, palette
from pipelines.cli import main
from pipelines.predict import predict
from training.encoders import Inputs, spatiotemporal, vit
from training.loop import train
from training.mapping import Mapper, strips
from training.methods import build, finetune
from training.recipe import Optimizer, Recipe, Stream, replace
from training.tasks import change, segment

INPUTS = Inputs(layer="s2", bands=("B04", "B02"))
ENCODER = vit.Spec(inputs=INPUTS, image=16, patch=4, width=16, depth=1, heads=2)
SEGMENT = segment.Spec(classes=("dark", "bright"), codes=(4, 7))
CRS, PLACE = "EPSG:32633", Affine(10.0, 0.0, 399960.0, 0.0, -10.0, 5900040.0)


@pytest.fixture(scope="module")
def recipe(corpus: Path) -> Recipe:
    return Recipe(
        method=finetune.Spec(task=SEGMENT, encoder=ENCODER),
        streams={"labelled": Stream(corpus=str(corpus), layers=("s2", "lc"))},
        batch=8,
        steps=2,
        optim=Optimizer(lr_per_256=0.1),
        name="finetune.segment_smoke",
    )


@pytest.fixture(scope="module")
def run(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "segment"
    train(recipe, folder)
    return folder


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Two bands in a file's order B02, B04, with a corner and a few pixels of nodata."""
    rng = np.random.default_rng(seed)
    found = rng.integers(1, 5000, (2, height, width)).astype(np.uint16)
    found[:, :9, :7] = 0
    found[:, height // 2, ::5] = 0
    found[0, -1, :] = 0  # one band alone is not nothing
    return found


def scene(path: Path, values: np.ndarray, names: tuple[str, ...] | None = ("B02", "B04"), **profile) -> Path:
    settings = {"crs": CRS, "transform": PLACE, "nodata": 0} | profile
    count, height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype, **settings
    ) as file:
        file.write(values)
        if names is not None:
            file.descriptions = names
    return path


def convolution(windows: np.ndarray) -> torch.Tensor:
    images = torch.from_numpy(windows.astype(np.float32)).flatten(1, 2)
    weight = torch.arange(3 * images.shape[1] * 9, dtype=torch.float32).view(3, -1, 3, 3).sin()
    return F.conv2d(images, weight, padding=1)


@pytest.mark.parametrize(
    ("height", "width", "size", "stride", "batch"),
    [(23, 31, 8, 5, 3), (40, 9, 8, 8, 8), (16, 16, 16, 4, 1), (12, 50, 12, 7, 4)],
)
def test_strips_are_windows_that_fade_out_towards_their_borders(height, width, size, stride, batch):
    whole = np.random.default_rng(0).integers(1, 9, (2, 3, height, width)).astype(np.int16)
    asked = []

    def read(top: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
        asked.append(rows)
        return whole[..., top : top + rows, :], np.ones((min(rows, height - top), width), bool)

    found = list(strips(convolution, read, (height, width), size, stride, 3, 0, batch))
    fade = scipy.signal.windows.cosine(size) ** 2
    total, weight = np.zeros((3, height, width)), np.zeros((height, width))
    for top in (*range(0, height - size, stride), height - size):
        for left in (*range(0, width - size, stride), width - size):
            one = convolution(whole[None, ..., top : top + size, left : left + size])[0].numpy()
            total[:, top : top + size, left : left + size] += np.outer(fade, fade) * one
            weight[top : top + size, left : left + size] += np.outer(fade, fade)
    joined = torch.cat([logits for _, logits, _ in found], 1)
    torch.testing.assert_close(joined, torch.from_numpy(total / weight).float(), rtol=1e-4, atol=1e-3)
    assert [top for top, _, _ in found] == list(np.cumsum([0, *(v.shape[0] for _, _, v in found[:-1])]))
    assert max(asked) == size  # no more rows are ever held


def test_windows_without_data_are_not_looked_at():
    looked = []

    def read(top: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
        valid = np.zeros((rows, 32), bool)
        valid[:, 24:] = top >= 8
        return np.zeros((1, 1, rows, 32), np.uint8), valid

    def count(windows: np.ndarray) -> torch.Tensor:
        looked.append(len(windows))
        return torch.ones(len(windows), 2, 8, 8)

    found = list(strips(count, read, (24, 32), 8, 8, 2, 0))
    assert looked == [1, 1]
    assert sum(len(valid) for _, _, valid in found) == 24


def test_a_scene_of_one_window_is_what_the_method_predicts(run, tmp_path):
    values = pixels(16, 16)
    out = predict(run, [scene(tmp_path / "scene.tif", values)], tmp_path / "map.tif")
    mapper = Mapper(run)
    logits = mapper.logits(values[None, None, ::-1].copy())  # the encoder reads B04 first
    with rasterio.open(out) as file:
        found = file.read(1)
    expected = np.array([4, 7], np.uint8)[logits.argmax(1)[0].numpy()]
    valid = (values != 0).any(0)
    assert np.array_equal(found[valid], expected[valid])
    assert (found[~valid] == 255).all()


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (CRS, PLACE),
        ("EPSG:4326", Affine(0.0001, 0.0, 73.31, 0.0, -0.00009, 30.46)),
        (CRS, Affine(9.39, 3.42, 4e5, 3.41, -9.41, 5e6)),
        ("+proj=sinu +R=6371007.181 +units=m", Affine(231.656, 0.0, -6e6, 0.0, -231.656, -1e6)),
    ],
)
def test_a_map_lies_exactly_on_its_scene(run, tmp_path, crs, transform):
    path = scene(tmp_path / "scene.tif", pixels(61, 45), crs=crs, transform=transform)
    out = predict(run, [path], tmp_path / "map.tif", window=16, stride=12)
    with rasterio.open(path) as source, rasterio.open(out) as file:
        assert file.crs == source.crs
        assert file.transform == source.transform
        assert file.shape == source.shape
        assert np.array_equal(file.dataset_mask(), source.dataset_mask())
        assert file.nodata == 255
        assert set(np.unique(file.read(1))) <= {4, 7, 255}


def test_a_map_is_a_cloud_optimised_geotiff_that_names_its_classes(run, tmp_path):
    path = scene(tmp_path / "scene.tif", pixels(1100, 600))
    out = predict(run, [path], tmp_path / "map.tif", window=128, stride=128, batch=32)
    with rasterio.open(out) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.block_shapes == [(512, 512)]
        assert file.overviews(1) == [2, 4]
        assert file.colorinterp[0].name == "palette"
        table = file.colormap(1)
        assert len({table[value] for value in (4, 7, 255)}) == 3
        assert json.loads(file.tags()["classes"]) == {"4": "dark", "7": "bright"}
        assert file.tags()["recipe"] == "finetune.segment_smoke"
    with rasterio.open(out, overview_level=0) as half:
        assert set(np.unique(half.read(1))) <= {4, 7, 255}  # nearest: no value in between
    assert [file.name for file in tmp_path.iterdir() if file.suffix != ".tif"] == ["map.qml"]
    entries = ElementTree.parse(tmp_path / "map.qml").getroot().findall("pipe/rasterrenderer/colorPalette/*")
    assert [(int(one.get("value")), one.get("label")) for one in entries] == [(4, "dark"), (7, "bright")]
    assert [ImageColor.getrgb(one.get("color")) for one in entries] == [table[4][:3], table[7][:3]]


def test_ground_has_the_colours_of_maps_and_no_two_classes_have_one():
    names = (
        "water",
        "broad-leaved forest",
        "low vegetation",
        "coniferous forest",
        "ship",
        "artificial_surface",
    )
    found = palette(dict(enumerate(names)))
    for value, brightest in ((0, 2), (1, 1), (2, 1), (3, 1), (5, 0)):  # of red, green, blue
        assert int(np.argmax(found[value][:3])) == brightest, names[value]
    assert len(set(found.values())) == len(names) + 1 and found[255][3] == 0
    assert palette({0: "unchanged", 1: "changed"})[1][0] > 200


def test_windows_average_to_what_the_whole_scene_says_where_nothing_looks_further(run, tmp_path, monkeypatch):
    """Attention sees a whole window; with a model that looks at single pixels, windows must not show at all."""
    mapper = Mapper(run)

    def pointwise(self: Mapper, windows: np.ndarray) -> torch.Tensor:
        images = torch.from_numpy(windows.astype(np.float32))[:, 0]
        return torch.stack([images[:, 0] / 3, images[:, 1] - images[:, 0]], 1)

    monkeypatch.setattr(Mapper, "logits", pointwise)
    values = pixels(70, 83)
    stacked = values[None, None, ::-1].copy()
    whole = pointwise(mapper, stacked)
    pieces = strips(mapper.logits, lambda top, rows: (stacked[0, ..., top : top + rows, :], values.any(0)[top : top + rows]),
                    (70, 83), 16, 12, 2, 0)  # fmt: skip
    joined = torch.cat([logits for _, logits, _ in pieces], 1)
    assert (joined - whole[0])[:, torch.from_numpy(values.any(0))].abs().max() <= 1e-3  # of logits up to 5000
    out = predict(run, [scene(tmp_path / "scene.tif", values)], tmp_path / "map.tif", window=16, stride=12)
    with rasterio.open(out) as file:
        found = file.read(1)
    expected = np.where(values.any(0), np.array([4, 7])[whole[0].argmax(0).numpy()], 255)
    assert np.array_equal(found, expected)


def test_a_small_scene_is_filled_up_to_a_window(run, tmp_path):
    path = scene(tmp_path / "scene.tif", pixels(10, 13))
    with rasterio.open(predict(run, [path], tmp_path / "map.tif")) as file:
        assert file.shape == (10, 13)
        assert (file.read(1) != 255).any()


def test_the_window_is_the_size_of_the_chips_unless_the_run_says_otherwise(run):
    mapper = Mapper(run)
    assert mapper.window() == (16, 12)
    assert mapper.window(64) == (64, 48)
    assert mapper.window(64, 10) == (64, 10)
    spec = mapper.method.spec
    mapper.method.spec = replace(spec, window=finetune.Window(size=32, stride=20))
    assert mapper.window() == (32, 20)
    mapper.recipe = replace(
        mapper.recipe, streams={"labelled": Stream(corpus="nowhere@1", layers=("s2", "lc"))}
    )
    mapper.method.spec = spec
    with pytest.raises(ValueError, match="give the size with --window"):
        mapper.window()


@pytest.mark.slow
def test_change_looks_at_two_scenes_in_their_order(recipe, tmp_path):
    torch.manual_seed(0)
    method = finetune.Spec(task=change.Spec(codes=(0, 1), layer="lc"), encoder=ENCODER)
    corpus = tmp_path / "pairs@1"
    write_corpus(corpus, {"train": 8}, dates=lambda number: 2)
    streams = {"labelled": Stream(corpus=str(corpus), layers=("s2", "lc"))}
    run = tmp_path / "run"
    train(replace(recipe, method=method, streams=streams), run)
    before, after = pixels(40, 24), pixels(40, 24, seed=1)
    after[:, 30:, 20:] = 0
    paths = [scene(tmp_path / "2020.tif", before), scene(tmp_path / "2021.tif", after)]
    out = predict(run, paths, tmp_path / "map.tif", window=16, stride=16)
    with rasterio.open(out) as file:
        found = file.read(1)
    assert np.array_equal(found == 255, ~(before.any(0) & after.any(0)))
    mapper, pair = Mapper(run), np.stack([before, after])[None, :, ::-1, 16:32, :16].copy()
    alone = mapper.logits(pair).argmax(1)[0].numpy()  # rows 21 to 23 lie in this window only, and have data
    assert np.array_equal(found[21:24, :8], alone[5:8, :8])
    assert not torch.equal(mapper.logits(pair), mapper.logits(pair[:, ::-1].copy()))
    with pytest.raises(ValueError, match="1 scenes are given"):
        predict(run, paths[:1], tmp_path / "map.tif")
    moved = scene(tmp_path / "moved.tif", after, transform=PLACE @ Affine.translation(1, 0))
    with pytest.raises(ValueError, match="both dates must have one lattice"):
        predict(run, [paths[0], moved], tmp_path / "map.tif")


def test_a_run_of_several_sensors_is_refused_before_a_scene_is_opened(recipe, tmp_path, monkeypatch):
    method = build(finetune.Spec(task=SEGMENT, encoder=spatiotemporal.tiny()))
    monkeypatch.setattr("training.mapping.restore", lambda *_: (recipe, method))
    with pytest.raises(ValueError, match="looks at several sensors at once, a scene is of one"):
        predict(tmp_path / "run", [tmp_path / "scene.tif"], tmp_path / "map.tif")


def test_a_scene_whose_bands_do_not_match_is_refused(run, tmp_path):
    out, values = tmp_path / "map.tif", pixels(20, 20)
    wrong = scene(tmp_path / "wrong.tif", values, names=("B02", "B03"))
    with pytest.raises(
        ValueError, match=r"2 bands \(B02, B03\) and none is known to be B04; the encoder reads B04, B02"
    ):
        predict(run, [wrong], out)
    bare = scene(tmp_path / "bare.tif", values, names=None)
    with pytest.raises(ValueError, match="name its bands in order with --bands"):
        predict(run, [bare], out)
    with pytest.raises(ValueError, match="has 2 bands, but 3 are named"):
        predict(run, [bare], out, reading=Conventions(("B02", "B03", "B04")))
    assert not out.exists()
    named = scene(tmp_path / "named.tif", values)
    maps = [
        predict(run, [path], tmp_path / f"{path.stem}-map.tif", reading=reading)
        for path, reading in ((named, None), (bare, Conventions(("b2", "B4"))))
    ]
    first, second = (rasterio.open(path).read(1) for path in maps)
    assert np.array_equal(first, second)


def test_numbers_are_read_in_their_unit(run, tmp_path):
    stored = pixels(20, 20)
    share = scene(tmp_path / "share.tif", (stored / 10000).astype(np.float32))
    raised = scene(tmp_path / "raised.tif", np.where(stored > 0, stored + 1000, 0).astype(np.uint16))
    plain = scene(tmp_path / "plain.tif", stored)
    readings = (Conventions(unit="reflectance"), Conventions(offset="remove"), Conventions())
    found = [
        rasterio.open(predict(run, [path], tmp_path / f"{path.stem}-map.tif", reading=reading)).read(1)
        for path, reading in zip((share, raised, plain), readings, strict=True)
    ]
    assert np.array_equal(found[0], found[2])
    assert np.array_equal(found[1], found[2])


def test_a_map_needs_a_dense_run_a_place_and_another_file(run, recipe, tmp_path):
    path = scene(tmp_path / "scene.tif", pixels(20, 20))
    with pytest.raises(ValueError, match="is the scene itself"):
        predict(run, [path], path)
    nowhere = scene(tmp_path / "nowhere.tif", pixels(20, 20), crs=None)
    with pytest.raises(ValueError, match="no coordinate system"):
        predict(run, [nowhere], tmp_path / "map.tif")
    sealed = tmp_path / "transfer@1"
    (sealed / "runs").mkdir(parents=True)
    (sealed / "runs" / "random-seed0").symlink_to(run)
    with pytest.raises(ValueError, match="holds 1 runs; name one of them"):
        predict(sealed, [path], tmp_path / "map.tif")


def test_the_command_writes_a_map_and_says_where(run, tmp_path, capsys):
    path, out = scene(tmp_path / "scene.tif", pixels(20, 20)), tmp_path / "map.tif"
    main(["predict", str(run), str(path), "-o", str(out), "--stride", "8"])
    told = capsys.readouterr()
    assert told.out.strip() == str(out)
    assert "20" in told.err and "rows" in told.err
    with rasterio.open(out) as file:
        assert file.tags()["window"] == "16 every 8"
    with pytest.raises(SystemExit) as left:
        main(["predict", str(run), str(path), "-o", str(out), "--unit", "feet"])
    assert left.value.code == 2
    assert "--unit feet is not known; choose stored, reflectance, dB, power" in capsys.readouterr().err


def test_where_a_window_ends_does_not_show():
    """Each window says a number of its own: the mean steps at every border, what fades out hardly does."""
    size, stride, side = 32, 24, 104
    rng = np.random.default_rng(0)

    def read(top: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
        return np.ones((1, 1, rows, side), np.uint8), np.ones((rows, side), bool)

    def moody(windows: np.ndarray) -> torch.Tensor:
        said = torch.from_numpy(rng.normal(size=(len(windows), 1, 1, 1))).float()
        return said.expand(-1, 1, size, size)

    joined = torch.cat([logits for _, logits, _ in strips(moody, read, (side, side), size, stride, 1, 0)], 1)[
        0
    ]
    borders = [*range(stride, side, stride)] + [left + size for left in range(0, side - size, stride)]
    steps = joined.diff(dim=1).abs().mean(0)  # between column c and c + 1
    at = steps[[border - 1 for border in borders]].mean()
    assert at < 0.1 * joined.std()
    assert at < steps.max() / 3  # the fading itself, in the middle of the overlap, is the steeper
