"""What fine-tuning looks at: labelled chips at a size, in training cut, turned and coloured with their labels.

The cuts are those of the papers' recipes. `area` takes a random part and brings it to one size, as classifiers are
trained; `zoom` brings the chip to a random scale and takes a window of `crop` pixels, padded where the
chip has become smaller, as segmenters are. All dates of a sample are cut and turned alike, each is coloured by itself.

Letters: B batch, T dates, S bands, H W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Generator, Tensor
from torch.nn import functional as F

from training import augment
from training.colour import Colour
from training.methods import Crop
from training.metrics import IGNORE

if TYPE_CHECKING:
    from training.encoders import Inputs
    from training.feed import Samples

__all__ = ["Viewing", "drawn", "whole", "zoomed"]


class Viewing(BaseModel):
    """How chips become what the encoder sees; all but `side` and `dates` in training alone.

    For an encoder of several sensors `side` is that of its first sensor's images, the others get a pixel a cell, and
    `crop` counts cells.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    side: int | None = Field(None, gt=0)  # pixels a side that chips are brought to first; None: as they are
    area: Crop | None = None  # None: the whole chip, or what zoom and crop take of it
    zoom: tuple[float, float] = (1.0, 1.0)  # least and greatest scale, drawn evenly
    crop: int | None = Field(None, gt=0)  # pixels a side of what is cut; None: as large as the chip
    turns: Literal["none", "across", "flips", "dihedral"] = "dihedral"
    colour: Colour | None = None
    dates: int | None = Field(
        None, gt=0
    )  # of each of several sensors, drawn in training, else evenly spread; None: all

    @model_validator(mode="after")
    def _one_cut(self) -> Viewing:
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise ValueError(
                f"zoom is a least and a greatest scale above 0, not {self.zoom}; as in [0.5, 2.0]"
            )
        if self.crop is None and self.zoom != (1.0, 1.0):
            raise ValueError("zoom changes the size of a chip; say with crop how much of it is taken")
        if self.area is not None and self.zoom != (1.0, 1.0):
            raise ValueError("area and zoom are two ways to cut; give one of them")
        return self


def whole(samples: Samples, inputs: Inputs, views: Viewing, dates: int) -> Tensor:
    """Normalised chips (B, T, S, H, W) of the first `dates` dates, at the size of the views; nothing is drawn."""
    images = torch.stack([augment.prepare(samples, inputs, date) for date in _each(samples, dates)], 1)
    return _resized(images.flatten(1, 2), views.side).unflatten(1, images.shape[1:3])


def drawn(
    samples: Samples,
    inputs: Inputs,
    views: Viewing,
    dates: int,
    labels: Tensor | None = None,
    generator: Generator | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Normalised views (B, T, S, H, W) for training, and dense labels (B, H, W) that follow their pixels."""
    images = torch.stack(
        [_coloured(samples, inputs, views, date, generator) for date in _each(samples, dates)], 1
    )
    shape, flat = images.shape[1:3], _resized(images.flatten(1, 2), views.side)  # (B, T * S, H, W)
    if labels is not None and views.side is not None:
        labels = _nearest(labels, views.side)
    if views.area is not None:
        flat, labels = augment.random_resized_crop(
            flat, views.crop or flat.shape[-1], views.area, labels=labels, generator=generator
        )
    elif views.crop is not None:
        flat, labels = zoomed(flat, views.crop, views.zoom, labels=labels, generator=generator)
    flat, labels = _turned(flat, views.turns, labels, generator)
    return flat.unflatten(1, shape), labels


def zoomed(
    images: Tensor,
    size: int,
    zoom: tuple[float, float],
    *,
    labels: Tensor | None = None,
    generator: Generator | None = None,
) -> tuple[Tensor, Tensor | None]:
    """A random window (B, S, size, size) of each image (B, S, H, W) brought to a random scale, labels (B, H, W) alike.

    Bilinear without smoothing, as the common recipes resize; labels take the nearest. An image that has become smaller
    than the window lies in its upper left corner: what is beyond is 0, the mean, and its label 255.
    """
    batch, _, height, width = images.shape
    scale, down, right = torch.rand(3, batch, generator=generator).to(images.device)
    scale = zoom[0] + scale * (zoom[1] - zoom[0])
    tall, wide = size / scale / height, size / scale / width  # of the window, in shares of the image
    theta = images.new_zeros(batch, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = wide, tall
    theta[:, 0, 2] = wide - 1 + 2 * right * (1 - wide).clamp(min=0)
    theta[:, 1, 2] = tall - 1 + 2 * down * (1 - tall).clamp(min=0)
    grid = F.affine_grid(theta, [batch, 1, size, size], align_corners=False)
    views = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    inside = (grid.abs() <= 1).all(-1)  # (B, size, size)
    views = views * inside[:, None]
    if labels is None:
        return views, None
    found = F.grid_sample(labels[:, None].float(), grid, "nearest", "border", align_corners=False)[:, 0]
    return views, torch.where(inside, found.to(labels.dtype), IGNORE)


def _each(samples: Samples, dates: int) -> list[Tensor]:
    return [torch.full((len(samples),), date, dtype=torch.int64) for date in range(dates)]


def _coloured(
    samples: Samples, inputs: Inputs, views: Viewing, date: Tensor, generator: Generator | None
) -> Tensor:
    if views.colour is None:
        return augment.prepare(samples, inputs, date)
    pixels = augment.pixels(samples, inputs, date)
    return augment.normalise(views.colour.apply(pixels, generator), inputs)


def _resized(images: Tensor, side: int | None) -> Tensor:
    if side is None or images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bilinear", align_corners=False, antialias=True)


def _nearest(labels: Tensor, side: int) -> Tensor:
    return F.interpolate(labels[:, None].float(), (side, side), mode="nearest-exact")[:, 0].to(labels.dtype)


def _turned(
    images: Tensor, turns: str, labels: Tensor | None, generator: Generator | None
) -> tuple[Tensor, Tensor | None]:
    if turns == "dihedral":
        return augment.dihedral(images, labels, generator)
    for axis in {"none": (), "across": (-1,), "flips": (-1, -2)}[turns]:
        chosen = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
        images = torch.where(chosen[:, None, None, None], images.flip(axis), images)
        if labels is not None:
            labels = torch.where(chosen[:, None, None], labels.flip(axis), labels)
    return images, labels
