"""Flow: a study from ground to page: curate, pretrain, transfer, report.

One flow run holds all stages, so one Prefect serves them all. Each stage is skipped when its artifact is sealed; when
all of them are, neither Prefect nor Ray is started and the scores are shown again. `smoke` is the offline one on an
invented Earth; `demo` is the same story on real Sentinel-2.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow, task

from geodata import pictures
from geodata.files import write_atomic
from geodata.provenance import provenance
from geodata.source import Address
from pipelines import artifacts, corpora, curate, fetch, pretrain, report, tracking, transfer
from pipelines import trials as scoring
from pipelines.artifacts import Artifact
from pipelines.progress import say
from pipelines.settings import Home, environment, local_ray

if TYPE_CHECKING:
    from training.looks import Kind

__all__ = ["Plot", "demo", "finished", "smoke", "studies", "study"]


PICTURES = 4  # of each kind


@dataclass(frozen=True)
class Plot:
    """What a study does, as names: a corpus, a pretraining recipe, a transfer recipe, seeds and what to report."""

    name: str
    title: str
    corpus: str
    pretrain: str
    transfer: str
    task: str
    metric: str = "mean_iou"
    seeds: int = 3
    version: str = "1"
    pictures: tuple[Kind, ...] = ("reconstruction",)  # of the encoder, once it is pretrained
    licences: tuple[dict[str, str], ...] = ()


def demo() -> Plot:
    """Real Sentinel-2 west of Berlin: a small masked autoencoder, then OpenStreetMap land use."""
    return Plot(
        name="demo",
        title="Real Sentinel-2 west of Berlin",
        corpus="demo",
        pretrain="mae.demo",
        transfer="finetune.segment_demo",
        task="land use",
        pictures=("reconstruction", "attention", "features"),
        licences=fetch.LICENCES,
    )


def smoke() -> Plot:
    """An invented Earth, offline: every part of the story, in minutes on two cores."""
    return Plot(
        name="smoke",
        title="An invented Earth",
        corpus="smoke",
        pretrain="mae.smoke",
        transfer="finetune.segment_smoke",
        task="land cover",
        pictures=("reconstruction", "attention", "features", "stages"),
    )


def studies() -> dict[str, Plot]:
    """The studies by name."""
    return {plot.name: plot for plot in (demo(), smoke())}


def named(name: str) -> Plot:
    """A study by name. Raises ValueError, listing those there are."""
    known = studies()
    if name not in known:
        raise ValueError(f"no study is called {name!r}; there are {', '.join(known)}")
    return known[name]


def finished(plot: Plot, home: Home) -> tuple[Artifact, Artifact] | None:
    """The study and its scores when every stage is sealed under the settings of today; reads a few small files."""
    corpus = corpora.wanted(corpora.spec_of(plot.corpus), home)
    if corpora.sealed(corpus) is None:
        return None
    encoder = pretrain.request(plot.pretrain, (), home, corpus=corpus.address).artifact
    if artifacts.standing(encoder) is None:
        return None
    trials = scoring.comparison(
        plot.transfer, _encoders(encoder), home, seeds=plot.seeds, corpus=corpus.address
    )
    scores = artifacts.standing(trials.artifact)
    if scores is None:
        return None
    made = artifacts.standing(_artifact(plot, home, scores))
    return (made, scores) if made is not None and (made.path / "report.html").is_file() else None


def _artifact(plot: Plot, home: Home, scores: Artifact) -> Artifact:
    place = home.place("study", plot.name, plot.version)
    fingerprint = artifacts.digest(plot.name, scores.fingerprint)
    return Artifact(plot.name, plot.version, "study", place, fingerprint, (scores.parent,))


def _encoders(encoder: Artifact) -> tuple[str, str]:
    return encoder.address, scoring.RANDOM


@flow(name="study", validate_parameters=False)
def study(name: str, root: str = "runs", workers: int | None = None) -> str:
    """Run the study NAME, each stage only where its artifact is not sealed; the path of the report."""
    home = Home.at(root)
    environment(home)
    plot = named(name)
    began = time.monotonic()
    spec = corpora.spec_of(plot.corpus)
    with local_ray(cpus=workers, dashboard=True):  # one for all stages
        corpus = curate.curated(spec, home)
        wanted = pretrain.request(plot.pretrain, (), home, corpus=corpus.address)
        encoder = pretrain.pretrained(wanted, home, kinds=plot.pictures)
        starts = _encoders(encoder)
        trials = scoring.comparison(plot.transfer, starts, home, seeds=plot.seeds, corpus=corpus.address)
        scores = transfer.transferred(trials, home)
    made = _artifact(plot, home, scores)
    first = tuple(trial.folder for trial in trials.trials if trial.seed == 0)
    draw(first, spec.landcover)
    write_study(plot, made, [corpus, encoder, scores], trials.trials, time.monotonic() - began)
    path = write_report(made)
    artifacts.seal(made)
    return str(path)


@task
def draw(runs: Sequence[Path], landcover: Address) -> None:
    """Pictures of what the heads predict, once; those of the encoder came with it."""
    from training import evaluate, known
    from training import pictures as learned

    colours = pictures.named_colours(landcover.open().classes)
    for run in runs:
        if not (run / "pictures" / "index.json").exists():
            settings, method = evaluate.restore(run)
            folder = run / "pictures"
            drawn = [
                learned.predictions(method, one, folder, colours=colours)
                for stream in settings.streams.values()
                for one in known.examples(stream, "test", PICTURES)
            ]
            _index([path for paths in drawn for path in paths], "prediction", "image, truth, prediction")


def _index(paths: Sequence[Path], kind: str, caption: str) -> None:
    entries = [
        {"file": path.name, "kind": kind, "alt": f"{kind} of {path.stem}", "caption": caption}
        for path in paths
    ]
    if paths:
        write_atomic(paths[0].parent / "index.json", json.dumps(entries, indent=1).encode())


@task
def write_study(
    plot: Plot, made: Artifact, parts: Sequence[Artifact], trials: Sequence[scoring.Trial], seconds: float
) -> None:
    """study.json: the folders a report is made of, relative to the study's own, and how they came to be."""
    corpus, encoder = parts[:2]
    stages = [artifacts.read_stage(part) for part in parts]
    run = tracking.prefect_run().get("prefect.flow_run_id")
    stages.append({"name": "study", "seconds": seconds, "state": "sealed", "prefect_run": run})
    values = {
        "name": made.address,
        "title": plot.title,
        "created": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "task": plot.task,
        "metric": plot.metric,
        "corpus": _relative(corpus.path, made.path),
        "pretraining": [
            {"run": _relative(encoder.path, made.path), "arm": "pretraining", "name": encoder.address}
        ],
        "transfers": [
            {"run": _relative(t.folder, made.path), "arm": t.arm, "seed": t.seed, "setting": "fine-tuned"}
            for t in trials
        ],
        "scores": [_relative(parts[2].path / "scores.json", made.path)],
        "artifacts": [
            {"kind": part.kind, "name": part.address, "fingerprint": part.fingerprint} for part in parts
        ],
        "licences": list(plot.licences),
        "commands": [f"swath study {plot.name}"],
        "stages": [stage for stage in stages if stage],
    }
    write_atomic(made.path / "environment.json", json.dumps(provenance(), indent=1).encode())
    write_atomic(made.path / "study.json", json.dumps(values, indent=1).encode())


def _relative(path: Path, start: Path) -> str:
    return os.path.relpath(path, start)


@task
def write_report(made: Artifact) -> Path:
    """report.html of a study whose study.json is written."""
    path = report.write(made.path)
    say(f"report: {path}")
    return path
