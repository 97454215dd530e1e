"""What the prototypes of regions have come to mean: a map of the one that each cell attends to, beside the land cover.

As figure 5 of SkySense shows it, and in numbers: how much prototypes say of the land cover that they were never told, and
what is said as well by chance, or by the prototypes of another region. Places are looked at in the most visited regions.

Letters: B tiles, N = n x n cells of a tile, D width, K prototypes of a region.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from training import multiview, probe, regions
from training import series as dated
from training.augment import PADDING
from training.correspondence import TilePlaces
from training.encoders import Encoder
from training.encoders.spatiotemporal import Spatiotemporal
from training.feed import Samples
from training.known import COVER
from training.metrics import IGNORE
from training.multiview import FINE, SensorViews
from training.observation import Observation
from training.prototypes import Prototypes
from training.reading import Crew, Row, Source
from training.recipe import Stream
from training.recipe import replace as replace_stream

__all__ = [
    "Charted",
    "Tile",
    "agreement",
    "attended",
    "central",
    "centre",
    "charted",
    "cover",
    "summary",
    "tiles",
]

CELLS = 32  # a side of a map, at most
PATCH = 4  # cells a side of what the Sentinel encoders see as one
SHOWN = 4  # regions
EACH = 2  # tiles of a region: of the first CANDIDATES those whose land cover is most varied
CANDIDATES = 8
GROUPS = 64  # of rows that are looked through for places of a region, evenly chosen


@dataclass(frozen=True)
class Tile:
    """The middle of one tile: prototypes (n, n) and land cover (n, n) by cell, with one of its images (S, m, m)."""

    name: str
    prototypes: Tensor
    cover: Tensor | None
    image: Tensor
    bands: tuple[str, ...]


@dataclass(frozen=True)
class Charted:
    """A region that was seen in pretraining: its tiles, and the prototypes of another region on them (B, N)."""

    region: int
    visits: int
    tiles: tuple[Tile, ...]
    elsewhere: Tensor | None


def charted(encoder: Encoder, stream: Stream) -> list[Charted]:
    """The most visited regions of which the stream has tiles.

    Raises ValueError for an encoder without prototypes of regions, and where none of the stream's regions was visited.
    """
    if not isinstance(encoder, Spatiotemporal) or encoder.places is None:
        raise ValueError(f"{type(encoder).__name__} keeps no prototypes of regions")
    places = encoder.places
    found = tiles(stream, places)
    if not found:
        raise ValueError("no region was visited in pretraining of which the corpus has a tile")
    made, order = [], list(found)
    for number, region in enumerate(order):
        samples, other = found[region], order[(number + 1) % len(order)]
        cells = _cells(encoder, samples)  # (B, N, D)
        own, foreign = (attended(places, cells, torch.full((len(cells),), one)) for one in (region, other))
        made.append(
            Charted(
                region,
                int(places.visits[region]),
                tuple(_tiles(encoder, samples, own)),
                None if other == region else foreign,
            )
        )
    return made


def tiles(stream: Stream, places: Prototypes) -> dict[int, Samples]:
    """region -> a few of its tiles, of the regions most visited and in their order; of others nothing is decoded."""
    source = Source(stream)
    found: dict[int, list[Row]] = {}
    for part in range(0, len(source.rows), -(-len(source.rows) // GROUPS)):
        group, rows = source.read(part), source.rows[part]
        at = torch.from_numpy(np.stack([group.numbers["lon"][rows], group.numbers["lat"][rows]], 1))
        for row, region in zip(rows.tolist(), places.region(at).tolist(), strict=True):
            held = found.setdefault(region, [])
            if len(held) < CANDIDATES:
                held.append(Row(group, row))
    visits = places.visits.tolist()
    seen = [region for region in found if region != regions.NOWHERE and visits[region]]
    chosen = sorted(seen, key=lambda region: (-visits[region], region))[:SHOWN]
    with Crew(0) as crew:
        return {region: source.batch(_varied(stream, found[region], crew), crew) for region in chosen}


def _varied(stream: Stream, rows: list[Row], crew: Crew) -> list[Row]:
    """EACH of some rows: where land cover is stored, those in which it has the greatest entropy."""
    if COVER in stream.layers:
        codes = (
            Source(replace_stream(stream, layers=(COVER,))).batch(rows, crew).layers[COVER]
        )  # (B, 1, 1, H, W)
        shares = [one.flatten().long().bincount().float() / max(1, one.numel()) for one in codes]
        rows = [rows[place] for place in sorted(range(len(rows)), key=lambda place: -_entropy(shares[place]))]
    return rows[:EACH]


def _entropy(shares: Tensor) -> float:
    return float(torch.special.entr(shares).sum())


@torch.no_grad()
def attended(places: Prototypes, cells: Tensor, region: Tensor) -> Tensor:
    """The prototype to which each cell attends most: (B, N) int64, of cells (B, N, D) in regions (B,).

    for each tile b, for each cell s: the k of the greatest cells[b, s] . held[region[b], k]   (eq. 3)
    """
    held = places.held[region.to(places.held.device)].to(cells)  # (B, K, D)
    return (cells @ held.transpose(1, 2)).argmax(-1)


def central(encoder: Encoder, samples: Samples, most: int = CELLS) -> Observation:
    """The middle of tiles, at most `most` cells a side, as they lie, with all dates evenly spread."""
    if not isinstance(encoder, Spatiotemporal):
        raise ValueError(f"{type(encoder).__name__} sees one image, not several sensors' of one place")
    side = centre(samples, most)[1]
    dates = {f"{name}_dates": samples.dates[name].shape[1] for name in ("s2", "s1") if name in samples.dates}
    whole = TilePlaces(window=side, large=(1.0, 1.0), count=0)
    views = SensorViews.model_validate({"places": whole, "cells": side, **dates})
    region = None if encoder.places is None else encoder.places.region(samples.lonlat)
    both = multiview.sights(samples, encoder.spec.reads, views, region, fixed=True).large
    return replace(_rows(both, slice(len(samples))), region=region)


def centre(samples: Samples, most: int = CELLS) -> tuple[int, int]:
    """The first of the cells in the middle of a tile, and how many they are a side: whole patches, where there is room."""
    whole = _side(samples)
    side = min(most, whole)
    side -= side % PATCH if side > PATCH else 0
    return (whole - side) // 2, side


def _side(samples: Samples) -> int:
    """Cells a side of a tile."""
    sides = [samples.layers[name].shape[-1] for name in ("s2", "s1") if name in samples.layers]
    return max(sides, default=0) or samples.layers["hr"].shape[-1] // FINE


def cover(codes: Tensor, samples: Samples, most: int = CELLS) -> Tensor:
    """The cells (B, n, n) of a map (B, H, W) in the middle of tiles, each the value at its centre."""
    whole = _side(samples)
    if codes.shape[-1] % whole or codes.shape[-2] != codes.shape[-1]:
        raise ValueError(
            f"land cover of {tuple(codes.shape[-2:])} pixels does not lie on {whole} x {whole} cells: store a whole "
            "number of pixels a cell"
        )
    finer = codes.shape[-1] // whole
    first, side = centre(samples, most)
    kept = slice(first * finer + finer // 2, (first + side) * finer, finer)
    return codes[:, kept, kept]


def agreement(maps: Tensor, codes: Tensor) -> float | None:
    """The normalised mutual information of prototypes and land cover of the same cells, from 0 (none) to 1.

    2 I / (H + H'), over cells whose land cover is known; None where that is nowhere, or one class alone, of which
    nothing can be said.
    """
    maps, codes = maps.flatten(), codes.flatten()
    known = codes != IGNORE
    if len(codes[known].unique()) < 2:
        return None
    return float(normalized_mutual_info_score(codes[known].numpy(), maps[known].numpy()))


def summary(found: Sequence[Charted], places: Prototypes) -> dict[str, Any]:
    """Numbers for a report: all regions visited with where they lie, those charted, and the mean of these by cells."""
    spec = places.spec
    visited = [(region, count) for region, count in enumerate(places.visits.tolist()) if count]
    bounds = {region: regions.bounds(region, spec.side, spec.law) for region, _ in visited}
    rows = [_row(one) | {"where": _where(*bounds[one.region])} for one in found]
    return {
        "side": spec.side,
        "count": spec.count,
        "visits": [[*bounds[region], count] for region, count in visited],
        "shown": rows,
        "all": {name: _mean(rows, name) for name in ("nmi", "shuffled", "elsewhere")},
    }


def _where(west: float, south: float, east: float, north: float) -> str:
    return f"{west:.3g} to {east:.3g}° east, {south:.3g} to {north:.3g}° north"


def _row(one: Charted) -> dict[str, Any]:
    """Of one region how many prototypes are used, and what they say of the land cover beside both controls."""
    maps = torch.stack([tile.prototypes for tile in one.tiles])  # (B, n, n)
    covers = [tile.cover for tile in one.tiles if tile.cover is not None]
    row: dict[str, Any] = {
        "region": one.region,
        "visits": one.visits,
        "tiles": len(one.tiles),
        "cells": maps.numel(),
        "used": len(maps.unique()),
    }
    if not covers:
        return row | dict.fromkeys(("nmi", "shuffled", "elsewhere"))
    codes = torch.stack(covers)
    order = torch.randperm(maps.numel(), generator=torch.Generator().manual_seed(0))
    return row | {
        "nmi": agreement(maps, codes),
        "shuffled": agreement(maps.flatten()[order], codes),
        "elsewhere": None if one.elsewhere is None else agreement(one.elsewhere, codes),
    }


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    held = [(row[name], row["cells"]) for row in rows if row[name] is not None]
    total = sum(cells for _, cells in held)
    return math.fsum(value * cells for value, cells in held) / total if total else None


@torch.no_grad()
def _cells(encoder: Spatiotemporal, samples: Samples) -> Tensor:
    """Fused cells (B, N, D) of the middle of tiles, on the host; one tile at a time, for they are larger than views."""
    device = next(encoder.parameters()).device
    seen = central(encoder, samples.to(device))
    rows = []
    with probe.judged(encoder):
        for number in range(len(samples)):
            fused = encoder(_rows(seen, slice(number, number + 1))).patches  # (1, N, 2 D)
            rows.append(fused[..., : encoder.spec.fusion.width].float().cpu())
    return torch.cat(rows)


def _rows(seen: Observation, which: slice) -> Observation:
    """Some of the places of an observation, which lie nowhere."""
    images, days, present = (
        {name: some[which] for name, some in part.items()} for part in (seen.images, seen.days, seen.present)
    )
    return Observation(images, days, present)


def _tiles(encoder: Spatiotemporal, samples: Samples, maps: Tensor) -> Iterator[Tile]:
    _, side = centre(samples)
    codes = samples.layers.get(COVER)
    covers = None if codes is None or not codes.numel() else cover(codes[:, 0, 0].long(), samples)
    for number, name in enumerate(samples.ids):
        layer = next(one.layer for one in encoder.spec.reads.values() if _held(samples, one.layer, number))
        yield Tile(
            name,
            maps[number].unflatten(0, (side, side)),
            None if covers is None else covers[number],
            _middle(samples, layer, number),
            samples.bands[layer],
        )


def _held(samples: Samples, layer: str, number: int) -> bool:
    return bool((samples.dates[layer][number] != PADDING).any())


def _middle(samples: Samples, layer: str, number: int) -> Tensor:
    """The ground of a tile's map in an image (S, m, m) of a layer, the one in the middle of its series."""
    date = int(dated.spread_dates(samples, layer, 1)[number, 0])
    image = samples.layers[layer][number, date].to(torch.int32)
    whole, (first, side) = centre(samples, 1 << 30)[1], centre(samples)
    finer = image.shape[-1] // whole
    kept = slice(first * finer, (first + side) * finer)
    return image[:, kept, kept]
