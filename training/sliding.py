"""Dense inference on images larger than what a model was trained on: windows that overlap, their logits averaged.

A scene is too large for one pass, and a model of fixed crops is at its best at their size. What is averaged are logits,
before the argmax. Published protocols count each window alike, and so do scores; on a map that shows where windows end,
because a pixel at the border of one is seen without its surroundings and stops counting from one pixel to the next. There
windows fade out (`taper`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

__all__ = ["joined", "offsets", "sliding", "taper"]


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


def taper(size: int) -> Tensor:
    """How much each pixel of a window counts (size, size): a raised cosine along both sides, sin(pi (i + 1/2) / size) ** 2.

    Greatest in the middle and never zero, so that a pixel which one window alone covers has that window's logits.
    """
    along = torch.sin(math.pi * (torch.arange(size) + 0.5) / size).square()
    return along[:, None] * along


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

    def of_window(rows: slice, columns: slice) -> Tensor:
        return logits(images[..., rows, columns])

    total = images.new_zeros((len(images), classes, *images.shape[-2:]), dtype=torch.float32)
    return joined(of_window, total, size, stride)


def joined(logits: Callable[[slice, slice], Tensor], total: Tensor, size: int, stride: int) -> Tensor:
    """As `sliding`, of whatever can be looked at through a window: `logits` maps its rows and columns to (B, K, h, w).

    `total` (B, K, H, W), zeros in float32, is added to and comes back as the mean.
    """
    height, width = total.shape[-2:]
    seen = total.new_zeros((height, width))
    for rows in _spans(height, size, stride):
        for columns in _spans(width, size, stride):
            total[..., rows, columns] += logits(rows, columns).float()
            seen[rows, columns] += 1
    return total / seen


def _spans(length: int, size: int, stride: int) -> Iterator[slice]:
    for first in offsets(length, size, stride):
        yield slice(first, min(first + size, length))
