"""What PerA's views cost a processor core: ours, batched, beside Pillow and torchvision image by image, one run.

A picture of 512 px becomes two large crops of 448 px and eight small ones of 96 px, each flipped and coloured twice,
for student and teacher, and normalised. Both see the same invented pictures and are judged by CPU seconds, the best
mean over `--pictures` of `--repeats`.

    .venv/bin/python tests/bench/bench_views.py
    MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=2000000000 .venv/bin/python tests/bench/bench_views.py

The second keeps freed memory, as a GPU's allocator does; where new pages are dear, that is most of the cost.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from PIL import Image
from torchvision import transforms

from training import augment
from training.colour import Colour, Jitter
from training.encoders import Inputs
from training.feed import Samples

SIDE, CROPS = 512, ((2, 448, (0.4, 1.0)), (8, 96, (0.05, 0.4)))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INPUTS = Inputs(
    layer="hr", bands=("R", "G", "B"), mean=tuple(255 * x for x in MEAN), std=tuple(255 * x for x in STD)
)
STRONG = Jitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
STUDENT, TEACHER = Colour(jitter=STRONG, p=0.8, gray=0.1, gray_order="instead"), Colour(jitter=STRONG, p=0.1)


def ours(pictures: torch.Tensor) -> None:
    """All views of pictures (B, 512, 512, 3) uint8."""
    count = len(pictures)
    samples = Samples(
        [str(number) for number in range(count)],
        {"hr": pictures.permute(0, 3, 1, 2)[:, None]},
        {"hr": torch.zeros(count, 1, dtype=torch.int32)},
        {},
        torch.zeros(count, 2),
        torch.zeros(count),
        {"hr": INPUTS.bands},
        {"hr": 0},
    )
    images = augment.pixels(samples, INPUTS)
    for number, size, scale in CROPS:
        views = augment.render(images, augment.draw_views(number * count, SIDE, SIDE, scale, down=0.5), size)
        for colour in (STUDENT, TEACHER):
            augment.normalise(colour.apply(views), INPUTS)


def theirs(pictures: torch.Tensor) -> None:
    """The same, a picture at a time, as PerA's loader does."""
    jitter, grey = transforms.ColorJitter(0.4, 0.4, 0.2, 0.1), transforms.Grayscale(3)
    done = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    for picture in pictures.numpy():
        image = Image.fromarray(picture)
        for number, size, scale in CROPS:
            place = transforms.Compose(
                [
                    transforms.RandomResizedCrop(size, scale),
                    transforms.RandomHorizontalFlip(),
                    transforms.RandomVerticalFlip(),
                ]
            )
            for _ in range(number):
                view = place(image)
                change = grey if random.random() < 0.1 else jitter
                done(change(view) if random.random() < 0.8 else view)
                done(jitter(view) if random.random() < 0.1 else view)


def best(work: Callable[[torch.Tensor], None], pictures: torch.Tensor, repeats: int) -> float:
    """CPU milliseconds a picture, the least of several means."""
    found = []
    for _ in range(repeats):
        began = time.process_time()
        work(pictures)
        found.append(1000 * (time.process_time() - began) / len(pictures))
    return min(found)


def main() -> None:
    """Measure both and say so."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    coarse = torch.rand(asked.pictures, 3, 32, 32)
    smooth = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic")
    pictures = (smooth + 0.05 * torch.randn_like(smooth)).clamp(0, 1).mul(255).byte()
    pictures = pictures.permute(0, 2, 3, 1).contiguous()
    mine, other = (best(work, pictures, asked.repeats) for work in (ours, theirs))
    print(
        f"PerA's views: {mine:.1f} ms a picture and core; Pillow {other:.1f} ms: {other / mine:.2f} times as fast"
    )


if __name__ == "__main__":
    main()
