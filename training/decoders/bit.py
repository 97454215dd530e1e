"""BIT: two dates summed up in a few tokens, which look at each other before the maps are compared.

"Remote Sensing Image Change Detection with Transformers" (Chen, Qi and Shi 2021). Each date's map of 32 channels gives
four tokens, each the mean of the map under a learnt attention; all eight pass a transformer layer with learnt
positions; each date's map reads its own four back through eight layers of cross-attention. What remains different is
classified. The published network takes the map of stage 3 of a ResNet-18 whose stride was kept at 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from training.decoders import DecoderSpec, DenseDecoder, convolution, difference
from training.encoders import Encoder
from training.pyramid import Deepest

__all__ = ["Bit", "Spec", "build"]

FINE = 4  # stride, in pixels, at which maps are compared


class Spec(DecoderSpec):
    """BIT. Of an encoder that shrinks it reads the map of `stage` (from 1), of a plain one the deepest."""

    kind: Literal["bit"] = "bit"
    stage: int = Field(3, ge=1, le=4)
    channels: int = Field(32, gt=0)
    tokens: int = Field(4, gt=0)  # of each date
    encoders: int = Field(1, ge=0)  # layers of attention among the tokens
    decoders: int = Field(8, ge=0)  # layers in which the maps read them
    heads: int = Field(8, gt=0)
    head_channels: int = Field(64, gt=0)
    hidden: int = Field(64, gt=0)  # of the feed-forwards

    def maps(self, encoder: Encoder) -> Deepest:
        """The map of `stage`, or the deepest."""
        return Deepest(encoder, self.stage)


class Bit(DenseDecoder):
    """Letters: B pairs, C channels, L tokens a date, K classes; a map of D channels, h x w; N of a map at stride 4."""

    def __init__(self, spec: Spec, width: int, stride: int, classes: int) -> None:
        super().__init__()
        self.stride, channels = stride, spec.channels
        self.reduce = nn.Conv2d(width, channels, 3, padding=1)
        self.attend = nn.Conv2d(channels, spec.tokens, 1, bias=False)
        self.places = nn.Parameter(torch.randn(1, 2 * spec.tokens, channels))
        self.encoder = nn.ModuleList(_Layer(spec) for _ in range(spec.encoders))
        self.decoder = nn.ModuleList(_Layer(spec) for _ in range(spec.decoders))
        self.classify = nn.Sequential(
            convolution(channels, channels, 3), nn.Conv2d(channels, classes, 3, padding=1)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """One map (2B, D, h, w), the dates of a pair together, to logits (B, K, H, W) at full resolution."""
        (image,) = maps
        image = self.reduce(grown(image, self.stride / FINE))  # (2B, C, ., .)
        weights = self.attend(image).flatten(2).softmax(2)  # (2B, L, N)
        tokens = weights @ image.flatten(2).transpose(1, 2)  # (2B, L, C)
        both = tokens.unflatten(0, (-1, 2)).flatten(1, 2) + self.places  # (B, 2L, C)
        for layer in self.encoder:
            both = layer(both, both)
        tokens = both.unflatten(1, (2, -1)).flatten(0, 1)  # (2B, L, C)
        cells = image.flatten(2).transpose(1, 2)  # (2B, N, C)
        for layer in self.decoder:
            cells = layer(cells, tokens)
        image = cells.transpose(1, 2).unflatten(2, image.shape[-2:])
        return self.classify(grown(difference(image), FINE))


class _Layer(nn.Module):
    """A pre-norm transformer layer of queries over tokens; its logits are scaled by the width, not the heads'."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        inner = spec.heads * spec.head_channels
        self.heads, self.scale = spec.heads, spec.channels**-0.5
        self.norm1 = nn.LayerNorm(spec.channels)
        self.query = nn.Linear(spec.channels, inner, bias=False)
        self.key = nn.Linear(spec.channels, inner, bias=False)
        self.value = nn.Linear(spec.channels, inner, bias=False)
        self.proj = nn.Linear(inner, spec.channels)
        self.norm2 = nn.LayerNorm(spec.channels)
        self.mlp = nn.Sequential(
            nn.Linear(spec.channels, spec.hidden), nn.GELU(), nn.Linear(spec.hidden, spec.channels)
        )

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Queries (B, N, C) that look at tokens (B, L, C), both through the first norm: (B, N, C)."""
        asking, told = self.norm1(queries), self.norm1(tokens)
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(asking), self.key(told), self.value(told))
        )  # (B, heads, ., channels of a head)
        mixed = F.scaled_dot_product_attention(query, key, value, scale=self.scale)
        queries = queries + self.proj(mixed.transpose(1, 2).flatten(2))
        return queries + self.mlp(self.norm2(queries))


def grown(image: Tensor, times: float) -> Tensor:
    """An image (B, C, h, w) that many times as large, bilinear."""
    if times == 1:
        return image
    return F.interpolate(image, scale_factor=times, mode="bilinear", align_corners=False)


def build(spec: Spec, channels: tuple[int, ...], strides: tuple[int, ...], classes: int) -> Bit:
    """The decoder of a spec."""
    return Bit(spec, channels[-1], strides[-1], classes)
