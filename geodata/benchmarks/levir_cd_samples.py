"""Eleven pairs of LEVIR-CD as published tools cut them to 256 pixels: enough to see that a head learns, not to compare.

Their names say to which split of LEVIR-CD they belong: three train, one chooses, seven are scored.
"""

from __future__ import annotations

from geodata.benchmarks import Benchmark
from geodata.benchmarks.levir_cd import CLASSES, TERMS, TRIPLES
from geodata.benchmarks.readers.pairs import Whole
from geodata.sensors import MASK, PHOTO

BENCHMARKS = (
    Benchmark(
        name="levir_cd_samples",
        title="LEVIR-CD, eleven pairs",
        task="change",
        classes=CLASSES,
        sensors=(PHOTO, MASK),
        splits={"train": 3, "val": 1, "test": 7},
        protocols=("levir_cd_samples_finetune",),
        metric="change_f1",
        url="https://justchenhao.github.io/LEVIR/",
        license=TERMS[0],
        attribution=TERMS[1],
        contained=("A/train_1_0000_0000.png, B/train_1_0000_0000.png, label/train_1_0000_0000.png",),
        reader=Whole("levir_cd_samples", TRIPLES),
    ),
)
