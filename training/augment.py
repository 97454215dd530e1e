"""From raw samples to what an encoder takes: normalised images and random views, batched, on the batch's device.

Every function takes whole batches and an optional generator; without one it draws from torch's global generator,
which the loop seeds each step. Labels follow their image exactly: flips and turns move pixels, crops take the nearest
label, never a mixture.

Methods that learn from pairs of views take them apart: `pixels` (once), `draw_views` (what ground each view shows),
`render` (all views of a size at once), colours (`colour.py`, a view at a time), `normalise`. What a view shows is drawn
on the host, whose generator gives the same views whatever device renders them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Generator, Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F
from torch.profiler import record_function

from geodata.sensors import SENSORS

if TYPE_CHECKING:
    from training.encoders import Inputs
    from training.feed import Samples

__all__ = [
    "View",
    "any_date",
    "central_views",
    "changed",
    "dihedral",
    "draw_views",
    "normalise",
    "pixels",
    "prepare",
    "random_resized_crop",
    "render",
    "unread",
]

PADDING, UNDATED = -1, -2
"""What stands in `Samples.dates` in place of a day: no acquisition, and one of unknown date."""

PICTURES = {one.prefix for one in SENSORS if one.kind == "optical"}
"""Layers whose nodata, black, is also what a band of a saturated colour has: nothing is there only if no band has any."""

WHITE = dict.fromkeys(PICTURES, 255.0) | {
    one.prefix: 1 / one.scale for one in SENSORS if one.kind == "multispectral"
}
"""layer -> the stored value that `pixels` calls 1: full scale of pictures, a reflectance of 1. Others keep theirs."""

CACHED = 2**20  # numbers that a processor is given at a time
TRIES = 10  # as torchvision's RandomResizedCrop


@record_function("augment")
def prepare(samples: Samples, inputs: Inputs, date: Tensor | None = None) -> Tensor:
    """Images (B, C, H, W) float32 of the bands an encoder reads: (value - mean) / std, nodata 0, which is the mean.

    `date` (B,) picks one acquisition of each series, the first when not given. Raises ValueError for a layer or band
    the samples lack and for inputs without statistics.
    """
    images, holes = _stored(samples, inputs, date)  # (B, C, H, W)
    mean, std = (images.new_tensor(values, dtype=torch.float32) for values in (inputs.mean, inputs.std))
    normal = (images.float() - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    return normal if holes is None else normal.masked_fill(holes, 0.0)


@record_function("augment")
def pixels(samples: Samples, inputs: Inputs, date: Tensor | None = None) -> Tensor:
    """Images (B, C, H, W) float32 to cut views from, pictures and reflectances from 0 to 1; as `prepare` otherwise.

    Nodata has the mean of its band, so that interpolation never mixes in a value that means nothing.
    """
    images, holes = _stored(samples, inputs, date)
    images = images.float().transpose(1, 2).contiguous().transpose(1, 2)  # as `render` wants its rows
    white = WHITE.get(inputs.layer, 1.0)
    if holes is not None:
        images = torch.where(holes, images.new_tensor(inputs.mean).view(-1, 1, 1), images)
    return images if white == 1.0 else images.mul_(1 / white)


def normalise(images: Tensor, inputs: Inputs) -> Tensor:
    """Images (B, C, H, W) in the units of `pixels` as an encoder reads them: (value - mean) / std."""
    white = WHITE.get(inputs.layer, 1.0)
    mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (inputs.mean, inputs.std))
    return (images - mean / white).div_(std / white)


@dataclass(frozen=True)
class View:
    """What ground each of N views shows, and how it lies: enough to say where any of its pixels came from.

    `boxes` (N, 4) are top, left, height and width in pixels of the image, whole numbers in float32. The box, resampled
    to a square, is first transposed where `turn`, then flipped upside down where `down` and left to right where
    `across`, all (N,) bool; `turn` is None when none is.
    """

    boxes: Tensor
    across: Tensor
    down: Tensor
    turn: Tensor | None = None


def draw_views(
    count: int,
    height: int,
    width: int,
    scale: tuple[float, float],
    *,
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    across: float = 0.5,
    down: float = 0.0,
    turn: float = 0.0,
    log_area: bool = False,
    device: torch.device | str = "cpu",
    generator: Generator | None = None,
) -> View:
    """`count` random views of images of `height` x `width` pixels, by the law of torchvision's RandomResizedCrop.

    The share of the area is uniform in `scale` (its logarithm, when `log_area`), width over height log-uniform in
    `ratio`; of ten such boxes the first that fits is taken, else the largest central one of an allowed shape. `across`,
    `down` and `turn` are probabilities. Draws come from the host's generator.
    """
    share, shape = torch.rand(2, TRIES, count, generator=generator)
    if log_area:
        area = height * width * torch.exp(math.log(scale[0]) + share * math.log(scale[1] / scale[0]))
    else:
        area = height * width * (scale[0] + share * (scale[1] - scale[0]))
    aspect = torch.exp(math.log(ratio[0]) + shape * math.log(ratio[1] / ratio[0]))
    tall, wide = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()
    fits = (tall > 0) & (tall <= height) & (wide > 0) & (wide <= width)  # (TRIES, N)
    first = fits.int().argmax(0, keepdim=True)
    least, most = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))
    tall = torch.where(fits.any(0), tall.gather(0, first)[0], float(least))
    wide = torch.where(fits.any(0), wide.gather(0, first)[0], float(most))
    room = torch.stack([height - tall, width - wide])  # (2, N)
    chosen = torch.rand(2, count, generator=generator)
    top, left = torch.where(fits.any(0), chosen * (room + 1), room / 2).floor()
    flips = torch.rand(3, count, generator=generator) < torch.tensor([across, down, turn])[:, None]
    boxes, flips = torch.stack([top, left, tall, wide], 1).to(device), flips.to(device)
    return View(boxes, flips[0], flips[1], flips[2] if turn else None)


def central_views(
    count: int, height: int, width: int, share: float = 1.0, device: torch.device | str = "cpu"
) -> View:
    """`count` times the central square, `share` of the area of the largest: the views of evaluation."""
    side = max(1, round(min(height, width) * math.sqrt(share)))
    box = torch.tensor([(height - side) // 2, (width - side) // 2, side, side], dtype=torch.float32)
    never = torch.zeros(count, dtype=torch.bool, device=device)
    return View(box.to(device).expand(count, 4), never, never)


@record_function("augment")
def render(
    images: Tensor,
    view: View,
    size: int,
    *,
    antialias: bool = True,
    mode: Literal["bilinear", "bicubic"] = "bilinear",
) -> Tensor:
    """The views (N, C, size, size) of images (B, C, H, W): view i shows image i % B, so N is a multiple of B.

    Each equals torchvision's `resized_crop` of a float image (what lies outside a box is not seen), then the flips.
    Both directions are sums of a few weighted rows, so a view costs what it shows, and no image is copied per view.
    """
    batch, _, height, width = images.shape
    if len(view.boxes) % batch:
        raise ValueError(f"{len(view.boxes)} views are not whole rounds of {batch} images; draw a multiple")
    rows = images.transpose(1, 2).contiguous().view(batch * height, -1)  # (B * H, C * W)
    across, down = view.across, view.down
    if view.turn is not None:  # flipping what is transposed is transposing what is flipped the other way
        across, down = torch.where(view.turn, down, across), torch.where(view.turn, across, down)
    top, left, tall, wide = view.boxes.unbind(1)
    from_top = _taps(top, tall, height, size, down, antialias=antialias, mode=mode)  # (N, size, K) each
    from_left = _taps(left, wide, width, size, across, antialias=antialias, mode=mode)
    images_of = torch.arange(len(top), device=rows.device) % batch
    views = images.new_empty(len(top), images.shape[1], size, size)
    for few in _handfuls(views, width):
        taps, weights = (part[few] for part in from_top)
        half = weighted_rows(rows, taps + images_of[few, None, None] * height, weights)  # (n, size, C * W)
        lines = _transposed(half.view(len(half), -1, width)).flatten(0, 1)  # (n * W, size * C)
        taps, weights = (part[few] for part in from_left)
        each = torch.arange(len(taps), device=rows.device)[:, None, None]
        whole = _transposed(weighted_rows(lines, taps + each * width, weights))  # (n, size * C, size)
        views[few] = whole.unflatten(1, (size, -1)).transpose(1, 2)
    if view.turn is not None:
        views = torch.where(view.turn.view(-1, 1, 1, 1), views.transpose(2, 3), views)
    return views


def weighted_rows(rows: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Sums (N, S, D) of rows (R, D): entry (n, s) is the sum over k of weights[n, s, k] * rows[index[n, s, k]]."""
    sums = F.embedding_bag(
        index.flatten(0, 1), rows, mode="sum", per_sample_weights=weights.flatten(0, 1).to(rows.dtype)
    )
    return sums.unflatten(0, index.shape[:2])


def unread(values: Tensor) -> bool:
    """Whether tensors stand for shapes alone (`budget`), so that no value can be asked for."""
    return isinstance(values, FakeTensor)


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
    return changed(images, which), None if labels is None else changed(labels[:, None], which)[:, 0]


def _cut(images: Tensor, grid: Tensor, mode: str) -> Tensor:
    return F.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)


def changed(images: Tensor, which: Tensor) -> Tensor:
    """Image i, transposed if bit 0 of which[i] is set, then flipped down by bit 1 and across by bit 2."""
    for bit, change in enumerate((lambda x: x.transpose(-1, -2), lambda x: x.flip(-2), lambda x: x.flip(-1))):
        chosen = ((which >> bit) & 1).bool().view(-1, 1, 1, 1)
        images = torch.where(chosen, change(images), images)
    return images


def _handfuls(views: Tensor, width: int) -> list[slice]:
    """The views (N, C, size, size) in parts: all at once, but on a processor as many as its cache holds halfway."""
    each = len(views) if not views.is_cpu else max(1, CACHED // (views[0, :, 0].numel() * width))
    return [slice(start, start + each) for start in range(0, len(views), each)]


def _transposed(matrices: Tensor) -> Tensor:
    """(N, R, S) to (N, S, R), contiguous; on a processor one by one, for only a single one is moved in blocks there."""
    if matrices.is_cuda:
        return matrices.transpose(1, 2).contiguous()
    out = matrices.new_empty(len(matrices), matrices.shape[2], matrices.shape[1])
    for one, into in zip(matrices, out, strict=True):
        into.copy_(one.t())
    return out


def _taps(
    start: Tensor, length: Tensor, whole: int, size: int, flipped: Tensor, *, antialias: bool, mode: str
) -> tuple[Tensor, Tensor]:
    """Which pixels of a line each of `size` resampled pixels takes, and how much: (N, size, K) int64 and float32.

    Line n is the part [start, start + length) of `whole` pixels. As PyTorch and Pillow count: a pixel reaches half a
    filter to either side of its centre, the filter as wide as the step when that shrinks (`antialias`).
    """
    radius, curve = (1.0, -0.5) if mode == "bilinear" else (2.0, -0.5 if antialias else -0.75)
    step = (length / size)[:, None]  # (N, 1)
    stretch = step.clamp(min=1.0) if antialias else torch.ones_like(step)
    widest = max(1.0, whole / size) if antialias else 1.0
    if (
        antialias and not step.is_cuda and not unread(step)
    ):  # a GPU would make us wait; zero weights are cheap there
        widest = float(stretch.max())
    place = torch.arange(size, device=start.device, dtype=torch.float32)
    place = torch.where(flipped[:, None], size - 1 - place, place)  # (N, size)
    centre = step * (place + 0.5)  # from the start, for small numbers are exact to more digits
    first = (centre - radius * stretch + 0.5).floor()[..., None]
    taps = first + torch.arange(2 * math.ceil(radius * widest) + 1, device=start.device)  # (N, size, K)
    weights = _filter((taps + 0.5 - centre[..., None]) / stretch[..., None], mode, curve)
    last = (length - 1)[:, None, None]
    if antialias:  # what is outside does not count
        weights = weights * ((taps >= 0) & (taps <= last))
        weights = weights / weights.sum(-1, keepdim=True)
    return (start[:, None, None] + taps.clamp(min=0).minimum(last)).long(), weights


def _filter(distance: Tensor, mode: str, curve: float) -> Tensor:
    """The weight of a pixel at a distance from the centre, in steps: a triangle, or the cubic of Keys (1981)."""
    far = distance.abs()
    if mode == "bilinear":
        return (1 - far).clamp(min=0.0)
    near = ((curve + 2) * far - (curve + 3)) * far * far + 1
    tail = ((far - 5) * far + 8) * far * curve - 4 * curve
    return torch.where(far < 1, near, torch.where(far < 2, tail, 0.0))


def _stored(samples: Samples, inputs: Inputs, date: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Images (B, C, H, W) as stored (uint16 as int32) of one date and the bands asked for, and where they have none."""
    series = _layer(samples, inputs.layer)  # (B, T, C, H, W)
    if not inputs.mean:
        raise ValueError(
            f"inputs of {inputs.layer!r} have no mean and std; fill them from the corpus (recipe.fill_inputs)"
        )
    rows = torch.arange(len(series), device=series.device)
    first = torch.zeros_like(rows) if date is None else date.to(series.device)
    bands = _band_rows(samples, inputs, series.shape[2])
    picked = series.to(torch.int32) if series.dtype == torch.uint16 else series  # uint16 has few operations
    images = picked[rows, first].contiguous()  # pictures come with bands last
    if bands != list(range(series.shape[2])):
        images = images[:, bands]  # (B, C, H, W)
    nodata = samples.nodata.get(inputs.layer)
    if nodata is None:
        return images, None
    holes = images == nodata
    return images, holes.all(1, keepdim=True) if inputs.layer in PICTURES else holes


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
