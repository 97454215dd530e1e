"""Runs in MLflow: a local SQLite store unless the user names another, and never a reason for a run to fail.

`metrics.jsonl` is the record; the tracker is a copy of it that people can search. So the loop knows no tracker: `Tail`
follows the file from the entry point, sends what is new every few seconds, and a tracker that is down costs one
warning. Prefect's run and MLflow's point at each other by tags.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

from pipelines.settings import Home

__all__ = ["Tail", "Tracked", "prefect_run", "tracked"]

log = logging.getLogger(__name__)

BATCH = 900  # the store takes at most 1,000 metrics in one call


class Tracked:
    """One run of a tracker. Every call may fail at the other end; the first failure is a warning and the last try."""

    def __init__(self, address: str, experiment: str, name: str, tags: Mapping[str, str]) -> None:
        self.address = address
        self.run_id: str | None = None
        self._client: Any = None
        self._waiting: list[Any] = []
        self._lock = threading.Lock()
        with self._forgiven("start a run"):
            from mlflow.entities import RunTag
            from mlflow.tracking import MlflowClient

            client = MlflowClient(tracking_uri=address)
            found = client.get_experiment_by_name(experiment)
            number = found.experiment_id if found else client.create_experiment(experiment)
            run = client.create_run(number, run_name=name)
            client.log_batch(
                run.info.run_id, tags=[RunTag(key, value) for key, value in tags.items() if value]
            )
            self.run_id, self._client = run.info.run_id, client

    def parameters(self, values: Mapping[str, object]) -> None:
        """Settings, flat: `optim.lr_per_256` and the like; long values are cut."""
        if self._client is None:
            return
        with self._forgiven("log parameters"):
            from mlflow.entities import Param

            pairs = [Param(key, str(value)[:500]) for key, value in _flat(values)]
            for start in range(0, len(pairs), 100):
                self._client.log_batch(self.run_id, params=pairs[start : start + 100])

    def metrics(self, step: int, values: Mapping[str, object]) -> None:
        """Numbers of one step; kept until there are many or `flush` is called. What is no finite number is left out."""
        if self._client is None:
            return
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        numbers = {key: value for key, value in values.items() if _finite(value)}
        with self._lock:
            self._waiting += [Metric(key, value, now, step) for key, value in numbers.items()]
        if len(self._waiting) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), BATCH):
            if self._client is None:
                return
            with self._forgiven("log metrics"):
                self._client.log_batch(self.run_id, metrics=waiting[start : start + BATCH])

    def tag(self, key: str, value: str) -> None:
        """One more tag."""
        if self._client is not None:
            with self._forgiven("set a tag"):
                self._client.set_tag(self.run_id, key, value)

    def end(self, status: str) -> None:
        """Close the run: FINISHED, FAILED or KILLED."""
        self.flush()
        if self._client is not None:
            with self._forgiven("end the run"):
                self._client.set_terminated(self.run_id, status)

    @contextmanager
    def _forgiven(self, what: str) -> Iterator[None]:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError) as error:
            self._client = None
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            log.warning(
                "tracker %s: could not %s (%s); the run goes on, its metrics.jsonl has everything",
                self.address,
                what,
                first,
            )


@contextmanager
def tracked(
    home: Home, experiment: str, name: str, tags: Mapping[str, str] | None = None
) -> Iterator[Tracked]:
    """A run for the length of a block, tagged with the Prefect run that it belongs to and ended as the block ends."""
    run = Tracked(home.tracking, experiment, name, {**prefect_run(), **(tags or {})})
    try:
        yield run
    except BaseException as error:
        run.end("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    run.end("FINISHED")


def prefect_run() -> dict[str, str]:
    """The ids of the Prefect run this code is in, as tags; empty outside one. Also passed down by environment."""
    from prefect import runtime

    pairs = {
        "prefect.flow_run_id": runtime.flow_run.id or os.environ.get("SWATH_FLOW_RUN_ID"),
        "prefect.task_run_id": runtime.task_run.id,
        "ray.submission_id": os.environ.get("SWATH_SUBMISSION_ID"),
    }
    return {key: str(value) for key, value in pairs.items() if value}


class Tail:
    """Follows a run's metrics.jsonl from a thread and copies new rows to a tracker, in order, each once.

    `last` is the newest row; `tell`, when set, is called with each.
    """

    def __init__(self, path: Path, run: Tracked, *, every_s: float = 2.0) -> None:
        self.path, self.run, self.every_s = path, run, every_s
        self.last: dict[str, Any] = {}
        self.tell: Callable[[dict[str, Any]], None] | None = None
        self._offset = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="metrics-tail", daemon=True)

    def __enter__(self) -> Tail:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._read()
        self.run.flush()

    def _follow(self) -> None:
        while not self._stop.wait(self.every_s):
            self._read()
            self.run.flush()

    def _read(self) -> None:
        """Whole lines only: the last may still be being written. A file that became shorter is read again."""
        if not self.path.exists():
            return
        with self.path.open("rb") as stream:
            if stream.seek(0, os.SEEK_END) < self._offset:
                self._offset = 0
            stream.seek(self._offset)
            text = stream.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # a line that a kill cut short, before a resumed run went on below it
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                self.last = row
                self.run.metrics(row["step"], {key: value for key, value in row.items() if key != "step"})
                if self.tell is not None:
                    self.tell(row)


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _finite(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
