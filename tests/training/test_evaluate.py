"""Scores over a split, and pictures."""

import pytest
import torch
from PIL import Image
from torch import nn

from training import evaluate, pictures
from training.feed import once
from training.loop import train
from training.methods import Progress
from training.metrics import Confusion
from training.recipe import Stream, load


class Bright(nn.Module):
    """Calls what is brighter than `limit` in B02 class 1: right on the invented chips, but for one class of error."""

    def __init__(self, limit=2500):
        super().__init__()
        self.limit = limit

    def predict(self, samples):
        return (samples.layers["s2"][:, 0, 0].to(torch.int32) > self.limit).long()

    def target(self, samples):
        return samples.layers["lc"][:, 0, 0].long()

    def metric(self):
        return Confusion.empty(("dark", "bright"))


def labelled(corpus, split="val", batch=5):
    for samples in once(Stream(corpus=str(corpus), split=split, layers=("s2", "lc")), batch):
        yield {"labelled": samples}


def test_a_predicting_method_is_scored_over_the_whole_split(corpus):
    assert evaluate.evaluate(Bright(), labelled(corpus))["mean_iou"] == 1.0
    blind = evaluate.evaluate(Bright(limit=99999), labelled(corpus))
    bright = sum((batch["labelled"].layers["lc"] == 1).sum().item() for batch in labelled(corpus))
    assert blind["accuracy"] == pytest.approx(1 - bright / (12 * 256))
    assert blind["iou/bright"] == 0.0


def test_losses_are_the_mean_over_samples_whatever_the_batch(corpus, tmp_path):
    train(load("tiny_method.smoke", [f"streams.scenes.corpus={corpus}"]), tmp_path)
    recipe, method = evaluate.restore(tmp_path)
    scores = evaluate.evaluate(method, evaluate.held_out(recipe, "val", 5))
    (whole,) = evaluate.held_out(recipe, "val", 64)
    assert len(whole["scenes"]) == 12
    method.eval()
    assert scores["loss"] == pytest.approx(method(whole, Progress(1, 1)).total.item(), rel=1e-5)
    assert method.train().training


def test_nothing_to_evaluate_is_refused():
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate.evaluate(Bright(), [])


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    from conftest import write_corpus

    root = write_corpus(tmp_path_factory.mktemp("c") / "bright@1", {"train": 16, "val": 4}, chip=64)
    run = tmp_path_factory.mktemp("mae")
    bands = "[B02, B03, B04, B08]"
    settings = [f"streams.scenes.corpus={root}", f"method.encoder.inputs={{layer: s2, bands: {bands}}}"]
    train(load("mae.smoke", [*settings, "steps=2", "batch=4"]), run)
    return root, run


def test_reconstructions_are_triptychs(pretrained, tmp_path):
    recipe, method = evaluate.restore(pretrained[1])
    (batch,) = evaluate.held_out(recipe, "val")
    paths = pictures.reconstructions(method, batch["scenes"], tmp_path, count=2)
    assert [path.stem for path in paths] == batch["scenes"].ids[:2]
    with Image.open(paths[0]) as opened:
        picture = opened.convert("RGB")
    assert picture.width == 3 * picture.height + 8
    panel = picture.crop((0, 0, picture.height, picture.height))
    grey = sum(pixel == (127, 127, 127) for pixel in panel.get_flattened_data())
    assert 0.5 < grey / picture.height**2 < 0.9  # three quarters are hidden


def test_a_finetuned_run_is_scored_and_drawn(pretrained, tmp_path):
    root, run = pretrained
    settings = [f"streams.labelled.corpus={root}", f"method.init={run / 'encoder'}", "method.encoder=null"]
    settings += ["method.task.classes=[dark, bright]", "method.task.codes=[0, 1]", "steps=2", "batch=4"]
    train(load("finetune.segment_smoke", settings), tmp_path / "run")
    recipe, method = evaluate.restore(tmp_path / "run")
    scores = evaluate.evaluate(method, evaluate.held_out(recipe, "val", 3))
    assert {"mean_iou", "iou/dark", "iou/bright"} <= scores.keys()
    (batch,) = evaluate.held_out(recipe, "val")
    (path,) = pictures.predictions(method, batch["labelled"], tmp_path / "pictures", count=1)
    with Image.open(path) as picture:
        size = picture.size
    assert size[0] == 3 * 256 + 8
    assert size[1] > 256  # the legend
