"""The simplest head on a feature pyramid: four scales brought to one size, summed and classified.

Under a plain backbone of windows and whole-image layers (`encoders/vitdet.py`) the scales are its simple pyramid (Li et
al. 2022). Its layers have mixed the image already, so each scale is only turned into common channels by a linear map
and a norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from training.decoders import DecoderSpec, DenseDecoder, resized
from training.pyramid import ChannelNorm

__all__ = ["Spec", "Summed", "build"]


class Spec(DecoderSpec):
    """A sum over scales."""

    kind: Literal["pyramid"] = "pyramid"
    channels: int = Field(256, gt=0)


class Summed(DenseDecoder):
    """Letters: B batch, C channels, K classes; four maps of D_i channels, the finest h x w."""

    def __init__(self, spec: Spec, channels: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_Lateral(width, spec.channels) for width in channels)
        self.classify = nn.Sequential(nn.GELU(), nn.Conv2d(spec.channels, classes, 1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Four maps, finest first, to logits (B, K, h, w) of the finest's size."""
        scales = [lateral(image) for lateral, image in zip(self.lateral, maps, strict=True)]
        return self.classify(torch.stack([resized(scale, maps[0]) for scale in scales]).sum(0))


class _Lateral(nn.Sequential):
    """A linear map of each cell and a norm over its channels."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(nn.Conv2d(before, after, 1, bias=False), ChannelNorm(after))


def build(spec: Spec, channels: tuple[int, ...], strides: tuple[int, ...], classes: int) -> Summed:
    """The decoder of a spec."""
    return Summed(spec, channels, classes)
