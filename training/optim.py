"""What moves the parameters: groups, the rate as a function of progress, and nothing that depends on the machine.

Matrices decay and vectors (biases, norms) do not; with a layer decay the rate shrinks from the head towards the
pixels. The rate is derived, `lr_per_256` x batch / 256 x schedule(progress), and never stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from training.methods import Method, Progress
from training.recipe import Cosine, Optimizer, Poly, Recipe, Steps

__all__ = ["build", "clip", "factor", "groups", "rate", "set_rate"]


def build(method: Method, optim: Optimizer) -> torch.optim.AdamW:
    """AdamW over the parameters that learn. Call `set_rate` before each step."""
    return torch.optim.AdamW(groups(method, optim), lr=0.0, betas=optim.betas)


def groups(method: Method, optim: Optimizer) -> list[dict[str, Any]]:
    """Parameter groups, each with its `weight_decay` and the `scale` of its rate. Raises ValueError if nothing learns."""
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            decay = optim.weight_decay if parameter.ndim >= 2 else 0.0
            depth = method.last_layer - method.layer_id(name)
            found.setdefault((optim.layer_decay**depth, decay), []).append(parameter)
    if not found:
        raise ValueError(f"no parameter of {type(method).__name__} learns; unfreeze some")
    return [
        {"params": parameters, "scale": scale, "weight_decay": decay}
        for (scale, decay), parameters in sorted(found.items(), key=lambda item: item[0], reverse=True)
    ]


def factor(schedule: Cosine | Poly | Steps, progress: Progress) -> float:
    """The share of the full rate for the next step, 0 to 1.

    The k-th of w warmup steps has (k + 1) / w. After it, with t the share of the remaining run that is done: cosine
    floor + (1 - floor) (1 + cos pi t) / 2; poly (1 - t) ** power; steps gamma ** (milestones passed), where
    milestones are fractions of the whole run.
    """
    warmup = round(schedule.warmup * progress.steps)
    if progress.step < warmup:
        return (progress.step + 1) / warmup
    done = (progress.step - warmup) / max(1, progress.steps - warmup)
    if isinstance(schedule, Cosine):
        return schedule.floor + (1 - schedule.floor) * (1 + math.cos(math.pi * done)) / 2
    if isinstance(schedule, Poly):
        return (1 - done) ** schedule.power
    return schedule.gamma ** sum(progress.fraction >= milestone for milestone in schedule.milestones)


def rate(recipe: Recipe, progress: Progress) -> float:
    """The learning rate of the next step, before layer decay."""
    return recipe.optim.lr_per_256 * recipe.batch / 256 * factor(recipe.schedule, progress)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give each group its share of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]


def clip(parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
    """The norm of the gradient over all parameters, scaled down to `limit` where it is larger."""
    norm: Tensor = nn.utils.clip_grad_norm_(list(parameters), math.inf if limit is None else limit)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm
