"""One governor for a whole cluster: the counting of `geodata.governor` in an actor that every worker asks.

An account's limits do not care how many processes there are, so neither may the counting. The actor is named,
needs no CPU and outlives the run that made it, because runs side by side on one cluster share an account as well; a
Ray of our own takes it along when it ends. It is made by whoever first asks for a lease, so a run whose sources are
files never has one.

What may die: a worker (its leases are taken back when it has been silent for a minute), and the actor itself (Ray
starts it again; for some seconds it grants nothing and hears from all holders what they hold).
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from geodata import governor
from geodata.governor import Governor, Held, Limits, Outcome

__all__ = ["Keeper", "Remote", "govern", "state"]

NAME, NAMESPACE = "swath-governor", "swath"
PULSE_S = 10.0  # how often a process with leases gives a sign of life
AFTER_LOSS_S = 0.5  # before asking again when the actor is away


class Keeper:
    """What the actor runs: a Governor, and after a loss a silence in which holders say what they hold."""

    def __init__(self) -> None:
        import ray

        self._governor = Governor()
        restarted = ray.get_runtime_context().was_current_actor_reconstructed
        self._silent_until = time.monotonic() + (1.5 * PULSE_S if restarted else 0.0)

    def acquire(self, endpoint: str, limits: Limits, holder: str) -> float:
        """Seconds to wait before asking again; 0.0 when a lease is given."""
        silence = self._silent_until - time.monotonic()
        return silence if silence > 0 else self._governor.acquire(endpoint, limits, holder)

    def release(self, endpoint: str, outcome: Outcome, retry_after: float | None, holder: str) -> None:
        """Give a lease back."""
        self._governor.release(endpoint, outcome, retry_after, holder)

    def alive(self, holder: str, held: Mapping[str, Held]) -> None:
        """A sign of life, with what the holder holds at each endpoint."""
        self._governor.alive(holder, held)

    def state(self) -> dict[str, dict[str, int]]:
        """The endpoints asked for so far, as plain values."""
        return {name: asdict(one) for name, one in self._governor.state().items()}


class Remote:
    """The cluster's governor as one process sees it; the same two methods as one of its own."""

    def __init__(self) -> None:
        self.holder = f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._held: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()  # questions for a lease that are not answered yet
        self._limits: dict[str, Limits] = {}
        self._lock = threading.Lock()
        self._pulse: threading.Thread | None = None
        self._actor: Any = None

    def acquire(self, endpoint: str, limits: Limits) -> float:
        """Seconds to wait before asking again; 0.0 when a lease is given."""
        import ray

        with self._lock:
            self._limits[endpoint] = limits
            self._asked[endpoint] += 1
            answer = self._keeper().acquire.remote(endpoint, limits, self.holder)
        wait = AFTER_LOSS_S
        try:
            wait = ray.get(answer)
        except ray.exceptions.RayActorError:
            self._actor = (
                None  # it is being started again, or somebody ended it and the next question makes a new one
            )
        finally:
            with self._lock:
                self._asked[endpoint] -= 1
                if wait <= 0:
                    self._held[endpoint] += 1
                    self._start_pulse()
        return wait

    def release(self, endpoint: str, outcome: Outcome, retry_after: float | None = None) -> None:
        """Give the lease back; does not wait for the actor, which keeps the order of what one process sends."""
        with self._lock:
            self._held[endpoint] -= 1
            self._keeper().release.remote(endpoint, outcome, retry_after, self.holder)

    def _keeper(self) -> Any:
        if self._actor is None:
            self._actor = _keeper()
        return self._actor

    def _start_pulse(self) -> None:
        """Signs of life for as long as this process holds leases."""
        if self._pulse is None:
            self._pulse = threading.Thread(target=self._beat, name="governor-pulse", daemon=True)
            self._pulse.start()

    def _beat(self) -> None:
        while True:
            time.sleep(PULSE_S)
            with self._lock:
                if not self._held.total():
                    self._pulse = None
                    return
                held = {
                    name: (self._held[name], self._held[name] + self._asked[name], limits)
                    for name, limits in self._limits.items()
                }
                self._keeper().alive.remote(self.holder, held)


def _keeper() -> Any:
    """The actor, made when there is none."""
    import ray

    made = ray.remote(Keeper).options(
        name=NAME,
        namespace=NAMESPACE,
        get_if_exists=True,
        lifetime="detached",
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=0,
    )
    return made.remote()


def govern() -> None:
    """Let this process ask the cluster's governor from now on. Costs nothing until a lease is asked for."""
    if not isinstance(governor.current(), Remote):
        governor.use(Remote())


def state() -> dict[str, dict[str, int]]:
    """What the cluster's governor has counted for each endpoint; empty when nobody asked for a lease."""
    import ray

    try:
        found: dict[str, dict[str, int]] = ray.get(ray.get_actor(NAME, NAMESPACE).state.remote())
    except (ValueError, ray.exceptions.RayActorError):  # ValueError: there is no such actor
        return {}
    return found
