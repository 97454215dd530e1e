"""Flow: one corpus of several sealed ones, without a pixel decoded.

What training reads as one stream is one corpus; archives are curated each by its own spec. Shards are linked, not
copied, where the file system allows it, so this takes seconds; whether the corpora agree is asked before anything is
made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from geodata import joining
from geodata.files import write_atomic
from geodata.joining import JoinSpec
from geodata.manifest import Corpus, open_corpus
from geodata.manifest import seal as write_manifest
from geodata.provenance import provenance
from pipelines import card, stages
from pipelines.artifacts import Artifact
from pipelines.corpora import sealed
from pipelines.settings import Home, environment

__all__ = ["join", "joined", "wanted"]


@flow(name="join", validate_parameters=False)
def join(
    name: str, corpora: Sequence[str], root: str = "runs", version: str = "1", reuse: bool = False
) -> str:
    """Join sealed corpora, given by their folders, under NAME, or find it sealed and do nothing; its `name@version`."""
    home = Home.at(root)
    environment(home)
    return joined(_spec(name, corpora, version), home, reuse=reuse).address


def wanted(name: str, corpora: Sequence[str], home: Home, version: str = "1") -> Artifact:
    """The artifact that a join makes, whether or not it exists."""
    return stages.wanted(_spec(name, corpora, version), home)


def joined(spec: JoinSpec, home: Home, *, reuse: bool = False) -> Artifact:
    """The stages, to be called in a flow. Raises DataError or OSError naming what failed, ValueError for the request."""
    if sealed(stages.wanted(spec, home), reuse=reuse) is None:
        joining.agreed([part.open() for part in spec.parts])  # before the name is taken
    return stages.made("join", spec, home, lambda artifact: link_shards(artifact, spec), reuse=reuse)


@task(cache_policy=NO_CACHE)
def link_shards(artifact: Artifact, spec: JoinSpec) -> Corpus:
    """Every shard of every part, the manifest, and the card, which reads it."""
    root = artifact.path
    write_atomic(root / "spec.json", spec.model_dump_json(indent=1).encode())
    write_atomic(root / "environment.json", json.dumps(provenance(), indent=1).encode())
    corpus = write_manifest(joining.joined(spec, root))
    card.write(root)
    return corpus


def _spec(name: str, corpora: Sequence[str], version: str) -> JoinSpec:
    return joining.load(name, [open_corpus(path) for path in corpora], version)
