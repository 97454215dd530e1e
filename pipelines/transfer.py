"""Flow: scores, from encoders and a fine-tuning recipe.

Every arm (an encoder, or `random`: the same one from chance) is trained with every seed and scored on held-out
ground, many small runs side by side on Ray. A run that is finished is not repeated, so a transfer that was killed
goes on. What is reported is the mean and the spread over seeds, never the best.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact

from geodata.files import write_atomic
from geodata.manifest import open_corpus
from pipelines import artifacts, tracking
from pipelines.artifacts import Artifact
from pipelines.progress import bar, say
from pipelines.settings import Home, environment, local_ray
from training import recipe as recipes

__all__ = ["RANDOM", "Trial", "Trials", "comparison", "read_scores", "table", "transfer", "transferred"]

RANDOM = "random"
SPLITS = ("val", "test")
REPORTED = "test"


@dataclass(frozen=True)
class Trial:
    """One run of a transfer: where its encoder starts (`arm`), its seed, its recipe and its folder."""

    arm: str
    seed: int
    recipe: recipes.Recipe
    folder: Path

    @property
    def scored(self) -> bool:
        """Whether nothing is left to do."""
        return (self.folder / "scores.json").is_file()


@dataclass(frozen=True)
class Trials:
    """A transfer, resolved: its runs and the artifact they make together."""

    trials: tuple[Trial, ...]
    artifact: Artifact


def comparison(
    name: str,
    encoders: Sequence[str],
    home: Home,
    *,
    overrides: Sequence[str] = (),
    seeds: int = 3,
    corpus: str | None = None,
    version: str = "1",
    label: str | None = None,
) -> Trials:
    """Resolve a transfer: recipe NAME from each encoder (`name@version`, a folder, or `random`) with seeds 0 to n - 1.

    Raises ValueError for anything that is not there, before anything starts.
    """
    if seeds < 1 or not encoders:
        raise ValueError(
            f"a transfer needs an encoder and a seed, not {len(encoders)} and {seeds}; name `random` at least"
        )
    first = recipes.load(name, overrides)
    streams = [
        f"streams.{stream}.corpus={_corpus(corpus or spec.corpus, home)}"
        for stream, spec in first.streams.items()
    ]
    base = recipes.load(name, [*overrides, *streams])
    sources = {encoder: _encoder(encoder, home) for encoder in dict.fromkeys(encoders)}
    read = [open_corpus(folder) for folder in sorted({stream.corpus for stream in base.streams.values()})]
    parents = [f"corpus:{made.name}@{made.version}#{made.fingerprint}" for made in read]
    parents += [source.parent for source in sources.values() if isinstance(source, Artifact)]
    title = label or (Path(name).stem if name.endswith((".json", ".yaml", ".yml")) else name)
    fingerprint = artifacts.digest(base.digest, seeds, list(sources), sorted(parents))
    place = home.place("transfer", title, version)
    trials = []
    for encoder, source in sources.items():
        init = _init(encoder, source)
        for seed in range(seeds):
            chosen = [*overrides, *streams, *([f"method.init={init}"] if init else []), f"seed={seed}"]
            folder = place / "runs" / f"{artifacts.slug(encoder)}-seed{seed}"
            trials.append(Trial(_arm(encoder), seed, recipes.load(name, chosen), folder))
    made = Artifact(title, version, "transfer", place, fingerprint, tuple(sorted(parents)))
    return Trials(tuple(trials), made)


def _corpus(text: str, home: Home) -> Path:
    if Path(text).exists():
        return open_corpus(text).root
    return artifacts.resolve(home, Path(text).name, "corpus").path


def _encoder(text: str, home: Home) -> Artifact | Path | None:
    if text == RANDOM:
        return None
    folder = Path(text).resolve()
    return folder if (folder / "config.json").is_file() else artifacts.resolve(home, text, "encoder")


def _init(text: str, source: Artifact | Path | None) -> Path | None:
    return source.path / "encoder" if isinstance(source, Artifact) else source


def _arm(encoder: str) -> str:
    return (
        RANDOM
        if encoder == RANDOM
        else f"pretrained ({encoder if '/' not in encoder else Path(encoder).name})"
    )


@flow(name="transfer", validate_parameters=False)
def transfer(
    name: str,
    encoders: Sequence[str] = (RANDOM,),
    overrides: Sequence[str] = (),
    root: str = "runs",
    corpus: str | None = None,
    seeds: int = 3,
    version: str = "1",
    gpu: bool = False,
    reuse: bool = False,
) -> str:
    """Train and score recipe NAME from each encoder, or find the scores sealed and do nothing; `name@version`."""
    home = Home.at(root)
    environment(home)
    wanted = comparison(
        name, encoders, home, overrides=overrides, seeds=seeds, corpus=corpus, version=version
    )
    return transferred(wanted, home, gpu=gpu, reuse=reuse).address


def transferred(wanted: Trials, home: Home, *, gpu: bool = False, reuse: bool = False) -> Artifact:
    """The stages of a transfer, to be called in a flow."""
    made = artifacts.standing(wanted.artifact, reuse=reuse)
    if made is not None:
        say(f"transfer {made.address} is sealed; nothing to do")
        return made
    artifacts.claim(wanted.artifact)
    began = time.monotonic()
    folder = wanted.artifact.path
    write_atomic(folder / "environment.json", json.dumps(artifacts.provenance(), indent=1).encode())
    tags = {"config.digest": wanted.artifact.fingerprint, "data.manifest": ", ".join(wanted.artifact.parents)}
    with tracking.tracked(home, "transfer", wanted.artifact.address, tags) as run:
        run_trials(wanted.trials, home, gpu)
        scores = summary(wanted.trials)
        write_atomic(folder / "scores.json", json.dumps(scores, indent=1).encode())
        for arm, values in scores.items():
            run.metrics(0, {f"{artifacts.slug(arm)}/{name}": value["mean"] for name, value in values.items()})
    seconds = time.monotonic() - began
    stage = {"name": "transfer", "seconds": seconds, "state": "sealed", "mlflow_run": run.run_id}
    artifacts.save_stage(
        wanted.artifact, stage | {"prefect_run": tracking.prefect_run().get("prefect.flow_run_id")}
    )
    publish(wanted.artifact, scores)
    return artifacts.seal(wanted.artifact)


@task
def run_trials(trials: Sequence[Trial], home: Home, gpu: bool) -> None:
    """Train and score what has no scores yet, in parallel; every run is tracked under its own name."""
    from training import worker

    todo = [trial for trial in trials if not trial.scored]
    if not todo:
        return
    steps = sum(trial.recipe.steps for trial in todo)
    with ExitStack() as open_now:
        line = open_now.enter_context(bar("transfer", steps, "steps"))
        reached: dict[Path, int] = {}
        for trial in todo:
            title = f"{trial.recipe.name} {trial.arm} seed {trial.seed}"
            tags = {"config.digest": trial.recipe.digest, "arm": trial.arm}
            run = open_now.enter_context(tracking.tracked(home, "transfer", title, tags))
            tail = open_now.enter_context(tracking.Tail(trial.folder / "metrics.jsonl", run))
            tail.tell = _counter(trial.folder, reached, line.at)
        open_now.enter_context(local_ray())
        jobs = [worker.Job(trial.recipe, trial.folder, SPLITS) for trial in todo]
        for trial, outcome in zip(todo, worker.run_many(jobs, use_gpu=gpu), strict=True):
            scores = {split: dict(values) for split, values in outcome.scores.items()}
            row = {
                "arm": trial.arm,
                "seed": trial.seed,
                "split": REPORTED,
                "scores": scores[REPORTED],
                "val": scores["val"],
            }
            write_atomic(trial.folder / "scores.json", json.dumps(row, indent=1).encode())


def _counter(folder: Path, reached: dict[Path, int], tell: Any) -> Any:
    def told(row: Mapping[str, Any]) -> None:
        reached[folder] = int(row["step"])
        tell(sum(reached.values()), f"{len(reached)} runs begun")

    return told


def summary(trials: Iterable[Trial]) -> dict[str, dict[str, Any]]:
    """arm -> score -> mean, spread (standard deviation over seeds, n - 1) and values; nan is a score that is not."""
    found: dict[str, list[dict[str, float]]] = {}
    for trial in trials:
        found.setdefault(trial.arm, []).append(
            json.loads((trial.folder / "scores.json").read_bytes())["scores"]
        )
    return {
        arm: {name: _spread([run[name] for run in runs]) for name in runs[0]} for arm, runs in found.items()
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    known = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return {
        "mean": statistics.fmean(known) if known else None,
        "spread": statistics.stdev(known) if len(known) > 1 else None,
        "values": list(values),
    }


def read_scores(made: Artifact) -> dict[str, dict[str, Any]]:
    """The scores of a sealed transfer."""
    scores: dict[str, dict[str, Any]] = json.loads((made.path / "scores.json").read_bytes())
    return scores


def table(scores: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """One row an arm: headline scores as `mean ± spread`, without those of single classes."""
    names = [name for name in next(iter(scores.values()), {}) if "/" not in name]
    return [{"from": arm, **{name: _said(values[name]) for name in names}} for arm, values in scores.items()]


def _said(score: Mapping[str, Any]) -> str:
    if score["mean"] is None:
        return "-"
    return f"{score['mean']:.4f}" + (f" ± {score['spread']:.4f}" if score["spread"] is not None else "")


def publish(made: Artifact, scores: Mapping[str, Mapping[str, Any]]) -> None:
    """The scores as a Prefect table."""
    create_table_artifact(
        key=artifacts.slug("transfer", made.name, made.version),
        table=table(scores),
        description=f"Scores on split `{REPORTED}`, mean ± standard deviation over seeds; `{made.path / 'scores.json'}`",
    )
