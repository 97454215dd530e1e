"""The same pixels through other training formats; run by bench_shards.py in the environment of peers.txt.

Prints one JSON object a format (the fields of bench_shards.Row); a format that is not installed is left out. Both
formats are measured uncompressed: compressed, they unpack whole files to disk before the first sample is read.
"""

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def report(
    layout: str, pixels: np.ndarray, folder: Path, write: Callable, read: Callable, repeats: int
) -> None:
    began = time.process_time()
    write()
    write_s, best = time.process_time() - began, float("inf")
    for _ in range(repeats):
        began = time.process_time()
        found = read()
        best = min(best, time.process_time() - began)
        if not np.array_equal(found, pixels):
            raise ValueError(f"{layout} gave back other pixels than it was given")
    print(
        json.dumps({"layout": layout, "stored": size(folder), "write_s": write_s, "read_s": best}), flush=True
    )


def mosaic(pixels: np.ndarray, folder: Path, repeats: int) -> None:
    from streaming import MDSWriter, StreamingDataset

    shape = ",".join(map(str, pixels.shape[1:]))

    def write() -> None:
        columns = {"pixels": f"ndarray:uint16:{shape}"}
        with MDSWriter(out=str(folder), columns=columns, size_limit=1 << 26) as out:
            for cube in pixels:
                out.write({"pixels": cube})

    def read() -> np.ndarray:
        data = StreamingDataset(local=str(folder), shuffle=False, batch_size=1)
        return np.stack([data[number]["pixels"] for number in range(len(data))])

    report("MosaicML MDS, raw", pixels, folder, write, read, repeats)


def lightning(pixels: np.ndarray, folder: Path, repeats: int) -> None:
    from litdata.streaming import StreamingDataset
    from litdata.streaming.cache import Cache

    def write() -> None:
        cache = Cache(str(folder), chunk_bytes=1 << 26)
        for number, cube in enumerate(pixels):
            cache[number] = {"pixels": cube}
        cache.done()
        cache.merge()

    def read() -> np.ndarray:
        data = StreamingDataset(str(folder), shuffle=False)
        return np.stack([np.asarray(data[number]["pixels"]) for number in range(len(data))])

    report("LitData, raw", pixels, folder, write, read, repeats)


def main() -> None:
    source, folder, repeats = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    pixels = np.load(source)
    if importlib.util.find_spec("streaming"):
        mosaic(pixels, folder / "mds", repeats)
    if importlib.util.find_spec("litdata"):
        (folder / "litdata").mkdir(parents=True, exist_ok=True)
        lightning(pixels, folder / "litdata", repeats)


if __name__ == "__main__":
    main()
