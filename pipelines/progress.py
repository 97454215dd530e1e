"""Progress for people: a moving bar on a terminal, a plain line now and then elsewhere; always on stderr.

The numbers come from outside (sealed shards, steps in metrics.jsonl, finished runs), so a bar is only their picture.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["Bar", "bar", "say"]

Tell = Callable[[int, str], None]


def say(line: str) -> None:
    """One line for people; results, which may be piped, go to stdout instead."""
    print(line, file=sys.stderr, flush=True)


@dataclass
class Bar:
    """How much of a known amount is done. `at(done, note)` may be called as often as it likes."""

    title: str
    total: int
    unit: str
    done: int
    tell: Tell
    began: float = field(default_factory=time.monotonic)

    def at(self, done: int, note: str = "") -> None:
        """Move to `done`; `note` is the rest of the line (rows, failures, loss)."""
        self.done = done
        self.tell(done, note)


@contextmanager
def bar(title: str, total: int, unit: str, *, done: int = 0, every_s: float = 5.0) -> Iterator[Bar]:
    """A bar for the length of a block. Off a terminal a line is printed at the first, the last and every `every_s`."""
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as drawn:
            task = drawn.add_task(title, total=total, completed=done, unit=unit, note="")
            yield Bar(title, total, unit, done, lambda at, note: drawn.update(task, completed=at, note=note))
        return
    lines = _Lines(title, total, unit, done, every_s)
    yield Bar(title, total, unit, done, lines.tell)


class _Lines:
    """The same as sentences, no more often than `every_s`, but always the last."""

    def __init__(self, title: str, total: int, unit: str, done: int, every_s: float) -> None:
        self.title, self.total, self.unit, self.every_s = title, total, unit, every_s
        self.began, self.said = time.monotonic(), float("-inf")
        self.first: tuple[int, float] | None = None  # the pace counts from here, after engines have started
        self.latest = done

    def tell(self, done: int, note: str) -> None:
        now = time.monotonic()
        finished = done >= self.total and done != self.latest
        self.first = self.first or (done, now)
        self.latest = done
        if now - self.said < self.every_s and not finished:
            return
        self.said = now
        start, since = self.first
        left, extra = "", f", {note}" if note else ""
        if done > start and done < self.total:
            left = f", about {_clock((now - since) / (done - start) * (self.total - done))} left"
        say(f"{self.title}: {done}/{self.total} {self.unit}{extra}, {_clock(now - self.began)}{left}")


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
