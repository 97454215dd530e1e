"""Who may ask a service now: concurrency and rate, leased for each endpoint.

Services state limits for an account, not for a process, and answer 429 to whoever crosses them. One governor
therefore counts for everybody: in one process it is the object here, in a cluster the same object in an actor that
all processes ask. It lets out no more leases than the endpoint allows, halves that number when the service says it
is too much, and lets it grow back slowly (additive increase, multiplicative decrease, as in TCP).
"""

from __future__ import annotations

import contextvars
import math
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

Outcome = Literal["ok", "throttled", "restricted", "failed"]
"""How a request ended: answered; refused as too many; answered with word that less will be allowed for a while; or
something that says nothing about load."""

LONGEST_PAUSE_S = 3600.0  # a service that asks for more is asked again after this
RESTRICTED_SHARE, RESTRICTED_S = (
    0.1,
    300.0,
)  # of the stated concurrency, and for how long after the last word of it
SHORTEST_WAIT_S, LONGEST_WAIT_S = 0.005, 1.0  # between two questions for a lease while all are out
PATIENCE_S = 60.0  # a holder that is silent for so long is gone, and its leases with it


@dataclass(frozen=True)
class Limits:
    """What an endpoint allows one account: requests at the same time, and requests in a second."""

    concurrency: int
    per_second: float

    def __post_init__(self) -> None:
        if self.concurrency < 1 or not 0 < self.per_second < math.inf:
            raise ValueError(
                f"an endpoint allows at least one request, not {self.concurrency} at once and {self.per_second} a second"
            )


@dataclass(frozen=True)
class EndpointState:
    """What is known of an endpoint: leases allowed now, out now and at most at once; given and refused in all."""

    limit: int
    in_flight: int
    peak: int
    granted: int
    throttled: int


Held = tuple[int, int, Limits]
"""Leases a holder has of an endpoint: those it knows of, these and those it has just asked for, and the limits."""


class GovernorLike(Protocol):
    """What whoever sends requests needs of a governor, near or far."""

    def acquire(self, endpoint: str, limits: Limits) -> float:
        """Seconds to wait before asking again; 0.0 when a lease is given, which must then be released."""
        ...

    def release(self, endpoint: str, outcome: Outcome, retry_after: float | None = None) -> None:
        """Give the lease back and say how the request ended; `retry_after` seconds close the whole endpoint."""
        ...


@dataclass
class _Endpoint:
    limits: Limits
    allowed: int
    held: Counter[str] = field(default_factory=Counter)  # leases by holder
    given: deque[float] = field(default_factory=deque)  # when the leases that are out were granted
    recent: deque[float] = field(default_factory=deque)  # times of grants within one window
    successes: int = 0
    echo: int = 0  # answers still to come of requests that were out when the limit was last halved
    closed_until: float = -math.inf
    restricted_until: float = -math.inf
    hold_s: float = 0.2  # how long a lease is held, on average; only decides how often to ask again
    peak: int = 0
    granted: int = 0
    throttled: int = 0

    @property
    def in_flight(self) -> int:
        return self.held.total()

    def ceiling(self, now: float) -> int:
        """Leases that the service as such allows now."""
        stated = self.limits.concurrency
        return stated if now >= self.restricted_until else max(1, int(stated * RESTRICTED_SHARE))

    def limit(self, now: float) -> int:
        """Leases that may be out now."""
        return min(self.allowed, self.ceiling(now))


class Governor:
    """Leases for any number of endpoints, and no more of them than allowed; safe to share between threads.

    The limit of an endpoint is halved on 'throttled', at most once for all requests that were out at that moment;
    'restricted' lowers it for some time; it grows by one for every `limit` requests answered. Leases belong to a
    `holder` (a process); what a holder has that was silent for `PATIENCE_S` is taken back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._endpoints: dict[str, _Endpoint] = {}
        self._seen: dict[str, float] = {}

    def acquire(self, endpoint: str, limits: Limits, holder: str = "") -> float:
        """Seconds to wait before asking again; 0.0 when a lease is given."""
        with self._lock:
            now = self._clock()
            self._hear(holder, now)
            one = self._endpoints.setdefault(endpoint, _Endpoint(limits, limits.concurrency))
            self._follow(one, limits)
            wait = max(one.closed_until - now, _rate_wait(one, now))
            if wait > 0:
                return wait
            if one.in_flight >= one.limit(now):
                return min(max(one.hold_s / 4, SHORTEST_WAIT_S), LONGEST_WAIT_S)
            one.held[holder] += 1
            one.given.append(now)
            one.recent.append(now)
            one.granted += 1
            one.peak = max(one.peak, one.in_flight)
            return 0.0

    def release(
        self,
        endpoint: str,
        outcome: Outcome,
        retry_after: float | None = None,
        holder: str = "",
    ) -> None:
        """Give a lease back. A lease that was taken back meanwhile, or that another governor gave, is not counted."""
        with self._lock:
            now = self._clock()
            self._hear(holder, now)
            one = self._endpoints.get(endpoint)
            if one is None:
                return
            if one.held[holder] > 0:
                one.held[holder] -= 1
                one.hold_s += 0.1 * (now - one.given.popleft() - one.hold_s)
            if retry_after is not None:
                one.closed_until = max(one.closed_until, now + min(max(retry_after, 0.0), LONGEST_PAUSE_S))
            self._learn(one, outcome, now)

    def state(self) -> dict[str, EndpointState]:
        """The endpoints asked for so far."""
        with self._lock:
            now = self._clock()
            return {
                name: EndpointState(one.limit(now), one.in_flight, one.peak, one.granted, one.throttled)
                for name, one in self._endpoints.items()
            }

    def alive(self, holder: str, held: Mapping[str, Held] | None = None) -> None:
        """A sign of life from a holder whose requests take long.

        With `held`, the leases it has at each endpoint: so a governor that has lost its memory learns of them, and
        a lease that was granted in an answer which never arrived is not lost for good.
        """
        with self._lock:
            now = self._clock()
            self._hear(holder, now)
            for name, (least, most, limits) in (held or {}).items():
                one = self._endpoints.setdefault(name, _Endpoint(limits, limits.concurrency))
                known = one.held[holder]
                one.held[holder] = min(max(known, least), most)
                for _ in range(known - one.held[holder]):
                    one.given.popleft()
                one.given.extend([now] * (one.held[holder] - known))

    def _hear(self, holder: str, now: float) -> None:
        self._seen[holder] = now
        gone = [name for name, seen in self._seen.items() if name and now - seen > PATIENCE_S]
        for name in gone:
            del self._seen[name]
            for one in self._endpoints.values():
                for _ in range(one.held.pop(name, 0)):
                    one.given.popleft()

    @staticmethod
    def _follow(one: _Endpoint, limits: Limits) -> None:
        """Take over limits that differ from those stated before: fewer at once, or as many more as are stated now."""
        if limits != one.limits:
            one.allowed = max(
                1, min(one.allowed + limits.concurrency - one.limits.concurrency, limits.concurrency)
            )
            one.limits = limits

    @staticmethod
    def _learn(one: _Endpoint, outcome: Outcome, now: float) -> None:
        before, one.echo = one.echo, max(0, one.echo - 1)
        if outcome == "throttled":
            one.throttled += 1
            if before == 0:
                one.allowed, one.successes, one.echo = max(1, one.allowed // 2), 0, one.in_flight
        elif outcome == "restricted":
            one.restricted_until = now + RESTRICTED_S
            one.allowed, one.successes = one.limit(now), 0
        elif outcome == "ok":
            one.successes += 1
            if one.successes >= one.allowed:
                one.allowed, one.successes = min(one.allowed + 1, max(one.allowed, one.ceiling(now))), 0


def _rate_wait(one: _Endpoint, now: float) -> float:
    """Seconds until a further grant keeps to the rate; never more grants in any window than it may hold."""
    window = max(1.0, 1.0 / one.limits.per_second)
    room = max(1, int(one.limits.per_second * window + 1e-9))
    while one.recent and one.recent[0] <= now - window:
        one.recent.popleft()
    return one.recent[-room] + window - now if len(one.recent) >= room else 0.0


_CURRENT: dict[str, GovernorLike] = {"process": Governor()}


def current() -> GovernorLike:
    """The governor of this process: one of its own, unless `use` gave it another."""
    return _CURRENT["process"]


def use(governor: GovernorLike) -> None:
    """Ask another governor from now on, as workers of a cluster do."""
    _CURRENT["process"] = governor


@dataclass
class Lease:
    """Leave to send one request. Whoever holds it may say how that went; an exception alone says 'failed'."""

    outcome: Outcome = "ok"
    retry_after: float | None = None


_LEASE: contextvars.ContextVar[Lease | None] = contextvars.ContextVar("lease", default=None)


@contextmanager
def lease(endpoint: str, limits: Limits) -> Iterator[Lease]:
    """Hold a lease for the length of a block; sleeps until it is granted."""
    governor = current()
    while (wait := governor.acquire(endpoint, limits)) > 0:
        time.sleep(wait * random.uniform(1.0, 1.25))  # those who wait together do not come together
    held = Lease()
    outer = _LEASE.set(held)
    try:
        yield held
    except BaseException:
        held.outcome = "failed" if held.outcome == "ok" else held.outcome
        raise
    finally:
        _LEASE.reset(outer)
        governor.release(endpoint, held.outcome, held.retry_after)


def restricted() -> None:
    """Say, from within a lease, that the service has announced to allow less for a while, though it answered."""
    held = _LEASE.get()
    if held is not None:
        held.outcome = "restricted"
