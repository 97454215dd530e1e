"""Crops of Uganda and South Sudan from a year of Sentinel-2 and -1: 500 fields as single pixels, twelve months each.

A sample of the public extractions of WorldCereal. Six classes: the five that have a dozen samples, and all others as one.
Samples of one cell of 0.05 degrees are kept together when they are divided, because neighbouring fields are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from geodata.benchmarks import Benchmark, Labelled
from geodata.benchmarks.readers.points import by_place, rows
from geodata.benchmarks.readers.rasters import Array, decibels, reflectance, stack
from geodata.folders import Picture
from geodata.sensors import SENTINEL1, SENTINEL2

CLASSES = ("sorghum", "maize", "other_oilseeds", "trees_mixed", "dry_pulses_legumes", "other")
RARE = (
    "sunflower",
    "fibre_crops",
    "root_tuber_crops",
    "herbaceous_vegetation",
    "grasslands",
    "built_up",
    "millet",
    "potatoes",
)
"""Labels that are `other` here."""
TERMS = ("CC-BY-4.0", "WorldCereal, ESA, VITO and partners; Copernicus Sentinel data")
TABLE = "test_public_extractions.parquet"
CELL = 0.05
MONTHS = 12
NO_DATA = 65535


class Fields:
    """A table of fields; a sample's path is its row."""

    def missing(self, root: Path) -> list[str]:
        """The table."""
        return [] if (root / TABLE).exists() else [f"there is no {TABLE}"]

    def planned(self, root: Path) -> list[Picture]:
        """Every row. Raises ValueError for a label that is not known."""
        return [
            Picture(
                f"worldcereal_crops-{number:04d}",
                str(number),
                by_place(row["lon"], row["lat"], CELL),
                (_code(row["sampling_label"]),),
            )
            for number, row in enumerate(rows(root / TABLE))
        ]

    def read(self, root: Path, one: Picture) -> Labelled:
        """One field through a year."""
        row = rows(root / TABLE)[int(one.path)]
        first = date.fromisoformat(row["start_date"][:10])
        months = [first.month - 1 + number for number in range(MONTHS)]
        days = [date(first.year + month // 12, month % 12 + 1, 1) for month in months]
        optical = np.stack(
            [_series(row, f"OPTICAL-{band}", ("10m", "20m")) for band in SENTINEL2.band_names], 1
        )
        radar = np.stack([_series(row, f"SAR-{band}", ("20m",)) for band in SENTINEL1.band_names], 1)
        names = [f"{one.path}[{number}]" for number in range(MONTHS)]
        with np.errstate(divide="ignore"):
            power = 20 * np.log10(radar) - 83  # dB of WorldCereal's whole numbers
        layers = {
            "s2": stack(SENTINEL2, reflectance(optical)[:, :, None, None], TERMS, days, names=names),
            "s1": stack(SENTINEL1, decibels(power)[:, :, None, None], TERMS, days, names=names),
        }
        return Labelled(
            layers, {"class": _code(row["sampling_label"])}, row["lon"], row["lat"], row["ref_id"]
        )


def _code(name: str) -> int:
    if name not in CLASSES[:-1] and name not in RARE:
        raise ValueError(
            f"label {name!r} is none of {', '.join((*CLASSES[:-1], *RARE))}; add it, or check the table"
        )
    return len(CLASSES) - 1 if name in RARE else CLASSES.index(name)


def _series(row: dict[str, Any], start: str, ends: Sequence[str]) -> Array:
    """Twelve values of a band, nan where there is none."""
    end = next(end for end in ends if f"{start}-ts0-{end}" in row)
    values = np.array([row[f"{start}-ts{number}-{end}"] for number in range(MONTHS)], np.float64)
    return np.where(values == NO_DATA, np.nan, values)


BENCHMARKS = (
    Benchmark(
        name="worldcereal_crops",
        title="WorldCereal, crops from series (500 fields)",
        task="crops",
        classes=CLASSES,
        sensors=(SENTINEL2, SENTINEL1),
        splits={"train": 314, "val": 98, "test": 88},
        protocols=("worldcereal_crops_finetune",),
        metric="oa",
        url="https://github.com/WorldCereal/worldcereal-classification",
        license=TERMS[0],
        attribution=TERMS[1],
        contained=(TABLE,),
        reader=Fields(),
    ),
)
