"""The index of a corpus as GeoParquet 1.1: one row a sample, everything but the pixels.

`shard`, `row_group` and `row` say where the pixels are. Rows are streamed, so memory does not grow with the corpus,
and groups are small and carry the statistics of `bbox`, which a reader uses to skip those outside its window.
Longitude and latitude on WGS 84 (OGC:CRS84, the format's default).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from geodata.exports import Selection, around, batches, bounds, schema
from geodata.files import replacing
from geodata.sample import GEO

__all__ = ["ROWS_PER_GROUP", "write"]

ROWS_PER_GROUP = 16_384


def write(selection: Selection) -> Path:
    """Write `index.parquet` in the folder of the export, whole or not at all."""
    path = selection.folder / "index.parquet"
    columns = schema(selection.meta)
    box: tuple[float, float, float, float] | None = None
    waiting: list[pa.Table] = []
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(temporary, columns, compression="zstd", write_page_checksum=True) as writer,
    ):
        for _, read in batches(selection):
            box = around(box, bounds(read))
            waiting.append(read)
            if sum(part.num_rows for part in waiting) >= ROWS_PER_GROUP:
                writer.write_table(pa.concat_tables(waiting), row_group_size=ROWS_PER_GROUP)
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting), row_group_size=ROWS_PER_GROUP)
        writer.add_key_value_metadata(
            {"geo": json.dumps(geo(box)), "swath_index": json.dumps(_told(selection))}
        )
    return path


def geo(box: tuple[float, float, float, float] | None) -> dict[str, Any]:
    """The GeoParquet metadata of an index whose rows lie in `box` (degrees); of none where nothing lies anywhere."""
    values: dict[str, Any] = json.loads(json.dumps(GEO))
    if box is not None:
        values["columns"]["geometry"]["bbox"] = list(box)
    return values


def _told(selection: Selection) -> dict[str, Any]:
    corpus = selection.corpus
    return {
        "corpus": selection.title,
        "fingerprint": corpus.fingerprint,
        "created_by": corpus.created_by,
        "left_out": dict(selection.left_out),
    }
