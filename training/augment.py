"""From raw samples to what an encoder takes: normalised images and random views, batched, on the batch's device.

Every function takes whole batches and an optional generator; without one it draws from torch's global generator,
which the loop seeds each step. Labels follow their image exactly: flips and turns move pixels, crops take the nearest
label, never a mixture.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torch.profiler import record_function

if TYPE_CHECKING:
    from training.encoders import Inputs
    from training.feed import Samples

__all__ = ["any_date", "dihedral", "prepare", "random_resized_crop"]

PADDING, UNDATED = -1, -2
"""What stands in `Samples.dates` in place of a day: no acquisition, and one of unknown date."""


@record_function("augment")
def prepare(samples: Samples, inputs: Inputs, date: Tensor | None = None) -> Tensor:
    """Images (B, C, H, W) float32 of the bands an encoder reads: (value - mean) / std, nodata 0, which is the mean.

    `date` (B,) picks one acquisition of each series, the first when not given. Raises ValueError for a layer or band
    the samples lack and for inputs without statistics.
    """
    pixels = _layer(samples, inputs.layer)  # (B, T, C, H, W)
    if not inputs.mean:
        raise ValueError(
            f"inputs of {inputs.layer!r} have no mean and std; fill them from the corpus (recipe.fill_inputs)"
        )
    rows = torch.arange(len(pixels), device=pixels.device)
    first = torch.zeros_like(rows) if date is None else date.to(pixels.device)
    bands = _band_rows(samples, inputs, pixels.shape[2])
    picked = pixels.to(torch.int32) if pixels.dtype == torch.uint16 else pixels  # uint16 has few operations
    images = picked[rows, first].contiguous()  # pictures come with bands last
    if bands != list(range(pixels.shape[2])):
        images = images[:, bands]  # (B, C, H, W)
    mean, std = (images.new_tensor(values, dtype=torch.float32) for values in (inputs.mean, inputs.std))
    normal = (images.float() - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    nodata = samples.nodata.get(inputs.layer)
    return normal if nodata is None else normal.masked_fill(images == nodata, 0.0)


@record_function("augment")
def any_date(samples: Samples, layer: str, generator: Generator | None = None) -> Tensor:
    """For each sample the index (B,) of one of its dates, drawn evenly; padding is never drawn."""
    there = samples.dates[layer] != PADDING  # (B, T)
    return torch.multinomial(there.float(), 1, generator=generator).squeeze(1)


@record_function("augment")
def random_resized_crop(
    images: Tensor,
    size: int,
    scale: tuple[float, float],
    *,
    labels: Tensor | None = None,
    generator: Generator | None = None,
) -> tuple[Tensor, Tensor | None]:
    """A random part of each image (B, C, H, W), a share `scale` of its area, bilinearly resampled to `size` x `size`.

    Its shape lies between 3:4 and 4:3; a box too large for the image is shrunk to fit. Labels (B, H, W) are cut
    alike, each pixel taking the nearest label.
    """
    batch, _, height, width = images.shape
    share, shape, down, right = torch.rand(4, batch, device=images.device, generator=generator)
    area = scale[0] + share * (scale[1] - scale[0])
    aspect = torch.exp((2 * shape - 1) * math.log(4 / 3))  # width / height of the box, in pixels
    tall = (area / aspect * width / height).sqrt().clamp(max=1.0)  # shares of the image's height and width
    wide = (area * aspect * height / width).sqrt().clamp(max=1.0)
    theta = images.new_zeros(batch, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = wide, tall
    theta[:, 0, 2], theta[:, 1, 2] = (1 - wide) * (2 * right - 1), (1 - tall) * (2 * down - 1)
    grid = F.affine_grid(theta, [batch, 1, size, size], align_corners=False)
    crops = _cut(images, grid, "bilinear")
    if labels is None:
        return crops, None
    return crops, _cut(labels[:, None].float(), grid, "nearest")[:, 0].to(labels.dtype)


@record_function("augment")
def dihedral(
    images: Tensor, labels: Tensor | None = None, generator: Generator | None = None
) -> tuple[Tensor, Tensor | None]:
    """Each square image (B, C, N, N) in one of its eight flips and quarter turns, its labels (B, N, N) with it."""
    if images.shape[-1] != images.shape[-2]:
        raise ValueError(f"a quarter turn needs square images, not {tuple(images.shape[-2:])}; crop first")
    which = torch.randint(8, (len(images),), device=images.device, generator=generator)
    return _changed(images, which), None if labels is None else _changed(labels[:, None], which)[:, 0]


def _cut(images: Tensor, grid: Tensor, mode: str) -> Tensor:
    return F.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)


def _changed(images: Tensor, which: Tensor) -> Tensor:
    """Image i, transposed if bit 0 of which[i] is set, then flipped down by bit 1 and across by bit 2."""
    for bit, change in enumerate((lambda x: x.transpose(-1, -2), lambda x: x.flip(-2), lambda x: x.flip(-1))):
        chosen = ((which >> bit) & 1).bool().view(-1, 1, 1, 1)
        images = torch.where(chosen, change(images), images)
    return images


def _layer(samples: Samples, layer: str) -> Tensor:
    if layer not in samples.layers:
        raise ValueError(
            f"the encoder reads layer {layer!r}, the batch has {', '.join(samples.layers)}; "
            "name it in the stream's layers"
        )
    return samples.layers[layer]


def _band_rows(samples: Samples, inputs: Inputs, stored: int) -> list[int]:
    """Where the bands an encoder reads lie among the stored ones; samples that do not say are taken as they are."""
    names = samples.bands.get(inputs.layer)
    if names is None:
        if stored != len(inputs.bands):
            raise ValueError(f"{inputs.layer!r} has {stored} bands, the encoder reads {len(inputs.bands)}")
        return list(range(stored))
    missing = [band for band in inputs.bands if band not in names]
    if missing:
        raise ValueError(
            f"the encoder reads band {missing[0]} of {inputs.layer!r}, the samples have {', '.join(names)}"
        )
    return [names.index(band) for band in inputs.bands]
