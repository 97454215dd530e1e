"""DeepLabV3+: convolutions of several reaches over the deepest map, refined by the finest.

"Encoder-DenseDecoder with Atrous Separable Convolution" (Chen et al. 2018), the decoder of segmentation-models-pytorch, over
a residual network at `output_stride=8`. That of the published satellite results differs from it: a network with a deep
stem, an auxiliary head (a task's `auxiliary`), dropout of a tenth before the last layer instead of a half after the
reaches, and two separable convolutions at the end where there is one here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from training.decoders import DecoderSpec, DenseDecoder
from training.encoders import Encoder
from training.pyramid import Ends

__all__ = ["DeepLabV3Plus", "Spec", "build"]

RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}
"""Reach of the three dilated convolutions by the stride of the map: always the same ground."""


class Spec(DecoderSpec):
    """DeepLabV3+. `channels` are of every convolution but the 48 of the finest map."""

    kind: Literal["deeplabv3plus"] = "deeplabv3plus"
    channels: int = Field(512, gt=0)
    dropout: float = Field(0.5, ge=0, lt=1)

    def maps(self, encoder: Encoder) -> Ends:
        """The finest and the deepest map."""
        return Ends(encoder)


class DeepLabV3Plus(DenseDecoder):
    """Letters: B batch, C channels, K classes; the finest map h x w."""

    def __init__(self, spec: Spec, channels: tuple[int, ...], strides: tuple[int, ...], classes: int) -> None:
        from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder

        super().__init__()
        if strides[-1] not in RATES or strides[-1] % strides[0]:
            raise ValueError(
                f"DeepLabV3+ reads a deepest map of stride {', '.join(map(str, RATES))}, not {strides[-1]}: "
                "change the patch or output_stride"
            )
        self.body: Any = DeepLabV3PlusDecoder(
            encoder_channels=(0, 0, channels[0], channels[-1]),
            encoder_depth=3,
            out_channels=spec.channels,
            atrous_rates=RATES[strides[-1]],
            output_stride=8,
            aspp_separable=True,
            aspp_dropout=spec.dropout,
        )
        self.body.up = nn.Upsample(
            scale_factor=strides[-1] // strides[0], mode="bilinear", align_corners=True
        )
        self.classify = nn.Conv2d(spec.channels, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The finest and the deepest map to logits (B, K, h, w) of the finest's size."""
        finest, deepest = maps
        return self.classify(self.body([finest, finest, finest, deepest]))  # it reads the third and the last


def build(spec: Spec, channels: tuple[int, ...], strides: tuple[int, ...], classes: int) -> DeepLabV3Plus:
    """The decoder of a spec. Raises ValueError for a deepest map of another stride than 8, 16 or 32."""
    return DeepLabV3Plus(spec, channels, strides, classes)
