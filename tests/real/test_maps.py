"""Maps of real scenes: on exactly their pixels, whatever lattice these have, and alike however they were cut."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from geodata.maps import Conventions
from pipelines.predict import predict
from training.checkpoint import Saver, write_text
from training.encoders import IMAGENET_RGB, EncoderSpec, Inputs, vit
from training.mapping import Mapper
from training.methods import build, finetune
from training.recipe import Optimizer, Recipe, Stream
from training.tasks import AnyTask, change, segment

pytestmark = pytest.mark.real
RGB = Conventions(("R", "G", "B", "NIR"))  # NAIP's four bands have no names


def saved(folder: Path, task: AnyTask, encoder: EncoderSpec) -> Path:
    """A run as training leaves it behind, of random weights."""
    stream = Stream(corpus="none@1", layers=(encoder.inputs.layer, "lc"))
    method = finetune.Spec(task=task, encoder=encoder)
    recipe = Recipe(name="finetune.smoke", method=method, streams={"labelled": stream}, batch=2, steps=1)
    torch.manual_seed(0)
    made = build(recipe.method)
    write_text(folder / "recipe.json", recipe.dump())
    optimizer = torch.optim.AdamW(made.parameters(), lr=Optimizer().lr_per_256)
    with Saver(folder / "checkpoints", keep=1) as saver:
        saver.save(1, made, optimizer, digest=recipe.digest, position={}, losses={})
    return folder


def same_place(out: Path, scene: Path) -> np.ndarray:
    """The map's values, once its place is found to be the scene's."""
    with rasterio.open(scene) as source, rasterio.open(out) as file:
        assert file.crs == source.crs
        assert tuple(file.transform) == tuple(source.transform)
        assert file.shape == source.shape
        assert np.array_equal(file.dataset_mask(), source.dataset_mask())
        found: np.ndarray = file.read(1)
    return found


def test_a_scene_of_oblong_pixels_in_reflectance(shared_data, tmp_path):
    inputs = Inputs(layer="s2", bands=("B04", "B03", "B02", "B08"), mean=(1200.0,) * 4, std=(600.0,) * 4)
    encoder = vit.Spec(inputs=inputs, image=32, patch=4, width=32, depth=2, heads=2)
    classes = ("farmland", "forest", "grass", "shrub", "built")
    run = saved(tmp_path / "run", segment.Spec(classes=classes, codes=(1, 2, 3, 4, 8)), encoder)
    scene = shared_data / "eolearn_slovenia_s2" / "S2L1C_20150711.tif"
    reading = Conventions(unit="reflectance")
    whole = predict(run, [scene], tmp_path / "whole.tif", window=104, reading=reading)
    found = same_place(whole, scene)
    assert set(np.unique(found)) <= {1, 2, 3, 4, 8}
    with rasterio.open(scene) as file:  # the reference: bands by number, filled up to 104 pixels by hand
        shares = file.read([4, 3, 2, 8])
    pixels = np.zeros((1, 1, 4, 104, 104), np.uint16)
    pixels[0, 0, :, : shares.shape[1], : shares.shape[2]] = np.clip(
        np.rint(shares.astype(float) * 10000), 1, None
    )
    expected = np.array([1, 2, 3, 4, 8])[Mapper(run).logits(pixels).argmax(1)[0].numpy()]
    assert np.array_equal(found, expected[: found.shape[0], : found.shape[1]])
    windows = predict(run, [scene], tmp_path / "windows.tif", window=32, stride=16, reading=reading)
    assert (
        same_place(windows, scene) == found
    ).mean() > 0.5  # chance is 0.2; attention reaches across a window


@pytest.mark.slow
def test_change_between_two_real_dates_and_refusal_of_a_third_that_is_shifted(shared_data, tmp_path):
    encoder = vit.Spec(inputs=IMAGENET_RGB, image=32, patch=8, width=32, depth=1, heads=2)
    run = saved(tmp_path / "run", change.Spec(), encoder)
    before, after, shifted = (
        shared_data / "naip_north_dakota" / f"m_4709963_se_14_1_{day}.tif"
        for day in ("20120731", "20150926", "20200831")
    )
    out = predict(run, [before, after], tmp_path / "map.tif", window=128, stride=128, batch=4, reading=RGB)
    assert set(np.unique(same_place(out, before))) == {0, 1}
    with pytest.raises(ValueError, match=r"20200831\.tif .* does not lie on"):
        predict(run, [before, shifted], tmp_path / "other.tif", window=128, reading=RGB)
    with pytest.raises(ValueError, match="none is known to be R, G, B"):
        predict(run, [before, after], tmp_path / "other.tif", window=128)


def test_colours_of_a_picture_name_its_bands(shared_data, tmp_path):
    encoder = vit.Spec(inputs=IMAGENET_RGB, image=32, patch=8, width=32, depth=1, heads=2)
    run = saved(tmp_path / "run", segment.Spec(classes=("roof", "ground", "tree")), encoder)
    scene = shared_data / "rsvqa_hr_usgs" / "753.tif"
    maps = [
        predict(run, [scene], tmp_path / f"{number}.tif", window=256, stride=192, reading=reading)
        for number, reading in enumerate((None, Conventions(("R", "G", "B"))))
    ]
    first, second = (same_place(path, scene) for path in maps)
    assert np.array_equal(first, second)
