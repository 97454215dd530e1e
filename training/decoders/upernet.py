"""UPerNet: a feature pyramid whose coarsest map knows the whole image, all scales fused for one prediction.

"Unified Perceptual Parsing for Scene Understanding" (Xiao et al. 2018), with the convolutions of the implementation
that the segmentation results of satellite encoders come from: batch norms, bilinear resizing without aligned corners,
512 channels, pools of 1, 2, 3 and 6 cells, dropout of a tenth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from training.decoders import DecoderSpec, DenseDecoder, convolution, resized

__all__ = ["Spec", "UPerNet", "build"]


class Spec(DecoderSpec):
    """UPerNet. `out` is the width of the map that is classified; None: `channels`, as published."""

    kind: Literal["upernet"] = "upernet"
    channels: int = Field(512, gt=0)
    out: int | None = Field(None, gt=0)
    pools: tuple[int, ...] = (1, 2, 3, 6)  # cells a side that the coarsest map is averaged to
    dropout: float = Field(0.1, ge=0, lt=1)


class UPerNet(DenseDecoder):
    """Letters: B batch, C channels, K classes; four maps of D_i channels, the finest h x w."""

    def __init__(self, spec: Spec, channels: tuple[int, ...], classes: int) -> None:
        super().__init__()
        hidden, out = spec.channels, spec.out or spec.channels
        self.pools = nn.ModuleList(_Pool(channels[-1], hidden, cells) for cells in spec.pools)
        self.context = convolution(channels[-1] + len(spec.pools) * hidden, hidden, 3)
        self.lateral = nn.ModuleList(convolution(width, hidden, 1) for width in channels[:-1])
        self.smooth = nn.ModuleList(convolution(hidden, hidden, 3) for _ in channels[:-1])
        self.fuse = convolution(len(channels) * hidden, out, 3)
        self.classify = nn.Sequential(nn.Dropout2d(spec.dropout), nn.Conv2d(out, classes, 1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Four maps, finest first, to logits (B, K, h, w) of the finest's size."""
        return self.classify(self.fused(maps))

    def fused(self, maps: Sequence[Tensor]) -> Tensor:
        """What is classified: (B, out, h, w)."""
        coarsest = maps[-1]
        pooled = [resized(pool(coarsest), coarsest) for pool in self.pools]
        scales = [self.context(torch.cat([coarsest, *pooled], dim=1))]  # (B, C, ., .)
        for lateral, image in zip(reversed(self.lateral), reversed(maps[:-1]), strict=True):
            scales.insert(0, lateral(image) + resized(scales[0], image))
        smoothed = [smooth(image) for smooth, image in zip(self.smooth, scales[:-1], strict=True)]
        alike = [resized(image, maps[0]) for image in [*smoothed, scales[-1]]]
        return self.fuse(torch.cat(alike, dim=1))


class _Pool(nn.Sequential):
    """The averages over a grid of cells, through a convolution of their own."""

    def __init__(self, before: int, after: int, cells: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(cells), convolution(before, after, 1))


def build(spec: Spec, channels: tuple[int, ...], strides: tuple[int, ...], classes: int) -> UPerNet:
    """The decoder of a spec."""
    return UPerNet(spec, channels, classes)
