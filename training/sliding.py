"""Dense inference on images larger than what a model was trained on: windows that overlap, their logits averaged.

A scene is too large for one pass, and a model of fixed crops is at its best at their size. What is averaged are logits,
before the argmax, each window counting alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

__all__ = ["offsets", "sliding"]


def offsets(length: int, size: int, stride: int) -> list[int]:
    """Where windows of `size` begin along `length` pixels: every `stride`, the last flush with the end.

    One window, at 0, where the length is not more than the size. Raises ValueError for a stride that would leave gaps.
    """
    if not 0 < stride <= size:
        raise ValueError(
            f"windows of {size} pixels every {stride} leave gaps or never move: 0 < stride <= size"
        )
    last = max(length - size, 0)
    return [*range(0, last, stride), last]


def sliding(
    logits: Callable[[Tensor], Tensor], images: Tensor, size: int, stride: int, classes: int
) -> Tensor:
    """Logits (B, K, H, W) of images (B, C, H, W), averaged over every window that covers a pixel.

        for each top in offsets(H), for each left in offsets(W):
            total[..., top : top + size, left : left + size] += logits(the window)
            seen likewise += 1
        return total / seen

    `logits` maps windows (B, C, h, w), h = min(size, H) and w = min(size, W), to (B, classes, h, w); it is called on one
    window of all images at a time. Sums are float32.
    """
    height, width = images.shape[-2:]
    total = images.new_zeros((len(images), classes, height, width), dtype=torch.float32)
    seen = images.new_zeros((height, width), dtype=torch.float32)
    for rows in _spans(height, size, stride):
        for columns in _spans(width, size, stride):
            total[..., rows, columns] += logits(images[..., rows, columns]).float()
            seen[rows, columns] += 1
    return total / seen


def _spans(length: int, size: int, stride: int) -> Iterator[slice]:
    for first in offsets(length, size, stride):
        yield slice(first, min(first + size, length))
