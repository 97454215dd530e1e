"""Small invented samples, their shards and a sealed corpus of them: what tests of storage stand on."""

import io
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from PIL import Image

from geodata import manifest, shards
from geodata.codec import Encoded, decoded
from geodata.grid import chip_grid
from geodata.manifest import Corpus
from geodata.sample import FileMeta, Layer, Sample, Shift
from geodata.sensors import LANDCOVER, OPTICAL, PHOTO, SENTINEL1, SENTINEL2
from geodata.shards import Reject

META = FileMeta((SENTINEL2, SENTINEL1, LANDCOVER, OPTICAL), ("crop",), "tiny", "0123abcd", "swath test")


def sample(
    number: int, *, dates: int = 2, radar: bool = True, split: str = "train", photo: bool = False
) -> Sample:
    """A chip of 16 x 16 pixels in which everything follows from `number`; `photo` adds a stitched aerial picture."""
    rng = np.random.default_rng(number)
    grid = chip_grid(13.0 + number / 100, 52.4, 10.0, 16)
    days = tuple(date(2020, 1, 1 + 5 * day) for day in range(dates))
    names = tuple(f"item-{number}-{day}" for day in range(dates))
    optical = Layer(
        SENTINEL2,
        rng.integers(0, 4000, (dates, 10, 16, 16)).astype(np.uint16),
        days,
        names,
        "synthetic",
        cloud=(0.25,) * dates,
        nodata=(0.0,) * dates,
        properties={"baseline": ("05.09",) * dates},
        scl=rng.integers(0, 12, (dates, 16, 16)).astype(np.uint8),
        license="CC-BY-4.0",
        attribution="the synthetic Earth",
        flags=("", *("dark pixels 1180: offset not removed",) * (dates - 1)),
        dark=(120.0,) * dates,
        considered="ab" * 8,
        refused={"item-x": "cloudy"},
        hrefs={name: {"B02": f"https://example.org/{name}/B02.tif"} for name in names},
    )
    labels = Layer(
        LANDCOVER, rng.integers(1, 4, (1, 1, 16, 16)).astype(np.uint8), days[:1], ("map",), "synthetic"
    )
    layers = {"s2": optical, "lc": labels}
    if radar:
        pixels = rng.integers(-2500, -500, (dates, 2, 16, 16)).astype(np.int16)
        layers["s1"] = Layer(SENTINEL1, pixels, days, names, "synthetic", resampled=(True,) * dates)
    if photo:
        layers["hr"] = aerial(number)
    return Sample(
        f"tiny-{number:04d}",
        split,
        *grid.centre(),
        grid,
        "urban",
        layers,
        "EU",
        7,
        "c",
        2.0,
        {"crop": number},
        shifts=(Shift("s2-s1", 0.25, -0.5, 10.0, 0.75),),
        contamination=("aid",) if number % 2 else (),
    )


def aerial(number: int) -> Layer:
    """An undated picture of 2 x 2 JPEG tiles on the chip of `sample`, as a map engine would give it."""
    rng = np.random.default_rng([number, 1])
    tiles = tuple(tuple(picture(rng, 16, 16) for _ in range(2)) for _ in range(2))
    files = Encoded("image/jpeg", tiles)
    return Layer(
        OPTICAL,
        decoded(files)[None],
        (None,),
        (f"tiles-{number}",),
        "synthetic",
        properties={"provider": ("nobody",), "fetched": ("2024-05-01",), "zoom": ("14",)},
        gsd=5.0,
        redistribute=False,
        encoded=(files,),
        phash=2**64 - 1 - number,
    )


def picture(
    rng: np.random.Generator, height: int, width: int, kind: str = "JPEG", mode: str = "RGB"
) -> bytes:
    """A picture file of smooth noise."""
    coarse = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def placeless(number: int, split: str = "train", size: int = 12) -> Sample:
    """A picture that lies nowhere, with a label."""
    files = Encoded("image/png", ((picture(np.random.default_rng(number), size, size, "PNG"),),))
    layer = Layer(PHOTO, decoded(files)[None], (None,), (f"{number}.png",), "folder", encoded=(files,))
    return Sample(
        f"photo-{number:04d}",
        split,
        float("nan"),
        float("nan"),
        None,
        "cat",
        {"hr": layer},
        labels={"class": number},
    )


def sealed(root: Path, *, photo: bool = False) -> Corpus:
    """Five samples in two shards, one sample of them for validation, and a refused chip in each."""
    records = []
    for name, numbers in (("part-0", range(3)), ("part-1", range(3, 5))):
        samples = [sample(n, split="val" if n == 4 else "train", photo=photo) for n in numbers]
        record = shards.write_shard(
            shards.shard_path(root, name), samples, META, [Reject(f"r-{name}", "no_scene", "none in 2020")]
        )
        shards.save_record(root, record)
        records.append(record)
    (root / "spec.json").write_text('{"name": "tiny"}')
    return manifest.seal(Corpus(root, "tiny", "1", "0123abcd", {"name": "tiny"}, tuple(records)))


@dataclass(frozen=True)
class Damage:
    """One file of a corpus with a byte flipped, or cut short; undone on leaving."""

    path: Path
    at: int
    mask: int

    def __enter__(self) -> None:
        whole = self.path.read_bytes()
        object.__setattr__(self, "_whole", whole)
        flipped = whole[: self.at] + bytes([whole[self.at] ^ self.mask]) + whole[self.at + 1 :]
        self.path.write_bytes(flipped if self.mask else whole[: self.at])

    def __exit__(self, *_: object) -> None:
        self.path.write_bytes(self._whole)


def damages(root: Path, flips: int, cuts: int, seed: int) -> list[Damage]:
    """Flips uniform over every byte of every shard, record and manifest, and files cut at a random place."""
    rng = np.random.default_rng(seed)
    files = sorted([*(root / "shards").iterdir(), *(root / "records").iterdir(), root / "manifest.json"])
    sizes = np.array([path.stat().st_size for path in files])
    ends = sizes.cumsum()
    out = []
    for place in rng.integers(0, ends[-1], flips):
        number = int(np.searchsorted(ends, place, side="right"))
        at = int(place - (ends[number - 1] if number else 0))
        out.append(Damage(files[number], at, int(rng.integers(1, 256))))
    for number in rng.integers(0, len(files), cuts):
        out.append(Damage(files[number], int(rng.integers(0, sizes[number])), 0))
    return out
