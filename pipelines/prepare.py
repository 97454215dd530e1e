"""Flow: a benchmark, from the files it was published as to a labelled corpus that training reads like any other.

The stages of an import without its search for copies: a benchmark is taken as it is. What is missing on disk is listed
before anything is made; a restart goes on where it was interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from geodata import prepare
from geodata.build import created_by
from geodata.files import write_atomic
from geodata.folders import FILE, FolderPlan
from geodata.manifest import Corpus
from geodata.manifest import seal as write_manifest
from geodata.prepare import PreparedSpec
from geodata.provenance import provenance
from pipelines.artifacts import Artifact
from pipelines.draft import BenchmarkOrder, Prepared
from pipelines.progress import say
from pipelines.settings import Home, environment
from pipelines.stages import build_missing, made, wanted

__all__ = ["make", "prepared", "wanted"]


@flow(name="prepare", validate_parameters=False)
def make(
    name: str,
    folder: str,
    overrides: Sequence[str] = (),
    out: str = "runs",
    workers: int | None = None,
    reuse: bool = False,
) -> str:
    """Make the corpus of the benchmark NAME, which lies in `folder`."""
    home = Home.at(out)
    environment(home)
    spec = prepare.load(name, Path(folder), tuple(overrides))
    return prepared(spec, home, workers=workers, reuse=reuse).address


def prepared(spec: PreparedSpec, home: Home, *, workers: int | None = None, reuse: bool = False) -> Artifact:
    """The stages, to be called in a flow. Raises DataError or OSError naming what failed, ValueError for the request."""

    def build(artifact: Artifact) -> Corpus:
        draft = list_samples(artifact, spec)
        build_missing(draft, workers)
        return seal_samples(draft)

    return made("prepare", spec, home, build, reuse=reuse)


@task(cache_policy=NO_CACHE)
def list_samples(artifact: Artifact, spec: PreparedSpec) -> Prepared:
    """The plan of a begun preparation, or a new one, kept before anything is read."""
    root = artifact.path
    fresh = not (root / FILE).exists()
    plan = prepare.plan(spec) if fresh else FolderPlan.read(root)
    draft = Prepared(artifact, BenchmarkOrder(spec, root), plan)
    if fresh:
        write_atomic(root / "spec.json", spec.model_dump_json(indent=1).encode())
        write_atomic(root / "environment.json", json.dumps(provenance(), indent=1).encode())
        plan.write(root)
    splits = ", ".join(f"{count} {name}" for name, count in plan.counts().items())
    say(f"plan: {len(plan)} samples ({splits}) in {len(draft.names)} shards")
    partial = spec.benchmark.partial(plan.counts())
    if partial:
        say(f"only a part of {spec.benchmark.title} is here: {'; '.join(partial)}; scores on it are its own")
    return draft


@task(cache_policy=NO_CACHE)
def seal_samples(draft: Prepared) -> Corpus:
    """Write the manifest once every planned sample is a row or a reject."""
    spec = draft.spec
    corpus = Corpus(
        root=draft.root,
        name=spec.name,
        version=spec.version,
        fingerprint=spec.fingerprint,
        spec=json.loads(spec.model_dump_json()),
        records=tuple(draft.whole[name] for name in draft.names),
        plan=prepare.told(draft.plan, spec),
        created_by=created_by(),
        classes={spec.benchmark.label: spec.benchmark.classes},
    )
    if corpus.planned != len(draft.plan):
        raise RuntimeError(
            f"corpus {draft.artifact.address} has {len(draft.plan)} planned samples, but {corpus.planned} are accounted "
            "for; some were lost, so it is not sealed"
        )
    return write_manifest(corpus)
