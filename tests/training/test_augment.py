"""Preparation and paired views."""

import pytest
import torch

from training import augment
from training.encoders import Inputs
from training.feed import Samples


def samples(pixels, bands=("B02", "B03", "B04"), nodata=0, dates=None):
    batch, times = pixels.shape[:2]
    days = torch.zeros(batch, times, dtype=torch.int32) if dates is None else dates
    return Samples(
        [str(number) for number in range(batch)],
        {"s2": pixels},
        {"s2": days},
        {},
        torch.zeros(batch, 2),
        torch.zeros(batch),
        {"s2": bands},
        {"s2": nodata},
    )


def test_prepare_picks_bands_normalises_them_and_puts_nodata_at_the_mean():
    pixels = torch.arange(2 * 3 * 4, dtype=torch.int32).reshape(2, 1, 3, 2, 2).to(torch.uint16)
    inputs = Inputs(layer="s2", bands=("B04", "B02"), mean=(10.0, 1.0), std=(2.0, 4.0))
    images = augment.prepare(samples(pixels), inputs)
    raw = pixels.float()[:, 0, [2, 0]]
    expected = (raw - torch.tensor([10.0, 1.0]).view(-1, 1, 1)) / torch.tensor([2.0, 4.0]).view(-1, 1, 1)
    expected[raw == 0] = 0.0
    assert images.dtype == torch.float32
    assert torch.equal(images, expected)


def test_prepare_takes_the_date_asked_for_and_any_date_never_takes_padding():
    pixels = torch.arange(3 * 4, dtype=torch.int16).reshape(3, 4, 1, 1, 1)
    days = torch.tensor([[5, -1, -1, -1], [5, 6, -1, -1], [5, 6, 7, 8]], dtype=torch.int32)
    made = samples(pixels, ("B02",), -32768, days)
    inputs = Inputs(layer="s2", bands=("B02",), mean=(0.0,), std=(1.0,))
    assert augment.prepare(made, inputs, torch.tensor([0, 1, 3])).flatten().tolist() == [0.0, 5.0, 11.0]
    torch.manual_seed(0)
    drawn = torch.stack([augment.any_date(made, "s2") for _ in range(200)])
    assert [sorted(set(column.tolist())) for column in drawn.T] == [[0], [0, 1], [0, 1, 2, 3]]


def test_prepare_refuses_what_the_samples_lack():
    made = samples(torch.ones(1, 1, 3, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="have no mean and std"):
        augment.prepare(made, Inputs(layer="s2", bands=("B02",)))
    with pytest.raises(ValueError, match="reads layer 's1', the batch has s2"):
        augment.prepare(made, Inputs(layer="s1", bands=("VV",), mean=(0.0,), std=(1.0,)))
    with pytest.raises(ValueError, match="reads band B08 of 's2', the samples have B02, B03, B04"):
        augment.prepare(made, Inputs(layer="s2", bands=("B08",), mean=(0.0,), std=(1.0,)))


def test_flips_and_turns_reach_all_eight_and_move_labels_with_pixels():
    labels = torch.arange(9).reshape(1, 3, 3).repeat(400, 1, 1)
    images, turned = augment.dihedral(labels[:, None].float(), labels, torch.Generator().manual_seed(0))
    assert torch.equal(images[:, 0].long(), turned)
    square = labels[0]
    eight = {tuple(torch.rot90(part, k).flatten().tolist()) for part in (square, square.T) for k in range(4)}
    assert {tuple(view.flatten().tolist()) for view in turned} == eight
    with pytest.raises(ValueError, match="needs square images"):
        augment.dihedral(torch.zeros(1, 1, 2, 3))


def test_the_whole_image_at_its_own_size_comes_back():
    torch.manual_seed(0)
    images = torch.rand(4, 2, 8, 8)
    # any shape but a square is shrunk to fit a whole square image, so only the area tells
    crops, none = augment.random_resized_crop(images, 8, (1e-9, 1e-9))
    assert none is None
    assert crops.std((2, 3)).max() < 1e-3  # a vanishing box sees one point


def test_crops_keep_labels_with_their_pixels_and_never_mix_classes():
    gen = torch.Generator().manual_seed(1)
    labels = (torch.rand(16, 4, 4, generator=gen) > 0.5).long().mul(7)
    labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
    images = labels[:, None].float()
    crops, cut = augment.random_resized_crop(images, 24, (0.3, 0.9), labels=labels, generator=gen)
    assert crops.shape == (16, 1, 24, 24)
    assert cut.dtype == torch.int64
    assert set(cut.unique().tolist()) <= {0, 7}
    sure = (crops[:, 0] < 0.01) | (crops[:, 0] > 6.99)  # away from edges, where the image mixes
    assert sure.float().mean() > 0.7
    assert torch.equal(crops[:, 0][sure].round().long(), cut[sure])


def test_crops_have_the_share_of_the_area_that_was_asked_for():
    ramp = torch.linspace(-1, 1, 65)[None, None, None, :].expand(256, 1, 65, 65)
    column = ramp.transpose(-1, -2)
    gen = torch.Generator().manual_seed(2)
    crops, _ = augment.random_resized_crop(torch.cat([ramp, column], 1), 33, (0.25, 0.25), generator=gen)
    wide = (crops[:, 0, 0, -1] - crops[:, 0, 0, 0]) / 2 * 65 / 64 * 33 / 32 * 64 / 65
    tall = (crops[:, 1, -1, 0] - crops[:, 1, 0, 0]) / 2 * 65 / 64 * 33 / 32 * 64 / 65
    assert (wide * tall).mean() == pytest.approx(0.25, rel=0.05)
    assert (wide / tall).min() < 0.8
    assert (wide / tall).max() > 1.25
