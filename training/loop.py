"""The one loop: batches in, losses down, and a record that does not depend on interruptions.

The same function runs in a single process, under torchrun and in Ray Train workers. It knows a method only by its
contract and holds the only call that moves parameters. Chance is seeded anew each step from (seed, step, rank), so
no generator has to be saved and a run that was killed goes on bit for bit: same order, same noise, same losses.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from training import checkpoint as checkpoints
from training import optim, parallel
from training.checkpoint import Checkpoint
from training.feed import Feed, Samples, statistics
from training.methods import Method, Progress, build
from training.recipe import Recipe, fill_inputs

__all__ = ["NonFiniteError", "Sink", "Summary", "read_summary", "standing", "train"]

log = logging.getLogger(__name__)
Sink = Callable[[int, dict[str, float]], None]
"""Called by rank 0 with (step, numbers) whenever a line is written to metrics.jsonl."""


class NonFiniteError(RuntimeError):
    """A loss or gradient was nan or infinite; nothing was changed by that step."""


@dataclass(frozen=True)
class Summary:
    """What a finished run says of itself; `done.json` holds the same."""

    name: str
    digest: str
    steps: int
    losses: dict[str, float]
    seconds: float
    encoder: str


def train(
    recipe: Recipe,
    run_dir: Path | str,
    *,
    device: str = "cpu",
    rank: int = 0,
    world: int = 1,
    sink: Sink | None = None,
    resume: bool = True,
    on_checkpoint: Callable[[Path], None] | None = None,
) -> Summary:
    """Run a recipe to its end in `run_dir`, going on from the newest checkpoint there; a finished run is not repeated.

    Every rank calls it, within a process group when there are several. Raises ValueError when the folder belongs to
    another recipe or, with `resume=False`, to any, and NonFiniteError on all ranks when a loss is.
    """
    folder, place = Path(run_dir).resolve(), parallel.Place(rank, world, device)
    recipe, found, done = standing(recipe, folder)
    if done is not None:
        return done
    if found is not None and not resume:
        raise ValueError(f"{folder} holds a run at step {found.step}; give a new run folder, or let it go on")
    torch.manual_seed(recipe.seed)
    method = build(recipe.method).to(device)
    module = parallel.wrap(method, recipe.parallel, place)
    if recipe.compile:
        module.compile()
    optimizer = optim.build(method, recipe.optim)
    if found is not None:
        checkpoints.load(found, method, optimizer, digest=recipe.digest)
    start, position = (found.step, found.position) if found is not None else (0, None)
    losses = dict(found.losses) if found is not None else {}
    began = time.monotonic()
    record = _Record(folder, recipe, start, sink) if rank == 0 else None
    shares = {name: share // recipe.accumulate for name, share in recipe.shares().items()}
    feed = Feed(recipe.streams, shares, recipe.seed, rank, world, position, pin=device.startswith("cuda"))
    with closing(iter(feed)) as batches:
        for step in range(start, recipe.steps):
            losses, waited = _step(recipe, step, method, module, optimizer, batches, place)
            if record is not None:
                record.add(step + 1, losses, waited)
            if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
                path = checkpoints.save(
                    folder / "checkpoints",
                    step + 1,
                    method,
                    optimizer,
                    digest=recipe.digest,
                    position=feed.position,
                    losses=losses,
                    keep=recipe.keep,
                    writer=rank == 0,
                )
                parallel.barrier(world)
                if on_checkpoint is not None:
                    on_checkpoint(path)
    corpora = {name: stream.corpus for name, stream in recipe.streams.items()}
    origin = {"recipe": recipe.name, "digest": recipe.digest, "steps": recipe.steps, "corpora": corpora}
    encoder = checkpoints.export_encoder(method.encoder, folder / "encoder", origin, writer=rank == 0)
    seconds = time.monotonic() - began
    summary = Summary(recipe.name, recipe.digest, recipe.steps, losses, seconds, str(encoder))
    if rank == 0:
        checkpoints.write_json(folder / "done.json", asdict(summary))
    parallel.barrier(world)
    return summary


def standing(recipe: Recipe, run_dir: Path) -> tuple[Recipe, Checkpoint | None, Summary | None]:
    """Where a run stands: the recipe with its inputs' statistics, its newest checkpoint, and its summary if finished.

    Raises ValueError when the folder belongs to another recipe.
    """
    recipe = fill_inputs(recipe, statistics(recipe.streams))
    done, found = read_summary(run_dir), checkpoints.latest(run_dir / "checkpoints")
    for held in (done, found):
        if held is not None and held.digest != recipe.digest:
            raise ValueError(
                f"{run_dir} holds a run of recipe {held.digest[:12]}, asked for is {recipe.digest[:12]}: a run goes on "
                "only with the settings it began with; give a new run folder, or undo the changed settings"
            )
    return recipe, found, done


def _step(
    recipe: Recipe,
    step: int,
    method: Method,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[dict[str, Samples]],
    place: parallel.Place,
) -> tuple[dict[str, float], float]:
    """One step of the optimizer over `accumulate` batches: losses averaged over all ranks, and seconds of waiting."""
    progress = Progress(step, recipe.steps)
    torch.manual_seed(_seed(recipe.seed, step, place.rank))
    module.train()
    optimizer.zero_grad(set_to_none=True)
    sums: dict[str, torch.Tensor] = {}
    waited = 0.0
    for part in range(recipe.accumulate):
        tick = time.monotonic()
        batch = {name: samples.to(place.device) for name, samples in next(batches).items()}
        waited += time.monotonic() - tick
        with parallel.accumulating(module, last=part == recipe.accumulate - 1):
            with parallel.autocast(recipe.precision, place.device):
                losses = module(batch, progress)
            (losses.total / recipe.accumulate).backward()
        for name, value in {"loss": losses.total, **losses.parts}.items():
            sums[name] = sums.get(name, 0) + value.detach().float() / recipe.accumulate
    norm = optim.clip(method.parameters(), recipe.optim.clip)
    names = sorted(sums)
    mean = parallel.mean_over_ranks(torch.stack([*(sums[name] for name in names), norm]), place.world)
    values = dict(zip([*names, "gradient_norm"], mean.tolist(), strict=True))
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise NonFiniteError(
            f"{bad[0]} is {values[bad[0]]} in step {step + 1} ({_said(values)}); nothing was changed by it: "
            "lower optim.lr_per_256, set optim.clip, or look at the batch"
        )
    optim.set_rate(optimizer, optim.rate(recipe, progress))
    optimizer.step()
    method.after_step(Progress(step + 1, recipe.steps))
    return values, waited


def read_summary(run_dir: Path | str) -> Summary | None:
    """The summary of a finished run, or None."""
    path = Path(run_dir) / "done.json"
    return Summary(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


class _Record:
    """metrics.jsonl and the line for people. Going on from a step forgets what was written after it."""

    def __init__(self, folder: Path, recipe: Recipe, start: int, sink: Sink | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints.write_text(folder / "recipe.json", recipe.dump())
        checkpoints.write_json(folder / "environment.json", checkpoints.environment())
        self.path, self.recipe, self.sink, self.start = folder / "metrics.jsonl", recipe, sink, start
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []
        checkpoints.write_text(self.path, "".join(line for line in lines if _step_of(line) <= start))
        self.began = self.since = time.monotonic()
        self.steps, self.waited = 0, 0.0

    def add(self, step: int, losses: Mapping[str, float], waited: float) -> None:
        """One step's losses; every `log_every` steps (and the first and last) they are written down."""
        self.steps, self.waited = self.steps + 1, self.waited + waited
        if step % self.recipe.log_every and step not in (1, self.recipe.steps):
            return
        now = time.monotonic()
        values = dict(losses) | {
            "lr": optim.rate(self.recipe, Progress(step - 1, self.recipe.steps)),
            "samples_per_second": round(self.recipe.batch * self.steps / (now - self.since), 2),
            "data_wait": round(self.waited / (now - self.since), 4),
        }
        self.since, self.steps, self.waited = now, 0, 0.0
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")
        left = (now - self.began) / (step - self.start) * (self.recipe.steps - step)
        said, whole = timedelta(seconds=round(left)), self.recipe.steps
        log.info("%s step %d/%d  %s  (%s left)", self.recipe.name, step, whole, _said(values), said)
        if self.sink is not None:
            self.sink(step, values)


def _step_of(line: str) -> float:
    """The step a line speaks of; infinity for one that was cut off by a kill."""
    try:
        return int(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def _said(values: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


def _seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))
