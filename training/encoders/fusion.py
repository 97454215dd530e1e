"""What joins sensors and dates at one place: up heads, the table of dates, and a transformer over what was seen there.

SkySense's multi-modal temporal fusion (eq. 1 and 2). Everything seen of one cell of ground, by whatever sensor on whatever
date, is a token of a short sequence; one learnt token gathers from them what the cell is. Nothing but the dates tells the
tokens apart, so their order does not matter, any number of them will do and those that are missing are masked.

Letters: B batch, N cells, T tokens of a cell (dates of all sensors), E width before fusion, D width of fusion.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from training.augment import UNDATED
from training.encoders import vit

__all__ = ["DAYS", "Dates", "Fusion", "FusionSpec", "UpHead", "day_of_year"]

DAYS = 365
LEAPS = 4 * DAYS + 1


class FusionSpec(BaseModel):
    """A transformer over the tokens of a cell: `depth` layers of `width` channels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(1024, gt=0)
    depth: int = Field(24, gt=0)
    heads: int = Field(16, gt=0)
    drop_path: float = Field(0.0, ge=0, lt=1)  # of the last layer; rises linearly from 0 at the first

    @model_validator(mode="after")
    def _divisible(self) -> FusionSpec:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}")
        return self


class UpHead(nn.Module):
    """From patches of 4 pixels to a vector for each pixel: a linear map, then its parts laid out side by side.

    Channel c of the pixel (row, column) of a patch is channel 16 * c + 4 * row + column of the linear map.
    """

    def __init__(self, width: int, patch: int, channels: int) -> None:
        super().__init__()
        self.patch = patch
        self.conv = nn.Conv2d(width, patch**2 * channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, D, h, w) to (B, E, 4 h, 4 w)."""
        return F.pixel_shuffle(self.conv(image), self.patch)


class Dates(nn.Module):
    """A learned vector for each day of the year, from a normal of 0.02; nothing is added where no date is known."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, DAYS, width), std=0.02))

    def forward(self, days: Tensor) -> Tensor:
        """Vectors (B, T, E) of days since 1970-01-01 (B, T); zeros for UNDATED."""
        vectors = F.embedding(day_of_year(days), self.table[0])
        return vectors * (days != UNDATED)[..., None]


class Fusion(nn.Module):
    """What stands at a cell, of all that was seen there: a linear map, one more token, and layers over them."""

    def __init__(self, spec: FusionSpec, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, spec.width)
        self.token = nn.Parameter(torch.zeros(1, 1, spec.width))
        rates = [spec.drop_path * index / max(spec.depth - 1, 1) for index in range(spec.depth)]
        self.blocks = nn.Sequential(
            *(
                vit.Block(spec.width, spec.heads, 4 * spec.width, drop_path=rate, norm_eps=1e-5)
                for rate in rates
            )
        )
        vit.initialise(self)
        nn.init.normal_(self.token, std=0.02)

    def forward(self, cells: Tensor, present: Tensor) -> Tensor:
        """Cells (B, N, T, E), of which those tokens count that are `present` (B, T): (B, N, D)."""
        batch, count = cells.shape[:2]
        tokens = self.proj(cells).flatten(0, 1)  # (B * N, T, D)
        tokens = torch.cat([self.token.to(tokens.dtype).expand(len(tokens), -1, -1), tokens], dim=1)
        visible = F.pad(present, (1, 0), value=True)  # the token sees itself, whatever is missing
        visible = (
            visible[:, None, None, None].expand(-1, count, -1, -1, -1).flatten(0, 1)
        )  # (B * N, 1, 1, 1 + T)
        mix = partial(_visible, visible=visible)
        for block in self.blocks:
            tokens = block(tokens, mix)
        return tokens[:, 0].unflatten(0, (batch, count))


def _visible(qkv: Tensor, attns: list[vit.Attention], visible: Tensor) -> Tensor:
    """Attention (B, T, 3 * D) to (B, T, D) that does not see some keys."""
    query, key, value = vit.split_heads(qkv, attns[0].heads)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible).transpose(1, 2).flatten(2)


def day_of_year(days: Tensor) -> Tensor:
    """The day of the year, 0 to 364, of days since 1970-01-01 from 1901 to 2099; a leap year's last day is 364 too."""
    place = (days + DAYS) % LEAPS  # days of a round of four years that begins with 1969
    return (place - DAYS * (place // DAYS).clamp(max=3)).clamp(max=DAYS - 1)
