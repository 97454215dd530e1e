"""Which squares of ground a corpus is made of: seeded points, exact quotas, no two chips too near, splits apart.

The Earth is a fixed lattice of chip *sites*, as far apart as chips may come. Candidates come in streams, one for each
region, or one for each stratum of a region where the map says where its strata lie. Candidate k of a stream is a
function of (seed, stream, k) alone: a point drawn evenly over the ground, moved to its site; the site's centre decides
continent, class and split. So whether a candidate is taken depends on nothing but the candidates before it in its own
stream, and from that follow the promises, without any locks or order: the same plan from any batch size or number of
workers, a larger count that only appends, replacements for rejected chips that continue where the draw stopped.

Why sites rather than distances between points: rejecting a point for being near another one makes strata depend on
each other, and then a larger corpus does not begin with the smaller.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geodata.chips import COLUMNS, Chip, Plan, ShardPlan, Shortfall
from geodata.landcover import STRATA, Indexed, LandCover
from geodata.lattice import Float, Ints, lattice
from geodata.quotas import quotas
from geodata.sites import Ground, Sites, cells_of, ground
from geodata.spec import Continents, CorpusSpec
from geodata.splits import Splits

__all__ = ["OUTCOMES", "Chip", "Plan", "ShardPlan", "Shortfall", "more", "plan", "quotas", "uniform"]

OUTCOMES = ("outside", "zone edge", "no class", "other stratum", "guard", "taken", "full", "chip")
"""What becomes of a candidate: off the region, or water too far off the land; too near a UTM zone's edge, or beyond the
latitudes that UTM or web Mercator has; on ground without a class, or of a stratum not asked for; too near another
split; on a site already used; in a stratum already full; or a chip."""
_OUTSIDE, _EDGE, _UNLABELLED, _OTHER, _GUARD, _TAKEN, _FULL, _CHIP = range(8)
_WATER = STRATA.index("watershed")


def plan(spec: CorpusSpec, landcover: LandCover, *, batch: int | None = None, workers: int = 1) -> Plan:
    """The chips of a corpus, drawn by `workers` threads, each `batch` candidates at a time: neither changes the result.

    Quotas that cannot be met end as shortfalls of the plan. Raises ValueError when no chip at all is found.
    """
    wanted = quotas(spec)
    empty = Plan(
        place_id=spec.place_id,
        chip=spec.chip,
        region_layout=spec.region_layout,
        regions=_region_names(spec, wanted),
        quotas=wanted,
        columns={name: np.empty(0, kind) for name, kind in COLUMNS.items()},
        candidates={},
        shares={},
    )
    found = _extended(empty, spec, landcover, wanted, batch, workers)
    if not len(found):
        seen = {name: sum(tally[name] for tally in found.candidates.values()) for name in OUTCOMES}
        raise ValueError(
            f"corpus {spec.address} has no chip: of its candidates {_listed(seen)}; check that region, map and "
            f"strata meet and that guard and spacing leave room"
        )
    return found


def more(
    before: Plan, spec: CorpusSpec, landcover: LandCover, rejected: Iterable[str], *, workers: int = 1
) -> Plan:
    """The plan with one more round: a further draw for each point rejected so far (chip ids, of all rounds) and not yet
    replaced. A point of several chips is rejected when all of them are. The chips of `before` stay as they are; where
    strata are exhausted, shortfalls say so.
    """
    wanted = {region: dict(strata) for region, strata in before.quotas.items()}
    for (cell, stratum), count in before.lost(rejected).items():
        wanted[cell][stratum] += count
    return _extended(before, spec, landcover, wanted, None, workers)


def _region_names(spec: CorpusSpec, wanted: Mapping[str, Any]) -> tuple[str, ...]:
    """Cells first, then continents that only fixed quotas reach."""
    return tuple(
        dict.fromkeys([*wanted, *(spec.regions.weights if isinstance(spec.regions, Continents) else ())])
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


@dataclass(frozen=True)
class _Stream:
    """Candidates for some strata of one region: `wanted` of each, of which `have` are drawn before.

    `used` (sorted) are the keys of the sites they took. Other streams' sites are of other ground or other strata.
    """

    name: str
    region: str
    land: Ground
    wanted: Mapping[str, int]
    have: Mapping[str, Ints]
    used: Ints


def _extended(
    before: Plan,
    spec: CorpusSpec,
    landcover: LandCover,
    wanted: Mapping[str, Mapping[str, int]],
    batch: int | None,
    workers: int,
) -> Plan:
    """`before` with one round more that fills `wanted`, the counts of all rounds together."""
    streams = _streams(before, spec, landcover, wanted)
    one = functools.partial(_draw, spec, landcover, Splits(spec, landcover), batch)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        drawn = list(pool.map(one, streams) if workers > 1 else map(one, streams))
    columns: list[Mapping[str, NDArray[Any]]] = [before.columns]
    tallies: dict[str, dict[str, int]] = {region: dict.fromkeys(OUTCOMES, 0) for region in wanted}
    shares: dict[str, dict[str, float]] = {region: {} for region in wanted}
    shortfalls = []
    for stream, result in zip(streams, drawn, strict=True):
        size = len(result.columns["draw"])
        constant: dict[str, NDArray[Any]] = {
            "round": np.full(size, before.rounds, np.int16),
            "cell": np.full(size, before.regions.index(stream.region), np.int8),
        }
        columns.append(lattice(spec.chip).spread({**result.columns, **constant}))
        for name, count in result.tally.items():
            tallies[stream.region][name] += count
        shares[stream.region] |= result.shares
        counts = np.bincount(result.columns["stratum"], minlength=len(STRATA))
        for name, count in stream.wanted.items():
            found = len(stream.have[name]) + int(counts[STRATA.index(name)])
            if found < count:
                shortfalls.append(Shortfall(stream.region, name, count, found, result.examined))
    merged = {
        name: np.concatenate([np.asarray(part[name]).astype(kind, copy=False) for part in columns])
        for name, kind in COLUMNS.items()
    }
    account = (before.candidates, before.shares) if before.rounds else (tallies, shares)
    return replace(
        before, columns=merged, candidates=account[0], shares=account[1], shortfalls=tuple(shortfalls)
    )


def _streams(
    before: Plan, spec: CorpusSpec, landcover: LandCover, wanted: Mapping[str, Mapping[str, int]]
) -> list[_Stream]:
    """One stream a region; where the map has an index, one for each stratum of a region, in the order of `wanted`."""
    asked = dict.fromkeys(stratum for strata in wanted.values() for stratum in strata)
    index = landcover.index(list(asked)) if isinstance(landcover, Indexed) else None
    boxes = {name: cells_of(spec, name, index, wanted) for name in asked} if index else {}
    keys, streams = lattice(spec.chip).keys(before.columns), []
    for region, strata in wanted.items():
        mine = before.columns["cell"] == before.regions.index(region)
        parts: dict[str, Float | None] = {name: boxes[name][region] for name in strata if boxes}
        whole = not parts or any(part is None for part in parts.values())
        for names in [tuple(strata)] if whole else [(name,) for name in strata]:
            places = [STRATA.index(name) for name in names]
            taken = keys[mine & np.isin(before.columns["stratum"], places)]
            land = ground(spec, region, before.regions, None if whole else parts[names[0]])
            streams.append(
                _Stream(
                    name=region if whole else f"{region}/{names[0]}",
                    region=region,
                    land=land,
                    wanted={name: strata[name] for name in names},
                    have={name: before.draws(region, name) for name in names},
                    used=np.sort(taken),
                )
            )
    return streams


@dataclass(frozen=True)
class _Drawn:
    columns: dict[str, NDArray[Any]]
    tally: dict[str, int]
    shares: dict[str, float]
    examined: int


_LEAST_CANDIDATES = 1 << 16
_BATCH, _LARGEST_BATCH = 1 << 13, 1 << 18


def _draw(
    spec: CorpusSpec,
    landcover: LandCover,
    splits: Splits,
    batch: int | None,
    stream: _Stream,
) -> _Drawn:
    """New chips of one stream, in order of stratum and draw, until every stratum has its count or `tries` is up.

    Starts after the last chip of the least advanced stratum that still wants some: all before it are `used`.
    """
    land, wanted, have, used = stream.land, stream.wanted, stream.have, stream.used
    left = {STRATA.index(name): count - len(have[name]) for name, count in wanted.items()}
    wanting = [name for name, count in wanted.items() if count > len(have[name])]
    start = min((int(have[name].max(initial=-1)) + 1 for name in wanting), default=0)
    limit = max(spec.tries * sum(wanted.values()), _LEAST_CANDIDATES) if wanting else start
    limit = limit if land.extent else start
    key = int.from_bytes(hashlib.sha256(f"{spec.seed}/{stream.name}".encode()).digest()[:16], "big")
    outcomes, strata_seen, kept = np.zeros(len(OUTCOMES), np.int64), np.zeros(len(STRATA), np.int64), []
    at, size = start, batch or _BATCH
    while at < limit and any(count > 0 for count in left.values()):
        sites = land.sites(uniform(key, at, min(size, limit - at)))
        stratum, split, outcome = _judge(land, sites, landcover, splits, left)
        used, end = _accept(sites.key, stratum, outcome, left, used)
        outcomes += np.bincount(outcome[:end], minlength=len(OUTCOMES))
        strata_seen += np.bincount(stratum[:end][stratum[:end] >= 0], minlength=len(STRATA))
        chosen = np.flatnonzero(outcome[:end] == _CHIP)
        kept.append(_columns(sites, stratum, split, chosen, at))
        at += end
        size = batch or min(2 * size, _LARGEST_BATCH)
    examined = at - start
    counted = range(len(STRATA)) if stream.name == stream.region else [STRATA.index(name) for name in wanted]
    shares = {STRATA[index]: land.extent * int(strata_seen[index]) / max(1, examined) for index in counted}
    merged = {
        name: np.concatenate([part[name] for part in kept]) if kept else np.empty(0, COLUMNS[name])
        for name in _SITE_COLUMNS
    }
    order = np.lexsort((merged["draw"], merged["stratum"]))
    return _Drawn(
        {name: values[order] for name, values in merged.items()},
        dict(zip(OUTCOMES, outcomes.tolist(), strict=True)),
        {name: share for name, share in shares.items() if share},
        at,
    )


_SITE_COLUMNS = tuple(name for name in COLUMNS if name not in ("round", "cell"))


def uniform(key: int, start: int, count: int) -> Float:
    """Numbers in [0, 1), (count, 4), for candidates `start` and on: row k is a function of (key, k) alone.

    Philox 4 x 64 counts blocks of four words, so a candidate is a block.
    """
    generator = np.random.Philox(key=key)
    generator.advance(start)
    return (generator.random_raw(4 * count).reshape(count, 4) >> 11) * 2.0**-53


def _judge(
    land: Ground, sites: Sites, landcover: LandCover, splits: Splits, left: Mapping[int, int]
) -> tuple[Ints, Ints, Ints]:
    """Stratum, split and outcome (N,) of each site by itself; what may become a chip says 'chip'."""
    stratum, split = np.full(len(sites.left), -1), np.zeros(len(sites.left), np.int64)
    outcome = np.full(len(sites.left), _CHIP)
    outcome[sites.edge] = _EDGE
    outcome[~(sites.inside | sites.wet)] = _OUTSIDE
    inside = np.flatnonzero(outcome == _CHIP)
    found = landcover.classes.strata_of(landcover.at(sites.lon[inside], sites.lat[inside]))
    there = np.where(found == _WATER, sites.wet[inside], sites.inside[inside])
    outcome[inside[~there]] = _OUTSIDE
    inside = inside[there]
    stratum[inside] = found[there]
    outcome[inside[stratum[inside] < 0]] = _UNLABELLED
    asked = np.isin(stratum, list(left))
    outcome[inside[(stratum[inside] >= 0) & ~asked[inside]]] = _OTHER
    alive = np.flatnonzero(outcome == _CHIP)
    split[alive], apart = splits.of(land, sites, alive)
    outcome[alive[~apart]] = _GUARD
    return stratum, split, outcome


def _accept(keys: Ints, stratum: Ints, outcome: Ints, left: dict[int, int], used: Ints) -> tuple[Ints, int]:
    """Settle who becomes a chip, in order of draw; updates `outcome` and `left`.

    Returns the used sites (sorted) and how many candidates were needed: all, or up to the one that filled the last
    quota.
    """
    alive = np.flatnonzero(outcome == _CHIP)
    _, first = np.unique(keys[alive], return_index=True)
    new = np.zeros(len(alive), bool)
    new[first] = True
    if len(used):
        nearest = np.minimum(np.searchsorted(used, keys[alive]), len(used) - 1)
        new &= used[nearest] != keys[alive]
    outcome[alive[~new]] = _TAKEN
    for index, room in left.items():
        mine = np.flatnonzero(stratum[alive] == index)
        taken = mine[new[mine]][: max(room, 0)]
        if len(taken) >= room:
            last = taken[-1] if room > 0 else -1
            outcome[alive[mine[mine > last]]] = _FULL
        left[index] = room - len(taken)
    chosen = np.flatnonzero(outcome == _CHIP)
    filled = all(room <= 0 for room in left.values()) and len(chosen)
    return np.union1d(used, keys[chosen]), int(chosen[-1]) + 1 if filled else len(keys)


def _columns(sites: Sites, stratum: Ints, split: Ints, chosen: Ints, start: int) -> dict[str, NDArray[Any]]:
    values = {
        name: getattr(sites, name) for name in _SITE_COLUMNS if name not in ("stratum", "split", "draw")
    }
    values |= {"stratum": stratum, "split": split, "draw": start + np.arange(len(stratum))}
    return {name: column[chosen] for name, column in values.items()}
