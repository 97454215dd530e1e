"""What a region tends to look like: prototypes of its cells, kept by a moving average and read by attention.

The geographic context of SkySense (sec. 3.3): for each region of the Earth a set of prototypes, to which the cells seen
there are assigned in equal parts by Sinkhorn-Knopp, and which follow the cells assigned to them. No gradient moves them.
A cell then reads its region's prototypes, which says what is around without being looked at.

Letters: B samples, N cells of a sample, D width, R regions, K prototypes of a region, U regions at hand.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from training import ranks, regions
from training.regions import NOWHERE, Law

__all__ = ["Prototypes", "Spec", "assigned"]


class Spec(BaseModel):
    """`count` prototypes for each of `side` x `side` regions.

    A prototype becomes the `mean` of the cells assigned to it, or their `sum` as the paper's equation 12 has it, whose
    length then depends on how many cells a step sees.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    side: int = Field(64, gt=0)
    law: Law = "xyz"
    count: int = Field(100, gt=0)
    update: Literal["mean", "sum"] = "mean"
    momentum: float = Field(0.99, ge=0, lt=1)  # of a region often seen; less at first
    temperature: float = Field(0.05, gt=0)
    rounds: int = Field(3, gt=0)

    @field_validator("side")
    @classmethod
    def _numbers_fit(cls, side: int) -> int:
        if side > 2**15:
            raise ValueError(
                f"{side} x {side} regions are more than any run can visit; choose a coarser grid"
            )
        return side


class Prototypes(nn.Module):
    """Prototypes `held` (R, K, D) in float32 and how often each region has learnt, `visits` (R,).

        absorb, in forward passes in training: noted += cells of the samples, with their regions
        settle, in after_step: for each region r noted by any rank, with all its cells F (n, D):
            S = sinkhorn(cosine(F, held[r]))                               (rows sum to 1, columns to n / K)
            found = S.T @ F, each row divided by its column's sum of S where `update` is mean     (eq. 11 and 12)
            m = min(momentum, (1 + visits[r]) / (10 + visits[r]))
            held[r] = m * held[r] + (1 - m) * found; visits[r] += 1                                      (eq. 13)

    They start in random directions; the first step gives all of them the length that cells have.
    """

    held: Tensor
    visits: Tensor

    def __init__(self, spec: Spec, width: int) -> None:
        super().__init__()
        self.spec = spec
        held = torch.randn(spec.side**2, spec.count, width)
        self.register_buffer("held", F.normalize(held, dim=-1))
        self.register_buffer("visits", torch.zeros(spec.side**2, dtype=torch.int64))
        self._noted: list[tuple[Tensor, Tensor]] = []

    def region(self, lonlat: Tensor) -> Tensor:
        """Regions (B,) of places (B, 2) in degrees east and north; NOWHERE for nan."""
        return regions.region(lonlat, self.spec.side, self.spec.law)

    def forward(self, cells: Tensor, region: Tensor) -> Tensor:
        """What cells (B, N, D) read of their regions' (B,) prototypes: (B, N, D) float32, zeros where there is no region.

        softmax(cells @ P.T / sqrt(D)) @ P (eq. 3). Gradients reach the cells, through the attention alone.
        """
        with torch.autocast(cells.device.type, enabled=False):
            cells = cells.to(torch.promote_types(cells.dtype, torch.float32))
            known = self.held[region.clamp(min=0)].to(cells.dtype)  # (B, K, D)
            weights = (cells @ known.transpose(1, 2) / math.sqrt(cells.shape[-1])).softmax(-1)  # (B, N, K)
            return weights @ known * (region != NOWHERE)[:, None, None]

    @torch.no_grad()
    def absorb(self, cells: Tensor, region: Tensor) -> None:
        """Note cells (B, N, D) of samples in regions (B,): in training only, also where this module is a teacher's."""
        self._noted.append((cells.detach().to(self.held.dtype), region))

    @torch.no_grad()
    def settle(self) -> None:
        """Learn from what all ranks have noted; every rank must call and have noted as much. Without notes, nothing."""
        if not self._noted:
            return
        cells, region = (torch.cat(parts) for parts in zip(*self._noted, strict=True))
        self._noted = []
        everywhere = ranks.gathered(region)  # (W * B,)
        self._begin(cells)
        found, place = torch.unique(everywhere, return_inverse=True)  # (U,), (W * B,)
        means = self._found(cells, found, place)
        here = found != NOWHERE
        found, means, seen = found[here], means[here], self.visits[found[here]]
        momentum = ((1 + seen) / (10 + seen)).clamp(max=self.spec.momentum).to(means.dtype)
        self.held[found] = torch.lerp(means, self.held[found], momentum[:, None, None])
        self.visits[found] += 1

    def _begin(self, cells: Tensor) -> None:
        """Before anything was learnt, the length of cells: the root of its mean square, over all ranks."""
        if not self.visits.any():
            length = ranks.mean(cells.square().sum(-1).mean()).sqrt()
            self.held.mul_(length / self.held[0, 0].norm())

    def _found(self, cells: Tensor, found: Tensor, place: Tensor) -> Tensor:
        """What the prototypes (U, K, D) of the regions `found` (U,) would be by the cells alone; `place` (W * B,) in them."""
        own = ranks.own(place)  # (B,)
        cosines = (
            F.normalize(cells, dim=-1) @ F.normalize(self.held[found.clamp(min=0)], dim=-1)[own].mT
        )  # (B, N, K)
        shares = assigned(cosines / self.spec.temperature, place, self.spec.rounds)
        sums = cells.new_zeros(len(found), *self.held.shape[1:]).index_add(0, own, shares.mT @ cells)
        sums = ranks.mean(sums) * ranks.world()
        if self.spec.update == "sum":
            return sums
        counts = cells.new_zeros(len(found), self.spec.count).index_add(0, own, shares.sum(1))
        counts = ranks.mean(counts) * ranks.world()
        return sums / counts[..., None].clamp(min=1e-12)


def assigned(logits: Tensor, group: Tensor, rounds: int) -> Tensor:
    """Sinkhorn-Knopp of several groups at once: logits (B, N, K), of samples of one group (W * B,) of all ranks together.

        for each group: all its rows of all samples and ranks, (n, K), go through `objectives.sinkhorn` by themselves

    Rows sum to 1. A group's columns are summed over the ranks, so that it does not matter who holds its samples.
    """
    own = ranks.own(group)
    for _ in range(rounds):
        columns = ranks.gathered(logits.logsumexp(1))  # (W * B, K)
        logits = logits - _pooled(columns, group)[own][:, None]
        logits = logits - logits.logsumexp(-1, keepdim=True)
    return logits.exp()


def _pooled(columns: Tensor, group: Tensor) -> Tensor:
    """The logarithm of the sum of exp(columns) (B, K) over each group: (U, K)."""
    shape = int(group.max()) + 1, columns.shape[1]
    at = group[:, None].expand_as(columns)
    top = columns.new_full(shape, -torch.inf).scatter_reduce(0, at, columns, "amax")
    return columns.new_zeros(shape).scatter_add(0, at, (columns - top[group]).exp()).log() + top
