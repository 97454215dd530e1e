"""Where the time of a step goes: a trace to look at and a table to act on.

The loop itself is run for a few steps under torch's profiler; it marks its own stages, so there is nothing here that could
differ from a real run. `trace.json` opens in Perfetto or chrome://tracing, `profile.json` holds the table.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile, schedule

from training.checkpoint import environment, write_json
from training.loop import train
from training.recipe import Recipe, replace

__all__ = ["STAGES", "Profile", "profiled"]

STAGES = ("data", "augment", "forward", "backward", "optimizer", "after_step", "communication")
"""Stages of a step. `forward` is without `augment`; `after_step` is where teachers and queues move; `communication` is part
of the others and is also listed by itself."""
WARMUP = 3
_TRAVEL = ("c10d::", "nccl:", "gloo:", "FSDP::all_gather", "FSDP::post_backward_reduce")


@dataclass(frozen=True)
class Profile:
    """Seconds of each stage in an average step, the whole step, and the files written."""

    seconds: Mapping[str, float]
    step: float
    steps: int
    folder: Path

    def rows(self) -> list[tuple[str, str, str]]:
        """(stage, milliseconds, share of the step), longest first, and what is left over."""
        known = sorted(self.seconds.items(), key=lambda item: -item[1])
        spent = sum(value for name, value in known if name != "communication")
        rows = [*known, ("other", max(0.0, self.step - spent))]
        return [(name, f"{1000 * value:.1f}", f"{value / self.step:.1%}") for name, value in rows]


def profiled(recipe: Recipe, folder: Path, *, steps: int = 10, device: str = "cpu") -> Profile:
    """Profile `steps` steps of a recipe after a few of warming up; writes trace.json and profile.json into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    short = replace(
        recipe, steps=steps + WARMUP, log_every=1, checkpoint_every=steps + WARMUP, validate_every=None
    )
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.startswith("cuda") else [])
    plan = schedule(wait=0, warmup=WARMUP, active=steps, repeat=1)
    trace = folder / "trace.json"
    times: list[float] = []
    with (
        tempfile.TemporaryDirectory() as run,
        profile(
            activities=activities,
            schedule=plan,
            on_trace_ready=lambda done: done.export_chrome_trace(str(trace)),
        ) as recorded,
    ):

        def sink(step: int, values: dict[str, float]) -> None:
            recorded.step()
            if step > WARMUP:
                times.append(recipe.batch / values["samples_per_second"])

        train(short, run, device=device, sink=sink)
    seconds = _stages(json.loads(trace.read_text(encoding="utf-8")), steps)
    found = Profile(seconds, sum(times) / len(times), steps, folder)
    table = {"recipe": recipe.name, "steps": steps, "step_seconds": found.step, "seconds": dict(seconds)}
    write_json(folder / "profile.json", table | {"environment": environment()})
    return found


def _stages(trace: Mapping[str, Any], steps: int) -> dict[str, float]:
    """Seconds a step of each stage, from the marks in a trace (microseconds)."""
    sums: dict[str, float] = defaultdict(float)
    for event in trace["traceEvents"]:
        name, length = str(event.get("name", "")), float(event.get("dur", 0.0))
        if event.get("cat") == "user_annotation" and name in STAGES:
            sums[name] += length
        elif event.get("ph") == "X" and name.startswith(_TRAVEL):
            sums["communication"] += length
    sums["forward"] -= sums["augment"]
    return {name: sums[name] / 1e6 / steps for name in STAGES}
