"""Where the blobs of a shard lie in its file, so that pixels are read without Arrow in between.

Parquet keeps a value of an uncompressed page as it is. Who knows the byte at which a blob begins, its size and a
checksum needs one read into memory that is used again and again, about 5 % of what decoding costs. Arrow copies the
same bytes twice and checks them by a slower sum: half of what decoding costs, and whole row groups in memory.

The checksum is XXH3 (64 bits): CRC-32 and BLAKE3 take three times as long here. The table of places lies in the
shard's footer, whose hash the record and the manifest know.
"""

from __future__ import annotations

import base64
import json
import mmap
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from geodata.errors import Corrupt

Places = NDArray[np.uint64]
"""(rows, 3): for each blob the byte it begins at, its size and its XXH3; all 0 where a value is missing."""

_KEY = b"blobs"
_HEAD = 64  # bytes by which a blob is looked for; whether it was found says the checksum


class Index:
    """The places of a shard's blobs, gathered while it is written."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._groups: dict[str, list[str]] = {name: [] for name in columns}
        self._end = 0

    def add(self, path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """Find the blobs of a row group that was just written. Raises ValueError when one is not there."""
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as file:
            for name, groups in self._groups.items():
                places = np.zeros((len(rows), 3), "<u8")
                for number, row in enumerate(rows):
                    if (blob := row.get(name)) is not None:
                        places[number] = _find(file, blob, self._end)
                        self._end = int(places[number, :2].sum())
                groups.append(base64.b64encode(places.tobytes()).decode())

    def entry(self) -> dict[str, str]:
        """What the footer says of it."""
        return {_KEY.decode(): json.dumps(self._groups, separators=(",", ":"))}


def _find(file: mmap.mmap, blob: pa.Buffer, start: int) -> tuple[int, int, int]:
    head, size, digest, at = bytes(memoryview(blob)[:_HEAD]), len(blob), xxh3_64_intdigest(blob), start
    with memoryview(file) as whole:
        while (at := file.find(head, at)) >= 0:
            with whole[at : at + size] as found:
                if xxh3_64_intdigest(found) == digest:
                    return at, size, digest
            at += 1
    raise ValueError(
        f"a blob of {size} bytes is not in the file as it was given; Parquet must not compress it"
    )


def from_footer(metadata: Mapping[bytes, bytes], row_group: int, columns: Iterable[str]) -> dict[str, Places]:
    """Places in one row group by column. Raises Corrupt where the metadata have none."""
    try:
        known = json.loads(metadata[_KEY])
        return {
            name: np.frombuffer(base64.b64decode(known[name][row_group]), "<u8").reshape(-1, 3)
            for name in columns
        }
    except (KeyError, IndexError, ValueError) as error:
        raise Corrupt(f"the footer does not say where the blobs lie ({error})") from error


def read(handle: int, place: Sequence[int], memory: memoryview) -> memoryview:
    """One blob of an open file, in the first bytes of `memory`. Raises Corrupt when it is not as it was written."""
    offset, size, digest = place
    blob = memory[:size]
    if os.preadv(handle, [blob], offset) != size or xxh3_64_intdigest(blob) != digest:
        raise Corrupt(f"the {size} bytes from {offset} do not match their checksum; fetch the shard again")
    return blob
