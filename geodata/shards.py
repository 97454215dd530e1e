"""Shards on disk: written whole or not at all, verified on read, summed into a manifest.

A corpus is a folder: `shards/NAME.parquet`, then `records/NAME.json` (what the shard holds and what was refused),
and last `manifest.json`. A shard without its record is garbage and is built again; a corpus without its manifest
is not sealed and is not read. So a kill at any moment costs at most the shards in flight.

Row groups hold at most 64 rows and 64 MB of pixels: that, not a batch size, is what bounds a reader's memory. Page
checksums are written, and checked only because every reader here asks for it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geodata.errors import Corrupt, Missing
from geodata.sample import FileMeta, Layer, Sample, table

ROWS_PER_GROUP = 64
BYTES_PER_GROUP = 64 * 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DICTIONARY = ["split", "continent", "stratum"]
_STATISTICS = ["sample_id", "split", "lon", "lat", "bbox.xmin", "bbox.ymin", "bbox.xmax", "bbox.ymax"]


@dataclass(frozen=True)
class Moments:
    """Count, sum and sum of squares of the valid pixels of each band: exact integers, so they add in any order."""

    count: tuple[int, ...]
    total: tuple[int, ...]
    square: tuple[int, ...]

    @classmethod
    def of(cls, layer: Layer) -> Moments:
        """Moments per band of a layer's valid pixels, in stored units."""
        bands = layer.pixels.swapaxes(0, 1).reshape(layer.pixels.shape[1], -1).astype(np.int64)
        valid = bands != layer.sensor.nodata
        kept = np.where(valid, bands, 0)
        sums = valid.sum(1), kept.sum(1), (kept * kept).sum(1)
        return cls(*(tuple(int(value) for value in values) for values in sums))

    def __add__(self, other: Moments) -> Moments:
        pairs = ((self.count, other.count), (self.total, other.total), (self.square, other.square))
        return Moments(*(tuple(a + b for a, b in zip(left, right, strict=True)) for left, right in pairs))

    def mean(self) -> tuple[float, ...]:
        """Mean per band; nan for a band with no valid pixel."""
        return tuple(t / n if n else float("nan") for n, t in zip(self.count, self.total, strict=True))

    def std(self) -> tuple[float, ...]:
        """Standard deviation (population) per band; nan for a band with no valid pixel."""
        bands = zip(self.count, self.total, self.square, strict=True)
        return tuple(max(n * q - t * t, 0) ** 0.5 / n if n else float("nan") for n, t, q in bands)


Statistics = Mapping[str, Mapping[str, Moments]]
"""split -> layer prefix -> moments."""


@dataclass(frozen=True)
class Reject:
    """A chip that was planned and refused: why, in one word and in one sentence."""

    chip_id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class ShardRecord:
    """What one shard holds. accepted + rejected = planned, or it cannot be made."""

    name: str
    planned: int
    rows: int
    bytes: int
    file_sha256: str
    row_groups: tuple[int, ...]
    rejects: tuple[Reject, ...] = ()
    samples: tuple[Mapping[str, Any], ...] = ()
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    moments: Statistics = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rows + len(self.rejects) != self.planned or sum(self.row_groups) != self.rows:
            raise ValueError(
                f"shard {self.name}: {self.rows} accepted + {len(self.rejects)} rejected is not {self.planned} planned; "
                "a chip was lost, do not seal this shard"
            )

    @property
    def rejected(self) -> dict[str, int]:
        """Refused chips by reason."""
        return dict(Counter(reject.reason for reject in self.rejects))

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self), sort_keys=True, indent=1)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ShardRecord:
        """The inverse of `to_json`, after parsing."""
        plain = dict(values)
        plain["row_groups"] = tuple(plain["row_groups"])
        plain["rejects"] = tuple(Reject(**reject) for reject in plain["rejects"])
        plain["samples"] = tuple(plain["samples"])
        plain["moments"] = {
            split: {
                prefix: Moments(*(tuple(m[key]) for key in ("count", "total", "square")))
                for prefix, m in layers.items()
            }
            for split, layers in plain["moments"].items()
        }
        return cls(**plain)


def write_atomic(path: Path, data: bytes) -> None:
    """Bytes to a file that is there whole or not at all: temporary name, fsync, rename, fsync of the folder.

    Raises OSError in one sentence when the disk is full; nothing half-written stays behind.
    """
    with _replacing(path) as temporary:
        temporary.write_bytes(data)


def write_shard(
    path: Path, samples: Sequence[Sample], meta: FileMeta, rejects: Sequence[Reject] = ()
) -> ShardRecord:
    """Write accepted samples to one Parquet file, in order of sample id, and say what it holds.

    A shard whose chips were all refused is a file without rows: it is still accounted for. The same samples give
    the same bytes with the same library versions; across versions compare pixel hashes.
    """
    ordered = sorted(samples, key=lambda sample: sample.sample_id)
    duplicate = [name for name, count in Counter(sample.sample_id for sample in ordered).items() if count > 1]
    if duplicate:
        raise ValueError(
            f"shard {path.stem}: sample {duplicate[0]} comes twice; ids are unique within a corpus"
        )
    largest = max((sum(layer.pixels.nbytes for layer in s.layers.values()) for s in ordered), default=1)
    rows = max(1, min(ROWS_PER_GROUP, BYTES_PER_GROUP // max(largest, 1)))
    groups = [ordered[start : start + rows] for start in range(0, len(ordered), rows)]
    with _replacing(path) as temporary, pq.ParquetWriter(temporary, meta.schema(), **_layout()) as writer:
        for group in groups:
            writer.write_table(table(group, meta), row_group_size=rows)
        if not groups:
            writer.write_table(meta.schema().empty_table())
    return ShardRecord(
        name=path.stem,
        planned=len(ordered) + len(rejects),
        rows=len(ordered),
        bytes=path.stat().st_size,
        file_sha256=file_sha256(path),
        row_groups=tuple(len(group) for group in groups),
        rejects=tuple(sorted(rejects, key=lambda reject: reject.chip_id)),
        samples=tuple(_frozen(sample) for sample in ordered),
        counts=_counts(ordered),
        moments=_moments(ordered),
    )


def _layout() -> dict[str, Any]:
    return {
        "compression": "none",
        "use_dictionary": _DICTIONARY,
        "write_statistics": _STATISTICS,
        "write_page_checksum": True,
        "store_schema": True,
    }


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when all went well and is deleted when not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OSError(
            error.errno, f"no room left to write {path}; nothing was kept of it, free space and run again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file or the entries of a folder are on disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _frozen(sample: Sample) -> dict[str, Any]:
    """What regenerating this sample needs: which scenes it was made of, and the hash its pixels must have."""
    layers = {
        prefix: {"item_ids": list(layer.item_ids), "sha256": layer.sha256().hex()}
        for prefix, layer in sorted(sample.layers.items())
    }
    return {"sample_id": sample.sample_id, "layers": layers}


def _counts(samples: Sequence[Sample]) -> dict[str, dict[str, int]]:
    counts = {
        "split": Counter(sample.split for sample in samples),
        "stratum": Counter(sample.stratum for sample in samples),
        "continent": Counter(sample.continent for sample in samples),
    }
    for sample in samples:
        if "lc" in sample.layers:
            codes, pixels = np.unique(sample.layers["lc"].pixels, return_counts=True)
            named = {str(code): int(number) for code, number in zip(codes, pixels, strict=True)}
            counts.setdefault(f"lc_{sample.split}", Counter()).update(named)
    return {name: dict(sorted(values.items())) for name, values in counts.items()}


def _moments(samples: Iterable[Sample]) -> dict[str, dict[str, Moments]]:
    return add_moments(
        {sample.split: {p: Moments.of(layer) for p, layer in sample.layers.items()}} for sample in samples
    )


def add_moments(parts: Iterable[Statistics]) -> dict[str, dict[str, Moments]]:
    """The sum of statistics, split by split and layer by layer."""
    out: dict[str, dict[str, Moments]] = {}
    for part in parts:
        for split, layers in part.items():
            sums = out.setdefault(split, {})
            for prefix, moments in layers.items():
                sums[prefix] = sums[prefix] + moments if prefix in sums else moments
    return out


def add_counts(parts: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """The sum of named counts."""
    out: dict[str, Counter[str]] = {}
    for part in parts:
        for name, values in part.items():
            out.setdefault(name, Counter()).update(values)
    return {name: dict(sorted(values.items())) for name, values in out.items()}


def open_shard(path: Path) -> tuple[pq.ParquetFile, FileMeta]:
    """A shard ready to be read with page checksums verified. Raises Missing or Corrupt, naming the file."""
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError as error:
        raise Missing(f"shard {path} is not there; run curate again, sealed shards are kept") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise Corrupt(f"shard {path} cannot be opened ({error}); delete it and run curate again") from error
    meta = FileMeta.from_schema(file.schema_arrow, path)
    if file.schema_arrow.names != meta.schema().names:
        raise Corrupt(
            f"shard {path} has other columns than its metadata says; delete it and run curate again"
        )
    return file, meta


def read_table(path: Path, row_group: int, columns: Sequence[str] | None = None) -> pa.Table:
    """One row group as an Arrow table. Raises Corrupt when a page fails its checksum, naming shard and row group."""
    file, _ = open_shard(path)
    with file:
        return _row_group(file, path, row_group, columns)


def _row_group(file: pq.ParquetFile, path: Path, row_group: int, columns: Sequence[str] | None) -> pa.Table:
    try:
        return file.read_row_group(
            row_group, columns=None if columns is None else list(columns), use_threads=False
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise Corrupt(
            f"shard {path}, row group {row_group}: {error}; delete the shard and run curate again"
        ) from error


def read_samples(path: Path, row_group: int | None = None) -> Iterator[Sample]:
    """The samples of a shard (or of one row group) in order; every pixel hash is checked. Raises Corrupt."""
    file, meta = open_shard(path)
    with file:
        for group in range(file.num_row_groups) if row_group is None else (row_group,):
            for row in _row_group(file, path, group, None).to_pylist():
                yield Sample.from_row(row, meta)


def verify_shard(path: Path, record: ShardRecord) -> None:
    """Check a shard against its record: bytes, checksums, rows, and each sample's pixel hash.

    Raises Missing when the file is gone, Corrupt when anything differs.
    """
    if not path.exists():
        raise Missing(f"shard {path} is not there; run curate again, sealed shards are kept")
    if path.stat().st_size != record.bytes or file_sha256(path) != record.file_sha256:
        raise Corrupt(f"shard {path} is not the file that was sealed; delete it and run curate again")
    found = [_frozen(sample) for sample in read_samples(path)]
    if [dict(sample) for sample in record.samples] != found:
        raise Corrupt(
            f"shard {path} holds other samples or pixels than its record says; delete it and run curate again"
        )


@dataclass(frozen=True)
class Unit:
    """The unit of reading order: one row group of one shard."""

    path: Path
    row_group: int
    rows: int


@dataclass(frozen=True)
class Corpus:
    """A sealed corpus: its resolved spec and the records of its shards."""

    root: Path
    name: str
    version: str
    fingerprint: str
    spec: Mapping[str, Any]
    records: tuple[ShardRecord, ...]
    plan: Mapping[str, Any] = field(default_factory=dict)
    created_by: str = ""

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
        """Samples by split, stratum and continent; land-cover pixels by code for each split (`lc_train` ...)."""
        return add_counts(record.counts for record in self.records)

    def stats(self, split: str = "train") -> dict[str, Moments]:
        """Moments of each layer's bands over one split, by prefix. Raises ValueError for a split with no sample."""
        found = add_moments(record.moments for record in self.records).get(split)
        if found is None:
            raise ValueError(
                f"corpus {self.name}@{self.version} has no sample in split {split!r}; it has {self.counts()['split']}"
            )
        return found

    def shard_path(self, record: ShardRecord) -> Path:
        """Where a shard is."""
        return shard_path(self.root, record.name)

    def units(self) -> list[Unit]:
        """All row groups in the order of the manifest; no file is opened."""
        return [
            Unit(self.shard_path(record), group, rows)
            for record in self.records
            for group, rows in enumerate(record.row_groups)
        ]

    def pixel_hashes(self) -> dict[tuple[str, str], str]:
        """(sample id, layer prefix) -> pixel hash: what a regenerated corpus must equal."""
        return {
            (sample["sample_id"], prefix): layer["sha256"]
            for record in self.records
            for sample in record.samples
            for prefix, layer in sample["layers"].items()
        }

    def to_json(self) -> str:
        """The manifest."""
        head = {
            "format": "swath corpus manifest",
            "name": self.name,
            "version": self.version,
            "fingerprint": self.fingerprint,
            "created_by": self.created_by,
            "planned": self.planned,
            "accepted": self.rows,
            "rejected": self.rejected,
            "spec": self.spec,
            "plan": self.plan,
            "shards": [asdict(record) for record in self.records],
        }
        return json.dumps(head, indent=1)


def shard_path(root: Path, name: str) -> Path:
    """Where the shard `name` of the corpus at `root` belongs."""
    return root / "shards" / f"{name}.parquet"


def record_path(root: Path, name: str) -> Path:
    """Where its record belongs."""
    return root / "records" / f"{name}.json"


def save_record(root: Path, record: ShardRecord) -> None:
    """Publish a shard: after this it counts."""
    write_atomic(record_path(root, record.name), record.to_json().encode())


def load_record(root: Path, name: str) -> ShardRecord | None:
    """The record of a shard, or None when it was not finished. Raises Corrupt when it does not parse."""
    path = record_path(root, name)
    if not path.exists() or not shard_path(root, name).exists():
        return None
    try:
        return ShardRecord.from_dict(json.loads(path.read_bytes()))
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"record {path} does not parse ({error}); delete it and run curate again") from error


def seal(corpus: Corpus) -> Path:
    """Write the manifest, last of all. Raises ValueError when a sample id comes twice across shards."""
    ids = Counter(sample["sample_id"] for record in corpus.records for sample in record.samples)
    twice = [name for name, count in ids.items() if count > 1]
    if twice:
        raise ValueError(
            f"sample {twice[0]} is in two shards of {corpus.name}@{corpus.version}; the plan is wrong"
        )
    path = corpus.root / "manifest.json"
    write_atomic(path, corpus.to_json().encode())
    return path


def open_corpus(path: Path | str) -> Corpus:
    """A sealed corpus by its folder or its manifest. Raises Missing when it is not sealed, Corrupt when unreadable."""
    manifest = Path(path)
    manifest = manifest if manifest.suffix == ".json" else manifest / "manifest.json"
    if not manifest.exists():
        raise Missing(
            f"no sealed corpus at {path}: there is no {manifest.name}; run `swath curate` to its end first"
        )
    try:
        values = json.loads(manifest.read_bytes())
        return Corpus(
            root=manifest.parent.resolve(),
            name=values["name"],
            version=values["version"],
            fingerprint=values["fingerprint"],
            spec=values["spec"],
            records=tuple(ShardRecord.from_dict(record) for record in values["shards"]),
            plan=values["plan"],
            created_by=values["created_by"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"manifest {manifest} does not parse ({error}); seal the corpus again") from error
