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
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from xxhash import xxh3_64_intdigest

from geodata import codec
from geodata.errors import Corrupt

_KEY = b"blobs"
_HEAD = 64  # bytes by which a blob is looked for; whether it was found says the checksum


class Blob(NamedTuple):
    """Where a blob lies in its file, and what one must know to make room for it; `size` 0: the value is missing.

    `files` says that it keeps pictures as the files they came in; the rest is the shape it unpacks to.
    """

    offset: int
    size: int
    xxh3: int
    files: bool
    dates: int
    bands: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(dates, bands, height, width)."""
        return self[4:]


_PLACE = struct.Struct("<QQQ?4I")
_MISSING = Blob(0, 0, 0, False, 0, 0, 0, 0)


class Index:
    """The places of a shard's blobs, gathered while it is written."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._groups: dict[str, list[str]] = {name: [] for name in columns}
        self._end = 0

    def add(self, path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """Find the blobs of a row group that was just written. Raises ValueError when one is not there."""
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as file:
            for name, groups in self._groups.items():
                places = []
                for row in rows:
                    blob = row.get(name)
                    places.append(_MISSING if blob is None else _find(file, blob, self._end))
                    self._end = max(self._end, places[-1].offset + places[-1].size)
                groups.append(base64.b64encode(b"".join(_PLACE.pack(*one) for one in places)).decode())

    def entry(self) -> dict[str, str]:
        """What the footer says of it."""
        return {_KEY.decode(): json.dumps(self._groups, separators=(",", ":"))}


def _find(file: mmap.mmap, blob: pa.Buffer, start: int) -> Blob:
    head, size, digest, at = bytes(memoryview(blob)[:_HEAD]), len(blob), xxh3_64_intdigest(blob), start
    with memoryview(file) as whole:
        while (at := file.find(head, at)) >= 0:
            with whole[at : at + size] as found:
                if xxh3_64_intdigest(found) == digest:
                    dates, bands, height, width = codec.describe(blob)[1]
                    return Blob(at, size, digest, codec.keeps_files(head), dates, bands, height, width)
            at += 1
    raise ValueError(
        f"a blob of {size} bytes is not in the file as it was given; Parquet must not compress it"
    )


def from_footer(
    metadata: Mapping[bytes, bytes], row_group: int, columns: Iterable[str]
) -> dict[str, list[Blob]]:
    """The blobs of one row group by column. Raises Corrupt where the metadata do not know them."""
    try:
        known = json.loads(metadata[_KEY])
        places = {name: base64.b64decode(known[name][row_group]) for name in columns}
        return {name: [Blob(*one) for one in _PLACE.iter_unpack(some)] for name, some in places.items()}
    except (KeyError, IndexError, ValueError, struct.error) as error:
        raise Corrupt(f"the footer does not say where the blobs lie ({error})") from error


def read(handle: int, blob: Blob, memory: memoryview) -> memoryview:
    """One blob of an open file, in the first bytes of `memory`. Raises Corrupt when it is not as it was written."""
    found = memory[: blob.size]
    if os.preadv(handle, [found], blob.offset) != blob.size or xxh3_64_intdigest(found) != blob.xxh3:
        raise Corrupt(
            f"the {blob.size} bytes from {blob.offset} do not match their checksum; fetch the shard again"
        )
    return found
