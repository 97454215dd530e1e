"""Probes against scikit-learn on the same features, and as recipes that take no step."""

import numpy as np
import pytest
import torch
from conftest import BANDS, write_corpus
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from training import evaluate, probe, probing
from training.augment import prepare
from training.encoders import Inputs, hierarchy, vit
from training.feed import once
from training.loop import train
from training.methods import Progress, build
from training.recipe import Recipe, Stream, load, replace
from training.tasks import classify, segment
from training.views import Viewing
from training.worker import _fitted

INPUTS = Inputs(layer="s2", bands=BANDS[:3], mean=(1500.0,) * 3, std=(900.0,) * 3)
ENCODER = vit.Spec(inputs=INPUTS, image=16, patch=4, width=16, depth=4, heads=2)
TONE = classify.Spec(classes=("dark", "bright"), label="class")


def asked(corpus, by, encoder=ENCODER, side=16) -> Recipe:
    return Recipe(
        name="eurosat_rgb_500_knn",
        method=probing.Spec(task=TONE, encoder=encoder, by=by, views=Viewing(side=side)),
        streams={"labelled": Stream(corpus=str(corpus), layers=("s2",))},
        batch=8,
        steps=0,
    )


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """60 chips to learn from and 40 to name, a third of them with the other class's label."""
    root = write_corpus(tmp_path_factory.mktemp("corpora") / "tiny@1", {"train": 60, "test": 40})
    return root


def rows(model, corpus, split):
    """Pooled features, features by stage, and classes of a split, by a loop over samples."""
    pooled, staged, names = [], [], []
    for samples in once(Stream(corpus=str(corpus), split=split, layers=("s2",)), 1):
        image = prepare(samples, model.inputs)
        with torch.no_grad():
            pooled.append(model.encoder(image).cls[0].numpy())
            staged.append([one.mean((2, 3))[0].numpy() for one in probe.stage_maps(model.encoder, image)])
        number = int(samples.ids[0].split("-")[1])
        names.append((number % 2 + (number % 3 == 0)) % 2)  # as `mislabelled` has it
    return np.stack(pooled), [np.stack(one) for one in zip(*staged, strict=True)], np.array(names)


class Mislabelled(probing.Probe):
    """Labels that the pixels tell only in two of three cases, so that no probe is always right."""

    def target(self, samples):
        numbers = torch.tensor([int(one.split("-")[1]) for one in samples.ids])
        return (numbers % 2 + (numbers % 3 == 0)) % 2


def scored(model, corpus):
    model.eval().fit(once(Stream(corpus=str(corpus), layers=("s2",)), 7))
    batches = ({"labelled": one} for one in once(Stream(corpus=str(corpus), split="test", layers=("s2",)), 9))
    return evaluate.evaluate(model, batches)


def test_neighbours_are_scikit_learns(noisy):
    torch.manual_seed(0)
    model = Mislabelled(asked(noisy, probing.Neighbours(k=7, temperature=0.2)).method).eval()
    train_rows, _, names = rows(model, noisy, "train")
    test_rows, _, truth = rows(model, noisy, "test")
    peer = KNeighborsClassifier(
        7, metric="cosine", weights=lambda far: np.exp((1 - far) / 0.2), algorithm="brute"
    )
    expected = accuracy_score(truth, peer.fit(train_rows, names).predict(test_rows))
    assert scored(model, noisy)["accuracy"] == pytest.approx(expected)
    assert 0.4 < expected < 0.95


def test_lines_at_each_stage_are_scikit_learns(noisy):
    torch.manual_seed(0)
    model = Mislabelled(asked(noisy, probing.Stages(decay=1e-2)).method).eval()
    _, train_rows, names = rows(model, noisy, "train")
    _, test_rows, truth = rows(model, noisy, "test")
    found = scored(model, noisy)
    for stage, (known, other) in enumerate(zip(train_rows, test_rows, strict=True), 1):
        mean, deviation = known.mean(0), known.std(0)
        # of two classes scikit-learn has one line, whose square is twice that of a line each
        peer = LogisticRegression(C=2 / (1e-2 * len(known)), tol=1e-8, max_iter=5000)
        guess = peer.fit((known - mean) / deviation, names).predict((other - mean) / deviation)
        assert found[f"accuracy_stage_{stage}"] == pytest.approx(accuracy_score(truth, guess)), stage
    assert found["accuracy"] == found["accuracy_stage_4"] and len(found) == 5
    assert len({round(value, 3) for value in found.values()}) > 1


def test_what_pixels_tell_is_told(noisy):
    torch.manual_seed(0)
    for by in (probing.Neighbours(), probing.Stages(grid=2)):
        model = build(asked(noisy, by).method)
        assert scored(model, noisy)["accuracy"] == 1


def test_a_network_of_stages_has_a_line_at_each(noisy):
    torch.manual_seed(0)
    body = hierarchy.Spec(inputs=INPUTS, name="resnet10t")
    found = scored(build(asked(noisy, probing.Stages(), body, side=64).method), noisy)
    assert set(found) == {"accuracy", *(f"accuracy_stage_{stage}" for stage in range(1, 5))}


def test_a_run_is_one_look_and_the_same_when_looked_again(noisy, tmp_path):
    recipe = asked(noisy, probing.Neighbours())
    recipe = replace(recipe, method=replace(recipe.method, encoder=ENCODER.model_copy(update={"inputs": Inputs(
        layer="s2", bands=BANDS[:3])})))  # fmt: skip
    values = []
    for _ in range(2):
        summary, known, model = _fitted(recipe, tmp_path / "run", "cpu")
        values.append(evaluate.evaluate(model, evaluate.held_out(known, "test", 8)))
        assert summary.steps == 0 and known.method.encoder.inputs.mean
    assert values[0] == values[1]
    _, model = evaluate.restore(tmp_path / "run")
    with pytest.raises(ValueError, match="has seen nothing yet"):
        evaluate.evaluate(model, evaluate.held_out(recipe, "test", 8))
    with pytest.raises(ValueError, match="holds a run of recipe"):
        _fitted(replace(recipe, seed=1), tmp_path / "run", "cpu")


def test_steps_are_of_methods_that_take_them():
    with pytest.raises(ValueError, match="steps=3 is refused: a method that is fitted at once takes 0"):
        load("eurosat_rgb_500_knn", ["steps=3"])
    with pytest.raises(ValueError, match=r"steps=0 is refused: .* a number greater than 0"):
        load("eurosat_rgb_500_probe", ["steps=0"])
    assert load("eurosat_rgb_500_stages", ["method.by.grid=2"]).method.by.grid == 2


def test_what_a_probe_cannot_do_is_refused(noisy, tmp_path):
    recipe = asked(noisy, probing.Neighbours())
    model = build(recipe.method)
    assert not [name for name, one in model.encoder.named_parameters() if one.requires_grad]
    with pytest.raises(ValueError, match="a probe is fitted"):
        model({}, Progress(0, 1))
    with pytest.raises(ValueError, match="no parameter of Probe learns"):
        train(recipe, tmp_path)
    with pytest.raises(ValueError, match="task 'segment' does not"):
        build(replace(recipe.method, task=segment.Spec(classes=("a", "b"))))
    other = replace(recipe.method, task=TONE.model_copy(update={"label": "class", "codes": (7, 8)}))
    with pytest.raises(ValueError, match="no training sample has a label"):
        scored(build(other), noisy)
    with pytest.raises(ValueError, match=r"by\.k|greater than 0"):
        load("eurosat_rgb_500_knn", ["method.by.k=0"])
