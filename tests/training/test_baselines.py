"""What needs no encoder: features by a loop, and scores that are right on samples whose answer is known."""

import math

import numpy as np
import pytest
import torch

from training import baselines
from training.baselines import FOREST, MAJORITY, features
from training.feed import Samples
from training.loop import train
from training.recipe import load

TINY = [
    "method.encoder={kind: vit, image: 16, patch: 8, width: 16, depth: 1, heads: 2, "
    "inputs: {layer: s2, bands: [B02, B03, B04, B08]}}",
    "steps=1",
    "batch=4",
]


def series(dates: torch.Tensor, side: int = 8, bands: int = 2) -> Samples:
    generator = torch.Generator().manual_seed(0)
    count, length = dates.shape
    pixels = torch.randint(1, 1000, (count, length, bands, side, side), generator=generator).to(torch.uint16)
    return Samples(
        ids=[str(index) for index in range(count)],
        layers={"s2": pixels},
        dates={"s2": dates.to(torch.int32)},
        labels={},
        lonlat=torch.zeros(count, 2),
        region=torch.zeros(count, dtype=torch.int64),
        nodata={"s2": 0},
    )


def test_features_of_an_image_are_those_of_the_loop():
    samples = series(torch.zeros(3, 1))
    found = features(samples, "s2", "one", dense=False).numpy()
    for row, image in zip(found, samples.layers["s2"][:, 0].numpy().astype(float), strict=True):
        expected: list[float] = [band.mean() for band in image] + [band.std() for band in image]
        for mark in (0.05, 0.25, 0.5, 0.75, 0.95):
            expected += [np.quantile(band, mark) for band in image]
        expected += [
            np.abs(np.diff(band, axis=1)).mean() + np.abs(np.diff(band, axis=0)).mean() for band in image
        ]
        assert row == pytest.approx(np.array(expected), rel=1e-4)


def test_a_series_of_any_length_becomes_twelve_dates_of_those_that_are_there():
    days = torch.tensor([[10, 20, 30, -1], [10, 20, 30, 40]])
    samples = series(days)
    found = features(samples, "s2", "series", dense=True)
    assert found.shape == (2, 12 * 2, 8, 8)
    images = samples.layers["s2"].to(torch.int32).float()
    assert torch.equal(found[0, :2], images[0, 0]) and torch.equal(found[0, -2:], images[0, 2])
    assert torch.equal(found[1, -2:], images[1, 3])


def test_a_pixel_is_seen_with_what_is_around_it():
    samples = series(torch.zeros(1, 1), side=20, bands=1)
    found = features(samples, "s2", "one", dense=True)[0]
    image = samples.layers["s2"][0, 0, 0].to(torch.int32).float()
    assert found.shape == (5, 20, 20)
    assert torch.equal(found[0], image)
    assert float(found[1, 10, 10]) == pytest.approx(float(image[8:13, 8:13].mean()), rel=1e-5)
    assert float(found[4, 10, 10]) == pytest.approx(float(image[3:18, 3:18].std(correction=0)), rel=1e-3)
    pair = series(torch.tensor([[1, 2]]), bands=1)
    seen = features(pair, "s2", "pair", dense=True)[0, :3]
    before, after = pair.layers["s2"][0, :, 0].to(torch.int32).float()
    assert torch.equal(seen, torch.stack([before, after, before - after]))


@pytest.mark.parametrize("name", ["classify", "segment"])
def test_a_forest_knows_bright_from_dark_and_the_majority_does_not(corpus, tmp_path, name):
    changes = [*TINY, f"streams.labelled.corpus={corpus}", "method.task.classes=[dark, bright]"]
    changes += ["method.task.codes=[0, 1]", *(["method.task.label=class"] if name == "classify" else [])]
    changes += ["streams.labelled.layers=[s2, lc]"]
    train(load(f"finetune.{name}_smoke", changes), tmp_path)
    rows = baselines.beside(tmp_path, "test", seeds=2)
    assert [(row["arm"], row.get("seed")) for row in rows] == [(MAJORITY, None), (FOREST, 0), (FOREST, 1)]
    common, *forests = (row["scores"] for row in rows)
    assert 0.3 < common["accuracy"] < 0.8
    assert sorted(common[f"iou/{name}"] for name in ("dark", "bright"))[0] == 0  # it never says the rarer one
    for scores in forests:
        assert scores["accuracy"] > 0.95 and not math.isnan(scores["mean_iou"])


def test_several_labels_are_ranked_by_how_common_they_are():
    target = np.array([[1, 0, 1], [1, 0, 0], [1, 1, 0], [1, 0, 0]])
    assert baselines._frequencies(target, 3).tolist() == [1.0, 0.25, 0.25]
    vectors = np.arange(8, dtype=np.float32).reshape(4, 2)
    votes = baselines._shares(baselines._fitted(vectors, target, 0), vectors, 3)
    assert votes.shape == (4, 3) and (votes[:, 0] == 1).all() and votes[:, 1:].max() < 1
    one = baselines._fitted(vectors, np.array([0, 0, 4, 4]), 0)
    assert baselines._shares(one, vectors, 6)[:, [1, 2, 3, 5]].sum() == 0  # classes that nobody has
