"""A new version out of an old one: chips that failed asked for again, or everything looked at again for what is new.

Either way the old version stays as it is and can be read; what it holds is taken over, and `diff.json` says what
became different. A version in which nothing did is not made. Successors of `NAME@1` are `NAME@1.1`, `NAME@1.2`, unless
another version is asked for.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geodata import sampling
from geodata.build import opened_landcover
from geodata.chips import Plan
from geodata.corpus import CorpusSpec, load_spec
from geodata.earlier import Earlier, Where
from geodata.files import write_atomic
from geodata.letters import read_letters
from geodata.manifest import Corpus, open_corpus
from geodata.quotas import quotas
from geodata.shards import ShardRecord
from pipelines import artifacts
from pipelines.artifacts import Artifact
from pipelines.draft import Draft
from pipelines.settings import Home

__all__ = ["Succession", "newest", "refreshed", "retried", "settle", "version_in"]

FIXED = (
    "name",
    "places",
    "seed",
    "chip",
    "regions",
    "region_layout",
    "landcover",
    "inland_km",
    "split",
    "shard_rows",
)
"""Settings that decide where chips are and in which shard, and so cannot change from version to version."""
LOOSE = ("version", "quotas", "rounds", "tries")
"""Settings that have no part in which scenes a chip is made of."""


@dataclass(frozen=True)
class Succession:
    """A corpus and what its next version does with it."""

    parent: Artifact
    earlier: Earlier

    def plan(self, spec: CorpusSpec) -> Plan:
        """The parent's plan; when the spec asks for more chips, with one round more that holds them."""
        old = Plan.read(self.parent.path)
        wanted = quotas(spec)
        if self.earlier.where is not None or wanted == {key: dict(one) for key, one in old.quotas.items()}:
            return old
        refused = open_corpus(self.parent.path).rejects()
        grown = replace(old, quotas=wanted)
        return sampling.more(grown, spec, opened_landcover(spec.landcover), (one.chip_id for one in refused))

    def rounds(self, spec: CorpusSpec, plan: Plan) -> int:
        """How many rounds of draws the new version may have: further ones only when it holds more chips."""
        before = int(open_corpus(self.parent.path).plan["rounds"])
        return before + spec.rounds if plan.rounds > before else before

    def hold(self, root: Path) -> None:
        """Write down in a new version's folder what it goes on from. Raises ValueError when it began from another."""
        path, mine = root / "since.json", self.summary()
        if path.exists() and json.loads(path.read_bytes()) != mine:
            raise ValueError(
                f"{root} was begun from something else than {mine}; delete it, or give another version="
            )
        write_atomic(path, json.dumps(mine, indent=1).encode())

    def summary(self) -> dict[str, str]:
        """What the new manifest says of its origin."""
        where = {"where": str(self.earlier.where)} if self.earlier.where is not None else {}
        return {"corpus": self.parent.address, "fingerprint": self.parent.fingerprint} | where

    def tries(self) -> dict[str, int]:
        """How often each refused chip of the parent was asked for, with this time where it is asked for again."""
        where = self.earlier.where
        return {
            str(letter["chip_id"]): int(letter["tries"]) + (where is None or where.chooses(letter))
            for letter in read_letters(self.parent.path)
        }


def retried(name: str, where: Sequence[str], home: Home, version: str = "") -> tuple[CorpusSpec, Succession]:
    """The spec of the version in which refused chips are asked for again, and its parent.

    Raises ValueError for conditions that are none, or that choose no chip.
    """
    parent = artifacts.resolve(home, name, "corpus")
    chosen = Where.of(where)
    letters = read_letters(parent.path)
    if not any(chosen.chooses(letter) for letter in letters):
        counts = Counter(str(letter["reason"]) for letter in letters)
        there = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "none at all"
        raise ValueError(f"no refused chip of {parent.address} is {chosen or 'there'}; refused are {there}")
    spec = under(load_spec(parent.path / "manifest.json"), version or next_version(home, parent))
    return _apart(spec, parent), Succession(parent, Earlier(parent.path, chosen))


def refreshed(
    spec: CorpusSpec, since: str, home: Home, *, keep_version: bool = False
) -> tuple[CorpusSpec, Succession]:
    """The spec of a corpus's next version, and its parent; under its own version with `keep_version`.

    Raises ValueError when the spec's chips lie elsewhere than the parent's, or are fewer.
    """
    parent = artifacts.resolve(home, since, "corpus")
    before = load_spec(parent.path / "manifest.json")
    if not keep_version:
        spec = under(spec, next_version(home, parent))
    other = [key for key in FIXED if getattr(spec, key) != getattr(before, key)]
    if other:
        raise ValueError(
            f"{spec.address} differs from {parent.address} in {', '.join(other)}, so its chips lie elsewhere or in "
            "other shards; leave that as it was, or curate it anew"
        )
    old, new = quotas(before), quotas(spec)
    fewer = [
        f"{stratum} in {region}"
        for region, strata in old.items()
        for stratum, count in strata.items()
        if new.get(region, {}).get(stratum, 0) < count
    ]
    if fewer or list(old) != list(new):
        raise ValueError(
            f"{spec.address} asks for fewer chips than {parent.address} ({', '.join(fewer[:3]) or 'other regions'}); "
            "a successor can only grow, curate it anew"
        )
    same = _judging(before) == _judging(spec)
    return _apart(spec, parent), Succession(parent, Earlier(parent.path, same=same))


def under(spec: CorpusSpec, version: str) -> CorpusSpec:
    """The same corpus under another version."""
    return CorpusSpec.model_validate({**dict(spec), "version": version})


def version_in(overrides: Sequence[str]) -> str:
    """The version that overrides name, or none. Raises ValueError when they name anything else."""
    others = [text for text in overrides if not text.startswith("version=")]
    if others:
        raise ValueError(
            f"only version= can be given here, not {' '.join(others)!r}: all else stays as it was"
        )
    return overrides[-1].removeprefix("version=") if overrides else ""


def newest(home: Home, since: str) -> str:
    """The last successor of a corpus that was made so far, or itself: where a scheduled refresh goes on."""
    parent = artifacts.resolve(home, since, "corpus")
    found = _successors(home, parent.name, _stem(parent))
    return f"{parent.name}@{_stem(parent)}.{max(found)}" if found else parent.address


def next_version(home: Home, parent: Artifact) -> str:
    """The first version after the parent's that is not taken: 1.1 after 1, 1.2 after 1.1."""
    stem = _stem(parent)
    return f"{stem}.{max(_successors(home, parent.name, stem), default=0) + 1}"


def _stem(parent: Artifact) -> str:
    """A parent's version without the number that a succession gave it."""
    numbered = re.fullmatch(r"(.+)\.\d+", parent.version)
    succeeded = "since" in open_corpus(parent.path).plan
    return numbered[1] if numbered and succeeded else parent.version


def _successors(home: Home, name: str, stem: str) -> list[int]:
    versions = [one.version for one in artifacts.find(home, name, "corpus")]
    found = (re.fullmatch(rf"{re.escape(stem)}\.(\d+)", version) for version in versions)
    return [int(one[1]) for one in found if one]


def _apart(spec: CorpusSpec, parent: Artifact) -> CorpusSpec:
    if spec.version == parent.version:
        raise ValueError(f"{parent.address} is the version to go on from; give the new one another version=")
    return spec


def _judging(spec: CorpusSpec) -> dict[str, Any]:
    """What decides which scenes a chip is made of."""
    return spec.model_dump(mode="json", exclude=set(LOOSE))


# What became different


def difference(old: Corpus, draft: Draft, succession: Succession) -> dict[str, Any]:
    """Samples added, removed, changed and unchanged from one version to the next, and why."""
    before = {summary.name: summary for summary in old.records}
    unchanged = 0
    why: dict[str, Counter[str]] = {"added": Counter(), "removed": Counter(), "changed": Counter()}
    for name in draft.names:
        there = before.get(name)
        if there is not None and draft.whole[name].footer_sha256 == there.footer_sha256:
            unchanged += there.rows
            continue
        same, differs = _compared(old.record(name) if there else None, draft.record(name))
        unchanged += same
        for what, counted in differs.items():
            why[what].update(counted)
    counts = {what: sum(counted.values()) for what, counted in why.items()}
    return {
        **succession.summary(),
        **counts,
        "unchanged": unchanged,
        "by_reason": {what: dict(sorted(counted.items())) for what, counted in why.items()},
    }


def _compared(old: ShardRecord | None, new: ShardRecord) -> tuple[int, dict[str, Counter[str]]]:
    """Unchanged samples of a shard; and the others, counted by what is behind it."""
    refused = {reject.chip_id: reject.reason for reject in old.rejects} if old else {}
    dropped = {reject.chip_id: reject.reason for reject in new.rejects}
    first, second = _hashes(old) if old else {}, _hashes(new)
    added = Counter(
        f"was {refused[name]}" if name in refused else "new chip" for name in second.keys() - first.keys()
    )
    removed = Counter(dropped.get(name, "not planned") for name in first.keys() - second.keys())
    changed = Counter(
        " ".join(
            prefix
            for prefix in sorted(first[name].keys() | second[name].keys())
            if first[name].get(prefix) != second[name].get(prefix)
        )
        for name in first.keys() & second.keys()
        if first[name] != second[name]
    )
    same = len(first.keys() & second.keys()) - changed.total()
    return same, {"added": added, "removed": removed, "changed": changed}


def _hashes(record: ShardRecord) -> dict[str, Mapping[str, str]]:
    return {
        str(one["sample_id"]): {prefix: layer["pixel_hash"] for prefix, layer in one["layers"].items()}
        for one in record.samples
    }


def settle(draft: Draft, succession: Succession) -> dict[str, Any] | None:
    """Compare with the parent: diff.json and what it says, or None and no folder when nothing is different."""
    found = difference(open_corpus(succession.parent.path), draft, succession)
    if not any(found[what] for what in ("added", "removed", "changed")):
        shutil.rmtree(draft.root)
        return None
    write_atomic(draft.root / "diff.json", json.dumps(found, indent=1).encode())
    return found
