"""Numbers from integers: hashes of lattice points, and smooth noise between them.

Only hashing, addition, multiplication and rounding down, so that a value depends on nothing but its arguments. Noise
has mean 0 and a standard deviation of about 1.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Hash = NDArray[np.uint32]

_PRIMES = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D], np.uint32)
_BLOCK = 1 << 16
"""Numbers worked on at a time: small enough for the cache of one core."""


@functools.lru_cache(maxsize=4096)
def salt(seed: int, *words: str | int) -> int:
    """A 32-bit number for one use of a seed; other words give an unrelated one."""
    text = "/".join(map(str, (seed, *words))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little")


def scramble(value: Hash) -> Hash:
    """A 32-bit finaliser, in place: every input bit reaches every output bit (multiply and xor-shift)."""
    value ^= value >> np.uint32(16)
    value *= np.uint32(0x7FEB352D)
    value ^= value >> np.uint32(15)
    value *= np.uint32(0x846CA68B)
    value ^= value >> np.uint32(16)
    return value


def hashed(seed: int, *lattice: NDArray[np.integer[Any]]) -> Hash:
    """One 32-bit number for each point of an integer lattice of any dimension; arguments broadcast."""
    shape = np.broadcast_shapes(*(np.shape(axis) for axis in lattice))
    value = np.full(shape, seed & 0xFFFFFFFF, np.uint32)
    for axis in lattice:
        value = scramble(value * _PRIMES[0] + np.asarray(axis).astype(np.int64).astype(np.uint32))
    return value


def again(value: Hash, turn: int) -> Hash:
    """Another number from a hash, as good as independent of it."""
    return scramble(value + np.uint32((turn * 0x9E3779B9 + 0x7F4A7C15) & 0xFFFFFFFF))


def unit(value: Hash) -> NDArray[np.float32]:
    """A hash as a number in [0, 1)."""
    return (value >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def bell(value: Hash) -> NDArray[np.float32]:
    """A hash as a number of mean 0 and standard deviation 1, nearly normal (three uniforms)."""
    total = unit(value) + unit(again(value, 1)) + unit(again(value, 2))
    return (total - np.float32(1.5)) * np.float32(2.0)


def noise(points: Array, lengths: Sequence[float], salts: Sequence[int]) -> NDArray[np.float32]:
    """Smooth noise (K, N) at points (D, N) in metres, D = 2 or 3: one row for each wavelength (metres) and salt.

    Values at the corners of cubes of the wavelength's size are hashes; between them they are blended smoothly.
    """
    count = points.shape[1]
    out = np.empty((len(lengths), count), np.float32)
    rows = max(1, _BLOCK // max(count, 1))
    for first in range(0, len(lengths), rows):
        part = slice(first, first + rows)
        scale = 1.0 / np.asarray(lengths[part])
        salted = np.asarray(salts[part], np.uint32)[:, None]
        for start in range(0, count, _BLOCK):
            columns = slice(start, start + _BLOCK)
            out[part, columns] = _noise(points[:, None, columns] * scale[:, None], salted)
    return out


_SPREAD = {2: 0.221, 3: 0.193}
"""Standard deviation of blended uniforms, by dimension."""


def _noise(scaled: Array, salted: Hash) -> NDArray[np.float32]:
    whole = np.floor(scaled)
    part = (scaled - whole).astype(np.float32)
    part *= part * (3 - 2 * part)
    cells = whole.astype(np.int32).view(np.uint32) * _PRIMES[-len(scaled) :, None, None]
    values = _blended(salted, cells, part)
    return (values - np.float32(0.5)) * np.float32(1 / _SPREAD[len(scaled)])


def _blended(corner: Hash, cells: Hash, part: NDArray[np.float32]) -> NDArray[np.float32]:
    """Hashes at the corners of each point's cell, blended along the last axis first."""
    if not len(cells):
        return unit(scramble(corner.copy()))
    prime = _PRIMES[-len(cells)]
    corner = corner + cells[0]
    near = _blended(corner, cells[1:], part[1:])
    far = _blended(corner + prime, cells[1:], part[1:])
    far -= near
    far *= part[0]
    far += near
    return far
