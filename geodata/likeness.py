"""Whether two pictures are the same picture, but for compression, brightness and scale.

The perceptual hash is the usual one of 64 bits: which of the 8 x 8 lowest frequencies of a picture of 32 x 32 grey
pixels lie above their median. It is bit for bit that of the `imagehash` package (its `phash`), so that hashes kept
elsewhere can be compared with ours; the cosine transform is two products with a small matrix here, which spares every
worker of a corpus SciPy and PyWavelets. Pairs among millions are found without comparing all with all: hashes that
differ in few bits agree wholly in some groups of bits, so only those that do are compared (multi-index hashing).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from geodata.sensors import Sensor

Pixels = NDArray[Any]
Hashes = NDArray[np.uint64]
Pairs = NDArray[np.int64]

_SIDE, _KEPT = 32, 8
_FILES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif")
_CHUNK = 1 << 22
"""Pairs that are compared at a time: bounds memory to some hundred megabytes."""
_SORT = 20.0
"""What sorting one hash costs, in comparisons of a pair."""


def _cosines() -> NDArray[np.float64]:
    """The first rows (8, 32) of the cosine transform, type II."""
    row, col = np.arange(_KEPT)[:, None], np.arange(_SIDE)
    return np.cos(np.pi * row * (2 * col + 1) / (2 * _SIDE))


_COSINES = _cosines()


def perceptual(picture: Image.Image) -> int:
    """The perceptual hash of a picture, 64 bits, of its brightness alone."""
    grey = picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    low = _COSINES @ np.asarray(grey, np.float64) @ _COSINES.T
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def perceptual_of(sensor: Sensor, pixels: Pixels) -> int | None:
    """The perceptual hash of one date (C, H, W) of a sensor; None where nothing is to be seen.

    Pictures are hashed by their brightness, Sentinel-2 by that of red, green and blue, radar by its first band; what is
    measured is first spread over 0 to 255 between its first and 99th percentile.
    """
    names = sensor.band_names
    chosen = [names.index(name) for name in ("B04", "B03", "B02") if name in names] or [0]
    if sensor.kind == "optical" and pixels.shape[0] == 3:
        return perceptual(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))))
    there = pixels[chosen] != sensor.nodata
    if not there.any():
        return None
    level = np.where(there, pixels[chosen], 0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    seen = there.any(axis=0)
    least, most = np.percentile(level[seen], (1, 99))
    if not most > least:
        return None
    grey = np.where(seen, np.clip((level - least) / (most - least), 0, 1) * 255, 0)
    return perceptual(Image.fromarray(grey.astype(np.uint8)))


def of_folder(folder: Path) -> tuple[Hashes, list[str], list[str]]:
    """Perceptual hashes (N,) of all pictures under a folder with their paths in it, and the paths of those unreadable.

    Files are told by their suffix and taken in order of path.
    """
    hashes, names, unreadable = [], [], []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in _FILES):
        name = path.relative_to(folder).as_posix()
        try:
            with Image.open(path) as picture:
                hashes.append(perceptual(picture))
        except (OSError, UnidentifiedImageError, ValueError):
            unreadable.append(name)
        else:
            names.append(name)
    return np.array(hashes, np.uint64), names, unreadable


def distance(first: Hashes, second: Hashes) -> NDArray[np.uint8]:
    """Bits in which hashes differ, element by element."""
    return np.bitwise_count(first ^ second)


def near_pairs(hashes: Hashes, bits: int) -> Pairs:
    """All pairs (M, 2) of places, the lower first, whose hashes (N,) differ in at most so many bits; in order.

    A picture that is there n times makes n * (n - 1) / 2 pairs: leave out exact copies first. Raises ValueError for more
    than 15 bits, where pictures only look alike.
    """
    found = [np.empty((0, 2), np.int64)]
    for mask in _masks(bits, len(hashes)):
        keys = hashes & mask
        order = np.argsort(keys, kind="stable")
        ends = np.searchsorted(keys[order], keys[order], "right")
        for pairs in _spelled_out(order, order, np.arange(1, len(order) + 1), ends):
            found.append(pairs[distance(hashes[pairs[:, 0]], hashes[pairs[:, 1]]) <= bits])
    return _in_order(np.sort(np.concatenate(found), axis=1), len(hashes))


def near(hashes: Hashes, others: Hashes, bits: int) -> Pairs:
    """All pairs (M, 2) of a place in `hashes` (N,) and one in `others` that differ in at most so many bits; in order.

    Raises ValueError for more than 15 bits.
    """
    found = [np.empty((0, 2), np.int64)]
    for mask in _masks(bits, max(len(hashes), len(others))):
        keys, other_keys = hashes & mask, others & mask
        order, other_order = np.argsort(keys, kind="stable"), np.argsort(other_keys, kind="stable")
        sides = [np.searchsorted(other_keys[other_order], keys[order], side) for side in ("left", "right")]
        for pairs in _spelled_out(order, other_order, *sides):
            found.append(pairs[distance(hashes[pairs[:, 0]], others[pairs[:, 1]]) <= bits])
    return _in_order(np.concatenate(found), len(others))


def _in_order(pairs: Pairs, count: int) -> Pairs:
    """Each pair once, in order; the second places are below `count`."""
    return np.stack(np.divmod(np.unique(pairs[:, 0] * count + pairs[:, 1]), max(count, 1)), axis=1)


def _masks(bits: int, count: int) -> list[np.uint64]:
    """Masks of which two hashes that differ in at most so many bits agree wholly in one.

    Of bits + k groups they differ in at most `bits`, so they agree in some k of them; the more hashes there are, the
    larger a k pays, because fewer pairs agree by chance.
    """
    if not 0 <= bits <= 15:
        raise ValueError(
            f"hashes are compared up to 15 bits of 64, not {bits}; beyond that pictures only look alike"
        )

    def cost(extra: int) -> float:
        by_chance = count / 2 ** (64 * extra / (bits + extra))
        return math.comb(bits + extra, extra) * (_SORT + by_chance)

    extra = min(range(1, 6), key=cost)
    edges = np.linspace(0, 64, bits + extra + 1).round().astype(int).tolist()
    groups = [(1 << high) - (1 << low) for low, high in itertools.pairwise(edges)]
    return [np.uint64(sum(chosen)) for chosen in itertools.combinations(groups, extra)]


def _spelled_out(order: Pairs, other_order: Pairs, left: Pairs, right: Pairs) -> Iterator[Pairs]:
    """Pairs of order[i] with each of other_order[left[i]:right[i]], about `_CHUNK` at a time."""
    counts = right - left
    ends = np.cumsum(counts)
    start = 0
    while start < len(order):
        done = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, done + _CHUNK, "right")), start + 1)
        many = counts[start:stop]
        within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        others = other_order[np.repeat(left[start:stop], many) + within]
        yield np.stack([np.repeat(order[start:stop], many), others], axis=1)
        start = stop
