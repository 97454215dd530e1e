"""Stages that every flow which makes a corpus has: build what is missing, drop what is there twice, show the result.

Apart from the flows, which know nothing of each other. What is done, the files say: Prefect caches none of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from geodata import shards
from geodata.errors import Denied, Transient
from geodata.folders import FolderSpec
from geodata.joining import JoinSpec
from geodata.manifest import Corpus
from geodata.prepare import PreparedSpec
from geodata.twins import repeated
from pipelines import artifacts, tracking
from pipelines.artifacts import Artifact
from pipelines.corpora import sealed
from pipelines.draft import AnyDraft, Draft, Pictures, Tally, built, failure
from pipelines.progress import bar, say
from pipelines.settings import Home, local_ray

__all__ = ["build_missing", "drop_duplicates", "made", "numbers", "publish", "told", "wanted"]

ABANDONED_S = 60
SHARDS_IN_TABLE = 100  # a Prefect table is for looking at; the manifest has all of them


AnySpec = FolderSpec | PreparedSpec | JoinSpec
"""What says all about a corpus that is made of files which are here."""


def wanted(spec: AnySpec, home: Home) -> Artifact:
    """The artifact that a spec of files describes, whether or not it exists."""
    place = home.place("corpus", spec.name, spec.version)
    parents = spec.parents if isinstance(spec, JoinSpec) else ()
    return Artifact(spec.name, spec.version, "corpus", place, spec.fingerprint, parents)


def made(
    flow: str,
    spec: AnySpec,
    home: Home,
    build: Callable[[Artifact], Corpus],
    *,
    reuse: bool = False,
) -> Artifact:
    """The corpus of a spec of files, found sealed or made by `build`: tracked under the flow's name, shown and sealed."""
    artifact = wanted(spec, home)
    if sealed(artifact, reuse=reuse) is not None:
        say(f"corpus {artifact.address} is sealed; nothing to do")
        return artifact
    artifacts.claim(artifact)
    began = time.monotonic()
    tags = {"config.digest": spec.fingerprint, "data.manifest": str(artifact.path / "manifest.json")}
    with tracking.tracked(home, flow, artifact.address, tags) as run:
        run.parameters(json.loads(spec.model_dump_json()))
        corpus = build(artifact)
        seconds = time.monotonic() - began
        run.metrics(len(corpus.records), numbers(corpus) | {"seconds": seconds})
        stage = {"name": flow, "seconds": seconds, "state": "sealed", "mlflow_run": run.run_id}
        artifacts.save_stage(
            artifact, stage | {"prefect_run": tracking.prefect_run().get("prefect.flow_run_id")}
        )
    publish(corpus, run.run_id)
    artifacts.seal(artifact)
    say(f"corpus {artifact.address}: {told(corpus)} in {artifact.path}")
    return artifact


def _worth_retrying(stage: Any, run: Any, state: Any) -> bool:
    """Only what may pass: a stage that met a quota or a timeout. Sealed shards are not built again."""
    return isinstance(state.result(raise_on_failure=False), Transient)


@task(retries=2, retry_delay_seconds=30, retry_condition_fn=_worth_retrying, cache_policy=NO_CACHE)
def build_missing(draft: AnyDraft, workers: int | None = None) -> None:
    """Build the shards that are not there and read back those that are, in parallel, until all are whole.

    Every shard is tried, unless a service lets nobody in. Raises the first failure's kind (Transient if any may pass
    later) with all failures' names.
    """
    _sweep(draft.root)
    begun = {name: one for name, one in draft.begun().items() if name not in draft.whole}
    todo = [number for number, name in enumerate(draft.names) if name not in draft.whole]
    todo.sort(key=lambda number: draft.names[number] in begun)  # those to be built first
    tally = Tally()
    for record in draft.whole.values():
        tally.add(record)
    if not todo:
        return
    with bar("curate", len(draft.names), "shards", done=tally.shards) as line, local_ray(cpus=workers):
        line.at(tally.shards, str(tally))
        with closing(built(draft, todo)) as finished:
            for name, outcome in finished:
                if isinstance(outcome, Exception):
                    tally.failures[name] = outcome
                else:
                    draft.whole[name] = outcome
                    tally.add(outcome)
                line.at(tally.shards, str(tally))
                _log_row(draft.root, tally)
                if isinstance(outcome, Denied):
                    break
    if tally.failures:
        raise failure(tally.failures, len(draft.names))


def _sweep(root: Path) -> None:
    """Remove what killed writers left: temporary files that nobody has written to for a minute, and nobody reads."""
    for folder in (root, root / "shards", root / "records"):
        for path in folder.glob(".*.tmp"):
            try:
                if time.time() - path.stat().st_mtime > ABANDONED_S:
                    path.unlink()
            except FileNotFoundError:
                continue  # its writer lives and has just finished


def _log_row(root: Path, tally: Tally) -> None:
    row = {
        "step": tally.shards,
        "rows": tally.rows,
        "rejected": tally.rejected,
        "bytes": tally.bytes,
        "failed": len(tally.failures),
        "time": time.time(),
    }
    with (root / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


@task(cache_policy=NO_CACHE)
def drop_duplicates(draft: Draft | Pictures) -> None:
    """Refuse the samples that repeat another one, where the spec says so. What is dropped once stays so."""
    spec = draft.spec
    if spec.duplicates == "keep":
        return
    twins = repeated(draft.records, draft.plan, draft.prefixes, spec.duplicates, spec.near_bits)
    for name, details in twins.items():
        path = shards.shard_path(draft.root, name)
        record = shards.drop(path, draft.record(name), details, "duplicate")
        shards.save_record(draft.root, record)
        draft.whole[name] = shards.verify_shard(path, record).summary()
    if twins:
        say(f"duplicates: {sum(map(len, twins.values()))} samples repeat others and are dropped")


def numbers(corpus: Corpus, requests: Mapping[str, Mapping[str, int]] | None = None) -> dict[str, float]:
    """A corpus in numbers, for the tracker, with what it asked of services by endpoint."""
    found: dict[str, float] = {f"rejected/{reason}": count for reason, count in corpus.rejected.items()}
    found |= {"planned": corpus.planned, "accepted": corpus.rows, "bytes": corpus.bytes}
    for endpoint, counted in (requests or {}).items():
        found |= {f"requests/{artifacts.slug(endpoint)}/{what}": count for what, count in counted.items()}
    return found


def publish(corpus: Corpus, mlflow_run: str | None) -> None:
    """The manifest's counts as a Prefect table: one row a shard, the sum first."""
    rows: list[dict[str, Any]] = [_row("all", corpus.planned, corpus.rows, corpus.rejected, corpus.bytes)]
    for record in corpus.records[:SHARDS_IN_TABLE]:
        rows.append(_row(record.name, record.planned, record.rows, record.rejected, record.bytes))
    create_table_artifact(
        key=artifacts.slug("corpus", corpus.name, corpus.version),
        table=rows,
        description=f"Manifest `{corpus.root / 'manifest.json'}`, fingerprint `{corpus.fingerprint[:12]}`, "
        f"MLflow run `{mlflow_run or 'none'}`",
    )


def _row(name: str, planned: int, accepted: int, rejected: Mapping[str, int], size: int) -> dict[str, Any]:
    reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.items()) or "-"
    return {"shard": name, "planned": planned, "accepted": accepted, "rejected": reasons, "bytes": size}


def told(corpus: Corpus) -> str:
    """A corpus in one line."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in corpus.rejected.items())
    rejected = f", rejected {reasons}" if reasons else ""
    return f"{corpus.rows} of {corpus.planned} chips accepted{rejected}, {len(corpus.records)} shards, {corpus.bytes:,} bytes"
