"""Vegetation of Mato Grosso from a year of MODIS: 1,218 places with twelve values of NDVI, four classes.

A part of the samples of the R package `sits`, small enough for any machine. A sample is one pixel; its months are dates.
Samples of one cell of 0.02 degrees are kept together when they are divided; the forest all lies in a few of them.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np

from geodata.benchmarks import Benchmark, Labelled
from geodata.benchmarks.readers.points import by_place, rows
from geodata.benchmarks.readers.rasters import stack
from geodata.folders import Picture
from geodata.sensors import MODIS_NDVI

CLASSES = ("Cerrado", "Forest", "Pasture", "Soy_Corn")
TERMS = ("GPL-2.0 (samples), free (MODIS)", "sits, Simoes et al. 2021; INPE, EMBRAPA; MOD13Q1, NASA LP DAAC")
CELL = 0.02
TABLE = "samples_modis_ndvi.parquet"


class Series:
    """A table of places; a sample's path is its row."""

    def missing(self, root: Path) -> list[str]:
        """The table."""
        return [] if (root / TABLE).exists() else [f"there is no {TABLE}"]

    def planned(self, root: Path) -> list[Picture]:
        """Every row. Raises ValueError for a label that is none of the classes."""
        return [
            Picture(
                f"modis_sinop-{number:04d}",
                str(number),
                by_place(row["longitude"], row["latitude"], CELL),
                (_code(row["label"]),),
            )
            for number, row in enumerate(rows(root / TABLE))
        ]

    def read(self, root: Path, one: Picture) -> Labelled:
        """One pixel through a year."""
        row = rows(root / TABLE)[int(one.path)]
        values = np.round(np.array(row["ndvi"], np.float64) / MODIS_NDVI.scale).astype(np.int16)
        days = [date.fromisoformat(day) for day in row["dates"]]
        layer = stack(MODIS_NDVI, values[:, None, None, None], TERMS, days, names=[one.path] * len(days))
        return Labelled(
            {"ndvi": layer}, {"class": _code(row["label"])}, row["longitude"], row["latitude"], one.path
        )


def _code(name: str) -> int:
    if name not in CLASSES:
        raise ValueError(f"label {name!r} is none of {', '.join(CLASSES)}; is this the table it should be?")
    return CLASSES.index(name)


BENCHMARKS = (
    Benchmark(
        name="modis_sinop",
        title="MODIS Sinop, vegetation from series",
        task="crops",
        classes=CLASSES,
        sensors=(MODIS_NDVI,),
        splits={"train": 695, "val": 264, "test": 259},
        protocols=("modis_sinop_finetune",),
        metric="oa",
        url="https://github.com/e-sensing/sits",
        license=TERMS[0],
        attribution=TERMS[1],
        contained=(TABLE,),
        reader=Series(),
    ),
)
