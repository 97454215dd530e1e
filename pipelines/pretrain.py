"""Flow: an encoder, from a recipe and sealed corpora.

The work is one command line, `python -m training pretrain NAME key=value ... --run-dir FOLDER`. Here it runs in Ray
Train workers of a Ray of our own; with an address it is submitted as a Ray job under the artifact's name, followed,
and stopped when the follower is. Either way the run's folder is the record: the tracker and the report read it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow, runtime, task
from prefect.artifacts import create_table_artifact

from geodata import pictures
from geodata.build import opened_landcover
from geodata.errors import DataError
from geodata.manifest import Corpus, open_corpus
from geodata.source import Address
from pipelines import artifacts, jobs, tracking
from pipelines.artifacts import Artifact
from pipelines.progress import bar, say
from pipelines.settings import Home, environment, local_ray
from training import recipe as recipes

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun
    from prefect.flows import Flow
    from prefect.states import State

    from training.looks import Kind

__all__ = ["Request", "pretrain", "pretrained", "request"]


@dataclass(frozen=True)
class Request:
    """A run, resolved: the recipe with the corpora it will read, the overrides that say so, and the artifact it makes."""

    recipe: recipes.Recipe
    name: str
    overrides: tuple[str, ...]
    artifact: Artifact

    @property
    def encoder(self) -> Path:
        """The folder of the exported encoder."""
        return self.artifact.path / "encoder"


def request(
    name: str,
    overrides: Sequence[str],
    home: Home,
    *,
    corpus: str | None = None,
    version: str = "1",
) -> Request:
    """Resolve a recipe and its corpora. Raises ValueError for a bad name, setting or corpus before anything starts.

    `corpus` (name@version, or a folder) takes the place of every stream's; otherwise each stream keeps its own,
    looked for by name under this home.
    """
    first = recipes.load(name, overrides)
    found = {stream: _corpus(corpus or spec.corpus, home) for stream, spec in first.streams.items()}
    resolved = (*overrides, *(f"streams.{stream}.corpus={made.root}" for stream, made in found.items()))
    recipe = recipes.load(name, resolved)
    parents = tuple(
        sorted({f"corpus:{made.name}@{made.version}#{made.fingerprint}" for made in found.values()})
    )
    label = Path(name).stem if name.endswith((".json", ".yaml", ".yml")) else name
    fingerprint = artifacts.digest(recipe.digest, parents)
    place = home.place("encoder", label, version)
    return Request(recipe, name, resolved, Artifact(label, version, "encoder", place, fingerprint, parents))


def _corpus(text: str, home: Home) -> Corpus:
    """A sealed corpus by folder, manifest or name@version."""
    if Path(text).exists():
        return open_corpus(Path(text))
    name = Path(text).name
    return open_corpus(artifacts.resolve(home, name, "corpus").path)


def _stop_what_it_left(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """The net below `jobs.follow`: a run that was cancelled or crashed leaves no job behind."""
    address = (flow_run.parameters or {}).get("submit")
    if address:
        jobs.stop_jobs_of(str(address), str(flow_run.id))


@flow(
    name="pretrain",
    validate_parameters=False,
    on_cancellation=[_stop_what_it_left],
    on_crashed=[_stop_what_it_left],
    on_failure=[_stop_what_it_left],
)
def pretrain(
    name: str,
    overrides: Sequence[str] = (),
    root: str = "runs",
    corpus: str | None = None,
    version: str = "1",
    workers: int = 1,
    gpu: bool = False,
    submit: str | None = None,
    reuse: bool = False,
) -> str:
    """Pretrain recipe NAME with overrides, or find its encoder sealed and do nothing; the encoder's `name@version`."""
    home = Home.at(root)
    environment(home)
    wanted = request(name, overrides, home, corpus=corpus, version=version)
    return pretrained(wanted, home, workers=workers, gpu=gpu, submit=submit, reuse=reuse).address


def pretrained(
    wanted: Request,
    home: Home,
    *,
    workers: int = 1,
    gpu: bool = False,
    submit: str | None = None,
    reuse: bool = False,
    kinds: Sequence[Kind] | None = None,
) -> Artifact:
    """The stages of a pretraining, to be called in a flow: train here or as a job, draw for the report, seal and publish.

    Of `kinds` of pictures all are drawn that cost little, unless told otherwise; none after a job, for this machine may
    be too small for what the cluster has made.
    """
    made = artifacts.standing(wanted.artifact, reuse=reuse)
    if made is not None:
        say(f"encoder {made.address} is sealed; nothing to do")
        return made
    artifacts.claim(wanted.artifact)
    began = time.monotonic()
    folder = wanted.artifact.path
    tags = {"config.digest": wanted.recipe.digest, "data.manifest": ", ".join(_manifests(wanted.recipe))}
    with tracking.tracked(home, "pretrain", wanted.artifact.address, tags) as run:
        run.parameters(json.loads(wanted.recipe.dump()))
        with (
            tracking.Tail(folder / "metrics.jsonl", run) as tail,
            bar("pretrain", wanted.recipe.steps, "steps") as line,
        ):
            tail.tell = lambda row: line.at(row["step"], _losses(row))
            if submit:
                submitted(wanted, submit, workers, gpu)
            else:
                trained(wanted, workers, gpu)
        seconds = time.monotonic() - began
        stage = {"name": "pretrain", "seconds": seconds, "state": "sealed", "mlflow_run": run.run_id}
        artifacts.save_stage(
            wanted.artifact, stage | {"prefect_run": tracking.prefect_run().get("prefect.flow_run_id")}
        )
    _check_encoder(wanted)
    if not submit:
        draw(wanted, kinds, gpu)
    publish(wanted, tail.last, run.run_id)
    made = artifacts.seal(wanted.artifact)
    say(f"encoder {made.address}: {_losses(tail.last)} in {wanted.encoder}")
    return made


@task
def trained(wanted: Request, workers: int, gpu: bool) -> None:
    """Train in Ray Train workers, here or on the cluster of RAY_ADDRESS. Goes on from the last checkpoint."""
    from training import worker

    with local_ray(dashboard=True):
        worker.fit(wanted.recipe, wanted.artifact.path, workers=workers, use_gpu=gpu)


@task
def submitted(wanted: Request, address: str, workers: int, gpu: bool) -> None:
    """Train as a Ray job: submitted under the artifact's name, or attached to, followed and stopped with us."""
    artifact = wanted.artifact
    options: dict[str, object] = {"run-dir": artifact.path, "workers": workers}
    command = jobs.training_command("pretrain", wanted.name, wanted.overrides, options)
    flow_run = str(runtime.flow_run.id or "")
    variables = {"SWATH_FLOW_RUN_ID": flow_run, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
    job = jobs.Submission(
        key=f"{artifact.kind}-{artifact.name}-{artifact.version}-{artifact.fingerprint[:12]}",
        command=(*command, "--gpu") if gpu else command,
        variables=tuple(variables.items()),
        metadata=((jobs.FLOW_RUN, flow_run), ("artifact", artifact.parent)),
    )
    jobs.follow(job, address, say=say)


@task
def draw(wanted: Request, kinds: Sequence[Kind] | None, gpu: bool) -> None:
    """What the encoder knows, as pictures and numbers beside the run."""
    from training import looks

    device = "cuda" if gpu else "cpu"
    looks.draw(wanted.artifact.path, looks.KINDS if kinds is None else kinds, _colours(wanted.recipe), device)


def _colours(recipe: recipes.Recipe) -> dict[str, tuple[int, int, int]]:
    """The colours of the classes of the corpora's land cover, where its map still opens here."""
    found: dict[str, tuple[int, int, int]] = {}
    for corpus in (open_corpus(stream.corpus) for stream in recipe.streams.values()):
        try:
            landcover = opened_landcover(Address.model_validate(corpus.spec.get("landcover")))
            found |= pictures.named_colours(landcover.classes)
        except (ValueError, DataError):  # of another machine, or of no map
            continue
    return found


def _check_encoder(wanted: Request) -> None:
    if not (wanted.encoder / "config.json").is_file():
        raise RuntimeError(
            f"the run ended, but no encoder is in {wanted.encoder}; with --submit, --root must be a folder that this "
            "machine and the cluster both see"
        )


def publish(wanted: Request, last: Mapping[str, Any], mlflow_run: str | None) -> None:
    """The run's last numbers as a Prefect table."""
    rows = [
        {"quantity": key, "value": f"{value:.6g}" if isinstance(value, float) else str(value)}
        for key, value in last.items()
    ]
    create_table_artifact(
        key=artifacts.slug("encoder", wanted.artifact.name, wanted.artifact.version),
        table=rows or [{"quantity": "steps", "value": str(wanted.recipe.steps)}],
        description=f"Encoder `{wanted.encoder}`, fingerprint `{wanted.artifact.fingerprint[:12]}`, "
        f"MLflow run `{mlflow_run or 'none'}`",
    )


def _manifests(recipe: recipes.Recipe) -> list[str]:
    return sorted({os.path.join(stream.corpus, "manifest.json") for stream in recipe.streams.values()})


def _losses(row: Mapping[str, Any]) -> str:
    rate = row.get("samples_per_second")
    parts = [f"loss {row['loss']:.4g}"] if isinstance(row.get("loss"), float) else []
    return ", ".join(parts + ([f"{rate:.0f} samples/s"] if isinstance(rate, int | float) else []))
