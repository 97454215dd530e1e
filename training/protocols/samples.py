"""Protocols of our own for small real samples, to be run on two cores: no paper reports numbers by them."""

from __future__ import annotations

from geodata.benchmarks import Benchmark, find
from training.encoders import AnyEncoder, Inputs, vit
from training.methods.finetune import Spec
from training.protocols.settings import adamw, classified, labelled, steps
from training.recipe import Cosine, Recipe, replace
from training.tasks import classify
from training.views import Viewing

__all__ = ["eurosat_rgb_500_finetune", "eurosat_rgb_500_probe"]


def _small(data: Benchmark, side: int, patch: int = 8) -> AnyEncoder:
    """A ViT of 2.7 M parameters over all bands of the first layer."""
    sensor = data.sensors[0]
    inputs = Inputs(layer=sensor.prefix, bands=sensor.band_names)
    return vit.Spec(inputs=inputs, image=side, patch=patch, width=192, depth=6, heads=3)


def eurosat_rgb_500_finetune() -> Recipe:
    """Ten classes, 350 pictures of each to train on."""
    data = find("eurosat_rgb_500")
    return Recipe(
        method=Spec(task=classified(data), encoder=_small(data, 64), views=Viewing(turns="dihedral")),
        streams=labelled(data),
        batch=50,
        steps=steps(15, data, 50),
        optim=adamw(5e-4, 0.05, layer_decay=0.75, clip=1.0),
        schedule=Cosine(warmup=0.1),
    )


def eurosat_rgb_500_probe() -> Recipe:
    """A linear layer on what a frozen encoder says, standardised over the batch."""
    base, data = eurosat_rgb_500_finetune(), find("eurosat_rgb_500")
    task = classify.Spec(classes=data.classes, label=data.label, batch_norm=True)
    return replace(
        base,
        method=Spec(task=task, encoder=_small(data, 64), freeze=True, views=Viewing(turns="dihedral")),
        optim=adamw(2e-3, 0.0),
        schedule=Cosine(warmup=0.0),
    )
