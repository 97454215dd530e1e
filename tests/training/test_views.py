"""What fine-tuning looks at: sizes, scales and turns, with labels that stay on their pixels."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from training.colour import Colour, Jitter
from training.encoders import Inputs
from training.feed import Samples
from training.views import Viewing, drawn, whole, zoomed

INPUTS = Inputs(layer="hr", bands=("R", "G", "B"), mean=(100.0,) * 3, std=(50.0,) * 3)


def chips(count: int = 4, dates: int = 1, side: int = 32) -> tuple[Samples, Tensor]:
    """Smooth pictures and their class, which is whether the red of the first date is bright."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, dates * 3, 4, 4, generator=generator) * 255
    pixels = F.interpolate(coarse, (side, side), mode="nearest").to(torch.uint8)
    layers = {"hr": pixels.unflatten(1, (dates, 3))}
    days = torch.arange(dates, dtype=torch.int32).expand(count, dates)
    samples = Samples(
        ids=[str(index) for index in range(count)],
        layers=layers,
        dates={"hr": days},
        labels={},
        lonlat=torch.zeros(count, 2),
        region=torch.zeros(count, dtype=torch.int64),
    )
    return samples, (layers["hr"][:, 0, 0] > 127).long()


def test_whole_chips_are_normalised_and_brought_to_the_side_as_torchvision_does():
    samples, _ = chips()
    images = whole(samples, INPUTS, Viewing(side=20), 1)
    expected = reference.resize((samples.layers["hr"][:, 0].float() - 100) / 50, [20, 20], antialias=True)
    torch.testing.assert_close(images[:, 0], expected)
    assert whole(samples, INPUTS, Viewing(), 1).shape == (4, 1, 3, 32, 32)


@pytest.mark.parametrize(
    "views",
    [
        Viewing(turns="across"),
        Viewing(turns="flips"),
        Viewing(turns="dihedral"),
        Viewing(zoom=(0.5, 2.0), crop=24, turns="flips"),
        Viewing(area=(0.3, 0.9), crop=24),
        Viewing(side=64, crop=40, turns="none"),
    ],
)
def test_labels_stay_on_their_pixels(views):
    samples, labels = chips(16)
    torch.manual_seed(0)
    images, target = drawn(samples, INPUTS, views, 1, labels)
    assert target is not None and images.shape[-2:] == target.shape[-2:]
    seen = target != 255
    bright = images[:, 0, 0] > (127 - 100) / 50
    assert (bright == (target == 1))[seen].float().mean() > 0.9  # bilinear pixels, nearest labels
    assert not torch.equal(drawn(samples, INPUTS, views, 1, labels)[0], images) or views.turns == "none"


def test_dates_of_a_sample_are_cut_and_turned_alike():
    samples, _ = chips(8, dates=2)
    samples.layers["hr"][:, 1] = samples.layers["hr"][:, 0]
    images, _ = drawn(samples, INPUTS, Viewing(zoom=(0.6, 1.5), crop=24, turns="dihedral"), 2)
    assert torch.equal(images[:, 0], images[:, 1])
    colour = Colour(jitter=Jitter(), p=1.0)
    images, _ = drawn(samples, INPUTS, Viewing(turns="none", colour=colour), 2)
    assert not torch.equal(images[:, 0], images[:, 1])  # each date has its own light


def test_a_zoom_is_a_window_of_the_resized_picture():
    """At a scale of 2 every window is one of the picture enlarged as torchvision enlarges it."""
    torch.manual_seed(1)
    image = torch.rand(1, 1, 16, 16)
    large = F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    view, _ = zoomed(image, 32, (2.0, 2.0))
    torch.testing.assert_close(view, large)
    for _ in range(5):
        view, _ = zoomed(image, 16, (1.0, 1.0))
        torch.testing.assert_close(view, image)


def test_what_lies_beyond_a_small_picture_is_the_mean_and_has_no_label():
    image, labels = torch.ones(2, 3, 16, 16), torch.ones(2, 16, 16, dtype=torch.int64)
    view, target = zoomed(image, 32, (1.0, 1.0), labels=labels)
    assert torch.equal(view[:, :, :16, :16], image) and view[..., 16:, :].abs().sum() == 0
    assert target is not None and (target[:, :16, :16] == 1).all()
    assert (target[:, 16:] == 255).all() and (target[:, :, 16:] == 255).all()


def test_every_place_of_a_large_picture_may_be_cut():
    torch.manual_seed(2)
    places = torch.arange(64.0).expand(1, 1, 64, 64)  # a pixel's value is its column
    lefts = {round(float(zoomed(places, 16, (1.0, 1.0))[0][0, 0, 0, 0])) for _ in range(200)}
    assert min(lefts) < 5 and max(lefts) > 43 and max(lefts) <= 48


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"zoom": (0.5, 2.0)}, "say with crop"),
        ({"zoom": (2.0, 0.5), "crop": 8}, "a least and a greatest"),
        ({"zoom": (0.5, 2.0), "crop": 8, "area": (0.2, 1.0)}, "two ways to cut"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Viewing(**settings)


def test_nothing_is_drawn_for_evaluation():
    samples, _ = chips()
    views = Viewing(zoom=(0.5, 2.0), crop=24, turns="dihedral", colour=Colour(p=1.0))
    assert torch.equal(whole(samples, INPUTS, views, 1), whole(samples, INPUTS, views, 1))
