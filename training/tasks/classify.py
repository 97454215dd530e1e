"""One class for a whole image: a linear map from what the encoder says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from training.encoders import Encoder, Tokens
from training.objectives import Losses, cross_entropy
from training.tasks import Task, TaskSpec, class_label

if TYPE_CHECKING:
    from training.feed import Samples

__all__ = ["Classify", "Linear", "Spec", "build"]

NORM_EPS = 1e-6


class Spec(TaskSpec):
    """Scene classification: `label` names the integer label of the samples, `pool` what stands for the image."""

    kind: Literal["classify"] = "classify"
    label: str
    pool: Literal["cls", "mean"] = "mean"  # the class token, or the mean of the patches
    batch_norm: bool = False  # features standardised over the batch first, as linear probes of MAE do


class Linear(nn.Module):
    """A linear map from one feature of an image to K logits, the pooling before it and the norm between."""

    def __init__(self, width: int, classes: int, pool: Literal["cls", "mean"], *, batch_norm: bool) -> None:
        super().__init__()
        self.pool = pool
        self.norm = nn.BatchNorm1d(width, eps=NORM_EPS, affine=False) if batch_norm else nn.Identity()
        self.linear = nn.Linear(width, classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tokens) -> Tensor:
        """Logits (B, K). Refused when the class token is asked of an encoder without one."""
        if self.pool == "mean":
            return self.linear(self.norm(features.patches.mean(1)))
        if features.cls is None:
            raise ValueError("this encoder has no class token: use pool='mean'")
        return self.linear(self.norm(features.cls))


class Classify(Task[Tokens]):
    """A linear classifier. Letters: B batch, K classes."""

    spec: Spec

    def __init__(self, spec: Spec, encoder: Encoder) -> None:
        super().__init__()
        self.spec = spec
        self.head = Linear(encoder.width, len(spec.classes), spec.pool, batch_norm=spec.batch_norm)

    def target(self, samples: Samples) -> Tensor:
        """Class indices (B,) int64 of the samples' label; codes of no class become 255."""
        return class_label(samples, self.spec.label, self.spec)

    def forward(self, features: Tokens, target: Tensor) -> Losses:
        """Cross-entropy of the logits (B, K) against target (B,)."""
        return Losses.sum(cross_entropy=cross_entropy(self.head(features), target))

    def logits(self, features: Tokens, size: tuple[int, int]) -> Tensor:
        """Logits (B, K); `size` does not matter."""
        return self.head(features)


def build(spec: Spec, encoder: Encoder) -> Classify:
    """The task with a head as wide as the encoder."""
    return Classify(spec, encoder)
