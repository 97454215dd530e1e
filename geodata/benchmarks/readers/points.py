"""Tables of places, divided by where they are: what lies in one cell of a fine lattice trains together or is scored together."""

from __future__ import annotations

import functools
import hashlib
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from geodata.benchmarks.readers.rasters import told
from geodata.layout import Split

__all__ = ["by_place", "rows"]

_ENDS: tuple[tuple[Split, float], ...] = (("train", 0.6), ("val", 0.8), ("test", 1.0))


def by_place(lon: float, lat: float, cell: float) -> Split:
    """The split of a cell of so many degrees, by a hash: three fifths train, a fifth chooses, a fifth is scored."""
    name = f"0 {math.floor(lon / cell + 1e-9)} {math.floor(lat / cell + 1e-9)}"
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return next(split for split, end in _ENDS if share < end)


@functools.lru_cache(maxsize=2)
def rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a Parquet table, kept for the next sample. Raises Missing or Corrupt for a file that does not read."""
    with told(path):
        found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return found
