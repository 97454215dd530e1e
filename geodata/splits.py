"""Which split a block of ground belongs to: by its own number, or dealt out so that every split sees the same classes.

Blocks are decided before any chip is drawn, so a corpus that grows moves no chip into another split.
"""

from __future__ import annotations

import hashlib

import numpy as np

from geodata.grid import unproject
from geodata.landcover import STRATA, LandCover
from geodata.lattice import Flags, Float, Ints
from geodata.quotas import apportion
from geodata.sites import Ground, Sites
from geodata.spec import SPLITS, Area, CorpusSpec, blocks


class Splits:
    """Which split a block belongs to, and whether a chip keeps its distance from the others."""

    def __init__(self, spec: CorpusSpec, landcover: LandCover) -> None:
        self.seed = spec.seed
        self.fractions = np.array([spec.split.fractions.get(name, 0.0) for name in SPLITS])
        self.single = bool((self.fractions >= 1).any())
        self.table: Ints | None = None
        if spec.split.assign == "balanced" and isinstance(spec.regions, Area):
            self.table = _balanced(spec, spec.regions, landcover)

    def block_split(self, row: Ints, col: Ints) -> Ints:
        """Place in `SPLITS` of each block."""
        if self.table is not None:
            return self.table[row, col]
        if self.single:
            return np.full(len(row), int(self.fractions.argmax()))
        edges = np.cumsum(self.fractions) / self.fractions.sum()
        last = int(np.flatnonzero(self.fractions).max())
        return np.minimum(np.searchsorted(edges, _hash(self.seed, row, col), side="right"), last)

    def of(self, ground: Ground, sites: Sites, which: Ints) -> tuple[Ints, Flags]:
        """Split (n,) of some sites, and whether all ground within half the guard belongs to the same split."""
        split = self.block_split(sites.block_row[which], sites.block_col[which])
        apart = np.ones(len(which), bool)
        if not self.single and len(which):
            for row, col in ground.touched(sites, which):
                apart &= self.block_split(row, col) == split
        return split, apart


def _hash(seed: int, row: Ints, col: Ints) -> Float:
    """A number in [0, 1) per block: three rounds of splitmix64 over seed, row and column."""
    state = np.full(len(row), seed & (2**64 - 1), np.uint64)
    with np.errstate(over="ignore"):
        for word in (row, col, np.zeros_like(row)):
            state = (state ^ word.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


_DEALS = 512
_PROBES = 16


def _balanced(spec: CorpusSpec, area: Area, landcover: LandCover) -> Ints:
    """Split of every block of an area, (rows, columns).

    Block counts follow the fractions exactly. Of 512 seeded ways to deal the blocks out, the one whose splits are
    nearest to the area's mix of classes, by the worst ratio of a class share in a split to that in the area, both
    taken at 16 x 16 points a block.
    """
    columns, rows = blocks(area, spec.split.block_m)
    counts = _class_counts(spec, area, landcover, columns, rows)
    sizes = apportion(columns * rows, {name: spec.split.fractions.get(name, 0.0) for name in SPLITS})
    dealt = np.repeat(np.arange(len(SPLITS)), [sizes[name] for name in SPLITS])
    seed = hashlib.sha256(f"{spec.seed}/blocks".encode()).digest()
    best, least = dealt, np.inf
    for deal in range(_DEALS):
        order = np.argsort(
            [hashlib.sha256(seed + f"{deal}/{block}".encode()).digest() for block in range(len(dealt))]
        )
        split = np.empty_like(dealt)
        split[order] = dealt
        worst = _unevenness(counts, split)
        if worst < least:
            best, least = split, worst
    return best.reshape(rows, columns)


def _class_counts(spec: CorpusSpec, area: Area, landcover: LandCover, columns: int, rows: int) -> Float:
    """Probed points per block and stratum asked for, (blocks, strata)."""
    wanted = [*spec.quotas.shares, *spec.quotas.fixed]
    offset = (np.arange(_PROBES) + 0.5) / _PROBES * spec.split.block_m
    xmin, _, _, ymax = area.bounds
    x = xmin + (np.arange(columns)[:, None] * spec.split.block_m + offset).ravel()
    y = ymax - (np.arange(rows)[:, None] * spec.split.block_m + offset).ravel()
    across, down = np.meshgrid(x, y)
    lon, lat = unproject(across.ravel(), down.ravel(), area.epsg)
    strata = landcover.classes.strata_of(landcover.at(lon, lat)).reshape(rows, _PROBES, columns, _PROBES)
    flat = strata.transpose(0, 2, 1, 3).reshape(rows * columns, -1)
    return np.stack([(flat == STRATA.index(name)).sum(1) for name in wanted], axis=1).astype(float)


def _unevenness(counts: Float, split: Ints) -> float:
    """The worst log ratio of a class share in a split to that in the whole."""
    total = counts.sum(0) + 1.0
    worst = 0.0
    for part in np.unique(split):
        mine = counts[split == part].sum(0) + 1.0
        ratio = np.log(mine / mine.sum()) - np.log(total / total.sum())
        worst = max(worst, float(np.abs(ratio).max()))
    return worst
