"""Protocols of our own for small real samples, to be run on two cores: no paper reports numbers by them."""

from __future__ import annotations

from geodata.benchmarks import Benchmark, find
from training.decoders import growing, siamese_unet
from training.encoders import AnyEncoder, Inputs, vit
from training.methods.finetune import Spec
from training.protocols.settings import adamw, changed, classified, cropped, labelled, mapped, steps
from training.recipe import Cosine, Recipe, replace
from training.tasks import AnyTask, classify
from training.views import Viewing

__all__ = [
    "eurosat_rgb_500_finetune",
    "eurosat_rgb_500_probe",
    "kampala_buildings_19_finetune",
    "kampala_buildings_20_finetune",
    "kampala_buildings_21_finetune",
    "levir_cd_samples_finetune",
    "modis_sinop_finetune",
    "slovenia_landcover_finetune",
    "terramesh_landcover_chile_finetune",
    "terramesh_landcover_denmark_finetune",
    "terramesh_landcover_tanzania_finetune",
    "worldcereal_crops_finetune",
]


def small(data: Benchmark, side: int, patch: int = 8, width: int = 192) -> AnyEncoder:
    """A ViT of six layers over all bands of the first layer, 2.7 M parameters at this width."""
    sensor = data.sensors[0]
    inputs = Inputs(layer=sensor.prefix, bands=sensor.band_names)
    return vit.Spec(inputs=inputs, image=side, patch=patch, width=width, depth=6, heads=width // 64)


def _tuned(data: Benchmark, task: AnyTask, encoder: AnyEncoder, batch: int, count: int) -> Recipe:
    return Recipe(
        method=Spec(task=task, encoder=encoder, views=Viewing(turns="dihedral")),
        streams=labelled(data),
        batch=batch,
        steps=count,
        optim=adamw(5e-4, 0.05, layer_decay=0.75, clip=1.0),
        schedule=Cosine(warmup=0.1),
    )


def eurosat_rgb_500_finetune() -> Recipe:
    """Ten classes, 350 pictures of each to train on."""
    data = find("eurosat_rgb_500")
    return _tuned(data, classified(data), small(data, 64), 50, steps(15, data, 50))


def eurosat_rgb_500_probe() -> Recipe:
    """A linear layer on what a frozen encoder says, standardised over the batch."""
    base, data = eurosat_rgb_500_finetune(), find("eurosat_rgb_500")
    task = classify.Spec(classes=data.classes, label=data.label, batch_norm=True)
    return replace(
        base,
        method=Spec(task=task, encoder=small(data, 64), freeze=True, views=Viewing(turns="dihedral")),
        optim=adamw(2e-3, 0.0),
        schedule=Cosine(warmup=0.0),
    )


def _maps(data: Benchmark, side: int, patch: int, batch: int) -> Recipe:
    task = mapped(data, growing.Spec(channels=32))
    return _tuned(data, task, small(data, side, patch), batch, 300)


def kampala_buildings_19_finetune() -> Recipe:
    """Buildings at 0.3 m, four pictures to train on."""
    return _maps(find("kampala_buildings_19"), 256, 16, 4)


def kampala_buildings_20_finetune() -> Recipe:
    """The same ground at 0.15 m."""
    return _maps(find("kampala_buildings_20"), 256, 16, 4)


def kampala_buildings_21_finetune() -> Recipe:
    """The same ground at 0.075 m."""
    return _maps(find("kampala_buildings_21"), 256, 16, 4)


def slovenia_landcover_finetune() -> Recipe:
    """Land cover of one square kilometre, its west against its east."""
    return _maps(find("slovenia_landcover"), 32, 4, 16)


def terramesh_landcover_tanzania_finetune() -> Recipe:
    """Land cover learned in Chile and Denmark."""
    return _maps(find("terramesh_landcover_tanzania"), 32, 4, 16)


def terramesh_landcover_chile_finetune() -> Recipe:
    """Land cover learned in Tanzania and Denmark."""
    return _maps(find("terramesh_landcover_chile"), 32, 4, 16)


def terramesh_landcover_denmark_finetune() -> Recipe:
    """Land cover learned in Tanzania and Chile."""
    return _maps(find("terramesh_landcover_denmark"), 32, 4, 16)


def levir_cd_samples_finetune() -> Recipe:
    """Change in seven pairs, learned from three."""
    data = find("levir_cd_samples")
    head = siamese_unet.Spec(channels=(64, 64, 32, 32))
    return _tuned(data, changed(data, head), small(data, 256, 16), 3, 200)


def worldcereal_crops_finetune() -> Recipe:
    """The crop of a field from the twelve months of one pixel."""
    data = find("worldcereal_crops")
    return _tuned(data, cropped(data), small(data, 1, 1, width=64), 32, 400)


def modis_sinop_finetune() -> Recipe:
    """The vegetation of a place from twelve values of NDVI."""
    data = find("modis_sinop")
    return _tuned(data, cropped(data), small(data, 1, 1, width=64), 32, 400)
