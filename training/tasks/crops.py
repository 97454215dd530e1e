"""What grows on the ground, from a series of images of it: one class for each cell, or one for the whole chip.

Every date is encoded alone and the dates are summed up per cell: by their mean, or by an attention that also knows the
day of the year (after the temporal attention of Garnot & Landrieu 2020: one learnt query a head, each head with its own
share of the channels). What says when a series was filled up never enters. The order of the dates does not matter.

Letters: B batch, T dates, N cells, D width, G heads, K classes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from training.augment import UNDATED
from training.decoders import fcn
from training.encoders import Encoder
from training.metrics import Metric, TopK
from training.objectives import Losses, cross_entropy
from training.pyramid import Deepest
from training.tasks import Dates, Series, Task, TaskSpec, class_label, class_map
from training.tasks.segment import at

if TYPE_CHECKING:
    from training.feed import Samples

__all__ = ["Attended", "CropMap", "Spec", "averaged", "build", "seasons"]

YEAR = 365.25  # days
HARMONICS = 4  # of the year: as fine as three months


class Spec(TaskSpec):
    """Crop mapping. `truth` names the label layer of `cells`, or the integer label of a `chip`.

    Cells get the FCN head of `decoder`; a chip a linear map of the mean cell, which needs no decoder.
    """

    kind: Literal["crops"] = "crops"
    of: Literal["cells", "chip"] = "cells"
    truth: str = "mask"
    pool: Literal["mean", "attention"] = "attention"
    heads: int = Field(4, gt=0)  # of the attention over dates
    ranks: tuple[
        int, ...
    ] = ()  # of chips: how often truth is among the first so many, as (1, 5), in place of classes
    decoder: fcn.Spec = fcn.Spec()


class CropMap(Task[Series]):
    """Dates summed up, then classified."""

    dates: Dates = "series"
    spec: Spec

    def __init__(self, spec: Spec, encoder: Encoder) -> None:
        super().__init__()
        self.spec, self.dense = spec, spec.of == "cells"
        self.source = source = Deepest(encoder)
        width = source.channels[0] if self.dense else encoder.width
        self.pool = Attended(width, spec.heads) if spec.pool == "attention" else None
        if self.dense:
            self.head: nn.Module = fcn.build(spec.decoder, source.channels, source.strides, len(spec.classes))
        else:
            self.head = nn.Linear(width, len(spec.classes))

    def target(self, samples: Samples) -> Tensor:
        """Class indices, (B, H, W) of cells or (B,) of chips, int64; codes of no class become 255."""
        read = class_map if self.dense else class_label
        return read(samples, self.spec.truth, self.spec)

    def forward(self, features: Series, target: Tensor) -> Losses:
        """Cross-entropy over the labelled cells of target (B, H, W), or chips (B,)."""
        size = cast(tuple[int, int], tuple(target.shape[-2:]))
        return Losses.sum(cross_entropy=cross_entropy(self.logits(features, size), target))

    def logits(self, features: Series, size: tuple[int, int]) -> Tensor:
        """Logits (B, K, H, W) of cells at `size`, or (B, K) of chips."""
        if not self.dense:
            return self.head(self._over_dates(features, features.tokens.patches).mean(1))
        (maps,) = self.source(features.tokens)  # (B * T, D, h, w)
        cells = self._over_dates(features, maps.flatten(2).transpose(1, 2))  # (B, N, D)
        return at(self.head([cells.transpose(1, 2).unflatten(2, maps.shape[-2:])]), size)

    def metric(self) -> Metric:
        """A confusion of the classes, or hits by rank, with nothing counted yet."""
        return TopK.empty(self.spec.ranks) if self.spec.ranks else super().metric()

    def _over_dates(self, series: Series, cells: Tensor) -> Tensor:
        """Cells (B * T, N, D) of every date as one (B, N, D)."""
        cells = series.by_date(cells)  # (B, T, N, D)
        if self.pool is None:
            return averaged(cells, series.present)
        return self.pool(cells, series.present, series.days)


class Attended(nn.Module):
    """The mean over dates, weighed by what a cell shows and by the day of the year; at first the plain mean."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide {width} channels: choose pool heads that do")
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.of_cell = nn.Linear(width, heads, bias=False)  # query and key in one: logits are linear in both
        self.of_day = nn.Linear(2 * HARMONICS, heads, bias=False)
        for part in (self.of_cell, self.of_day):
            nn.init.zeros_(part.weight)

    def forward(self, cells: Tensor, present: Tensor, days: Tensor) -> Tensor:
        """Cells (B, T, N, D), those of dates that are `present` (B, T) alone, with `days` (B, T): (B, N, D)."""
        seen = present[:, :, None, None]
        logits = self.of_cell(self.norm(cells)) + self.of_day(seasons(days))[:, :, None]  # (B, T, N, G)
        logits = logits.float().masked_fill(~seen, torch.finfo(torch.float32).min)
        weights = (logits.softmax(1) * seen).to(cells.dtype)  # a series without any date is 0
        return torch.einsum("btng,btngc->bngc", weights, cells.unflatten(3, (self.heads, -1))).flatten(2)


def averaged(cells: Tensor, present: Tensor) -> Tensor:
    """The mean of cells (B, T, N, D) over the dates that are `present` (B, T): (B, N, D); 0 without any."""
    seen = present.to(cells.dtype)
    share = seen / seen.sum(1, keepdim=True).clamp(min=1)  # (B, T)
    return torch.einsum("bt,btnd->bnd", share, cells)


def seasons(days: Tensor) -> Tensor:
    """The first harmonics of the year, sines and cosines (B, T, 2 * HARMONICS), of days since 1970-01-01; 0 without a
    date."""
    angle = 2 * math.pi / YEAR * days.double()[..., None] * torch.arange(1, HARMONICS + 1, device=days.device)
    waves = torch.cat([angle.sin(), angle.cos()], dim=-1).float()
    return torch.where((days == UNDATED)[..., None], 0.0, waves)


def build(spec: Spec, encoder: Encoder) -> CropMap:
    """The task with a head that fits the encoder's width."""
    return CropMap(spec, encoder)
