"""Several views of one picture: two large crops and some small ones, each with its own place and colours.

Multi-crop (Caron et al. 2020), as DINO and DINOv2 train on it; without small crops, the two views of MoCo v3. Crops are
cut from the picture as it is stored, coloured, and only then normalised for the encoder.

Letters: B batch, S bands, H W a picture's pixels, N pixels a side of a large crop, M of a small one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor

from training import augment
from training.augment import View
from training.colour import Colour, Jitter
from training.encoders import Inputs
from training.methods import Crop

if TYPE_CHECKING:
    from training.feed import Samples

__all__ = ["Crops", "Pairs", "Places", "bands_apart", "cut", "jittered", "pairs", "recoloured"]

JITTER = Jitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)


class Places(BaseModel):
    """Where crops lie: two large ones of the encoder's own size and `count` small ones of `size` pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    large: Crop = (0.4, 1.0)
    small: Crop = (0.05, 0.4)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)  # width over height, the least and the greatest
    count: int = Field(8, ge=0)
    size: int = Field(96, gt=0)
    down: float = Field(
        0.5, ge=0, le=1
    )  # how often a crop is flipped upside down; left to right: every second one
    mode: Literal["bilinear", "bicubic"] = "bilinear"

    def must_fit(self, patch: int) -> None:
        """Raises ValueError when small crops are not whole patches (pixels) of an encoder."""
        if self.count and self.size % patch:
            fitting = max(1, round(self.size / patch)) * patch
            raise ValueError(
                f"small crops of {self.size} pixels are not whole patches of {patch}: set their size to {fitting}"
            )


class Crops(Places):
    """Where crops lie and how each is coloured."""

    first: Colour  # of the first large crop
    second: Colour
    rest: Colour  # of the small crops


def _shown(
    pictures: Tensor, places: Places, size: int, *, fixed: bool, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """What large crops (2B, S, N, N) and small ones (count * B, S, M, M) show of pictures (B, S, H, W), as it is.

    Crop 0 of every picture comes first, then crop 1. `fixed` crops are central squares, their areas spread over the
    shares that are drawn otherwise.
    """
    large, small = _fixed(pictures, places) if fixed else _drawn(pictures, places, generator)
    few = augment.render(pictures, large, size, mode=places.mode)  # (2B, S, N, N)
    if small is None:
        return few, pictures.new_zeros(0, pictures.shape[1], places.size, places.size)
    return few, augment.render(pictures, small, places.size, mode=places.mode)


def cut(
    samples: Samples,
    inputs: Inputs,
    crops: Crops,
    size: int,
    *,
    fixed: bool,
    generator: Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Normalised large crops (2B, S, N, N) and small ones (count * B, S, M, M): crop 0 of every sample, then crop 1.

    A series gives one of its dates to all its crops. `fixed` crops are central squares of the first date, in its own
    colours, their areas spread over the shares that are drawn otherwise.
    """
    date = None if fixed else augment.any_date(samples, inputs.layer, generator)
    pictures = augment.pixels(samples, inputs, date)  # (B, S, H, W)
    few, many = _shown(
        pictures, crops, size, fixed=fixed, generator=generator
    )  # (2B, S, N, N), (count * B, S, M, M)
    if not fixed:
        first, second = few.chunk(2)
        few = torch.cat([crops.first.apply(first, generator), crops.second.apply(second, generator)])
        many = crops.rest.apply(many, generator)
    return augment.normalise(few, inputs), augment.normalise(many, inputs)


@dataclass(frozen=True)
class Pairs:
    """The same ground for two networks: of each, large crops (2B, S, N, N) and small ones (count * B, S, M, M), normalised."""

    student: tuple[Tensor, Tensor]
    teacher: tuple[Tensor, Tensor]


def pairs(
    samples: Samples,
    inputs: Inputs,
    places: Places,
    size: int,
    colours: tuple[Colour, Colour],
    *,
    aligned: bool,
    fixed: bool,
) -> Pairs:
    """Crops in the student's colours and in the teacher's: `aligned` the same crops, else each has its own.

    A series gives one of its dates to all its crops; `fixed` as in `cut`, so that both see the same.
    """
    pictures = augment.pixels(samples, inputs, None if fixed else augment.any_date(samples, inputs.layer))
    mine = _shown(pictures, places, size, fixed=fixed)  # (2B, S, N, N), (count * B, S, M, M)
    theirs = mine if aligned else _shown(pictures, places, size, fixed=fixed)
    student, teacher = (
        [augment.normalise(crop if fixed else colour.apply(crop), inputs) for crop in group]
        for group, colour in zip((mine, theirs), colours, strict=True)
    )
    return Pairs((student[0], student[1]), (teacher[0], teacher[1]))


def _drawn(pictures: Tensor, places: Places, generator: Generator | None) -> tuple[View, View | None]:
    batch, (height, width), place = len(pictures), pictures.shape[-2:], pictures.device

    def views(count: int, shares: Crop) -> View:
        return augment.draw_views(
            count * batch,
            height,
            width,
            shares,
            ratio=places.aspect,
            down=places.down,
            device=place,
            generator=generator,
        )

    return views(2, places.large), views(places.count, places.small) if places.count else None


def _fixed(pictures: Tensor, places: Places) -> tuple[View, View | None]:
    batch, (height, width), place = len(pictures), pictures.shape[-2:], pictures.device

    def views(shares: Tensor) -> View:
        parts = [augment.central_views(batch, height, width, share, place) for share in shares.tolist()]
        never = torch.cat([part.across for part in parts])
        return View(torch.cat([part.boxes for part in parts]), never, never)

    large = views(torch.linspace(*places.large, 2).flip(0))
    return large, views(torch.linspace(*places.small, places.count)) if places.count else None


def jittered() -> Crops:
    """As PerA's repository trains its baselines: jitter alone, seldom on the second large crop; flips both ways."""
    often, seldom = Colour(jitter=JITTER, p=0.8), Colour(jitter=JITTER, p=0.1)
    return Crops(first=often, second=seldom, rest=often)


def recoloured() -> Crops:
    """As DINO, DINOv2 and MoCo v3 do, after BYOL (Grill et al. 2020, app. B): jitter, grey, blur, solarised; one flip."""
    base = Colour(jitter=JITTER, p=0.8, gray=0.2)
    first, second, rest = ({"blur": 1.0}, {"blur": 0.1, "solarise": 0.2}, {"blur": 0.5})
    colours = [base.model_copy(update=change) for change in (first, second, rest)]
    return Crops(down=0.0, first=colours[0], second=colours[1], rest=colours[2])


def bands_apart(size: int) -> Crops:
    """Two large and four small crops of bands that are no colours: brightness and contrast alone; for tests."""
    colour = Colour(jitter=Jitter(brightness=0.2, contrast=0.2, saturation=0.0, hue=0.0), p=0.8)
    return Crops(count=4, size=size, first=colour, second=colour, rest=colour)
