"""Several classes at once for a whole image: a linear map, and each class a question of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from training.encoders import Encoder, Tokens
from training.metrics import IGNORE, MultiLabel
from training.objectives import Losses, binary_cross_entropy
from training.tasks import Task, TaskSpec, integers
from training.tasks.classify import Linear

if TYPE_CHECKING:
    from training.feed import Samples

__all__ = ["ManyLabels", "Spec", "build"]

BITS = 63  # of a stored label, whose sign is left alone


class Spec(TaskSpec):
    """Multi-label classification. Bit `codes[i]` of the integer label `label` says whether class i holds.

    A negative label says nothing, and is ignored.
    """

    kind: Literal["multilabel"] = "multilabel"
    label: str = "classes"
    pool: Literal["cls", "mean"] = "mean"
    batch_norm: bool = False  # as of `classify`

    @model_validator(mode="after")
    def _a_bit_a_class(self) -> Spec:
        if max(self.stored) >= BITS:
            raise ValueError(f"a label has bits 0 to {BITS - 1}, and code {max(self.stored)} is none of them")
        return self


class ManyLabels(Task[Tokens]):
    """A linear classifier of K yes-or-no questions. Letters: B batch, K classes."""

    spec: Spec

    def __init__(self, spec: Spec, encoder: Encoder) -> None:
        super().__init__()
        self.spec = spec
        self.head = Linear(encoder.width, len(spec.classes), spec.pool, batch_norm=spec.batch_norm)

    def target(self, samples: Samples) -> Tensor:
        """0 or 1 of each class (B, K) int64, in a row of 255 where the label is negative."""
        labels = integers(samples, self.spec.label).long()
        bits = torch.tensor(self.spec.stored, device=labels.device)
        held = (labels[:, None] >> bits) & 1  # (B, K)
        return torch.where(labels[:, None] < 0, IGNORE, held)

    def forward(self, features: Tokens, target: Tensor) -> Losses:
        """Binary cross-entropy of the logits (B, K) against target (B, K)."""
        return Losses.sum(binary_cross_entropy=binary_cross_entropy(self.head(features), target))

    def logits(self, features: Tokens, size: tuple[int, int]) -> Tensor:
        """Logits (B, K); `size` does not matter."""
        return self.head(features)

    def decide(self, logits: Tensor) -> Tensor:
        """The probability of each class (B, K), by which they are ranked; above a half it is held to be there."""
        return logits.float().sigmoid()

    def metric(self) -> MultiLabel:
        """Average precision, with nothing ranked yet."""
        return MultiLabel.empty(self.spec.classes)


def build(spec: Spec, encoder: Encoder) -> ManyLabels:
    """The task with a head as wide as the encoder."""
    return ManyLabels(spec, encoder)
