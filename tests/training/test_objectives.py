"""Objectives against the loops their docstrings give."""

import math

import torch
from torch import Tensor

from training.objectives import Losses, cross_entropy, masked_mse, standardise


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
