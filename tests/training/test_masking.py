"""Masks against a sort done by hand."""

import math

import numpy as np
import pytest
import torch

from training.masking import block_masks, disjoint_split, gather, masked_counts, random_split


def test_the_patches_of_least_noise_are_seen():
    noise = torch.tensor([[0.4, 0.1, 0.9, 0.2], [0.3, 0.8, 0.7, 0.0]])
    seen, hidden = random_split(noise, 0.5)
    assert seen.tolist() == [[1, 3], [3, 0]]
    assert hidden.tolist() == [[0, 2], [2, 1]]


@pytest.mark.parametrize(("length", "visible", "kept"), [(196, 0.25, 49), (64, 0.25, 16), (10, 0.39, 3)])
def test_seen_and_hidden_share_out_the_grid(length, visible, kept):
    seen, hidden = random_split(torch.rand(5, length, generator=torch.Generator().manual_seed(0)), visible)
    assert seen.shape == (5, kept)
    assert torch.equal(torch.cat([seen, hidden], 1).sort(1).values, torch.arange(length).expand(5, -1))


def test_every_patch_is_seen_equally_often():
    seen, _ = random_split(torch.rand(20_000, 8, generator=torch.Generator().manual_seed(0)), 0.25)
    share = torch.bincount(seen.flatten(), minlength=8) / 20_000
    assert (share - 0.25).abs().max() < 0.02


def test_a_split_that_shows_nothing_or_everything_is_refused():
    for visible in (0.01, 1.0):
        with pytest.raises(ValueError, match="some to see and some to guess"):
            random_split(torch.rand(2, 16), visible)


def test_gather_is_the_loop():
    tokens = torch.arange(24).reshape(2, 4, 3)
    indices = torch.tensor([[3, 0], [1, 1]])
    expected = torch.stack([torch.stack([tokens[b, i] for i in indices[b]]) for b in range(2)])
    assert torch.equal(gather(tokens, indices), expected)


@pytest.mark.parametrize(
    ("length", "student", "teacher", "counts"),
    [
        (784, 0.2, 0.6, (157, 157, 470)),  # the four cases of PerA's grids
        (784, 0.3, 0.5, (235, 157, 392)),
        (36, 0.2, 0.6, (7, 7, 22)),
        (36, 0.3, 0.5, (11, 7, 18)),
        (64, 0.2, 0.6, (13, 13, 38)),
        (10, 0.25, 0.75, (2, 0, 8)),  # 2.5 rounds to even twice
        (16, 0.3, 0.7, (5, 0, 11)),
    ],
)
def test_a_disjoint_split_thresholds_the_sorted_order_itself(length, student, teacher, counts):
    noise = torch.rand(4, length, generator=torch.Generator().manual_seed(0))
    parts = disjoint_split(noise, student, teacher)
    assert tuple(part.shape[1] for part in parts) == counts
    first, second = counts[0], counts[0] + counts[1]
    for image in range(4):
        order = sorted(range(length), key=lambda place: float(noise[image, place]))
        seen, learned, taught = (set(part[image].tolist()) for part in parts)
        assert seen == {place for place in range(length) if order[place] < first}
        assert learned == {place for place in range(length) if first <= order[place] < second}
        assert taught == {place for place in range(length) if order[place] >= second}


def test_every_patch_goes_to_the_student_equally_often():
    noise = torch.rand(20_000, 10, generator=torch.Generator().manual_seed(0))
    for part, share in zip(disjoint_split(noise, 0.2, 0.5), (0.2, 0.3, 0.5), strict=True):
        found = torch.bincount(part.flatten(), minlength=10) / 20_000
        assert (found - share).abs().max() < 0.02


@pytest.mark.parametrize(("student", "teacher"), [(0.0, 0.5), (0.5, 0.0), (0.6, 0.6), (1.0, 0.0)])
def test_a_disjoint_split_that_leaves_one_side_nothing_or_shares_a_patch_is_refused(student, teacher):
    with pytest.raises(ValueError, match="no patch to both"):
        disjoint_split(torch.rand(2, 16), student, teacher)


def test_masked_counts_spread_over_the_slices():
    generator = np.random.default_rng(0)
    for _ in range(50):
        counts = masked_counts(8, 1000, generator)
        assert counts.count(0) == 4
        for number, count in enumerate(sorted(counts)[4:]):
            assert 100 + 100 * number <= count <= 200 + 100 * number
    firsts = [masked_counts(4, 100, generator)[0] > 0 for _ in range(400)]
    assert sum(firsts) == pytest.approx(200, abs=50)


def test_block_masks_never_pass_their_count_and_mostly_reach_it():
    generator = np.random.default_rng(0)
    counts = [0, 1, 5, 20, 40, 98, 60, 33] * 20
    masks = block_masks(counts, 14, 14, generator)
    assert masks.shape == (160, 196) and masks.dtype == torch.bool
    found = masks.sum(1).tolist()
    assert all(number <= count for number, count in zip(found, counts, strict=True))
    assert sum(found) > 0.9 * sum(counts)


def test_masked_patches_lie_together_in_blocks_all_over_the_grid():
    masks = block_masks([20] * 400, 10, 16, np.random.default_rng(1)).unflatten(1, (10, 16))
    together = (masks[:, 1:] & masks[:, :-1]).sum() + (masks[:, :, 1:] & masks[:, :, :-1]).sum()
    assert together > 1.2 * masks.sum()  # patches drawn one by one: 0.22 neighbours each; a 3 x 4 block: 1.42
    assert masks.any(0).all()


def test_block_masks_repeat_with_their_generator():
    first, second = (block_masks([30, 9], 8, 8, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert math.isclose(first.sum().item(), 39, abs_tol=9)
