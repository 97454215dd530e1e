"""Classification, segmentation and change as in "A Contrastive Learning Foundation Model Based on Perfectly Aligned
Sample Pairs for Remote Sensing Images".

How strongly crops and colours vary is not stated; those of the paper's own pretraining are taken.
"""

from __future__ import annotations

from typing import Literal

from geodata.benchmarks import Benchmark, find
from training.colour import Colour
from training.decoders import bit, upernet
from training.encoders import learned
from training.methods.finetune import Spec, Window
from training.protocols.settings import adamw, changed, classified, labelled, mapped, steps
from training.recipe import Cosine, Recipe, replace
from training.views import Viewing

__all__ = ["pera_aid_tr20", "pera_levir_cd", "pera_loveda", "pera_potsdam", "pera_ucm_tr50", "pera_ucm_tr80"]

AREA = (0.2, 1.0)
WARMUP = 20  # epochs


def pera_aid_tr20() -> Recipe:
    """A fifth of the pictures to train on."""
    data = find("aid_tr20_0")
    return Recipe(
        method=Spec(
            task=classified(data),
            encoder=learned.vit_g16_1024(),
            views=Viewing(side=512, area=AREA, turns="across", colour=Colour(p=0.8)),
        ),
        streams=labelled(data),
        batch=16,
        steps=steps(200, data, 16),
        optim=adamw(1e-4, 5e-6),
        schedule=Cosine(warmup=WARMUP / 200),
    )


def _merced(data: Benchmark) -> Recipe:
    base = pera_aid_tr20()
    return replace(
        base,
        method=replace(base.method, task=classified(data), drop_path=0.3),
        streams=labelled(data),
        steps=steps(200, data, 16),
        optim=adamw(5e-5, 1e-4),
    )


def pera_ucm_tr50() -> Recipe:
    """Half of the pictures to train on."""
    return _merced(find("ucmerced_tr50_0"))


def pera_ucm_tr80() -> Recipe:
    """Four fifths of the pictures to train on."""
    return _merced(find("ucmerced_tr80_0"))


def _adapted(data: Benchmark, rate: float, scored: Literal["samples", "scenes"]) -> Recipe:
    return Recipe(
        method=Spec(
            task=mapped(data, upernet.Spec(channels=512, out=256)),
            encoder=learned.vit_g16_1024(),
            form="adapter",
            drop_path=0.1,
            views=Viewing(area=AREA, crop=512, turns="across"),
            window=Window(size=512, stride=384),
            scored=scored,
        ),
        streams=labelled(data),
        batch=8,
        steps=steps(200, data, 8),
        optim=adamw(rate, 1e-4),
        schedule=Cosine(warmup=WARMUP / 200, floor=5e-6 / rate),
    )


def pera_potsdam() -> Recipe:
    """Tiles cut to 512 pixels."""
    return _adapted(find("potsdam"), 1e-4, "scenes")


def pera_loveda() -> Recipe:
    """Crops of 512 pixels, half the rate."""
    return _adapted(find("loveda"), 5e-5, "samples")


def pera_levir_cd() -> Recipe:
    """Pairs cut to 512 pixels, BIT; the weight decay is that of the segmenters."""
    data = find("levir_cd_512")
    return Recipe(
        method=Spec(
            task=changed(data, bit.Spec()),
            encoder=learned.vit_g16_1024(),
            drop_path=0.2,
            views=Viewing(area=AREA, turns="across"),
        ),
        streams=labelled(data),
        batch=8,
        steps=steps(500, data, 8),
        optim=adamw(1e-4, 1e-4),
        schedule=Cosine(warmup=0.0, floor=0.01),
    )
