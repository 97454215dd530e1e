"""PSANet: every position gathers from all others, and hands out to them, by weights that follow where they lie.

"PSANet: Point-wise Spatial Attention Network for Scene Parsing" (Zhao et al. 2018). A convolution gives each position
one weight for every offset there could be, an over-complete mask of 97 x 97 around it; the part that lies inside the
map is cut out by index arithmetic. Collecting, a position reads the mask at the other's offset from itself;
distributing, it is read from the other's mask. As published: on half the resolution, with a softmax over where things
come from, both ways side by side, and 512 channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from training.decoders import DecoderSpec, DenseDecoder, convolution, resized
from training.encoders import Encoder
from training.pyramid import Deepest

__all__ = ["PSANet", "Spec", "build", "cut"]


class Spec(DecoderSpec):
    """PSANet over the deepest map, which a residual network gives at `output_stride=8`."""

    kind: Literal["psanet"] = "psanet"
    channels: int = Field(512, gt=0)
    mask: int = Field(
        97, gt=0
    )  # offsets a side of a position's mask; offsets beyond it weigh as a logit of 0
    shrink: int = Field(2, ge=1)  # attention looks at a map this many times smaller
    dropout: float = Field(0.1, ge=0, lt=1)

    @field_validator("mask")
    @classmethod
    def _has_a_middle(cls, mask: int) -> int:
        if mask % 2 == 0:
            raise ValueError(f"a mask reaches equally far to both sides, so its side is odd, not {mask}")
        return mask

    def maps(self, encoder: Encoder) -> Deepest:
        """The deepest map."""
        return Deepest(encoder)


class PSANet(DenseDecoder):
    """Letters: B batch, C channels, M side of a mask, K classes; a map of D channels, h x w; N its shrunk positions."""

    def __init__(self, spec: Spec, width: int, classes: int) -> None:
        super().__init__()
        self.collect, self.distribute = _Way(spec, width), _Way(spec, width)
        self.project = convolution(2 * spec.channels, width, 1)
        self.fuse = convolution(2 * width, spec.channels, 3)
        self.classify = nn.Sequential(nn.Dropout2d(spec.dropout), nn.Conv2d(spec.channels, classes, 1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The one map (B, D, h, w) to logits (B, K, h, w)."""
        (image,) = maps
        values, masks = self.collect(image)  # (B, C, ., .), (B, M * M, ., .)
        collected = values.flatten(2) @ cut(masks).softmax(1)  # (B, C, N)
        theirs, masks = self.distribute(image)
        handed = theirs.flatten(2) @ cut(masks).transpose(1, 2).softmax(1)  # (B, C, N)
        both = torch.cat([collected, handed], dim=1).unflatten(2, values.shape[2:])
        context = self.project(resized(both, image))  # (B, D, h, w)
        return self.classify(self.fuse(torch.cat([image, context], dim=1)))


class _Way(nn.Module):
    """What is passed on one way, and the masks that say how much: both at the shrunk size."""

    def __init__(self, spec: Spec, width: int) -> None:
        super().__init__()
        self.shrink = spec.shrink
        self.reduce = convolution(width, spec.channels, 1)
        self.attend = nn.Sequential(
            convolution(spec.channels, spec.channels, 1),
            nn.Conv2d(spec.channels, spec.mask**2, 1, bias=False),
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        height, width = (-(-side // self.shrink) for side in image.shape[-2:])
        values = F.interpolate(self.reduce(image), (height, width), mode="bilinear", align_corners=False)
        return values, self.attend(values)


def cut(masks: Tensor) -> Tensor:
    """Masks (B, M * M, h, w), one of offsets around each position, as weights (B, N, N) of other by position, N = h w.

    for each position i and other j, (down, right) from i to j:
        weight[j, i] = masks[(down + M // 2) * M + right + M // 2, i], or 0 where that lies outside the mask
    """
    side = round(masks.shape[1] ** 0.5)
    height, width = masks.shape[-2:]
    rows = torch.arange(height, device=masks.device).repeat_interleave(width)
    columns = torch.arange(width, device=masks.device).repeat(height)
    down, right = (
        places[:, None] - places + side // 2 for places in (rows, columns)
    )  # (N, N): other, position
    inside = (down >= 0) & (down < side) & (right >= 0) & (right < side)
    entry = torch.where(inside, down * side + right, 0)
    found = masks.flatten(2).gather(1, entry.expand(len(masks), -1, -1))
    return torch.where(inside, found, 0)


def build(spec: Spec, channels: tuple[int, ...], strides: tuple[int, ...], classes: int) -> PSANet:
    """The decoder of a spec."""
    return PSANet(spec, channels[-1], classes)
