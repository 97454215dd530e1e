"""What a method guessed of pixels it was not shown, put back into the picture for looking at.

Letters: B batch, S input channels, H W the image's pixels, L patches, P patch, V = P * P * S.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from training.encoders import Inputs, vit
from training.masking import gather

__all__ = ["Reconstruction", "painted", "picked", "reconstruction"]


@dataclass(frozen=True)
class Reconstruction:
    """Three images (B, S, H, W) in the units of the stored pixels: what was there, what was shown, what was guessed.

    Hidden patches are 0 in `masked`; visible patches of `guessed` are the original's.
    """

    original: Tensor
    masked: Tensor
    guessed: Tensor


def reconstruction(
    images: Tensor, seen: Tensor, hidden: Tensor, guess: Tensor, inputs: Inputs
) -> Reconstruction:
    """The pictures of normalised images (B, S, H, W), patches `seen` (B, N), `hidden` (B, M) and their `guess` (B, M, V)."""
    values = guess.shape[-1]
    ones = images.new_ones(*seen.shape, values)
    shown = painted(ones, seen, images)  # (B, S, H, W), 1 where seen
    guessed = images * shown + painted(guess.to(images.dtype), hidden, images)
    mean, std = (images.new_tensor(numbers)[:, None, None] for numbers in (inputs.mean, inputs.std))
    original = images * std + mean
    return Reconstruction(original, original * shown, guessed * std + mean)


def picked(images: Tensor, where: Tensor, patch: int) -> Tensor:
    """The pixels (B, N, V) of the patches at `where` (B, N): row, column, then channel."""
    return gather(vit.patchify(images, patch), where).permute(0, 1, 3, 4, 2).flatten(2)


def painted(values: Tensor, where: Tensor, like: Tensor) -> Tensor:
    """Images as large as `like` (B, S, H, W) with patches' values (B, N, V) at their places `where`, 0 elsewhere."""
    channels, height, width = like.shape[-3:]
    patch = math.isqrt(values.shape[-1] // channels)
    rows, columns = height // patch, width // patch
    grid = values.new_zeros(len(where), rows * columns, values.shape[-1])
    grid = grid.scatter(1, where[..., None].expand_as(values), values)
    return vit.unpatchify(grid.unflatten(-1, (patch, patch, -1)).permute(0, 1, 4, 2, 3), rows, columns)
