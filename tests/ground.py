"""A small piece of ground in raster files, and the command line in a process of its own: what flow tests stand on."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from geodata.sensors import SENTINEL2

STEPS = ("steps=6", "batch=4", "log_every=2", "checkpoint_every=3")
"""Overrides of a pretraining recipe that is over in seconds."""

REPOSITORY = Path(__file__).resolve().parents[1]
EPSG, LEFT, TOP, SIDE = 32633, 600000.0, 5300040.0, 5760
DAYS = ("20200604", "20200809")
CODES = (2, 5, 7)  # trees, crops, built


def write_band(path: Path, pixels: np.ndarray, gsd: float) -> None:
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=pixels.shape[0],
        width=pixels.shape[1],
        dtype=pixels.dtype,
        crs=f"EPSG:{EPSG}",
        transform=Affine(gsd, 0, LEFT, 0, -gsd, TOP),
        compress="deflate",
    ) as file:
        file.write(pixels, 1)


def make_ground(folder: Path, *, name: str = "tiny", **settings: object) -> Path:
    """Two dates in ten bands over three classes, without data in one corner; the path of a corpus spec for it."""
    scenes = folder / "scenes"
    scenes.mkdir(parents=True)
    rng = np.random.default_rng(3)
    cover = np.array(CODES, np.uint8)[np.kron(rng.integers(0, 3, (18, 18)), np.ones((32, 32), int))]
    write_band(folder / "cover.tif", cover, 10)
    for number, day in enumerate(DAYS):
        for place, band in enumerate(SENTINEL2.bands):
            step = round(band.gsd / 10)
            signal = (
                500 + 200 * place + 150 * cover[::step, ::step].astype(int) * (1 + place % 3) + 100 * number
            )
            pixels = (signal + rng.integers(0, 80, signal.shape)).astype(np.uint16)
            pixels[: 480 // (10 * step), : 480 // (10 * step)] = 0
            write_band(scenes / f"T33TXN_{day}T101031_{band.name}.tif", pixels, band.gsd)
    spec = {
        "name": name,
        "chip": {"gsd": 10.0, "size": 64, "spacing_m": 240.0},
        "quotas": {"fixed": {"forest": 10, "farmland": 10, "urban": 10}},
        "regions": {
            "kind": "area",
            "name": "here",
            "bounds": [LEFT, TOP - SIDE, LEFT + SIDE, TOP],
            "epsg": EPSG,
        },
        "landcover": {
            "call": "landcover.raster",
            "options": {"path": str(folder / "cover.tif"), "table": "esri_2020"},
        },
        "labels": True,
        "sensors": [
            {
                "sensor": "sentinel2",
                "source": {
                    "call": "sources.geotiff.files",
                    "options": {"root": str(scenes), "sensor": "sentinel2"},
                },
                "period": "2020-01-01/2021-01-01",
            }
        ],
        "split": {
            "block_m": 1440.0,
            "fractions": {"train": 0.5, "val": 0.25, "test": 0.25},
            "assign": "balanced",
        },
        "shard_rows": 8,
    }
    path = folder / "spec.json"
    path.write_text(json.dumps(spec | settings))
    return path


def swath(
    *arguments: object, background: bool = False, timeout: float = 280, **variables: str
) -> subprocess.Popen[str]:
    """`swath ...` in a process of its own, in a session of its own; waited for unless `background`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | variables,
        start_new_session=True,
    )
    if not background:
        process.out, process.err = process.communicate(timeout=timeout)
    return process


def wait_for(true: Callable[[], bool], seconds: float, process: subprocess.Popen) -> None:
    """Wait until something is true while a process runs."""
    end = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < end, f"not true after {seconds} s"
        time.sleep(0.3)


def make_served(folder: Path, url: str, *, count: int, concurrency: int = 6, **settings: object) -> Path:
    """The path of a corpus spec over a stand-in for Earth Engine at `url`: two sensors, small chips, many requests."""
    account = {"project": "stub-project", "url": url, "concurrency": concurrency}
    spec = {
        "name": "served",
        "chip": {"gsd": 10.0, "size": 12, "spacing_m": 480.0},
        "quotas": {"count": count, "shares": {"forest": 0.5, "farmland": 0.5}},
        "regions": {"kind": "area", "name": "here", "bounds": [16.0, 47.0, 18.0, 48.5]},
        "landcover": {"call": "sources.synthetic.landcover"},
        "sensors": [
            {
                "sensor": sensor,
                "source": {"call": f"sources.earth_engine.{sensor}", "options": account},
                "period": period,
                "dates": 2,
            }
            for sensor, period in (
                ("sentinel2", "2020-05-01/2020-08-01"),
                ("sentinel1", "2020-06-01/2020-07-01"),
            )
        ],
        "shard_rows": 20,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "served.json"
    path.write_text(json.dumps(spec | settings))
    return path
