"""From an encoder's maps to something said of every pixel: the heads of dense tasks, one a file.

A decoder takes maps, finest first, and gives logits on a grid of its own, which the task brings to the size of its
labels. Its spec says which maps it reads, four scales or one; `training/pyramid.py` makes these of any encoder. A spec
says its `kind`, the name of the file in this folder that builds it; tasks list the kinds they take.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from training.encoders import Encoder, Tokens
from training.pyramid import Deepest, Ends, Levels

__all__ = [
    "DecoderSpec",
    "DenseDecoder",
    "DenseHead",
    "Maps",
    "build",
    "convolution",
    "difference",
    "resized",
]

Maps = Levels | Ends | Deepest
"""What brings an encoded image to the maps that a decoder reads; says their channels and strides."""


class DecoderSpec(BaseModel):
    """What every decoder's spec says: the file that builds it, and the maps it reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str

    def maps(self, encoder: Encoder) -> Maps:
        """The maps of `encoder` that this decoder reads: four scales, unless the decoder says otherwise."""
        return Levels(encoder)


class DenseDecoder(nn.Module):
    """A head from maps to logits. B batch, K classes."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, D, ., .), finest first, to logits (B, K, h, w)."""
        raise NotImplementedError


class DenseHead(nn.Module):
    """A decoder with what brings tokens to its maps."""

    def __init__(self, maps: Maps, decoder: DenseDecoder) -> None:
        super().__init__()
        self.maps, self.decoder = maps, decoder

    def forward(self, tokens: Tokens) -> Tensor:
        """Logits (B, K, h, w) of encoded images."""
        return self.decoder(self.maps(tokens))


def build(spec: DecoderSpec, encoder: Encoder, classes: int) -> DenseHead:
    """The decoder of a spec with maps of this encoder, randomly initialised. Raises ValueError where they do not fit."""
    maps = spec.maps(encoder)
    module = importlib.import_module(f"training.decoders.{spec.kind}")
    return DenseHead(maps, module.build(spec, maps.channels, maps.strides, classes))


def convolution(before: int, after: int, side: int) -> nn.Sequential:
    """A convolution of an odd side without bias, a batch norm and a ReLU; the size of the map stays."""
    return nn.Sequential(
        nn.Conv2d(before, after, side, padding=side // 2, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def resized(image: Tensor, like: Tensor) -> Tensor:
    """`image` (B, C, ., .) at the height and width of `like`, bilinear, corners not aligned."""
    return F.interpolate(image, like.shape[-2:], mode="bilinear", align_corners=False)


def difference(images: Tensor) -> Tensor:
    """|first - second| (B, D, h, w) of pairs (2B, D, h, w), the dates of a pair together."""
    return (images[::2] - images[1::2]).abs()
