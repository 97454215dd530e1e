"""One convolution over one map: torchvision's FCN head, alone or as the auxiliary one beside another decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torchvision.models.segmentation.fcn import FCNHead

from training.decoders import DecoderSpec, DenseDecoder
from training.encoders import Encoder
from training.pyramid import Deepest

__all__ = ["Fcn", "Spec", "build"]


class Spec(DecoderSpec):
    """A fully convolutional head. Published ones have 256 hidden channels whatever they read."""

    kind: Literal["fcn"] = "fcn"
    channels: int = Field(256, gt=0)

    def maps(self, encoder: Encoder) -> Deepest:
        """The deepest map."""
        return Deepest(encoder)


class Fcn(DenseDecoder):
    """3 x 3 convolution, batch norm, ReLU, dropout of a tenth, 1 x 1 convolution to K classes."""

    def __init__(self, spec: Spec, width: int, classes: int) -> None:
        super().__init__()
        self.head = FCNHead(4 * spec.channels, classes)  # it quarters what it is given
        self.head[0] = nn.Conv2d(width, spec.channels, 3, padding=1, bias=False)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The last map (B, D, h, w) to logits (B, K, h, w)."""
        return self.head(maps[-1])


def build(spec: Spec, channels: tuple[int, ...], strides: tuple[int, ...], classes: int) -> Fcn:
    """The decoder of a spec."""
    return Fcn(spec, channels[-1], classes)
