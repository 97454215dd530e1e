"""Which patches an encoder is shown.

Pure functions of noise the caller drew, so that a mask can be repeated, injected by a test, or shared by two
networks.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gather", "random_split"]


def random_split(noise: Tensor, visible: float) -> tuple[Tensor, Tensor]:
    """Indices of the patches each image shows, and of those it hides.

    Per image the `int(L * visible)` patches of least noise are seen, in order of their noise: with uniform noise, a
    uniformly random subset, of one size throughout the batch so that it stays dense (MAE, He et al. 2022, sec. 3).

    Args:
        noise: (B, L), distinct within a row.
        visible: the share to show, in (0, 1).

    Returns:
        seen (B, K) and hidden (B, L - K), int64; together each row is a permutation of 0..L-1.
    """
    length = noise.shape[1]
    kept = int(length * visible)
    if not 0 < kept < length:
        raise ValueError(f"showing {visible} of {length} patches must leave some to see and some to guess")
    order = noise.argsort(dim=1)
    return order[:, :kept], order[:, kept:]


def gather(tokens: Tensor, indices: Tensor) -> Tensor:
    """The tokens (B, L, ...) at `indices` (B, K) of each row: (B, K, ...)."""
    rows = torch.arange(indices.shape[0], device=indices.device)[:, None]
    return tokens[rows, indices]
