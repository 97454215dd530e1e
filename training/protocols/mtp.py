"""Classification, segmentation and change as in "MTP: Advancing Remote Sensing Foundation Model via Multi-Task
Pretraining", after its published configurations.

Those of its ViTs; the convolutional one has a third of the rate. Where the paper has rotated windows of varied size, a
plain ViT is given fixed ones.
"""

from __future__ import annotations

from typing import Literal

from geodata.benchmarks import Benchmark, find
from training.decoders import siamese_unet, upernet
from training.encoders import Inputs, vit
from training.methods.finetune import Spec, Window
from training.protocols.settings import (
    OSCD_RGB,
    PHOTOMETRIC,
    adamw,
    changed,
    classified,
    labelled,
    mapped,
    steps,
)
from training.recipe import Cosine, Recipe
from training.views import Viewing

__all__ = [
    "mtp_cdd",
    "mtp_eurosat",
    "mtp_levir_cd",
    "mtp_loveda",
    "mtp_oscd",
    "mtp_resisc45",
    "mtp_spacenet1",
    "mtp_whu",
]

WARMUP = 5  # epochs
OPTIM = adamw(6e-5, 0.05, layer_decay=0.9)
DROP_PATH = 0.3


def _scenes(data: Benchmark, epochs: int) -> Recipe:
    return Recipe(
        method=Spec(
            task=classified(data),
            encoder=vit.vit_b12x1(),
            drop_path=DROP_PATH,
            views=Viewing(side=224, turns="across"),
        ),
        streams=labelled(data),
        batch=64,
        steps=steps(epochs, data, 64),
        optim=OPTIM,
        schedule=Cosine(warmup=WARMUP / epochs),
    )


def mtp_eurosat() -> Recipe:
    """Three fifths of the pictures to train on."""
    return _scenes(find("eurosat_rgb_indomain"), 100)


def mtp_resisc45() -> Recipe:
    """A fifth of the pictures to train on."""
    return _scenes(find("resisc45_tr20_0"), 200)


def _maps(data: Benchmark, size: int, stride: int, scored: Literal["samples", "scenes"]) -> Recipe:
    return Recipe(
        method=Spec(
            task=mapped(data, upernet.Spec()),
            encoder=vit.vit_b12x1(),
            form="vitdet",
            drop_path=DROP_PATH,
            views=Viewing(zoom=(0.5, 2.0), crop=size, turns="across", colour=PHOTOMETRIC),
            window=Window(size=size, stride=stride),
            scored=scored,
        ),
        streams=labelled(data),
        batch=8,
        steps=80_000,
        optim=OPTIM,
        schedule=Cosine(warmup=1500 / 80_000),
    )


def mtp_loveda() -> Recipe:
    """Windows of 512 pixels."""
    return _maps(find("loveda"), 512, 384, "samples")


def mtp_spacenet1() -> Recipe:
    """Tiles cut to 384 pixels every 256, put together again to be scored."""
    return _maps(find("spacenet1"), 384, 256, "scenes")


def _pairs(data: Benchmark, epochs: int, side: int = 256, inputs: Inputs | None = None) -> Recipe:
    return Recipe(
        method=Spec(
            task=changed(data, siamese_unet.Spec()),
            encoder=vit.vit_b12x1(),
            form="vitdet",
            drop_path=DROP_PATH,
            inputs=inputs,
            views=Viewing(side=side, turns="flips"),
        ),
        streams=labelled(data),
        batch=32,
        steps=steps(epochs, data, 32),
        optim=OPTIM,
        schedule=Cosine(warmup=WARMUP / epochs),
    )


def mtp_levir_cd() -> Recipe:
    """Tiles of 256 pixels."""
    return _pairs(find("levir_cd_256"), 150)


def mtp_whu() -> Recipe:
    """Tiles of 256 pixels."""
    return _pairs(find("whu_cd"), 200)


def mtp_cdd() -> Recipe:
    """Pairs of 256 pixels."""
    return _pairs(find("cdd"), 200)


def mtp_oscd() -> Recipe:
    """Three bands, tiles of 96 pixels brought to 224."""
    return _pairs(find("oscd"), 100, side=224, inputs=OSCD_RGB)
