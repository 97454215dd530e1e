"""LEVIR-CD: 637 pairs of 1024 x 1024 pixels at 0.5 m with the buildings that changed between them (Chen and Shi 2020).

MTP cuts chips of 256 pixels side by side, PerA of 512: scores of one are not those of the other.
"""

from __future__ import annotations

from pathlib import Path

from geodata.benchmarks import Benchmark
from geodata.benchmarks.readers.pairs import Triples
from geodata.benchmarks.readers.pictures import split_named
from geodata.benchmarks.readers.tiles import Chips
from geodata.layout import Split
from geodata.sensors import MASK, PHOTO

CLASSES = ("unchanged", "changed")
TERMS = ("research only", "LEVIR-CD, Chen and Shi 2020; images from Google Earth")
GSD_M = 0.5
COUNTS = {"train": 445, "val": 64, "test": 128}


def split_of(path: Path) -> Split:
    """The split that a file's name begins with (train_1.png), or its folder's."""
    word = path.stem.partition("_")[0]
    return split_named(word if word in COUNTS else path.parent.parent.name, str(path))


TRIPLES = Triples(("A", "B", "label"), TERMS, split_of, gsd=GSD_M)


def _as(chip: int, protocols: tuple[str, ...]) -> Benchmark:
    windows = (1024 // chip) ** 2
    return Benchmark(
        name=f"levir_cd_{chip}",
        title=f"LEVIR-CD, chips of {chip}",
        task="change",
        classes=CLASSES,
        sensors=(PHOTO, MASK),
        splits={split: count * windows for split, count in COUNTS.items()},
        protocols=protocols,
        metric="change_f1",
        url="https://justchenhao.github.io/LEVIR/",
        license=TERMS[0],
        attribution=TERMS[1],
        contained=(
            "A/train_1.png, B/train_1.png, label/train_1.png",
            "the same for val and test, in one folder or in three",
        ),
        reader=Chips("levir_cd", chip, chip, TRIPLES.scenes, TRIPLES.load, TRIPLES.absent),
    )


BENCHMARKS = (_as(256, ("mtp_levir_cd", "skysense_levir_cd")), _as(512, ("pera_levir_cd",)))
