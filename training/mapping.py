"""A finished run put to use: its task on scenes of any size, in memory that does not grow with them.

The scene comes in strips as high as a window and leaves as rows of class values. Windows overlap and their logits are
averaged before anything is decided, as `sliding` does for images that fit, except that they fade out towards their borders
(`taper`): a map is looked at, and should not show where they end. Only the rows that a window may still touch are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geodata.errors import Missing
from geodata.sensors import SENSORS
from training.encoders import Inputs
from training.encoders.spatiotemporal import Spatiotemporal
from training.evaluate import restore
from training.feed import Samples, once
from training.methods.finetune import FineTune
from training.metrics import IGNORE
from training.recipe import Recipe, Stream
from training.sliding import offsets, taper
from training.views import whole

__all__ = ["Mapper", "Read", "strips"]

Strip = tuple[NDArray[Any], NDArray[np.bool_]]
Read = Callable[[int, int], Strip]
"""(top, height) -> pixels (T, C, h, W) in stored units and where (h, W) there are any; fewer rows where the scene ends."""

Logits = Callable[[NDArray[Any]], Tensor]
"""Windows (B, T, C, h, w) in stored units -> logits (B, K, h, w)."""


class Mapper:
    """The task of a finished run. Raises Missing where there is none, ValueError for a task that draws no map."""

    def __init__(self, run_dir: Path | str, device: str = "cpu") -> None:
        recipe, method = restore(run_dir, device)
        if not isinstance(method, FineTune) or not method.task.dense or method.task.dates == "series":
            kind = method.spec.task.kind if isinstance(method, FineTune) else type(method).__name__
            raise ValueError(
                f"{run_dir} is a run of {kind}, which says no class of each pixel of a scene; choose a run of segment "
                "or change"
            )
        if isinstance(method.encoder, Spatiotemporal):
            raise ValueError(
                f"{run_dir} looks at several sensors at once, a scene is of one: choose a run of one sensor"
            )
        self.recipe, self.device = recipe, device
        self.method = method.eval()

    @property
    def inputs(self) -> Inputs:
        """The layer and the bands the encoder reads."""
        return self.method.inputs

    @property
    def dates(self) -> int:
        """How many scenes of the same ground it looks at."""
        return {"one": 1, "pair": 2}[self.method.task.dates]

    @property
    def classes(self) -> dict[int, str]:
        """Value in the map -> name: the values that the labels of its training have."""
        task = self.method.spec.task
        return dict(zip(task.stored, task.classes, strict=True))

    def window(self, size: int | None = None, stride: int | None = None) -> tuple[int, int]:
        """Size and stride of windows: what is given, else as the run was scored or trained; a quarter overlaps.

        Raises ValueError when nothing says how large its images were.
        """
        spec = self.method.spec
        if size is None and spec.window is not None:
            return spec.window.size, stride or spec.window.stride
        size = size or spec.views.crop or _chip(self.recipe, self.inputs.layer)
        if size is None:
            raise ValueError(
                "nothing says how large the images of this run were; give the size with --window"
            )
        return size, stride or max(1, size * 3 // 4)

    @property
    def nodata(self) -> int:
        """What stands in stored pixels where there are none."""
        return next(one.nodata for one in SENSORS if one.prefix == self.inputs.layer)

    def rows(
        self, read: Read, height: int, width: int, size: int, stride: int, batch: int = 8
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Class values of a scene from top to bottom, as (row, values (h, W)); 255 where it has no data."""
        task = self.method.task
        stored = torch.tensor(task.spec.stored, dtype=torch.uint8)
        found = strips(self.logits, read, (height, width), size, stride, len(stored), self.nodata, batch)
        for top, logits, valid in found:
            values = stored[task.decide(logits[None])[0]].numpy()
            values[~valid] = IGNORE
            yield top, values

    @torch.no_grad()
    def logits(self, windows: NDArray[Any]) -> Tensor:
        """Logits (B, K, h, w) of windows (B, T, C, h, w) in stored units, bands as `inputs` names them."""
        layer, count = self.inputs.layer, len(windows)
        samples = Samples(
            ids=[""] * count,
            layers={layer: torch.from_numpy(windows)},
            dates={layer: torch.zeros(windows.shape[:2], dtype=torch.int32)},
            labels={},
            lonlat=torch.full((count, 2), torch.nan),
            region=torch.zeros(count, dtype=torch.int64),
            bands={layer: self.inputs.bands},
            nodata={layer: self.nodata},
        ).to(self.device)
        images = whole(samples, self.inputs, self.method.spec.views, self.dates)
        height, width = windows.shape[-2:]
        return self.method.task.logits(self.method.features(images, samples), (height, width))


def strips(
    logits: Logits,
    read: Read,
    shape: tuple[int, int],
    size: int,
    stride: int,
    classes: int,
    nodata: int,
    batch: int = 8,
) -> Iterator[tuple[int, Tensor, NDArray[np.bool_]]]:
    """Logits of a scene of `shape` (H, W), the mean over windows weighed by `taper`, in rows as soon as no window can touch
    them any more.

    Yields (row, logits (classes, h, W), valid (h, W)). Windows are all `size` x `size`: a smaller scene is filled up with
    nodata. A window without any data is not looked at. `batch` windows are looked at at once; besides them a strip of
    pixels and one of logits, each `size` rows high, are all that is held.
    """
    height, width = shape
    tops, lefts = offsets(height, size, stride), offsets(width, size, stride)
    total, seen, weights = torch.zeros(classes, size, width), torch.zeros(size, width), taper(size)
    for top, below in zip(tops, [*tops[1:], height], strict=True):
        pixels, valid = read(top, size)
        pixels = _filled(pixels, size, nodata)
        held = [left for left in lefts if valid[:, left : left + size].any()]
        for first in range(0, len(held), batch):
            some = held[first : first + batch]
            windows = np.stack([pixels[..., left : left + size] for left in some])
            for left, found in zip(some, logits(windows).float().cpu(), strict=True):
                columns = slice(left, min(left + size, width))
                inside = weights[:, : columns.stop - left]
                total[..., columns] += inside * found[..., : columns.stop - left]
                seen[:, columns] += inside
        done = below - top
        yield top, total[:, :done] / torch.where(seen[:done] > 0, seen[:done], 1.0), valid[:done]
        total = torch.cat([total[:, done:], torch.zeros(classes, done, width)], 1)
        seen = torch.cat([seen[done:], torch.zeros(done, width)])


def _filled(pixels: NDArray[Any], size: int, nodata: int) -> NDArray[Any]:
    """Pixels (T, C, h, W) with nodata below and to the right until a window fits."""
    down, right = (max(0, size - side) for side in pixels.shape[-2:])
    return np.pad(pixels, ((0, 0), (0, 0), (0, down), (0, right)), constant_values=nodata)


def _chip(recipe: Recipe, layer: str) -> int | None:
    """Pixels a side of the images a run was trained on; None where its corpus is not there any more."""
    stream: Stream = next(iter(recipe.streams.values()))
    try:
        return int(next(once(stream, 1)).layers[layer].shape[-1])
    except Missing:
        return None
