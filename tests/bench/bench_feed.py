"""What feeding batches costs beside decoding alone, and how much memory it takes.

Two corpora are invented: cubes (6, 10, 128, 128) uint16 packed about 2.1 to 1, their 20 m bands repeated as in a corpus,
and JPEGs of 512 x 512 pixels and about 60 KB. The bare decoder unpacks the same blobs, one after the other, into one
array that is there already. Decoder and feed take turns within one process, and the ratio is that of CPU time of the
whole process per sample, over `--rounds` turns the median: a busy machine slows both. Nothing is left half decoded at
the end of a turn: it is waited for.

Formats of others (peers.txt) keep the same blobs and decode them the same way, through torch's DataLoader; their
workers' CPU time counts. Memory is the proportional set size (PSS) of a process that does nothing but feed, at its
highest, over a corpus in one shard and one of four times as many samples in one shard.

    make bench                                   with the peers, in their own environment
    .venv/bin/python tests/bench/bench_feed.py --rounds 5
"""

import argparse
import gc
import io
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from bench_shards import PEERS_PYTHON, smooth
from bench_write import chip, cube
from PIL import Image

from geodata import codec
from geodata.manifest import Corpus, seal
from geodata.sample import FileMeta, Layer, Sample
from geodata.sensors import PHOTO, SENTINEL2
from geodata.shards import save_record, shard_path, write_shard
from training.feed import Feed
from training.recipe import Stream

BATCH, PEER_EPOCHS = 16, 4
DIFFERENT = {"cubes": 128, "jpegs": 64}  # more than a processor's caches hold
AIMS = {("cubes", 0): 0.90, ("cubes", 2): 0.75, ("jpegs", 0): 0.95, ("jpegs", 2): 0.95}
MOST_MB = 750
ROOT = Path(__file__).resolve().parents[2]


def photo(rng: np.random.Generator, size: int = 512) -> codec.Encoded:
    field = smooth(rng.standard_normal((3, size, size), np.float32), 24)
    pixels = np.clip(field / field.std() * 45 + 120 + rng.standard_normal(field.shape) * 2, 0, 255)
    out = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8).transpose(1, 2, 0)).save(out, "JPEG", quality=85)
    return codec.Encoded("image/jpeg", ((out.getvalue(),),))


def picture(files: codec.Encoded, pixels: np.ndarray, number: int) -> Sample:
    layer = Layer(PHOTO, pixels, (None,), (f"{number}.jpg",), "folder", encoded=(files,))
    nowhere = float("nan")
    return Sample(f"{number:08d}", "train", nowhere, nowhere, None, "", {"hr": layer}, labels={})


def corpus(root: Path, kind: str, count: int, *, shards: int) -> tuple[Path, list[Any]]:
    """A sealed corpus of so many samples, some of which come again and again; and all that differ, as blobs."""
    rng, different = np.random.default_rng(0), min(count, DIFFERENT[kind])
    if kind == "cubes":
        cubes = [cube(SENTINEL2, 128, rng) for _ in range(different)]
        known, blobs = SENTINEL2, [codec.pack(pixels) for pixels in cubes]
        samples = [chip(SENTINEL2, cubes[number % different], number) for number in range(count)]
    else:
        files = [photo(rng) for _ in range(different)]
        shown = [codec.decoded(one)[None] for one in files]
        known, blobs = PHOTO, [codec.pack_images([one], (1, 3, 512, 512)) for one in files]
        samples = [picture(files[n % different], shown[n % different], n) for n in range(count)]
    records = []
    for number in range(shards):
        path = shard_path(root, f"part-{number}")
        record = write_shard(path, samples[number::shards], FileMeta((known,)))
        save_record(root, record)
        records.append(record)
    seal(Corpus(root, kind, "1", "f" * 12, {}, tuple(records)))
    return root, blobs


def settled() -> float:
    """CPU seconds of this process once its threads have nothing left to do."""
    spent = time.process_time()
    while True:
        time.sleep(0.05)
        now = time.process_time()
        if now - spent < 0.002:
            return now
        spent = now


def room(blob: Any) -> np.ndarray:
    """An array into which a blob unpacks; for pictures in the order in which their files have them."""
    dtype, (times, bands, height, width) = codec.describe(blob)
    if codec.keeps_files(bytes(blob[:64])):
        return np.empty((times, height, width, bands), dtype).transpose(0, 3, 1, 2)
    return np.empty((times, bands, height, width), dtype)


def decoder(blobs: Sequence[Any]) -> Callable[[int], None]:
    """Unpacks so many blobs, one after the other, into one array."""
    out, turn = room(blobs[0]), itertools.cycle(blobs)

    def run(count: int) -> None:
        for blob in islice(turn, count):
            codec.unpack(blob, out)

    return run


def library(blobs: Sequence[Any]) -> Callable[[int], None]:
    """The faster of the decoders of torchvision and Pillow, from a JPEG to an array or tensor of its own."""
    from torchvision.io import decode_jpeg

    files = [codec.images(blob)[0].tiles[0][0] for blob in blobs]
    turn = itertools.cycle(torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files)

    def run(count: int) -> None:
        for file in islice(turn, count):
            decode_jpeg(file)

    return run


def feed(root: Path, layer: str, threads: int) -> Feed:
    return Feed({"a": Stream(corpus=str(root), layers=(layer,))}, {"a": BATCH}, 0, threads=threads)


def shares(root: Path, layer: str, bare: Callable[[int], None], threads: int, rounds: int) -> list[float]:
    """Of each round, the decoder's CPU time for an epoch over the feed's for another."""
    batches, found = feed(root, layer, threads), []
    count = batches.size("a") // BATCH
    with closing(iter(batches)) as taken:
        next(taken)
        for _ in range(rounds):
            began = settled()
            bare(count * BATCH)
            between = settled()
            for _ in islice(taken, count):
                pass
            found.append((between - began) / (settled() - between))
    return found


def pss_mb() -> float:
    text = Path("/proc/self/smaps_rollup").read_text()
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith("Pss:"))) / 1024


def highest_mb(root: str, layer: str) -> None:
    """Two epochs with as many threads as there are CPUs; prints megabytes when nothing was read yet, and at most."""
    torch.set_num_threads(1)
    before, most = pss_mb(), 0.0
    batches = feed(Path(root), layer, os.cpu_count() or 1)
    with closing(iter(batches)) as taken:
        for _ in islice(taken, 2 * batches.size("a") // BATCH):
            most = max(most, pss_mb())
    print(json.dumps([before, most]))


def measured_mb(root: Path, layer: str) -> tuple[float, float]:
    command = [sys.executable, __file__, "--memory", str(root), layer]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, most = json.loads(done.stdout.splitlines()[-1])
    return before, most


def pixels(blob: bytes) -> torch.Tensor:
    """What a peer's reader is given to do with a sample: an array of its own, which the loader puts into a batch."""
    return torch.from_numpy(codec.unpack(blob, room(blob)))


def webdataset_of(blobs: Sequence[Any], count: int, folder: Path) -> Any:
    import webdataset

    with webdataset.ShardWriter(str(folder / "%02d.tar"), maxcount=count // 4, verbose=0) as out:
        for number in range(count):
            out.write({"__key__": f"{number:08d}", "bin": bytes(blobs[number % len(blobs)])})
    urls = sorted(map(str, folder.glob("*.tar")))
    return webdataset.WebDataset(urls, shardshuffle=False).map(lambda one: pixels(one["bin"]))


def litdata_of(blobs: Sequence[Any], count: int, folder: Path) -> Any:
    from litdata.streaming import StreamingDataset
    from litdata.streaming.cache import Cache

    cache = Cache(str(folder), chunk_bytes=1 << 24)
    for number in range(count):
        cache[number] = {"pixels": bytes(blobs[number % len(blobs)])}
    cache.done()
    cache.merge()
    return StreamingDataset(str(folder), shuffle=False, transform=lambda one: pixels(one["pixels"]))


def mds_of(blobs: Sequence[Any], count: int, folder: Path) -> Any:
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    class Decoded(StreamingDataset):
        def __getitem__(self, at: Any) -> Any:
            return pixels(super().__getitem__(at)["pixels"])

    with MDSWriter(out=str(folder), columns={"pixels": "bytes"}, size_limit=1 << 24) as out:
        for number in range(count):
            out.write({"pixels": bytes(blobs[number % len(blobs)])})
    clean_stale_shared_memory()
    return Decoded(local=str(folder), shuffle=False, batch_size=BATCH)


PEERS = {"WebDataset": webdataset_of, "LitData": litdata_of, "MosaicML MDS": mds_of}


def peer(name: str, kind: str, count: int, workers: int, folder: Path) -> float:
    """A peer's share of the bare decoder over several epochs: all CPU time of this process and of its workers."""
    _, blobs = corpus(folder / "ours", kind, DIFFERENT[kind], shards=1)
    place = folder / "theirs"
    place.mkdir()
    data, bare = PEERS[name](blobs, count, place), decoder(blobs)
    loader = torch.utils.data.DataLoader(
        data, batch_size=BATCH, num_workers=workers, persistent_workers=bool(workers)
    )
    began, others, seen = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN), 0
    for _ in range(PEER_EPOCHS):
        seen += sum(len(batch) for batch in loader)
    if seen != PEER_EPOCHS * count:
        raise ValueError(f"{name} gave {seen} samples of {PEER_EPOCHS * count}; its speed means nothing")
    loader._iterator = None  # its workers end, and their time is known
    gc.collect()
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = time.process_time() - began + now.ru_utime + now.ru_stime - others.ru_utime - others.ru_stime
    began = time.process_time()
    bare(seen)
    return (time.process_time() - began) / spent


def peers(kind: str, count: int) -> Iterator[tuple[str, int, float]]:
    if not PEERS_PYTHON.exists():
        print("(no other formats: `make bench` installs them in .venv-bench)", file=sys.stderr)
        return
    here = os.environ | {"PYTHONPATH": str(ROOT)}
    for name, workers in itertools.product(PEERS, (0, 2)):
        command = [str(PEERS_PYTHON), __file__, "--peer", name, kind, str(count), str(workers)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=90, env=here)
            yield name, workers, float(done.stdout.splitlines()[-1])
        except (subprocess.SubprocessError, ValueError) as error:
            said = str(getattr(error, "stderr", "") or error).strip().splitlines()[-1:]
            print(f"  ({name}, {workers} workers: {said})", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cubes", type=int, default=128)
    parser.add_argument("--jpegs", type=int, default=256)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--peer", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="swath-bench-") as name:
        folder = Path(name)
        if options.memory:
            highest_mb(*options.memory)
            return 0
        if options.peer:
            peer_name, kind, count, workers = options.peer
            print(peer(peer_name, kind, int(count), int(workers), folder), flush=True)
            shutil.rmtree(folder)
            os._exit(0)  # some of them leave threads behind that never end
        for kind, layer, count in (("cubes", "s2", options.cubes), ("jpegs", "hr", options.jpegs)):
            root, blobs = corpus(folder / kind, kind, count, shards=2)
            size = sum(map(len, blobs)) / len(blobs) / 1e6
            print(f"{count} {kind} of {size:.2f} MB, batches of {BATCH}; share of the bare decoder")
            decoders = {"our own": decoder(blobs)}
            if kind == "jpegs":
                decoders["torchvision's"] = library(blobs)
            for threads, (whose, bare) in itertools.product((0, 2), decoders.items()):
                found = shares(root, layer, bare, threads, options.rounds)
                how = f"in {threads} threads" if threads else "in process"
                print(
                    f"  swath, {how:12s} of {whose:14s} {statistics.median(found):5.2f} (aim {AIMS[kind, threads]:.2f}; "
                    f"{min(found):.2f} to {max(found):.2f})",
                    flush=True,
                )
            for who, workers, share in [] if options.no_peers else peers(kind, count):
                print(f"  {who + f', {workers} workers':32s} {share:5.2f}", flush=True)
            for times in (1, 4):
                one, _ = corpus(folder / f"{kind}-{times}", kind, count * times // 2, shards=1)
                before, most = measured_mb(one, layer)
                print(
                    f"  memory with {count * times // 2:5d} in a shard: {most:4.0f} MB at most (aim {MOST_MB}), "
                    f"{before:.0f} of it before the first batch",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
