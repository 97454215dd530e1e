"""Batch norms for contrastive learning: statistics of groups, company that gives nothing away, and two domains.

A batch norm lets every image see its batch. When a picture's two views are normalised by batches that hold the same
pictures, the network can recognise the pair by its statistics and learns nothing (MoCo, He et al. 2020, sec. 3.3). So
the keys are encoded in other company than the queries: `shuffled` deals the pictures of all ranks anew. On one process
a permutation alone changes nothing, because one batch has one set of statistics; `grouped` gives each of several groups
its own, as if each were a rank. The number of groups is that of the whole job, so that a run means the same on any
number of ranks that divides it.

Which rows are a group: row r belongs to group r % n. Normalising n groups of C channels is then one batch norm of n * C
channels on a view of the same memory; `dealt` puts the rows of ranks in that order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import ranks

__all__ = ["GlobalBatchNorm", "GroupedBatchNorm", "Statistics", "grouped", "shuffled", "together"]


class GroupedBatchNorm(nn.BatchNorm2d):
    """A batch norm that takes the place of `norm`, its parameters and buffers kept: one set of statistics a group.

    In training, for each of n groups (`groups` / ranks) of rows (r % n): subtract the group's mean over rows and
    pixels, divide by the root of its variance + eps; one weight and bias for all. The running estimates move by the
    mean over groups of what each group alone would have moved them. In evaluation, and with n = 1, an ordinary batch norm.
    """

    def __init__(self, norm: nn.BatchNorm2d, groups: int) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self._parameters, self._buffers = norm._parameters, norm._buffers
        self.groups = groups
        self.training = norm.training

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to the same. Raises ValueError in training for a batch that the groups do not divide."""
        groups = on_this_rank(self.groups)
        if not self.training or groups == 1:
            return super().forward(input)
        _divides(len(input), groups)
        rows, channels, *size = input.shape
        running: dict[str, Any] = {"running_mean": None, "running_var": None}
        if self.running_mean is not None and self.running_var is not None:
            running = {
                "running_mean": self.running_mean.repeat(groups),
                "running_var": self.running_var.repeat(groups),
            }
        out = F.batch_norm(
            input.reshape(rows // groups, groups * channels, *size),
            weight=None if self.weight is None else self.weight.repeat(groups),
            bias=None if self.bias is None else self.bias.repeat(groups),
            training=True,
            momentum=self._moves(),
            eps=self.eps,
            **running,
        )
        for name, values in running.items():
            if values is not None:
                getattr(self, name).copy_(values.view(groups, channels).mean(0))
        return out.view(input.shape)

    def _moves(self) -> float:
        """By how much this batch moves the running estimates; without a momentum they are plain means."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        if self.momentum is not None:
            return self.momentum
        return 1.0 if self.num_batches_tracked is None else 1.0 / float(self.num_batches_tracked)


class GlobalBatchNorm(nn.BatchNorm1d):
    """A batch norm of rows (B, C) whose statistics in training are those of all ranks' rows: one process's, shared out.

    As torch's SyncBatchNorm, on any device, with the gradients of `ranks.gathered`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C) to the same; every rank must bring equally many rows."""
        if not self.training or ranks.world() == 1:
            return super().forward(input)
        return ranks.own(super().forward(ranks.gathered(input)))


class Statistics(nn.Module):
    """A second set of running estimates for every batch norm of a module, for images of another domain.

    Two domains that go through a network in turn have batch statistics of their own; what they would share is the
    running estimates, those of evaluation and of export. `lent` puts this set in their place for a while.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        for number, norm in enumerate(_norms(module)):
            for name, buffer in norm.named_buffers(recurse=False):
                self.register_buffer(f"{name}_{number}", buffer.clone())

    @contextmanager
    def lent(self, module: nn.Module) -> Iterator[None]:
        """Within: the norms of `module`, the one this was made for, read and move these estimates."""
        self._swap(module)
        try:
            yield
        finally:
            self._swap(module)

    def _swap(self, module: nn.Module) -> None:
        for number, norm in enumerate(_norms(module)):
            for name in list(norm._buffers):
                mine, theirs = self._buffers[f"{name}_{number}"], norm._buffers[name]
                norm._buffers[name], self._buffers[f"{name}_{number}"] = mine, theirs


def grouped(module: nn.Module, groups: int) -> None:
    """Give every 2-d batch norm inside `module` statistics of `groups` groups over all ranks; names of weights stay.

    Raises ValueError when more than one group is asked of a module without batch norms.
    """
    if groups == 1:
        return
    found = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.BatchNorm2d)
    ]
    if not found:
        raise ValueError(
            f"{type(module).__name__} has no batch norm whose statistics {groups} groups could have: set groups=1"
        )
    for parent, name, child in found:
        setattr(parent, name, GroupedBatchNorm(child, groups))


def on_this_rank(groups: int) -> int:
    """How many of the whole job's groups this rank's batch makes up. Raises ValueError when ranks cannot share them."""
    world = ranks.world()
    if groups % world and groups > 1:
        raise ValueError(
            f"{groups} groups of batch statistics do not divide over {world} ranks; set groups to a multiple of {world}"
        )
    return max(1, groups // world)


def dealt(rows: int, groups: int) -> Tensor:
    """An order (rows,) int64 in which row r comes from the r % groups-th of as many equal, consecutive runs.

    Rows of ranks that stand one after another are then the groups of one process. Raises ValueError when the groups do
    not divide the rows.
    """
    _divides(rows, groups)
    return torch.arange(rows).view(groups, -1).T.flatten()


def together(encode: Callable[[Tensor], Tensor], domains: Sequence[Tensor], groups: int) -> list[Tensor]:
    """Features (B, D) of each domain's images (B, ...), encoded as one batch in which each group holds its share of all.

    The g-th group has the g-th of equal, consecutive runs of every domain, as a rank would have.
    """
    here = on_this_rank(groups)
    sizes = [len(images) for images in domains]
    if here == 1:
        return list(encode(torch.cat(list(domains))).split(sizes))
    orders = [dealt(size, here).to(images.device) for size, images in zip(sizes, domains, strict=True)]
    batch = torch.cat([images[order] for images, order in zip(domains, orders, strict=True)])
    features = encode(batch).split(sizes)
    return [one[order.argsort()] for one, order in zip(features, orders, strict=True)]


@torch.no_grad()
def shuffled(encode: Callable[[Tensor], Tensor], images: Tensor, groups: int) -> Tensor:
    """Features (B, D) of images (B, ...), each encoded in company drawn from the images of all ranks.

        everything = the images of rank 0, then those of rank 1, ...; order = a permutation, drawn on rank 0
        rank r encodes the r-th part of everything[order], each of its groups a consecutive run of that part
        each feature goes back to where its image came from

    No gradient passes. Of MoCo (He et al. 2020, sec. 3.3); where all images share one set of statistics nothing is
    shuffled, because it would change nothing.
    """
    world, rank, here = ranks.world(), ranks.rank(), on_this_rank(groups)
    if world * here == 1:
        return encode(images)
    everything = ranks.gathered(images)
    order = ranks.broadcast(torch.randperm(len(everything), device=images.device))
    mine = order.view(world, -1)[rank][dealt(len(images), here).to(order.device)]
    places, features = ranks.gathered(mine), ranks.gathered(encode(everything[mine]))
    return features[places.argsort()].unflatten(0, (world, -1))[rank]


def _divides(rows: int, groups: int) -> None:
    if rows % groups:
        raise ValueError(
            f"{rows} images do not divide into {groups} groups of batch statistics; change the batch or the groups"
        )


def _norms(module: nn.Module) -> Iterator[nn.BatchNorm2d]:
    return (part for part in module.modules() if isinstance(part, nn.BatchNorm2d))
