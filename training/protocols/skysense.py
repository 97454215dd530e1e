"""Classification, segmentation, change and crops as in SkySense.

Settings are those of the released configurations for iSAID. For everything else the paper names none: AdamW at 1e-4 with
a decay of 0.05, layer decay 0.9, 5 % warm-up and a cosine over 100 epochs (classes) or 80,000 steps (maps) are our choice.
The encoder, where none is named, is a Swin-B; the paper's is a larger one of its kind.
"""

from __future__ import annotations

from typing import Literal

from geodata.benchmarks import Benchmark, find
from training.decoders import bit, fcn, siamese_unet, upernet
from training.encoders import AnyEncoder, Inputs, hierarchy, spatiotemporal, vit
from training.methods.finetune import Spec, Window
from training.protocols.settings import (
    OSCD_RGB,
    PHOTOMETRIC,
    adamw,
    changed,
    classified,
    cropped,
    labelled,
    mapped,
    steps,
)
from training.recipe import Cosine, Poly, Recipe, replace
from training.tasks import segment
from training.views import Viewing

__all__ = [
    "skysense_aid_tr20",
    "skysense_aid_tr50",
    "skysense_bigearthnet_mm",
    "skysense_bigearthnet_s2",
    "skysense_dynamicearthnet_mm",
    "skysense_dynamicearthnet_mm_prototypes",
    "skysense_dynamicearthnet_pla",
    "skysense_dynamicearthnet_s2",
    "skysense_fmow_s2",
    "skysense_isaid",
    "skysense_levir_cd",
    "skysense_oscd",
    "skysense_pastis",
    "skysense_pastis_mm",
    "skysense_potsdam",
    "skysense_resisc45_tr10",
    "skysense_resisc45_tr20",
]

OPTIM = adamw(1e-4, 0.05, layer_decay=0.9)
SCHEDULE = Cosine(warmup=0.05)
SENTINELS = ("s2", "s1", "fusion")
"""The parts of a spatiotemporal encoder that see 10 m pixels."""
SQUARES = 2433 * 3 // 5  # of PASTIS that a run trains on


def _inputs(data: Benchmark) -> Inputs:
    """All bands of the first layer."""
    sensor = data.sensors[0]
    return Inputs(layer=sensor.prefix, bands=sensor.band_names)


def _scenes(data: Benchmark) -> Recipe:
    return Recipe(
        method=Spec(
            task=classified(data),
            encoder=hierarchy.swin_b(),
            drop_path=0.2,
            views=Viewing(side=224, turns="dihedral"),
        ),
        streams=labelled(data),
        batch=64,
        steps=steps(100, data, 64),
        optim=OPTIM,
        schedule=SCHEDULE,
    )


def skysense_aid_tr20() -> Recipe:
    """A fifth of the pictures to train on."""
    return _scenes(find("aid_tr20_0"))


def skysense_aid_tr50() -> Recipe:
    """Half of the pictures to train on."""
    return _scenes(find("aid_tr50_0"))


def skysense_resisc45_tr10() -> Recipe:
    """A tenth of the pictures to train on."""
    return _scenes(find("resisc45_tr10_0"))


def skysense_resisc45_tr20() -> Recipe:
    """A fifth of the pictures to train on."""
    return _scenes(find("resisc45_tr20_0"))


def _plain(data: Benchmark, side: int, patch: int) -> AnyEncoder:
    return vit.Spec(inputs=_inputs(data), image=side, patch=patch)


def skysense_bigearthnet_s2() -> Recipe:
    """Twelve bands of 120 pixels brought to 128; the paper also trains on a tenth of the labels."""
    data = find("bigearthnet_seco_s2")
    return Recipe(
        method=Spec(
            task=classified(data), encoder=_plain(data, 128, 8), drop_path=0.2, views=Viewing(side=128)
        ),
        streams=labelled(data),
        batch=256,
        steps=steps(100, data, 256),
        optim=OPTIM,
        schedule=SCHEDULE,
    )


def skysense_fmow_s2() -> Recipe:
    """One class for a series of images."""
    data = find("fmow_s2_series")
    return Recipe(
        method=Spec(
            task=cropped(data, ranks=(1, 5)),
            encoder=_plain(data, 96, 8),
            drop_path=0.2,
            views=Viewing(side=96),
        ),
        streams=labelled(data),
        batch=64,
        steps=80_000,
        optim=OPTIM,
        schedule=SCHEDULE,
    )


def skysense_isaid() -> Recipe:
    """Patches of 896 pixels, scored whole: the one recipe of maps that is published."""
    data = find("isaid")
    return Recipe(
        method=Spec(
            task=mapped(data, upernet.Spec(), auxiliary=0.4),
            encoder=hierarchy.swin_b(),
            drop_path=0.2,
            views=Viewing(zoom=(0.5, 2.0), crop=896, turns="across", colour=PHOTOMETRIC),
        ),
        streams=labelled(data),
        batch=16,
        steps=80_000,
        optim=adamw(6e-5, 0.01, layer_decay=0.9),
        schedule=Poly(power=1.0, warmup=1500 / 80_000),
    )


def _maps(data: Benchmark, encoder: AnyEncoder, scored: Literal["scenes", "months"]) -> Recipe:
    base = skysense_isaid()
    method = Spec(
        task=mapped(data, upernet.Spec(), auxiliary=0.4),
        encoder=encoder,
        drop_path=0.2,
        views=Viewing(zoom=(0.5, 2.0), crop=512, turns="dihedral"),
        window=Window(size=512, stride=384),
        scored=scored,
    )
    return base.model_copy(update={"method": method, "streams": labelled(data)})


def skysense_potsdam() -> Recipe:
    """Settings of iSAID, windows of 512 pixels."""
    return _maps(find("potsdam"), hierarchy.swin_b(), "scenes")


def skysense_dynamicearthnet_pla() -> Recipe:
    """The Planet image of each labelled month."""
    data = find("dynamicearthnet_pla")
    return _maps(data, hierarchy.swin_b(_inputs(data)), "months")


def skysense_dynamicearthnet_s2() -> Recipe:
    """The Sentinel-2 image of each labelled month."""
    data = find("dynamicearthnet_s2")
    return _maps(data, hierarchy.swin_b(_inputs(data)), "months")


def skysense_levir_cd() -> Recipe:
    """BIT on tiles of 256 pixels, as the work it compares with."""
    data = find("levir_cd_256")
    return Recipe(
        method=Spec(
            task=changed(data, bit.Spec()), encoder=hierarchy.swin_b(), drop_path=0.2, views=Viewing()
        ),
        streams=labelled(data),
        batch=16,
        steps=steps(200, data, 16),
        optim=OPTIM,
        schedule=SCHEDULE,
    )


def skysense_oscd() -> Recipe:
    """A U-Net over differences of three bands, tiles of 96 pixels."""
    data = find("oscd")
    return Recipe(
        method=Spec(
            task=changed(data, siamese_unet.Spec()),
            encoder=hierarchy.swin_b(),
            drop_path=0.2,
            inputs=OSCD_RGB,
            views=Viewing(side=224),
        ),
        streams=labelled(data),
        batch=16,
        steps=steps(100, data, 16),
        optim=OPTIM,
        schedule=SCHEDULE,
    )


def skysense_pastis() -> Recipe:
    """Series of Sentinel-2, an FCN head on what the dates have in common; each seed is one of the five runs."""
    data = find("pastis_run1")
    return Recipe(
        method=Spec(task=cropped(data), encoder=_plain(data, 128, 8), drop_path=0.2),
        streams=labelled(data),
        batch=8,
        steps=100 * SQUARES // 8,
        optim=OPTIM,
        schedule=SCHEDULE,
    )


def skysense_bigearthnet_mm() -> Recipe:
    """Sentinel-2 and -1 fused in every pixel, the mean pixel classified."""
    data = find("bigearthnet_v1_mm")
    return Recipe(
        method=Spec(
            task=classified(data),
            encoder=spatiotemporal.base(),
            parts=SENTINELS,
            views=Viewing(turns="dihedral"),
        ),
        streams=labelled(data),
        batch=64,
        steps=steps(100, data, 64),
        optim=OPTIM,
        schedule=SCHEDULE,
        activations="recompute",
    )


def skysense_dynamicearthnet_mm() -> Recipe:
    """Planet, Sentinel-2 and Sentinel-1 fused in cells of 24 m (8 pixels of Planet), under the fine maps of Planet.

    Sizes are not published. An encoder whose cells are 32 pixels of its finest images and one of Sentinel's sees Planet
    enlarged four times, and crops of 32 cells.
    """
    data = find("dynamicearthnet_mm")
    base = skysense_isaid()
    method = Spec(
        task=mapped(data, upernet.Spec(), auxiliary=0.4),
        encoder=spatiotemporal.base(),
        parts=("hr", *SENTINELS),
        reads=spatiotemporal.Reads(hr=Inputs(layer="ps", bands=("R", "G", "B"))),
        views=Viewing(side=4096, crop=32, turns="dihedral"),
        window=Window(size=32, stride=24),
    )
    return base.model_copy(update={"method": method, "streams": labelled(data)})


def skysense_dynamicearthnet_mm_prototypes() -> Recipe:
    """The same, with what the prototypes of a cube's region say beside each cell."""
    base = skysense_dynamicearthnet_mm()
    return replace(base, method=replace(base.method, parts=("hr", *SENTINELS, "places")))


def skysense_pastis_mm() -> Recipe:
    """Series of Sentinel-2 and -1 fused in every pixel, an FCN head; each seed is one of the five runs.

    Of a year 20 dates of Sentinel-2 and as many of Sentinel-1 are seen, and squares of 32 pixels.
    """
    data = find("pastis_run1")
    task = segment.Spec(classes=data.classes, layer=data.label, decoder=fcn.Spec())
    return Recipe(
        method=Spec(
            task=task,
            encoder=spatiotemporal.base(),
            parts=SENTINELS,
            views=Viewing(crop=32, dates=20, turns="dihedral"),
            window=Window(size=32, stride=24),
        ),
        streams=labelled(data),
        batch=16,
        steps=100 * SQUARES // 16,
        optim=OPTIM,
        schedule=SCHEDULE,
        activations="recompute",
    )
