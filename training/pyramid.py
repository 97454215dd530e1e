"""Maps of several scales, whatever the encoder: its own, or four made of a plain one's by transposed convolutions.

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

from training.encoders import Encoder, Tokens

__all__ = ["ChannelNorm", "Deepest", "Ends", "Levels", "Pyramid"]

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


class Levels(nn.Module):
    """Four maps of an encoded image, finest first: those of an encoder that shrinks, or a `Pyramid` over a plain one's.

    `channels` and `strides` (pixels) are those of the maps. Raises ValueError for encoders that give neither one scale
    nor four maps.
    """

    def __init__(
        self, encoder: Encoder, channels: int = 256, plan: Literal["narrow", "wide"] = "wide"
    ) -> None:
        super().__init__()
        self.pyramid: Pyramid | None = None
        self.channels, self.strides = encoder.channels, encoder.strides
        if len(set(encoder.strides)) <= 1:
            self.pyramid = Pyramid(encoder.width, encoder.patch, channels, plan)
            self.channels = (self.pyramid.channels,) * len(SCALES)
            self.strides = tuple(int(encoder.patch / scale) for scale in SCALES)
        if len(encoder.strides) not in (0, 1, len(SCALES)):
            raise ValueError(
                f"four scales are made of 1 or {len(SCALES)} maps, not {len(encoder.strides)}; change the encoder's taps"
            )

    def forward(self, tokens: Tokens) -> list[Tensor]:
        """Four maps (B, channels, ., .), finest first."""
        if self.pyramid is None:
            return list(tokens.maps)
        return self.pyramid(tokens.maps or [tokens.map()])


class Deepest(nn.Module):
    """One map as a list: the last an encoder gives, or that of `stage`, from 1, where its maps are of several scales.

    `channels` and `strides` (pixels) have one entry each.
    """

    def __init__(self, encoder: Encoder, stage: int = len(SCALES)) -> None:
        super().__init__()
        self.place = min(stage, len(encoder.strides)) - 1 if len(set(encoder.strides)) > 1 else -1
        self.channels = (encoder.channels[self.place] if encoder.channels else encoder.width,)
        self.strides = (encoder.strides[self.place] if encoder.strides else encoder.patch,)

    def forward(self, tokens: Tokens) -> list[Tensor]:
        """One map (B, channels, h, w)."""
        return [tokens.maps[self.place] if tokens.maps else tokens.map()]


class Ends(nn.Module):
    """A fine and a deep map: an encoder's first and last, or of a plain one its first at four times its resolution.

    `channels` and `strides` (pixels) have two entries each.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        channels, strides = encoder.channels or (encoder.width,), encoder.strides or (encoder.patch,)
        grow = len(set(strides)) == 1
        self.finer = nn.Sequential(*(_level(channels[0], SCALES[0], None) if grow else []))
        self.channels = channels[0], channels[-1]
        self.strides = strides[0] // (int(SCALES[0]) if grow else 1), strides[-1]

    def forward(self, tokens: Tokens) -> list[Tensor]:
        """Two maps (B, channels, ., .), the finer first."""
        maps = tokens.maps or (tokens.map(),)
        return [self.finer(maps[0]), maps[-1]]


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
