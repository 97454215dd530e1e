"""What is contrasted between two views of one place: their pixels, the objects they show, and the images as wholes.

Each level makes rows of what the student says, rows of what the teacher says of the same thing, and what a pair of rows
counts for; one loss then serves all (SkySense, sec. 3.3, eq. 5 to 9). Cells without a partner, places without a sensor and
dates beyond a budget count for nothing; they are never cut out, so that shapes stay what they are.

Letters: P pairs of views, T dates, N cells of the student's view, N' of the teacher's, D width, C objects, R rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from training import ranks
from training.augment import View
from training.correspondence import partners, sampled
from training.objectives import sinkhorn

__all__ = [
    "Objects",
    "Rows",
    "ViewPairs",
    "assigned",
    "chosen",
    "images",
    "joined",
    "objects",
    "paired",
    "pixels",
    "pooled",
]


class Objects(BaseModel):
    """How the cells of a view become objects: as many as a share of its cells, in nearly equal parts (Sinkhorn-Knopp).

    The teacher's cells are shared out among fixed queries, then `rounds` times among the centres that came out. With
    `match` "shared" both views pool the cells they have in common by the teacher's shares, so that an object is the same
    ground in both; "independent" shares out each view's own cells, and only queries say which object is which.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cells: int = Field(32, gt=0)  # of a view, an object
    least: int = Field(4, gt=0)  # objects
    rounds: int = Field(2, ge=0)
    temperature: float = Field(0.05, gt=0)
    iterations: int = Field(3, gt=0)
    match: Literal["shared", "independent"] = "shared"

    def count(self, cells: int) -> int:
        """Objects of a view with so many cells."""
        return max(self.least, cells // self.cells)


@dataclass(frozen=True)
class ViewPairs:
    """Views of the student's beside views of the teacher's of the same places, for one source.

    `mine` (P, T, N, D) are the student's cells, `partner` (P, T, N, D) what the teacher says at each of them and `there`
    (P, N) whether it says anything; `whole` (P, T, N', D) is all of the teacher's view. `counted` (P,) bool is false where
    the place lacks the sensor.
    """

    mine: Tensor
    partner: Tensor
    there: Tensor
    whole: Tensor
    counted: Tensor


@dataclass(frozen=True)
class Rows:
    """Features of student and teacher (R, D) that are compared row by row, and what each pair of rows counts for (R,)."""

    mine: Tensor
    theirs: Tensor
    shares: Tensor


def paired(mine: Tensor, at: View, whole: Tensor, other: View, counted: Tensor) -> ViewPairs:
    """The student's cells (P, T, N, D) of views `at`, beside the teacher's (P, T, N', D) of views `other` of the same
    tiles; both square."""
    side, across = math.isqrt(mine.shape[2]), math.isqrt(whole.shape[2])
    found = partners(at, other, side)
    maps = whole.transpose(-1, -2).unflatten(-1, (across, across))  # (P, T, D, n', n')
    partner = sampled(maps, found.points).flatten(-2).transpose(-1, -2)  # (P, T, N, D)
    return ViewPairs(mine, partner, found.there.flatten(1), whole, counted)


def chosen(pairs: ViewPairs, cells: Tensor, slices: Tensor, budget: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """At most `budget` cells and dates of each pair, by noise of cells (P, N) and of dates (P, T): indices (P, K), (P, T').

    Cells with a partner come first, so that few are wasted.
    """
    order = (cells + ~pairs.there).argsort(1)
    return order[:, : budget[0]], slices.argsort(1)[:, : budget[1]]


def pixels(pairs: ViewPairs, cells: Tensor, slices: Tensor) -> Rows:
    """Cells and what the teacher says of the same ground (eq. 5), at some `cells` (P, K) and dates `slices` (P, T').

    for each pair: M = those of its K cells that have a partner
        for each s in M, for each t of its slices: rows += (mine[t][s], partner[t][s]) at 1 / (|M| * T')
    """
    weights = pairs.there.gather(1, cells).to(pairs.mine.dtype) * pairs.counted[:, None]  # (P, K)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1) / slices.shape[1]
    pair = torch.arange(len(slices), device=slices.device)[:, None, None]
    mine, theirs = (
        found[pair, slices[:, :, None], cells[:, None]].flatten(0, 2)  # (P * T' * K, D)
        for found in (pairs.mine, pairs.partner)
    )
    return Rows(mine, theirs, weights[:, None].expand(-1, slices.shape[1], -1).flatten())


def objects(pairs: ViewPairs, queries: Tensor, spec: Objects) -> Rows:
    """Cells pooled by what they belong to (eq. 6 to 8): queries (C, D) of unit length.

        for each pair, for each date: S = shares of the cells in C objects
            o[c] = sum over s of S[s][c] * mine[s] / sum over s of S[s][c], the teacher's alike
            rows += (o[c], the teacher's o[c]) at 1 / (C * T)

    ViewPairs without a cell in common count for nothing.
    """
    if spec.match == "shared":
        shares = assigned(pairs.partner, queries, pairs.there, spec)  # (P, T, N, C)
        mine, theirs = pooled(pairs.mine, shares), pooled(pairs.partner, shares)  # (P, T, C, D)
        counted = pairs.counted & pairs.there.any(1)
    else:
        mine, theirs = (
            pooled(cells, assigned(cells, queries, cells.new_ones(len(cells), cells.shape[2]) > 0, spec))
            for cells in (pairs.mine, pairs.whole)
        )
        counted = pairs.counted
    each = counted.to(pairs.mine.dtype) / (mine.shape[1] * mine.shape[2])
    return Rows(
        mine.flatten(0, 2), theirs.flatten(0, 2), each.repeat_interleave(mine.shape[1] * mine.shape[2])
    )


def images(pairs: ViewPairs) -> Rows:
    """The mean cells of both views (eq. 9), at every date: each at 1 / T."""
    dates = pairs.mine.shape[1]
    each = pairs.counted.to(pairs.mine.dtype) / dates
    return Rows(
        pairs.mine.mean(2).flatten(0, 1), pairs.whole.mean(2).flatten(0, 1), each.repeat_interleave(dates)
    )


def joined(parts: Sequence[Rows]) -> Rows:
    """Rows of several kinds of pairs together, their shares such that those of all ranks sum to the number of ranks.

    So each pair that counts is one of all that do, and the mean over ranks of what ranks find is the global mean.
    """
    shares = torch.cat([part.shares for part in parts])
    return Rows(
        torch.cat([part.mine for part in parts]),
        torch.cat([part.theirs for part in parts]),
        shares / ranks.mean(shares.sum()).clamp(min=1e-12),
    )


@torch.no_grad()
def assigned(cells: Tensor, queries: Tensor, there: Tensor, spec: Objects) -> Tensor:
    """How much of each cell (P, T, N, D) belongs to each of C objects: (P, T, N, C), rows of 1 where `there` (P, N), else 0.

    S = sinkhorn(cosines of cells and queries); repeat `rounds` times:
        centres = S.T @ cells / column sums; S = sinkhorn(cosines of cells and centres)
    """
    with torch.autocast(cells.device.type, enabled=False):
        cells = cells.detach().to(torch.promote_types(cells.dtype, torch.float32))
        unit, found = F.normalize(cells, dim=-1), there[:, None].expand(cells.shape[:3])
        centres = queries.to(cells.dtype).expand(*cells.shape[:2], -1, -1)  # (P, T, C, D)
        for again in range(spec.rounds + 1):
            cosines = unit @ F.normalize(centres, dim=-1).transpose(-1, -2)  # (P, T, N, C)
            shares = sinkhorn(cosines, spec.temperature, spec.iterations, whole=False, there=found)
            if again < spec.rounds:
                centres = pooled(cells, shares)
        return shares


def pooled(cells: Tensor, shares: Tensor) -> Tensor:
    """Means of cells (P, T, N, D) by shares (P, T, N, C): (P, T, C, D); 0 where nothing is shared."""
    weights = shares / shares.sum(-2, keepdim=True).clamp(min=1e-12)
    return weights.to(cells.dtype).transpose(-1, -2) @ cells
