"""Small sealed corpora of invented pixels, and one-thread torch: what the tests of training share."""

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from geodata import sensors
from geodata.grid import Grid
from geodata.manifest import Corpus, seal
from geodata.sample import FileMeta, Layer, Sample
from geodata.shards import save_record, shard_path, write_shard

CHIP = 16
BANDS = ("B02", "B03", "B04", "B08")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sample(number: int, split: str = "train", dates: int = 1, chip: int = CHIP) -> Sample:
    """A chip whose left half is bright and class 1 in odd samples; every pixel follows from `number`."""
    rng = np.random.default_rng(number)
    grid = Grid(32633, (10.0, 0.0, 300000.0 + 160 * number, 0.0, -10.0, 5800000.0), chip, chip)
    s2, lc = sensors.SENTINEL2.pick(BANDS), sensors.LANDCOVER
    codes = np.zeros((1, 1, chip, chip), np.uint8)
    codes[..., : chip // 2] = number % 2
    pixels = rng.integers(500, 1500, (dates, len(BANDS), chip, chip)) + 3000 * codes.astype(np.int64)
    days = tuple(date(2020, 1, 1) + timedelta(days=10 * step) for step in range(dates))
    names = tuple(f"scene-{number}-{step}" for step in range(dates))
    return Sample(
        sample_id=f"chip-{number:04d}",
        split=split,
        lon=12.0,
        lat=52.0,
        grid=grid,
        stratum="urban" if number % 2 else "forest",
        region_id=number % 3,
        layers={
            "s2": Layer(s2, pixels.astype(np.uint16), days, names, "test"),
            "lc": Layer(lc, codes, days[:1], names[:1], "test"),
        },
        labels={"class": number % 2},
    )


def write_corpus(
    root: Path,
    counts: dict[str, int],
    *,
    shard_rows: int = 16,
    dates: Callable[[int], int] = lambda number: 1,
    chip: int = CHIP,
) -> Path:
    """A sealed corpus with so many samples of each split, mixed over its shards."""
    splits = [split for split, count in counts.items() for _ in range(count)]
    order = np.random.default_rng(0).permutation(len(splits))
    samples = [sample(number, splits[at], dates(number), chip) for number, at in enumerate(order)]
    meta = FileMeta((sensors.SENTINEL2.pick(BANDS), sensors.LANDCOVER), ("class",), "tiny@1")
    records = []
    for first in range(0, len(samples), shard_rows):
        record = write_shard(shard_path(root, f"s{first:04d}"), samples[first : first + shard_rows], meta)
        save_record(root, record)
        records.append(record)
    seal(Corpus(root, "tiny", "1", "f" * 12, {}, tuple(records)))
    return root


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 training, 12 validation and 9 test chips of 16 x 16 pixels in small shards."""
    return write_corpus(tmp_path_factory.mktemp("corpora") / "tiny@1", {"train": 48, "val": 12, "test": 9})
