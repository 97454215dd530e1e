"""GeoTIFFs that exist only where they are read: the header is computed, a block is made when a byte of it is asked for.

A scene of Sentinel-2 has 120 million pixels a band, and a chip reads four thousand of them. Blocks are stored without
compression, so the place of each byte is known before any pixel is.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geodata.grid import Grid

_SHORT, _LONG, _DOUBLE, _ASCII = 3, 4, 12, 2
_CODES = {_SHORT: "H", _LONG: "I", _DOUBLE: "d", _ASCII: "s"}
_FORMATS = {"u": 1, "i": 2, "f": 3}


@dataclass(frozen=True)
class VirtualTiff:
    """A tiled GeoTIFF in one of the project's dtypes, pixels interleaved; `block` (pixels) is a multiple of 16."""

    grid: Grid
    bands: int
    dtype: str
    block: int
    nodata: float | None = None

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + math.prod(self._blocks) * self._block_bytes

    def read(self, start: int, stop: int, made: Callable[[Grid], NDArray[Any]]) -> bytes:
        """Bytes from `start` up to `stop`; `made` gives the pixels (C, block, block) of a block's grid."""
        stop = min(stop, self.size)
        parts = [self.header[start:stop]]
        begin = max(start, len(self.header)) - len(self.header)
        end = stop - len(self.header)
        for number in range(begin // self._block_bytes, -(-end // self._block_bytes) if end > 0 else 0):
            row, col = divmod(number, self._blocks[1])
            grid = self.grid.crop(row * self.block, col * self.block, self.block, self.block)
            pixels = made(grid).astype(np.dtype(self.dtype).newbyteorder("<"))
            whole = np.moveaxis(pixels, 0, -1).tobytes()
            at = number * self._block_bytes
            parts.append(whole[max(begin - at, 0) : end - at])
        return b"".join(parts)

    @property
    def _blocks(self) -> tuple[int, int]:
        return -(-self.grid.height // self.block), -(-self.grid.width // self.block)

    @property
    def _block_bytes(self) -> int:
        return self.block**2 * self.bands * np.dtype(self.dtype).itemsize

    @functools.cached_property
    def header(self) -> bytes:
        """All that comes before the first block: TIFF 6.0, and the keys of GeoTIFF 1.1."""
        first = len(self._written(0))
        return self._written(first)

    def _written(self, first: int) -> bytes:
        count = math.prod(self._blocks)
        offsets = [first + number * self._block_bytes for number in range(count)]
        tags = self._tags(offsets)
        at = 8 + 2 + 12 * len(tags) + 4
        entries, values = [], b""
        for tag, kind, items in tags:
            if kind == _ASCII:
                data = bytes(items)
            else:
                data = struct.pack(f"<{len(items)}{_CODES[kind]}", *items)
            if len(data) <= 4:
                place = data.ljust(4, b"\0")
            else:
                place = struct.pack("<I", at + len(values))
                values += data + b"\0" * (len(data) % 2)
            entries.append(struct.pack("<HHI", tag, kind, len(items)) + place)
        directory = struct.pack("<H", len(tags)) + b"".join(entries) + struct.pack("<I", 0)
        return struct.pack("<2sHI", b"II", 42, 8) + directory + values

    def _tags(self, offsets: list[int]) -> list[tuple[int, int, Any]]:
        kind, (x, y) = np.dtype(self.dtype), self.grid.origin
        tags: list[tuple[int, int, Any]] = [
            (256, _LONG, [self.grid.width]),
            (257, _LONG, [self.grid.height]),
            (258, _SHORT, [8 * kind.itemsize] * self.bands),
            (259, _SHORT, [1]),  # no compression
            (262, _SHORT, [1]),  # black is zero
            (277, _SHORT, [self.bands]),
            (284, _SHORT, [1]),  # bands together
            (322, _SHORT, [self.block]),
            (323, _SHORT, [self.block]),
            (324, _LONG, offsets),
            (325, _LONG, [self._block_bytes] * len(offsets)),
            (338, _SHORT, [0] * (self.bands - 1)),  # further bands are data, not alpha
            (339, _SHORT, [_FORMATS[kind.kind]] * self.bands),
            (33550, _DOUBLE, [self.grid.gsd, self.grid.gsd, 0.0]),
            (33922, _DOUBLE, [0.0, 0.0, 0.0, x, y, 0.0]),
            (34735, _SHORT, [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, self.grid.epsg]),
        ]
        if self.nodata is not None:
            tags.append((42113, _ASCII, f"{self.nodata:g}".encode() + b"\0"))
        return [tag for tag in tags if len(tag[2])]
