"""MoCo v3: tell a picture's second view from all other pictures of the batch, with a vision transformer.

"An Empirical Study of Training Self-Supervised Vision Transformers" (Chen, Xie and He 2021), as a baseline of "A
Contrastive Learning Foundation Model Based on Perfectly Aligned Sample Pairs for Remote Sensing Images" (PerA). There
is no queue: the keys are those of the batch on all ranks, made by a slow average of the student. MoCo v1 and v2, which
have one, are settings of GeRSP.

Letters: B batch, S input channels, D width, Z of the projection.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from training import crops
from training.ablation import like_pera
from training.crops import Crops
from training.encoders import IMAGENET_RGB, learned, vit
from training.heads import Projector
from training.memory import Teacher
from training.methods import Losses, Method, MethodSpec, Progress
from training.objectives import contrast
from training.recipe import Cosine, Optimizer, Recipe, Stream, replace
from training.schedules import Teaching

if TYPE_CHECKING:
    from training.feed import Samples

__all__ = ["MoCo", "Spec", "build"]


class Spec(MethodSpec):
    """Contrast of two views. It reads the stream `scenes`; small crops play no part."""

    encoder: learned.Spec
    crops: Crops
    hidden: int = Field(4096, gt=0)
    out: int = Field(256, gt=0)
    teaching: Teaching = Teaching(momentum=0.99, cold=0.2, warm=0.2)  # the temperature is the contrast's
    frozen_patches: bool = True  # the patch embedding stays random, which keeps training steady (sec. 4)


class MoCo(Method):
    """Student, predictor, and a teacher of encoder and projector. In evaluation the views are fixed."""

    encoder: learned.Learned

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec, width = spec, spec.encoder.width
        self.encoder = learned.build(spec.encoder)
        _initialise(self.encoder)
        self.encoder.patch_embed.requires_grad_(not spec.frozen_patches)
        self.head = Projector(width, spec.hidden, spec.out, layers=3, norm="batch")
        self.predictor = Projector(spec.out, spec.hidden, spec.out, layers=2, norm="batch")
        self.teacher = Teacher(self.encoder, evaluating=True)  # no stochastic depth
        self.teacher_head = Teacher(self.head)  # whose norms take the batch's statistics

    def forward(self, batch: Mapping[str, Samples], progress: Progress) -> Losses:
        """The symmetric contrast of the two views, as `contrast`."""
        inputs, size = self.spec.encoder.inputs, self.spec.encoder.image
        views, _ = crops.cut(batch["scenes"], inputs, self.spec.crops, size, fixed=not self.training)
        return self.losses(views, self.spec.teaching.temperature(progress))

    def losses(self, views: Tensor, temperature: float) -> Losses:
        """Losses on normalised views (2B, S, H, W), the first of all pictures, then the second; norms see one at a time."""
        first, second = self.encoder(views).cls.chunk(2)  # (B, D) each
        queries = [self.predictor(self.head(features)) for features in (first, second)]  # (B, Z) each
        keys = self.keys(views)  # (B, Z) each
        there, back = contrast(queries[0], keys[1], temperature), contrast(queries[1], keys[0], temperature)
        return Losses.sum(contrast=there + back)

    @torch.no_grad()
    def keys(self, views: Tensor) -> list[Tensor]:
        """What the teacher makes of each view: two of (B, Z)."""
        features = self.teacher.module(views).cls.chunk(2)  # (B, D) each
        return [self.teacher_head.module(part) for part in features]

    def after_step(self, progress: Progress) -> None:
        """The teacher follows."""
        done = Progress(progress.step - 1, progress.steps)
        momentum = self.spec.teaching.inertia(done)
        self.teacher.follow(self.encoder, momentum)
        self.teacher_head.follow(self.head, momentum)


def _initialise(encoder: learned.Learned) -> None:
    """Xavier-uniform linear maps, queries, keys and values each a map of its own; a class token near 0."""
    vit.initialise(encoder)
    for block in encoder.blocks:
        bound = math.sqrt(6 / (2 * encoder.width))
        nn.init.uniform_(cast(learned.Layer, block).attn.qkv.weight, -bound, bound)


def build(spec: Spec) -> MoCo:
    """The method of a spec, randomly initialised."""
    return MoCo(spec)


# Recipes. PerA's tables 9 and 10: 100,000 tiles of 512 pixels, 200 epochs.


def as_pera_repo() -> Recipe:
    """ViT-B/16 as PerA's repository trains it: 448 pixels, patches that learn, PerA's optimizer, 192 keys.

    The contrast's T is the temperature that its loop gives to every method's loss, 0.03 rising to 0.05 in 30 epochs.
    """
    encoder = learned.Spec(
        inputs=IMAGENET_RGB, image=448, positions="sincos_rows_first", drop_path=0.3, drop_path_law="linear"
    )
    views = replace(crops.recoloured(), count=0)
    return like_pera(
        Spec(
            encoder=encoder,
            crops=views,
            teaching=Teaching(momentum=0.992, cold=0.03, warm=0.05, warming=0.15),
            frozen_patches=False,
        )
    )


def as_upstream() -> Recipe:
    """ViT-B/16 by MoCo v3's own settings: 224 pixels, T = 0.2, frozen patches, 1.5e-4 per 256, a batch of 1024."""
    encoder = learned.Spec(inputs=IMAGENET_RGB, positions="sincos_rows_first")
    return replace(
        as_pera_repo(),
        method=Spec(encoder=encoder, crops=replace(crops.recoloured(), count=0, large=(0.08, 1.0))),
        batch=1024,
        steps=200 * 97,
        optim=Optimizer(lr_per_256=1.5e-4, weight_decay=0.1, decay="all", betas=(0.9, 0.999)),
        schedule=Cosine(warmup=40 / 300),
    )


def smoke() -> Recipe:
    """The invented Earth, ten bands, small heads: seconds."""
    encoder = replace(learned.smoke(), positions="sincos_rows_first")
    views = replace(crops.bands_apart(24), count=0)
    return Recipe(
        method=Spec(encoder=encoder, crops=views, hidden=128, out=32),
        streams={"scenes": Stream(corpus="runs/corpora/smoke@1", layers=("s2",))},
        batch=16,
        steps=20,
        optim=Optimizer(lr_per_256=1.6e-2, decay="all"),
        schedule=Cosine(warmup=0.1),
        log_every=5,
        checkpoint_every=10,
    )
