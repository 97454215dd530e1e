"""From rows of shards to batches: each sample is read, checked and decoded straight into its place in the batch.

Nothing is stacked or copied afterwards, and no more than one compressed sample a thread is in memory beside the
batches; of a row group only the small columns are.
"""

from __future__ import annotations

import itertools
import math
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geodata import codec
from geodata.benchmarks.dividing import fraction
from geodata.blobs import Blob, read
from geodata.errors import Corrupt, Missing
from geodata.manifest import Unit, open_corpus
from geodata.shards import read_group
from training.augment import PADDING, UNDATED
from training.recipe import Stream

__all__ = ["Crew", "Group", "Row", "Samples", "Source"]

STRATIFIED = "class"
"""The label whose classes all keep the same share of their samples where not all are used."""

T = TypeVar("T")


@dataclass(frozen=True)
class Samples:
    """Raw samples of one stream. Layers (B, T, C, H, W) keep their stored dtype; `bands` and `nodata` say what they
    hold. `dates` (B, T) are days since 1970-01-01, UNDATED where nobody states a date, PADDING where a series was filled
    up (with nodata) to the longest. `lonlat` (B, 2) is nan for pictures that lie nowhere. Pictures keep the memory order of
    their files, bands last; `augment.prepare` turns them on the device."""

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


class Crew:
    """Threads that decode (zstd, libjpeg and large copies let others run meanwhile); with none, the caller does."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "decode") if threads else None

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def share(self, work: Callable[[range], None], count: int) -> None:
        """`work` on all numbers below `count`, dealt out in runs; returns when all is done, raises what it raises."""
        if self._pool is None:
            return work(range(count))
        step = max(1, -(-count // (2 * self._threads)))
        runs = [range(first, min(first + step, count)) for first in range(0, count, step)]
        for _ in self._pool.map(work, runs):
            pass
        return None

    def later(self, work: Callable[[], T]) -> Callable[[], T]:
        """Begin `work` in a thread; what is returned waits for its result."""
        if self._pool is not None:
            return self._pool.submit(work).result
        done = work()
        return lambda: done


@dataclass(frozen=True)
class Group:
    """The small columns of one row group, and where its pixels lie in a file that stays open as long as this lives."""

    unit: Unit
    handle: int
    ids: list[str]
    numbers: dict[str, NDArray[Any]]
    dates: dict[str, list[NDArray[np.int32]]]
    blobs: Mapping[str, list[Blob]]


class Memory:
    """Memory of arrays that nobody holds any more, used again: new pages cost up to as much as decoding into them."""

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array of anything, its own until it and all that looks into it are gone."""
        size = math.prod(shape) * dtype.itemsize
        try:
            block = self._free.pop()
        except IndexError:
            block = np.empty(size, np.uint8)
        if block.nbytes < size:
            block = np.empty(size, np.uint8)
        lent = np.frombuffer(block.data, dtype, math.prod(shape))
        weakref.finalize(lent, self._free.append, block).atexit = False
        return lent.reshape(shape)


@dataclass(frozen=True)
class Row:
    """One sample on disk."""

    group: Group
    index: int

    def __str__(self) -> str:
        unit = self.group.unit
        return f"shard {unit.path}, row group {unit.row_group}, sample {self.group.ids[self.index]}"


class Source:
    """One stream's samples on disk, and how rows become a batch; `pin` puts pixels into page-locked memory."""

    def __init__(self, stream: Stream, *, pin: bool = False) -> None:
        corpus = open_corpus(stream.corpus)
        where = f"corpus {corpus.name}@{corpus.version}"
        parts = list(corpus.parts(stream.split))
        if not parts:
            raise ValueError(
                f"{where} has no sample in split {stream.split!r}; it has {corpus.counts().get('split', {})}"
            )
        meta = corpus.meta()
        if stream.share < 1:
            parts = _part(parts, stream.share, stratified=STRATIFIED in meta.labels)
        self.units, self.rows = [unit for unit, _ in parts], [rows for _, rows in parts]
        self.sensors = {sensor.prefix: sensor for sensor in meta.sensors}
        for layer in stream.layers:
            if layer not in self.sensors:
                raise ValueError(
                    f"{where} has no layer {layer!r}; it has {', '.join(self.sensors)}: change the stream's layers"
                )
        self.layers, self.labels, self._pin, self._partial = stream.layers, meta.labels, pin, stream.partial
        self._batches, self._scratch = {layer: Memory() for layer in stream.layers}, Memory()

    def read(self, part: int) -> Group:
        """The small columns of a row group, checksums verified. Raises Missing or Corrupt, naming the shard."""
        unit, labels = self.units[part], [f"label_{name}" for name in self.labels]
        series = [f"{name}_dates" for name in self.layers]
        columns = ["sample_id", "region_id", "lon", "lat", *labels, *series]
        pixels = [f"{name}_pixels" for name in self.layers]
        found = read_group(unit.path, unit.row_group, columns, pixels, unit.footer_sha256)
        table, ids = found.table, found.table["sample_id"].to_pylist()
        numbers = {name: np.nan_to_num(table[name].to_numpy(), nan=-1) for name in ("region_id", *labels)}
        numbers |= {name: table[name].to_numpy() for name in ("lon", "lat")}
        dates = {name: _days(table[f"{name}_dates"]) for name in self.layers}
        places = {name: found.blobs[f"{name}_pixels"] for name in self.layers}
        for name in self.layers:
            if any(
                blob.size and len(days) != blob.dates
                for days, blob in zip(dates[name], places[name], strict=True)
            ):
                raise Corrupt(
                    f"shard {unit.path}, row group {unit.row_group}: {name} has other dates than pixels"
                )
        handle = os.open(unit.path, os.O_RDONLY)
        group = Group(unit, handle, ids, numbers, dates, places)
        weakref.finalize(group, os.close, handle)
        return group

    def batch(self, rows: Sequence[Row], crew: Crew) -> Samples:
        """Rows as one batch. Raises Corrupt and Missing, naming shard and sample."""

        def column(name: str, dtype: type) -> Tensor:
            return torch.from_numpy(np.array([row.group.numbers[name][row.index] for row in rows], dtype))

        return Samples(
            ids=[row.group.ids[row.index] for row in rows],
            layers={layer: self._pixels(layer, rows, crew) for layer in self.layers},
            dates={
                layer: _padded([row.group.dates[layer][row.index] for row in rows]) for layer in self.layers
            },
            labels={name: column(f"label_{name}", np.int64) for name in self.labels},
            lonlat=torch.stack([column("lon", np.float32), column("lat", np.float32)], 1),
            region=column("region_id", np.int64),
            bands={layer: self.sensors[layer].band_names for layer in self.layers},
            nodata={layer: self.sensors[layer].nodata for layer in self.layers},
        )

    def _pixels(self, layer: str, rows: Sequence[Row], crew: Crew) -> Tensor:
        """Pixels (B, T, C, H, W); where a stream is partial, nodata for samples without the layer, H and W 0 without any."""
        places = [row.group.blobs[layer][row.index] for row in rows]
        shape = _one_shape(layer, rows, places, partial=self._partial)
        if shape is None:
            shape = len(self.sensors[layer].bands), 0, 0
        longest, largest = max(1, *(blob.dates for blob in places)), max(blob.size for blob in places)
        batch = self._empty(layer, (len(rows), longest, *shape), pictures=any(blob.files for blob in places))
        out = batch.numpy()

        def decode(numbers: range) -> None:
            memory = self._scratch.empty((largest,), np.dtype("uint8")).data
            for number in numbers:
                row, blob = rows[number], places[number]
                if blob.dates < longest:
                    out[number, blob.dates :] = self.sensors[layer].nodata
                if not blob.size:
                    continue
                try:
                    codec.unpack(read(row.group.handle, blob, memory), out[number, : blob.dates])
                except (Corrupt, ValueError) as error:
                    raise Corrupt(f"{row}: {error}") from error

        crew.share(decode, len(rows))
        return batch

    def _empty(self, layer: str, shape: Sequence[int], *, pictures: bool) -> Tensor:
        """Memory for a batch (B, T, C, H, W); of pictures, bands are last in memory."""
        batch, times, bands, height, width = shape
        order = (batch, times, height, width, bands) if pictures else tuple(shape)
        dtype = self.sensors[layer].numpy_dtype
        if self._pin:  # torch uses such memory again by itself, once no copy out of it is under way
            memory = torch.empty(order, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, pin_memory=True)
        else:
            memory = torch.from_numpy(self._batches[layer].empty(order, dtype))
        return memory.permute(0, 1, 4, 2, 3) if pictures else memory


def _part(
    parts: Sequence[tuple[Unit, NDArray[np.int64]]], share: float, *, stratified: bool
) -> list[tuple[Unit, NDArray[np.int64]]]:
    """Row groups with the rows of a share of their samples, of each class alike where samples have one."""
    columns = ["sample_id", *([f"label_{STRATIFIED}"] if stratified else [])]
    tables = [
        read_group(unit.path, unit.row_group, columns, [], unit.footer_sha256).table for unit, _ in parts
    ]
    found = [table.take(rows) for table, (_, rows) in zip(tables, parts, strict=True)]
    ids = [one for table in found for one in table["sample_id"].to_pylist()]
    labels = [one for table in found for one in table[columns[1]].to_pylist()] if stratified else None
    chosen = fraction(ids, labels, share, seed=0)
    kept = [
        np.array([one in chosen for one in table["sample_id"].to_pylist()], dtype=bool) for table in found
    ]
    return [(unit, rows[keep]) for (unit, rows), keep in zip(parts, kept, strict=True) if keep.any()]


def _one_shape(
    layer: str, rows: Sequence[Row], places: Sequence[Blob], *, partial: bool
) -> tuple[int, ...] | None:
    """The shape of all images of a layer; None where no row has any.

    Raises Missing for a row without this layer, unless some may be, and Corrupt for one of another size.
    """
    first = next((blob for blob in places if blob.size), None)
    for row, blob in zip(rows, places, strict=True):
        if not blob.size and not partial:
            raise Missing(
                f"{row} has no {layer} pixels; leave the layer out of the stream's layers, or set partial=true for a "
                "method that does without"
            )
        if first is not None and blob.size and blob.shape[1:] != first.shape[1:]:
            raise Corrupt(
                f"{row}: {layer} is {blob.shape[1:]}, others are {first.shape[1:]} (bands, height, width); "
                "one stream needs one shape"
            )
    return None if first is None else first.shape[1:]


def _days(dates: Any) -> list[NDArray[np.int32]]:
    """An Arrow column of lists of dates as days since 1970-01-01, UNDATED where there is none."""
    lists = dates.combine_chunks()
    days = lists.values.to_numpy(zero_copy_only=False).astype("datetime64[D]")
    numbers = np.where(np.isnat(days), UNDATED, days.astype(np.int64)).astype(np.int32)
    ends = lists.offsets.to_numpy().tolist()
    return [numbers[first:last] for first, last in itertools.pairwise(ends)]


def _padded(series: Sequence[NDArray[np.int32]]) -> Tensor:
    out = np.full((len(series), max(1, *(len(line) for line in series))), PADDING, np.int32)
    for number, line in enumerate(series):
        out[number, : len(line)] = line
    return torch.from_numpy(out)
