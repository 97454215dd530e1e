"""Flow: scores, from encoders and a protocol.

A protocol is a recipe of fine-tuning: a paper's way with a benchmark (`training/protocols`), or any other recipe of
`finetune`. Every start (an encoder, or `random`: the same network from chance) is trained with every seed on every
share of the labels, many small runs side by side on Ray, and scored on samples never trained on, with baselines that
need no encoder beside them. A run that is finished is not repeated, so a transfer that was killed goes on. What is
reported is the mean and the spread over seeds, never the best.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact

from geodata import benchmarks
from geodata.files import write_atomic
from geodata.manifest import Corpus, open_corpus
from geodata.provenance import provenance
from pipelines import artifacts, tracking
from pipelines.artifacts import Artifact
from pipelines.progress import bar, say
from pipelines.scoreboard import headline, spread
from pipelines.settings import Home, environment, local_ray
from pipelines.trials import RANDOM, Trial, Trials, comparison

__all__ = ["cells", "read_scores", "summary", "table", "transfer", "transferred"]

SPLITS = ("val", "test")


@flow(name="transfer", validate_parameters=False)
def transfer(
    name: str,
    encoders: Sequence[str] = (RANDOM,),
    overrides: Sequence[str] = (),
    root: str = "runs",
    corpus: str | None = None,
    seeds: int | None = None,
    version: str = "1",
    labels: Sequence[float] = (1.0,),
    gpu: bool = False,
    reuse: bool = False,
) -> str:
    """Train and score recipe NAME from each encoder, or find the scores sealed and do nothing; `name@version`."""
    home = Home.at(root)
    environment(home)
    wanted = comparison(
        name, encoders, home, overrides=overrides, seeds=seeds, corpus=corpus, version=version, labels=labels
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
    write_atomic(folder / "environment.json", json.dumps(provenance(), indent=1).encode())
    tags = {"config.digest": wanted.artifact.fingerprint, "data.manifest": ", ".join(wanted.artifact.parents)}
    with tracking.tracked(home, "transfer", wanted.artifact.address, tags) as run:
        run_trials(wanted, home, gpu)
        compare_without(wanted)
        scores = summary(wanted)
        write_atomic(folder / "scores.json", json.dumps(scores, indent=1).encode())
        run.metrics(0, dict(_tracked(scores["cells"])))
    seconds = time.monotonic() - began
    stage = {"name": "transfer", "seconds": seconds, "state": "sealed", "mlflow_run": run.run_id}
    artifacts.save_stage(
        wanted.artifact, stage | {"prefect_run": tracking.prefect_run().get("prefect.flow_run_id")}
    )
    publish(wanted.artifact, scores)
    return artifacts.seal(wanted.artifact)


def _tracked(cells: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    for cell in cells:
        part = "" if cell["share"] == 1 else f"-labels{cell['share']:g}"
        for name, value in cell["scores"].items():
            if value["mean"] is not None:
                yield f"{artifacts.slug(cell['arm'])}{part}/{name}", value["mean"]


@task
def run_trials(wanted: Trials, home: Home, gpu: bool) -> None:
    """Train and score what has no scores yet, in parallel; every run is tracked under its own name.

    As soon as a run is through its scores are written, and with them the means of those that are.
    """
    from training import worker

    todo = [trial for trial in wanted.trials if not trial.scored]
    if not todo:
        return
    steps = sum(trial.recipe.steps for trial in todo)
    with ExitStack() as open_now:
        line = open_now.enter_context(bar("transfer", steps, "steps"))
        reached: dict[Path, int] = {}
        for trial in todo:
            title = f"{trial.recipe.name} {trial.arm} labels {trial.share:g} seed {trial.seed}"
            tags = {"config.digest": trial.recipe.digest, "arm": trial.arm}
            run = open_now.enter_context(tracking.tracked(home, "transfer", title, tags))
            tail = open_now.enter_context(tracking.Tail(trial.folder / "metrics.jsonl", run))
            tail.tell = _counter(trial.folder, reached, line.at)
        open_now.enter_context(local_ray())
        jobs = [worker.Job(trial.recipe, trial.folder, _held_out(trial)) for trial in todo]

        def told(number: int, outcome: worker.Outcome) -> None:
            scores = _scored(todo[number], outcome)
            write_atomic(todo[number].folder / "scores.json", json.dumps(scores, indent=1).encode())
            write_atomic(wanted.artifact.path / "scores.json", json.dumps(summary(wanted), indent=1).encode())

        worker.run_many(jobs, use_gpu=gpu, told=told)


def _held_out(trial: Trial) -> tuple[str, ...]:
    """The splits to score, of which the last is reported: a benchmark with hidden test labels has none of `test`."""
    held = open_corpus(trial.recipe.streams["labelled"].corpus).counts()["split"]
    found = tuple(split for split in SPLITS if held.get(split))
    if not found:
        raise ValueError(
            f"{trial.recipe.streams['labelled'].corpus} has samples to train on alone ({held}); a score needs a split "
            "val or test"
        )
    return found


def _scored(trial: Trial, outcome: Any) -> dict[str, Any]:
    scores = {split: dict(values) for split, values in outcome.scores.items()}
    reported = list(scores)[-1]
    return {
        "arm": trial.arm,
        "seed": trial.seed,
        "share": trial.share,
        "split": reported,
        "scores": scores[reported],
        "val": scores.get("val", {}),
        "train_seconds": outcome.summary.seconds,
        "score_seconds": outcome.seconds,
        "memory_gb": outcome.memory_gb,
    }


def _counter(folder: Path, reached: dict[Path, int], tell: Any) -> Any:
    def told(row: Mapping[str, Any]) -> None:
        reached[folder] = int(row["step"])
        tell(sum(reached.values()), f"{len(reached)} runs begun")

    return told


@task
def compare_without(wanted: Trials) -> None:
    """Score what needs no encoder, once for each share of the labels: the commonest class, and a random forest."""
    from training import baselines

    for share in dict.fromkeys(trial.share for trial in wanted.trials):
        same = [trial for trial in wanted.trials if trial.share == share]
        path = _beside(wanted.artifact, share)
        if not path.is_file():
            seeds = len({trial.seed for trial in same})
            rows = baselines.beside(same[0].folder, _held_out(same[0])[-1], seeds)
            write_atomic(path, json.dumps(rows, indent=1).encode())


def _beside(made: Artifact, share: float) -> Path:
    return made.path / f"baselines-labels{share:g}.json"


def summary(wanted: Trials) -> dict[str, Any]:
    """What a board is made of: the data, and for each share and arm mean, spread and values of every score.

    Of runs that are through; `missing` says how many are not.
    """
    corpus, first = wanted.corpus, wanted.trials[0].recipe.method
    held, split = corpus.counts()["split"], _held_out(wanted.trials[0])[-1]
    kind = str(getattr(first, "task").kind)  # noqa: B009
    return {
        "protocol": wanted.artifact.name,
        "task": kind,
        "metric": headline(wanted.artifact.name, kind),
        "changed": list(wanted.changed),
        "runs": len(wanted.trials),
        "missing": sum(not trial.scored for trial in wanted.trials),
        "data": {
            "name": f"{corpus.name}@{corpus.version}",
            "fingerprint": corpus.fingerprint,
            "split": split,
            "samples": held[split],
            "partial": _partial(corpus),
        },
        "cells": [*cells(wanted.trials), *_baselines(wanted)],
    }


def _partial(corpus: Corpus) -> list[str]:
    """Where a benchmark's corpus holds fewer samples than the benchmark has; nothing of a corpus of our own."""
    if corpus.name not in benchmarks.names():
        return []
    return benchmarks.find(corpus.name).partial(corpus.counts()["split"])


def cells(trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """One entry for each share and arm, in their order: scores over seeds, mean seconds, and the most memory.

    Runs that have no scores yet are left out.
    """
    found: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for trial in trials:
        if not trial.scored:
            continue
        row = json.loads((trial.folder / "scores.json").read_bytes())
        found.setdefault((trial.share, trial.arm), []).append(row)
    return [
        {
            "kind": "ours",
            "share": share,
            "arm": arm,
            "seeds": len(rows),
            "scores": _over_seeds(rows),
            "train_seconds": spread([row["train_seconds"] for row in rows])["mean"],
            "score_seconds": spread([row["score_seconds"] for row in rows])["mean"],
            "memory_gb": max(row["memory_gb"] for row in rows),
        }
        for (share, arm), rows in found.items()
    ]


def _baselines(wanted: Trials) -> Iterator[dict[str, Any]]:
    for share in dict.fromkeys(trial.share for trial in wanted.trials):
        arms: dict[str, list[dict[str, Any]]] = {}
        if not _beside(wanted.artifact, share).is_file():
            continue
        for row in json.loads(_beside(wanted.artifact, share).read_bytes()):
            arms.setdefault(row["arm"], []).append(row)
        for arm, rows in arms.items():
            seconds = spread([row["seconds"] for row in rows])["mean"]
            yield {
                "kind": "baseline",
                "share": share,
                "arm": arm,
                "seeds": len(rows),
                "scores": _over_seeds(rows),
                "seconds": seconds,
            }


def _over_seeds(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: spread([row["scores"][name] for row in rows]) for name in rows[0]["scores"]}


def read_scores(made: Artifact) -> dict[str, Any]:
    """The scores of a sealed transfer, as `summary` made them."""
    scores: dict[str, Any] = json.loads((made.path / "scores.json").read_bytes())
    return scores


def table(scores: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row an arm and share: headline scores as `mean ± spread`, without those of single classes."""
    rows, several = scores["cells"], len({cell["share"] for cell in scores["cells"]}) > 1
    names = [name for name in rows[0]["scores"] if "/" not in name]
    return [
        {
            "from": cell["arm"],
            **({"labels": f"{cell['share']:g}"} if several else {}),
            **{name: _said(cell["scores"].get(name)) for name in names},
        }
        for cell in rows
    ]


def _said(score: Mapping[str, Any] | None) -> str:
    if score is None or score["mean"] is None:
        return "-"
    return f"{score['mean']:.4f}" + (f" ± {score['spread']:.4f}" if score["spread"] is not None else "")


def publish(made: Artifact, scores: Mapping[str, Any]) -> None:
    """The scores as a Prefect table."""
    create_table_artifact(
        key=artifacts.slug("transfer", made.name, made.version),
        table=table(scores),
        description=f"Scores on split `{scores['data']['split']}`, mean ± standard deviation over seeds; "
        f"`{made.path / 'scores.json'}`",
    )
