"""How fast shards are read, beside an Arrow tensor column (and other formats) of the same pixels, in one run.

The input is invented: cubes of 6 dates x 10 bands x 128 x 128 uint16, correlated in space and between bands, with
noise of 25 counts. Their high bytes compress to about 0.3, the low bytes not at all, which is what Sentinel-2 L2A
bands do (0.2 to 0.37). Every layout is written once, read
`--repeats` times on one thread with a warm page cache, checked pixel by pixel against the input, and judged by
decoded megabytes per second of *CPU* time (best of the repeats): that does not change when the machine is shared.

    make bench                                   with the peers of peers.txt, in their own environment
    .venv/bin/python tests/bench/bench_shards.py --samples 48
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geodata import codec
from geodata.grid import chip_grid
from geodata.sample import FileMeta, Layer, Sample
from geodata.sensors import sensor
from geodata.shards import open_shard, read_samples, read_table, write_shard

DATES, BANDS, SIZE = 6, 10, 128
AIM = 4.0
PEERS = Path(__file__).with_name("peers.py")
PEERS_PYTHON = Path(__file__).resolve().parents[2] / ".venv-bench" / "bin" / "python"

Cubes = NDArray[np.uint16]


@dataclass(frozen=True)
class Row:
    """One layout: bytes on disk, CPU seconds to write, best CPU seconds to read and decode everything."""

    layout: str
    stored: int
    write_s: float
    read_s: float


def smooth(field: NDArray[np.float32], passes: int = 12) -> NDArray[np.float32]:
    """Repeated means with the four neighbours, around the edge: texture that is correlated over several pixels."""
    for _ in range(passes):
        field = (field + sum(np.roll(field, by, axis) for by in (-1, 1) for axis in (-2, -1))) / 5
    return field


def cubes(count: int, seed: int) -> Cubes:
    """(count, 6, 10, 128, 128) uint16: one smooth scene per sample, seen by ten bands, six times, with noise."""
    rng = np.random.default_rng(seed)
    out = np.empty((count, DATES, BANDS, SIZE, SIZE), np.uint16)
    for sample in out:
        texture = smooth(rng.standard_normal((3, SIZE, SIZE), np.float32))
        texture *= 600 / texture.std()
        mixture = rng.uniform(0.2, 1.0, (BANDS, 3)).astype(np.float32)
        level = rng.uniform(500, 3500, (BANDS, 1, 1)).astype(np.float32)
        scene = level + np.einsum("bk,khw->bhw", mixture, texture)
        season = rng.uniform(0.7, 1.3, (DATES, 1, 1, 1)).astype(np.float32)
        noise = rng.standard_normal((DATES, BANDS, SIZE, SIZE), np.float32) * 25
        sample[:] = np.clip(scene * season + noise, 1, 10_000)
    return out


def samples(pixels: Cubes) -> Iterator[Sample]:
    """The cubes as a Sentinel-2 series somewhere on land."""
    days = tuple(date(2020, 1, 15) + timedelta(days=60 * number) for number in range(DATES))
    for number, cube in enumerate(pixels):
        grid = chip_grid(10 + number % 10, 45 + number // 10 * 0.1, 10.0, SIZE)
        lon, lat = grid.centre()
        layer = Layer(sensor("sentinel2"), cube, days, tuple(map(str, days)), "synthetic")
        yield Sample(f"{number:06d}", "train", lon, lat, grid, "farmland", {"s2": layer})


def cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


@dataclass(frozen=True)
class Layout:
    """A way to keep cubes in one file, and to fill an array with them again."""

    name: str
    write: Callable[[], Path]
    read: Callable[[Path, Cubes], None]


def measured(layouts: Sequence[Layout], pixels: Cubes, repeats: int) -> list[Row]:
    """Write each, then read all of them in turn, `repeats` times, into one array that is there already.

    Taking turns lets a busy moment of the machine fall on everybody. Refuses a reader that gives other pixels.
    """
    written = [cpu(layout.write) for layout in layouts]
    best = [float("inf")] * len(layouts)
    out = np.empty_like(pixels)
    for _ in range(repeats):
        for number, layout in enumerate(layouts):
            out[:] = 0
            seconds, _ = cpu(functools.partial(layout.read, written[number][1], out))
            if not np.array_equal(out, pixels):
                raise ValueError(
                    f"{layout.name} gave back other pixels than it was given; its speed means nothing"
                )
            best[number] = min(best[number], seconds)
    return [
        Row(layout.name, path.stat().st_size, write_s, read_s)
        for layout, (write_s, path), read_s in zip(layouts, written, best, strict=True)
    ]


def write_swath(pixels: Cubes, folder: Path) -> Path:
    path = folder / "swath.parquet"
    write_shard(path, list(samples(pixels)), FileMeta((sensor("sentinel2"),)))
    return path


def read_columns(path: Path, out: Cubes) -> None:
    """What training does: the pixel column alone, page checksums verified, decoded in place."""
    file, _ = open_shard(path)
    with file:
        groups = file.num_row_groups
    row = 0
    for group in range(groups):
        for blob in read_table(path, group, ["s2_pixels"])["s2_pixels"]:
            codec.unpack(blob.as_buffer(), out[row])
            row += 1


def read_whole_samples(path: Path, out: Cubes) -> None:
    """What verification does: whole samples, each pixel hash recomputed."""
    for row, sample in enumerate(read_samples(path)):
        out[row] = sample.layers["s2"].pixels


def write_tensor(pixels: Cubes, path: Path, rows: int, **options: Any) -> Path:
    kind = pa.fixed_shape_tensor(pa.uint16(), pixels.shape[1:])
    storage = pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel()), pixels[0].size)
    column = pa.ExtensionArray.from_storage(kind, storage)
    pq.write_table(pa.table({"pixels": column}), path, row_group_size=rows, **options)
    return path


def read_tensor(path: Path, out: Cubes) -> None:
    """Arrow's own way back to numpy, which copies nothing, and then the copy into place."""
    row = 0
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            for chunk in file.read_row_group(group, ["pixels"], use_threads=False)["pixels"].chunks:
                out[row : row + len(chunk)] = chunk.to_numpy_ndarray()
                row += len(chunk)


def peers(pixels: Cubes, folder: Path, repeats: int) -> Iterator[Row]:
    """Rows of the formats installed in the environment of their own; none where there is no such environment."""
    if not PEERS_PYTHON.exists():
        print("(no other formats: `make bench` installs them in .venv-bench)", file=sys.stderr)
        return
    np.save(folder / "cubes.npy", pixels)
    done = subprocess.run(
        [str(PEERS_PYTHON), str(PEERS), str(folder / "cubes.npy"), str(folder / "peers"), str(repeats)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"(the other formats failed: {done.stderr.strip().splitlines()[-1:]})", file=sys.stderr)
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            yield Row(**json.loads(line))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pa.set_cpu_count(1)
    pixels = cubes(options.samples, options.seed)
    raw = pixels.nbytes / 1e6
    with tempfile.TemporaryDirectory(prefix="swath-bench-") as name:
        folder = Path(name)
        swath = write_swath(pixels, folder)
        group = pq.ParquetFile(swath).metadata.row_group(0).num_rows

        def tensor(name: str, **settings: Any) -> Layout:
            path = folder / f"{len(name)}.parquet"
            return Layout(name, lambda: write_tensor(pixels, path, group, **settings), read_tensor)

        plain = {"use_dictionary": False, "compression": "zstd", "compression_level": 1}
        layouts = [
            Layout("swath shard, pixel column", lambda: write_swath(pixels, folder), read_columns),
            Layout("swath shard, whole samples + hashes", lambda: swath, read_whole_samples),
            tensor("Arrow tensor column, defaults"),
            tensor("Arrow tensor column, zstd 1", **plain),
            tensor("Arrow tensor column, zstd 1, split bytes", **plain, use_byte_stream_split=True),
            tensor("Arrow tensor column, raw", use_dictionary=False, compression="none"),
        ]
        rows = measured(layouts, pixels, options.repeats)
        rows += peers(pixels, folder, options.repeats)
    print(f"{options.samples} cubes of {DATES} x {BANDS} x {SIZE} x {SIZE} uint16: {raw:.0f} MB, one thread")
    print(
        f"{'layout':44s} {'ratio':>6s} {'write MB/cpu-s':>15s} {'read MB/cpu-s':>15s} {'beside Arrow':>13s}"
    )
    ours, arrow = rows[0], rows[2]
    for row in rows:
        ratio, write, read = raw * 1e6 / row.stored, f"{raw / row.write_s:.0f}", raw / row.read_s
        write = "" if row is rows[1] else write  # the same file
        print(f"{row.layout:44s} {ratio:6.2f} {write:>15s} {read:15.0f} {arrow.read_s / row.read_s:12.1f}x")
    print(
        f"a shard is read {arrow.read_s / ours.read_s:.1f} times as fast as an Arrow tensor column with pyarrow's "
        f"defaults and {rows[3].read_s / ours.read_s:.1f} times as fast as one with the same compressor (aim: {AIM:g})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
