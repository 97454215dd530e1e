"""One array, one blob: a versioned header, the shape, and the pixels byte-split and compressed with zstd.

Why a blob and no tensor column: Parquet has no 8- or 16-bit integers, so tensors of them are stored as INT32 and
read four to five times slower. Splitting the low from the high bytes first is what lets zstd find anything, and
level 1 is all it takes: higher levels buy at most 2 %.

Pictures that came as files (JPEG, PNG, WebP) are kept as those files: a second compression would lose pixels or
cost several times the bytes. Such a blob unpacks to (dates, 3, height, width) uint8 like any other, through Pillow:
grey and palettes become RGB, alpha is dropped, and the orientation a camera noted is not applied.

Layout, little-endian: magic `SWB`, version, codec, dtype, number of axes, one reserved byte, length of the payload
(uint64), then the shape (uint32 each) and the payload. The payload of pictures is, for each date: media type (16
bytes), rows and columns of tiles (uint16 each), the length of each tile (uint64), row by row; then all the files.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from geodata.errors import Corrupt

VERSION = 1
_HEADER = struct.Struct("<3sBBBBBQ")
_MAGIC = b"SWB"
_RAW, _SPLIT_ZSTD, _IMAGES = 0, 1, 2
_TILED = struct.Struct("<16sHH")
_DTYPES = tuple(
    np.dtype(name) for name in ("uint8", "uint16", "int16", "uint32", "int32", "float32", "float64")
)
_LARGEST = 1 << 34
"""A blob that claims to unpack to more than 16 GiB is refused before anything is allocated."""

MIMES = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP", "image/tiff": "TIFF"}
"""Media types that are read, and Pillow's names for them; nothing else is tried on bytes from elsewhere."""
_STARTS = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
}
_ORIENTATION = 0x0112
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


@dataclass(frozen=True)
class Encoded:
    """A picture as the files it came in: rows x columns of tiles of one media type, which stitched give its pixels."""

    mime: str
    tiles: tuple[tuple[bytes, ...], ...]

    def __post_init__(self) -> None:
        if self.mime not in MIMES:
            raise ValueError(
                f"pictures of type {self.mime!r} are not kept as files; known are {', '.join(MIMES)}"
            )
        if not self.tiles or not self.tiles[0] or any(len(row) != len(self.tiles[0]) for row in self.tiles):
            raise ValueError("the tiles of a picture are rows of equal length, with at least one tile")


def pack(array: NDArray[Any], *, compress: bool = True) -> pa.Buffer:
    """An array as a blob; `compress=False` trades bytes for decoding time (local NVMe).

    Raises ValueError for a dtype outside uint8/16/32, int16/32, float32/64.
    """
    array = np.require(array, requirements="C")
    if array.dtype not in _DTYPES:
        names = ", ".join(dtype.name for dtype in _DTYPES)
        raise ValueError(f"pixels of dtype {array.dtype} cannot be stored; convert to one of {names}")
    little = array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1)
    payload: Any = little.view(np.uint8)
    if compress:
        planes = _split(little)
        payload = pa.Codec("zstd", 1).compress(planes) if planes.size else b""
    codec = _SPLIT_ZSTD if compress else _RAW
    head = _HEADER.pack(_MAGIC, VERSION, codec, _DTYPES.index(array.dtype), array.ndim, 0, len(payload))
    return _joined([head, struct.pack(f"<{array.ndim}I", *array.shape), payload])


def pack_images(pictures: Sequence[Encoded], shape: tuple[int, ...]) -> pa.Buffer:
    """Pictures, one a date, as a blob that unpacks to `shape` (dates, 3, height, width) uint8. Raises ValueError."""
    if len(shape) != 4 or shape[:2] != (len(pictures), 3):
        raise ValueError(
            f"{len(pictures)} pictures do not unpack to {shape}; it must be (dates, 3, height, width)"
        )
    parts: list[bytes] = []
    for picture in pictures:
        files = [tile for row in picture.tiles for tile in row]
        parts.append(_TILED.pack(picture.mime.encode(), len(picture.tiles), len(picture.tiles[0])))
        parts.append(struct.pack(f"<{len(files)}Q", *map(len, files)))
        parts += files
    size = sum(map(len, parts))
    head = _HEADER.pack(_MAGIC, VERSION, _IMAGES, _DTYPES.index(np.dtype("uint8")), 4, 0, size)
    return _joined([head, struct.pack("<4I", *shape), *parts])


def images(blob: bytes | memoryview | pa.Buffer) -> tuple[Encoded, ...]:
    """The files in a blob of pictures, one entry a date; empty for a blob of pixels. Raises Corrupt."""
    _, shape, codec, payload = _parse(memoryview(blob))
    return _images(payload, shape[0]) if codec == _IMAGES else ()


def decoded(files: Encoded) -> NDArray[np.uint8]:
    """The pixels (3, height, width) of a picture, its tiles stitched. Raises Corrupt when a tile is no such picture.

    Tiles of a row have one height, tiles of a column one width.
    """
    rows = [[picture(tile, files.mime) for tile in row] for row in files.tiles]
    height, width = sum(row[0].shape[0] for row in rows), sum(tile.shape[1] for tile in rows[0])
    out = np.empty((3, height, width), np.uint8)
    _stitch(rows, out)
    return out


def mime_of(file: bytes) -> str | None:
    """The media type of a picture by its first bytes, whatever its name says; None for anything else."""
    if file[:4] == b"RIFF" and file[8:12] == b"WEBP":
        return "image/webp"
    return next((mime for start, mime in _STARTS.items() if file.startswith(start)), None)


def remark(file: bytes, mime: str) -> str:
    """What decoding a picture does to it, or leaves undone: "" when it is RGB as it stands. Raises Corrupt."""
    with _image(file, mime) as image:
        told = [] if image.mode == "RGB" else [f"{image.mode} to RGB"]
        turned = image.getexif().get(_ORIENTATION, 1)
    return ", ".join([*told, *([f"orientation {turned} not applied"] if turned != 1 else [])])


def describe(blob: bytes | memoryview | pa.Buffer) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """dtype and shape of a blob, read from its header alone. Raises Corrupt."""
    dtype, shape, _, _ = _parse(memoryview(blob))
    return dtype, shape


def keeps_files(start: bytes) -> bool:
    """Whether the blob that begins so keeps pictures as files."""
    return len(start) >= _HEADER.size and _HEADER.unpack_from(start)[2] == _IMAGES


def unpack(
    blob: bytes | memoryview | pa.Buffer,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """The array in a blob, written into `out` (same shape and dtype) when it is given; contiguous is fastest.

    For pictures memory in the order of their files, (height, width, 3), is: one JPEG is then decoded straight into it.
    Raises Corrupt when header, length or payload are wrong, ValueError when `out` does not fit.
    """
    dtype, shape, codec, payload = _parse(memoryview(blob))
    if out is None:
        out = np.empty(shape, dtype)
    elif out.shape != shape or out.dtype != dtype:
        raise ValueError(f"a blob of {dtype} {shape} does not fit a buffer of {out.dtype} {out.shape}")
    if codec == _IMAGES:
        for date, files in enumerate(_images(payload, shape[0])):
            _draw(files, out[date])
        return out
    if not out.flags.c_contiguous:
        np.copyto(out, unpack(blob))
        return out
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


def picture(file: bytes, mime: str) -> NDArray[np.uint8]:
    """One picture file as RGB (height, width, 3). Raises Corrupt when it is none, or larger than Pillow allows."""
    quick = _jpeg(file) if mime == "image/jpeg" else None
    if quick is not None:
        return quick
    with _image(file, mime) as image:
        plain = image.convert("RGBA") if "transparency" in image.info else image
        return np.asarray(plain.convert("RGB"))


def _images(payload: memoryview, dates: int) -> tuple[Encoded, ...]:
    pictures, at = [], 0
    try:
        for _ in range(dates):
            mime, rows, columns = _TILED.unpack_from(payload, at)
            at += _TILED.size
            sizes = struct.unpack_from(f"<{rows * columns}Q", payload, at)
            at += 8 * rows * columns
            files = []
            for size in sizes:
                files.append(bytes(payload[at : at + size]))
                at += size
            tiles = tuple(tuple(files[row * columns : (row + 1) * columns]) for row in range(rows))
            pictures.append(Encoded(mime.rstrip(b"\0").decode("ascii"), tiles))
    except (struct.error, ValueError) as error:
        raise Corrupt(
            f"a blob of pictures is not as it was written ({error}); fetch the shard again"
        ) from error
    if at != len(payload):
        raise Corrupt(
            f"a blob of pictures has {len(payload)} bytes where its tiles end at {at}; fetch it again"
        )
    return tuple(pictures)


@contextmanager
def _image(file: bytes, mime: str) -> Iterator[Image.Image]:
    """A picture file, opened and checked. Raises Corrupt, also for what goes wrong while it is read."""
    try:
        with Image.open(io.BytesIO(file), formats=[MIMES[mime]]) as image:
            if image.mode not in _MODES:
                raise Corrupt(
                    f"a picture has pixels of mode {image.mode}; only 8 bits a value are read: convert it"
                )
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Corrupt(
            f"a picture is larger than the {Image.MAX_IMAGE_PIXELS} pixels allowed ({error})"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise Corrupt(f"{len(file)} bytes are no whole picture of type {mime} ({error})") from error


def _jpeg(file: bytes, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8] | None:
    """A whole colour JPEG as (height, width, 3), in `out` if given: as Pillow decodes it, in half the time.

    None for any other file, or one that does not fit; what is wrong with it is for Pillow to say.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(file)
        if colours not in ("YCbCr", "RGB") or height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
            return None
        if out is not None and out.shape != (height, width, 3):
            return None
        return np.asarray(simplejpeg.decode_jpeg(file, "RGB", buffer=out))
    except ValueError:
        return None


def _draw(files: Encoded, out: NDArray[np.uint8]) -> None:
    """A picture into its place (3, height, width). Raises Corrupt."""
    place, first = out.transpose(1, 2, 0), files.tiles[0][0]
    alone = files.mime == "image/jpeg" and len(files.tiles) == len(files.tiles[0]) == 1
    if not (alone and place.flags.c_contiguous and _jpeg(first, place) is not None):
        _stitch(([picture(tile, files.mime) for tile in row] for row in files.tiles), out)


def _stitch(rows: Iterable[Sequence[NDArray[np.uint8]]], out: NDArray[np.uint8]) -> None:
    """Tiles (h, w, 3), row by row, into a picture (3, height, width). Raises Corrupt when they do not fill it."""
    top = 0
    for row in rows:
        left, height = 0, row[0].shape[0]
        for tile in row:
            place = out[:, top : top + height, left : left + tile.shape[1]]
            if place.shape != (3, *tile.shape[:2]):
                raise Corrupt(
                    f"a tile of {tile.shape[:2]} pixels does not fit into a picture of {out.shape[1:]}"
                )
            place[:] = tile.transpose(2, 0, 1)
            left += tile.shape[1]
        if left != out.shape[2]:
            raise Corrupt(f"tiles cover {left} of the {out.shape[2]} columns of a picture")
        top += height
    if top != out.shape[1]:
        raise Corrupt(f"tiles cover {top} of the {out.shape[1]} rows of a picture")


def _scratch(size: int) -> tuple[pa.Buffer, NDArray[np.uint8]]:
    """Memory of Arrow's pool, which is used again and again: new pages from the kernel cost more than splitting does."""
    buffer = pa.allocate_buffer(size)
    return buffer, np.frombuffer(buffer, np.uint8)


def _joined(parts: Sequence[Any]) -> pa.Buffer:
    buffer, bytes_ = _scratch(sum(map(len, parts)))
    at = 0
    for part in parts:
        bytes_[at : at + len(part)] = np.frombuffer(part, np.uint8)
        at += len(part)
    return buffer


def _split(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Little-endian values (N,) as byte planes, low first: (itemsize x N,)."""
    size = values.itemsize
    _, planes = _scratch(values.nbytes)
    unsigned = values.view(f"<u{size}")
    for number, plane in enumerate(planes.reshape(size, -1)):
        np.right_shift(unsigned, 8 * number, out=plane, casting="unsafe")
    return planes


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
    if magic != _MAGIC or dtype >= len(_DTYPES) or codec not in (_RAW, _SPLIT_ZSTD, _IMAGES):
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
    if codec == _IMAGES and (axes != 4 or shape[1] != 3 or _DTYPES[dtype] != np.uint8):
        raise Corrupt(f"a blob of pictures claims {_DTYPES[dtype]} {shape}; it is not what was written")
    return _DTYPES[dtype], shape, codec, view[body:]
