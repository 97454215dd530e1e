"""Count, sum and sum of squares: what mean and standard deviation of a corpus are added up from.

Whole numbers, so that they add exactly and in any order: the statistics of a corpus do not depend on how its samples
were cut into shards, nor on how many machines built them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geodata.sample import Layer

_ROW, _BLOCK = 1 << 12, 1 << 16
"""Pixels of a band, and of all bands, converted at a time. Squares are below 2^32, so their sum over a row is a whole
number in float64, whose dot product is several times as fast as that of integers; BLAS starts no threads for so few
values, and a block stays in the cache."""


@dataclass(frozen=True)
class Moments:
    """Count, sum and sum of squares of the valid pixels of each band: exact integers, so they add in any order."""

    count: tuple[int, ...]
    total: tuple[int, ...]
    square: tuple[int, ...]

    @classmethod
    def of(cls, layer: Layer) -> Moments:
        """Moments per band of a layer's valid pixels, in stored units."""
        nodata = layer.sensor.nodata
        times, bands = layer.pixels.shape[:2]
        planes = layer.pixels.reshape(times, bands, -1)
        total, square = np.zeros(bands, np.int64), [0] * bands
        for values in _blocks(planes):
            total += np.einsum("ij->i", values).astype(np.int64)
            # a dot product for each row: exact, because whole numbers below 2^53 are
            squares = np.matmul(values[:, None, :], values[:, :, None]).ravel()
            square = [sum_ + int(one) for sum_, one in zip(square, squares.tolist(), strict=True)]
        invalid = np.zeros(bands, np.int64)
        if nodata or not planes.min():  # unsigned pixels without a 0 are all valid, and most are
            invalid = np.count_nonzero(planes == nodata, axis=(0, 2))
        count = times * planes.shape[2] - invalid
        return cls(
            tuple(count.tolist()),
            tuple((total - nodata * invalid).tolist()),
            tuple(one - nodata * nodata * int(none) for one, none in zip(square, invalid, strict=True)),
        )

    def __add__(self, other: Moments) -> Moments:
        pairs = ((self.count, other.count), (self.total, other.total), (self.square, other.square))
        return Moments(*(tuple(a + b for a, b in zip(left, right, strict=True)) for left, right in pairs))

    def mean(self) -> tuple[float, ...]:
        """Mean per band; nan for a band with no valid pixel."""
        return tuple(t / n if n else float("nan") for n, t in zip(self.count, self.total, strict=True))

    def std(self) -> tuple[float, ...]:
        """Standard deviation (population) per band; nan for a band with no valid pixel."""
        bands = zip(self.count, self.total, self.square, strict=True)
        return tuple(max(n * q - t * t, 0) ** 0.5 / n if n else float("nan") for n, t, q in bands)


Statistics = Mapping[str, Mapping[str, Moments]]
"""split -> layer prefix -> moments."""


def add_moments(parts: Iterable[Statistics]) -> dict[str, dict[str, Moments]]:
    """The sum of statistics, split by split and layer by layer."""
    out: dict[str, dict[str, Moments]] = {}
    for part in parts:
        for split, layers in part.items():
            sums = out.setdefault(split, {})
            for prefix, moments in layers.items():
                sums[prefix] = sums[prefix] + moments if prefix in sums else moments
    return out


def _blocks(planes: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """All values (T, C, N), some pixels of one date at a time, as (C, n) in one float64 buffer."""
    _, bands, size = planes.shape
    step = min(size, max(_ROW, _BLOCK // bands // _ROW * _ROW), 2 * _ROW)
    buffer = np.empty(bands * step)
    for date in planes:
        for start in range(0, size, step):
            block = date[:, start : start + step]
            values = buffer[: block.size].reshape(block.shape)
            np.copyto(values, block)
            yield values
