"""Objectives against the loops their docstrings give."""

import math

import pytest
import torch
import torch.nn.functional as F
import torch.utils._python_dispatch
from torch import Tensor

from training.objectives import (
    Losses,
    batch_nce,
    binary_cross_entropy,
    centred_softmax,
    collapse_signs,
    contrast,
    cross_entropy,
    info_nce,
    koleo,
    masked_mse,
    masked_patch_cross_entropy,
    patch_shares,
    prototype_cross_entropy,
    sinkhorn,
    soft_cross_entropy,
    standardise,
    view_cross_entropy,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_masked_mse_equals_the_loop_in_its_docstring():
    guess, target = drawn(3, 5, 7), drawn(3, 5, 7, seed=1)
    total = 0.0
    for image in range(3):
        for patch in range(5):
            errors = [
                (float(g) - float(t)) ** 2
                for g, t in zip(guess[image, patch], target[image, patch], strict=True)
            ]
            total += sum(errors) / len(errors)
    assert math.isclose(float(masked_mse(guess, target)), total / 15, rel_tol=1e-6)


def test_standardise_equals_the_loop_in_its_docstring_and_is_undone():
    patches = 3 * drawn(2, 4, 9) + 5
    plain, mean, deviation = standardise(patches)
    for image in range(2):
        for patch in range(4):
            values = [float(value) for value in patches[image, patch]]
            middle = sum(values) / 9
            variance = sum((value - middle) ** 2 for value in values) / 8
            expected = torch.tensor([(value - middle) / math.sqrt(variance + 1e-6) for value in values])
            torch.testing.assert_close(plain[image, patch], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(plain * deviation + mean, patches)


def test_a_flat_patch_is_standardised_to_zero():
    plain, _, _ = standardise(torch.full((1, 1, 9), 7.0))
    assert not plain.any()


def test_cross_entropy_equals_the_loop_in_its_docstring():
    logits = drawn(2, 3, 4)
    target = torch.tensor([[0, 255, 2, 1], [255, 255, 0, 2]])
    total, counted = 0.0, 0
    for image in range(2):
        for place in range(4):
            if target[image, place] != 255:
                scores = [float(score) for score in logits[image, :, place]]
                total += (
                    math.log(sum(math.exp(score) for score in scores)) - scores[int(target[image, place])]
                )
                counted += 1
    assert math.isclose(float(cross_entropy(logits, target)), total / counted, rel_tol=1e-6)


def test_a_batch_without_labels_costs_nothing():
    logits = drawn(2, 3, 4).requires_grad_()
    loss = cross_entropy(logits, torch.full((2, 4), 255))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not logits.grad.any()


def test_objectives_are_taken_in_float32():
    half = drawn(2, 3, 4).bfloat16()
    assert masked_mse(half, half).dtype == torch.float32
    assert cross_entropy(half, torch.zeros(2, 4, dtype=torch.int64)).dtype == torch.float32


def test_losses_add_up_and_their_parts_do_not_hold_the_graph():
    first, second = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    losses = Losses.sum(first=first * 1, second=second * 2)
    assert float(losses.total.detach()) == 8
    assert losses.total.requires_grad
    assert {name: float(part) for name, part in losses.parts.items()} == {"first": 2, "second": 6}
    assert not any(part.requires_grad for part in losses.parts.values())


def entropy(scores: Tensor, target: Tensor) -> float:
    """-sum of target * log softmax(scores), in Python's floats."""
    values = [float(score) for score in scores]
    log_sum = math.log(sum(math.exp(value) for value in values))
    return -sum(float(t) * (value - log_sum) for t, value in zip(target, values, strict=True))


def weights(rows: int, classes: int, seed: int = 1) -> Tensor:
    """Targets of any sum."""
    return 1.5 * drawn(rows, classes, seed=seed).softmax(-1)


def test_soft_cross_entropy_equals_the_loop_in_its_docstring():
    logits, target = drawn(5, 7), weights(5, 7)
    expected = sum(entropy(row, aim) for row, aim in zip(logits, target, strict=True)) / 5
    assert math.isclose(float(soft_cross_entropy(logits, target)), expected, rel_tol=1e-6)


def test_centred_softmax_is_the_formula_and_holds_no_graph():
    logits, centre = drawn(3, 4).requires_grad_(), drawn(4, seed=1)
    target = centred_softmax(logits, centre, 0.07)
    for row, found in zip(logits.detach(), target, strict=True):
        powers = [math.exp((float(a) - float(c)) / 0.07) for a, c in zip(row, centre, strict=True)]
        torch.testing.assert_close(found, torch.tensor([power / sum(powers) for power in powers]))
    assert not target.requires_grad


@pytest.mark.parametrize(("rows", "columns", "rounds"), [(9, 5, 3), (4, 12, 1), (6, 6, 5)])
def test_sinkhorn_equals_the_loop_in_its_docstring(rows, columns, rounds):
    logits = drawn(rows, columns)
    table = [[math.exp(float(value) / 0.5) for value in row] for row in logits]
    for _ in range(rounds):
        sums = [sum(table[i][k] for i in range(rows)) for k in range(columns)]
        table = [[table[i][k] / sums[k] for k in range(columns)] for i in range(rows)]
        table = [[value / sum(row) for value in row] for row in table]
    found = sinkhorn(logits, 0.5, rounds)
    torch.testing.assert_close(found, torch.tensor(table), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.sum(-1), torch.ones(rows))


def test_sinkhorn_evens_the_columns_out_and_never_overflows():
    cosines = drawn(64, 10).tanh()
    assert not torch.exp(cosines / 0.01).isfinite().all()  # the plain form
    found = sinkhorn(cosines, 0.01, 200)
    torch.testing.assert_close(found.sum(0), torch.full((10,), 6.4), rtol=1e-2, atol=0)


def test_sinkhorn_takes_tables_one_by_one_when_they_are_not_one_batch():
    tables = drawn(3, 6, 4)
    each = torch.stack([sinkhorn(table, 0.2) for table in tables])
    torch.testing.assert_close(sinkhorn(tables, 0.2, whole=False), each)


MASKS = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]], dtype=torch.bool)


def test_masked_patch_cross_entropy_equals_the_loop_in_its_docstring():
    logits, target = drawn(4, 6), weights(4, 6)
    each = [entropy(row, aim) for row, aim in zip(logits, target, strict=True)]
    expected = (sum(each[:3]) / 3 + each[3]) / 3
    found = masked_patch_cross_entropy(logits, target, MASKS)
    assert math.isclose(float(found), expected, rel_tol=1e-6)
    torch.testing.assert_close(patch_shares(MASKS), torch.tensor([1 / 9, 1 / 9, 1 / 9, 1 / 3]))


@pytest.mark.parametrize("chunk", [None, 1, 3, 11, 50])
@pytest.mark.parametrize("shared", [False, True])
def test_prototype_cross_entropy_equals_the_plain_form_in_value_and_gradient(chunk, shared):
    rows, target = (10 * drawn(11, 5)).requires_grad_(), weights(11, 8)
    prototypes, shares = drawn(8, 5, seed=2).requires_grad_(), drawn(11, seed=3).exp() if shared else None
    logits = rows @ prototypes.T / 0.1
    losses = torch.stack(
        [-(aim * row.log_softmax(-1)).sum() for row, aim in zip(logits, target, strict=True)]
    )
    plain = 3 * (losses.mean() if shares is None else (losses * shares).sum())
    expected = torch.autograd.grad(plain, (rows, prototypes))
    asked: list[slice] = []

    def aims(part: slice) -> Tensor:
        asked.append(part)
        return target[part]

    for given in (target, aims):
        found = 3 * prototype_cross_entropy(rows, prototypes, given, 0.1, shares, chunk)
        slopes = torch.autograd.grad(found, (rows, prototypes))
        torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)
        for slope, other in zip(slopes, expected, strict=True):
            torch.testing.assert_close(slope, other, rtol=1e-4, atol=1e-5)
    assert len(asked) == math.ceil(11 / (chunk or 11))


def test_prototype_cross_entropy_holds_no_more_logits_than_a_chunk():
    rows, prototypes = drawn(64, 4).requires_grad_(), drawn(4096, 4, seed=1).requires_grad_()
    largest = [0]

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), named=None):
            found = function(*arguments, **(named or {}))
            if isinstance(found, Tensor):
                largest[0] = max(largest[0], found.numel())
            return found

    with Watch():
        loss = prototype_cross_entropy(
            rows, prototypes, lambda part: torch.full((4, 4096), 1 / 4096)[: part.stop], 0.1, chunk=4
        )
        loss.backward()
    assert largest[0] == 4 * 4096


def test_prototype_cross_entropy_asks_for_no_gradient_nobody_wants():
    rows, prototypes = drawn(6, 4).requires_grad_(), drawn(8, 4, seed=1)
    loss = prototype_cross_entropy(rows, prototypes, weights(6, 8), 0.1)
    loss.backward()
    assert rows.grad is not None
    with torch.no_grad():
        assert torch.equal(prototype_cross_entropy(rows, prototypes, weights(6, 8), 0.1), loss.detach())


def test_prototype_cross_entropy_in_half_precision_is_that_of_the_half_precision_logits():
    rows = F.normalize(drawn(40, 32)).requires_grad_()
    prototypes, target = F.normalize(drawn(50, 32, seed=1)).requires_grad_(), weights(40, 50)
    with torch.autocast("cpu", torch.bfloat16):
        found = prototype_cross_entropy(rows, prototypes, target, 0.1, chunk=7)
        plain = soft_cross_entropy(F.linear(rows, prototypes) / 0.1, target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain, rtol=2e-3, atol=0)
    for slope, other in zip(
        torch.autograd.grad(found, (rows, prototypes)),
        torch.autograd.grad(plain, (rows, prototypes)),
        strict=True,
    ):
        assert F.cosine_similarity(slope.flatten(), other.flatten(), dim=0) > 0.999


def test_koleo_equals_the_loop_in_its_docstring():
    features = 5 * drawn(7, 4)
    rows = [[float(v) / math.hypot(*map(float, row)) for v in row] for row in features]
    total = 0.0
    for i, row in enumerate(rows):
        others = [other for j, other in enumerate(rows) if j != i]
        nearest = max(others, key=lambda other: sum(a * b for a, b in zip(row, other, strict=True)))
        distance = math.hypot(*(a - b + 1e-8 for a, b in zip(row, nearest, strict=True)))
        total -= math.log(distance + 1e-8)
    for whole in (False, True):
        assert math.isclose(float(koleo(features, whole=whole)), total / 7, rel_tol=1e-5)


def test_koleo_pushes_neighbours_apart_and_survives_twins():
    features = torch.stack([torch.tensor([1.0, 0.1]), torch.tensor([1.0, -0.1])]).requires_grad_()
    koleo(features).backward()
    assert features.grad[0, 1] < 0 < features.grad[1, 1]  # descending raises the first and lowers the second
    twins = torch.ones(3, 4, requires_grad=True)
    koleo(twins).backward()
    assert twins.grad.isfinite().all()
    with pytest.raises(ValueError, match="no neighbour"):
        koleo(torch.ones(1, 4))


def test_info_nce_equals_the_loop_in_its_docstring_and_cross_entropy():
    queries, positives, negatives = (F.normalize(drawn(n, 6, seed=n)) for n in (5, 50, 9))
    positives = positives[:5]
    total = 0.0
    for query, positive in zip(queries, positives, strict=True):
        scores = torch.stack([query @ positive, *(query @ other for other in negatives)]) / 0.07
        total += entropy(scores, torch.eye(10)[0])
    found = info_nce(queries, positives, negatives, 0.07)
    assert math.isclose(float(found), total / 5, rel_tol=1e-5)
    logits = torch.cat([(queries * positives).sum(1, keepdim=True), queries @ negatives.T], 1) / 0.07
    torch.testing.assert_close(found, F.cross_entropy(logits, torch.zeros(5, dtype=torch.int64)))


def test_batch_nce_and_contrast_equal_the_loop_in_their_docstrings():
    queries, keys = 3 * drawn(5, 6), 0.1 * drawn(5, 6, seed=1)
    total = 0.0
    for i in range(5):
        cosines = [F.cosine_similarity(queries[i], keys[j], dim=0) / 0.2 for j in range(5)]
        total += entropy(torch.stack(cosines), torch.eye(5)[i])
    assert math.isclose(float(batch_nce(queries, keys, 0.2)), total / 5, rel_tol=1e-5)
    assert math.isclose(float(contrast(queries, keys, 0.2)), 2 * 0.2 * total / 5, rel_tol=1e-5)


def test_a_learned_temperature_of_batch_nce_gets_a_gradient():
    temperature = torch.tensor(0.07, requires_grad=True)
    batch_nce(drawn(5, 6), drawn(5, 6, seed=1), temperature).backward()
    assert temperature.grad != 0


@pytest.mark.parametrize(
    "objective",
    [
        lambda rows: koleo(rows),
        lambda rows: info_nce(F.normalize(rows), F.normalize(rows + 1), F.normalize(rows - 1), 0.07),
        lambda rows: batch_nce(rows, rows + 1, 0.07),
        lambda rows: soft_cross_entropy(rows, rows.softmax(-1)),
        lambda rows: sinkhorn(rows, 0.1).square().sum(),
    ],
)
def test_objectives_do_not_lose_precision_under_autocast(objective):
    rows = drawn(16, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = objective(rows)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, objective(rows), rtol=1e-6, atol=0)


def test_binary_cross_entropy_equals_the_loop_in_its_docstring():
    logits, target = drawn(4, 3), torch.tensor([[0, 1, 255], [1, 1, 0], [255, 255, 0], [0, 0, 1]])
    total, counted = 0.0, 0
    for logit, wanted in zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True):
        if wanted != 255:
            chance = 1 / (1 + math.exp(-logit))
            total -= math.log(chance if wanted == 1 else 1 - chance)
            counted += 1
    assert math.isclose(float(binary_cross_entropy(logits, target)), total / counted, rel_tol=1e-6)
    assert float(binary_cross_entropy(logits, torch.full((4, 3), 255))) == 0


@pytest.mark.parametrize("views", [2, 3, 6])
def test_view_cross_entropy_equals_the_loop_in_its_docstring(views):
    rows, prototypes = drawn(views, 4, 5).requires_grad_(), drawn(8, 5, seed=1)
    targets = drawn(2, 4, 8, seed=2).softmax(-1)
    total = torch.zeros(())
    for q in range(2):
        for v in range(views):
            if v != q:
                log_odds = (rows[v] @ prototypes.T / 0.1).log_softmax(-1)
                total = total - (targets[q] * log_odds).sum(-1).mean()
    expected = total / (2 * views - 2)
    large, small = view_cross_entropy(rows, prototypes, targets, 0.1)
    torch.testing.assert_close(large + small, expected)
    both = [torch.autograd.grad(value, rows)[0] for value in (large + small, expected)]
    torch.testing.assert_close(both[0], both[1], rtol=1e-4, atol=1e-6)


def test_collapse_shows_in_its_signs():
    even, sure = torch.full((6, 8), 1 / 8), torch.eye(8)[:6]
    apart = collapse_signs(even, drawn(6, 4), torch.tensor([3.0, 4.0]))
    assert math.isclose(float(apart["teacher_entropy"]), math.log(8), rel_tol=1e-5)
    assert float(apart["centre"]) == 5
    collapsed = collapse_signs(sure, torch.ones(6, 4) * torch.arange(1, 7)[:, None], None)
    assert abs(float(collapsed["teacher_entropy"])) < 1e-5
    assert float(collapsed["spread"]) < 1e-3 < 0.1 < float(apart["spread"])
    assert "centre" not in collapsed
