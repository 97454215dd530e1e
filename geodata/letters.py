"""Dead letters: a table of the chips that were refused, beside the manifest, for people and for another try.

Everything in it is in the records as well; the table is one file that any tool opens. `tries` counts the versions of
a corpus in which a chip was asked for, so that what fails for ever is told from what failed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from geodata.chips import Plan
from geodata.errors import Corrupt
from geodata.files import replacing
from geodata.landcover import STRATA
from geodata.shards import ShardRecord, record_path

FILE = "dead_letters.parquet"
SCHEMA = pa.schema(
    [
        pa.field("chip_id", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("stratum", pa.string(), nullable=False),
        pa.field("region", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("tries", pa.int32(), nullable=False),
        pa.field("time", pa.timestamp("s", tz="UTC"), nullable=False),
    ]
)


def write_letters(
    root: Path, records: Iterable[ShardRecord], plan: Plan, tries: Mapping[str, int] | None = None
) -> int:
    """Write the table of the corpus at `root`; how many rows it has.

    `tries` are the numbers of chips that an earlier version has asked for as well. Times are when a shard was sealed.
    """
    rows = [
        {
            "chip_id": reject.chip_id,
            "shard": record.name,
            "reason": reject.reason,
            "detail": reject.detail,
            "tries": (tries or {}).get(reject.chip_id, 1),
            "time": datetime.fromtimestamp(int(record_path(root, record.name).stat().st_mtime), UTC),
        }
        for record in records
        for reject in record.rejects
    ]
    places = plan.places({str(row["chip_id"]) for row in rows})
    for row in rows:
        place = places[str(row["chip_id"])]
        row["stratum"] = STRATA[plan.columns["stratum"][place]]
        row["region"] = plan.regions[plan.columns["region"][place]]
    with replacing(root / FILE) as temporary:
        table = pa.Table.from_pylist(rows, SCHEMA)
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
    return len(rows)


def read_letters(root: Path) -> list[dict[str, Any]]:
    """The rows of the table of the corpus at `root`; none when it has no table. Raises Corrupt."""
    path = root / FILE
    if not path.exists():
        return []
    try:
        return list(pq.read_table(path, page_checksum_verification=True).to_pylist())
    except (pa.ArrowInvalid, OSError) as error:
        raise Corrupt(f"{path} does not read ({error}); delete it, the records know the reasons") from error
