"""The Siamese U-Net for change: what differs between two dates at each scale, decoded from coarse to fine.

Its input is |F1 - F2| of each scale (Daudt et al. 2018), its stages those of the multi-task pretraining paper's change
detector (MTP, Wang et al. 2024): nearest doubling, the next finer difference beside it, two convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from training.decoders import DecoderSpec, DenseDecoder, convolution, difference, resized

__all__ = ["SiameseUNet", "Spec", "build"]


class Spec(DecoderSpec):
    """A U-Net over differences. `channels` of its stages, coarse to fine; the last has no scale of its own."""

    kind: Literal["siamese_unet"] = "siamese_unet"
    channels: tuple[int, int, int, int] = (512, 256, 128, 64)
    dropout: float = Field(0.1, ge=0, lt=1)


class SiameseUNet(DenseDecoder):
    """Letters: B pairs, K classes; four maps of D_i channels, the finest h x w."""

    def __init__(self, spec: Spec, channels: tuple[int, ...], classes: int) -> None:
        super().__init__()
        coarse_to_fine = (channels[-1], *spec.channels)
        beside = (*reversed(channels[:-1]), 0)
        self.stages = nn.ModuleList(
            _Stage(before, skip, after)
            for (before, after), skip in zip(pairwise(coarse_to_fine), beside, strict=True)
        )
        self.classify = nn.Sequential(nn.Dropout2d(spec.dropout), nn.Conv2d(spec.channels[-1], classes, 1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Four maps (2B, D_i, ., .), finest first, the dates of a pair together, to logits (B, K, 4h, 4w)."""
        *finer, image = (difference(scale) for scale in maps)
        for stage, skip in zip(self.stages, [*reversed(finer), None], strict=True):
            image = stage(image, skip)
        return self.classify(F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False))


class _Stage(nn.Module):
    """Twice the side, with what is known at that scale beside it."""

    def __init__(self, before: int, skip: int, after: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(convolution(before + skip, after, 3), convolution(after, after, 3))

    def forward(self, image: Tensor, skip: Tensor | None) -> Tensor:
        image = F.interpolate(image, scale_factor=2, mode="nearest")
        return self.mix(image if skip is None else torch.cat([image, resized(skip, image)], dim=1))


def build(spec: Spec, channels: tuple[int, ...], strides: tuple[int, ...], classes: int) -> SiameseUNet:
    """The decoder of a spec."""
    return SiameseUNet(spec, channels, classes)
