"""Ray Train: the same loop on many workers, and many small runs side by side. The only `import ray` of this package.

Ray starts the processes, joins them and starts them again when one dies; everything else is the loop's own. A
restart goes on from our newest checkpoint, so nothing is reported to Ray: its reports are slow barriers, and its
checkpoints would be a second truth. Needs a started Ray (`cluster()`, or an address the entry point connected to).
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import ray
import ray.train
import ray.train.torch
import torch

from training import evaluate as evaluation
from training.checkpoint import environment, write_json, write_text
from training.feed import Feed, once
from training.loop import NonFiniteError, Sink, Summary, read_summary, standing, train
from training.meter import forget_peak, memory
from training.methods import Method
from training.recipe import Recipe

__all__ = ["Job", "Outcome", "cluster", "fit", "run_many"]


@dataclass(frozen=True)
class Job:
    """One small run: train a recipe in its folder, then score it on some splits."""

    recipe: Recipe
    run_dir: Path
    splits: tuple[str, ...] = ("val",)


@dataclass(frozen=True)
class Outcome:
    """What came of a job: its summary, scores by split, seconds of scoring, and the most memory used (GB)."""

    run_dir: Path
    summary: Summary
    scores: Mapping[str, Mapping[str, float]]
    seconds: float
    memory_gb: float


@contextmanager
def cluster(cpus: int | None = None, temp_dir: Path | None = None) -> Iterator[None]:
    """A Ray of this process, or the cluster of RAY_ADDRESS; one that is already connected is left alone."""
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "WARNING"}
    if os.environ.get("RAY_ADDRESS"):  # as in a submitted job: that cluster has its sizes already
        ray.init(**quiet)
    else:
        folder = None if temp_dir is None else str(temp_dir)
        ray.init(
            num_cpus=cpus, object_store_memory=500 * 2**20, include_dashboard=False, _temp_dir=folder, **quiet
        )
    try:
        yield
    finally:
        ray.shutdown()


def fit(
    recipe: Recipe,
    run_dir: Path | str,
    *,
    workers: int | tuple[int, int] = 1,
    use_gpu: bool = False,
    cpus_per_worker: float = 1.0,
    max_failures: int = 3,
    sink: Sink | None = None,
) -> Summary:
    """Train on Ray workers, a number of them or between a fewest and a most; `sink` travels to the first.

    A lost worker restarts all from the newest checkpoint, `max_failures` times. Raises ValueError when the cluster
    cannot hold the workers or the run folder belongs to another recipe, NonFiniteError when a loss is.
    """
    folder = Path(run_dir).resolve()
    _, _, done = standing(recipe, folder)
    if done is not None:
        return done
    fewest, most = (workers, workers) if isinstance(workers, int) else workers
    _check_room(fewest, cpus_per_worker, use_gpu=use_gpu)
    for count in range(fewest, most + 1):
        Feed(recipe.streams, {n: s // recipe.accumulate for n, s in recipe.shares().items()}, 0, 0, count)
    name = f"attempt-{time.time_ns()}"
    trainer = ray.train.torch.TorchTrainer(
        _work,
        train_loop_config={
            "recipe": _absolute(recipe).dump(),
            "run_dir": str(folder),
            "threads": max(1, math.floor(cpus_per_worker)),
            "sink": ray.cloudpickle.dumps(sink),  # opened where `path` is already searched
            "path": sys.path,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=fewest if fewest == most else (fewest, most),
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cpus_per_worker} | ({"GPU": 1} if use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(folder / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=max_failures, controller_failure_limit=3),
        ),
    )
    try:
        said = trainer.fit().return_value
    finally:
        shutil.rmtree(folder / "ray", ignore_errors=True)
    if isinstance(said, dict) and "error" in said:
        raise (NonFiniteError if said["non_finite"] else ValueError)(said["error"])
    summary = read_summary(folder)
    if summary is None:
        raise RuntimeError(
            f"the workers ended, but {folder} has no done.json; run again, it goes on from its checkpoint"
        )
    return summary


def run_many(
    jobs: Sequence[Job],
    *,
    cpus_per_job: float = 1.0,
    use_gpu: bool = False,
    told: Callable[[int, Outcome], None] = lambda number, outcome: None,
) -> list[Outcome]:
    """Train and score every job as a Ray task of its own, as many at once as the cluster holds; results in order.

    A job that was finished before is only scored. `told` hears of each, by its number, as soon as it has ended. Raises
    what the first failing job raised, after all have ended.
    """
    _check_room(1, cpus_per_job, use_gpu=use_gpu)
    task = ray.remote(num_cpus=cpus_per_job, num_gpus=1 if use_gpu else 0, max_retries=2)(_run_one)
    pending = [
        task.remote(
            _absolute(job.recipe).dump(), str(Path(job.run_dir).resolve()), job.splits, use_gpu, sys.path
        )
        for job in jobs
    ]
    left = list(pending)
    while left:
        (ended, *_), left = ray.wait(left, num_returns=1)
        with suppress(ray.exceptions.RayTaskError):  # raised below, when the others are through
            told(pending.index(ended), ray.get(ended))
    try:
        return list(ray.get(pending))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None if isinstance(error.cause, Exception) else error


def _work(config: dict[str, Any]) -> dict[str, Any] | None:
    """What each Ray Train worker runs. A refusal that all ranks share is returned: raising it would be retried."""
    sys.path[:] = list(dict.fromkeys([*sys.path, *config["path"]]))
    torch.set_num_threads(config["threads"])
    context = ray.train.get_context()
    world = context.get_world_size()
    try:
        train(
            Recipe.parse(config["recipe"]),
            config["run_dir"],
            device=str(ray.train.torch.get_device()),
            rank=context.get_world_rank(),
            world=world,
            sink=ray.cloudpickle.loads(config["sink"]),
        )
    except (NonFiniteError, ValueError) as error:
        if world > 1 and not isinstance(error, NonFiniteError):
            raise
        return {"error": str(error), "non_finite": isinstance(error, NonFiniteError)}
    return None


def _run_one(text: str, run_dir: str, splits: tuple[str, ...], use_gpu: bool, path: list[str]) -> Outcome:
    sys.path[:] = list(dict.fromkeys([*sys.path, *path]))
    torch.set_num_threads(1)
    device = "cuda" if use_gpu else "cpu"
    forget_peak(device)
    recipe = Recipe.parse(text)
    if recipe.steps:
        summary = train(recipe, run_dir, device=device)
        recipe, method = evaluation.restore(run_dir, device)
    else:
        summary, recipe, method = _fitted(recipe, Path(run_dir), device)
    began, batch = (
        time.monotonic(),
        min(32, recipe.batch),
    )  # what is scored at once is what was trained at once
    scores = {
        split: evaluation.evaluate(method, evaluation.held_out(recipe, split, batch), device)
        for split in splits
    }
    return Outcome(Path(run_dir), summary, scores, time.monotonic() - began, memory(device))


def _fitted(recipe: Recipe, folder: Path, device: str) -> tuple[Summary, Recipe, Method]:
    """What a recipe without steps comes to: its method, after one look at every training sample.

    Nothing is kept but the record, since looking again gives the same.
    """
    recipe, _, _ = standing(recipe, folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "recipe.json", recipe.dump())
    write_json(folder / "environment.json", environment())
    began = time.monotonic()
    recipe, method = evaluation.restore(folder, device)
    (stream,) = recipe.streams.values()
    cast(Any, method.eval()).fit(samples.to(device) for samples in once(stream, min(32, recipe.batch)))
    summary = Summary(recipe.name, recipe.digest, 0, {}, time.monotonic() - began, "")
    write_json(folder / "done.json", asdict(summary))
    return summary, recipe, method


def _absolute(recipe: Recipe) -> Recipe:
    """Workers run in another folder; paths must not depend on it."""
    streams = {
        name: stream.model_copy(update={"corpus": str(Path(stream.corpus).resolve())})
        for name, stream in recipe.streams.items()
    }
    return recipe.model_copy(update={"streams": streams})


def _check_room(workers: int, cpus: float, *, use_gpu: bool) -> None:
    there = ray.cluster_resources()
    asked = {"CPU": workers * cpus} | ({"GPU": float(workers)} if use_gpu else {})
    for kind, number in asked.items():
        if number > there.get(kind, 0):
            raise ValueError(
                f"{workers} workers need {number:g} {kind}, the Ray cluster has {there.get(kind, 0):g}; "
                "ask for fewer workers or add nodes"
            )
