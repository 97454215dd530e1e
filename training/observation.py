"""One place seen by several sensors over time: what a spatiotemporal encoder takes in place of one image.

Letters: B batch, T dates of a sensor, S its bands, H x W its pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from training.augment import PADDING, UNDATED, changed, prepare
from training.regions import NOWHERE

if TYPE_CHECKING:
    from training.encoders import Inputs
    from training.feed import Samples

__all__ = ["Observation", "Turns", "cropped", "cut", "observed", "scaled", "thinned", "turned"]

Turns = Literal["none", "across", "flips", "dihedral"]
"""How images may be turned: not at all, left to right, both ways, or both ways and by quarter turns."""

CHANGES = {"none": 0b000, "across": 0b100, "flips": 0b110, "dihedral": 0b111}
"""Of `augment.changed`, those that are allowed."""


@dataclass(frozen=True)
class Observation:
    """Normalised `images` (B, T, S, H, W) float32 of each sensor, T its own, all of the same ground.

    `days` (B, T) int64 are days since 1970-01-01, UNDATED where nobody states one. `present` (B, T) bool is false where a
    sensor did not look or a series was filled up: those images mean nothing and change nothing. `region` (B,) int64 is
    that of the encoder's geographic context; without it every sample is NOWHERE.
    """

    images: Mapping[str, Tensor]
    days: Mapping[str, Tensor]
    present: Mapping[str, Tensor]
    region: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.images or not self.images.keys() == self.days.keys() == self.present.keys():
            raise ValueError(
                f"images of {sorted(self.images)} with days of {sorted(self.days)} and presence of "
                f"{sorted(self.present)} are no observation: give all three for each sensor, one at least"
            )
        for name, images in self.images.items():
            shapes = tuple(images.shape[:2]), tuple(self.days[name].shape), tuple(self.present[name].shape)
            if images.ndim != 5 or len(set(shapes)) > 1:
                raise ValueError(
                    f"{name} has images {tuple(images.shape)} with days {shapes[1]} and presence {shapes[2]}: give "
                    "(B, T, S, H, W) and twice (B, T)"
                )

    def __len__(self) -> int:
        return len(next(iter(self.images.values())))

    @property
    def regions(self) -> Tensor:
        """`region` (B,), NOWHERE where nobody said."""
        if self.region is not None:
            return self.region
        some = next(iter(self.days.values()))
        return some.new_full((len(some),), NOWHERE)

    @classmethod
    def of(cls, sensor: str, images: Tensor) -> Observation:
        """Single undated images (B, S, H, W) of one sensor, somewhere."""
        days = torch.full((len(images), 1), UNDATED, device=images.device)
        return cls(
            {sensor: images[:, None]}, {sensor: days}, {sensor: torch.ones_like(days, dtype=torch.bool)}
        )


def observed(samples: Samples, inputs: Mapping[str, Inputs], region: Tensor | None = None) -> Observation:
    """Whole chips as an observation: `inputs` says which pixels each sensor's encoder reads.

    Raises ValueError for a layer or band that the samples lack.
    """
    images, days = {}, {}
    for name, wanted in inputs.items():
        days[name] = samples.dates[wanted.layer].long()  # (B, T)
        dates = (torch.full_like(days[name][:, 0], date) for date in range(days[name].shape[1]))
        images[name] = torch.stack([prepare(samples, wanted, date) for date in dates], 1)
    return Observation(images, days, {name: days[name] != PADDING for name in days}, region)


def thinned(seen: Observation, most: int, *, chosen: Literal["evenly", "at random"]) -> Observation:
    """At most `most` dates of each sensor, in order of time, of those that are there."""
    parts: list[dict[str, Tensor]] = [{}, {}, {}]
    for name, present in seen.present.items():
        count = present.sum(1, keepdim=True)  # (B, 1)
        order = (~present).int().argsort(dim=1, stable=True)  # those that are there first, in time
        if chosen == "at random":
            chance = torch.rand(present.shape).to(present.device)
            picked = chance.masked_fill(~present, 2.0).argsort(1)[:, :most].sort(1).values
        else:
            each = torch.arange(min(most, present.shape[1]), device=present.device).expand(len(present), -1)
            spread = (each * (count - 1) / max(most - 1, 1)).round().long()
            picked = order.gather(1, torch.where(count > most, spread, each))
        rows = torch.arange(len(picked), device=picked.device)[:, None]
        for found, values in zip(parts, (seen.images, seen.days, seen.present), strict=True):
            found[name] = values[name][rows, picked]
    return replace(seen, images=parts[0], days=parts[1], present=parts[2])


def scaled(seen: Observation, side: int, cell: int) -> Observation:
    """Images of the first sensor brought to `side` pixels, of which `cell` are a cell's, the others to a pixel a cell."""
    images = {}
    for number, (name, image) in enumerate(seen.images.items()):
        wanted = side if number == 0 else side // cell
        flat = image.flatten(1, 2)
        if flat.shape[-2:] != (wanted, wanted):
            flat = F.interpolate(flat, (wanted, wanted), mode="bilinear", align_corners=False, antialias=True)
        images[name] = flat.unflatten(1, image.shape[1:3])
    return replace(seen, images=images)


def cut(seen: Observation, cells: int, rows: slice, columns: slice) -> Observation:
    """A window, in cells, of images that are `cells` high."""

    def part(image: Tensor) -> Tensor:
        scale = image.shape[-2] // cells
        down, right = (slice(scale * one.start, scale * one.stop) for one in (rows, columns))
        return image[..., down, right]

    return replace(seen, images={name: part(image) for name, image in seen.images.items()})


def cropped(
    seen: Observation,
    cells: int,
    size: int,
    labels: Tensor | None = None,
    generator: Generator | None = None,
) -> tuple[Observation, Tensor | None]:
    """A random window of `size` cells, one for the batch, of places that are `cells` square; labels (B, H', W') with it."""
    top, left = torch.randint(cells - size + 1, (2,), generator=generator).tolist()
    found = cut(seen, cells, slice(top, top + size), slice(left, left + size))
    if labels is None:
        return found, None
    scale = labels.shape[-1] // cells
    return found, labels[
        ..., scale * top : scale * (top + size), scale * left : scale * (left + size)
    ].contiguous()


def turned(
    seen: Observation, turns: Turns, labels: Tensor | None = None, generator: Generator | None = None
) -> tuple[Observation, Tensor | None]:
    """Each place turned at random, alike for all sensors and dates; its labels (B, H', W') with it. Images are square."""
    allowed, device = CHANGES[turns], next(iter(seen.images.values())).device
    which = torch.randint(8, (len(seen),), generator=generator).to(device) & allowed
    images = {
        name: changed(image.flatten(1, 2), which).unflatten(1, image.shape[1:3])
        for name, image in seen.images.items()
    }
    found = None if labels is None else changed(labels[:, None], which)[:, 0]
    return replace(seen, images=images), found
