"""Weights and pixels made by an integer hash, from which published implementations' numbers are known."""

import math
import zlib

import torch
from torch import Tensor, nn

TABLES = ("cls_token", "mask_token", "pos_embed", "rel_pos_h", "rel_pos_w")


def hashed(first: int, count: int) -> Tensor:
    """Uniform in -0.5..0.5 by a 32-bit integer hash of first, first + 1, ... (mod 2**32)."""
    x = (torch.arange(count, dtype=torch.int64) + first) & 0xFFFFFFFF
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return (x ^ (x >> 16)).double() / 2**32 - 0.5


def hash_weights(module: nn.Module, *, ones: bool = False) -> None:
    """Every parameter from its name alone, so that two implementations start from the same numbers.

    Norms' weights lie around 1, or with `ones` all vectors of weights, as the pyramid's fixture has it.
    """
    for name, parameter in module.named_parameters():
        name = name.removeprefix("encoder.")
        key = zlib.crc32(name.encode()) % 10007
        if name.rpartition(".")[2] in TABLES:
            sigma = 0.5
        else:
            sigma = 0.1 if parameter.ndim == 1 else 1 / math.sqrt(parameter.numel() / parameter.shape[0])
        around_one = parameter.ndim == 1 if ones else "norm" in name
        base = 1.0 if around_one and name.endswith("weight") else 0.0
        values = base + hashed(1 + 1000003 * key, parameter.numel()) * math.sqrt(12) * sigma
        with torch.no_grad():
            parameter.copy_(values.reshape(parameter.shape))
