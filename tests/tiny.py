"""A corpus of a few samples of 6 x 6 pixels, sealed without any source: what exports and cards are tested on."""

from datetime import date
from pathlib import Path

import numpy as np

from geodata.grid import chip_grid
from geodata.manifest import Corpus, open_corpus, seal
from geodata.sample import FileMeta, Layer, Sample, Shift
from geodata.sensors import LANDCOVER, OPTICAL, SENTINEL1, SENTINEL2
from geodata.shards import Reject, save_record, shard_path, write_shard

META = FileMeta((OPTICAL, SENTINEL2, SENTINEL1, LANDCOVER), ("crop",), "tiny@1", "0123abcd", "swath test")
COPERNICUS = {"license": "CC-BY-SA-3.0-IGO", "attribution": "Contains modified Copernicus Sentinel data"}
SPEC = {"sensors": [{"sensor": "sentinel2", "period": {"first": "2020-01-01", "last": "2021-01-01"}}]}


def sample(number: int, *, split: str = "train", barred: bool = False, dated: bool = True) -> Sample:
    """A chip of 4 x 4 pixels in ten bands, with an optical image that may not be passed on where it is barred."""
    rng = np.random.default_rng(number)
    grid = chip_grid(13.0 + number / 10, 52.4 - number, 10.0, 6)
    days = (date(2020, 2, 3), date(2020, 7, 1 + number))
    names = tuple(f"S2-{number}-{day}" for day in days)
    shape = (len(days), 10, 6, 6)
    layers = {
        "s2": Layer(
            SENTINEL2,
            rng.integers(1, 4000, shape).astype(np.uint16),
            days,
            names,
            "sources.stac.api",
            cloud=(0.25, 0.75),
            nodata=(0.0, 0.0),
            properties={"baseline": ("05.09",) * 2},
            **COPERNICUS,
        ),
        "s1": Layer(
            SENTINEL1,
            rng.integers(-2500, -500, (1, 2, 6, 6)).astype(np.int16),
            (days[0],),
            (f"S1-{number}",),
            "sources.stac.api",
            properties={"product": ("gamma0_rtc",)},
            **COPERNICUS,
        ),
        "hr": Layer(
            OPTICAL,
            rng.integers(1, 255, (1, 3, 24, 24)).astype(np.uint8),
            (date(2019, 5, 5) if dated else None,),
            (f"tile-{number}",),
            "sources.webtiles.xyz",
            properties={"provider": ("acme" if barred else "open",), "fetched": ("2024-01-02",)},
            license="proprietary" if barred else "CC0-1.0",
            attribution="Acme Maps" if barred else "",
            redistribute=not barred,
            gsd=2.5,
        ),
        "lc": Layer(
            LANDCOVER, rng.integers(1, 4, (1, 1, 6, 6)).astype(np.uint8), (date(1990, 1, 1),), ("map",), "map"
        ),
    }
    return Sample(
        sample_id=f"tiny-{number:04d}",
        split=split,
        lon=grid.centre()[0],
        lat=grid.centre()[1],
        grid=grid,
        stratum="urban",
        layers=layers if dated else {"hr": layers["hr"]},
        continent="europe",
        region_id=7,
        cell_id="3-4",
        sampling_weight=2.0,
        labels={"crop": number},
        shifts=(Shift("s2-s1", 0.1, -0.2, 10.0, 0.5),),
    )


def sealed(root: Path, shards: dict[str, list[Sample]], refused: tuple[Reject, ...] = ()) -> Corpus:
    """A sealed corpus of these shards; the refused chips belong to the first."""
    records = []
    for name, samples in shards.items():
        records.append(write_shard(shard_path(root, name), samples, META, () if records else refused))
        save_record(root, records[-1])
    seal(Corpus(root, "tiny", "1", "0123abcd", SPEC, tuple(records), created_by="swath test"))
    (root / "environment.json").write_text('{"started": "2026-02-03T10:00:00Z"}')
    return open_corpus(root)
