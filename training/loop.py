"""The one loop: batches in, losses down, and a record that does not depend on interruptions.

The same function runs in a single process, under torchrun and in Ray Train workers. It knows a method only by its
contract and holds the only call that moves parameters. Chance is seeded anew each step from (seed, step, rank), so
no generator has to be saved and a run that was killed goes on bit for bit: same order, same noise, same losses.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.profiler import record_function

from training import checkpoint as checkpoints
from training import evaluate, optim, parallel, ranks
from training.checkpoint import Checkpoint
from training.export import export_encoder
from training.feed import Feed, Samples, statistics
from training.meter import Meter
from training.methods import Method, Progress, build
from training.recipe import Recipe, fill_inputs
from training.record import Record, Sink, said

__all__ = ["NonFiniteError", "Sink", "Summary", "read_summary", "standing", "train"]


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
    module = parallel.wrap(method, recipe, place)
    optimizer = optim.build(method, recipe.optim)
    if found is not None:
        checkpoints.load(found, method, optimizer, digest=recipe.digest)
    start, position = (found.step, found.position) if found is not None else (0, None)
    losses = dict(found.losses) if found is not None else {}
    began, meter = time.monotonic(), Meter(device, recipe.precision)
    record = Record(folder, recipe, start, sink, meter) if rank == 0 else None
    shares = {name: share // recipe.accumulate for name, share in recipe.shares().items()}
    feed = Feed(recipe.streams, shares, recipe.seed, rank, world, position, pin=device.startswith("cuda"))
    best = "val_loss" if recipe.validate_every else None
    saver = checkpoints.Saver(folder / "checkpoints", keep=recipe.keep, best=best, rank=rank, world=world)
    with closing(iter(feed)) as batches, saver:
        for step in range(start, recipe.steps):
            counted = meter if step == start else None
            losses, waited = _step(recipe, step, method, module, optimizer, batches, place, counted)
            last = step + 1 == recipe.steps
            if record is not None:
                record.add(step + 1, losses, waited)
            if recipe.validate_every and ((step + 1) % recipe.validate_every == 0 or last):
                losses |= _validated(recipe, method, place, record, step + 1)
            if (step + 1) % recipe.checkpoint_every == 0 or last:
                saver.save(
                    step + 1, method, optimizer, digest=recipe.digest, position=feed.position, losses=losses
                )
                path = saver.wait() if on_checkpoint is not None or last else None
                if on_checkpoint is not None and path is not None:
                    on_checkpoint(path)
    corpora = {name: stream.corpus for name, stream in recipe.streams.items()}
    origin = {"recipe": recipe.name, "digest": recipe.digest, "steps": recipe.steps, "corpora": corpora}
    encoder = export_encoder(method.encoder, folder / "encoder", origin, writer=rank == 0)
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
    meter: Meter | None,
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
        with record_function("data"):
            batch = {name: samples.to(place.device) for name, samples in next(batches).items()}
        waited += time.monotonic() - tick
        with parallel.accumulating(module, last=part == recipe.accumulate - 1):
            counting = meter.forward() if meter is not None else nullcontext()
            with parallel.autocast(recipe.precision, place.device), counting, record_function("forward"):
                losses = module(batch, progress)
            with record_function("backward"):
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
            f"{bad[0]} is {values[bad[0]]} in step {step + 1} ({said(values)}); nothing was changed by it: "
            "lower optim.lr_per_256, set optim.clip, or look at the batch"
        )
    with record_function("optimizer"):
        optim.set_rates(optimizer, method, recipe, progress)
        optimizer.step()
    with record_function("after_step"):
        method.after_step(Progress(step + 1, recipe.steps))
    return values, waited


def _validated(
    recipe: Recipe, method: Method, place: parallel.Place, record: Record | None, step: int
) -> dict[str, float]:
    """Mean losses over the validation split as `val_...`, on every rank alike; rank 0 writes them down."""
    with record.paused() if record is not None else nullcontext():
        with (
            parallel.autocast(recipe.precision, place.device),
            ranks.alone(),
        ):  # all ranks see the same samples
            found = evaluate.losses(method, evaluate.held_out(recipe, "val"), place.device)
        values = {f"val_{name}": value for name, value in found.items()}
        if record is not None:
            record.write(step, values)
    return values


def read_summary(run_dir: Path | str) -> Summary | None:
    """The summary of a finished run, or None."""
    path = Path(run_dir) / "done.json"
    return Summary(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))
