"""Flow: a folder or zip of pictures, taken in as a corpus.

The stages of a curation without its searching: list what is there, read and check it in parallel, drop what is there
twice, seal. A restart goes on where it was interrupted; what is sealed is not made again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from geodata import folders
from geodata.build import created_by
from geodata.files import write_atomic
from geodata.folders import FILE, FolderPlan, FolderSpec
from geodata.manifest import Corpus
from geodata.manifest import seal as write_manifest
from geodata.provenance import provenance
from pipelines.artifacts import Artifact
from pipelines.draft import FolderOrder, Pictures
from pipelines.progress import say
from pipelines.settings import Home, environment
from pipelines.stages import build_missing, drop_duplicates, made, wanted

__all__ = ["imported", "place", "take_in", "wanted"]


@flow(name="import", validate_parameters=False)
def take_in(
    name: str,
    overrides: Sequence[str] = (),
    root: str = "runs",
    workers: int | None = None,
    reuse: bool = False,
) -> str:
    """Take in the pictures that NAME (a spec file, or a name with `root=` and more among the overrides) describes."""
    home = Home.at(root)
    environment(home)
    return imported(folders.load(name, overrides), home, workers=workers, reuse=reuse).address


def place(text: str | None) -> tuple[str, ...]:
    """A folder or zip given on the command line as the override it is; an override given in its place stays one."""
    if text is None:
        return ()
    path = Path(text).expanduser()
    return (text,) if "=" in text and not path.exists() else (f"root={path.resolve()}",)


def imported(spec: FolderSpec, home: Home, *, workers: int | None = None, reuse: bool = False) -> Artifact:
    """The stages, to be called in a flow. Raises DataError or OSError naming what failed, ValueError for the request."""

    def build(artifact: Artifact) -> Corpus:
        draft = list_pictures(artifact, spec)
        build_missing(draft, workers)
        drop_duplicates(draft)
        return seal_pictures(draft)

    return made("import", spec, home, build, reuse=reuse)


@task(cache_policy=NO_CACHE)
def list_pictures(artifact: Artifact, spec: FolderSpec) -> Pictures:
    """The plan of a begun import, or a new one, kept before anything is read."""
    root = artifact.path
    fresh = not (root / FILE).exists()
    plan = folders.plan(spec) if fresh else FolderPlan.read(root)
    draft = Pictures(artifact, FolderOrder(spec, root, plan.classes), plan)
    if fresh:
        write_atomic(root / "spec.json", spec.model_dump_json(indent=1).encode())
        write_atomic(root / "environment.json", json.dumps(provenance(), indent=1).encode())
        plan.write(root)
        say(
            f"plan: {len(plan)} pictures of {len(plan.classes.get('class', ()))} classes in {len(draft.names)} shards"
        )
    return draft


@task(cache_policy=NO_CACHE)
def seal_pictures(draft: Pictures) -> Corpus:
    """Write the manifest once every planned picture is a row or a reject."""
    corpus = Corpus(
        root=draft.root,
        name=draft.spec.name,
        version=draft.spec.version,
        fingerprint=draft.spec.fingerprint,
        spec=json.loads(draft.spec.model_dump_json()),
        records=tuple(draft.whole[name] for name in draft.names),
        plan=draft.plan.summary(),
        created_by=created_by(),
        classes=draft.plan.classes,
    )
    if corpus.planned != len(draft.plan):
        raise RuntimeError(
            f"corpus {draft.artifact.address} has {len(draft.plan)} planned pictures, but {corpus.planned} are accounted "
            "for; some were lost, so it is not sealed"
        )
    return write_manifest(corpus)
