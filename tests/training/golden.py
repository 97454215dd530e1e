"""Weights and pixels made by an integer hash, from which published implementations' numbers are known."""

import math
import zlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from training.methods import Method, Progress
from training.objectives import Losses

TABLES = ("cls_token", "mask_token", "s_mask_token", "pos_embed", "rel_pos_h", "rel_pos_w")


def hashed(first: int, count: int) -> Tensor:
    """Uniform in -0.5..0.5 by a 32-bit integer hash of first, first + 1, ... (mod 2**32)."""
    x = (torch.arange(count, dtype=torch.int64) + first) & 0xFFFFFFFF
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return (x ^ (x >> 16)).double() / 2**32 - 0.5


def hash_weights(
    module: nn.Module,
    *,
    ones: bool = False,
    named: Callable[[str], str] = lambda name: name.removeprefix("encoder."),
) -> None:
    """Every parameter from its name alone, so that two implementations start from the same numbers.

    Norms' weights and scales lie around 1, or with `ones` all vectors of weights, as the pyramid's fixture has it.
    `named` gives the name that the published implementation has for one of ours.
    """
    for ours, parameter in module.named_parameters():
        name = named(ours)
        key = zlib.crc32(name.encode()) % 10007
        scale = name.endswith("weight_g")
        if name.rpartition(".")[2] in TABLES:
            sigma = 0.5
        else:
            flat = parameter.ndim == 1 or scale
            sigma = 0.1 if flat else 1 / math.sqrt(parameter.numel() / parameter.shape[0])
        around_one = parameter.ndim == 1 if ones else "norm" in name
        base = 1.0 if scale or (around_one and name.endswith("weight")) else 0.0
        values = base + hashed(1 + 1000003 * key, parameter.numel()) * math.sqrt(12) * sigma
        with torch.no_grad():
            parameter.copy_(values.reshape(parameter.shape))


def hashed_pictures(draw: int, count: int, side: int) -> Tensor:
    """Images (count, 3, side, side) of a numbered draw."""
    return (
        (hashed(7777777 * draw, count * 3 * side * side) * math.sqrt(12))
        .reshape(count, 3, side, side)
        .float()
    )


def stepped(
    method: Method, losses: Callable[[], Losses], steps: int = 3
) -> list[tuple[Losses, float, dict[str, Tensor]]]:
    """Steps of AdamW as the published fixture makes them: of each the losses, the norm of the gradient, and its parts.

    Teachers follow as in the first step of a very long run.
    """
    learns = {name: part for name, part in method.named_parameters() if part.requires_grad}
    optimizer = torch.optim.AdamW(learns.values(), lr=1e-3, betas=(0.9, 0.999), eps=2e-5, weight_decay=0.04)
    found = []
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        value = losses()
        value.total.backward()
        parts = {name: part.grad.clone() for name, part in learns.items() if part.grad is not None}
        norm = nn.utils.clip_grad_norm_(learns.values(), 3.0).item()
        optimizer.step()
        method.after_step(Progress(1, 10**9))
        found.append((value, norm, parts))
    return found
