"""Raster files of any kind GDAL reads: headers, windows, and one sentence for each way a file can be broken.

Opening a file and decoding its blocks cost fifty times what slicing does, so each thread keeps its files open, and
a band that is read in many small windows is decoded once, whole, as soon as those windows have cost as much.
Both are bounded (`FILES`, `BYTES`), the longest unused leaves first, and nothing is shared with a forked child. A band
makes room only for one that will not want it back at once: going round in a circle larger than the room would
decode everything every time, so what does not fit is read in windows instead.

GDAL decodes in one thread here, and must: with more, its JPEG 2000 driver loses the errors of its threads, and a
truncated file reads as zeros without a word.
"""

from __future__ import annotations

import functools
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import rasterio
import rasterio.transform
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geodata.errors import Corrupt, DataError, Missing, Transient
from geodata.grid import Bounds, Grid

LOCAL = {"GDAL_NUM_THREADS": "1"}
"""GDAL options for every file: one decoding thread; see above."""

REMOTE = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
}
"""Further options for files behind HTTP: the only retries there are, three with growing pauses."""

FILES = 160
"""Files a thread keeps open: a year of monthly Sentinel-2 acquisitions with 13 bands is 156."""
BYTES = 256 * 2**20
"""Decoded bands a thread keeps."""
WHOLE = 16 * 2**20
"""A band larger than this (bytes) is only ever read in windows; GDAL's own block cache serves those."""
RECENT = 2000
"""Reads within which a decoded band counts as in use."""

_TRANSIENT = re.compile(
    r"(response code:? ?(408|425|429|5\d\d)|timed? ?out|could ?n.t (connect|resolve)|reset)", re.I
)
_ABSENT = re.compile(
    r"(response code:? ?(401|403|404|410)|no such file|does not exist in the file system)", re.I
)


@dataclass(frozen=True)
class Lattice:
    """Where the pixels of a band lie, and their dtype. `affine` maps (column, row) to units of `epsg`."""

    epsg: int
    affine: Affine
    height: int
    width: int
    dtype: str

    @functools.cached_property
    def grid(self) -> Grid | None:
        """The pixels as a Grid, or None when they are rotated, not square, or in degrees."""
        try:
            found = Grid(self.epsg, tuple(self.affine)[:6], self.height, self.width)
        except ValueError:
            return None
        return found if CRS.from_epsg(self.epsg).is_projected else None

    @property
    def bounds(self) -> Bounds:
        """(xmin, ymin, xmax, ymax) in units of `epsg`."""
        xmin, ymin, xmax, ymax = rasterio.transform.array_bounds(self.height, self.width, self.affine)
        return xmin, ymin, xmax, ymax


@dataclass(frozen=True)
class Header:
    """What a file says of itself, band by band; `block` (rows, columns) is what it decodes at once."""

    lattices: tuple[Lattice, ...]
    names: tuple[str | None, ...]
    block: tuple[int, int]

    def lattice(self, index: int) -> Lattice:
        """Of band `index`, counted from 1."""
        return self.lattices[index - 1]


def header(path: str) -> Header:
    """What a file says of itself. Raises Missing, Transient or Corrupt."""
    return _held(path).header


def read(
    path: str, index: int, row: int, col: int, height: int, width: int
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Pixels (height, width) of band `index` (from 1), and where the file's nodata value or mask says there are none.

    The second is None for a file that has neither. The window lies inside the file. The arrays may be views of what is kept: do not write to them. Raises
    Missing, Transient or Corrupt.
    """
    held = _held(path)
    rows, cols = slice(row, row + height), slice(col, col + width)
    whole = held.whole.get(index) or _whole_soon(held, index, row, col, height, width)
    if whole is None:
        return held.decode(index, Window(col, row, width, height))
    pixels, absent = whole
    return pixels[rows, cols], None if absent is None else absent[rows, cols]


def forget() -> None:
    """Close this thread's files and drop its decoded bands."""
    _open.clear()


@dataclass
class _Held:
    """One open file, its bands decoded whole so far, and what reading windows of the others has cost (pixels)."""

    path: str
    dataset: Any
    header: Header
    masked: tuple[bool, ...]
    quiet: bool
    whole: dict[int, tuple[NDArray[Any], NDArray[Any] | None]] = field(default_factory=dict)
    spent: dict[int, int] = field(default_factory=dict)
    turn: int = 0

    @property
    def bytes(self) -> int:
        kept = [array for pair in self.whole.values() for array in pair if array is not None]
        return sum(array.nbytes for array in kept)

    def decode(self, index: int, window: Window | None = None) -> tuple[NDArray[Any], NDArray[Any] | None]:
        with _told(self.path) if self.quiet else _speaking(self.path):
            pixels = self.dataset.read(index, window=window)
            absent = self.dataset.read_masks(index, window=window) == 0 if self.masked[index - 1] else None
        none = self.dataset.nodatavals[index - 1]
        if none is not None and none == none:
            absent = pixels == none if absent is None else absent | (pixels == none)
        return pixels, absent


class _Open(threading.local):
    """A thread's files, least recently used first. A forked child starts with none: descriptors are shared, offsets too."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.pid = os.getpid()
        self.files: OrderedDict[tuple[str, object], _Held] = OrderedDict()
        self.bytes = 0
        self.turn = 0


_open = _Open()


def _held(path: str) -> _Held:
    if _open.pid != os.getpid():
        _open.clear()
    key = (path, _stamp(path))
    held = _open.files.get(key)
    if held is None:
        held = _open.files[key] = _opened(path)
        if len(_open.files) > FILES:
            _, oldest = _open.files.popitem(last=False)
            _open.bytes -= oldest.bytes
            oldest.dataset.close()
    _open.files.move_to_end(key)
    _open.turn += 1
    held.turn = _open.turn
    return held


def _room(size: int) -> bool:
    """Whether `size` bytes more may be kept, after bands that nobody has read of late have left."""
    for held in _open.files.values():
        if _open.bytes + size <= BYTES or _open.turn - held.turn < RECENT:
            break
        _open.bytes -= held.bytes
        held.whole.clear()
        held.spent.clear()
    return _open.bytes + size <= BYTES


def _whole_soon(
    held: _Held, index: int, row: int, col: int, height: int, width: int
) -> tuple[NDArray[Any], NDArray[Any] | None] | None:
    """The whole band, decoded now, once its windows would have cost as much; None before."""
    lattice, (tall, wide) = held.header.lattice(index), held.header.block
    size = lattice.height * lattice.width
    if size * np.dtype(lattice.dtype).itemsize > WHOLE:
        return None
    rows, cols = (row + height - 1) // tall - row // tall + 1, (col + width - 1) // wide - col // wide + 1
    held.spent[index] = held.spent.get(index, 0) + rows * cols * tall * wide
    if held.spent[index] < size or not _room(size * np.dtype(lattice.dtype).itemsize):
        return None
    before = held.bytes
    held.whole[index] = held.decode(index)
    _open.bytes += held.bytes - before
    return held.whole[index]


def _opened(path: str) -> _Held:
    with _speaking(path):
        dataset = rasterio.open(path)
    if dataset.crs is None:
        raise Corrupt(
            f"{path} does not say where it lies (no coordinate system); assign one with gdal_edit -a_srs"
        )
    epsg = dataset.crs.to_epsg()
    if epsg is None:
        raise Corrupt(
            f"{path} is in a coordinate system without EPSG code ({dataset.crs}); reproject it with gdalwarp"
        )
    flags = [MaskFlags.per_dataset in flags or MaskFlags.alpha in flags for flags in dataset.mask_flag_enums]
    block = dataset.block_shapes[0]
    place = dataset.transform, dataset.height, dataset.width
    head = Header(
        lattices=tuple(Lattice(epsg, *place, dtype) for dtype in dataset.dtypes),
        names=dataset.descriptions,
        block=(min(block[0], dataset.height), min(block[1], dataset.width)),
    )
    quiet = not _remote(path) and dataset.driver == "GTiff"
    return _Held(path, dataset, head, tuple(flags), quiet)


@contextmanager
def _speaking(path: str) -> Iterator[None]:
    """GDAL set up for this path, and its errors in our words."""
    with _told(path), rasterio.Env(**LOCAL, **(REMOTE if _remote(path) else {})):
        yield


@contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except RasterioError as error:
        raise _failure(path, error) from error


def _failure(path: str, error: RasterioError) -> DataError:
    text = " ".join(f"{error} {error.__cause__ or ''}".split()).replace(
        " See previous exception for details.", ""
    )
    local = _container(path)
    if (local is not None and not os.path.exists(local)) or _ABSENT.search(text):
        return Missing(f"{path} is not there ({text}); check the path and who may read it")
    if _remote(path) and _TRANSIENT.search(text):
        return Transient(
            f"{path} could not be read after {REMOTE['GDAL_HTTP_MAX_RETRY']} retries ({text}); try later"
        )
    return Corrupt(f"{path} is damaged or cut short ({text}); fetch the file again")


@functools.lru_cache(maxsize=4096)
def _remote(path: str) -> bool:
    return "://" in path or "/vsicurl/" in path or "/vsis3/" in path or "/vsigs/" in path or "/vsiaz/" in path


@functools.lru_cache(maxsize=4096)
def _container(path: str) -> str | None:
    """The file on this machine that holds `path` (itself, or the archive around it); None for what is remote."""
    if _remote(path):
        return None
    if not path.startswith("/vsi"):
        return path
    inside = re.fullmatch(r"/vsi\w+/\{(.+)\}(/.*)?", path) or re.fullmatch(
        r"/vsi\w+/(.+?\.(?:zip|whl|tar|tgz))(/.*)?", path
    )
    return inside.group(1) if inside else None


def _stamp(path: str) -> object:
    """Changes when a file on this machine is replaced, so that what is kept of the old one is not used."""
    local = _container(path)
    if local is None:
        return None
    try:
        found = os.stat(local)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
