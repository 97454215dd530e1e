"""What has changed between two images of the same ground: one encoder for both, and a decoder over the pair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, cast

from pydantic import Field, model_validator
from torch import Tensor

from training import decoders
from training.decoders import bit, siamese_unet
from training.encoders import Encoder
from training.metrics import Change
from training.objectives import Losses, cross_entropy
from training.tasks import Dates, Series, Task, TaskSpec, class_map
from training.tasks.segment import at

if TYPE_CHECKING:
    from training.feed import Samples

__all__ = ["Changed", "Spec", "build"]


class Spec(TaskSpec):
    """Change detection: class 0 is the same ground, class 1 changed ground, in the pixels of `layer`."""

    kind: Literal["change"] = "change"
    classes: tuple[str, ...] = ("the same", "changed")
    layer: str = "mask"
    decoder: Annotated[bit.Spec | siamese_unet.Spec, Field(discriminator="kind")] = bit.Spec()

    @model_validator(mode="after")
    def _two_classes(self) -> Spec:
        if len(self.classes) != 2:
            raise ValueError(f"ground has changed or not, which is two classes, not {self.classes}")
        return self


class Changed(Task[Series]):
    """A decoder of pairs, brought to the size of the labels. Letters: B pairs; image H x W."""

    dense = True
    dates: Dates = "pair"
    spec: Spec

    def __init__(self, spec: Spec, encoder: Encoder) -> None:
        super().__init__()
        self.spec = spec
        self.head = decoders.build(spec.decoder, encoder, len(spec.classes))

    def target(self, samples: Samples) -> Tensor:
        """0 or 1 (B, H, W) int64 of the label layer; codes of neither become 255."""
        return class_map(samples, self.spec.layer, self.spec)

    def forward(self, features: Series, target: Tensor) -> Losses:
        """Cross-entropy over the labelled pixels of target (B, H, W)."""
        size = cast(tuple[int, int], tuple(target.shape[-2:]))
        return Losses.sum(cross_entropy=cross_entropy(self.logits(features, size), target))

    def logits(self, features: Series, size: tuple[int, int]) -> Tensor:
        """Logits (B, 2, H, W) at `size`. Raises ValueError unless every sample has two dates."""
        if features.present.shape[1] != 2:
            raise ValueError(f"change is of two dates, not {features.present.shape[1]}: give pairs")
        return at(self.head(features.tokens), size)

    def metric(self) -> Change:
        """Scores of the changed pixels, with nothing counted yet."""
        return Change.empty()


def build(spec: Spec, encoder: Encoder) -> Changed:
    """The task with a head that fits the encoder's maps."""
    return Changed(spec, encoder)
