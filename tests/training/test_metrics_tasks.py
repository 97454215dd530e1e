"""Metrics of single tasks, each against a second implementation: torchmetrics, scikit-learn, or a loop."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from training.metrics import Change, Confusion, MultiLabel, SemanticChange, TopK

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchmetrics.functional.classification import (
        binary_f1_score,
        binary_jaccard_index,
        binary_precision,
        binary_recall,
        multiclass_accuracy,
        multilabel_average_precision,
    )

LABELS = ("urban", "water", "wood", "field")


def ranked(rows: int = 200, seed: int = 0, ties: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    truth = (torch.rand(rows, 4, generator=generator) < torch.tensor([0.05, 0.3, 0.6, 0.9])).long()
    scores = torch.rand(rows, 4, generator=generator) + 0.5 * truth
    return (scores * 8).round() / 8 if ties else scores, truth


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_is_that_of_torchmetrics_and_of_scikit_learn(ties):
    scores, truth = ranked(ties=ties)
    found = MultiLabel.empty(LABELS).update(scores, truth).scores()
    probabilities = scores / 2  # torchmetrics takes logits for what leaves 0..1
    for average in ("micro", "macro"):
        expected = multilabel_average_precision(probabilities, truth, 4, average=average, thresholds=None)
        assert found[f"map_{average}"] == pytest.approx(float(expected), abs=1e-6)
        other = average_precision_score(truth.numpy(), scores.numpy(), average=average)
        assert found[f"map_{average}"] == pytest.approx(other, abs=1e-9)
    each = multilabel_average_precision(probabilities, truth, 4, average=None, thresholds=None)
    assert [found[f"ap/{name}"] for name in LABELS] == pytest.approx(each.tolist(), abs=1e-6)


def test_micro_and_macro_differ_on_three_by_three_by_hand():
    """Label a: hits at ranks 1 and 3 of 3, (1 + 2/3) / 2 = 5/6; b: at 2, 1/2; c: at 1, 1. All nine in one list, from
    0.9 down: 1 1 0 0 1 1 0 0 0, so (1 + 1 + 3/5 + 4/6) / 4."""
    scores = torch.tensor([[0.9, 0.7, 0.8], [0.6, 0.5, 0.2], [0.4, 0.1, 0.3]])
    truth = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 0]])
    found = MultiLabel.empty(("a", "b", "c")).update(scores, truth).scores()
    assert found["ap/a"] == pytest.approx(5 / 6)
    assert found["ap/b"] == pytest.approx(1 / 2)
    assert found["ap/c"] == pytest.approx(1)
    assert found["map_macro"] == pytest.approx((5 / 6 + 1 / 2 + 1) / 3)
    assert found["map_micro"] == pytest.approx((1 + 1 + 3 / 5 + 4 / 6) / 4)


def test_a_label_nobody_has_is_in_no_mean_and_an_ignored_row_in_no_list():
    scores, truth = ranked(rows=50)
    truth[:, 1] = 0
    with_row = torch.cat([truth, torch.full((1, 4), 255)]), torch.cat([scores, torch.ones(1, 4)])
    found = MultiLabel.empty(LABELS).update(scores, truth).scores()
    assert math.isnan(found["ap/water"])
    known = [found[f"ap/{name}"] for name in LABELS if name != "water"]
    assert found["map_macro"] == pytest.approx(sum(known) / 3)
    assert MultiLabel.empty(LABELS).update(with_row[1], with_row[0]).scores() == pytest.approx(
        found, nan_ok=True
    )


def test_parts_of_every_metric_add_up_to_the_whole():
    scores, truth = ranked()
    empty = MultiLabel.empty(LABELS)
    parts = empty.update(scores[:90], truth[:90]) + empty.update(scores[90:], truth[90:])
    assert parts.scores() == empty.update(scores, truth).scores()
    logits, target = torch.randn(40, 7), torch.randint(7, (40,))
    top = TopK.empty()
    assert top.update(logits[:9], target[:9]) + top.update(logits[9:], target[9:]) == top.update(
        logits, target
    )
    maps, said = torch.randint(3, (4, 5, 6, 6)), torch.randint(3, (4, 5, 6, 6))
    whole, halves = SemanticChange.empty(("a", "b", "c")), [SemanticChange.empty(("a", "b", "c"))] * 2
    for place in range(4):
        whole = whole.update(said[place], maps[place])
        halves[place % 2] = halves[place % 2].update(said[place], maps[place])
    assert (halves[0] + halves[1]).scores() == whole.scores()
    change = Change.empty()
    assert (
        change.update(said[:2] % 2, maps[:2] % 2) + change.update(said[2:] % 2, maps[2:] % 2)
    ).scores() == change.update(said % 2, maps % 2).scores()


def test_nothing_counted_has_no_score():
    for metric in (MultiLabel.empty(LABELS), TopK.empty(), Change.empty(), SemanticChange.empty(("a", "b"))):
        assert all(math.isnan(value) for value in metric.scores().values()), metric


def test_metrics_of_different_things_do_not_add():
    with pytest.raises(ValueError, match="different labels"):
        MultiLabel.empty(("a",)) + MultiLabel.empty(("b",))
    with pytest.raises(ValueError, match="different ranks"):
        TopK.empty((1, 5)) + TopK.empty((1, 3))
    with pytest.raises(ValueError, match="one row a sample"):
        MultiLabel.empty(LABELS).update(torch.rand(3, 3), torch.ones(3, 3))


def test_hits_by_rank_are_those_of_torchmetrics_and_ties_are_no_hit():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(300, 12, generator=generator)
    target = torch.randint(12, (300,), generator=generator)
    found = TopK.empty((1, 5)).update(logits, target).scores()
    for rank, name in ((1, "accuracy"), (5, "top5")):
        expected = multiclass_accuracy(logits, target, 12, average="micro", top_k=rank)
        assert found[name] == pytest.approx(float(expected), rel=1e-6)
    assert TopK.empty().update(torch.zeros(3, 12), torch.tensor([0, 1, 255])).scores() == {
        "accuracy": 0.0,
        "top5": 0.0,
    }


def test_change_counts_the_changed_pixels_alone():
    generator = torch.Generator().manual_seed(2)
    truth = (torch.rand(3, 16, 16, generator=generator) < 0.1).long()
    guess = torch.where(torch.rand(3, 16, 16, generator=generator) < 0.2, 1 - truth, truth)
    truth[0, :4] = 255
    found = Change.empty().update(guess, truth).scores()
    options = {"ignore_index": 255}
    expected = {
        "change_f1": binary_f1_score(guess, truth, **options),
        "change_iou": binary_jaccard_index(guess, truth, **options),
        "change_precision": binary_precision(guess, truth, **options),
        "change_recall": binary_recall(guess, truth, **options),
    }
    assert {name: found[name] for name in expected} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, rel=1e-6
    )
    flattered = Confusion.empty(("the same", "changed")).update(guess, truth).scores()
    assert flattered["mean_f1"] > found["change_f1"] + 0.1  # what a mean over both classes would say


def scs_by_loop(guess: np.ndarray, truth: np.ndarray, classes: int) -> dict[str, float]:
    """The rules of downstream evaluation, pixel by pixel."""
    hit = union = 0
    matrix = np.zeros((classes, classes), int)
    for before, after, said, then in zip(truth[:-1], truth[1:], guess[:-1], guess[1:], strict=True):
        for place in np.ndindex(before.shape):
            changed, called = before[place] != after[place], said[place] != then[place]
            hit += changed and called
            union += changed or called
            if changed and after[place] != 255:
                matrix[after[place], then[place]] += 1
    ious = [
        matrix[one, one] / (matrix[one].sum() + matrix[:, one].sum() - matrix[one, one])
        for one in range(classes)
        if matrix[one].sum()
    ]
    binary, semantic = hit / union, sum(ious) / len(ious)
    return {"scs": (binary + semantic) / 2, "binary_change": binary, "semantic_change": semantic}


def test_semantic_change_on_two_frames_of_four_by_four_by_hand():
    """Six pixels change: two to 1, two to 2, one to 0, one from 255 to 0. Five changes are called, four of them
    rightly (IoU 4 / 7). Of the six, what they became is named 1 1 | 2 1 | 0 | 2: IoU of 0 is 1/2, of 1 is 2/3, of 2
    is 1/3."""
    before = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 255], [2, 2, 2, 2], [1, 1, 1, 1]])
    after = torch.tensor([[1, 1, 2, 2], [0, 0, 0, 0], [2, 2, 2, 2], [1, 1, 1, 1]])
    said = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 2], [2, 2, 2, 2], [1, 1, 1, 1]])
    then = torch.tensor([[1, 1, 2, 1], [0, 0, 0, 2], [2, 2, 2, 2], [1, 1, 1, 0]])
    found = SemanticChange.empty(("a", "b", "c")).update(
        torch.stack([said, then]), torch.stack([before, after])
    )
    assert found.scores() == pytest.approx(
        {"binary_change": 4 / 7, "semantic_change": 0.5, "scs": (4 / 7 + 0.5) / 2}
    )
    assert found.scores() == pytest.approx(
        scs_by_loop(torch.stack([said, then]).numpy(), torch.stack([before, after]).numpy(), 3)
    )


def test_semantic_change_is_that_of_the_loop_over_places():
    generator = torch.Generator().manual_seed(3)
    truth = torch.randint(5, (6, 8, 8), generator=generator)  # class 5 never occurs in truth
    guess = torch.where(
        torch.rand(6, 8, 8, generator=generator) < 0.5,
        torch.randint(6, (6, 8, 8), generator=generator),
        truth,
    )
    truth[2, :3] = 255
    found = SemanticChange.empty(tuple("abcdef")).update(guess, truth).scores()
    assert found == pytest.approx(scs_by_loop(guess.numpy(), truth.numpy(), 6))


def test_potsdam_without_clutter_and_loveda_without_nodata_by_hand():
    """Ignored truth (clutter, no data) enters neither the pixels right nor any union, whatever was said there."""
    truth = torch.tensor([0, 0, 1, 1, 2, 255, 255, 255])
    guess = torch.tensor([0, 1, 1, 1, 0, 0, 1, 2])
    found = Confusion.empty(("impervious", "building", "tree")).update(guess, truth)
    assert found.counts.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    scores = found.scores()
    assert scores["accuracy"] == pytest.approx(3 / 5)
    assert scores["mean_iou"] == pytest.approx((1 / 3 + 2 / 3 + 0) / 3)
    assert scores["mean_f1"] == pytest.approx((2 / 4 + 4 / 5 + 0) / 3)
