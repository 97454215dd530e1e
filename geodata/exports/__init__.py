"""A corpus for other people's tools: which of its rows may go out, and where what is exported finds its shards.

An export is a folder that may be published whole. It has the shards below it, and beside them the same samples told
three ways: `index.parquet` (GeoParquet), `stac/collection.json` (STAC) and `croissant.json` (Croissant). The corpus
folder itself is such a folder as long as every sample may be passed on. Elsewhere shards are linked, or copied where
the disk is another one; a shard that holds a sample which may not be passed on is written anew without it, because
an index that leaves out a row beside a file that still has it would protect nobody.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from geodata.files import file_sha256
from geodata.manifest import Corpus
from geodata.sample import FileMeta
from geodata.shards import ShardSummary, drop, open_shard, read_table

__all__ = ["FORMATS", "Selection", "Shard", "batches", "known", "select", "write"]

FORMATS = ("geoparquet", "croissant", "stac")
"""In the order of writing: the STAC collection names the others as its assets."""
ADDED = (
    pa.field("first_date", pa.date32()),
    pa.field("last_date", pa.date32()),
    pa.field("shard", pa.string(), nullable=False),
    pa.field("row_group", pa.int32(), nullable=False),
    pa.field("row", pa.int32(), nullable=False),
)
"""Columns of an index that a shard does not have: the days of its first and last image, and where a sample lies."""


@dataclass(frozen=True)
class Shard:
    """A shard as it is published: where it lies, and its path from the folder of the export."""

    path: Path
    href: str
    rows: int
    bytes: int
    sha256: str
    footer_sha256: str


@dataclass(frozen=True)
class Selection:
    """What of a corpus goes out, to which folder; `left_out` counts samples that may not, by provider."""

    corpus: Corpus
    folder: Path
    shards: tuple[Shard, ...]
    left_out: Mapping[str, int]
    meta: FileMeta
    url: str = ""

    @property
    def rows(self) -> int:
        """Samples that go out."""
        return sum(shard.rows for shard in self.shards)

    @property
    def title(self) -> str:
        """name@version."""
        return f"{self.corpus.name}@{self.corpus.version}"


def select(corpus: Corpus, folder: Path, *, skip_restricted: bool = False, url: str = "") -> Selection:
    """Everything of a corpus that may be passed on, with its shards below `folder`; `url` is where that will be.

    Raises ValueError when samples may not be passed on and they are not skipped, or when they are skipped but lie in
    the very folder that is to go out; also when nothing is left.
    """
    folder = folder.resolve()
    refused = {record.name: restricted(corpus, record) for record in corpus.records}
    counted = Counter(provider for found in refused.values() for provider in found.values())
    name, number = f"{corpus.name}@{corpus.version}", counted.total()
    if number and not skip_restricted:
        raise ValueError(
            f"{number:,} of {corpus.rows:,} samples of {name} may not be passed on ({_listed(counted)}); "
            "--skip-restricted with --to FOLDER exports the others"
        )
    if number and folder == corpus.root.resolve():
        raise ValueError(
            f"the folder of {name} holds {number:,} samples that may not be passed on ({_listed(counted)}); "
            "export to another one with --to FOLDER"
        )
    kept = [record for record in corpus.records if record.rows > len(refused[record.name])]
    if not kept:
        raise ValueError(f"{name} has no sample that may be passed on, so there is nothing to export")
    shards = tuple(_placed(corpus, record, folder, tuple(refused[record.name])) for record in kept)
    return Selection(corpus, folder, shards, dict(sorted(counted.items())), corpus.meta(), url.rstrip("/"))


def known(formats: Sequence[str]) -> None:
    """Raise ValueError for a format there is not."""
    unknown = [one for one in formats if one not in FORMATS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no format of export; there are {', '.join(FORMATS)}")


def write(selection: Selection, formats: Sequence[str] = FORMATS) -> dict[str, Path]:
    """Export in these formats, and say which file each begins with. Raises ValueError for a format there is not."""
    from geodata.exports import croissant, geoparquet, stac

    known(formats)
    writers = {"geoparquet": geoparquet.write, "croissant": croissant.write, "stac": stac.write}
    return {one: writers[one](selection) for one in FORMATS if one in formats}


def restricted(corpus: Corpus, record: ShardSummary) -> dict[str, str]:
    """Sample id -> who forbids it, for the samples of a shard that may not be passed on: read from its rows."""
    path = corpus.shard_path(record)
    file, meta = corpus.open(record)
    file.close()
    prefixes = [known.prefix for known in meta.sensors]
    names = [f"{prefix}_redistribute" for prefix in prefixes]
    words = [f"{known.prefix}_provider" for known in meta.sensors if "provider" in known.per_date]
    words += [f"{prefix}_source" for prefix in prefixes]
    found: dict[str, str] = {}
    for group in range(len(record.row_groups)):
        for row in read_table(path, group, ["sample_id", *names, *words], record.footer_sha256).to_pylist():
            barred = next((prefix for prefix in prefixes if row[f"{prefix}_redistribute"] is False), None)
            if barred is not None:
                providers = [one for one in row.get(f"{barred}_provider") or () if one]
                found[row["sample_id"]] = str(providers[0] if providers else row[f"{barred}_source"])
    return found


def schema(meta: FileMeta) -> pa.Schema:
    """The columns of an index: a shard's without its pixels, and `ADDED`."""
    fields = [field for field in meta.schema() if not pa.types.is_large_binary(field.type)]
    return pa.schema([*fields, *ADDED])


def batches(selection: Selection) -> Iterator[tuple[Shard, pa.Table]]:
    """The rows of all shards by the columns of `schema`, a row group at a time, in the order of the shards."""
    wanted = schema(selection.meta)
    columns = [name for name in wanted.names if name not in {field.name for field in ADDED}]
    series = [f"{known.prefix}_dates" for known in selection.meta.sensors if known.kind != "map"]
    for shard in selection.shards:
        file, _ = open_shard(shard.path, shard.footer_sha256)
        groups = file.num_row_groups
        file.close()
        for group in range(groups):
            read = read_table(shard.path, group, columns, shard.footer_sha256)
            if read.num_rows:
                yield shard, _indexed(read, wanted, shard, group, series)


def months(selection: Selection) -> tuple[str, str] | None:
    """First and last day (ISO) that the corpus asked its sources for; None when its spec names no period."""
    periods = [part.get("period") for part in selection.corpus.spec.get("sensors") or ()]
    days = [
        (str(one["first"]), str(one["last"]))
        for one in periods
        if isinstance(one, Mapping) and "first" in one
    ]
    return (min(first for first, _ in days), max(last for _, last in days)) if days else None


def made_on(corpus: Corpus) -> str:
    """The day on which the corpus was curated, as its own note of the environment says; '' when there is none."""
    try:
        return str(json.loads((corpus.root / "environment.json").read_bytes())["started"])[:10]
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _indexed(read: pa.Table, wanted: pa.Schema, shard: Shard, group: int, series: Sequence[str]) -> pa.Table:
    rows = read.num_rows
    first, last = _span(read, series)
    added = {
        "first_date": pa.array(first, pa.date32()),
        "last_date": pa.array(last, pa.date32()),
        "shard": pa.array([shard.href] * rows),
        "row_group": pa.array([group] * rows, pa.int32()),
        "row": pa.array(range(rows), pa.int32()),
    }
    columns = [added[name] if name in added else read.column(name) for name in wanted.names]
    return pa.Table.from_arrays(columns, schema=wanted)


def _span(read: pa.Table, series: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """The first and last day of each row over all its images; a land-cover map has a date but is no image."""
    days = [
        [day for cell in row if cell for day in cell if day is not None]
        for row in zip(*(read.column(name).to_pylist() for name in series), strict=True)
    ]
    return [min(row, default=None) for row in days], [max(row, default=None) for row in days]


def _placed(corpus: Corpus, record: ShardSummary, folder: Path, without: tuple[str, ...]) -> Shard:
    """A shard below the folder: where it is, linked, copied, or written anew without some of its samples."""
    source, target = corpus.shard_path(record), folder / "shards" / f"{record.name}.parquet"
    if source.resolve() != target.resolve():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if without:
            shutil.copyfile(source, target)
            details = dict.fromkeys(without, "may not be passed on")
            record = drop(target, corpus.record(record.name), details, "restricted")
        else:
            _link(source, target)
    digest = record.file_sha256 or file_sha256(target)
    return Shard(target, f"shards/{target.name}", record.rows, record.bytes, digest, record.footer_sha256)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def _listed(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{provider} {number:,}" for provider, number in sorted(counted.items()))


def bounds(read: pa.Table) -> tuple[float, float, float, float] | None:
    """West, south, east, north of the rows that lie somewhere, degrees; None when none does."""
    corners = read.column("bbox").combine_chunks()
    if corners.null_count == len(corners):
        return None
    west, south = (pc.min(pc.struct_field(corners, name)).as_py() for name in ("xmin", "ymin"))
    east, north = (pc.max(pc.struct_field(corners, name)).as_py() for name in ("xmax", "ymax"))
    return west, south, east, north


def around(
    one: tuple[float, float, float, float] | None, other: tuple[float, float, float, float] | None
) -> tuple[float, float, float, float] | None:
    """The box around two boxes, either of which may be missing."""
    if one is None or other is None:
        return one or other
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])
