"""Time series of a place as a method trains on them: some of the dates, disturbed, and seen through other eyes.

A corpus keeps all dates; a step draws a fixed number of them, the same for every view, so that images match across views
by being the same acquisition. What may differ between views is what must not matter: a few days, and the sensor's gain.
Draws of gain are shared by all dates of a view, for one a date would hide the seasons (SkySense, sec. 3.2 and 4).

Letters: B places, T dates, S bands, N pixels a side.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor

from geodata.sensors import SENSORS
from training import augment
from training.augment import PADDING, UNDATED

if TYPE_CHECKING:
    from training.encoders import Inputs
    from training.feed import Samples

__all__ = ["Gains", "days", "drawn_dates", "jittered", "series", "spread_dates"]

UNIT = {one.prefix: one.scale for one in SENSORS}
"""layer -> what a stored step is worth in the sensor's unit."""


class Gains(BaseModel):
    """How a sensor's bands may differ from view to view, alike at all dates.

    Optical bands are multiplied by a factor of 1 - `gain` to 1 + `gain` and moved by a normal offset of `offset` deviations;
    with probability `drop` up to `dropped` of them are lost, which leaves their mean. Radar, which is stored in decibels,
    moves by up to `decibels` a channel and has, with probability `speckle`, each pixel's power multiplied by a gamma of
    mean 1 of `looks`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gain: float = Field(0.1, ge=0, lt=1)
    offset: float = Field(0.02, ge=0)
    drop: float = Field(0.1, ge=0, le=1)
    dropped: int = Field(2, ge=0)
    decibels: float = Field(1.0, ge=0)
    speckle: float = Field(0.5, ge=0, le=1)
    looks: int = Field(4, gt=0)

    def optical(self, images: Tensor, inputs: Inputs, generator: Generator | None = None) -> Tensor:
        """Normalised series (B, T, S, N, N) in other gains: (value - mean) / std of the value that was changed."""
        batch, bands = images.shape[0], images.shape[2]
        factor = 1 + self.gain * (2 * torch.rand(batch, bands, generator=generator) - 1)
        base = torch.tensor(inputs.mean) / torch.tensor(inputs.std)
        shift = (factor - 1) * base + self.offset * torch.randn(batch, bands, generator=generator)
        lost = torch.rand(batch, bands, generator=generator).argsort(1).argsort(1) < torch.randint(
            1, max(1, min(self.dropped, bands - 1)) + 1, (batch, 1), generator=generator
        )
        lost &= torch.rand(batch, 1, generator=generator) < (self.drop if self.dropped else 0.0)
        factor, shift = factor * ~lost, shift * ~lost
        return images * _on(images, factor) + _on(images, shift)

    def radar(self, images: Tensor, inputs: Inputs, generator: Generator | None = None) -> Tensor:
        """Normalised series (B, T, S, N, N) in other gains and, some, in other speckle."""
        batch, _, bands, height, width = images.shape
        steps = UNIT[inputs.layer] * torch.tensor(inputs.std)  # decibels a deviation
        moved = self.decibels * (2 * torch.rand(batch, bands, generator=generator) - 1) / steps
        noisy = torch.rand(batch, generator=generator) < self.speckle
        power = _gamma((batch, bands, height, width), self.looks, generator) / self.looks
        speckle = 10 * power.clamp(min=1e-3).log10() / steps[:, None, None] * noisy.view(-1, 1, 1, 1)
        return images + _on(images, moved) + speckle[:, None].to(images.device, non_blocking=True)


def drawn_dates(samples: Samples, layer: str, count: int, generator: Generator | None = None) -> Tensor:
    """Which `count` dates of each series a step looks at: indices (B, count) in order of time.

    Without replacement where a series has as many, else with; 0 where it has none.
    """
    known = samples.dates[layer]  # (B, T)
    noise = torch.rand(known.shape, generator=generator).to(known.device)
    order = noise.masked_fill(known == PADDING, 2.0).argsort(1)  # what is there first, mixed
    held = (known != PADDING).sum(1, keepdim=True)  # (B, 1)
    again = (torch.rand(len(known), count, generator=generator).to(known.device) * held).long()
    straight = torch.arange(count, device=known.device).clamp(max=known.shape[1] - 1)
    index = order.gather(1, torch.where(held >= count, straight, again))
    return index.gather(1, known.gather(1, index).argsort(dim=1, stable=True))


def spread_dates(samples: Samples, layer: str, count: int) -> Tensor:
    """The dates of evaluation: `count` of each series evenly spread over it in time, some twice where it has fewer."""
    known = samples.dates[layer]
    order = (
        known.long().masked_fill(known == PADDING, torch.iinfo(torch.int64).max).argsort(dim=1, stable=True)
    )
    held = (known != PADDING).sum(1, keepdim=True)
    place = (torch.arange(count, device=known.device) + 0.5) / count
    return order.gather(1, (place * held).long())


def series(samples: Samples, inputs: Inputs, index: Tensor) -> Tensor:
    """Normalised images (B, T, S, H, W) of the dates `index` (B, T); all mean where a place has none."""
    stored = samples.layers[inputs.layer]
    rows = torch.arange(len(index), device=index.device)[:, None]
    if stored.dtype == torch.uint16:  # has few operations; its bits have all
        kept = stored.view(torch.int16)[rows, index].view(torch.uint16)
    else:
        kept = stored[rows, index]  # (B, T, S', H, W)
    if not kept.numel():
        return torch.zeros(*index.shape, len(inputs.bands), 0, 0, device=index.device)
    one = replace(samples, layers={inputs.layer: kept.flatten(0, 1)[:, None]})
    _, held = days(samples, inputs.layer, index)
    return augment.prepare(one, inputs).unflatten(0, index.shape) * held.view(-1, 1, 1, 1, 1)


def days(samples: Samples, layer: str, index: Tensor) -> tuple[Tensor, Tensor]:
    """Days since 1970-01-01 (B, T) int64 of the dates `index` (B, T), and which places have any date (B,) bool.

    UNDATED where nobody states one, and where a place has none.
    """
    known = samples.dates[layer]
    chosen = known.gather(1, index)
    return torch.where(chosen == PADDING, UNDATED, chosen).long(), (known != PADDING).any(1)


def jittered(when: Tensor, most: int, generator: Generator | None = None) -> Tensor:
    """Days (B, T) each moved by up to `most` of them, evenly; what has no date keeps having none."""
    if not most:
        return when
    moved = torch.randint(-most, most + 1, when.shape, generator=generator).to(when.device)
    return torch.where(when == UNDATED, when, (when + moved).clamp(min=0))


def _gamma(shape: tuple[int, ...], looks: int, generator: Generator | None) -> Tensor:
    """Draws of a gamma of shape `looks`: sums of exponentials, for torch has none from a generator."""
    return -torch.rand(looks, *shape, generator=generator).clamp(min=1e-7).log().sum(0)


def _on(like: Tensor, drawn: Tensor) -> Tensor:
    """What was drawn a band (B, S) on the host, for series (B, T, S, N, N) on their device."""
    return drawn[:, None, :, None, None].to(like.device, non_blocking=True)
