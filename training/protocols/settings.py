"""What protocols are made of: a benchmark's stream and classes, epochs as steps, and rates that batches do not change.

Papers state a rate for the batch they train with, so here a rate is that rate whatever the batch.
"""

from __future__ import annotations

import math
from typing import Literal

from geodata.benchmarks import Benchmark
from training.colour import Colour, Jitter
from training.decoders import bit, siamese_unet
from training.encoders import Inputs
from training.recipe import Optimizer, Sgd, Stream
from training.tasks import AnyTask, change, classify, crops, multilabel, segment

__all__ = ["OSCD_RGB", "PHOTOMETRIC", "adamw", "classified", "cropped", "labelled", "mapped", "sgd", "steps"]

PHOTOMETRIC = Colour(jitter=Jitter(brightness=32 / 255, contrast=0.5, saturation=0.5, hue=18 / 360), p=0.5)
"""The photometric distortion of common segmentation recipes; there each of the four has a probability of a half."""


OSCD_RGB = Inputs(layer="s2", bands=("B04", "B03", "B02"))
"""The three bands of OSCD's thirteen that encoders of pictures are given."""


def labelled(data: Benchmark) -> dict[str, Stream]:
    """The stream of a benchmark's corpus, with all its layers."""
    return {"labelled": Stream(corpus=f"runs/corpora/{data.name}@1", layers=data.layers)}


def steps(epochs: int, data: Benchmark, batch: int) -> int:
    """Steps in which the training samples of the whole benchmark are seen `epochs` times.

    A share of the labels is trained on for as many steps, a part of the benchmark as well.
    """
    return math.ceil(epochs * data.splits["train"] / batch)


def classified(data: Benchmark) -> AnyTask:
    """One or several classes a picture, by a linear layer over the mean feature."""
    if data.task == "multilabel":
        return multilabel.Spec(classes=data.classes, label=data.label)
    return classify.Spec(classes=data.classes, label=data.label)


def mapped(data: Benchmark, decoder: segment.AnyDecoder, auxiliary: float = 0.0) -> segment.Spec:
    """One class a pixel."""
    return segment.Spec(classes=data.classes, layer=data.label, decoder=decoder, auxiliary=auxiliary)


def changed(data: Benchmark, decoder: bit.Spec | siamese_unet.Spec) -> change.Spec:
    """Changed ground or not, in every pixel."""
    return change.Spec(layer=data.label, decoder=decoder)


def cropped(data: Benchmark, ranks: tuple[int, ...] = ()) -> crops.Spec:
    """What is there, from a series of images: in every cell, or on the whole chip."""
    of: Literal["cells", "chip"] = "cells" if data.dense else "chip"
    return crops.Spec(classes=data.classes, truth=data.label, of=of, ranks=ranks)


def adamw(
    rate: float, weight_decay: float, *, layer_decay: float = 1.0, clip: float | None = None
) -> Optimizer:
    """AdamW at this rate."""
    return Optimizer(
        lr_per_256=rate,
        batch_power=0.0,
        weight_decay=weight_decay,
        betas=(0.9, 0.999),
        layer_decay=layer_decay,
        clip=clip,
    )


def sgd(rate: float, weight_decay: float) -> Sgd:
    """Gradient descent at this rate with a momentum of 0.9; every parameter decays."""
    return Sgd(lr_per_256=rate, batch_power=0.0, weight_decay=weight_decay, momentum=0.9, decay="all")
