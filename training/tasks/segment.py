"""One class for every pixel: a plain ViT's tokens grown back to the resolution of the image.

Each stage doubles the map and halves its channels with a 2 x 2 transposed convolution, a norm over channels and a
GELU, as the scale blocks of simple feature pyramids do (ViTDet, Li et al. 2022); as many stages as the patch is a
power of two, then a 1 x 1 convolution to the classes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from training.encoders import Encoder, Tokens
from training.metrics import Confusion
from training.objectives import Losses, cross_entropy
from training.pyramid import ChannelNorm
from training.tasks import Task, TaskSpec

if TYPE_CHECKING:
    from training.feed import Samples

__all__ = ["Segment", "Spec", "build"]


class Spec(TaskSpec):
    """Semantic segmentation of a labelled layer."""

    kind: Literal["segment"] = "segment"
    layer: str = "lc"
    channels: int = Field(32, gt=0)  # the fewest a stage of the head has


class Segment(Task):
    """A progressively growing head. Letters: B batch, D width, K classes, P patch; grid h x w, image H x W = hP x wP."""

    dense = True
    spec: Spec

    def __init__(self, spec: Spec, encoder: Encoder) -> None:
        super().__init__()
        self.spec = spec
        stages = encoder.patch.bit_length() - 1
        if encoder.patch != 2**stages:
            raise ValueError(
                f"this head doubles its map, so a patch of {encoder.patch} pixels must be a power of two"
            )
        widths = [max(spec.channels, encoder.width >> stage) for stage in range(stages + 1)]
        widths[0] = encoder.width
        grow = [_Doubling(before, after) for before, after in pairwise(widths)]
        self.head = nn.Sequential(*grow, nn.Conv2d(widths[-1], len(spec.classes), 1))

    def target(self, samples: Samples) -> Tensor:
        """Class indices (B, H, W) int64 of the label layer's first date; codes of no class become 255."""
        if self.spec.layer not in samples.layers:
            raise ValueError(
                f"samples have layers {sorted(samples.layers)}, not {self.spec.layer!r}: feed the labels"
            )
        return self.spec.indices(samples.layers[self.spec.layer][:, 0, 0])  # (B, H, W)

    def forward(self, features: Tokens, target: Tensor) -> Losses:
        """Cross-entropy over the labelled pixels of target (B, H, W)."""
        height, width = target.shape[-2:]
        return Losses.sum(cross_entropy=cross_entropy(self.logits(features, (height, width)), target))

    def predict(self, features: Tokens, size: tuple[int, int]) -> Tensor:
        """The likeliest class of each pixel (B, H, W), at `size` (H, W)."""
        return self.logits(features, size).argmax(1)

    def metric(self) -> Confusion:
        """An empty confusion of the classes."""
        return Confusion.empty(self.spec.classes)

    def logits(self, features: Tokens, size: tuple[int, int]) -> Tensor:
        """Logits (B, K, H, W) at `size`; a label grid finer or coarser than the pixels is met by bilinear resizing."""
        logits = self.head(features.map())  # (B, K, hP, wP)
        if tuple(logits.shape[-2:]) == tuple(size):
            return logits
        return F.interpolate(logits, size, mode="bilinear", align_corners=False)


class _Doubling(nn.Sequential):
    """A map of twice the side: transposed convolution, norm over channels, GELU."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(nn.ConvTranspose2d(before, after, 2, stride=2), ChannelNorm(after), nn.GELU())


def build(spec: Spec, encoder: Encoder) -> Segment:
    """The task with a head that fits the encoder's width and patch."""
    return Segment(spec, encoder)
