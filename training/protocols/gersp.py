"""Scene classification and segmentation as in "Generic Knowledge Boosted Pre-training for Remote Sensing Images".

A ResNet-50, all of it trained. The polynomial of the segmenters' rate is their toolbox's.
"""

from __future__ import annotations

from geodata.benchmarks import Benchmark, find
from training.decoders import deeplabv3plus, psanet
from training.encoders import hierarchy
from training.methods.finetune import Spec
from training.protocols.settings import classified, labelled, mapped, sgd, steps
from training.recipe import Poly, Recipe, Steps
from training.tasks import segment
from training.views import Viewing

__all__ = ["gersp_eurosat", "gersp_loveda_deeplabv3plus", "gersp_loveda_psanet", "gersp_resisc45"]


def _scenes(data: Benchmark) -> Recipe:
    return Recipe(
        method=Spec(
            task=classified(data), encoder=hierarchy.resnet50(), views=Viewing(side=224, turns="across")
        ),
        streams=labelled(data),
        batch=64,
        steps=steps(100, data, 64),
        optim=sgd(0.01, 1e-4),
        schedule=Steps(milestones=(0.3, 0.6, 0.9), warmup=0.0),
    )


def gersp_eurosat() -> Recipe:
    """A fifth of the pictures to train on, five divisions."""
    return _scenes(find("eurosat_rgb_tr20_0"))


def gersp_resisc45() -> Recipe:
    """A fifth of the pictures to train on, five divisions."""
    return _scenes(find("resisc45_tr20_0"))


def _maps(decoder: segment.AnyDecoder) -> Recipe:
    """Images of 1,024 pixels are brought to 512 x (0.5 to 2) and cut to 512; they are scored at 1,024."""
    data = find("loveda")
    return Recipe(
        method=Spec(
            task=mapped(data, decoder, auxiliary=0.4),
            encoder=hierarchy.resnet50(),
            form="dilated",
            views=Viewing(zoom=(0.25, 1.0), crop=512, turns="across"),
        ),
        streams=labelled(data),
        batch=4,
        steps=80_000,
        optim=sgd(0.01, 5e-4),
        schedule=Poly(power=0.9, warmup=0.0),
    )


def gersp_loveda_psanet() -> Recipe:
    """PSANet."""
    return _maps(psanet.Spec())


def gersp_loveda_deeplabv3plus() -> Recipe:
    """DeepLabV3+."""
    return _maps(deeplabv3plus.Spec())
