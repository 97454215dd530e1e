"""Masks against a sort done by hand."""

import pytest
import torch

from training.masking import gather, random_split


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
