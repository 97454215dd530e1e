"""GeRSP: what a photograph shows, learned from labels, beside what a satellite sees, learned from itself.

"Generic Knowledge Boosted Pre-training For Remote Sensing Images" (TGRS 2024). One residual network has two lessons.
Two views of a remote sensing picture must be told from the keys of some 65,000 others (momentum contrast); labelled
photographs must be named. Each step takes as many of one as of the other, through the same network in the same batch.

The baselines of its tables are settings, not files. An objective that is absent is None: without `naming` this is MoCo
(v1 and v2 differ in head, temperature and views), without `contrast` it is supervised pretraining ("IMP"), and the rest
(views, queue, teacher, batch norms) is the same lines for all, which is what a comparison needs. MoCo v3 has no queue
and no shuffled batch norm, and is a file of its own.

Where text and released code differ, the text wins (`resnet50`); where the text is silent, the code does. `gersp_code`
is the released code: its key projector is never updated, its teacher starts from weights of its own.

Letters: B remote sensing pictures, N photographs, S bands, H W the views' size, D width, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from training import augment, encoders, norms
from training.colour import Colour, Jitter
from training.contrast import Contrast, MomentumContrast, pooled
from training.encoders import IMAGENET_RGB, AnyEncoder, Inputs, hierarchy
from training.methods import Crop, Losses, Method, MethodSpec, Progress
from training.objectives import cross_entropy
from training.recipe import Recipe, Restarts, Sgd, Steps, Stream, replace

if TYPE_CHECKING:
    from training.feed import Samples

__all__ = ["GeRSP", "Naming", "Spec", "Views", "build"]

UNLABELLED = -1


class Naming(BaseModel):
    """Classification of the stream `natural` by the integer label `label`; less than 0 is no label.

    With `weight` 0 photographs pass through the network, and its batch norms, and teach nothing: the control of what
    their company alone does. `shuffled` is the control of what naming means: each photograph gets a class by lot, the
    same each time, from this seed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: int = Field(1000, gt=1)
    label: str = "class"
    weight: float = Field(1.0, ge=0)  # the paper's alpha
    shuffled: int | None = None


class Spec(MethodSpec):
    """Contrast, naming, or both. Contrast reads the stream `scenes`, unless told otherwise; naming reads `natural`.

    `groups` is over how many parts of the batch of all ranks batch norms take statistics, as the paper's eight GPUs did
    (norms.py); with 1, or without batch norms, there is nothing to divide. `bn` says whether the two domains share them.
    `turns` gives remote sensing views all eight orientations.
    """

    encoder: AnyEncoder
    contrast: Contrast | None = Contrast()
    naming: Naming | None = Naming()
    image: int = Field(224, gt=0)  # pixels of a view
    crop: Crop = (0.2, 1.0)
    colour: Colour
    turns: bool = False
    groups: int = Field(8, gt=0)
    bn: Literal["joint", "split"] = "joint"

    @model_validator(mode="after")
    def _something_to_learn(self) -> Spec:
        if self.contrast is None and (self.naming is None or not self.naming.weight):
            raise ValueError("without contrast or a weight on naming nothing would be learned: give one")
        if self.bn == "split" and (self.contrast is None or self.naming is None):
            raise ValueError("bn='split' keeps two domains apart, but only one is read: set bn='joint'")
        return self


Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Views:
    """A batch as the network sees it. `scenes` are two views (B, S, H, W) of the pictures to contrast, for the student
    and for the teacher; `natural` is one view (N, S, H, W) of the photographs, with labels (N,). None: not read."""

    scenes: Pair | None = None
    natural: Pair | None = None


class GeRSP(Method):
    """A student of two objectives; `encoder` is the student's.

    The teacher moves after a step and not before the next one's keys, which is the same: nothing moves between.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = encoders.build(spec.encoder)
        norms.grouped(self.encoder, spec.groups)
        self.contrast = MomentumContrast(spec.contrast, self.encoder, spec.groups) if spec.contrast else None
        self.classifier = nn.Linear(self.encoder.width, spec.naming.classes) if spec.naming else None
        self.natural = norms.Statistics(self.encoder) if spec.bn == "split" else None
        if self.classifier is not None:
            self.classifier.requires_grad_(self.weight > 0)

    def forward(self, batch: Mapping[str, Samples], progress: Progress) -> Losses:
        """`contrast` of the scenes and `naming` of the photographs; the total is contrast + weight * naming (eq. 3)."""
        return self.losses(self.views(batch))

    def losses(self, views: Views) -> Losses:
        """Losses of normalised views."""
        features = self.features(views)  # (B, D) of the queries, (N, D) of the photographs
        parts: dict[str, Tensor] = {}
        if self.contrast is not None and views.scenes is not None:
            parts["contrast"] = self.contrast(features[0], views.scenes[1])
        if self.classifier is not None and views.natural is not None and self.weight:
            logits = self.classifier(features[-1])  # (N, K)
            parts["naming"] = cross_entropy(logits, views.natural[1], ignore=UNLABELLED)
        weights = {"contrast": 1.0, "naming": self.weight}
        total = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        return Losses(total, {name: part.detach() for name, part in parts.items()})

    def features(self, views: Views) -> list[Tensor]:
        """The student's features of each domain that is read: in one batch, or one after the other (`bn`)."""
        domains = [pair[0] for pair in (views.scenes, views.natural) if pair is not None]
        if self.natural is None or len(domains) == 1:
            return self._encode(domains)
        first = self._encode(domains[:1])
        with self.natural.lent(self.encoder):
            return first + self._encode(domains[1:])

    def _encode(self, domains: list[Tensor]) -> list[Tensor]:
        groups = self.spec.groups if self.training else 1
        return norms.together(partial(pooled, self.encoder), domains, groups)

    @property
    def weight(self) -> float:
        """alpha, of the loss of naming."""
        return self.spec.naming.weight if self.spec.naming is not None else 0.0

    def views(self, batch: Mapping[str, Samples]) -> Views:
        """Crops, flips and colours of the raw samples, the same law for both domains; in evaluation, whole centres."""
        scenes, natural = None, None
        if self.spec.contrast is not None:
            turns, reads = self.spec.turns, self.spec.contrast.reads
            pairs = [self._seen(batch[name], 2, turns).chunk(2) for name in reads]
            query, key = (torch.cat(views) for views in zip(*pairs, strict=True))
            scenes = query, key
        if self.spec.naming is not None:
            natural = self._seen(batch["natural"], 1), labels(batch["natural"], self.spec.naming)
        return Views(scenes, natural)

    def _seen(self, samples: Samples, times: int, turns: bool = False) -> Tensor:
        """Normalised views (times * B, S, H, W), the first of every sample before the second."""
        inputs, size = self.spec.encoder.inputs, self.spec.image
        date = augment.any_date(samples, inputs.layer) if self.training else None
        pictures = augment.pixels(samples, inputs, date)  # (B, S, h, w)
        count, (height, width), device = times * len(samples), pictures.shape[-2:], pictures.device
        if not self.training:
            view = augment.central_views(count, height, width, device=device)
            return augment.normalise(augment.render(pictures, view, size), inputs)
        often = 0.5 if turns else 0.0
        view = augment.draw_views(count, height, width, self.spec.crop, down=often, turn=often, device=device)
        crops = self.spec.colour.apply(augment.render(pictures, view, size))
        return augment.normalise(crops, inputs)

    def after_step(self, progress: Progress) -> None:
        """Queue and teacher follow."""
        if self.contrast is not None:
            self.contrast.after_step(self.encoder)


def labels(samples: Samples, naming: Naming) -> Tensor:
    """Classes (N,) int64 of photographs, -1 where there is none; by lot when `shuffled`, the same for a picture each time."""
    if naming.label not in samples.labels:
        raise ValueError(
            f"photographs have labels {sorted(samples.labels)}, not {naming.label!r}: set method.naming.label"
        )
    told = samples.labels[naming.label].long().clamp(min=UNLABELLED)
    if naming.shuffled is None:
        return told
    lots = [hashlib.sha256(f"{naming.shuffled}/{name}".encode()).digest()[:8] for name in samples.ids]
    return told.new_tensor([int.from_bytes(lot, "big") % naming.classes for lot in lots])


def build(spec: Spec) -> GeRSP:
    """The method of a spec, randomly initialised."""
    return GeRSP(spec)


# Recipes. The paper (sec. IV-A): 100 epochs of 128 pictures of each domain a step on eight GPUs, so 10,009 steps an epoch
# of ImageNet; momentum and weight decay are swapped in its text, the extremes of its rate exceed the start it states.

PAPER = Colour(jitter=Jitter(hue=0.16), p=0.8, gray=0.2, blur=0.5)
MOCO_V1 = Colour(jitter=Jitter(hue=0.4), p=1.0, gray=0.2, gray_order="before")
MOCO_V2 = Colour(jitter=Jitter(hue=0.1), p=0.8, gray=0.2, blur=0.5)

SCENES = Stream(corpus="runs/corpora/million_aid@1", layers=("hr",))
NATURAL = Stream(corpus="runs/corpora/imagenet@1", layers=("hr",))


def resnet50() -> Recipe:
    """GeRSP as its text has it: m 0.996, rates 0.05 to 0.001 in five rounds. What the text leaves open is the code's."""
    return Recipe(
        method=Spec(encoder=hierarchy.resnet50(IMAGENET_RGB), colour=PAPER),
        streams={"scenes": SCENES, "natural": NATURAL},
        batch=256,
        steps=100 * 10_009,
        optim=Sgd(lr_per_256=0.05, batch_power=0.0, weight_decay=5e-5, decay="all"),
        schedule=Restarts(rounds=5, epochs=20, floor=0.02),
        precision="bf16",
    )


def gersp_200() -> Recipe:
    """GeRSP-200: twice the epochs, in ten rounds."""
    return replace(resnet50(), steps=200 * 10_009, schedule=Restarts(rounds=10, epochs=20, floor=0.02))


def gersp_code() -> Recipe:
    """The released code, for parity: a key projector that never moves, a teacher that starts elsewhere, MoCo v1's views.

    Its 256 photographs always met the same remote sensing pictures; here the two streams are drawn independently.
    """
    contrast = Contrast(momentum=0.999, follows="backbone", start="apart")
    return replace(
        resnet50(),
        method=Spec(encoder=hierarchy.resnet50(IMAGENET_RGB), contrast=contrast, colour=MOCO_V1),
        batch=512,
        steps=100 * 5_004,
        optim=Sgd(lr_per_256=0.007, batch_power=0.0, weight_decay=5e-4, decay="all"),
        schedule=Restarts(rounds=5, epochs=20, floor=1 / 7),
        precision="fp32",
    )


def gersp_swapped() -> Recipe:
    """The extremes of the rate as printed, 0.10 and 0.01, the larger first: a rate that rises has no spelling here."""
    base = resnet50()
    optim = replace(base.optim, lr_per_256=0.10)
    return replace(base, optim=optim, schedule=Restarts(rounds=5, epochs=20, floor=0.1))


def alpha_05() -> Recipe:
    """Table V: half the weight for photographs."""
    return _told(resnet50(), naming=Naming(weight=0.5))


def alpha_0() -> Recipe:
    """Table V as it reads: GeRSP without photographs. The row it prints is `moco_maid`'s, another recipe."""
    base = _told(resnet50(), naming=None)
    return replace(base, streams={"scenes": SCENES}, batch=128)


def moco_maid() -> Recipe:
    """MoCo v1 on Million-AID; the paper's optimizer, with drops at 30, 60 and 90 epochs."""
    contrast = Contrast(head="linear", momentum=0.999)
    return replace(
        _told(alpha_0(), contrast=contrast, colour=MOCO_V1),
        steps=100 * 7_819,
        schedule=Steps(warmup=0.0, milestones=(0.3, 0.6, 0.9)),
    )


def moco_in() -> Recipe:
    """MoCo v1 on ImageNet, its labels unread."""
    base = moco_maid()
    return replace(base, streams={"scenes": NATURAL}, steps=100 * 10_009)


def moco_in_maid() -> Recipe:
    """MoCo v1 on both, in equal shares."""
    base = moco_maid()
    contrast = Contrast(head="linear", momentum=0.999, reads=("scenes", "natural"))
    streams = {"scenes": SCENES, "natural": NATURAL}
    return replace(_told(base, contrast=contrast), streams=streams, steps=100 * 17_828)


def moco_v2() -> Recipe:
    """MoCo v2 on Million-AID."""
    contrast = Contrast(momentum=0.999, temperature=0.2)
    return _told(moco_maid(), contrast=contrast, colour=MOCO_V2)


def imp() -> Recipe:
    """Supervised pretraining alone ("IMP"): GeRSP without remote sensing pictures, for want of downloaded weights."""
    return replace(_told(resnet50(), contrast=None), streams={"natural": NATURAL}, batch=128)


def smoke() -> Recipe:
    """The invented Earth in true colour, twice: as scenes without labels, and as photographs of its land cover: seconds."""
    inputs = Inputs(layer="s2", bands=("B04", "B03", "B02"))
    stream = Stream(corpus="runs/corpora/smoke@1", layers=("s2",))
    return Recipe(
        method=Spec(
            encoder=hierarchy.Spec(inputs=inputs, name="resnet10t", channels=(16, 32, 64, 128)),
            contrast=Contrast(queue=64, projection=32),
            naming=Naming(classes=12, label="landcover"),
            image=32,
            colour=PAPER,
            groups=2,
        ),
        streams={"scenes": stream, "natural": stream},
        batch=32,
        steps=20,
        optim=Sgd(lr_per_256=0.05, batch_power=0.0, weight_decay=5e-5, decay="all"),
        schedule=Restarts(rounds=2, floor=0.02),
        log_every=5,
        checkpoint_every=10,
    )


def _told(recipe: Recipe, **changes: object) -> Recipe:
    """The recipe with settings of its method changed."""
    return replace(recipe, method=replace(recipe.method, **changes))
