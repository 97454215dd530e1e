"""Views of places as SkySense trains on them: every sensor's images of the same ground, cut, turned and disturbed alike.

Geometry first and on whole tiles, identical for all sensors of a view; then colours and gains, each sensor's own; dates are
chosen once for both views (SkySense, sec. 3.2 and 4). What lacks a sensor gets its mean and is marked.

Letters: B places, T dates, S bands, n cells a side of a large view, V small views of a place, M their pixels a side.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor
from torch.profiler import record_function

from geodata.sensors import SENSORS
from training import augment, correspondence
from training import series as dated
from training.augment import View
from training.colour import Colour
from training.correspondence import TilePlaces
from training.crops import JITTER
from training.observation import Observation
from training.series import Gains

if TYPE_CHECKING:
    from collections.abc import Mapping

    from training.encoders import Inputs
    from training.feed import Samples

__all__ = ["FINE", "SensorViews", "Sights", "sights"]

FINE = 32
"""Pixels of the high-resolution image a cell, each way."""

RADAR = {one.prefix for one in SENSORS if one.kind == "radar"}

_JITTERED = Colour(jitter=JITTER, p=0.8, gray=0.2)


class SensorViews(BaseModel):
    """Two views of all sensors, `cells` a side, and small ones of the high-resolution image, `local` pixels a side.

    Of each series so many dates are drawn, and each date moved by up to `days`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    places: TilePlaces = TilePlaces()
    cells: int = Field(16, gt=0)
    local: int = Field(256, gt=0)
    s2_dates: int = Field(20, gt=0)
    s1_dates: int = Field(10, gt=0)
    days: int = Field(7, ge=0)
    first: Colour = _JITTERED.model_copy(update={"blur": 1.0})
    second: Colour = _JITTERED.model_copy(update={"blur": 0.1, "solarise": 0.2})
    rest: Colour = _JITTERED.model_copy(update={"blur": 0.5})
    gains: Gains = Gains()

    def dates(self, sensor: str) -> int:
        """How many images of a sensor a view has."""
        return {"s2": self.s2_dates, "s1": self.s1_dates}.get(sensor, 1)


@dataclass(frozen=True)
class Sights:
    """What was seen of B places: `large` views (2B), view 0 of every place first, and `small` ones (V * B, S, M, M) of the
    high-resolution image, round by round; where they lie on the tile, in cells (`large_at`, `small_at`); and whose they
    are: `places` (B,) int64 differs between tiles."""

    large: Observation
    small: Tensor | None
    large_at: View
    small_at: View
    places: Tensor


@record_function("augment")
def sights(
    samples: Samples,
    reads: Mapping[str, Inputs],
    views: SensorViews,
    region: Tensor | None,
    *,
    fixed: bool,
    generator: Generator | None = None,
) -> Sights:
    """Views of tiles for sensors that read such pixels; `region` (B,) is what the observation says of places.

    `fixed`: central squares, dates spread evenly and as they are, no change of colour or gain. Raises ValueError for sensors
    whose pixels do not nest.
    """
    chance = None if fixed else _Chance(generator)
    side, finer = _nesting(samples, reads)
    device = next(iter(samples.dates.values())).device
    large_at, small_at = (
        correspondence.moved(view, device) for view in _drawn(len(samples), side, finer, views, chance)
    )
    images, days, present, small = {}, {}, {}, None
    for name, inputs in reads.items():
        index = _dates(samples, inputs.layer, views.dates(name), chance)
        when, held = dated.days(samples, inputs.layer, index)
        if name == "hr":
            whole = _pictures(samples, inputs, index)
            seen = correspondence.scaled(large_at, finer)
            large = _coloured(
                whole, seen, views.cells * FINE, (views.first, views.second), inputs, held, chance
            )
            images[name] = large[:, None]
            near = correspondence.scaled(small_at, finer)
            small = _coloured(whole, near, views.local, (views.rest,), inputs, held, chance)
        else:
            images[name] = _gained(samples, inputs, index, large_at, views, chance)
        moves = views.days if chance is not None and name != "hr" else 0
        days[name] = torch.cat([dated.jittered(when, moves, generator) for _ in range(2)])
        present[name] = held.repeat(2)[:, None].expand(days[name].shape)
    both = None if region is None else region.repeat(2)
    observation = Observation(images, days, present, both)
    return Sights(observation, small, large_at, small_at, _numbers(samples, device))


@dataclass(frozen=True)
class _Chance:
    """That something is drawn, and from what."""

    generator: Generator | None


def _drawn(
    count: int, side: int, finer: int, views: SensorViews, chance: _Chance | None
) -> tuple[View, View]:
    places = views.places
    if chance is None:
        large, _ = correspondence.fixed_pairs(count, side, places)
        return large, correspondence.fixed_locals(count, side, places, finer)
    large, corner = correspondence.draw_pairs(count, side, places, views.cells, chance.generator)
    return large, correspondence.draw_locals(corner, side, places, finer, chance.generator)


def _nesting(samples: Samples, reads: Mapping[str, Inputs]) -> tuple[int, int]:
    """The side of the tiles in cells, and how many pixels of the high-resolution image a cell is wide.

    Sensors that the batch has say what a cell is even when they are not read, so that their ground is cut alike.
    """
    layers = {inputs.layer for inputs in reads.values()} | ({"s2", "s1"} & samples.layers.keys())
    sides = {layer: samples.layers[layer].shape[-1] for layer in sorted(layers)}
    sides = {
        layer: side for layer, side in sides.items() if side
    }  # of sensors that any place of the batch has
    coarse = {side for layer, side in sides.items() if layer != "hr"} or {sides["hr"] // FINE}
    side = coarse.pop()
    finer = sides.get("hr", side) // max(1, side)
    if coarse or finer < 1 or sides.get("hr", side * finer) != side * finer:
        raise ValueError(
            f"tiles of {sides} pixels do not nest: s2 and s1 have as many, hr a whole multiple; cut chips that do"
        )
    return side, finer


def _dates(samples: Samples, layer: str, count: int, chance: _Chance | None) -> Tensor:
    if chance is None:
        return dated.spread_dates(samples, layer, count)
    return dated.drawn_dates(samples, layer, count, chance.generator)


def _pictures(samples: Samples, inputs: Inputs, index: Tensor) -> Tensor:
    """One image (B, S, H, W) of each place in the units of `pixels`; 1 x 1 where no place has any."""
    if not samples.layers[inputs.layer].numel():
        return torch.zeros(len(samples), len(inputs.bands), 1, 1, device=index.device)
    return augment.pixels(samples, inputs, index[:, 0])


def _coloured(
    pictures: Tensor,
    view: View,
    size: int,
    colours: tuple[Colour, ...],
    inputs: Inputs,
    held: Tensor,
    chance: _Chance | None,
) -> Tensor:
    """Views (V * B, S, N, N) as an encoder reads them, each colour for an equal part; mean where there is no image."""
    rounds = len(view.boxes) // len(pictures)
    if pictures.shape[-1] == 1 or not rounds:
        return pictures.new_zeros(len(view.boxes), pictures.shape[1], size, size)
    found = augment.render(pictures, view, size, mode="bicubic")
    if chance is not None and len(found):
        parts = zip(colours, found.chunk(len(colours)), strict=True)
        found = torch.cat([colour.apply(part, chance.generator) for colour, part in parts])
    return augment.normalise(found, inputs) * held.repeat(rounds).view(-1, 1, 1, 1)


def _gained(
    samples: Samples, inputs: Inputs, index: Tensor, view: View, views: SensorViews, chance: _Chance | None
) -> Tensor:
    """Views (2B, T, S, n, n) of series, all dates cut alike."""
    whole = dated.series(samples, inputs, index)  # (B, T, S, H, W)
    if not whole.numel():
        return whole.new_zeros(len(view.boxes), *whole.shape[1:3], views.cells, views.cells)
    cut = augment.render(whole.flatten(1, 2), view, views.cells).unflatten(1, whole.shape[1:3])
    if chance is None:
        return cut
    change = views.gains.radar if inputs.layer in RADAR else views.gains.optical
    return change(cut, inputs, chance.generator)


def _numbers(samples: Samples, device: torch.device) -> Tensor:
    """A number (B,) for each tile, the same wherever and whenever it is read."""
    digests = [hashlib.blake2b(one.encode(), digest_size=8).digest() for one in samples.ids]
    return torch.tensor([int.from_bytes(digest, "big") >> 1 for digest in digests], device=device)
