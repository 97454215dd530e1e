"""A plain ViT's tokens grown back to the resolution of the image: small, and no token reaches beyond its patch.

Each stage doubles the map and halves its channels with a 2 x 2 transposed convolution, a norm over channels and a
GELU, as the scale blocks of simple feature pyramids do (ViTDet, Li et al. 2022); as many stages as the stride is a
power of two, then a 1 x 1 convolution to the classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from training.decoders import DecoderSpec, DenseDecoder
from training.encoders import Encoder
from training.pyramid import ChannelNorm, Deepest

__all__ = ["Growing", "Spec", "build"]


class Spec(DecoderSpec):
    """A progressively growing head."""

    kind: Literal["growing"] = "growing"
    channels: int = Field(32, gt=0)  # the fewest a stage has

    def maps(self, encoder: Encoder) -> Deepest:
        """The deepest map."""
        return Deepest(encoder)


class Growing(DenseDecoder):
    """Letters: B batch, D width, K classes, P stride of the map; grid h x w."""

    def __init__(self, spec: Spec, width: int, stride: int, classes: int) -> None:
        super().__init__()
        stages = stride.bit_length() - 1
        if stride != 2**stages:
            raise ValueError(
                f"this head doubles its map, so a patch of {stride} pixels must be a power of two"
            )
        widths = [width, *(max(spec.channels, width >> stage) for stage in range(1, stages + 1))]
        grow = [_Doubling(before, after) for before, after in pairwise(widths)]
        self.head = nn.Sequential(*grow, nn.Conv2d(widths[-1], classes, 1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The one map (B, D, h, w) to logits (B, K, hP, wP)."""
        (last,) = maps
        return self.head(last)


class _Doubling(nn.Sequential):
    """A map of twice the side: transposed convolution, norm over channels, GELU."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(nn.ConvTranspose2d(before, after, 2, stride=2), ChannelNorm(after), nn.GELU())


def build(spec: Spec, channels: tuple[int, ...], strides: tuple[int, ...], classes: int) -> Growing:
    """The decoder of a spec. Raises ValueError for a stride that is no power of two."""
    return Growing(spec, channels[-1], strides[-1], classes)
