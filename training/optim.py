"""What moves the parameters: groups, the rate as a function of progress, and nothing that depends on the machine.

Matrices decay and vectors (biases, norms) do not, unless a recipe says so; with a layer decay the rate shrinks from the
head towards the pixels. Rate and weight decay follow from recipe and progress and are never stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from training.methods import Method, Progress
from training.recipe import AnyOptimizer, AnySchedule, Cosine, Poly, Recipe, Restarts, Sgd
from training.schedules import cosine

__all__ = ["build", "clip", "decay", "factor", "groups", "rate", "set_rates"]


def build(method: Method, optim: AnyOptimizer) -> torch.optim.Optimizer:
    """The optimizer over the parameters that learn. Call `set_rates` before each step."""
    found = groups(method, optim)
    if isinstance(optim, Sgd):
        return torch.optim.SGD(found, lr=0.0, momentum=optim.momentum)
    return torch.optim.AdamW(found, lr=0.0, betas=optim.betas, eps=optim.eps)


def groups(method: Method, optim: AnyOptimizer) -> list[dict[str, Any]]:
    """Parameter groups, each with the `scale` of its rate, whether it `decays`, and the `name` of one of its parameters.

    Parameters share a group when their depth and decay agree, and their own `rate_scale` at both ends of a run. Raises
    ValueError if nothing learns.
    """
    found: dict[tuple[float, bool, float, float], tuple[str, list[nn.Parameter]]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            decays = _decays(name, parameter, optim)
            depth = method.last_layer - method.layer_id(name)
            first, last = (method.rate_scale(name, Progress(step, 1)) for step in (0, 1))
            key = (optim.layer_decay**depth, decays, first, last)
            found.setdefault(key, (name, []))[1].append(parameter)
    if not found:
        raise ValueError(f"no parameter of {type(method).__name__} learns; unfreeze some")
    return [
        {"params": parameters, "scale": key[0], "decays": key[1], "weight_decay": 0.0, "name": name}
        for key, (name, parameters) in sorted(found.items(), key=lambda item: item[0], reverse=True)
    ]


def _decays(name: str, parameter: nn.Parameter, optim: AnyOptimizer) -> bool:
    if optim.decay == "maps" and name.rpartition(".")[2] not in ("weight", "weight_v"):
        return False
    return optim.decay == "all" or parameter.ndim >= 2


def factor(schedule: AnySchedule, progress: Progress) -> float:
    """The share of the full rate for the next step, 0 to 1.

    The k-th of w warmup steps has (k + 1) / w, or k / (w - 1) when inclusive. After it, with t the share of the remaining
    run that is done: cosine floor + (1 - floor) (1 + cos pi t) / 2; restarts the same with t within a round; poly
    (1 - t) ** power; steps gamma ** (milestones passed), where milestones are fractions of the whole run.
    """
    warmup = round(schedule.warmup * progress.steps)
    if progress.step < warmup:
        inclusive = isinstance(schedule, Cosine) and schedule.inclusive and warmup > 1
        return progress.step / (warmup - 1) if inclusive else (progress.step + 1) / warmup
    step, steps = progress.step - warmup, max(1, progress.steps - warmup)
    if isinstance(schedule, Poly):
        return (1 - step / steps) ** schedule.power
    if isinstance(schedule, Cosine | Restarts):
        done = step / steps if isinstance(schedule, Cosine) else _within(schedule, step, steps)
        return schedule.floor + (1 - schedule.floor) * (1 + math.cos(math.pi * done)) / 2
    return schedule.gamma ** sum(progress.fraction >= milestone for milestone in schedule.milestones)


def _within(schedule: Restarts, step: int, steps: int) -> float:
    """The share of its round that is done, counted in whole epochs where a round has them."""
    if schedule.epochs is None:
        return step * schedule.rounds % steps / steps
    return step * schedule.rounds * schedule.epochs // steps % schedule.epochs / schedule.epochs


def rate(recipe: Recipe, progress: Progress) -> float:
    """The learning rate of the next step, before layer decay."""
    full = recipe.optim.lr_per_256 * (recipe.batch / 256) ** recipe.optim.batch_power
    return full * factor(recipe.schedule, progress)


def decay(optim: AnyOptimizer, progress: Progress) -> float:
    """The weight decay of the next step."""
    if optim.weight_decay_end is None:
        return optim.weight_decay
    return cosine(optim.weight_decay, optim.weight_decay_end, progress)


def set_rates(optimizer: torch.optim.Optimizer, method: Method, recipe: Recipe, progress: Progress) -> None:
    """Give each group its share of the rate and of the weight decay of the next step."""
    lr, shrink = rate(recipe, progress), decay(recipe.optim, progress)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"] * method.rate_scale(group["name"], progress)
        group["weight_decay"] = shrink if group["decays"] else 0.0


def clip(parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
    """The norm of the gradient over all parameters, scaled down to `limit` where it is larger."""
    norm: Tensor = nn.utils.clip_grad_norm_(list(parameters), math.inf if limit is None else limit)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm
