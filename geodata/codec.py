"""One array, one blob: a versioned header, the shape, and the pixels byte-split and compressed with zstd.

Why a blob and no tensor column: Parquet has no 8- or 16-bit integers, so tensors of them are stored as INT32 and
read four to five times slower. Splitting the low from the high bytes first is what lets zstd find anything, and
level 1 is all it takes: higher levels buy at most 2 %.

Layout, little-endian: magic `SWB`, version, codec, dtype, number of axes, one reserved byte, length of the payload
(uint64), then the shape (uint32 each) and the payload.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geodata.errors import Corrupt

VERSION = 1
_HEADER = struct.Struct("<3sBBBBBQ")
_MAGIC = b"SWB"
_RAW, _SPLIT_ZSTD = 0, 1
_DTYPES = tuple(
    np.dtype(name) for name in ("uint8", "uint16", "int16", "uint32", "int32", "float32", "float64")
)
_LARGEST = 1 << 34
"""A blob that claims to unpack to more than 16 GiB is refused before anything is allocated."""


def pack(array: NDArray[Any], *, compress: bool = True) -> bytes:
    """An array as a blob; `compress=False` trades bytes for decoding time (local NVMe).

    Raises ValueError for a dtype outside uint8/16/32, int16/32, float32/64.
    """
    array = np.require(array, requirements="C")
    if array.dtype not in _DTYPES:
        names = ", ".join(dtype.name for dtype in _DTYPES)
        raise ValueError(f"pixels of dtype {array.dtype} cannot be stored; convert to one of {names}")
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    payload = little.tobytes()
    if compress:
        size = array.itemsize
        planes = payload if size == 1 else np.frombuffer(payload, np.uint8).reshape(-1, size).T.tobytes()
        payload = pa.Codec("zstd", 1).compress(planes, asbytes=True) if planes else b""
    codec = _SPLIT_ZSTD if compress else _RAW
    head = _HEADER.pack(_MAGIC, VERSION, codec, _DTYPES.index(array.dtype), array.ndim, 0, len(payload))
    return head + struct.pack(f"<{array.ndim}I", *array.shape) + payload


def describe(blob: bytes | memoryview | pa.Buffer) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """dtype and shape of a blob, read from its header alone. Raises Corrupt."""
    dtype, shape, _, _ = _parse(memoryview(blob))
    return dtype, shape


def unpack(blob: bytes | memoryview | pa.Buffer, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """The array in a blob, written into `out` (same shape and dtype, contiguous) when it is given.

    Raises Corrupt when header, length or payload are wrong, ValueError when `out` does not fit.
    """
    dtype, shape, codec, payload = _parse(memoryview(blob))
    if out is None:
        out = np.empty(shape, dtype)
    elif out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
        raise ValueError(f"a blob of {dtype} {shape} does not fit a buffer of {out.dtype} {out.shape}")
    if codec == _RAW:
        np.copyto(out, np.frombuffer(payload, dtype).reshape(shape))
        return out
    if not out.size:
        return out
    try:
        plain = pa.Codec("zstd").decompress(pa.py_buffer(payload), out.nbytes)
    except (OSError, pa.ArrowInvalid) as error:
        raise Corrupt(f"compressed pixels do not unpack ({error}); fetch the shard again") from error
    _join(np.frombuffer(plain, np.uint8), out)
    return out


def _join(planes: NDArray[np.uint8], out: NDArray[Any]) -> None:
    """Put byte planes (low first) together. Copy, shift, or beats byte-wise writes by a factor of two."""
    size = out.itemsize
    if size == 1:
        np.copyto(out, planes.view(out.dtype).reshape(out.shape))
        return
    unsigned = out.reshape(-1).view(f"<u{size}")
    low_first = planes.reshape(size, -1)
    np.copyto(unsigned, low_first[size - 1])
    for plane in low_first[size - 2 :: -1]:
        np.left_shift(unsigned, 8, out=unsigned)
        np.bitwise_or(unsigned, plane, out=unsigned)


def _parse(view: memoryview) -> tuple[np.dtype[Any], tuple[int, ...], int, memoryview]:
    if len(view) < _HEADER.size:
        raise Corrupt(f"a pixel blob of {len(view)} bytes is shorter than its header; fetch the shard again")
    magic, version, codec, dtype, axes, _, length = _HEADER.unpack_from(view)
    if magic != _MAGIC or dtype >= len(_DTYPES) or codec not in (_RAW, _SPLIT_ZSTD):
        raise Corrupt("a pixel blob does not begin with a swath header; the column holds something else")
    if version != VERSION:
        raise Corrupt(
            f"a pixel blob has format version {version}, this release reads {VERSION}; update swath"
        )
    body = _HEADER.size + 4 * axes
    if len(view) != body + length:
        raise Corrupt(
            f"a pixel blob has {len(view)} bytes where its header says {body + length}; fetch it again"
        )
    shape = struct.unpack_from(f"<{axes}I", view, _HEADER.size)
    nbytes = math.prod(shape) * _DTYPES[dtype].itemsize
    if nbytes > _LARGEST or (codec == _RAW and nbytes != length):
        raise Corrupt(f"a pixel blob of {length} bytes claims the shape {shape}; it is not what was written")
    return _DTYPES[dtype], shape, codec, view[body:]
