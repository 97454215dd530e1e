"""What a corpus costs before it is made: requests, bytes, hours and money, each with a range.

Everything here is arithmetic on values. What one chip takes comes from a pilot (`observations`), or from numbers that
are stated and marked as assumed; what a service or a cluster allows is stated too. The parts of a forecast are sums and
products of ranges, so the low end is the case in which everything goes well and the high end the one in which all of
it goes badly: a forecast is meant to be refused on its high end.

Why stages are fitted as sums over sums rather than by a regression with a constant: shards are so much larger than what
a shard costs besides its chips that the constant drowns, and a line through few points may have a negative slope.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

HOUR_S, DAY_S, MONTH_H = 3600.0, 86400.0, 730.0
GB = 1e9

STAGES = ("search", "fetch", "decode", "check", "write", "verify")
"""What a chip goes through: scenes are searched, waited for, decoded and cut; checked and proved; packed, hashed and
written; read back. 'fetch' is waiting, all others are CPU."""

EECU_TIERS = {"community": 150.0, "contributor": 1_000.0, "partner": 100_000.0}
"""Earth Engine compute a month of a noncommercial project, EECU-hours (Earth Engine quota tiers, April 2026)."""

FEWEST = 3
"""Pieces of a pilot from which a spread can be told; with fewer, a factor of `UNSURE` either way stands in for it."""
UNSURE = 2.0
_RESAMPLES = 1000


@dataclass(frozen=True)
class Range:
    """A number that is not known exactly: at least `low`, at most `high`, probably near `middle`; never negative."""

    low: float
    middle: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.middle <= self.high:
            raise ValueError(
                f"a range ascends from zero, unlike {self.low:g}, {self.middle:g}, {self.high:g}; order its numbers"
            )

    @classmethod
    def exactly(cls, value: float) -> Range:
        """A number that is known."""
        return cls(value, value, value)

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.middle + other.middle, self.high + other.high)

    def __mul__(self, other: Range | float) -> Range:
        by = other if isinstance(other, Range) else Range.exactly(other)
        return Range(self.low * by.low, self.middle * by.middle, self.high * by.high)

    def __truediv__(self, by: float) -> Range:
        return Range(self.low / by, self.middle / by, self.high / by)

    def as_dict(self) -> dict[str, float]:
        """Plain values, for JSON."""
        return {"low": self.low, "middle": self.middle, "high": self.high}


NOTHING = Range.exactly(0.0)


def total(ranges: Mapping[str, Range]) -> Range:
    """The sum of ranges by name."""
    return sum(ranges.values(), NOTHING)


def longest(ranges: Sequence[Range]) -> Range:
    """The largest at each end: how long things take that happen at the same time."""
    ends = [(one.low, one.middle, one.high) for one in (*ranges, NOTHING)]
    return Range(*(max(column) for column in zip(*ends, strict=True)))


def wilson(accepted: int, tried: int, z: float = 1.96) -> Range:
    """The share accepted with Wilson's score interval, 95% by default (E. B. Wilson, 1927): never below 0 or above 1.

    It treats chips as independent; those of one piece of a pilot lie together, so the truth is somewhat wider.
    """
    if tried < 1 or not 0 <= accepted <= tried:
        raise ValueError(f"{accepted} accepted of {tried} tried is no share; try at least one")
    share = accepted / tried
    centre = (share + z * z / (2 * tried)) / (1 + z * z / tried)
    half = z / (1 + z * z / tried) * math.sqrt(share * (1 - share) / tried + z * z / (4 * tried * tried))
    return Range(max(0.0, min(centre - half, share)), share, min(1.0, max(centre + half, share)))


def rate(amounts: Sequence[float], chips: Sequence[int], seed: int = 0) -> Range:
    """An amount per chip: all amounts over all chips, with the 95% range of a bootstrap over the pieces of a pilot.

    `amounts[k]` belongs to the `chips[k]` of piece k. With fewer than `FEWEST` pieces there is no spread to draw from,
    and a factor of `UNSURE` either way stands in for it.
    """
    if len(amounts) != len(chips) or not sum(chips):
        raise ValueError(f"{len(amounts)} amounts and {len(chips)} counts of chips tell no rate")
    given, counts = np.asarray(amounts, float), np.asarray(chips, float)
    middle = float(given.sum() / counts.sum())
    if len(given) < FEWEST:
        return Range(middle / UNSURE, middle, middle * UNSURE)
    chosen = np.random.default_rng(seed).integers(0, len(given), (_RESAMPLES, len(given)))
    drawn = counts[chosen].sum(1)
    rates = given[chosen].sum(1)[drawn > 0] / drawn[drawn > 0]
    low, high = (float(value) for value in np.quantile(rates, (0.025, 0.975)))
    return Range(min(low, middle), middle, max(high, middle))


@dataclass(frozen=True)
class Observation:
    """What one piece of a pilot took: neighbouring chips built as a shard.

    `tried` and `accepted` are chips by stratum, `seconds` by stage, `stored` bytes of the shard; `requests` and
    `waited` (seconds under way, summed over requests) are by endpoint, as is `allowed` (requests at once, and in a
    second); `moved` bytes are by sensor.
    """

    tried: Mapping[str, int]
    accepted: Mapping[str, int]
    rejected: Mapping[str, int]
    seconds: Mapping[str, float]
    stored: float
    requests: Mapping[str, float] = field(default_factory=dict)
    waited: Mapping[str, float] = field(default_factory=dict)
    moved: Mapping[str, float] = field(default_factory=dict)
    allowed: Mapping[str, tuple[int, float]] = field(default_factory=dict)

    @property
    def chips(self) -> int:
        """Chips tried."""
        return sum(self.tried.values())


@dataclass(frozen=True)
class Endpoint:
    """A service that is asked: what it allows at once and in a second, and how long it takes to answer (seconds)."""

    concurrency: int
    per_second: float
    answer_s: Range


@dataclass(frozen=True)
class Load:
    """What a chip takes, on average over the chips tried; `stored` is bytes per chip accepted.

    `accepted` is the share that passes. `seconds` are by stage, `requests` by endpoint, `moved` bytes by sensor; `eecu_s`
    is Earth Engine compute, in EECU-seconds.
    """

    accepted: Range
    seconds: Mapping[str, Range]
    requests: Mapping[str, Range]
    moved: Mapping[str, Range]
    stored: Range
    eecu_s: Range = NOTHING


def fitted(observations: Sequence[Observation], assumed: Load) -> Load:
    """The load that a pilot shows, each number with its range; what a pilot cannot show is as `assumed`.

    When not a chip was accepted, `stored` stays assumed too. Earth Engine tells nobody what a request has used.
    """
    chips = [one.chips for one in observations]
    kept = [sum(one.accepted.values()) for one in observations]

    def each(name: str) -> dict[str, Range]:
        keys = sorted({key for one in observations for key in getattr(one, name)})
        return {key: rate([getattr(one, name).get(key, 0.0) for one in observations], chips) for key in keys}

    return Load(
        accepted=wilson(sum(kept), sum(chips)),
        seconds={stage: value for stage, value in each("seconds").items() if stage in STAGES},
        requests=each("requests"),
        moved=each("moved"),
        stored=rate([one.stored for one in observations], kept) if sum(kept) else assumed.stored,
        eecu_s=assumed.eecu_s,
    )


@dataclass(frozen=True)
class Cluster:
    """Machines and prices. The defaults are assumptions, to be replaced by your own: a mid-size cloud instance on demand.

    `efficiency` is the share of CPU time that is spent on chips rather than lost to starts and stragglers;
    `network_gb_s` (gigabytes a second) is per node; `storage` is kept for `months`; `transfer` is what bytes cost on
    their way in, nothing where cluster and imagery share a region.
    """

    nodes: int = 4
    vcpus: int = 16
    dollars_per_node_hour: float = 0.80
    efficiency: float = 0.8
    network_gb_s: float = 1.25
    storage_dollars_per_gb_month: float = 0.023
    months: float = 1.0
    transfer_dollars_per_gb: float = 0.0

    def __post_init__(self) -> None:
        positive = (self.nodes, self.vcpus, self.efficiency, self.network_gb_s)
        prices = (self.dollars_per_node_hour, self.storage_dollars_per_gb_month, self.transfer_dollars_per_gb)
        if min(positive) <= 0 or min(prices) < 0 or self.months < 0 or self.efficiency > 1:
            raise ValueError(
                f"{self} is no cluster: counts and rates are above zero, prices and months not below it"
            )


@dataclass(frozen=True)
class Forecast:
    """What making a corpus would take. `hours` is the longest of CPU, network and each endpoint, which overlap."""

    chips: int
    tried: Range
    samples: Range
    requests: Mapping[str, Range]
    moved: Range
    stored: Range
    cpu_hours: Mapping[str, Range]
    hours_by: Mapping[str, Range]
    hours: Range
    eecu_hours: Range
    dollars_by: Mapping[str, Range]
    dollars: Range

    @property
    def days(self) -> Range:
        """The same as `hours`, in days."""
        return self.hours / 24.0

    def eecu_months(self) -> dict[str, Range]:
        """Months for which the compute would use up each tier of Earth Engine."""
        return {tier: self.eecu_hours / hours for tier, hours in EECU_TIERS.items()}


def tried_chips(chips: int, rounds: int, accepted: Range) -> tuple[Range, Range]:
    """Chips tried, and samples in the end, when each of `rounds` draws anew for whatever the last one refused."""

    def sums(share: float) -> tuple[float, float]:
        refused = 1.0 - share
        return chips * sum(refused**turn for turn in range(rounds)), chips * (1.0 - refused**rounds)

    low, middle, high = (sums(share) for share in (accepted.low, accepted.middle, accepted.high))
    return Range(high[0], middle[0], low[0]), Range(low[1], middle[1], high[1])


def forecast(
    chips: int, rounds: int, load: Load, endpoints: Mapping[str, Endpoint], cluster: Cluster
) -> Forecast:
    """What `chips` chips and up to `rounds` rounds of replacements take on a cluster; pays for nodes that have work.

    An endpoint takes as long as its rate or its concurrency makes it, whichever is longer; an endpoint of `load` that
    is none of `endpoints` is taken to answer at once.
    """
    tried, samples = tried_chips(chips, rounds, load.accepted)
    requests = {name: tried * one for name, one in load.requests.items()}
    moved, stored = tried * total(load.moved), samples * load.stored
    cpu = {
        stage: tried * value / (HOUR_S * cluster.efficiency)
        for stage, value in load.seconds.items()
        if stage != "fetch"
    }
    hours_by = {"cpu": total(cpu) / (cluster.nodes * cluster.vcpus)}
    hours_by["network"] = moved / (cluster.nodes * cluster.network_gb_s * GB * HOUR_S)
    for name, asked in requests.items():
        if name in endpoints:
            one = endpoints[name]
            hours_by[name] = (
                longest([asked / one.per_second, asked * one.answer_s / one.concurrency]) / HOUR_S
            )
    hours = longest(list(hours_by.values()))
    kept = nodes_kept(longest([hours_by["cpu"], hours_by["network"]]), hours, cluster.nodes)
    dollars_by = {
        "nodes": hours * kept * cluster.dollars_per_node_hour,
        "storage": stored * (cluster.storage_dollars_per_gb_month * cluster.months / GB),
        "transfer": moved * (cluster.transfer_dollars_per_gb / GB),
    }
    return Forecast(
        chips=chips,
        tried=tried,
        samples=samples,
        requests=requests,
        moved=moved,
        stored=stored,
        cpu_hours=cpu,
        hours_by=hours_by,
        hours=hours,
        eecu_hours=tried * load.eecu_s / HOUR_S,
        dollars_by=dollars_by,
        dollars=total(dollars_by),
    )


def nodes_kept(busy: Range, hours: Range, nodes: int) -> Range:
    """Nodes worth paying for at each end: one, or more where CPU and network, not a service, are what takes long."""
    pairs = ((busy.low, hours.low), (busy.middle, hours.middle), (busy.high, hours.high))
    needed = [
        max(1.0, float(math.ceil(nodes * part / whole - 1e-9))) if whole else 1.0 for part, whole in pairs
    ]
    return Range(min(needed), sorted(needed)[1], max(needed))


BUDGETS = ("chips", "requests", "bytes", "moved", "days", "hours", "eecu_hours", "dollars")
"""What a budget may limit: chips tried; requests, to all services together; bytes stored; bytes moved; and so on."""


def budget_of(text: str) -> dict[str, float]:
    """A budget from 'requests=1e6,bytes=2e12,days=30,dollars=500'. Raises ValueError with the names there are."""
    found: dict[str, float] = {}
    for item in text.split(","):
        name, _, value = item.strip().partition("=")
        if name not in BUDGETS:
            raise ValueError(f"a budget limits {', '.join(BUDGETS)}, not {name!r}; write for example days=30")
        try:
            found[name] = float(value)
        except ValueError:
            raise ValueError(
                f"a budget's {name} is a number, not {value!r}; write for example {name}=1e6"
            ) from None
        if not found[name] >= 0:
            raise ValueError(
                f"a budget's {name} is not below zero, unlike {value}; write for example {name}=1e6"
            )
    return found


def spending(found: Forecast) -> dict[str, Range]:
    """What a budget is compared with, by the names of `BUDGETS`."""
    return {
        "chips": found.tried,
        "requests": total(found.requests),
        "bytes": found.stored,
        "moved": found.moved,
        "days": found.days,
        "hours": found.hours,
        "eecu_hours": found.eecu_hours,
        "dollars": found.dollars,
    }


def over(found: Forecast, budget: Mapping[str, float]) -> dict[str, tuple[Range, float]]:
    """What may come out above its budget: the range expected and the limit. Judged by the high end of the range."""
    spent = spending(found)
    return {name: (spent[name], limit) for name, limit in budget.items() if spent[name].high > limit}
