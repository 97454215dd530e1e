"""Attention that looks at a few places of its own choosing, on maps of several scales.

"Deformable DETR" (Zhu et al. 2021, sec. 4.1). A query says, for each head and scale, how far from its own place to look
and how much each look weighs; what lies there is read bilinearly. Plain torch: one `grid_sample` a scale.

Letters: B batch, N queries, D width, G heads, C channels of a head, S scales, P points; M cells of all scales.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DeformableAttention", "centres", "sampled"]

Sizes = Sequence[tuple[int, int]]
"""Height and width of each scale's map."""


class DeformableAttention(nn.Module):
    """Queries (B, N, D) that read cells (B, M, D) of S scales. `ratio` is the width of what is read over D.

    It starts by looking around: head g of G in the direction 2 pi g / G, point p p + 1 cells away, all weighed alike.
    """

    def __init__(self, width: int, scales: int, heads: int, *, points: int = 4, ratio: float = 1.0) -> None:
        super().__init__()
        inner = int(width * ratio)
        if inner % heads:
            raise ValueError(f"{heads} heads do not divide {inner} channels: change heads or ratio")
        self.shape = heads, scales, points
        self.offsets = nn.Linear(width, heads * scales * points * 2)
        self.weights = nn.Linear(width, heads * scales * points)
        self.value = nn.Linear(width, inner)
        self.proj = nn.Linear(inner, width)
        for part in (self.offsets, self.weights):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)
        for part in (self.value, self.proj):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
        with torch.no_grad():
            self.offsets.bias.copy_(_around(heads, scales, points))

    def forward(self, queries: Tensor, places: Tensor, cells: Tensor, sizes: Sizes) -> Tensor:
        """What queries (B, N, D) at `places` (N, 2: x, y of 0..1) read of cells (B, M, D), scale after scale: (B, N, D)."""
        heads, scales, points = self.shape
        steps = torch.tensor([(width, height) for height, width in sizes], device=queries.device)  # (S, 2)
        offsets = self.offsets(queries).unflatten(2, (heads, scales, points, 2))
        offsets = offsets.to(torch.promote_types(offsets.dtype, torch.float32))
        where = places[:, None, None, None] + offsets / steps[:, None]  # (B, N, G, S, P, 2)
        weights = self.weights(queries).unflatten(2, (heads, scales * points)).softmax(-1)
        values = self.value(cells).unflatten(2, (heads, -1))  # (B, M, G, C)
        return self.proj(sampled(values, sizes, where, weights.unflatten(3, (scales, points))))


def sampled(values: Tensor, sizes: Sizes, where: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of values (B, M, G, C) read at `where` (B, N, G, S, P, 2: x, y of 0..1): (B, N, G * C).

    for each query and head, for each scale (height x width) and point (x, y):
        column, row = x * width - 0.5, y * height - 0.5        # cells have their centres at halves
        total += weight * (the four cells around, bilinearly; 0 for those outside the map)
    """
    out = values.new_zeros(())
    for scale, part in enumerate(values.split([height * width for height, width in sizes], dim=1)):
        image = part.permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, sizes[scale])  # (B * G, C, h, w)
        grid = 2 * where[:, :, :, scale].transpose(1, 2).flatten(0, 1) - 1  # (B * G, N, P, 2)
        read = F.grid_sample(image.to(grid.dtype), grid, padding_mode="zeros", align_corners=False)
        share = weights[:, :, :, scale].transpose(1, 2).flatten(0, 1)  # (B * G, N, P)
        out = out + (read * share[:, None]).sum(-1)  # (B * G, C, N)
    return out.unflatten(0, (len(values), -1)).permute(0, 3, 1, 2).flatten(2)


def centres(sizes: Sizes, device: torch.device) -> Tensor:
    """Places (M, 2: x, y of 0..1) of the cells of maps, scale after scale, row by row."""
    found = []
    for height, width in sizes:
        rows = (torch.arange(height, device=device) + 0.5) / height
        columns = (torch.arange(width, device=device) + 0.5) / width
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        found.append(torch.stack([x, y], dim=-1).flatten(0, 1))
    return torch.cat(found)


def _around(heads: int, scales: int, points: int) -> Tensor:
    angles = torch.arange(heads) * (2 * math.pi / heads)
    directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
    directions = directions / directions.abs().amax(-1, keepdim=True)  # (G, 2), on a square
    away = torch.arange(1, points + 1)[:, None]
    return (directions[:, None, None] * away).expand(heads, scales, points, 2).flatten()
