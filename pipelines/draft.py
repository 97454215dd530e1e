"""A corpus in the making: its plan so far, which of its shards are whole, and the engine that builds the others.

Ray Data's row is the number of a shard in the plan. The plan itself goes to the machines once, into the memory that
their workers share, and what comes back is a summary, so a corpus of twenty thousand shards costs the driver no more
than their names. What workers run is here and not beside the flows, because Prefect may load a flow from its file,
and then its module has no address that a worker could import.
"""

from __future__ import annotations

import logging
import pickle
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from geodata import intake
from geodata.build import build_shard, reopen, sealed
from geodata.chips import Plan, ShardPlan
from geodata.corpus import CorpusSpec
from geodata.earlier import Earlier
from geodata.errors import Corrupt, DataError, Denied, Transient
from geodata.folders import FolderPlan, FolderShard, FolderSpec
from geodata.manifest import open_corpus
from geodata.prepare import PreparedSpec, prepare_shard
from geodata.sensors import PHOTO
from geodata.shards import (
    ShardRecord,
    ShardSummary,
    load_record,
    read_record,
    record_path,
    shard_path,
    verify_shard,
)
from pipelines import governor
from pipelines.artifacts import Artifact

__all__ = [
    "AnyDraft",
    "BenchmarkOrder",
    "Draft",
    "FolderOrder",
    "Order",
    "Pictures",
    "Prepared",
    "Tally",
    "build_row",
    "built",
    "failure",
]


@dataclass(frozen=True)
class Order:
    """What a worker is told besides the plan: the spec, where shards go, and the corpora they may be taken from.

    `run` tells one run from the next: a worker that has served another opens its sources anew.
    """

    spec: CorpusSpec
    root: Path
    like: Path | None = None
    earlier: Earlier | None = None
    run: str = field(default_factory=lambda: uuid.uuid4().hex)

    def whole(self, shard: ShardPlan) -> ShardRecord:
        """A shard that was read back: one that is there already, or a new one."""
        found = sealed(shard, self.spec, self.root, self.earlier)
        if found is not None:
            return verify_shard(shard_path(self.root, shard.name), found)
        like = open_corpus(self.like).record(shard.name) if self.like else None
        return build_shard(shard, self.spec, self.root, like, self.earlier)


@dataclass(frozen=True)
class FolderOrder:
    """The same for a folder of pictures; `classes` are those of the whole folder."""

    spec: FolderSpec
    root: Path
    classes: Mapping[str, tuple[str, ...]]
    run: str = field(default_factory=lambda: uuid.uuid4().hex)

    def whole(self, shard: FolderShard) -> ShardRecord:
        """A shard that was read back: one that is there already, or a new one."""
        found = intake.sealed(shard, self.spec, self.root)
        if found is not None:
            return verify_shard(shard_path(self.root, shard.name), found)
        return intake.import_shard(shard, self.spec, self.classes, self.root)


@dataclass(frozen=True)
class BenchmarkOrder:
    """The same for a benchmark."""

    spec: PreparedSpec
    root: Path
    run: str = field(default_factory=lambda: uuid.uuid4().hex)

    def whole(self, shard: FolderShard) -> ShardRecord:
        """A shard that was read back: one that is there already, or a new one."""
        found = intake.sealed(shard, self.spec, self.root)
        if found is not None:
            return verify_shard(shard_path(self.root, shard.name), found)
        return prepare_shard(shard, self.spec, self.root)


AnyOrder = Order | FolderOrder | BenchmarkOrder

Spec = TypeVar("Spec", CorpusSpec, FolderSpec, PreparedSpec)
Planned = TypeVar("Planned", Plan, FolderPlan)


class Making(Generic[Spec, Planned]):
    """A corpus in the making. `whole` are the shards that were read back in this run, by name."""

    def __init__(self, artifact: Artifact, order: AnyOrder, plan: Planned) -> None:
        self.artifact, self.order = artifact, order
        self._plan: Planned
        self.whole: dict[str, ShardSummary] = {}
        self.requests: dict[str, dict[str, int]] = {}  # of the governor, by endpoint
        self.plan = plan
        self.rounds = 1  # of draws, at most

    @property
    def plan(self) -> Planned:
        """The chips or pictures planned so far."""
        return self._plan

    @plan.setter
    def plan(self, plan: Planned) -> None:
        self._plan = plan
        self.names = plan.shard_names(self.order.spec.shard_rows)

    @property
    def spec(self) -> Spec:
        """The spec it is made by."""
        return cast(Spec, self.order.spec)

    @property
    def prefixes(self) -> list[str]:
        """Of the layers that its sensors give."""
        spec = self.order.spec
        if isinstance(spec, PreparedSpec):
            return list(spec.benchmark.layers)
        return (
            [PHOTO.prefix] if isinstance(spec, FolderSpec) else [part.picked.prefix for part in spec.sensors]
        )

    @property
    def root(self) -> Path:
        """Where it is made."""
        return self.order.root

    def records(self) -> Iterator[ShardRecord]:
        """The records of all shards in the order of the plan, read one by one. Raises Missing for one not there."""
        return map(self.record, self.names)

    def record(self, name: str) -> ShardRecord:
        """One of them."""
        return read_record(record_path(self.root, name))

    def refused(self) -> Iterator[str]:
        """Ids of all chips refused so far."""
        return (reject.chip_id for record in self.records() for reject in record.rejects)

    def begun(self) -> dict[str, ShardSummary]:
        """Shards that seem to be there by their records and sizes; the workers look closer."""
        found = {}
        for name in self.names:
            try:
                record = load_record(self.root, name)
            except Corrupt:
                continue
            if record and shard_path(self.root, name).stat().st_size == record.bytes:
                found[name] = record.summary()
        return found


Draft = Making[CorpusSpec, Plan]
Pictures = Making[FolderSpec, FolderPlan]
Prepared = Making[PreparedSpec, FolderPlan]
AnyDraft = Draft | Pictures | Prepared


@dataclass
class Tally:
    """Where a build stands, in sums."""

    shards: int = 0
    rows: int = 0
    rejected: int = 0
    bytes: int = 0
    failures: dict[str, Exception] = field(default_factory=dict)

    def add(self, record: ShardSummary) -> None:
        """One shard more."""
        self.shards += 1
        self.rows += record.rows
        self.rejected += record.planned - record.rows
        self.bytes += record.bytes

    def __str__(self) -> str:
        return f"{self.rows} rows, {self.rejected} rejected, {len(self.failures)} failed"


def built(
    draft: AnyDraft, numbers: Sequence[int]
) -> Generator[tuple[str, ShardSummary | Exception], None, None]:
    """Names of shards as they are finished, each with its summary or with what went wrong. Needs a running Ray."""
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    task = partial(build_row, order=draft.order, plan=ray.put(draft.plan), numbers=tuple(numbers))
    before = governor.state()
    work = ray.data.range(len(numbers), override_num_blocks=len(numbers)).map(task)
    try:
        for row in work.iter_rows():
            yield row["shard"], pickle.loads(row["outcome"])
    finally:
        draft.requests = _since(before, governor.state(), draft.requests)


def build_row(row: Mapping[str, Any], order: AnyOrder, plan: Any, numbers: Sequence[int]) -> dict[str, Any]:
    """What Ray Data maps: one shard built or found whole, or the reason why not.

    Anything but the world's failures is a bug and raises. `plan` is a Plan, or where Ray keeps it.
    """
    governor.govern()
    if _AT_HAND.get("run") != order.run:
        _AT_HAND.clear()
        _AT_HAND["run"] = order.run
        reopen()
    shard = _shards(plan, order.spec.shard_rows)[numbers[row["id"]]]
    outcome: ShardSummary | Exception
    try:
        outcome = order.whole(shard).summary()
    except (DataError, OSError) as error:
        outcome = _plain(error)
    return {"shard": shard.name, "outcome": pickle.dumps(outcome)}


_AT_HAND: dict[str, Any] = {}
"""What a worker keeps from row to row: the run it serves, the plan, and the plan's shards."""


def _shards(plan: Any, rows: int) -> Sequence[Any]:
    """The shards of a plan, ordered once in a process."""
    if isinstance(plan, Plan | FolderPlan):
        return plan.shards(rows)
    if _AT_HAND.get("plan") != plan:
        import ray

        _AT_HAND["plan"], _AT_HAND["shards"] = plan, ray.get(plan).shards(rows)
    found: Sequence[Any] = _AT_HAND["shards"]
    return found


def _plain(error: DataError | OSError) -> Exception:
    """The error by itself: tracebacks and causes of other libraries need not survive the trip."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror or str(error))
    return type(error)(str(error))


def failure(failures: Mapping[str, Exception], shards: int) -> Exception:
    """One error for all failed shards: Denied if a person must act, else of a kind that a retry may help with."""
    kinds = sorted(
        failures.values(), key=lambda error: (not isinstance(error, Denied), not isinstance(error, Transient))
    )
    first = kinds[0]
    names = ", ".join(sorted(failures)[:5]) + (" ..." if len(failures) > 5 else "")
    reason = first.strerror if isinstance(first, OSError) else str(first)
    remedy = "mend that, then run" if isinstance(first, Denied) else "run"
    text = (
        f"{len(failures)} of {shards} shards failed ({names}): {reason}; "
        f"{remedy} the same command again, sealed shards are kept"
    )
    return OSError(first.errno, text) if isinstance(first, OSError) else type(first)(text)


def _since(
    before: Mapping[str, Mapping[str, int]],
    after: Mapping[str, Mapping[str, int]],
    known: Mapping[str, Mapping[str, int]],
) -> dict[str, dict[str, int]]:
    """What a governor counted between two looks at it, added to what is known; the highest peak stays."""
    found = {name: dict(one) for name, one in known.items()}
    for name, now in after.items():
        old, first = found.get(name, {}), before.get(name, {})
        if now["granted"] == first.get("granted", 0):
            continue  # another run's
        found[name] = {
            "peak": max(old.get("peak", 0), now["peak"]),
            "granted": old.get("granted", 0) + now["granted"] - first.get("granted", 0),
            "throttled": old.get("throttled", 0) + now["throttled"] - first.get("throttled", 0),
        }
    return found
