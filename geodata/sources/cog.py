"""Raster files of any kind GDAL reads: headers, windows, and one sentence for each way a file can be broken.

Opening a file and decoding its blocks cost fifty times what slicing does. A window of 64 pixels decodes a block of 512 or
several, so what has been decoded is kept, block by block, and neighbouring chips of one scene decode nothing again.
Files, headers and blocks are kept apart, because a year of acquisitions has more files than a process may hold
open, and a block that is kept needs no file. All three are bounded (`FILES`, `HEADERS`, `BYTES`) and the longest
unused leaves first.

Threads share all of it: a file is used by one thread at a time, a block that several want is decoded by the first
while the others wait for it. Nothing is shared with a forked child.

GDAL decodes in one thread here, and must: with more, its JPEG 2000 driver loses the errors of its threads, and a
truncated file reads as zeros without a word. Its own cache of blocks is kept small, for it would hold the same twice.
"""

from __future__ import annotations

import functools
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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

LOCAL = {"GDAL_NUM_THREADS": "1", "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}
"""GDAL options for every file: one decoding thread, see above; files beside it are looked for by name, since listing a
folder of thousands of scenes for each one opened costs more than the opening."""

REMOTE = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/",
}
"""Further options for files behind HTTP: GDAL's own retries, three with growing pauses; and nothing kept of a file that
was closed, since GDAL takes an answer that was cut off for the end of the file and would never ask again."""

FILES = 200
"""Files kept open besides those in use: a year of monthly Sentinel-2 acquisitions with 13 bands is 156."""
TWINS = 16
"""How often a file is kept open that several threads read at once."""
HEADERS = 20_000
"""Files whose headers are remembered, about 1 kB each."""
BYTES = 256 * 2**20
"""Decoded blocks that are kept."""
GDAL_BYTES = 32 * 2**20
"""Decoded blocks GDAL keeps for the whole process: enough for the other bands of a block that holds several."""
STRIP = 2**18
"""Pixels up to which a file in strips is decoded at once: most have strips of one row."""

_TRANSIENT = re.compile(
    r"(response code:? ?(408|425|429|5\d\d)|timed? ?out|could ?n.t (connect|resolve)|reset)", re.I
)
_ABSENT = re.compile(
    r"(response code:? ?(401|403|404|410)|no such file|does not exist in the file system)", re.I
)


@dataclass(frozen=True)
class FileLattice:
    """Where the pixels of a band lie, and their dtype. `affine` maps (column, row) to units of `epsg`."""

    epsg: int
    affine: Affine
    height: int
    width: int
    dtype: str

    @functools.cached_property
    def itemsize(self) -> int:
        """Bytes per pixel."""
        return np.dtype(self.dtype).itemsize

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
    """What a file says of itself, band by band; `block` (rows, columns) is what is decoded at once."""

    lattices: tuple[FileLattice, ...]
    names: tuple[str | None, ...]
    block: tuple[int, int]

    def lattice(self, index: int) -> FileLattice:
        """Of band `index`, counted from 1."""
        return self.lattices[index - 1]


File = tuple[str, object]
"""A file as it is now: its path, and what changes when it is replaced."""
Place = tuple[File, int, int, int]
"""File, band, and row and column of a block."""
Block = tuple[NDArray[Any], NDArray[Any] | None]
"""Pixels, and where there are none (None: everywhere there are)."""


def file(path: str) -> File:
    """The file that is at a path now, for those who ask several things of it; nothing is opened."""
    return path, _stamp(path)


def header(path: str | File) -> Header:
    """What a file says of itself. Raises Missing, Transient or Corrupt."""
    key = file(path) if isinstance(path, str) else path
    found = _kept().headers.get(key)
    if found is None:
        with _held(key) as held:
            found = held.header
        _kept().keep_header(key, found)
    return found


def read(
    path: str | File, index: int, row: int, col: int, height: int, width: int
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Pixels (height, width) of band `index` (from 1), and where the file's nodata value or mask says there are none.

    The second is None for a file that has neither. The window lies inside the file. The arrays may be views of what is
    kept: do not write to them. Raises Missing, Transient or Corrupt.
    """
    key = file(path) if isinstance(path, str) else path
    head = header(key)
    tall, wide = head.block
    if tall * wide * head.lattice(index).itemsize > BYTES // 4:
        return _decoded(key, index, Window(col, row, width, height))
    first_row, first_col = row // tall, col // wide
    last_row, last_col = (row + height - 1) // tall, (col + width - 1) // wide
    top, left = row - first_row * tall, col - first_col * wide
    if first_row == last_row and first_col == last_col:
        pixels, absent = _block(key, head, index, first_row, first_col)
        part = slice(top, top + height), slice(left, left + width)
        return pixels[part], None if absent is None else absent[part]
    rows = [
        [_block(key, head, index, down, across) for across in range(first_col, last_col + 1)]
        for down in range(first_row, last_row + 1)
    ]
    return _joined(rows, top, left, height, width)


def _joined(rows: list[list[Block]], top: int, left: int, height: int, width: int) -> Block:
    """A window of blocks side by side; (top, left) is its corner in the first."""
    pixels = np.empty((height, width), rows[0][0][0].dtype)
    masked = any(absent is not None for blocks in rows for _, absent in blocks)
    lacking = np.zeros((height, width), bool) if masked else None
    down = -top
    for blocks in rows:
        across = -left
        for values, absent in blocks:
            tall, wide = values.shape
            to = (
                slice(max(down, 0), min(down + tall, height)),
                slice(max(across, 0), min(across + wide, width)),
            )
            of = (
                slice(to[0].start - down, to[0].stop - down),
                slice(to[1].start - across, to[1].stop - across),
            )
            pixels[to] = values[of]
            if lacking is not None and absent is not None:
                lacking[to] = absent[of]
            across += wide
        down += blocks[0][0].shape[0]
    return pixels, lacking


def forget() -> None:
    """Close all files that are not in use, and drop headers and decoded blocks."""
    _kept().clear()


def kept_bytes() -> int:
    """Bytes of decoded blocks that are kept now; at most `BYTES`."""
    return _kept().bytes


@dataclass
class _Held:
    """One open file. `quiet`: reading it needs no GDAL settings beyond those it was opened with."""

    key: File
    dataset: Any
    header: Header
    masked: tuple[bool, ...]
    quiet: bool

    def decode(self, index: int, window: Window) -> Block:
        path = self.key[0]
        with _told(path) if self.quiet and _thread.has_spoken else _speaking(path):
            pixels = self.dataset.read(index, window=window)
            absent = self.dataset.read_masks(index, window=window) == 0 if self.masked[index - 1] else None
        none = self.dataset.nodatavals[index - 1]
        if none is not None and none == none:
            absent = pixels == none if absent is None else absent | (pixels == none)
        return pixels, absent


class _Kept:
    """What this process keeps, least recently used first; `lock` guards all of it. `wanted` are blocks being decoded."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.idle: OrderedDict[tuple[File, int], _Held] = OrderedDict()
        self.headers: OrderedDict[File, Header] = OrderedDict()
        self.blocks: OrderedDict[Place, Block] = OrderedDict()
        self.wanted: dict[Place, threading.Event] = {}
        self.bytes = 0

    def clear(self) -> None:
        with self.lock:
            idle = list(self.idle.values())
            self.idle.clear()
            self.headers.clear()
            self.blocks.clear()
            self.bytes = 0
        for held in idle:
            held.dataset.close()

    def taken(self, key: File) -> _Held | None:
        """An idle file, which is the caller's until it gives it back."""
        with self.lock:
            found = (self.idle.pop((key, twin), None) for twin in range(TWINS))
            return next((held for held in found if held is not None), None)

    def given_back(self, held: _Held) -> None:
        with self.lock:
            free = (twin for twin in range(TWINS) if (held.key, twin) not in self.idle)
            self.idle[held.key, next(free, TWINS)] = held
            oldest = self.idle.popitem(last=False)[1] if len(self.idle) > FILES else None
        if oldest is not None:
            oldest.dataset.close()

    def keep_header(self, key: File, head: Header) -> None:
        with self.lock:
            self.headers[key] = head
            if len(self.headers) > HEADERS:
                self.headers.popitem(last=False)

    def block(self, place: Place) -> tuple[Block | None, threading.Event | None]:
        """A kept block; or neither, when it is the caller's to decode and settle; or the event to wait for."""
        with self.lock:
            found = self.blocks.get(place)
            if found is not None:
                self.blocks.move_to_end(place)
                return found, None
            going_on = self.wanted.get(place)
            if going_on is None:
                self.wanted[place] = threading.Event()
            return None, going_on

    def settle(self, place: Place, block: Block | None) -> None:
        """Keep a decoded block (None: it could not be) and let those who wait for it look again."""
        with self.lock:
            if block is not None:
                self.blocks[place] = block
                self.bytes += _size(block)
            while self.bytes > BYTES:
                self.bytes -= _size(self.blocks.popitem(last=False)[1])
            self.wanted.pop(place).set()


class _Thread(threading.local):
    """Whether GDAL has been set up in this thread before: then its messages come to us rather than to the terminal."""

    has_spoken = False


_thread = _Thread()
_process = [_Kept()]


def _kept() -> _Kept:
    return _process[0]


def _begin_anew() -> None:
    """A forked child begins with nothing: it shares descriptors with its parent, and offsets with them."""
    _process[0] = _Kept()


os.register_at_fork(after_in_child=_begin_anew)


@contextmanager
def _held(key: File) -> Iterator[_Held]:
    """The open file, for this thread alone while the block lasts; one that failed to read is not used again."""
    kept = _kept()
    held = kept.taken(key) or _opened(key)
    try:
        yield held
    except BaseException:
        held.dataset.close()
        raise
    kept.given_back(held)


def _decoded(key: File, index: int, window: Window) -> Block:
    with _held(key) as held:
        return held.decode(index, window)


def _block(key: File, head: Header, index: int, down: int, across: int) -> Block:
    """A block as it was decoded before, or decoded now, by this thread or by one that wants it too."""
    kept, place = _kept(), (key, index, down, across)
    while True:
        found, going_on = kept.block(place)
        if found is not None:
            return found
        if going_on is None:
            break
        going_on.wait()
    lattice, (tall, wide) = head.lattice(index), head.block
    row, col = down * tall, across * wide
    window = Window(col, row, min(wide, lattice.width - col), min(tall, lattice.height - row))
    try:
        found = _decoded(key, index, window)
    finally:
        kept.settle(place, found)
    return found


def _size(block: Block) -> int:
    pixels, absent = block
    return pixels.nbytes + (0 if absent is None else absent.nbytes)


def _opened(key: File) -> _Held:
    path = key[0]
    if rasterio.env.get_gdal_config("GDAL_CACHEMAX") != GDAL_BYTES:
        rasterio.env.set_gdal_config(
            "GDAL_CACHEMAX", GDAL_BYTES
        )  # as an option of an Env it would end with the Env
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
    place = dataset.transform, dataset.height, dataset.width
    head = Header(
        lattices=tuple(FileLattice(epsg, *place, dtype) for dtype in dataset.dtypes),
        names=dataset.descriptions,
        block=_decoded_at_once(dataset.block_shapes[0], dataset.shape),
    )
    quiet = not _remote(path) and dataset.driver == "GTiff"
    return _Held(key, dataset, head, tuple(flags), quiet)


def _decoded_at_once(block: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a file's blocks; strips, which may be a row each, are taken several together."""
    (tall, wide), (height, width) = block, shape
    if wide >= width:
        tall *= max(1, STRIP // (tall * wide))
    return min(tall, height), min(wide, width)


@contextmanager
def _speaking(path: str) -> Iterator[None]:
    """GDAL set up for this path, and its errors in our words."""
    with _told(path), rasterio.Env(**(LOCAL | REMOTE if _remote(path) else LOCAL)):
        _thread.has_spoken = True
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
