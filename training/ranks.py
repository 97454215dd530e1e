"""What all ranks know together: rows gathered, means, one rank's word. Without a process group, each is the identity.

Losses over the global batch (negatives of other ranks, nearest neighbours, Sinkhorn's columns) go through here, so
that W ranks with B rows each compute what one process with W * B rows would.

The rule about gradients, stated once. `gathered` has the exact adjoint of gathering: what every rank's loss says about
a row is summed and given to the rank that owns it, unscaled. Data-parallel training then averages parameter gradients
over ranks, so what is descended is the mean over ranks of the ranks' losses. A loss is therefore right when the mean
over ranks of what each rank returns is the loss of the global batch: return the mean over your own rows (compared
with everyone's), or the whole loss, the same on every rank. Never a sum over your own rows divided by the global count.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["alone", "broadcast", "gathered", "mean", "own", "rank", "world"]

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Within it this process is the only one: for evaluation, where every rank sees the same batches."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def world() -> int:
    """How many processes share the global batch; 1 without a process group."""
    return dist.get_world_size() if _grouped() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if _grouped() else 0


def gathered(rows: Tensor) -> Tensor:
    """The rows (B, ...) of all ranks, (world * B, ...), in the order of the ranks; every rank must bring equally many.

    The gradient of own rows is the sum over ranks of what each rank's loss says about them; see the module.
    """
    return _Gathered.apply(rows) if world() > 1 else rows


def own(rows: Tensor) -> Tensor:
    """This rank's equal share of rows (world * B, ...) that every rank holds: (B, ...), the inverse of `gathered`."""
    share = rows.shape[0] // world()
    return rows[rank() * share : (rank() + 1) * share]


def mean(values: Tensor) -> Tensor:
    """The element-wise mean over all ranks, without gradient."""
    values = values.detach()
    if world() == 1:
        return values
    summed = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(summed)
    return summed / world()


def broadcast(values: Tensor) -> Tensor:
    """What rank 0 holds, on every rank, without gradient; shapes must agree."""
    values = values.detach()
    if world() == 1:
        return values
    told = values.clone(memory_format=torch.contiguous_format)
    dist.broadcast(told, src=0)
    return told


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized() and not _ALONE.get()


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        everyone = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world())]
        dist.all_gather(everyone, rows.contiguous())
        return torch.cat(everyone)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        summed = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return own(summed)
