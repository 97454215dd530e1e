"""One class for every pixel: a decoder over the encoder's maps, and if wanted a second, auxiliary one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, cast

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from training import decoders
from training.decoders import deeplabv3plus, fcn, growing, psanet, pyramid, upernet
from training.encoders import Encoder, Tokens
from training.objectives import Losses, cross_entropy
from training.pyramid import Deepest
from training.tasks import Task, TaskSpec, class_map

if TYPE_CHECKING:
    from training.feed import Samples

__all__ = ["AnyDecoder", "Segment", "Spec", "at", "build"]

AnyDecoder = Annotated[
    growing.Spec | upernet.Spec | fcn.Spec | psanet.Spec | deeplabv3plus.Spec | pyramid.Spec,
    Field(discriminator="kind"),
]

AUXILIARY_STAGE = 3


class Spec(TaskSpec):
    """Semantic segmentation of a labelled layer.

    `auxiliary` weighs the loss of an FCN head on the third of the encoder's four maps, or on a plain encoder's last;
    0: there is none. Published segmenters have 0.4. It learns beside the decoder and is not asked for predictions.
    """

    kind: Literal["segment"] = "segment"
    layer: str = "lc"
    decoder: AnyDecoder = growing.Spec()
    auxiliary: float = Field(0.0, ge=0)


class Segment(Task[Tokens]):
    """A decoder, brought to the size of the labels. Letters: B batch, K classes; image H x W."""

    dense = True
    spec: Spec

    def __init__(self, spec: Spec, encoder: Encoder) -> None:
        super().__init__()
        self.spec = spec
        self.head = decoders.build(spec.decoder, encoder, len(spec.classes))
        if spec.auxiliary:
            source = Deepest(encoder, AUXILIARY_STAGE)
            self.auxiliary = decoders.DenseHead(
                source, fcn.build(fcn.Spec(), source.channels, source.strides, len(spec.classes))
            )

    def target(self, samples: Samples) -> Tensor:
        """Class indices (B, H, W) int64 of the label layer's first date; codes of no class become 255."""
        return class_map(samples, self.spec.layer, self.spec)

    def forward(self, features: Tokens, target: Tensor) -> Losses:
        """Cross-entropy over the labelled pixels of target (B, H, W), the auxiliary head's weighed beside it."""
        size = cast(tuple[int, int], tuple(target.shape[-2:]))
        parts = {"cross_entropy": cross_entropy(self.logits(features, size), target)}
        if self.spec.auxiliary:
            aside = cross_entropy(at(self.auxiliary(features), size), target)
            parts["auxiliary"] = self.spec.auxiliary * aside
        return Losses.sum(**parts)

    def logits(self, features: Tokens, size: tuple[int, int]) -> Tensor:
        """Logits (B, K, H, W) at `size`."""
        return at(self.head(features), size)


def at(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (B, K, ., .) on a grid of labels of `size` (H, W), finer or coarser than their own: bilinear resizing."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def build(spec: Spec, encoder: Encoder) -> Segment:
    """The task with a head that fits the encoder's maps."""
    return Segment(spec, encoder)
