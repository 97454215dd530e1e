"""How many chips of what: totals shared out exactly, over strata and over continents."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TypeVar

from geodata.spec import Area, Continents, CorpusSpec

Key = TypeVar("Key")

ANYWHERE = "anywhere"
"""The region of fixed quotas on continents: all of them together."""


def apportion(total: int, weights: Mapping[Key, float]) -> dict[Key, int]:
    """Whole parts of `total` in proportion to `weights`, summing exactly to it: largest remainder, in fractions.

    Equal remainders go to whichever comes first.
    """
    exact = {key: Fraction(str(weight)) for key, weight in weights.items()}
    whole = sum(exact.values())
    parts = {key: divmod(total * weight, whole) for key, weight in exact.items()}
    missing = total - sum(int(part) for part, _ in parts.values())
    first = sorted(parts, key=lambda key: -parts[key][1])[:missing]
    return {key: int(part) + (key in first) for key, (part, _) in parts.items()}


def quotas(spec: CorpusSpec) -> dict[str, dict[str, int]]:
    """Chips wanted per region and stratum; fixed quotas on continents are one more region, 'anywhere'.

    Continents and strata are both met exactly: counts per continent and per stratum are apportioned first, and the
    cells between them so that rows and columns add up.
    """
    asked = spec.quotas
    if not isinstance(spec.regions, Continents):
        name = spec.regions.name if isinstance(spec.regions, Area) else "everywhere"
        return (
            {name: {**apportion(asked.count, asked.shares), **asked.fixed}}
            if asked.shares
            else {name: dict(asked.fixed)}
        )
    table = _table(asked.count, spec.regions.weights, asked.shares) if asked.shares else {}
    return {**table, ANYWHERE: dict(asked.fixed)} if asked.fixed else table


def _table(
    count: int, weights: Mapping[str, float], shares: Mapping[str, float]
) -> dict[str, dict[str, int]]:
    """Continent x stratum: each row is shared out by what the strata still lack, so the last one ends even."""
    lacking = apportion(count, shares)
    table = {}
    for region, size in apportion(count, weights).items():
        table[region] = apportion(size, lacking) if size else dict.fromkeys(lacking, 0)
        lacking = {stratum: number - table[region][stratum] for stratum, number in lacking.items()}
    return table
