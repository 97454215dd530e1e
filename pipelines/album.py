"""Pictures of a corpus for its report: a chip of each stratum, and the map below them where it is one metric area."""

from __future__ import annotations

import math
from collections.abc import Iterator

from geodata import pictures
from geodata.build import opened_landcover
from geodata.corpus import Area, CorpusSpec
from geodata.grid import Grid
from geodata.manifest import Corpus
from geodata.sample import Sample
from geodata.shards import read_samples

__all__ = ["draw"]

EXAMPLES = 12  # chips drawn
OVERVIEW_PIXELS = 800


def draw(corpus: Corpus, spec: CorpusSpec) -> None:
    """Draw the pictures into the corpus's folder."""
    landcover = opened_landcover(spec.landcover)
    area = spec.regions
    cover = (landcover, _overview(area)) if isinstance(area, Area) and area.metric else None
    pictures.album(corpus.root / "pictures", _examples(corpus), landcover.classes, cover)


def _overview(area: Area) -> Grid:
    """An area in at most OVERVIEW_PIXELS a side."""
    xmin, ymin, xmax, ymax = area.bounds
    gsd = max(10.0, 10.0 * math.ceil(max(xmax - xmin, ymax - ymin) / OVERVIEW_PIXELS / 10.0))
    width, height = (max(1, int(extent / gsd)) for extent in (xmax - xmin, ymax - ymin))
    return Grid(area.epsg, (gsd, 0.0, xmin, 0.0, -gsd, ymax), height, width)


def _examples(corpus: Corpus) -> Iterator[Sample]:
    """The first sample of each stratum in the order of the shards, until EXAMPLES are found."""
    seen: set[str] = set()
    there = len(corpus.counts().get("stratum", {}))
    for record in corpus.records:
        if set(record.counts.get("stratum", {})) <= seen:
            continue
        for sample in read_samples(corpus.shard_path(record), footer_sha256=record.footer_sha256):
            if sample.stratum not in seen and len(seen) < EXAMPLES:
                seen.add(sample.stratum)
                yield sample
        if len(seen) >= min(EXAMPLES, there):
            return
