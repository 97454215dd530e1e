"""Which patches an encoder is shown.

Pure functions of noise the caller drew, so that a mask can be repeated, injected by a test, or shared by two
networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["block_masks", "disjoint_split", "gather", "masked_counts", "noise", "random_split"]


def noise(count: int, patches: int, device: torch.device, *, fixed: bool) -> Tensor:
    """Uniform noise (count, patches) that orders the patches of images; `fixed` is the same for every batch of one size."""
    if fixed:
        return torch.rand(count, patches, generator=torch.Generator().manual_seed(0)).to(device)
    return torch.rand(count, patches, device=device)


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


def disjoint_split(noise: Tensor, student: float, teacher: float) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the patches the student sees, those it learns to guess, and those the teacher sees: a partition.

    With a = argsort(noise) of an image, a permutation of its L places, and halves rounded to even:

        student = [j for j in places if a[j] < round(L * student)]
        learned = [j for j in places if round(L * student) <= a[j] < round(L * (1 - teacher))]
        teacher = [j for j in places if round(L * (1 - teacher)) <= a[j]]

    a itself is compared, not the rank of each place (PerA's own reading of its masks); with uniform noise both are
    uniformly random. Places come in order of a.

    Args:
        noise: (B, L), distinct within a row.
        student: the share the student sees; with `teacher` at most 1.
        teacher: the share the teacher sees.

    Returns:
        (B, S), (B, M) and (B, T) int64, S + M + T = L; M may be 0. Raises ValueError when S or T is.
    """
    length = noise.shape[1]
    first, second = round(length * student), round(length * (1 - teacher))
    if not 0 < first <= second < length:
        raise ValueError(
            f"shares {student} and {teacher} of {length} patches must give student and teacher some each, and no patch "
            "to both: choose positive shares whose sum is at most 1"
        )
    places = noise.argsort(dim=1).argsort(dim=1)
    return places[:, :first], places[:, first:second], places[:, second:]


def masked_counts(
    crops: int,
    length: int,
    generator: np.random.Generator,
    share: float = 0.5,
    ratios: tuple[float, float] = (0.1, 0.5),
) -> list[int]:
    """How many of each crop's `length` patches to mask, in random order: none for most, else as iBOT spreads them.

    `int(crops * share)` crops are masked; the i-th of them draws its ratio uniformly in the i-th of as many equal slices
    of `ratios`, so that every batch has few and many (DINOv2, Oquab et al. 2024, app. B.1).
    """
    masked = int(crops * share)
    edges = np.linspace(*ratios, masked + 1)
    counts = [int(length * generator.uniform(edges[i], edges[i + 1])) for i in range(masked)]
    return [int(count) for count in generator.permutation([*counts, *[0] * (crops - masked)])]


def block_masks(
    counts: Sequence[int],
    height: int,
    width: int,
    generator: np.random.Generator,
    least: int = 4,
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
    most: float = 0.5,
) -> Tensor:
    """Masks (len(counts), height * width) bool made of rectangles, each of at most its count of patches (BEiT, alg. 1).

        while fewer than the count are masked:
            up to ten times, until one adds something:
                area ~ uniform between least and room, aspect ~ log-uniform, height = round(sqrt(area * aspect)), width alike
                if it is smaller than the grid in both ways: lay it down at random if it adds 1 to `room` patches
            if none did: stop

    `room` is what the count leaves, at most the share `most` of the grid. Some masks therefore stay short of their count.
    """
    masks = np.zeros((len(counts), height, width), bool)
    for mask, count in zip(masks, counts, strict=True):
        left = count
        while left > 0:
            added = _lay_block(mask, min(left, int(most * height * width)), generator, least, aspect)
            if added == 0:
                break
            left -= added
    return torch.from_numpy(masks).flatten(1)


def _lay_block(
    mask: np.ndarray, room: int, generator: np.random.Generator, least: int, aspect: tuple[float, float]
) -> int:
    """Lay one rectangle on a mask; the number of patches it adds, 0 when ten tries did not fit."""
    height, width = mask.shape
    for _ in range(10):
        area = least + (room - least) * generator.random()
        ratio = math.exp(generator.uniform(math.log(aspect[0]), math.log(aspect[1])))
        tall, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if tall >= height or wide >= width:
            continue
        top, left = generator.integers(height - tall + 1), generator.integers(width - wide + 1)
        block = mask[top : top + tall, left : left + wide]
        added = int((~block).sum())
        if 0 < added <= room:
            block[:] = True
            return added
    return 0


def gather(tokens: Tensor, indices: Tensor) -> Tensor:
    """The tokens (B, L, ...) at `indices` (B, K) of each row: (B, K, ...)."""
    rows = torch.arange(indices.shape[0], device=indices.device)[:, None]
    return tokens[rows, indices]
