"""Feature pyramids over a plain backbone: four scales made of its maps by transposed convolutions and pooling.

The simple pyramid of ViTDet (Li et al. 2022): a map at the stride of the patch becomes ones at a quarter, half, once
and twice that stride. The billion-scale paper makes all four of the last map for detection and one each of layers 3, 6,
9 and 12 for segmentation (sec. III). Two channel plans: `narrow` halves channels as it grows and ends in `channels`
(the published detectors'); `wide` keeps them, for heads that bring their own convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ChannelNorm", "Pyramid"]

NORM_EPS = 1e-6
SCALES = (4.0, 2.0, 1.0, 0.5)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, H, W), each pixel alone."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=NORM_EPS)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return super().forward(image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Pyramid(nn.Module):
    """Maps (B, D, h, w) of a plain backbone to four, at 4, 2, 1 and 1/2 times its resolution, finest first.

    Given one map, all four are made of it; given four, one of each. Parameters are named as detectron2 names them,
    `simfp_N` with N the binary logarithm of the stride in pixels. Raises ValueError for another number of maps.
    """

    def __init__(
        self, width: int, patch: int, channels: int = 256, plan: Literal["narrow", "wide"] = "narrow"
    ) -> None:
        super().__init__()
        if patch < 4 or patch & (patch - 1):
            raise ValueError(
                f"a pyramid doubles and halves strides, so patch {patch} must be a power of two from 4"
            )
        self.names = [f"simfp_{int(math.log2(patch / scale))}" for scale in SCALES]
        self.channels = channels if plan == "narrow" else width
        for name, scale in zip(self.names, SCALES, strict=True):
            self.add_module(
                name, nn.Sequential(*_level(width, scale, channels if plan == "narrow" else None))
            )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Four maps (B, channels, ., .), finest first."""
        if len(maps) not in (1, len(self.names)):
            raise ValueError(
                f"a pyramid is made of 1 or {len(self.names)} maps, not {len(maps)}; change the taps"
            )
        sources = list(maps) * (len(self.names) // len(maps))
        return [self.get_submodule(name)(source) for name, source in zip(self.names, sources, strict=True)]


def _level(width: int, scale: float, channels: int | None) -> list[nn.Module]:
    narrow = channels is not None
    after, last = (width // 2, width // 4) if narrow else (width, width)
    plans: dict[float, list[nn.Module]] = {
        4.0: [_doubling(width, after), ChannelNorm(after), nn.GELU(), _doubling(after, last)],
        2.0: [_doubling(width, after)],
        1.0: [],
        0.5: [nn.MaxPool2d(2)],
    }
    grow = plans[scale]
    if channels is None:
        return grow
    entering = {4.0: last, 2.0: after}.get(scale, width)
    return [*grow, _Conv(entering, channels, 1), _Conv(channels, channels, 3)]


def _doubling(before: int, after: int) -> nn.Module:
    return nn.ConvTranspose2d(before, after, 2, stride=2)


class _Conv(nn.Conv2d):
    """A convolution without bias and the norm after it."""

    def __init__(self, before: int, after: int, size: int) -> None:
        super().__init__(before, after, size, padding=size // 2, bias=False)
        self.norm = ChannelNorm(after)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(F.conv2d(image, self.weight, padding=self.padding))
