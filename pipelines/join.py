"""Flow: one corpus of several sealed ones, without a pixel decoded.

What training reads as one stream is one corpus; archives are curated each by its own spec. Shards are linked, not
copied, where the file system allows it, so this takes seconds; whether the corpora agree is asked before anything is
made.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from geodata import joining
from geodata.files import write_atomic
from geodata.joining import JoinSpec
from geodata.manifest import Corpus, open_corpus
from geodata.manifest import seal as write_manifest
from pipelines import artifacts, card, tracking
from pipelines.artifacts import Artifact
from pipelines.corpora import sealed
from pipelines.progress import say
from pipelines.settings import Home, environment
from pipelines.stages import publish, told

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
    return _artifact(_spec(name, corpora, version), home)


def joined(spec: JoinSpec, home: Home, *, reuse: bool = False) -> Artifact:
    """The stages, to be called in a flow. Raises DataError or OSError naming what failed, ValueError for the request."""
    artifact = _artifact(spec, home)
    if sealed(artifact, reuse=reuse) is not None:
        say(f"corpus {artifact.address} is sealed; nothing to do")
        return artifact
    joining.agreed([part.open() for part in spec.parts])  # before the name is taken
    artifacts.claim(artifact)
    began = time.monotonic()
    tags = {"config.digest": spec.fingerprint, "data.manifest": str(artifact.path / "manifest.json")}
    with tracking.tracked(home, "join", artifact.address, tags) as run:
        run.parameters(json.loads(spec.model_dump_json()))
        corpus = link_shards(artifact, spec)
        seconds = time.monotonic() - began
        run.metrics(len(corpus.records), {"accepted": corpus.rows, "bytes": corpus.bytes, "seconds": seconds})
        stage = {"name": "join", "seconds": seconds, "state": "sealed", "mlflow_run": run.run_id}
        artifacts.save_stage(
            artifact, stage | {"prefect_run": tracking.prefect_run().get("prefect.flow_run_id")}
        )
    card.write(corpus.root)
    publish(corpus, run.run_id)
    artifacts.seal(artifact)
    say(f"corpus {artifact.address}: {told(corpus)} in {artifact.path}")
    return artifact


@task(cache_policy=NO_CACHE)
def link_shards(artifact: Artifact, spec: JoinSpec) -> Corpus:
    """Every shard of every part, and the manifest, last."""
    root = artifact.path
    write_atomic(root / "spec.json", spec.model_dump_json(indent=1).encode())
    write_atomic(root / "environment.json", json.dumps(artifacts.provenance(), indent=1).encode())
    return write_manifest(joining.joined(spec, root))


def _spec(name: str, corpora: Sequence[str], version: str) -> JoinSpec:
    return joining.load(name, [open_corpus(path) for path in corpora], version)


def _artifact(spec: JoinSpec, home: Home) -> Artifact:
    place = home.place("corpus", spec.name, spec.version)
    parents = tuple(f"corpus:{part.corpus}#{part.fingerprint}" for part in spec.parts)
    return Artifact(spec.name, spec.version, "corpus", place, spec.fingerprint, parents)
