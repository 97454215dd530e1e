"""A few shards built to see what they take: time by stage, requests by endpoint, bytes, and how many chips pass.

The chips of a pilot are runs of neighbours out of the real shards, spread evenly over the corpus, and they are built by
the same code as the corpus, because what a chip costs depends on what its neighbours have already fetched and decoded.
Everything is measured from outside: the sources are wrapped, and a governor that keeps accounts grants the requests.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from geodata.build import Made, Workshop, build_shard
from geodata.chips import Chip, Plan, ShardPlan
from geodata.costs import Observation
from geodata.errors import DataError
from geodata.governor import Governor, Limits, Outcome, current, use
from geodata.grid import Grid
from geodata.shards import shard_path, verify_shard
from geodata.source import ImagerySource, Period, Priced, Raster, Scene, Stacking
from geodata.spec import CorpusSpec

RUN = 16
"""Neighbouring chips of one shard that are tried together."""


def pieces(plan: Plan, spec: CorpusSpec, chips: int, seed: int = 0) -> list[ShardPlan]:
    """`chips` chips of a plan, or all it has, in runs of `RUN` neighbours from shards evenly spaced over the plan."""
    shards = plan.shards(spec.shard_rows)
    if chips >= len(plan):
        return list(shards)
    count = min(-(-chips // min(RUN, spec.shard_rows)), len(shards))
    run = -(-chips // count)
    rng = np.random.default_rng(seed)
    even = [int((number + rng.random()) * len(shards) / count) for number in range(count)]
    others = (int(number) for number in rng.permutation(len(shards)) if number not in even)
    found: dict[int, ShardPlan] = {}
    for number in itertools.chain(even, others):
        left = chips - sum(len(piece.chips) for piece in found.values())
        if not left:
            break
        shard = shards[number]
        size = min(run, left, len(shard.chips))
        first = int(rng.integers(0, len(shard.chips) - size + 1))
        found[number] = replace(shard, chips=shard.chips[first : first + size])
    return [found[number] for number in sorted(found)]


def observe(piece: ShardPlan, spec: CorpusSpec, root: Path) -> Observation:
    """What building a piece under `root` took. Raises as `build_shard` does."""
    watch = _Watch()
    workshop = _Watched.around(Workshop.of(spec), watch)
    before, governor = current(), _Accountant()
    use(governor)
    began = time.process_time()
    try:
        record = build_shard(piece, spec, root, workshop=workshop)
    finally:
        use(before)
    cpu = time.process_time() - began
    again = time.process_time()
    verify_shard(shard_path(root, piece.name), record)
    verify = time.process_time() - again
    accepted = {str(one["sample_id"]) for one in record.samples}
    seconds, compose = dict(watch.seconds), watch.seconds["compose"]
    seconds.pop("compose", None)
    seconds["check"] = max(0.0, compose - seconds.get("search", 0.0) - seconds.get("decode", 0.0))
    seconds["verify"] = verify
    seconds["write"] = max(0.0, cpu - compose - verify)
    return Observation(
        tried=dict(Counter(chip.stratum for chip in piece.chips)),
        accepted=dict(Counter(chip.stratum for chip in piece.chips if chip.chip_id in accepted)),
        rejected=dict(record.rejected),
        seconds=seconds,
        stored=float(record.bytes),
        requests={**governor.requests, **watch.requests},
        waited={**governor.waited, **watch.waited},
        moved=dict(watch.moved),
        allowed={name: (one.concurrency, one.per_second) for name, one in governor.allowed.items()},
    )


class _Watch:
    """Sums that several threads add to."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.seconds: dict[str, float] = defaultdict(float)
        self.requests: dict[str, float] = defaultdict(float)
        self.waited: dict[str, float] = defaultdict(float)
        self.moved: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, cpu: str, wait: str = "") -> Iterator[None]:
        """CPU seconds of this thread go to one stage, all other seconds of the block to another."""
        wall, used = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            used = time.thread_time() - used
            idle = max(0.0, time.perf_counter() - wall - used)
            with self.lock:
                self.seconds[cpu] += used
                if wait:
                    self.seconds[wait] += idle

    def asked(self, sensor: str, source: object, grid: Grid, scenes: int) -> None:
        """The bytes that a source says it has moved; one that does not say has moved none over a network."""
        if isinstance(source, Priced):
            moved = source.cost(scenes, grid).bytes - (source.cost(0, grid).bytes if scenes else 0.0)
            with self.lock:
                self.moved[sensor] += max(0.0, moved)

    def unleased(self, sensor: str, source: object, grid: Grid, scenes: int, seconds: float) -> None:
        """Requests of a source that reads its files without asking the governor."""
        if isinstance(source, Priced):
            count = source.cost(scenes, grid).requests - source.cost(0, grid).requests
            with self.lock:
                self.requests[f"{sensor} files"] += max(0.0, count)
                self.waited[f"{sensor} files"] += seconds


class _Source:
    """A source that is watched; what it has besides searching and reading shows through."""

    def __init__(self, source: ImagerySource, watch: _Watch) -> None:
        self._source, self._watch, self.sensor = source, watch, source.sensor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def search(self, grid: Grid, period: Period) -> list[Scene]:
        with self._watch.stage("search", "fetch"):
            found = self._source.search(grid, period)
        self._watch.asked(self.sensor.name, self._source, grid, 0)
        return found

    def read(self, scene: Scene, grid: Grid) -> Raster:
        return cast(Raster, self._read(1, grid, lambda: self._source.read(scene, grid)))

    def _read(self, scenes: int, grid: Grid, read: Callable[[], object]) -> object:
        leases, wall, used = _granted(), time.perf_counter(), time.thread_time()
        try:
            with self._watch.stage("decode", "fetch"):
                return read()
        finally:
            idle = max(0.0, time.perf_counter() - wall - (time.thread_time() - used))
            self._watch.asked(self.sensor.name, self._source, grid, scenes)
            if _granted() == leases:
                self._watch.unleased(self.sensor.name, self._source, grid, scenes, idle)


class _Stacking(_Source):
    """The same for a source that reads several scenes at once."""

    def stack(self, scenes: Sequence[Scene], grid: Grid) -> list[Raster | DataError]:
        source = cast(Stacking, self._source)
        return cast(
            "list[Raster | DataError]", self._read(len(scenes), grid, lambda: source.stack(scenes, grid))
        )


class _Watched(Workshop):
    """A workshop with a clock in it."""

    watch: _Watch

    @classmethod
    def around(cls, workshop: Workshop, watch: _Watch) -> _Watched:
        sources = {
            name: cast(ImagerySource, (_Stacking if isinstance(source, Stacking) else _Source)(source, watch))
            for name, source in workshop.sources.items()
        }
        made = cls(workshop.spec, sources, workshop.landcover)
        made.watch = watch
        return made

    def compose(self, chip: Chip) -> Made:
        """See `Workshop`."""
        with self.watch.stage("compose"):
            return super().compose(chip)


_leases = threading.local()


def _granted() -> int:
    """Leases that this thread has been given so far."""
    return getattr(_leases, "count", 0)


class _Accountant(Governor):
    """A governor that counts requests, and the seconds they were under way, by endpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.accounts = threading.Lock()
        self.requests: dict[str, float] = defaultdict(float)
        self.waited: dict[str, float] = defaultdict(float)
        self.allowed: dict[str, Limits] = {}

    def acquire(self, endpoint: str, limits: Limits, holder: str = "") -> float:
        """See `Governor`."""
        wait = super().acquire(endpoint, limits, holder)
        if wait == 0.0:
            _leases.count = _granted() + 1
            _leases.since = time.monotonic()
            with self.accounts:
                self.requests[endpoint] += 1
                self.allowed[endpoint] = limits
        return wait

    def release(
        self, endpoint: str, outcome: Outcome, retry_after: float | None = None, holder: str = ""
    ) -> None:
        """See `Governor`."""
        with self.accounts:
            self.waited[endpoint] += time.monotonic() - getattr(_leases, "since", time.monotonic())
        super().release(endpoint, outcome, retry_after, holder)
