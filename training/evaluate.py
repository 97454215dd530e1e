"""How good a method is: scores on held-out samples, and pictures to look at.

A method that predicts (a task on an encoder) is scored by its metric over the whole split; one that only has losses,
by their mean. Pictures are plain PNG files: masked, guessed and original for what hides pixels, image, truth and
prediction for what names them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor, nn

from geodata.errors import Missing
from training import checkpoint as checkpoints
from training.feed import Samples, once
from training.methods import Losses, Method, Progress, build
from training.metrics import IGNORE, Mean, Metric
from training.recipe import Recipe, replace

__all__ = ["evaluate", "held_out", "losses", "predictions", "reconstructions", "restore"]

SIDE = 256  # pixels of a panel, at least
RGB = tuple[int, int, int]
_Line = tuple[str, RGB | None]
_RGB = (("B04", "B03", "B02"), ("R", "G", "B"))


def restore(run_dir: Path | str, device: str = "cpu") -> tuple[Recipe, Method]:
    """The recipe of a run and its method as of the newest checkpoint. Raises Missing when there is none."""
    folder = Path(run_dir)
    found = checkpoints.latest(folder / "checkpoints")
    if found is None or not (folder / "recipe.json").is_file():
        raise Missing(f"no checkpoint in {folder}; train there first")
    recipe = Recipe.parse((folder / "recipe.json").read_text(encoding="utf-8"))
    method = build(recipe.method)
    checkpoints.load(found, method, digest=recipe.digest)
    return recipe, method.to(device)


def held_out(recipe: Recipe, split: str, batch: int = 32) -> Iterator[dict[str, Samples]]:
    """Batches of another split of the recipe's streams, every sample once; with several streams, to the shortest."""
    streams = {name: once(replace(stream, split=split), batch) for name, stream in recipe.streams.items()}
    for parts in zip(*streams.values(), strict=False):
        yield dict(zip(streams, parts, strict=True))


@torch.no_grad()
def evaluate(
    method: nn.Module, batches: Iterable[Mapping[str, Samples]], device: str = "cpu"
) -> dict[str, float]:
    """Scores of a method over all batches, in evaluation mode; it is left in the mode it was in.

    Raises ValueError when there is no batch.
    """
    if not hasattr(method, "predict"):
        return losses(method, batches, device)
    model = cast(Any, method)
    metric: Metric = model.metric()
    with _judged(method):
        for batch in _some(batches, device):
            (samples,) = batch.values()
            metric = metric.update(model.predict(samples).cpu(), model.target(samples).cpu())
    return metric.scores()


@torch.no_grad()
def losses(
    method: nn.Module, batches: Iterable[Mapping[str, Samples]], device: str = "cpu"
) -> dict[str, float]:
    """Mean losses of a method over all batches, in evaluation mode; as `evaluate` otherwise."""
    means: dict[str, Mean] = {}
    with _judged(method):
        for batch in _some(batches, device):
            number = max(len(samples) for samples in batch.values())
            found: Losses = method(batch, Progress(1, 1))
            for name, value in {"loss": found.total, **found.parts}.items():
                means[name] = means.get(name, Mean(name)).update(value.detach().cpu().expand(number))
    return {name: score for mean in means.values() for name, score in mean.scores().items()}


@contextmanager
def _judged(method: nn.Module) -> Iterator[None]:
    was_training = method.training
    method.eval()
    yield
    method.train(was_training)


def _some(batches: Iterable[Mapping[str, Samples]], device: str) -> Iterator[dict[str, Samples]]:
    seen = 0
    for batch in batches:
        seen += 1
        yield {name: samples.to(device) for name, samples in batch.items()}
    if not seen:
        raise ValueError("nothing to evaluate: the batches are empty; choose a split that has samples")


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
    shades = [(colours or {}).get(name, _colour(code)) for code, name in enumerate(classes)]
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


def _colour(code: int) -> RGB:
    """A colour of its own for each class: hues by the golden angle, in two rings of brightness."""
    hue, bright = code * 0.618034 % 1, (0.85, 0.6)[code % 2]
    wheel = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    red, green, blue = (int(255 * bright * (0.3 + 0.7 * part)) for part in wheel)
    return red, green, blue


def _row(panels: list[NDArray[np.uint8]]) -> Image.Image:
    """Panels side by side with a white gap, each pixel enlarged alike to at least SIDE a panel."""
    factor = max(1, -(-SIDE // max(panels[0].shape[:2])))
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
