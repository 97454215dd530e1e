"""CDD (also SVCD): 16,000 pairs of 256 x 256 pixels at 0.03 to 1 m that differ by season, and what changed (Lebedev 2018).

The masks were published as JPEG, so they are black and white but for the noise of that; the release holds 2,998 pairs of
`val` where papers write 3,000.
"""

from __future__ import annotations

from pathlib import Path

from geodata.benchmarks import Benchmark
from geodata.benchmarks.readers.pairs import Triples, Whole
from geodata.benchmarks.readers.pictures import split_named
from geodata.layout import Split
from geodata.sensors import MASK, PHOTO

CLASSES = ("unchanged", "changed")
TERMS = ("research only", "CDD, Lebedev et al. 2018; images from Google Earth")


def split_of(path: Path) -> Split:
    """The split whose folder holds A, B and OUT."""
    return split_named(path.parent.parent.name, str(path))


BENCHMARKS = (
    Benchmark(
        name="cdd",
        title="CDD, season-varying change",
        task="change",
        classes=CLASSES,
        sensors=(PHOTO, MASK),
        splits={"train": 10_000, "val": 3_000, "test": 3_000},
        protocols=("mtp_cdd",),
        metric="change_f1",
        url="https://doi.org/10.5194/isprs-archives-XLII-2-565-2018",
        license=TERMS[0],
        attribution=TERMS[1],
        contained=("Real/subset/train/A/00000.jpg, B/00000.jpg, OUT/00000.jpg", "the same for val and test"),
        reader=Whole("cdd", Triples(("A", "B", "OUT"), TERMS, split_of)),
    ),
)
