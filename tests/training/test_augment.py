"""Preparation and paired views."""

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from training import augment
from training.encoders import Inputs
from training.feed import Samples


def samples(pixels, bands=("B02", "B03", "B04"), nodata=0, dates=None, layer="s2"):
    batch, times = pixels.shape[:2]
    days = torch.zeros(batch, times, dtype=torch.int32) if dates is None else dates
    return Samples(
        [str(number) for number in range(batch)],
        {layer: pixels},
        {layer: days},
        {},
        torch.zeros(batch, 2),
        torch.zeros(batch),
        {layer: bands},
        {layer: nodata},
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


def test_pixels_normalised_are_what_prepare_gives_holes_included():
    gen = torch.Generator().manual_seed(0)
    reflectance = torch.randint(0, 12, (3, 2, 3, 4, 5), generator=gen).mul(1000).to(torch.uint16)
    inputs = Inputs(layer="s2", bands=("B04", "B02"), mean=(3000.0, 5000.0), std=(700.0, 2500.0))
    made, date = samples(reflectance), torch.tensor([1, 0, 1])
    images = augment.pixels(made, inputs, date)
    assert images.max() == pytest.approx(1.1)
    expected = augment.prepare(made, inputs, date)
    assert (reflectance.int() == 0).any()
    torch.testing.assert_close(augment.normalise(images, inputs), expected, atol=1e-5, rtol=0)

    colours = torch.randint(0, 3, (8, 1, 3, 5, 5), generator=gen).mul(127).to(torch.uint8)
    inputs = Inputs(layer="hr", bands=("R", "G", "B"), mean=(120.0, 110.0, 90.0), std=(50.0, 60.0, 70.0))
    made = samples(
        colours.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3), layer="hr", bands=("R", "G", "B")
    )
    images = augment.pixels(made, inputs)
    black = (colours[:, 0] == 0).all(1)
    assert 0 < black.sum() < (colours[:, 0] == 0).any(1).sum()
    shown = ~black[:, None].expand_as(images)
    torch.testing.assert_close(images[shown], (colours[:, 0] / 255)[shown])
    assert augment.normalise(images, inputs)[~shown].abs().max() < 1e-6
    torch.testing.assert_close(
        augment.normalise(images, inputs), augment.prepare(made, inputs), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("size", "scale"), [(48, (0.4, 1.0)), (12, (0.05, 0.4)), (140, (0.3, 1.0))])
def test_views_equal_torchvision_crop_by_crop(mode, antialias, size, scale):
    gen = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 90, 70, generator=gen)
    view = augment.draw_views(12, 90, 70, scale, down=0.5, generator=gen)
    made = augment.render(images, view, size, antialias=antialias, mode=mode)
    assert made.is_contiguous()
    for number in range(12):
        box = view.boxes[number].int().tolist()
        how = tv.InterpolationMode(mode)
        one = tv.resized_crop(images[number % 3], *box, [size, size], how, antialias=antialias)
        one = one.flip(-1) if view.across[number] else one
        one = one.flip(-2) if view.down[number] else one
        torch.testing.assert_close(made[number], one, atol=1e-5, rtol=0)
    assert 0 < view.across.sum() < 12 and 0 < view.down.sum() < 12


def test_turned_views_are_transposed_before_they_are_flipped():
    image = torch.rand(1, 2, 7, 7, generator=torch.Generator().manual_seed(0))
    draws = torch.tensor([[a, d, t] for a in (0, 1) for d in (0, 1) for t in (0, 1)], dtype=torch.bool)
    view = augment.View(torch.tensor([[0.0, 0.0, 7.0, 7.0]]).expand(8, 4), *draws.T)
    for (across, down, turn), made in zip(draws.tolist(), augment.render(image, view, 7), strict=True):
        one = image[0].transpose(1, 2) if turn else image[0]
        one = one.flip(1) if down else one
        one = one.flip(2) if across else one
        torch.testing.assert_close(made, one, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="8 views are not whole rounds of 3 images"):
        augment.render(image.expand(3, -1, -1, -1), view, 7)


@pytest.mark.parametrize(
    ("height", "width", "scale"), [(512, 512, (0.05, 0.4)), (300, 400, (0.2, 1.0)), (40, 400, (0.5, 1.0))]
)
def test_boxes_have_the_law_of_torchvision(height, width, scale):
    """Two-sample Kolmogorov-Smirnov distances of each edge, area and aspect, at n = 4000 below their 1e-4 quantile."""
    count = 4000
    view = augment.draw_views(count, height, width, scale, generator=torch.Generator().manual_seed(0))
    top, left, tall, wide = view.boxes.T
    assert torch.equal(view.boxes, view.boxes.round())
    assert min(top.min(), left.min()) >= 0 and min(tall.min(), wide.min()) >= 1
    assert (top + tall).max() <= height and (left + wide).max() <= width
    torch.manual_seed(0)
    peer, image = v2.RandomResizedCrop(8, scale), [torch.empty(3, height, width)]
    drawn = [peer.make_params(image) for _ in range(count)]
    theirs = torch.tensor([[one[key] for key in ("top", "left", "height", "width")] for one in drawn]).float()
    assert distance(view.boxes[:, 2] * view.boxes[:, 3], theirs[:, 2] * theirs[:, 3]) < 0.05
    assert distance(view.boxes[:, 3] / view.boxes[:, 2], theirs[:, 3] / theirs[:, 2]) < 0.05
    for column in range(4):
        assert distance(view.boxes[:, column], theirs[:, column]) < 0.05
    assert view.across.float().mean() == pytest.approx(0.5, abs=0.04)
    assert view.down.sum() == 0 and view.turn is None


def distance(one, other):
    """The largest difference of two empirical distributions."""
    values = torch.cat([one, other])
    shares = [torch.searchsorted(part.sort().values, values, right=True) / len(part) for part in (one, other)]
    return (shares[0] - shares[1]).abs().max()


def test_areas_may_be_even_in_their_logarithm():
    view = augment.draw_views(
        3000, 1000, 1000, (0.01, 0.49), log_area=True, turn=0.25, generator=torch.Generator().manual_seed(1)
    )
    area = (view.boxes[:, 2] * view.boxes[:, 3] / 1e6).log().sort().values
    expected = torch.linspace(torch.tensor(0.01).log().item(), torch.tensor(0.49).log().item(), 3000)
    torch.testing.assert_close(area, expected, atol=0.15, rtol=0)
    assert view.turn.float().mean() == pytest.approx(0.25, abs=0.04)


def test_evaluation_sees_the_central_square():
    view = augment.central_views(5, 30, 50, share=0.25)
    assert view.boxes.tolist() == [[7.0, 17.0, 15.0, 15.0]] * 5
    images = torch.rand(5, 1, 30, 50)
    torch.testing.assert_close(augment.render(images, view, 15), images[:, :, 7:22, 17:32], atol=1e-6, rtol=0)
