"""A sealed corpus: its manifest, and its shards read through it.

The manifest is small: per shard the numbers, the hash of its file, of its footer and of its record. What was sampled
and what was refused stays in the records, which are opened one at a time and checked against the manifest; so a corpus
of millions opens in seconds. The manifest begins with a digest of its own bytes: whoever trusts those 64 letters can
trust every byte below. A corpus without its manifest is not sealed and is not read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from geodata.errors import Corrupt, Missing
from geodata.files import file_sha256, stamped, unstamped, write_atomic
from geodata.moments import Moments, Statistics, add_moments
from geodata.sample import SPLITS, FileMeta
from geodata.shards import (
    Reject,
    ShardRecord,
    ShardSummary,
    open_shard,
    read_record,
    record_path,
    shard_path,
    statistics_from,
    verify_shard,
)

FORMAT = "swath corpus manifest 2"
BESIDE = (
    "spec.json",
    "environment.json",
    "plan.json",
    "plan.parquet",
    "since.json",
    "diff.json",
    "dead_letters.parquet",
)
"""Files beside the manifest that say how the corpus came about: where they are, their hashes are sealed too."""


@dataclass(frozen=True)
class Unit:
    """The unit of reading order: one row group of one shard, and the hash its file's footer must have."""

    path: Path
    row_group: int
    rows: int
    footer_sha256: str


@dataclass(frozen=True)
class Corpus:
    """A sealed corpus: its resolved spec and its shards in numbers; their records are opened when asked for.

    `classes` are the names of a label's values; `moments` and `counted` the sums over all shards, known once the corpus
    is sealed; `files` the hashes of the files beside the manifest.
    """

    root: Path
    name: str
    version: str
    fingerprint: str
    spec: Mapping[str, Any]
    records: tuple[ShardSummary, ...]
    plan: Mapping[str, Any] = field(default_factory=dict)
    created_by: str = ""
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    moments: Statistics = field(default_factory=dict)
    counted: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def planned(self) -> int:
        """Chips planned, over all shards."""
        return sum(record.planned for record in self.records)

    @property
    def rows(self) -> int:
        """Samples accepted."""
        return sum(record.rows for record in self.records)

    @property
    def bytes(self) -> int:
        """Bytes of all shards."""
        return sum(record.bytes for record in self.records)

    @property
    def rejected(self) -> dict[str, int]:
        """Refused chips by reason; with `rows` they make up `planned`."""
        total: Counter[str] = Counter()
        for record in self.records:
            total.update(record.rejected)
        return dict(sorted(total.items()))

    def counts(self) -> dict[str, dict[str, int]]:
        """Histograms of the samples, by the names of `census.counts`: `split`, `stratum`, `lc_train` ..."""
        return {name: dict(values) for name, values in self.counted.items()}

    def stats(self, split: str = "train") -> Mapping[str, Moments]:
        """Moments of each layer's bands over one split, by prefix. Raises ValueError for a split with no sample."""
        found = self.moments.get(split)
        if found is None:
            raise ValueError(
                f"corpus {self.name}@{self.version} has no sample in split {split!r}; it has {self.counts()['split']}"
            )
        return found

    def shard_path(self, record: ShardSummary) -> Path:
        """Where a shard is."""
        return shard_path(self.root, record.name)

    def open(self, record: ShardSummary) -> tuple[pq.ParquetFile, FileMeta]:
        """A shard ready to be read, its footer checked. Raises Missing or Corrupt."""
        return open_shard(self.shard_path(record), record.footer_sha256)

    def meta(self) -> FileMeta:
        """What the shards say of themselves, from the first that has rows. Raises Missing when none has."""
        first = next((record for record in self.records if record.rows), None)
        if first is None:
            raise Missing(f"corpus {self.name}@{self.version} has no samples; curate it with other quotas")
        file, meta = self.open(first)
        file.close()
        return meta

    def units(self) -> list[Unit]:
        """All row groups in the order of the manifest; no file is opened."""
        return [
            Unit(self.shard_path(record), group, rows, record.footer_sha256)
            for record in self.records
            for group, rows in enumerate(record.row_groups)
        ]

    def parts(self, split: str) -> Iterator[tuple[Unit, np.ndarray[Any, np.dtype[np.int64]]]]:
        """Row groups with samples of a split, and which of their rows those are; no file is opened."""
        letter = ord(str(SPLITS.index(split))) if split in SPLITS else 0
        for record in self.records:
            path, first = self.shard_path(record), 0
            letters = np.frombuffer(record.splits.encode(), np.uint8)
            for group, rows in enumerate(record.row_groups):
                kept = np.flatnonzero(letters[first : first + rows] == letter)
                first += rows
                if kept.size:
                    yield Unit(path, group, rows, record.footer_sha256), kept

    @cached_property
    def _by_name(self) -> dict[str, ShardSummary]:
        return {record.name: record for record in self.records}

    def record(self, name: str) -> ShardRecord:
        """One shard with its samples and rejects. Raises Missing or Corrupt when it is not what was sealed."""
        summary = self._by_name.get(name)
        if summary is None:
            raise ValueError(f"corpus {self.name}@{self.version} has no shard {name!r}")
        full = read_record(record_path(self.root, name), summary.record_sha256)
        return replace(full, file_sha256=summary.file_sha256, record_sha256=summary.record_sha256)

    def samples(self) -> Iterator[Mapping[str, Any]]:
        """What the records say of every sample, shard after shard: one record is in memory at a time."""
        for summary in self.records:
            yield from self.record(summary.name).samples

    def rejects(self) -> Iterator[Reject]:
        """Every refused chip, shard after shard."""
        for summary in self.records:
            if summary.rejected:
                yield from self.record(summary.name).rejects

    def pixel_hashes(self) -> dict[tuple[str, str], str]:
        """(sample id, layer prefix) -> pixel hash: what a regenerated corpus must equal."""
        return {
            (sample["sample_id"], prefix): layer["pixel_hash"]
            for sample in self.samples()
            for prefix, layer in sample["layers"].items()
        }

    def verify(self, record: ShardSummary) -> None:
        """Check one shard and its record, byte by byte and pixel by pixel. Raises Missing or Corrupt."""
        full = self.record(record.name)
        if full.summary() != record:
            raise Corrupt(f"record {record.name} says other numbers than the manifest; seal the corpus again")
        verify_shard(self.shard_path(record), full)

    def verify_files(self) -> list[str]:
        """What is wrong with the files beside the manifest, one sentence each."""
        wrong = []
        for name, sealed in sorted(self.files.items()):
            path = self.root / name
            if not path.exists():
                wrong.append(f"{path} is not there any more; it belongs to the corpus")
            elif file_sha256(path) != sealed:
                wrong.append(f"{path} is not the file that was sealed")
        return wrong


def seal(corpus: Corpus) -> Corpus:
    """Write the manifest, last of all, from the records on disk; the corpus as it will be opened.

    Raises ValueError when a sample id comes twice across shards, Missing when a shard or its record is not there,
    Corrupt when a record is not as it was written.
    """
    summaries: list[ShardSummary] = []
    moments: Statistics = {}
    counted: defaultdict[str, Counter[str]] = defaultdict(Counter)
    seen: list[np.ndarray[Any, np.dtype[np.int64]]] = []
    for given in corpus.records:
        path = record_path(corpus.root, given.name)
        record = read_record(path)
        file = record.file_sha256 or given.file_sha256 or _hash_of(shard_path(corpus.root, given.name))
        summaries.append(replace(record.summary(), file_sha256=file, record_sha256=file_sha256(path)))
        moments = add_moments([moments, record.moments])
        for name, values in record.counts.items():
            counted[name].update(values)
        seen.append(np.array([hash(str(one["sample_id"])) for one in record.samples], np.int64))
    sealed = replace(
        corpus,
        root=corpus.root.resolve(),
        records=tuple(summaries),
        moments=moments,
        counted={name: dict(sorted(values.items())) for name, values in sorted(counted.items())},
        files={name: file_sha256(corpus.root / name) for name in BESIDE if (corpus.root / name).exists()},
    )
    again = twice(seen, lambda: (str(one["sample_id"]) for one in sealed.samples()))
    if again is not None:
        raise ValueError(
            f"sample {again} is in two shards of {sealed.name}@{sealed.version}; the plan is wrong"
        )
    write_atomic(sealed.root / "manifest.json", _manifest(sealed))
    return sealed


def _manifest(corpus: Corpus) -> bytes:
    names = ShardSummary.__dataclass_fields__
    head = {
        "format": FORMAT,
        "name": corpus.name,
        "version": corpus.version,
        "fingerprint": corpus.fingerprint,
        "created_by": corpus.created_by,
        "planned": corpus.planned,
        "accepted": corpus.rows,
        "rejected": corpus.rejected,
        "classes": {label: list(values) for label, values in corpus.classes.items()},
        "files": dict(corpus.files),
        "spec": corpus.spec,
        "plan": corpus.plan,
        "moments": {
            split: {prefix: asdict(one) for prefix, one in layers.items()}
            for split, layers in corpus.moments.items()
        },
        "counts": corpus.counted,
        "shards": [{name: getattr(record, name) for name in names} for record in corpus.records],
    }
    return stamped(head)


def _hash_of(path: Path) -> str:
    try:
        return file_sha256(path)
    except FileNotFoundError as error:
        raise Missing(f"shard {path} is not there; run curate again, sealed shards are kept") from error


def twice(
    seen: Iterable[np.ndarray[Any, np.dtype[np.int64]]], ids: Callable[[], Iterable[str]]
) -> str | None:
    """An id that occurs twice, or None. `seen` are the hashes of all `ids`, eight bytes each, which fit in memory for any
    corpus; names are looked at only where two hashes agree.
    """
    hashes = np.concatenate([np.empty(0, np.int64), *seen])
    values, counts = np.unique(hashes, return_counts=True)
    doubtful = set(values[counts > 1].tolist())
    if not doubtful:
        return None
    names = Counter(name for name in ids() if hash(name) in doubtful)
    return next((name for name, count in names.items() if count > 1), None)


def open_corpus(path: Path | str) -> Corpus:
    """A sealed corpus by its folder or its manifest. Raises Missing when it is not sealed, Corrupt when unreadable."""
    manifest = Path(path)
    manifest = manifest if manifest.suffix == ".json" else manifest / "manifest.json"
    if not manifest.exists():
        raise Missing(
            f"no sealed corpus at {path}: there is no {manifest.name}; run `swath curate` to its end first"
        )
    try:
        values = unstamped(manifest.read_bytes(), manifest)
        if values["format"] != FORMAT:
            raise Corrupt(f"{manifest} is no {FORMAT} but {values['format']!r}; curate the corpus again")
        return Corpus(
            root=manifest.parent.resolve(),
            name=values["name"],
            version=values["version"],
            fingerprint=values["fingerprint"],
            spec=values["spec"],
            records=tuple(ShardSummary.from_dict(record) for record in values["shards"]),
            plan=values["plan"],
            created_by=values["created_by"],
            classes={label: tuple(names) for label, names in values["classes"].items()},
            moments=statistics_from(values["moments"]),
            counted=values["counts"],
            files=values["files"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"manifest {manifest} does not parse ({error}); seal the corpus again") from error
