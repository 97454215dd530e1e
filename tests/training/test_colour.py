"""Colours, image by image against torchvision's."""

import itertools

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from training import colour
from training.colour import Colour, Jitter

OPERATIONS = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


def seeded(number):
    return torch.Generator().manual_seed(number)


def pictures(count=12, size=9):
    """Random colours, with greys, black, white and pure primaries among them, where hue is a corner case."""
    images = torch.rand(count, 3, size, size, generator=seeded(1))
    images[:, :, 0] = images[:, :1, 0]
    images[:, :, 1, :8] = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3))).T
    return images


def test_jitter_equals_torchvision_image_by_image_in_the_order_drawn():
    images = pictures(40)
    made = colour.jitter(images, 0.4, 0.5, 0.2, 0.3, generator=seeded(0))
    again = seeded(0)
    order = torch.rand(40, 4, generator=again).argsort(1)
    factors = (2 * torch.rand(40, 4, generator=again) - 1) * torch.tensor([0.4, 0.5, 0.2, 0.3])
    factors[:, :3] += 1
    assert len({tuple(row.tolist()) for row in order}) > 12
    for number, image in enumerate(images):
        for which in order[number].tolist():
            image = OPERATIONS[which](image, factors[number, which].item())
        torch.testing.assert_close(made[number], image, atol=1e-5, rtol=0)


def test_factors_fill_their_range_evenly():
    images = torch.full((4000, 3, 1, 1), 0.5)
    images[:, 0] = 0.25
    bright = colour.jitter(images, 0.4, 0.0, 0.0, 0.0, generator=seeded(3))
    factors = (bright[:, 1] / 0.5).flatten().sort().values
    torch.testing.assert_close(factors, torch.linspace(0.6, 1.4, 4000), atol=0.03, rtol=0)


def test_only_the_drawn_images_change_and_the_given_ones_never():
    images = pictures(400)
    before = images.clone()
    for change in (
        lambda: colour.jitter(images, 0.4, 0.4, 0.4, 0.1, p=0.3, generator=seeded(5)),
        lambda: colour.grayscale(images, 0.3, seeded(5)),
        lambda: colour.blur(images, (0.1, 1.0), 0.3, seeded(5)),
        lambda: colour.solarise(images, 0.3, seeded(5)),
    ):
        changed = (change() != images).flatten(1).any(1)
        assert torch.equal(images, before)
        assert torch.equal(changed, torch.rand(400, generator=seeded(5)) < 0.3)


def test_grey_and_solarised_equal_torchvision():
    images = pictures()
    torch.testing.assert_close(
        colour.grayscale(images, 1.0), tv.rgb_to_grayscale(images, 3), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(colour.solarise(images, 1.0), tv.solarize(images, 128 / 255))


def test_blur_equals_torchvision_image_by_image():
    images = torch.rand(6, 3, 21, 34, generator=seeded(2))
    made = colour.blur(images, (0.1, 2.0), 1.0, seeded(7))
    for image, one, share in zip(images, made, torch.rand(6, generator=seeded(7)).tolist(), strict=True):
        expected = tv.gaussian_blur(image, [17, 17], [0.1 + 1.9 * share] * 2)
        torch.testing.assert_close(one, expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="reaches 8 pixels needs images larger than 8 x 34"):
        colour.blur(images[:, :, :8], (0.1, 2.0), 1.0)


def test_pera_greys_instead_of_jittering_and_moco_greys_as_well():
    images = torch.rand(3000, 3, 2, 2, generator=seeded(8))

    def kinds(spec):
        made = spec.apply(images, seeded(9))
        grey = (made.amax(1) - made.amin(1)).flatten(1).amax(1) < 1e-6
        untouched = (made == images).flatten(1).all(1)
        plain = (made - tv.rgb_to_grayscale(images, 3)).abs().flatten(1).amax(1) < 1e-6
        return [part.float().mean().item() for part in (untouched, grey, grey & plain)]

    strong = Jitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    student = Colour(jitter=strong, p=0.8, gray=0.1, gray_order="instead")
    assert kinds(student) == pytest.approx([0.2, 0.08, 0.08], abs=0.02)
    assert kinds(Colour(jitter=strong, p=0.1)) == pytest.approx([0.9, 0.0, 0.0], abs=0.02)
    assert kinds(Colour(p=0.8, gray=0.2)) == pytest.approx([0.16, 0.2, 0.04], abs=0.025)
    untouched, grey, plain = kinds(Colour(p=1.0, gray=0.2, gray_order="before"))
    assert (untouched, grey) == (0.0, pytest.approx(0.2, abs=0.02))
    assert plain < 0.01


def test_the_same_draw_gives_the_same_colours_and_stays_between_nought_and_one():
    images = pictures(30, 20)
    spec = Colour(p=0.8, gray=0.2, blur=0.5, sigma=(0.1, 1.0), solarise=0.2)
    one, other = spec.apply(images, seeded(3)), spec.apply(images, seeded(3))
    assert torch.equal(one, other)
    assert not torch.equal(one, spec.apply(images, seeded(4)))
    assert one.min() >= 0 and one.max() <= 1
    torch.manual_seed(3)
    assert torch.equal(one, spec.apply(images))  # the global generator is the one the loop seeds


def test_bands_that_are_no_colours_know_brightness_and_contrast_only():
    images = torch.rand(50, 5, 6, 6, generator=seeded(0)) * 3000 - 500
    mean = images.mean((2, 3), keepdim=True)
    bright = colour.jitter(images, 0.4, 0.0, 0.0, 0.0)
    factors = bright[:, :1, :1, :1] / images[:, :1, :1, :1]
    torch.testing.assert_close(bright, images * factors, rtol=1e-4, atol=0.1)
    contrast = colour.jitter(images, 0.0, 0.4, 0.0, 0.0)
    factors = (contrast - mean)[:, :1, :1, :1] / (images - mean)[:, :1, :1, :1]
    torch.testing.assert_close(contrast, mean + (images - mean) * factors, rtol=1e-3, atol=1.0)
    with pytest.raises(ValueError, match="5 bands have no saturation and hue"):
        colour.jitter(images, 0.4, 0.4, 0.4, 0.0)
    with pytest.raises(ValueError, match="5 bands have no grey"):
        colour.grayscale(images, 1.0)
