"""Pictures of what a network has learned, as plain PNG files: what a researcher looks at before any number.

Masked, guessed and original for what hides pixels; image, truth and prediction for what names them; and where the class
token of a transformer looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor, nn

from training import probe
from training.encoders import Encoder, vit
from training.feed import Samples
from training.metrics import IGNORE
from training.regional import Charted

__all__ = ["attention", "attentions", "predictions", "reconstructions", "regional_maps"]

SIDE = 256  # pixels of a panel, at least
HEADS = 4  # shown of an attention, at most
HEAT = ((0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164))
"""Dark to bright, as even steps to the eye."""

RGB = tuple[int, int, int]
_Line = tuple[str, RGB | None]
_RGB = (("B04", "B03", "B02"), ("R", "G", "B"))


def reconstructions(method: nn.Module, samples: Samples, folder: Path, count: int = 4) -> list[Path]:
    """Triptychs masked | guessed | original in true colour, one PNG a sample, stretched alike by the original."""
    model = cast(Any, method)
    rebuilt = model.reconstruct(samples)
    bands = model.encoder.spec.inputs.bands
    paths = []
    for number in range(min(count, len(samples))):
        original, masked, guessed = (
            _true_colour(part[number], bands) for part in (rebuilt.original, rebuilt.masked, rebuilt.guessed)
        )
        hidden = (rebuilt.masked[number] == 0).all(0).cpu().numpy()
        low, high = _stretch(original)
        panels = [_shown(part, low, high) for part in (masked, guessed, original)]
        panels[0][hidden] = 127
        paths.append(_save(_row(panels), folder, samples.ids[number]))
    return paths


@torch.no_grad()
def predictions(
    method: nn.Module,
    samples: Samples,
    folder: Path,
    count: int = 4,
    colours: Mapping[str, RGB] | None = None,
) -> list[Path]:
    """Image | truth | prediction with the classes' colours and names, one PNG a sample.

    `colours` are red, green, blue (0 to 255) by class name; a class it leaves out gets one of its own. Where the truth
    is one class for the whole image, it and the prediction are written under the image.
    """
    was_training, model = method.training, cast(Any, method)
    method.eval()
    target, guess = model.target(samples).cpu(), model.predict(samples).cpu()
    method.train(was_training)
    inputs, classes = model.encoder.spec.inputs, model.task.spec.classes
    stored = samples.bands.get(inputs.layer, inputs.bands)
    shades = [(colours or {}).get(name, colour(code)) for code, name in enumerate(classes)]
    paths = []
    for number in range(min(count, len(samples))):
        image = _true_colour(samples.layers[inputs.layer][number, 0].to(torch.int32), stored)
        panels = [_shown(image, *_stretch(image))]
        if target.ndim == 1:
            named = [
                classes[int(value[number])] if value[number] != IGNORE else "?" for value in (target, guess)
            ]
            page = _with_lines(_row(panels), [(f"truth: {named[0]}", None), (f"predicted: {named[1]}", None)])
        else:
            panels += [_painted(value[number], shades) for value in (target, guess)]
            seen = sorted(set(target[number].unique().tolist()) | set(guess[number].unique().tolist()))
            legend: list[_Line] = [(classes[code], shades[code]) for code in seen if code != IGNORE]
            page = _with_lines(_row(panels), legend)
        paths.append(_save(page, folder, samples.ids[number]))
    return paths


@torch.no_grad()
def attention(encoder: Encoder, images: Tensor) -> Tensor:
    """How much the class token looks at each patch in the last layer: (B, heads, h, w), the shares of each head.

    What it looks at of itself is left out. Computed here, on request: in training nobody keeps attention. Raises
    ValueError for an encoder without class token.
    """
    if not isinstance(encoder, vit.ViT) or not hasattr(encoder, "cls_token"):
        raise ValueError(f"{type(encoder).__name__} has no class token, so nothing that looks at its patches")
    seen: list[Tensor] = []

    def kept(qkv: Tensor, attns: Sequence[vit.Attention]) -> Tensor:
        query, key, _ = vit.split_heads(qkv, sum(attn.heads for attn in attns))  # (B, heads, N, d)
        seen.append(F.softmax(query[:, :, :1] @ key.transpose(2, 3) * query.shape[-1] ** -0.5, dim=-1))
        return vit.whole(qkv, attns)

    with probe.judged(encoder):
        tokens = encoder.with_class(encoder.embed(images))  # (B, N, D)
        *layers, last = encoder.blocks
        for layer in layers:
            tokens = layer(tokens)
        last(tokens, kept)
    height, width = (side // encoder.patch for side in images.shape[-2:])
    return seen[0][:, :, 0, 1:].unflatten(2, (height, width))


def attentions(encoder: Encoder, samples: Samples, folder: Path, count: int = 4) -> list[Path]:
    """Image | mean of all heads | the first heads, one PNG a sample; each panel from its least to its greatest."""
    images = probe.viewed(encoder, samples)
    weights = attention(encoder, images).float().cpu()
    inputs = encoder.spec.inputs
    mean, std = (images.new_tensor(values)[:, None, None] for values in (inputs.mean, inputs.std))
    paths = []
    for number in range(min(count, len(samples))):
        shown = _true_colour(images[number] * std + mean, inputs.bands)
        picture = _shown(shown, *_stretch(shown))
        heads = [weights[number].mean(0), *weights[number][:HEADS]]
        panels = [picture, *(_heated(one, encoder.patch, picture) for one in heads)]
        paths.append(_save(_row(panels, SIDE * 2 // 3), folder, f"attention-{samples.ids[number]}"))
    return paths


def regional_maps(found: Sequence[Charted], folder: Path, shades: Sequence[RGB]) -> list[Path]:
    """Image | the prototype of each cell | land cover, a row for each tile, one PNG a region.

    A prototype has the same colour wherever its region is drawn, land cover that of `shades` by class; a tile of which
    none is stored has two panels.
    """
    paths = []
    for one in found:
        rows = []
        for tile in one.tiles:
            image = _true_colour(tile.image, tile.bands)
            known = [colour(number) for number in range(int(tile.prototypes.max()) + 1)]
            panels = [_shown(image, *_stretch(image)), _painted(tile.prototypes, known)]
            if tile.cover is not None:
                panels.append(_painted(tile.cover, shades))
            rows.append(_row([_sized(panel) for panel in panels]))
        page = Image.new("RGB", (max(row.width for row in rows), (SIDE + 4) * len(rows) - 4), "white")
        for number, row in enumerate(rows):
            page.paste(row, (0, (SIDE + 4) * number))
        paths.append(_save(page, folder, f"region-{one.region}"))
    return paths


def _sized(panel: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A square panel of exactly SIDE pixels a side, each of its own the nearest; of more of them, their mean."""
    how = Image.Resampling.BOX if panel.shape[0] > SIDE else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(panel).resize((SIDE, SIDE), how))


def _heated(weights: Tensor, patch: int, under: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Weights (h, w) as colours of their patches, the picture (h * patch, w * patch, 3) showing through a little."""
    raised = weights.numpy() - weights.min().item()
    values = np.kron(raised / max(float(raised.max()), 1e-12), np.ones((patch, patch)))
    steps = np.linspace(0, 1, len(HEAT))
    heat = np.stack([np.interp(values, steps, channel) for channel in np.array(HEAT).T], axis=-1)
    return (0.8 * heat + 0.2 * under.mean(-1, keepdims=True)).astype(np.uint8)


def _true_colour(image: Tensor, bands: tuple[str, ...]) -> NDArray[np.float32]:
    """(C, H, W) to (H, W, 3): red, green and blue where the bands have them, else the first three or the first."""
    named = next((names for names in _RGB if set(names) <= set(bands)), None)
    rows = [bands.index(name) for name in named] if named else [0, 1, 2] if len(bands) >= 3 else [0, 0, 0]
    return image[rows].permute(1, 2, 0).float().cpu().numpy()


def _stretch(image: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    low, high = np.percentile(image.reshape(-1, 3), (2, 98), axis=0)
    return low, np.maximum(high, low + 1e-6)


def _shown(image: NDArray[np.float32], low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.uint8]:
    return (np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def _painted(codes: Tensor, shades: Sequence[RGB]) -> NDArray[np.uint8]:
    """Class indices (H, W) in their colours (H, W, 3); ignored pixels are grey."""
    table = np.full((IGNORE + 1, 3), 220, np.uint8)
    table[: len(shades)] = shades
    return table[codes.numpy()]


def colour(code: int) -> RGB:
    """A colour of its own for each class: hues by the golden angle, in two rings of brightness."""
    hue, bright = code * 0.618034 % 1, (0.85, 0.6)[code % 2]
    wheel = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    red, green, blue = (int(255 * bright * (0.3 + 0.7 * part)) for part in wheel)
    return red, green, blue


def _row(panels: list[NDArray[np.uint8]], side: int = SIDE) -> Image.Image:
    """Panels next to each other with a white gap, each pixel enlarged alike to at least `side` a panel."""
    factor = max(1, -(-side // max(panels[0].shape[:2])))
    images = [Image.fromarray(np.repeat(np.repeat(panel, factor, 0), factor, 1)) for panel in panels]
    width = sum(image.width for image in images) + 4 * (len(images) - 1)
    page = Image.new("RGB", (width, images[0].height), "white")
    left = 0
    for image in images:
        page.paste(image, (left, 0))
        left += image.width + 4
    return page


def _with_lines(page: Image.Image, lines: Sequence[_Line]) -> Image.Image:
    """The page with names under it, each after a square of its colour, in as many rows as they need."""
    places, left, top = [], 4, page.height + 4
    for name, colour in lines:
        wide = 20 + 7 * len(name)
        if left + wide > page.width and left > 4:
            left, top = 4, top + 16
        places.append((left, top, name, colour))
        left += wide
    out = Image.new("RGB", (page.width, top + 18), "white")
    out.paste(page, (0, 0))
    draw = ImageDraw.Draw(out)
    for left, top, name, colour in places:
        if colour is not None:
            draw.rectangle((left, top + 2, left + 9, top + 11), fill=colour)
        draw.text((left + (14 if colour is not None else 0), top), name, fill="black")
    return out


def _save(page: Image.Image, folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace('/', '_')}.png"
    page.save(path, optimize=True)
    return path
