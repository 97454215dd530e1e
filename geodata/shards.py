"""One shard on disk: written whole or not at all, verified on read, and the record of what it holds.

A corpus is a folder: `shards/NAME.parquet`, then `records/NAME.json` (what the shard holds and what was refused),
and last `manifest.json`. A shard without its record is garbage and is built again; so a kill at any moment costs at
most the shards in flight.

Row groups hold at most 64 rows and 64 MB of pixels: that, not a batch size, is what bounds a reader's memory. Every
byte a reader relies on is checked: pages by their checksums (written, and verified because every reader here asks for
it), the footer by the hash in the record, the record by its own digest. Pixels have a hash of their own, which is
the same on every machine; the hash of the file is taken when the file is read back, not while it is written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geodata import census
from geodata.blobs import Blob, Index, from_footer
from geodata.errors import Corrupt, Missing
from geodata.files import file_sha256, replacing, stamped, unstamped, write_atomic
from geodata.moments import Moments, Statistics, add_moments
from geodata.sample import SPLITS, FileMeta, Sample, table

ROWS_PER_GROUP = 64
BYTES_PER_GROUP = 64 * 2**20
FEW = ("split", "stratum", "continent")
"""Counts that a manifest keeps for each shard; the others it keeps as their sum."""
_DICTIONARY = ["split", "continent", "stratum"]
_STATISTICS = ["sample_id", "split", "lon", "lat", "bbox.xmin", "bbox.ymin", "bbox.xmax", "bbox.ymax"]
_TAIL = 8  # a Parquet file ends with the length of its footer and a magic word, four bytes each


_AGAIN = "delete it and run curate again"


@dataclass(frozen=True)
class Reject:
    """A chip that was planned and refused: why, in one word and in one sentence.

    `considered` are digests, by layer prefix, of what the searches returned until it was refused.
    """

    chip_id: str
    reason: str
    detail: str = ""
    considered: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardSummary:
    """One shard in numbers, as the manifest keeps it; of the counts those in `FEW`.

    `splits` is a letter for each row, in order: its place in `SPLITS`. `file_sha256` is known once the file was read
    back, `record_sha256` once the corpus is sealed; until then they are empty.
    """

    name: str
    planned: int
    rows: int
    bytes: int
    footer_sha256: str
    row_groups: tuple[int, ...]
    rejected: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    splits: str = ""
    file_sha256: str = ""
    record_sha256: str = ""

    def __post_init__(self) -> None:
        refused = sum(self.rejected.values())
        if self.rows + refused != self.planned or sum(self.row_groups) != self.rows:
            raise ValueError(
                f"shard {self.name}: {self.rows} accepted + {refused} rejected is not {self.planned} planned; "
                "a chip was lost, do not seal this shard"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ShardSummary:
        """From plain values. Raises TypeError, ValueError or KeyError for any others."""
        return cls(**{**values, "row_groups": tuple(values["row_groups"])})


@dataclass(frozen=True)
class ShardRecord(ShardSummary):
    """What one shard holds, sample by sample and reject by reject: what regenerating it needs.

    A sample is {"sample_id", "layers": {prefix: {"item_ids", "pixel_hash", "phash", "considered", "refused"}}}.
    `hrefs` are the unsigned addresses of the scenes it was made of: scene id -> band -> address.
    """

    rejects: tuple[Reject, ...] = ()
    samples: tuple[Mapping[str, Any], ...] = ()
    moments: Statistics = field(default_factory=dict)
    hrefs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rejected", dict(Counter(sorted(reject.reason for reject in self.rejects))))
        super().__post_init__()

    def summary(self) -> ShardSummary:
        """The same without samples, rejects, statistics and most counts."""
        values = {name: getattr(self, name) for name in ShardSummary.__dataclass_fields__}
        few = {name: self.counts[name] for name in FEW if name in self.counts}
        return ShardSummary(**{**values, "counts": few})

    def to_json(self) -> bytes:
        """One JSON object with its own digest; the hash of the record itself is left out."""
        values = asdict(self)
        values.pop("record_sha256")
        return stamped(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ShardRecord:
        """The inverse of `to_json`, after parsing."""
        plain = dict(values)
        plain["row_groups"] = tuple(plain["row_groups"])
        plain["rejects"] = tuple(Reject(**reject) for reject in plain["rejects"])
        plain["samples"] = tuple(plain["samples"])
        plain["moments"] = statistics_from(plain["moments"])
        return cls(**plain)


def statistics_from(values: Mapping[str, Any]) -> dict[str, dict[str, Moments]]:
    """Statistics from parsed JSON."""
    return {
        split: {
            prefix: Moments(*(tuple(one[key]) for key in ("count", "total", "square")))
            for prefix, one in layers.items()
        }
        for split, layers in values.items()
    }


def write_shard(
    path: Path, samples: Iterable[Sample], meta: FileMeta, rejects: Sequence[Reject] = ()
) -> ShardRecord:
    """Write accepted samples to one Parquet file, in order of sample id, and say what it holds.

    A sequence is sorted; anything else is taken as it comes, one row group in memory at a time, and its ids must
    ascend. `rejects` are looked at after the last sample. A shard whose chips were all refused is a file without rows:
    it is still accounted for. The same samples give the same bytes with the same library versions; across versions
    compare pixel hashes. Raises ValueError for an id that comes twice, OSError when the disk is full.
    """
    ordered = sorted(samples, key=lambda one: one.sample_id) if isinstance(samples, Sequence) else samples
    schema, tally = meta.schema(), _Tally()
    index = Index([f"{known.prefix}_pixels" for known in meta.sensors])
    with replacing(path) as temporary:
        with pq.ParquetWriter(temporary, schema, **_layout()) as writer:
            for group in _groups(ordered, path.stem):
                rows = [tally.row(sample) for sample in group]
                writer.write_table(table(rows, meta), row_group_size=len(group))
                index.add(temporary, rows)
                tally.close(group)
            if not tally.row_groups:
                writer.write_table(schema.empty_table())
            writer.add_key_value_metadata({"content": _content(tally.entries)} | index.entry())
        size, footer = temporary.stat().st_size, hashlib.sha256(_footer(temporary)).hexdigest()
    return ShardRecord(
        name=path.stem,
        planned=len(tally.entries) + len(rejects),
        rows=len(tally.entries),
        bytes=size,
        footer_sha256=footer,
        row_groups=tuple(tally.row_groups),
        counts={name: dict(sorted(counter.items())) for name, counter in tally.counts.items()},
        splits=tally.splits,
        rejects=tuple(sorted(rejects, key=lambda reject: reject.chip_id)),
        samples=tuple(tally.entries),
        moments=tally.moments,
        hrefs=dict(sorted(tally.hrefs.items())),
    )


def _groups(samples: Iterable[Sample], shard: str) -> Iterator[list[Sample]]:
    """Samples in row groups of so many rows and bytes of pixels as are allowed. Raises ValueError when ids do not ascend."""
    group: list[Sample] = []
    size, last = 0, ""
    for sample in samples:
        if sample.sample_id <= last:
            told = "comes twice" if sample.sample_id == last else f"comes after {last}"
            raise ValueError(f"shard {shard}: sample {sample.sample_id} {told}; ids are unique, and ascend")
        last = sample.sample_id
        own = sum(layer.pixels.nbytes for layer in sample.layers.values())
        if group and (len(group) == ROWS_PER_GROUP or size + own > BYTES_PER_GROUP):
            yield group
            group, size = [], 0
        group.append(sample)
        size += own
    if group:
        yield group


@dataclass
class _Tally:
    """What a record says of the samples written so far."""

    entries: list[Mapping[str, Any]] = field(default_factory=list)
    row_groups: list[int] = field(default_factory=list)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    splits: str = ""
    moments: Statistics = field(default_factory=dict)
    hrefs: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._count([])

    def row(self, sample: Sample) -> dict[str, Any]:
        """One sample as a row, and into the sums at once, while its pixels are still in the cache."""
        row = sample.to_row()
        sums = {prefix: Moments.of(layer) for prefix, layer in sample.layers.items()}
        self.moments = add_moments([self.moments, {sample.split: sums}])
        self.entries.append(_entry(sample, row))
        self.splits += str(SPLITS.index(sample.split))
        return row

    def close(self, samples: Sequence[Sample]) -> None:
        """A row group was written."""
        self.row_groups.append(len(samples))
        self._count(samples)
        self.hrefs |= _hrefs(samples)

    def _count(self, samples: Sequence[Sample]) -> None:
        for name, values in census.counts(samples).items():
            self.counts.setdefault(name, Counter()).update(values)


def drop(path: Path, record: ShardRecord, ids: Mapping[str, str] | Iterable[str], reason: str) -> ShardRecord:
    """Write a shard again without some samples, which become rejects of `reason`; a mapping gives each its detail.

    The record is the caller's to save: until it is, the shard does not match the one there and would be built again.
    Raises ValueError for an id the shard does not hold, Missing and Corrupt as reading does.
    """
    details = dict(ids) if isinstance(ids, Mapping) else dict.fromkeys(ids, "")
    strangers = sorted(details.keys() - {str(entry["sample_id"]) for entry in record.samples})
    if strangers:
        raise ValueError(f"shard {record.name} holds no sample {strangers[0]}; give ids of this shard alone")
    file, meta = open_shard(path, record.footer_sha256)
    file.close()
    kept = [
        one for one in read_samples(path, footer_sha256=record.footer_sha256) if one.sample_id not in details
    ]
    rejects = [Reject(name, reason, detail) for name, detail in details.items()]
    made = write_shard(path, kept, meta, [*record.rejects, *rejects])
    entries = tuple(entry for entry in record.samples if entry["sample_id"] not in details)
    scenes = {scene for entry in entries for layer in entry["layers"].values() for scene in layer["item_ids"]}
    hrefs = {scene: bands for scene, bands in record.hrefs.items() if scene in scenes}
    return replace(made, samples=entries, hrefs=hrefs, file_sha256=file_sha256(path))


def _layout() -> dict[str, Any]:
    return {
        "compression": "none",
        "use_dictionary": _DICTIONARY,
        "write_statistics": _STATISTICS,
        "write_page_checksum": True,
        "store_schema": True,
    }


def _entry(sample: Sample, row: Mapping[str, Any]) -> dict[str, Any]:
    """What regenerating this sample needs: which scenes it was made of, and the hash its pixels must have."""
    layers = {
        prefix: {
            "item_ids": list(layer.item_ids),
            "pixel_hash": row[f"{prefix}_pixel_hash"].hex(),
            "phash": layer.phash,
            "considered": layer.considered,
            "refused": dict(layer.refused),
        }
        for prefix, layer in sorted(sample.layers.items())
    }
    return {"sample_id": sample.sample_id, "layers": layers}


def _content(entries: Sequence[Mapping[str, Any]]) -> str:
    """A hash of what the samples are, for the footer: two shards of one shape then differ there as well."""
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _hrefs(samples: Iterable[Sample]) -> dict[str, dict[str, str]]:
    found = {
        scene: bands
        for one in samples
        for layer in one.layers.values()
        for scene, bands in layer.hrefs.items()
    }
    return {scene: dict(sorted(bands.items())) for scene, bands in sorted(found.items())}


def _footer(path: Path) -> bytes:
    """The footer of a Parquet file and the eight bytes behind it. Raises Corrupt when there is none, OSError."""
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(size - _TAIL, 0))
        tail = stream.read()
        length = int.from_bytes(tail[:4], "little") + _TAIL
        if len(tail) < _TAIL or tail[4:] != b"PAR1" or length > size:
            raise Corrupt(f"shard {path} does not end as a Parquet file does; {_AGAIN}")
        stream.seek(size - length)
        return stream.read(length)


def open_shard(path: Path, footer_sha256: str = "") -> tuple[pq.ParquetFile, FileMeta]:
    """A shard ready to be read with page checksums verified, and its footer too where its hash is known.

    Raises Missing or Corrupt, naming the file.
    """
    file = _opened(path, footer_sha256)
    try:
        meta = FileMeta.from_schema(file.schema_arrow, path)
        if not footer_sha256 and file.schema_arrow.names != meta.schema().names:
            raise Corrupt(f"shard {path} has other columns than its metadata says; {_AGAIN}")
    except Corrupt:
        file.close()
        raise
    return file, meta


def _opened(path: Path, footer_sha256: str) -> pq.ParquetFile:
    try:
        footer = _footer(path)
        if footer_sha256 and hashlib.sha256(footer).hexdigest() != footer_sha256:
            raise Corrupt(f"shard {path} does not end with the footer that its record knows; {_AGAIN}")
        metadata = pq.read_metadata(pa.BufferReader(b"PAR1" + footer))
        return pq.ParquetFile(path, metadata=metadata, page_checksum_verification=True)
    except FileNotFoundError as error:
        raise Missing(f"shard {path} is not there; run curate again, sealed shards are kept") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise Corrupt(f"shard {path} cannot be opened ({error}); {_AGAIN}") from error


def read_table(
    path: Path, row_group: int, columns: Sequence[str] | None = None, footer_sha256: str = ""
) -> pa.Table:
    """One row group as an Arrow table. Raises Corrupt when a page fails its checksum, naming shard and row group.

    Without the hash of the footer, as a manifest or a record has it, only the pages are checked.
    """
    file = _opened(path, footer_sha256) if footer_sha256 else open_shard(path)[0]
    with file:
        return _row_group(file, path, row_group, columns)


@dataclass(frozen=True)
class Group:
    """One row group: some columns in memory, and of some columns of blobs where they lie in the file."""

    table: pa.Table
    blobs: Mapping[str, list[Blob]]


def read_group(
    path: Path, row_group: int, columns: Sequence[str], pixels: Sequence[str], footer_sha256: str
) -> Group:
    """One row group without its pixels, of which only the places are read; otherwise as `read_table`.

    Whether its lists are whole is for the caller to see: a blob knows how many dates it has.
    """
    with _opened(path, footer_sha256) as file:
        try:
            found = from_footer(file.metadata.metadata or {}, row_group, pixels)
        except Corrupt as error:
            raise Corrupt(f"shard {path}: {error}; {_AGAIN}") from error
        values = _columns(file, path, row_group, columns)
    if any(len(column) != len(places) for column in values.columns for places in found.values()):
        raise Corrupt(f"shard {path}, row group {row_group} gives fewer values than it holds; {_AGAIN}")
    return Group(values, found)


def _row_group(file: pq.ParquetFile, path: Path, row_group: int, columns: Sequence[str] | None) -> pa.Table:
    found = _columns(file, path, row_group, columns)
    if not _complete(found, file.metadata.row_group(row_group)):
        raise Corrupt(f"shard {path}, row group {row_group} gives fewer values than it holds; {_AGAIN}")
    return found


def _columns(file: pq.ParquetFile, path: Path, row_group: int, columns: Sequence[str] | None) -> pa.Table:
    try:
        return file.read_row_group(
            row_group, columns=None if columns is None else list(columns), use_threads=False
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise Corrupt(f"shard {path}, row group {row_group}: {error}; {_AGAIN}") from error


def _complete(found: pa.Table, group: pq.RowGroupMetaData) -> bool:
    """Whether every column came with all its values.

    Checksums cover what is in a page, not the few bytes before it: one wrong bit there, and Arrow passes over the
    page, or reads less of it, without a word. The footer, whose hash is known, says how many values there are.
    """
    if any(len(column) != group.num_rows for column in found.columns):
        return False
    lists = {
        name for name, field in zip(found.column_names, found.schema, strict=True) if _is_list(field.type)
    }
    leaves = (group.column(number) for number in range(group.num_columns))
    return all(
        leaf.num_values == _levels(found[name])
        for leaf in leaves
        if (name := leaf.path_in_schema.partition(".")[0]) in lists
    )


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind))


def _levels(lists: pa.ChunkedArray) -> int:
    """Entries that Parquet keeps for a column of lists: its values, and one for each list that is empty or null."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    return int(pc.sum(pc.max_element_wise(lengths, 1)).as_py() or 0)


def read_samples(path: Path, row_group: int | None = None, footer_sha256: str = "") -> Iterator[Sample]:
    """The samples of a shard (or of one row group) in order; every pixel hash is checked. Raises Corrupt."""
    file, meta = open_shard(path, footer_sha256)
    with file:
        for group in range(file.num_row_groups) if row_group is None else (row_group,):
            for row in _row_group(file, path, group, None).to_pylist():
                yield Sample.from_row(row, meta)


def verify_shard(path: Path, record: ShardRecord) -> ShardRecord:
    """Check a shard against its record: bytes, checksums, rows, each sample's pixel hash; the record with the file's.

    Raises Missing when the file is gone, Corrupt when anything differs.
    """
    if not path.exists():
        raise Missing(f"shard {path} is not there; run curate again, sealed shards are kept")
    if path.stat().st_size != record.bytes:
        raise Corrupt(f"shard {path} has {path.stat().st_size} bytes, recorded are {record.bytes}; {_AGAIN}")
    found = file_sha256(path)
    if record.file_sha256 not in ("", found):
        raise Corrupt(f"shard {path} is not the file that was sealed; {_AGAIN}")
    held = [
        {
            prefix: (list(layer.item_ids), layer.pixel_hash().hex(), layer.phash)
            for prefix, layer in sample.layers.items()
        }
        | {"sample_id": sample.sample_id}
        for sample in read_samples(path, footer_sha256=record.footer_sha256)
    ]
    recorded = [
        {
            prefix: (list(layer["item_ids"]), layer["pixel_hash"], layer["phash"])
            for prefix, layer in one["layers"].items()
        }
        | {"sample_id": one["sample_id"]}
        for one in record.samples
    ]
    if held != recorded:
        raise Corrupt(f"shard {path} holds other samples or pixels than its record says; {_AGAIN}")
    return replace(record, file_sha256=found)


def shard_path(root: Path, name: str) -> Path:
    """Where the shard `name` of the corpus at `root` belongs."""
    return root / "shards" / f"{name}.parquet"


def record_path(root: Path, name: str) -> Path:
    """Where its record belongs."""
    return root / "records" / f"{name}.json"


def save_record(root: Path, record: ShardRecord) -> None:
    """Publish a shard: after this it counts."""
    write_atomic(record_path(root, record.name), record.to_json())


def load_record(root: Path, name: str) -> ShardRecord | None:
    """The record of a shard, or None when it was not finished. Raises Corrupt when it is not as it was written."""
    path = record_path(root, name)
    if not path.exists() or not shard_path(root, name).exists():
        return None
    return read_record(path)


def read_record(path: Path, sha256: str = "") -> ShardRecord:
    """A record from its file, whose hash may be known. Raises Missing or Corrupt."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise Missing(f"record {path} is not there; run curate again, sealed shards are kept") from error
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise Corrupt(f"record {path} is not the one that was sealed; {_AGAIN}")
    try:
        return ShardRecord.from_dict(unstamped(data, path))
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"record {path} does not parse ({error}); {_AGAIN}") from error
