"""Batches from shards: a plain reader whose order is a function of seed and epoch, and whose position is one number.

Every rank computes the same endless order and takes its slice of each global batch; the position is how many samples
of a stream all ranks together have consumed. That is why a run resumes exactly in the middle of an epoch, also with
another number of ranks. Decoding goes on in threads of this process while a batch is used; everything else that
happens to a batch happens on the device, in `augment.py`.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import count
from typing import TypeVar

from geodata.manifest import open_corpus
from geodata.moments import Moments
from training.order import Order
from training.reading import Crew, Group, Row, Samples, Source
from training.recipe import Stream

__all__ = ["Batch", "Feed", "Samples", "once", "statistics"]

AHEAD = 2  # batches that wait decoded

Batch = Mapping[str, Samples]
"""stream name -> samples."""


class Feed:
    """An endless iterator of this rank's batches.

    `batch` is how many samples of each stream all ranks together take per batch. `position` counts what all ranks
    have consumed of each stream; give it back to go on from there with any number of ranks that divides the batch.
    `pin` decodes into page-locked memory, from which copies to a GPU overlap with its work; `threads=0` decodes in the
    caller's thread, when a batch is asked for. Raises ValueError for an empty split, a layer the corpus lacks or a
    batch the ranks cannot share; Corrupt, naming the shard, while reading.
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
        threads: int | None = None,
    ) -> None:
        uneven = [name for name in streams if batch[name] % world]
        if uneven:
            raise ValueError(
                f"{batch[uneven[0]]} samples of stream {uneven[0]!r} do not divide over {world} ranks; "
                "change batch, accumulate or the number of workers"
            )
        self.position = {name: int((position or {}).get(name, 0)) for name in streams}
        self._sources = {name: Source(stream, pin=pin) for name, stream in sorted(streams.items())}
        self._orders = {
            name: Order(source.rows, [seed, number])
            for number, (name, source) in enumerate(self._sources.items())
        }
        self._batch, self._rank, self._world = dict(batch), rank, world
        self._threads = _threads() if threads is None else threads

    def size(self, stream: str) -> int:
        """Samples in one epoch of a stream."""
        return self._orders[stream].size

    def epoch_of(self, stream: str) -> float:
        """How many times a stream has been seen, as of the last batch handed out."""
        return self.position[stream] / self.size(stream)

    def __iter__(self) -> Generator[dict[str, Samples], None, None]:
        with Crew(self._threads) as crew:
            parts = {name: self._of_stream(name, crew) for name in self._orders}
            whole = ({name: next(part) for name, part in parts.items()} for _ in count())
            with closing(_ahead(whole) if self._threads else whole) as ready:
                for batch in ready:
                    for name, share in self._batch.items():
                        self.position[name] += share
                    yield batch

    def _of_stream(self, name: str, crew: Crew) -> Iterator[Samples]:
        source, share = self._sources[name], self._batch[name]
        local, held = share // self._world, []
        for row in self._rows(name, slice(self._rank * local, (self._rank + 1) * local), crew):
            held.append(row)
            if len(held) == local:
                yield source.batch(held, crew)
                held = []

    def _rows(self, name: str, slot: slice, crew: Crew) -> Iterator[Row]:
        """This rank's rows of a stream in order, the next window being opened while one is used."""
        source = self._sources[name]
        waiting: list[tuple[Callable[[], Group], int]] = []
        for window in self._orders[name].slots(self.position[name], self._batch[name], slot):
            groups = {part: crew.later(partial(source.read, part)) for part in {part for part, _ in window}}
            yield from (Row(group(), row) for group, row in waiting)
            waiting = [(groups[part], row) for part, row in window]


def once(stream: Stream, batch: int) -> Iterator[Samples]:
    """Every sample of a stream once, in the order of the corpus; the last batch holds what is left."""
    source, threads = Source(stream), _threads()

    def batches() -> Iterator[Samples]:
        held: list[Row] = []
        for part, rows in enumerate(source.rows):
            group = source.read(part)
            held += [Row(group, row) for row in rows.tolist()]
            while len(held) >= batch:
                yield source.batch(held[:batch], crew)
                held = held[batch:]
        if held:
            yield source.batch(held, crew)

    with Crew(threads) as crew, closing(_ahead(batches())) as ready:
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
