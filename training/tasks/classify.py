"""One class for a whole image: a linear map from what the encoder says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from training.encoders import Encoder, Tokens
from training.metrics import Confusion
from training.objectives import Losses, cross_entropy
from training.tasks import Task, TaskSpec

if TYPE_CHECKING:
    from training.feed import Samples

__all__ = ["Classify", "Spec", "build"]


class Spec(TaskSpec):
    """Scene classification: `label` names the integer label of the samples, `pool` what stands for the image."""

    kind: Literal["classify"] = "classify"
    label: str
    pool: Literal["cls", "mean"] = "mean"  # the class token, or the mean of the patches


class Classify(Task):
    """A linear classifier. Letters: B batch, L patches, D width, K classes."""

    spec: Spec

    def __init__(self, spec: Spec, encoder: Encoder) -> None:
        super().__init__()
        self.spec = spec
        self.head = nn.Linear(encoder.width, len(spec.classes))
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def target(self, samples: Samples) -> Tensor:
        """Class indices (B,) int64 of the samples' label; codes of no class become 255."""
        if self.spec.label not in samples.labels:
            raise ValueError(
                f"samples have labels {sorted(samples.labels)}, not {self.spec.label!r}: name one of them"
            )
        return self.spec.indices(samples.labels[self.spec.label])

    def forward(self, features: Tokens, target: Tensor) -> Losses:
        """Cross-entropy of the logits (B, K) against target (B,)."""
        return Losses.sum(cross_entropy=cross_entropy(self.logits(features), target))

    def predict(self, features: Tokens, size: tuple[int, int]) -> Tensor:
        """The likeliest class (B,); `size` does not matter."""
        return self.logits(features).argmax(1)

    def metric(self) -> Confusion:
        """An empty confusion of the classes."""
        return Confusion.empty(self.spec.classes)

    def logits(self, features: Tokens) -> Tensor:
        """Logits (B, K). Refused when the class token is asked of an encoder without one."""
        if self.spec.pool == "mean":
            return self.head(features.patches.mean(1))
        if features.cls is None:
            raise ValueError("this encoder has no class token: use pool='mean'")
        return self.head(features.cls)


def build(spec: Spec, encoder: Encoder) -> Classify:
    """The task with a head as wide as the encoder."""
    return Classify(spec, encoder)
