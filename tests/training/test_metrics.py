"""Metrics against torchmetrics, against loops, and against themselves in parts."""

import math
import warnings

import pytest
import torch
from torch import Tensor

from training.metrics import Confusion, Mean

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchmetrics.functional.classification import (
        multiclass_accuracy,
        multiclass_confusion_matrix,
        multiclass_f1_score,
        multiclass_jaccard_index,
    )

NAMES = ("water", "trees", "crops", "built")


def pairs(shape: tuple[int, ...] = (4, 6, 5), classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    guess = torch.randint(classes, shape, generator=generator)
    truth = torch.randint(classes, shape, generator=generator)
    truth[torch.rand(shape, generator=generator) < 0.3] = 255
    return guess, truth


def test_scores_are_those_of_torchmetrics():
    guess, truth = pairs()
    metric = Confusion.empty(NAMES).update(guess, truth)
    scores = metric.scores()
    options = {"num_classes": 4, "ignore_index": 255}
    assert torch.equal(metric.counts, multiclass_confusion_matrix(guess, truth, **options))
    expected = {
        "accuracy": multiclass_accuracy(guess, truth, average="micro", **options),
        "mean_accuracy": multiclass_accuracy(guess, truth, average="macro", **options),
        "mean_iou": multiclass_jaccard_index(guess, truth, average="macro", **options),
        "mean_f1": multiclass_f1_score(guess, truth, average="macro", **options),
    }
    each = {
        "iou": multiclass_jaccard_index(guess, truth, average="none", **options),
        "f1": multiclass_f1_score(guess, truth, average="none", **options),
    }
    for kind, values in each.items():
        expected |= {f"{kind}/{name}": value for name, value in zip(NAMES, values, strict=True)}
    assert scores.keys() == expected.keys()
    for name, value in expected.items():
        assert scores[name] == pytest.approx(float(value), rel=1e-5), name


def test_scores_are_those_of_the_loop():
    guess, truth = pairs((7,), seed=3)
    scores = Confusion.empty(NAMES).update(guess, truth).scores()
    counted = [(int(g), int(t)) for g, t in zip(guess, truth, strict=True) if t != 255]
    ious = []
    for index, name in enumerate(NAMES):
        both = sum(g == t == index for g, t in counted)
        either = sum(index in (g, t) for g, t in counted)
        if either:
            ious.append(both / either)
            assert scores[f"iou/{name}"] == pytest.approx(both / either)
        else:
            assert math.isnan(scores[f"iou/{name}"])
    assert scores["mean_iou"] == pytest.approx(sum(ious) / len(ious))


def test_a_class_seen_nowhere_is_left_out_and_one_only_guessed_counts_zero():
    guess, truth = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 1, 1])
    scores = Confusion.empty(NAMES).update(guess, truth).scores()
    assert math.isnan(scores["iou/built"]) and math.isnan(scores["f1/built"])
    assert scores["iou/crops"] == scores["f1/crops"] == 0
    assert scores["mean_iou"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert scores["mean_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert scores["mean_accuracy"] == pytest.approx((1 + 0.5) / 2)


def test_the_parts_add_up_to_the_whole():
    guess, truth = pairs()
    whole = Confusion.empty(NAMES).update(guess, truth)
    parts = [Confusion.empty(NAMES).update(guess[i], truth[i]) for i in range(4)]
    total = sum(parts, Confusion.empty(NAMES))
    assert torch.equal(total.counts, whole.counts)
    assert total.scores() == whole.scores()


def test_update_leaves_the_old_value_alone():
    empty = Confusion.empty(NAMES)
    empty.update(*pairs())
    assert not empty.counts.any()
    assert all(math.isnan(score) for score in empty.scores().values())


@pytest.mark.parametrize("wrong", [-1, 4])
def test_a_class_out_of_range_is_refused(wrong):
    right, off = torch.tensor([0, 1]), torch.tensor([0, wrong])
    for guess, truth in ((right, off), (off, right)):
        with pytest.raises(ValueError, match="outside the 4 classes"):
            Confusion.empty(NAMES).update(guess, truth)


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match="must pair up"):
        Confusion.empty(NAMES).update(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="do not add"):
        Confusion.empty(NAMES) + Confusion.empty(NAMES[:2])
    with pytest.raises(ValueError, match="do not add"):
        Mean("loss") + Mean("rate")


def test_means_add_up():
    values = torch.arange(10.0)
    assert (Mean("loss").update(values[:3]) + Mean("loss").update(values[3:])).scores() == {"loss": 4.5}
    assert math.isnan(Mean("loss").scores()["loss"])
