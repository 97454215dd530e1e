"""Self-distillation without labels: name in one view of a picture what the teacher sees in the others.

"Emerging Properties in Self-Supervised Vision Transformers" (DINO, Caron et al. 2021), as a baseline of "A Contrastive
Learning Foundation Model Based on Perfectly Aligned Sample Pairs for Remote Sensing Images" (PerA). The teacher, a slow
average of the student, looks at two large crops and sorts each among K prototypes; the student looks at these and at
small ones and must sort every crop as the teacher sorted the other ones. Centring and a low temperature keep the
teacher from always giving the same answer, or none. The teacher's encoder is what is kept.

Letters: B batch, S input channels, V crops of a picture (two of them large), N tokens, D width, E bottleneck,
K prototypes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from training import crops
from training.ablation import like_pera
from training.crops import Crops
from training.encoders import IMAGENET_RGB, learned
from training.heads import PrototypeHead
from training.memory import Centre, Teacher
from training.methods import Losses, Method, MethodSpec, Progress
from training.objectives import centred_softmax, collapse_signs, view_cross_entropy
from training.recipe import Cosine, Optimizer, Recipe, Stream, replace
from training.schedules import Teaching

if TYPE_CHECKING:
    from training.feed import Samples

__all__ = ["DINO", "Spec", "build"]


class Spec(MethodSpec):
    """Self-distillation of class tokens. It reads the stream `scenes`; large crops have the encoder's size."""

    encoder: learned.Spec
    crops: Crops
    prototypes: int = Field(65536, gt=1)
    hidden: int = Field(2048, gt=0)
    bottleneck: int = Field(256, gt=0)
    student_temperature: float = Field(0.1, gt=0)
    teaching: Teaching = Teaching()
    still: float = Field(0.0, ge=0, le=1)  # the share of the run in which prototypes do not move

    @model_validator(mode="after")
    def _fit(self) -> Spec:
        self.crops.must_fit(self.encoder.patch)
        return self


class _Network(nn.Module):
    """An encoder under its head; student and teacher are one each."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.encoder = learned.build(spec.encoder)
        nn.init.trunc_normal_(self.encoder.cls_token, std=0.02)
        width, count = spec.encoder.width, spec.prototypes
        self.head = PrototypeHead(width, count, spec.hidden, spec.bottleneck, scale="frozen")

    def forward(self, groups: Sequence[Tensor]) -> Tensor:
        """Class tokens (V * B, D) of groups of images, each group (B', S, H, W) of one size."""
        tokens = [self.encoder.with_class(self.encoder.embed(images)) for images in groups if len(images)]
        return torch.cat([group[:, 0] for group in self.encoder.together(tokens)])


class DINO(Method):
    """Student, teacher and the centre of the teacher's outputs. In evaluation the crops are fixed."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.student = _Network(spec)
        self.teacher = Teacher(self.student, evaluating=True)
        self.centre = Centre(spec.prototypes)

    @property
    def encoder(self) -> learned.Learned:  # type: ignore[override]
        """The teacher's."""
        return cast(_Network, self.teacher.module).encoder

    def forward(self, batch: Mapping[str, Samples], progress: Progress) -> Losses:
        """Cross-entropy of the student's crops against the teacher's others, as `large` and `small`."""
        inputs, size = self.spec.encoder.inputs, self.spec.encoder.image
        large, small = crops.cut(batch["scenes"], inputs, self.spec.crops, size, fixed=not self.training)
        return self.losses(large, small, self.spec.teaching.temperature(progress))

    def losses(self, large: Tensor, small: Tensor, temperature: float) -> Losses:
        """Losses on normalised crops, large (2B, S, H, W) and small ((V - 2) * B, S, h, w), crop by crop."""
        targets = self.targets(large, temperature)  # (2, B, K)
        features = self.student([large, small])  # (V * B, D)
        directions = self.student.head.directions(features).unflatten(0, (-1, targets.shape[1]))  # (V, B, E)
        prototypes = self.student.head.prototypes()  # (K, E)
        parts = view_cross_entropy(directions, prototypes, targets, self.spec.student_temperature)
        losses = Losses.sum(large=parts[0], small=parts[1])
        signs = collapse_signs(targets, features[: targets.shape[1]], self.centre.value)
        surprise = losses.total.detach() - signs["teacher_entropy"]
        signs["divergence"] = surprise  # of the student from the teacher
        return Losses(losses.total, losses.parts | signs)

    @torch.no_grad()
    def targets(self, large: Tensor, temperature: float) -> Tensor:
        """How the teacher sorts the large crops (2B, S, H, W) among the prototypes: (2, B, K)."""
        teacher = cast(_Network, self.teacher.module)
        logits = teacher.head(teacher([large]))  # (2B, K)
        self.centre.absorb(logits)
        return centred_softmax(logits, self.centre.value, temperature).unflatten(0, (2, -1))

    def after_step(self, progress: Progress) -> None:
        """The teacher follows; the centre settles on what it saw."""
        done = Progress(progress.step - 1, progress.steps)
        self.teacher.follow(self.student, self.spec.teaching.inertia(done))
        self.centre.settle()

    def rate_scale(self, name: str, progress: Progress) -> float:
        """0 for the prototypes while they do not move."""
        return float("last_layer" not in name or progress.fraction >= self.spec.still)


def build(spec: Spec) -> DINO:
    """The method of a spec, randomly initialised."""
    return DINO(spec)


# Recipes. PerA's table 9: 100,000 tiles of 512 pixels, 200 epochs of 520 steps.


def as_pera_repo() -> Recipe:
    """ViT-B/16 as PerA's repository trains it: DINO's model, PerA's crops, schedules and optimizer, large heads."""
    encoder = learned.Spec(
        inputs=IMAGENET_RGB, image=448, qkv_bias=False, norm_eps=1e-5, drop_path=0.3, drop_path_law="linear"
    )
    return like_pera(
        Spec(
            encoder=encoder,
            crops=crops.jittered(),
            prototypes=131072,
            bottleneck=384,
            teaching=Teaching(momentum=0.992, cold=0.03, warm=0.05, warming=0.15),
        )
    )


def table10() -> Recipe:
    """With the heads of PerA's table 10, half as large: 65,536 prototypes of 256 numbers."""
    base = as_pera_repo()
    return replace(base, method=replace(base.method, prototypes=65536, bottleneck=256))


def as_upstream() -> Recipe:
    """ViT-B/16 by the defaults of DINO's own code: 224 pixels, all colours, its rate, decay, temperature and last layer."""
    views = replace(crops.recoloured(), mode="bicubic")
    encoder = learned.Spec(inputs=IMAGENET_RGB, drop_path=0.1)
    optim = Optimizer(lr_per_256=5e-4, weight_decay=0.04, weight_decay_end=0.4, betas=(0.9, 0.999), clip=3.0)
    return replace(
        as_pera_repo(),
        method=Spec(encoder=encoder, crops=views, teaching=Teaching(warm=0.04), still=0.01),
        optim=optim,
        schedule=Cosine(warmup=0.1, floor=2e-3, inclusive=True),
    )


def smoke() -> Recipe:
    """The invented Earth, ten bands, one small head: seconds."""
    return Recipe(
        method=Spec(
            encoder=learned.smoke(),
            crops=crops.bands_apart(24),
            prototypes=256,
            hidden=64,
            bottleneck=32,
        ),
        streams={"scenes": Stream(corpus="runs/corpora/smoke@1", layers=("s2",))},
        batch=16,
        steps=20,
        optim=Optimizer(lr_per_256=8e-3, clip=3.0),
        schedule=Cosine(warmup=0.1),
        log_every=5,
        checkpoint_every=10,
    )
