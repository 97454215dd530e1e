"""What a run says while it goes: metrics.jsonl, a line for people, and warnings before time is wasted.

A line has the losses, the rate, samples a second, the share of time spent waiting for data, achieved FLOP/s and their
share of the device's peak, and memory. Two things are pointed out when they last: a loss that has left its best level,
and a device that waits for data.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from training import checkpoint as checkpoints
from training import optim
from training.meter import Meter
from training.methods import Progress
from training.recipe import Recipe

__all__ = ["Record", "Sink", "Watch", "said"]

log = logging.getLogger(__name__)
Sink = Callable[[int, dict[str, float]], None]
"""Called by rank 0 with (step, numbers) whenever a line is written to metrics.jsonl."""

STARVED = 0.3
"""Share of time waiting for data from which a run is called starved."""
DIVERGED = 1.5
"""Smoothed loss over its best from which a run is called diverging."""
_SMOOTH, _PATIENCE = 0.3, 3


class Watch:
    """Notices, over successive lines, what should not last; each is said once until it has passed."""

    def __init__(self) -> None:
        self._smooth = self._best = math.nan
        self._counts = {"diverging": 0, "starved": 0}

    def look(self, loss: float, waited: float) -> list[str]:
        """Sentences to say after a line with this loss and share of waiting (0 to 1)."""
        self._smooth = loss if math.isnan(self._smooth) else _SMOOTH * loss + (1 - _SMOOTH) * self._smooth
        self._best = self._smooth if math.isnan(self._best) else min(self._best, self._smooth)
        return [
            *self._lasting(
                "diverging",
                self._best > 0 and self._smooth > DIVERGED * self._best,
                f"the loss has risen to {self._smooth:.4g} from {self._best:.4g} at its best: lower optim.lr_per_256, "
                "lengthen schedule.warmup or set optim.clip",
            ),
            *self._lasting(
                "starved",
                waited > STARVED,
                f"{waited:.0%} of the time is spent waiting for data: give the process more CPUs, move the shards to "
                "a nearer disk, or write them with less compression",
            ),
        ]

    def _lasting(self, name: str, now: bool, sentence: str) -> list[str]:
        self._counts[name] = self._counts[name] + 1 if now else 0
        return [sentence] if self._counts[name] == _PATIENCE else []


class Record:
    """metrics.jsonl and the line for people. Going on from a step forgets what was written after it."""

    def __init__(self, folder: Path, recipe: Recipe, start: int, sink: Sink | None, meter: Meter) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints.write_text(folder / "recipe.json", recipe.dump())
        checkpoints.write_json(folder / "environment.json", checkpoints.environment())
        self.path, self.recipe, self.sink, self.start = folder / "metrics.jsonl", recipe, sink, start
        self.meter, self.watch = meter, Watch()
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
            **self.meter.numbers(self.steps, now - self.since),
        }
        self.since, self.steps, self.waited = now, 0, 0.0
        left = timedelta(seconds=round((now - self.began) / (step - self.start) * (self.recipe.steps - step)))
        log.info(
            "%s step %d/%d  %s  (%s left)", self.recipe.name, step, self.recipe.steps, said(values), left
        )
        for sentence in self.watch.look(values["loss"], values["data_wait"]):
            log.warning("%s step %d: %s", self.recipe.name, step, sentence)
        self.write(step, values)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line into the file and to the sink; time spent since the last one does not count."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")
        if self.sink is not None:
            self.sink(step, values)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Around what is no training, so that it does not lower the throughput."""
        began = time.monotonic()
        yield
        self.since += time.monotonic() - began


def _step_of(line: str) -> float:
    """The step a line speaks of; infinity for one that was cut off by a kill."""
    try:
        return int(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def said(values: Mapping[str, Any]) -> str:
    """Numbers by name, in a line."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
