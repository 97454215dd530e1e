"""What writing a shard costs beside compressing its pixels, and whether memory grows with the number of chips.

The input is invented Sentinel-2: smooth texture with noise of 25 counts, its 20 and 60 m bands repeated to 10 m as in
a corpus. Taking turns on one thread, and judged by the best *CPU* time of the repeats:

* plain: byte-split and zstd 1 in three lines of numpy and pyarrow, as anybody would write it
* pack: what `geodata.codec` does for the same bytes
* shard: `write_shard` whole: pack, pixel hashes, statistics, Parquet with page checksums, the file itself

    .venv/bin/python tests/bench/bench_write.py
    .venv/bin/python tests/bench/bench_write.py --chips 5000     memory over many shards as well
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
from bench_shards import smooth
from numpy.typing import NDArray

from geodata import codec
from geodata.files import file_sha256
from geodata.grid import chip_grid
from geodata.moments import Moments
from geodata.sample import FileMeta, Layer, Sample
from geodata.sensors import SENTINEL2, SENTINEL2_L2A, Sensor
from geodata.shards import write_shard

DATES = 6
AIM = 1.2
MEGABYTE = 2**20


def cube(known: Sensor, size: int, rng: np.random.Generator) -> NDArray[np.uint16]:
    """(6, bands, size, size): one smooth scene seen six times, each band at its own resolution, then repeated."""
    texture = smooth(rng.standard_normal((3, size, size), np.float32))
    texture *= 600 / texture.std()
    out = np.empty((DATES, len(known.bands), size, size), np.uint16)
    for number, band in enumerate(known.bands):
        mixture, level = rng.uniform(0.2, 1.0, 3).astype(np.float32), rng.uniform(500, 3500)
        scene = level + np.tensordot(mixture, texture, 1)
        step = round(band.gsd / 10)
        for when in range(DATES):
            native = scene[::step, ::step] * rng.uniform(0.7, 1.3)
            native = native + rng.standard_normal(native.shape, np.float32) * 25
            whole = native.clip(1, 10_000).astype(np.uint16).repeat(step, 0).repeat(step, 1)
            out[when, number] = whole[:size, :size]
    return out


def chip(known: Sensor, pixels: NDArray[np.uint16], number: int) -> Sample:
    days = tuple(date(2020, 1, 15) + timedelta(days=60 * place) for place in range(DATES))
    grid = chip_grid(10 + number % 10, 45 + number // 10 % 100 * 0.1, 10.0, pixels.shape[-1])
    names = tuple(f"S2B_MSIL2A_{day:%Y%m%d}T101031_N0500_R022_T33TXN_{number}" for day in days)
    layer = Layer(known, pixels, days, names, "sources.synthetic.sentinel2", license="CC0-1.0")
    return Sample(f"{number:08d}", "train", *grid.centre(), grid, "farmland", {"s2": layer})


def plain(pixels: NDArray[np.uint16]) -> bytes:
    planes = np.frombuffer(pixels.tobytes(), np.uint8).reshape(-1, 2).T.tobytes()
    return bytes(pa.Codec("zstd", 1).compress(planes, asbytes=True))


def best(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Least CPU seconds of each, all taking turns."""
    least = dict.fromkeys(works, float("inf"))
    for _ in range(repeats):
        for name, work in works.items():
            began = time.process_time()
            work()
            least[name] = min(least[name], time.process_time() - began)
    return least


def shard_beside_pack(known: Sensor, size: int, count: int, repeats: int, folder: Path) -> float:
    rng = np.random.default_rng(0)
    cubes = [cube(known, size, rng) for _ in range(count)]
    chips = [chip(known, pixels, number) for number, pixels in enumerate(cubes)]
    path = folder / "shard.parquet"
    write_shard(path, chips, FileMeta((known,)))
    works = {
        "plain": lambda: [plain(pixels) for pixels in cubes],
        "pack": lambda: [codec.pack(pixels) for pixels in cubes],
        "shard": lambda: write_shard(path, chips, FileMeta((known,))),
        "of it: pixel hashes": lambda: [one.layers["s2"].pixel_hash() for one in chips],
        "of it: statistics": lambda: [Moments.of(one.layers["s2"]) for one in chips],
        "not in it: hash of the file": lambda: file_sha256(path),
    }
    seconds = best(works, repeats)
    raw = sum(pixels.nbytes for pixels in cubes) / 1e6
    print(
        f"{count} chips of {cubes[0].shape} uint16, {raw:.0f} MB, {raw * 1e6 / path.stat().st_size:.2f} times as large as the file"
    )
    for name, spent in seconds.items():
        print(
            f"  {name:30s} {raw / spent:6.0f} MB/cpu-s {spent / seconds['plain']:6.2f} of plain {spent / seconds['pack']:6.2f} of pack"
        )
    return seconds["shard"] / seconds["plain"]


def memory(chips: int, folder: Path, rows: int = 250) -> None:
    """Write that many chips in shards of `rows`, the same 50 cubes over and over, and say how memory goes."""
    rng = np.random.default_rng(1)
    cubes = [cube(SENTINEL2_L2A, 64, rng) for _ in range(50)]
    for first in range(0, chips, rows):
        samples = [chip(SENTINEL2_L2A, cubes[number % 50], number) for number in range(first, first + rows)]
        write_shard(folder / "many.parquet", samples, FileMeta((SENTINEL2_L2A,)))
        done = first + rows
        if done == rows or done % (chips // 5) == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            resident = (
                int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / MEGABYTE
            )
            print(f"  after {done:6,} chips: {resident:5.0f} MB resident, {peak:5.0f} MB at most so far")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--chips", type=int, default=0)
    options = parser.parse_args()
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory(prefix="swath-bench-") as name:
        folder = Path(name)
        ratios = [
            shard_beside_pack(SENTINEL2_L2A, 64, 100, options.repeats, folder),
            shard_beside_pack(SENTINEL2, 128, 30, options.repeats, folder),
        ]
        if options.chips:
            print(f"{options.chips:,} chips of 6 x 12 x 64 x 64 in shards of 250")
            memory(options.chips, folder)
    print(
        f"writing shards takes {' and '.join(f'{ratio:.2f}' for ratio in ratios)} times the CPU of plain compression (aim: {AIM:g})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
