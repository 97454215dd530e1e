"""Crops of two sizes: which picture they are of, what they show, and what evaluation fixes."""

import pytest
import torch

from training import crops
from training.colour import Colour
from training.encoders import IMAGENET_RGB, Inputs, learned
from training.feed import Samples
from training.methods import dino, dinov2
from training.recipe import replace

PLAIN = Inputs(layer="hr", bands=("R", "G", "B"), mean=(0.0,) * 3, std=(255.0,) * 3)
NONE = Colour()
STILL = crops.Crops(count=3, size=16, first=NONE, second=NONE, rest=NONE)


def samples(pixels: torch.Tensor, dates: int = 1) -> Samples:
    """Pictures (B, 3, H, W) of 8 bits, each the last of its dates; the others are black."""
    series = torch.zeros(len(pixels), dates, *pixels.shape[1:], dtype=torch.uint8)
    series[:, -1] = pixels
    return Samples(
        ids=[f"{number}" for number in range(len(pixels))],
        layers={"hr": series},
        dates={"hr": torch.arange(dates, dtype=torch.int32).expand(len(pixels), -1)},
        labels={},
        lonlat=torch.zeros(len(pixels), 2),
        region=torch.zeros(len(pixels), dtype=torch.int64),
    )


def flat(count: int = 4) -> torch.Tensor:
    """Pictures of one grey each: 10, 20, 30, ..."""
    return (10 * torch.arange(1, count + 1, dtype=torch.uint8)).view(-1, 1, 1, 1).expand(-1, 3, 64, 64)


@pytest.mark.parametrize("fixed", [False, True])
def test_crops_come_crop_by_crop(fixed):
    torch.manual_seed(0)
    large, small = crops.cut(samples(flat()), PLAIN, STILL, 32, fixed=fixed)
    assert large.shape == (8, 3, 32, 32) and small.shape == (12, 3, 16, 16)
    for found in (large, small):
        grey = 255 * found.mean((1, 2, 3))
        torch.testing.assert_close(grey, torch.tensor([10.0, 20, 30, 40]).repeat(len(found) // 4))


def ramp() -> torch.Tensor:
    """A picture whose first band says the row, the second the column, in pixels."""
    rows, columns = torch.arange(64).view(64, 1).expand(64, 64), torch.arange(64).expand(64, 64)
    return torch.stack([rows, columns, torch.zeros_like(rows)])[None].to(torch.uint8)


def sides(found: torch.Tensor) -> torch.Tensor:
    """How many pixels of the picture each crop of `ramp` shows down and across."""
    size = found.shape[-1]
    down = 255 * (found[:, 0, -1] - found[:, 0, 0]).mean(1).abs()
    across = 255 * (found[:, 1, :, -1] - found[:, 1, :, 0]).mean(1).abs()
    return torch.stack([down, across], 1) * size / (size - 1)


def test_areas_lie_in_their_shares():
    torch.manual_seed(0)
    many = ramp().expand(64, -1, -1, -1)
    large, small = crops.cut(samples(many), PLAIN, STILL, 32, fixed=False)
    for found, (least, most) in ((large, STILL.large), (small, STILL.small)):
        share = sides(found).prod(1) / 64**2
        assert least - 0.05 < share.min() and share.max() < most + 0.05
        assert share.max() - share.min() > 0.6 * (most - least)
        shape = sides(found)
        assert (shape[:, 0] / shape[:, 1]).log().std() > 0.1
    signs = (large[:, 0, -1] - large[:, 0, 0]).mean(1) > 0
    assert 0.3 < signs.float().mean() < 0.7
    kept, _ = crops.cut(samples(many), PLAIN, replace(STILL, down=0.0), 32, fixed=False)
    assert ((kept[:, 0, -1] - kept[:, 0, 0]).mean(1) > 0).all()


def test_fixed_crops_are_central_and_of_every_share():
    large, small = crops.cut(samples(ramp()), PLAIN, replace(STILL, small=(0.05, 0.25)), 32, fixed=True)
    shares = torch.cat([sides(large), sides(small)]).prod(1) / 64**2
    torch.testing.assert_close(shares, torch.tensor([1.0, 0.4, 0.05, 0.15, 0.25]), rtol=0, atol=0.03)
    centre = 255 * large[:, :2].mean((2, 3))
    torch.testing.assert_close(centre, torch.full_like(centre, 31.5), rtol=0, atol=0.6)


def test_a_series_shows_one_date_in_all_its_crops():
    torch.manual_seed(0)
    large, small = crops.cut(samples(flat(32), dates=2), PLAIN, STILL, 32, fixed=False)
    dark = [found.unflatten(0, (-1, 32)).mean((2, 3, 4)) == 0 for found in (large, small)]
    assert all((part == dark[0][:1]).all() for part in dark)
    assert 0 < dark[0].float().mean() < 1
    assert not crops.cut(samples(flat(4), dates=2), PLAIN, STILL, 32, fixed=True)[0].any()


def test_each_kind_of_crop_has_its_colours_and_all_are_normalised():
    torch.manual_seed(0)
    black = Colour(solarise=1.0)  # white pictures turn black, others stay
    white = torch.full((2, 3, 64, 64), 255, dtype=torch.uint8)
    mixed = replace(STILL, second=black)
    large, small = crops.cut(samples(white), IMAGENET_RGB, mixed, 32, fixed=False)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    bright, dark = (1 - mean) / std, -mean / std
    for found, wanted in ((large[:2], bright), (large[2:], dark), (small, bright)):
        torch.testing.assert_close(found.mean((0, 2, 3)), wanted, rtol=1e-4, atol=1e-4)


def test_without_small_crops_there_are_none():
    large, small = crops.cut(samples(flat()), PLAIN, replace(STILL, count=0), 32, fixed=False)
    assert len(large) == 8 and len(small) == 0


def test_colours_of_the_papers():
    theirs, upstream = crops.jittered(), crops.recoloured()
    assert (theirs.first.p, theirs.second.p, theirs.rest.p, theirs.down) == (0.8, 0.1, 0.8, 0.5)
    assert not any(colour.gray or colour.blur or colour.solarise for colour in (theirs.first, theirs.rest))
    kinds = (upstream.first, upstream.second, upstream.rest)
    assert [colour.blur for colour in kinds] == [1.0, 0.1, 0.5]
    assert [colour.solarise for colour in kinds] == [0.0, 0.2, 0.0]
    assert {(colour.p, colour.gray) for colour in kinds} == {(0.8, 0.2)} and upstream.down == 0


@pytest.mark.parametrize("spec", [dino.Spec, dinov2.Spec])
def test_small_crops_of_broken_patches_are_refused_at_once(spec):
    encoder = learned.Spec(inputs=PLAIN, image=448, patch=14)
    with pytest.raises(ValueError, match="96 pixels are not whole patches of 14: set their size to 98"):
        spec(encoder=encoder, crops=crops.jittered())
    assert spec(encoder=encoder, crops=replace(crops.jittered(), size=98)).crops.size == 98
