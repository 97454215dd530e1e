"""Segmentation as in "A Billion-scale Foundation Model for Remote Sensing Images" (sec. IV).

UPerNet on a plain ViT with windows, its layers 3, 6, 9 and 12 as four scales. The batch is not stated; it is that of
RVSA, whose code the paper builds on.
"""

from __future__ import annotations

from typing import Literal

from geodata.benchmarks import Benchmark, find
from training.decoders import upernet
from training.encoders import vit
from training.methods.finetune import Spec, Window
from training.protocols.settings import PHOTOMETRIC, adamw, labelled, mapped
from training.recipe import Poly, Recipe
from training.views import Viewing

__all__ = ["bfm_loveda", "bfm_potsdam"]

WARMUP = 1500  # steps


def _upernet(data: Benchmark, steps: int, scored: Literal["samples", "scenes"]) -> Recipe:
    return Recipe(
        method=Spec(
            task=mapped(data, upernet.Spec(), auxiliary=0.4),
            encoder=vit.vit_b12x1(),
            form="vitdet",
            drop_path=0.1,
            views=Viewing(zoom=(0.5, 2.0), crop=512, turns="across", colour=PHOTOMETRIC),
            window=Window(size=512, stride=384),
            scored=scored,
        ),
        streams=labelled(data),
        batch=8,
        steps=steps,
        optim=adamw(6e-5, 0.01, layer_decay=0.8),
        schedule=Poly(power=1.0, warmup=WARMUP / steps),
    )


def bfm_potsdam() -> Recipe:
    """Tiles cut to 512 pixels every 384, put together again to be scored."""
    return _upernet(find("potsdam"), 160_000, "scenes")


def bfm_loveda() -> Recipe:
    """Half as long."""
    return _upernet(find("loveda"), 80_000, "samples")
