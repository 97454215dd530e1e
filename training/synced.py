"""Batch norms of dense heads whose statistics are those of the whole batch, however many ranks share it.

Large images leave each rank a few of them, too few for statistics of their own, and a run must mean the same on any
number of ranks. As torch's SyncBatchNorm, but on any device, and with ranks that bring maps of different sizes.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from training import ranks

__all__ = ["SyncedBatchNorm", "synced"]

M = TypeVar("M", bound=nn.Module)


class SyncedBatchNorm(nn.BatchNorm2d):
    """A batch norm of images with the mean and variance of all ranks' images in training; else an ordinary one."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to the same. In float32 at least where ranks share the batch."""
        if not self.training or ranks.world() == 1:
            return super().forward(input)
        image = input.to(torch.promote_types(input.dtype, torch.float32))
        variance, mean = torch.var_mean(image, dim=(0, 2, 3), correction=0)  # (C,)
        count = mean.new_full((1,), image.numel() / image.shape[1])
        counts, means, variances = (
            ranks.gathered(own[None]) for own in (count, mean, variance)
        )  # (W, 1), (W, C), (W, C)
        share = counts / counts.sum()
        mean = (share * means).sum(0)
        variance = (share * (variances + (means - mean).square())).sum(0)  # within ranks and between them
        self._remember(mean.detach(), variance.detach(), counts.sum())
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return (image * scale[:, None, None] + shift[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)


def synced(module: M) -> M:
    """The module with its batch norms of images synced over ranks; parameters, buffers and names stay as they are."""
    for parent in module.modules():
        for name, norm in parent.named_children():
            if type(norm) is nn.BatchNorm2d:
                shared = SyncedBatchNorm(norm.num_features, norm.eps, norm.momentum)
                shared.load_state_dict(norm.state_dict())
                setattr(parent, name, shared)
    return module
