"""Batches from shards: a plain reader whose order is a function of seed and epoch, and whose position is one number.

Row groups are permuted each epoch and rows are permuted inside a window of several row groups, so memory is bounded
by the window and never grows with the corpus. Every rank computes the same endless order and takes its slice of each
global batch; the position is how many samples of a stream all ranks together have consumed. That is why a run resumes
exactly in the middle of an epoch, also with another number of ranks.

Pixels are decoded in threads (zstd and large copies release the GIL) straight into the array that becomes the batch;
nothing is stacked afterwards. Everything else that happens to a batch happens on the device, in `augment.py`.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geodata import codec
from geodata.errors import Corrupt, Missing
from geodata.manifest import Unit, open_corpus
from geodata.moments import Moments
from geodata.shards import read_table
from training.recipe import Stream

__all__ = ["Batch", "Feed", "Samples", "once", "statistics"]

WINDOW = 4  # row groups that are shuffled together
AHEAD = 2  # batches that wait decoded


@dataclass(frozen=True)
class Samples:
    """Raw samples of one stream. Layers (B, T, C, H, W) keep their stored dtype; `bands` and `nodata` say what they
    hold. `dates` (B, T) are days since 1970-01-01, -1 where nobody states a date, or where a series was padded (with
    nodata) to the longest. `lonlat` (B, 2) is nan for pictures that lie nowhere."""

    ids: list[str]
    layers: dict[str, Tensor]
    dates: dict[str, Tensor]
    labels: dict[str, Tensor]
    lonlat: Tensor
    region: Tensor
    bands: dict[str, tuple[str, ...]] = field(default_factory=dict)
    nodata: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Samples:
        """The same samples with every tensor on a device."""

        def moved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}

        return replace(
            self,
            layers=moved(self.layers),
            dates=moved(self.dates),
            labels=moved(self.labels),
            lonlat=self.lonlat.to(device),
            region=self.region.to(device),
        )

    def pinned(self) -> Samples:
        """The same samples with pixels in page-locked memory, from which copies to a GPU overlap with its work."""
        return replace(self, layers={name: pixels.pin_memory() for name, pixels in self.layers.items()})


Batch = Mapping[str, Samples]
"""stream name -> samples."""


class Feed:
    """An endless iterator of this rank's batches.

    `batch` is how many samples of each stream all ranks together take per batch. `position` counts what all ranks
    have consumed of each stream; give it back to go on from there with any number of ranks that divides the batch.
    Raises ValueError for an empty split, a layer the corpus lacks or a batch the ranks cannot share; Corrupt, naming
    the shard, while reading.
    """

    def __init__(
        self,
        streams: Mapping[str, Stream],
        batch: Mapping[str, int],
        seed: int,
        rank: int = 0,
        world: int = 1,
        position: Mapping[str, int] | None = None,
        *,
        pin: bool = False,
    ) -> None:
        uneven = [name for name in streams if batch[name] % world]
        if uneven:
            raise ValueError(
                f"{batch[uneven[0]]} samples of stream {uneven[0]!r} do not divide over {world} ranks; "
                "change batch, accumulate or the number of workers"
            )
        self.position = {name: int((position or {}).get(name, 0)) for name in streams}
        self._orders = {
            name: _Order(_Source(stream), [seed, number])
            for number, (name, stream) in enumerate(sorted(streams.items()))
        }
        self._batch, self._rank, self._world, self._pin = dict(batch), rank, world, pin

    def size(self, stream: str) -> int:
        """Samples in one epoch of a stream."""
        return self._orders[stream].size

    def epoch_of(self, stream: str) -> float:
        """How many times a stream has been seen, as of the last batch handed out."""
        return self.position[stream] / self.size(stream)

    def __iter__(self) -> Generator[dict[str, Samples], None, None]:
        with ThreadPoolExecutor(_threads(), "decode") as pool:
            parts = {name: self._of_stream(name, pool) for name in self._orders}
            whole = ({name: next(part) for name, part in parts.items()} for _ in count())
            with closing(_ahead(whole)) as ready:
                for batch in ready:
                    for name, share in self._batch.items():
                        self.position[name] += share
                    yield batch

    def _of_stream(self, name: str, pool: ThreadPoolExecutor) -> Iterator[Samples]:
        order, share = self._orders[name], self._batch[name]
        local, start = share // self._world, self.position[name]
        held: list[_Row] = []
        for rows in order.read(start, share, slice(self._rank * local, (self._rank + 1) * local), pool):
            for row in rows:
                held.append(row)
                if len(held) == local:
                    samples = order.source.decode(held, pool)
                    yield samples.pinned() if self._pin else samples
                    held = []


def once(stream: Stream, batch: int) -> Iterator[Samples]:
    """Every sample of a stream once, in the order of the corpus; the last batch holds what is left."""
    source = _Source(stream)

    def batches() -> Iterator[Samples]:
        held: list[_Row] = []
        for part in source.parts:
            table = source.read(part.unit)
            held += [_Row(table, int(row), part.unit) for row in part.rows]
            while len(held) >= batch:
                yield source.decode(held[:batch], pool)
                held = held[batch:]
        if held:
            yield source.decode(held, pool)

    with ThreadPoolExecutor(_threads(), "decode") as pool, closing(_ahead(batches())) as ready:
        yield from ready


def statistics(
    streams: Mapping[str, Stream],
) -> dict[str, tuple[tuple[str, ...], tuple[float, ...], tuple[float, ...]]]:
    """Bands, mean and standard deviation of each layer the streams bring, in stored units, from their manifests.

    Streams that share a layer are counted together; a corpus that two streams share counts once.
    """
    seen: set[tuple[str, str]] = set()
    found: dict[str, tuple[tuple[str, ...], Moments]] = {}
    for stream in streams.values():
        corpus = open_corpus(stream.corpus)
        if (str(corpus.root), stream.split) in seen:
            continue
        seen.add((str(corpus.root), stream.split))
        tables = {sensor.prefix: sensor.band_names for sensor in corpus.meta().sensors}
        for layer, moments in corpus.stats(stream.split).items():
            bands, before = found.get(layer, (tables[layer], None))
            if bands != tables[layer]:
                raise ValueError(
                    f"layer {layer!r} has bands {bands} in one stream and {tables[layer]} in another"
                )
            found[layer] = (bands, moments if before is None else before + moments)
    return {layer: (bands, moments.mean(), moments.std()) for layer, (bands, moments) in found.items()}


@dataclass(frozen=True)
class _Part:
    """The rows of a row group that belong to the split."""

    unit: Unit
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class _Row:
    table: Any  # one row group in memory
    index: int
    unit: Unit


class _Source:
    """One stream's samples on disk, and how rows become a batch."""

    def __init__(self, stream: Stream) -> None:
        corpus = open_corpus(stream.corpus)
        where = f"corpus {corpus.name}@{corpus.version}"
        self.parts = [_Part(unit, rows) for unit, rows in corpus.parts(stream.split)]
        if not self.parts:
            raise ValueError(
                f"{where} has no sample in split {stream.split!r}; it has {corpus.counts().get('split', {})}"
            )
        meta = corpus.meta()
        self.sensors = {sensor.prefix: sensor for sensor in meta.sensors}
        for layer in stream.layers:
            if layer not in self.sensors:
                raise ValueError(
                    f"{where} has no layer {layer!r}; it has {', '.join(self.sensors)}: change the stream's layers"
                )
        self.layers, self.labels = stream.layers, meta.labels

    def read(self, unit: Unit) -> Any:
        """One row group, checksums verified, with the columns this stream needs."""
        columns = ["sample_id", "region_id", "lon", "lat", *(f"label_{name}" for name in self.labels)]
        columns += [f"{layer}_{column}" for layer in self.layers for column in ("pixels", "dates")]
        return read_table(unit.path, unit.row_group, columns, unit.footer_sha256).combine_chunks()

    def decode(self, rows: Sequence[_Row], pool: ThreadPoolExecutor) -> Samples:
        """Rows as one batch; each blob is unpacked into its place in the batch's array."""

        def column(name: str) -> list[Any]:
            return [row.table[name][row.index].as_py() for row in rows]

        ids = column("sample_id")
        dates = {layer: _padded_dates(column(f"{layer}_dates")) for layer in self.layers}
        lonlat = np.array([column("lon"), column("lat")], np.float32).T
        return Samples(
            ids=ids,
            layers={layer: torch.from_numpy(self._pixels(layer, rows, ids, pool)) for layer in self.layers},
            dates={layer: torch.from_numpy(days) for layer, days in dates.items()},
            labels={
                name: torch.tensor(_codes(column(f"label_{name}")), dtype=torch.int64) for name in self.labels
            },
            lonlat=torch.from_numpy(np.ascontiguousarray(lonlat)),
            region=torch.tensor(_codes(column("region_id")), dtype=torch.int64),
            bands={layer: self.sensors[layer].band_names for layer in self.layers},
            nodata={layer: self.sensors[layer].nodata for layer in self.layers},
        )

    def _pixels(
        self, layer: str, rows: Sequence[_Row], ids: Sequence[str], pool: ThreadPoolExecutor
    ) -> NDArray[Any]:
        blobs = [row.table[f"{layer}_pixels"][row.index].as_buffer() for row in rows]
        shapes = [_shape(blob, layer, row, name) for blob, row, name in zip(blobs, rows, ids, strict=True)]
        odd = [number for number, shape in enumerate(shapes) if shape[1:] != shapes[0][1:]]
        if odd:
            raise Corrupt(
                f"shard {rows[odd[0]].unit.path}, sample {ids[odd[0]]}: {layer} is {shapes[odd[0]][1:]}, others are "
                f"{shapes[0][1:]} (bands, height, width); one stream needs one shape"
            )
        longest = max(shape[0] for shape in shapes)
        sensor = self.sensors[layer]
        out = np.empty((len(rows), longest, *shapes[0][1:]), sensor.numpy_dtype)

        def unpack(number: int) -> None:
            times = shapes[number][0]
            out[number, times:] = sensor.nodata
            try:
                codec.unpack(blobs[number], out=out[number, :times])
            except (Corrupt, ValueError) as error:
                unit = rows[number].unit
                raise Corrupt(
                    f"shard {unit.path}, row group {unit.row_group}, sample {ids[number]}: {error}"
                ) from error

        list(pool.map(unpack, range(len(rows))))
        return out


class _Order:
    """The endless order of a stream's samples: f(seed, epoch), the same on every rank."""

    def __init__(self, source: _Source, seed: Sequence[int]) -> None:
        self.source, self.seed = source, list(seed)
        self.size = sum(len(part.rows) for part in source.parts)

    def windows(self, epoch: int) -> Iterator[list[tuple[_Part, int]]]:
        """(row group, row) of one epoch in order, a window at a time."""
        parts = self.source.parts
        order = np.random.default_rng([*self.seed, epoch]).permutation(len(parts))
        for first in range(0, len(order), WINDOW):
            inside = [parts[number] for number in order[first : first + WINDOW]]
            rows = [(part, int(row)) for part in inside for row in part.rows]
            shuffled = np.random.default_rng([*self.seed, epoch, first]).permutation(len(rows))
            yield [rows[number] for number in shuffled]

    def mine(self, start: int, share: int, slot: slice) -> Iterator[list[tuple[_Part, int]]]:
        """The same for ever, from the `start`-th sample, only rows in this rank's slot of each `share` samples."""
        epoch, done = divmod(start, self.size)
        place = start - done
        for number in count(epoch):
            for window in self.windows(number):
                taken = range(max(place, start), place + len(window))
                kept = [window[at - place] for at in taken if slot.start <= (at - start) % share < slot.stop]
                place += len(window)
                if kept:
                    yield kept

    def read(self, start: int, share: int, slot: slice, pool: ThreadPoolExecutor) -> Iterator[list[_Row]]:
        """Windows in memory, the next one being read while one is used."""
        waiting: list[tuple[_Part, int, Future[Any]]] = []
        for window in self.mine(start, share, slot):
            units = {id(part): part.unit for part, _ in window}
            tables = {key: pool.submit(self.source.read, unit) for key, unit in units.items()}
            if waiting:
                yield [_Row(table.result(), row, part.unit) for part, row, table in waiting]
            waiting = [(part, row, tables[id(part)]) for part, row in window]


def _shape(blob: Any, layer: str, row: _Row, name: str) -> tuple[int, ...]:
    if blob is None:
        raise Missing(
            f"shard {row.unit.path}: sample {name} has no {layer} pixels; leave the layer out of the stream's layers"
        )
    try:
        return codec.describe(blob)[1]
    except Corrupt as error:
        raise Corrupt(
            f"shard {row.unit.path}, row group {row.unit.row_group}, sample {name}: {error}"
        ) from error


def _padded_dates(series: Sequence[Sequence[Any] | None]) -> NDArray[np.int32]:
    days = [np.array(dates or [], "datetime64[D]") for dates in series]
    out = np.full((len(days), max(len(line) for line in days)), -1, np.int32)
    for number, line in enumerate(days):
        out[number, : len(line)] = np.where(np.isnat(line), -1, line.astype(np.int64))
    return out


def _codes(values: Sequence[int | None]) -> list[int]:
    return [-1 if value is None else value for value in values]


def _threads() -> int:
    return max(1, min(8, os.cpu_count() or 1))


T = TypeVar("T")


def _ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """Items of an iterator that runs in a thread of its own, at most AHEAD before they are asked for.

    What it raises is raised here; when nobody asks any more, it stops.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(AHEAD)
    stopped = threading.Event()

    def put(item: T | None, error: BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return ready.put((item, error), timeout=0.1)
            except queue.Full:
                continue

    def run() -> None:
        try:
            for item in items:
                put(item, None)
                if stopped.is_set():
                    return
            put(None, StopIteration())
        except BaseException as error:  # handed over, to be raised by the reader
            put(None, error)

    thread = threading.Thread(target=run, name="feed", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
