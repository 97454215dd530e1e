"""Objectives: pure functions from tensors to a scalar. An objective knows no model.

Each docstring gives the plain loop it stands for; the tests run the loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from training.metrics import IGNORE

__all__ = ["Losses", "cross_entropy", "masked_mse", "standardise"]


@dataclass(frozen=True)
class Losses:
    """What one forward pass found: the scalar to descend, and its named parts for the record."""

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def sum(cls, **parts: Tensor) -> Losses:
        """Losses whose total is the plain sum of the named parts, the commonest case."""
        return cls(
            torch.stack(list(parts.values())).sum(), {name: part.detach() for name, part in parts.items()}
        )


def masked_mse(guess: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over hidden patches (MAE, He et al. 2022, sec. 3): both (B, M, V), V values a patch.

        total = 0
        for each image, for each hidden patch:
            total += mean((guess - target) ** 2 over the V values)
        return total / (B * M)

    Only hidden patches are passed, so visible ones cannot count. Computed in float32 whatever comes in.
    """
    return F.mse_loss(guess.float(), target.float())


def standardise(patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Patches (..., V) with each one's own mean and variance removed, the mean and the deviation (..., 1).

        for each patch: (values - mean) / sqrt(variance + 1e-6), variance over V - 1 (MAE, He et al. 2022, sec. 4.1)

    `standardised * deviation + mean` is the patch again.
    """
    patches = patches.float()
    mean = patches.mean(-1, keepdim=True)
    centred = patches - mean
    variance = centred.square().sum(-1, keepdim=True) / (
        patches.shape[-1] - 1
    )  # a third of the time of `var`
    deviation = (variance + 1e-6).sqrt()
    return centred / deviation, mean, deviation


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the counted targets of -log softmax(logits)[target]: logits (B, K, ...), target (B, ...).

        for each position with target != 255: total += log(sum(exp(logits))) - logits[target]; counted += 1
        return total / max(counted, 1)

    A batch without a counted target gives 0, with zero gradient. Computed in float32 whatever comes in.
    """
    counted = (target != IGNORE).sum().clamp(min=1)
    return F.cross_entropy(logits.float(), target, ignore_index=IGNORE, reduction="sum") / counted
