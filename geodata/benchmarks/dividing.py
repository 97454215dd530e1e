"""Who trains and who is scored, where nobody published lists: seeded, by class, and kept as files in this package.

Files are ordered by a hash of seed and path, so a split depends on no library's generator and on no order of listing:
anyone can compute it again with SHA-256. The lists in `splits/` are that rule applied to the names a data set was
published with; a test computes them again. Fractions of the labels follow the same order, so a smaller one is always
inside a larger one, and every encoder is trained on the same samples.
"""

from __future__ import annotations

import csv
import functools
import gzip
import hashlib
import importlib.resources
import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

__all__ = ["dealt", "drawn", "fraction", "key", "listed", "stratified", "table"]


def fraction(ids: Sequence[str], labels: Sequence[int] | None, share: float, seed: int) -> frozenset[str]:
    """The ids whose labels may be used when a `share` (0 to 1) of them is: of each class that share, at least one.

    Without labels the share is of all. Samples are taken in the order of a hash of seed and id, so 1 % lies inside 5 %
    inside 10 %, whatever the order of `ids`. Raises ValueError for a share outside 0 to 1 or ids that come twice.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a fraction of the labels is above 0 and at most 1, not {share:g}")
    if len(set(ids)) != len(ids):
        raise ValueError(f"{len(ids) - len(set(ids))} ids come twice; give every sample once")
    groups: defaultdict[int, list[str]] = defaultdict(list)
    for one, label in zip(ids, [0] * len(ids) if labels is None else labels, strict=True):
        groups[label].append(one)
    return frozenset(one for group in groups.values() for one in _first(group, share, seed))


def stratified(classes: Mapping[str, Sequence[str]], share: float, seed: int) -> frozenset[str]:
    """Of the paths of each class the share (0 to 1) that is trained on."""
    return frozenset(one for paths in classes.values() for one in _first(paths, share, seed))


def drawn(
    classes: Mapping[str, Sequence[str]], shares: Mapping[str, tuple[float, int]]
) -> dict[str, dict[str, str]]:
    """For each column a (share, seed) of each class that is trained on; the rest is `test`."""
    chosen = {name: stratified(classes, *rule) for name, rule in shares.items()}
    paths = [one for names in classes.values() for one in names]
    return {
        name: {one: "train" if one in inside else "test" for one in paths} for name, inside in chosen.items()
    }


def dealt(names: Sequence[str], counts: Mapping[str, int], seed: int) -> dict[str, str]:
    """The split of each name: as many as `counts` says, one split after the other, in the order of a hash.

    Raises ValueError when the counts are not as many as the names.
    """
    if sum(counts.values()) != len(names):
        raise ValueError(f"{counts} deal out {sum(counts.values())}, there are {len(names)} names")
    splits = [split for split, count in counts.items() for _ in range(count)]
    return dict(zip(_ordered(names, seed), splits, strict=True))


def _first(names: Sequence[str], share: float, seed: int) -> list[str]:
    return _ordered(names, seed)[: max(1, math.floor(share * len(names) + 0.5))]


def _ordered(names: Sequence[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).digest())


def key(path: str) -> str:
    """How lists name a picture: its class folder and its name, in lower case and without suffix."""
    folder, _, name = path.rpartition("/")
    return f"{folder.rpartition('/')[2]}/{name.rpartition('.')[0]}".lower()


def table(columns: Mapping[str, Mapping[str, str]]) -> bytes:
    """The file of a data set in `splits/`: a row for each key, a column for each way of dividing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", *columns])
    for path in sorted(next(iter(columns.values()))):
        writer.writerow([path, *(split[path] for split in columns.values())])
    return gzip.compress(text.getvalue().encode(), mtime=0)


@functools.cache
def listed(dataset: str, column: str) -> Mapping[str, str]:
    """The published split of each key of a data set."""
    place = importlib.resources.files("geodata.benchmarks") / "splits" / f"{dataset}.csv.gz"
    rows = csv.DictReader(io.StringIO(gzip.decompress(place.read_bytes()).decode()))
    return {row["path"]: row[column] for row in rows}
