"""Samples that show what another sample of the corpus shows: the same pixels, or a picture that looks the same.

Map engines serve one picture for many places, archives hold one acquisition twice, and chips near each other may see
one field. Of samples that are the same, the first in the order of the plan stays: a corpus that grows never gives up
what it had for what came later. "Looks the same" is no equivalence (a like b, b like c, but not a like c), so a sample
goes only when it is like one that stays.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from geodata.likeness import distance, near_pairs
from geodata.sensors import LANDCOVER
from geodata.shards import ShardRecord

Kind = Literal["exact", "perceptual"]
Places = NDArray[np.int64]
Place = tuple[str, int]
"""A sample by its shard and its row there."""

_NO_HASH = -1


class Ordered(Protocol):
    """A plan: it knows the order of its samples."""

    def places(self, ids: Collection[str]) -> dict[str, int]:
        """Where samples stand in the plan, by id."""
        ...


@dataclass
class Fingerprints:
    """What is kept of each sample of a corpus, some 30 bytes: where it is, a digest of all its pixels, one phash.

    The perceptual hash is that of the first layer (in the order of `prefixes`) that has one.
    """

    prefixes: Sequence[str]
    shards: list[str] = field(default_factory=list)
    _parts: list[tuple[Places, NDArray[Any], Places, NDArray[np.uint64]]] = field(default_factory=list)

    def add(self, record: ShardRecord) -> None:
        """The samples of one shard."""
        number, rows = len(self.shards), len(record.samples)
        self.shards.append(record.name)
        digests = np.empty(rows, "V16")
        kinds, hashes = np.full(rows, _NO_HASH), np.zeros(rows, np.uint64)
        for row, sample in enumerate(record.samples):
            layers: Mapping[str, Mapping[str, Any]] = sample["layers"]
            pixels = [(prefix, layers[prefix]["pixel_hash"]) for prefix in self.prefixes if prefix in layers]
            digests[row] = np.void(sha256(repr(pixels).encode()).digest()[:16])
            for kind, prefix in enumerate(self.prefixes):
                if prefix in layers and layers[prefix]["phash"] is not None:
                    kinds[row], hashes[row] = kind, layers[prefix]["phash"]
                    break
        where = np.stack([np.full(rows, number), np.arange(rows)], axis=1)
        self._parts.append((where, digests, kinds, hashes))

    def same(self) -> list[list[Place]]:
        """Samples with the same pixels: every group of two and more."""
        digests = self._column(1)
        order = np.argsort(digests, kind="stable")
        ends = np.flatnonzero(digests[order][1:] != digests[order][:-1]) + 1
        return [self._named(group) for group in np.split(order, ends) if len(group) > 1]

    def alike(self, bits: int) -> list[tuple[Place, Place, int]]:
        """Pairs whose perceptual hashes differ in so many bits at most, and in how many.

        Of samples with the same pixels only the first is paired with others.
        """
        kinds, hashes = self._column(2), self._column(3)
        _, first = np.unique(self._column(1), return_index=True)
        found: list[tuple[Place, Place, int]] = []
        for kind in range(len(self.prefixes)):
            mine = np.sort(first[kinds[first] == kind])
            left, right = mine[near_pairs(hashes[mine], bits)].T
            apart = distance(hashes[left], hashes[right])
            found += zip(self._named(left), self._named(right), apart.tolist(), strict=True)
        return found

    def _column(self, number: int) -> NDArray[Any]:
        empty = (
            np.empty((0, 2), np.int64),
            np.empty(0, "V16"),
            np.empty(0, np.int64),
            np.empty(0, np.uint64),
        )
        return np.concatenate([empty[number], *(part[number] for part in self._parts)])

    def _named(self, places: Places) -> list[Place]:
        return [(self.shards[shard], int(row)) for shard, row in self._column(0)[places]]


def repeated(
    records: Callable[[], Iterable[ShardRecord]],
    plan: Ordered,
    prefixes: Sequence[str],
    kind: Kind,
    bits: int,
) -> dict[str, dict[str, str]]:
    """Samples to drop, by shard and id, each with a sentence naming the sample it repeats.

    `records` is called for the records of all shards, twice when there is something to drop.
    """
    seen = Fingerprints([prefix for prefix in prefixes if prefix != LANDCOVER.prefix])
    for record in records():
        seen.add(record)
    groups, pairs = seen.same(), seen.alike(bits) if kind == "perceptual" else []
    if not groups and not pairs:
        return {}
    wanted = {place for group in groups for place in group} | {place for pair in pairs for place in pair[:2]}
    named = _names(records(), wanted)
    order = plan.places(set(named.values()))
    dropped: dict[str, dict[str, str]] = {}
    stands_for: dict[Place, Place] = {}
    for group in groups:
        first = min(group, key=lambda place: order[named[place]])
        stands_for |= dict.fromkeys(group, first)
        for place in group:
            if place != first:
                told = f"the same pixels as {named[first]}"
                dropped.setdefault(place[0], {})[named[place]] = told
    like: dict[Place, list[tuple[Place, int]]] = {}
    for one, other, apart in pairs:
        left, right = stands_for.get(one, one), stands_for.get(other, other)
        like.setdefault(left, []).append((right, apart))
        like.setdefault(right, []).append((left, apart))
    stays: set[Place] = set()
    for place in sorted(like, key=lambda place: order[named[place]]):
        before = [
            (order[named[other]], named[other], apart) for other, apart in like[place] if other in stays
        ]
        if not before:
            stays.add(place)
            continue
        _, name, apart = min(before)
        told = f"looks like {name}: {apart} of 64 bits differ"
        dropped.setdefault(place[0], {})[named[place]] = told
    return dropped


def _names(records: Iterable[ShardRecord], wanted: set[Place]) -> dict[Place, str]:
    """Sample ids by shard and row."""
    rows: dict[str, list[int]] = {}
    for shard, row in wanted:
        rows.setdefault(shard, []).append(row)
    return {
        (record.name, row): str(record.samples[row]["sample_id"])
        for record in records
        for row in rows.get(record.name, ())
    }
