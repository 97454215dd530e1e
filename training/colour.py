"""Random colours, batched on the images' device: every image its own draw, none computed that is not drawn.

Images are (B, 3, H, W) float32, red, green, blue from 0 to 1 (`augment.pixels`), and stay between 0 and 1; each
operation equals torchvision's of the same name on a float image. Numbers are drawn on the host, so choosing images
makes no device wait, and the same generator gives the same colours on every device.

Images of other bands know neither grey nor hue: of them only brightness and contrast change, each band towards its
own mean, and nothing is clipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor
from torch.profiler import record_function

from training.augment import unread, weighted_rows

__all__ = ["Colour", "Jitter", "blur", "grayscale", "jitter", "solarise"]

Share = Field(default=0.0, ge=0, le=1)
LUMA = 0.2989, 0.587, 0.114  # torchvision's weights of red, green and blue in grey
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
CACHED = 2**18  # pixels


class Jitter(BaseModel):
    """How far colours may move: factors are uniform in 1 - value to 1 + value, hue in -value to value of the circle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    brightness: float = Field(0.4, ge=0)
    contrast: float = Field(0.4, ge=0)
    saturation: float = Field(0.4, ge=0)
    hue: float = Field(0.1, ge=0, le=0.5)


class Colour(BaseModel):
    """The colours of a view, in this order: jitter with probability `p`, grey, blur, solarised.

    `gray` is a probability of its own, `gray_order` "after" the jitter or "before" it; "instead" makes it the share
    of the images chosen with `p` that turn grey and are not jittered (PerA's student).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    jitter: Jitter = Jitter()
    p: float = Share
    gray: float = Share
    gray_order: Literal["after", "before", "instead"] = "after"
    blur: float = Share
    sigma: tuple[float, float] = (0.1, 2.0)  # pixels of the view
    solarise: float = Share

    def apply(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """The images (B, 3, H, W), each recoloured by its own draw; `images` themselves are left as they were."""
        p, strength, images = self.p, self.jitter, images.clone()
        if unread(images):  # which images change is a value; the size of what comes out is not
            return images
        if self.gray_order == "before":
            _changed(images, _drawn(images, self.gray, generator), _gray)
        if self.gray_order == "instead":
            chosen, gray = torch.rand(2, len(images), generator=generator)
            _changed(images, (chosen < p) & (gray < self.gray), _gray)
            _jittered(images, (chosen < p) & (gray >= self.gray), strength, generator)
        else:
            _jittered(images, _drawn(images, p, generator), strength, generator)
        if self.gray_order == "after":
            _changed(images, _drawn(images, self.gray, generator), _gray)
        if self.blur:
            _softened(images, self.sigma, self.blur, generator)
        return _changed(images, _drawn(images, self.solarise, generator), _negative)


@record_function("augment")
def jitter(
    images: Tensor,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    p: float = 1.0,
    generator: Generator | None = None,
) -> Tensor:
    """Brightness, contrast, saturation and hue in a random order, with probability `p` an image.

    Raises ValueError for saturation or hue of images that have not three bands.
    """
    strength = Jitter(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
    return _jittered(images.clone(), _drawn(images, p, generator), strength, generator)


@record_function("augment")
def grayscale(images: Tensor, p: float, generator: Generator | None = None) -> Tensor:
    """Three equal bands of grey, with probability `p` an image."""
    return _changed(images.clone(), _drawn(images, p, generator), _gray)


@record_function("augment")
def blur(
    images: Tensor,
    sigma: tuple[float, float],
    p: float,
    generator: Generator | None = None,
) -> Tensor:
    """A Gaussian blur of a deviation uniform in `sigma` (pixels), with probability `p` an image.

    The kernel reaches four deviations of the widest, where it holds all but 1e-4 of the weight; at the border the
    image is mirrored. Equal to torchvision's `gaussian_blur` with so large a kernel; Pillow, which the published MoCo
    and DINO use, approximates it by three box means.
    """
    return _softened(images.clone(), sigma, p, generator)


@record_function("augment")
def solarise(images: Tensor, p: float, generator: Generator | None = None) -> Tensor:
    """What is at least 128 of 255 turned into its negative, with probability `p` an image."""
    return _changed(images.clone(), _drawn(images, p, generator), _negative)


def _drawn(images: Tensor, p: float, generator: Generator | None) -> Tensor:
    """Which images (B,) bool, on the host; nothing is drawn where there is nothing to choose."""
    if p in (0.0, 1.0):
        return torch.full((len(images),), bool(p))
    return torch.rand(len(images), generator=generator) < p


def _changed(images: Tensor, chosen: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """`images`, in which those `chosen` (B,) are overwritten by what `change` makes of them."""
    rows = chosen.nonzero()[:, 0].to(images.device, non_blocking=True)
    if len(rows):
        images[rows] = change(images[rows])
    return images


def _softened(
    images: Tensor, sigma: tuple[float, float], p: float, generator: Generator | None = None
) -> Tensor:
    """`images`, in which some are overwritten by what a blur makes of them."""
    drawn = _drawn(images, p, generator)
    deviations = sigma[0] + torch.rand(len(images), generator=generator) * (sigma[1] - sigma[0])

    def blurred(chosen: Tensor) -> Tensor:
        return _blurred(chosen, deviations[drawn].to(images.device), reach=math.ceil(4 * sigma[1]))

    return _changed(images, drawn, blurred)


def _jittered(images: Tensor, chosen: Tensor, strength: Jitter, generator: Generator | None) -> Tensor:
    """`images`, in which those `chosen` (B,) are overwritten by what the four operations make of them.

    Brightness, contrast and saturation all blend an image with something; hue stands in one of four places between.
    So the chosen images fall into four groups, and in each all are blended at once, with what their order says.
    """
    rgb = images.shape[1] == 3
    if not rgb and (strength.saturation or strength.hue):
        raise ValueError(
            f"images of {images.shape[1]} bands have no saturation and hue: set these to 0, or read red, green and blue"
        )
    count, rows = int(chosen.sum()), chosen.nonzero()[:, 0]
    order = torch.rand(count, 4, generator=generator).argsort(1)  # (b, 4): which operation comes when
    spans = torch.tensor([strength.brightness, strength.contrast, strength.saturation, strength.hue])
    factors = (2 * torch.rand(count, 4, generator=generator) - 1) * spans  # (b, 4), by operation
    factors[:, :HUE] = (1 + factors[:, :HUE]).clamp(min=0.0)
    for place in range(4):
        group = (order[:, place] == HUE).nonzero()[:, 0]
        for mine in group.split(_handful(images)):
            picked = rows[mine].to(images.device, non_blocking=True)
            part = images[picked]
            for slot in range(4):
                what, how = order[mine, slot], factors[mine].gather(1, order[mine, slot, None])
                if slot != place:
                    part = _blended(part, *_on(part, what, how))
                elif strength.hue:
                    part = _rotated(part, *_on(part, how))
            images[picked] = part
    return images


def _handful(images: Tensor) -> int:
    """How many images to work on at a time: on a processor, as many as stay in its cache."""
    return len(images) if images.is_cuda else max(1, CACHED // (images.shape[-2] * images.shape[-1]))


def _on(like: Tensor, *drawn: Tensor) -> list[Tensor]:
    """What was drawn on the host, one number an image, for images (b, C, H, W) on their device."""
    return [values.reshape(-1, 1, 1, 1).to(like.device, non_blocking=True) for values in drawn]


def _blended(images: Tensor, what: Tensor, factor: Tensor) -> Tensor:
    """factor * image + (1 - factor) * other: black for brightness, mean grey for contrast, grey for saturation."""
    if images.shape[1] != 3:  # a band's own mean is its contrast; saturation changes nothing
        other = images.mean((2, 3), keepdim=True) * (what == CONTRAST)
        factor = torch.where(what == SATURATION, 1.0, factor)
        return images * factor + other * (1 - factor)
    other = _luma(images)
    other = torch.where(what == CONTRAST, other.mean((1, 2, 3), keepdim=True), other)
    other.mul_((1 - factor) * (what != BRIGHTNESS))
    return images.mul_(factor).add_(other).clamp_(0, 1)


def _rotated(images: Tensor, turn: Tensor) -> Tensor:
    """The images with every hue turned by `turn` (b, 1, 1, 1) of the circle; value and chroma stay.

    With the hue h in sixths of the circle, the least band l and the chroma c, red is l + c * clamp(|h - 3| - 1, 0, 1),
    green l + c * clamp(2 - |h - 2|, 0, 1) and blue l + c * clamp(2 - |h - 4|, 0, 1).
    """
    red, green, blue = images.split(1, 1)
    value, least = red.maximum(green).maximum(blue), red.minimum(green).minimum(blue)
    chroma = value - least
    hue = torch.where(value == red, green - blue, torch.where(value == green, blue - red, red - green))
    hue.div_(chroma.clamp(min=1e-12))  # 0 / 1e-12 where there is no colour
    hue.add_(torch.where(value == red, 0.0, torch.where(value == green, 2.0, 4.0))).add_(6 * turn)
    hue.sub_((hue / 6).floor_().mul_(6))
    turned = torch.cat([hue - 3, hue - 2, hue - 4], 1).abs_()
    turned[:, :1].sub_(1)
    turned[:, 1:].neg_().add_(2)
    return turned.clamp_(0, 1).mul_(chroma).add_(least)


def _negative(images: Tensor) -> Tensor:
    return torch.where(images >= 128 / 255, 1 - images, images)


def _gray(images: Tensor) -> Tensor:
    return _luma(images).expand_as(images)


def _luma(images: Tensor) -> Tensor:
    """Grey (b, 1, H, W)."""
    if images.shape[1] != 3:
        raise ValueError(f"images of {images.shape[1]} bands have no grey: read red, green and blue")
    red, green, blue = images.split(1, 1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _blurred(images: Tensor, deviation: Tensor, reach: int) -> Tensor:
    """Both directions of a Gaussian of `deviation` (b,), cut off at `reach` pixels."""
    height, width = images.shape[2:]
    if reach >= min(height, width):
        raise ValueError(f"a blur that reaches {reach} pixels needs images larger than {height} x {width}")
    steps = torch.arange(-reach, reach + 1, device=images.device)
    weights = torch.softmax(-0.5 * (steps / deviation[:, None]) ** 2, 1)  # (b, K)
    for _ in range(2):
        batch, bands, lines, _ = images.shape
        taps = (
            torch.arange(lines, device=images.device)[:, None] + steps
        ).abs()  # (H, K), mirrored at the top
        taps = (lines - 1) - ((lines - 1) - taps).abs()
        planes = (
            torch.arange(batch * bands, device=images.device)[:, None, None] * lines + taps
        )  # (b * C, H, K)
        each = weights.repeat_interleave(bands, 0)[:, None].expand_as(planes)
        images = weighted_rows(images.reshape(batch * bands * lines, -1), planes, each)
        images = images.unflatten(0, (batch, bands)).transpose(2, 3)  # the other direction next, and back
    return images
