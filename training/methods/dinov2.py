"""DINOv2: name the crops as DINO does, and every hidden patch of the large ones as the teacher, who sees it, names it.

"DINOv2: Learning Robust Visual Features without Supervision" (Oquab et al. 2024, sec. 4), as a baseline of "A
Contrastive Learning Foundation Model Based on Perfectly Aligned Sample Pairs for Remote Sensing Images" (PerA). To
DINO's loss on class tokens it adds iBOT's on masked patches, with a head of its own, and KoLeo's, which keeps the
features of a batch apart. The teacher's outputs are balanced by a running centre or by Sinkhorn-Knopp.

Letters: B batch, S input channels, V crops of a picture (two of them large), L patches of a large crop, M masked
patches of all large crops, D width, E bottleneck, K prototypes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from training import crops
from training.ablation import like_pera
from training.crops import Crops
from training.encoders import IMAGENET_RGB, learned
from training.heads import PrototypeHead
from training.masking import block_masks, masked_counts
from training.memory import Centre, Teacher
from training.methods import Losses, Method, MethodSpec, Progress
from training.objectives import (
    centred_softmax,
    collapse_signs,
    koleo,
    patch_shares,
    prototype_cross_entropy,
    sinkhorn,
    view_cross_entropy,
)
from training.recipe import Cosine, Optimizer, Recipe, Stream, replace
from training.schedules import Teaching

if TYPE_CHECKING:
    from training.feed import Samples

__all__ = ["DINOv2", "Spec", "build"]


class Spec(MethodSpec):
    """Self-distillation of class tokens and masked patches. It reads the stream `scenes`."""

    encoder: learned.Spec
    crops: Crops
    prototypes: int = Field(65536, gt=1)  # of each of the two heads
    hidden: int = Field(2048, gt=0)
    bottleneck: int = Field(256, gt=0)
    student_temperature: float = Field(0.1, gt=0)
    teaching: Teaching = Teaching()
    balance: Literal["centre", "sinkhorn"] = "centre"
    koleo: float = Field(0.1, ge=0)  # its weight, for each of the two large crops
    koleo_on: Literal["features", "logits"] = "features"  # PerA's repository takes the logits
    still: float = Field(0.0, ge=0, le=1)  # the share of the run in which prototypes do not move
    patch_rate: float = Field(1.0, gt=0)  # the patch embedding's multiple of the rate

    @model_validator(mode="after")
    def _fit(self) -> Spec:
        self.crops.must_fit(self.encoder.patch)
        return self


class _Network(nn.Module):
    """An encoder under its two heads; student and teacher are one each."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.encoder = learned.build(spec.encoder)
        self.mask_token = nn.Parameter(torch.zeros(1, spec.encoder.width))
        width, count = spec.encoder.width, spec.prototypes
        self.head = PrototypeHead(width, count, spec.hidden, spec.bottleneck)
        self.patch_head = PrototypeHead(width, count, spec.hidden, spec.bottleneck)

    def tokens(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """Embedded images (B', S, H, W), class token first: (B', 1 + L, D); masked patches (B', L) show their place alone."""
        tokens, side = self.encoder.embed(images), images.shape[-1] // self.encoder.patch
        if masks is not None:
            hidden = (self.mask_token + self.encoder.positions(side, side)[0, 1:]).to(tokens.dtype)  # (L, D)
            tokens = torch.where(masks[..., None], hidden, tokens)
        return self.encoder.with_class(tokens)


class DINOv2(Method):
    """Student, teacher, and a centre for each head. In evaluation crops and masks are fixed."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.student = _Network(spec)
        self.teacher = Teacher(self.student, evaluating=True)
        self.centre, self.patch_centre = Centre(spec.prototypes), Centre(spec.prototypes)

    @property
    def encoder(self) -> learned.Learned:  # type: ignore[override]
        """The teacher's."""
        return cast(_Network, self.teacher.module).encoder

    def forward(self, batch: Mapping[str, Samples], progress: Progress) -> Losses:
        """Cross-entropies of crops, as `large` and `small`, and of masked `patches`, and `koleo`."""
        inputs, size = self.spec.encoder.inputs, self.spec.encoder.image
        large, small = crops.cut(batch["scenes"], inputs, self.spec.crops, size, fixed=not self.training)
        return self.losses(large, small, self.masks(len(large)), self.spec.teaching.temperature(progress))

    def losses(self, large: Tensor, small: Tensor, masks: Tensor, temperature: float) -> Losses:
        """Losses on normalised crops, large (2B, S, H, W) and small ((V - 2) * B, S, h, w), crop by crop.

        `masks` (2B, L) bool lie on the host, so that counting what is masked makes no device wait.
        """
        spec, student, batch = self.spec, self.student, len(large) // 2
        places = masks.flatten().nonzero()[:, 0].to(large.device, non_blocking=True)  # (M,)
        targets, patch_targets = self.targets(large, places, temperature)  # (2, B, K)

        groups = [student.tokens(large, masks.to(large.device, non_blocking=True))]
        tokens = student.encoder.together([*groups, student.tokens(small)] if len(small) else groups)
        features = torch.cat([group[:, 0] for group in tokens])  # (V * B, D)
        directions = student.head.directions(features).unflatten(0, (-1, batch))  # (V, B, E)
        prototypes = student.head.prototypes()  # (K, E)
        parts = view_cross_entropy(directions, prototypes, targets, spec.student_temperature)

        hidden = student.patch_head.directions(tokens[0][:, 1:].flatten(0, 1)[places])  # (M, E)
        shares = patch_shares(masks).to(large.device, non_blocking=True)  # (M,)
        rows = student.patch_head.prototypes()  # (K, E)
        patches = prototype_cross_entropy(hidden, rows, patch_targets, spec.student_temperature, shares)

        apart = features.unflatten(0, (-1, batch))[:2]  # (2, B, D)
        if spec.koleo_on == "logits":
            apart = F.linear(directions[:2], prototypes)  # (2, B, K)
        spread = torch.zeros_like(patches)
        if self.training or batch > 1:  # the last picture of an evaluation may be alone
            spread = spec.koleo * (koleo(apart[0], whole=True) + koleo(apart[1], whole=True))
        losses = Losses.sum(large=parts[0], small=parts[1], patches=patches, koleo=spread)
        signs = collapse_signs(targets, features[:batch], self.centre.value)
        cross = (parts[0] + parts[1]).detach()
        signs["divergence"] = cross - signs["teacher_entropy"]  # of the student from the teacher
        return Losses(losses.total, losses.parts | signs)

    @torch.no_grad()
    def targets(
        self, large: Tensor, places: Tensor, temperature: float
    ) -> tuple[Tensor, Callable[[slice], Tensor]]:
        """How the teacher sorts large crops (2B, S, H, W): (2, B, K), and rows (m, K) of the M patches at `places` (M,)."""
        teacher = cast(_Network, self.teacher.module)
        tokens = teacher.encoder.together([teacher.tokens(large)])[0]  # (2B, 1 + L, D)
        logits = teacher.head(tokens[:, 0])  # (2B, K)
        patches = teacher.patch_head.directions(tokens[:, 1:].flatten(0, 1)[places])  # (M, E)
        rows = teacher.patch_head.prototypes()  # (K, E)
        if self.spec.balance == "sinkhorn":
            hidden = sinkhorn(F.linear(patches, rows), temperature)  # (M, K)
            return sinkhorn(logits, temperature).unflatten(0, (2, -1)), lambda some: hidden[some]
        self.centre.absorb(logits)
        if len(patches):
            self.patch_centre.absorb(F.linear(patches.mean(0, keepdim=True), rows), len(patches))

        def sorted_as(some: slice) -> Tensor:
            return centred_softmax(F.linear(patches[some], rows), self.patch_centre.value, temperature)

        return centred_softmax(logits, self.centre.value, temperature).unflatten(0, (2, -1)), sorted_as

    def masks(self, count: int) -> Tensor:
        """Which patches of `count` large crops are hidden, (count, L) bool on the host; fixed in evaluation."""
        side = self.spec.encoder.image // self.spec.encoder.patch
        seed = int(torch.randint(2**62, ())) if self.training else 0
        generator = np.random.default_rng(seed)
        return block_masks(masked_counts(count, side * side, generator), side, side, generator)

    def after_step(self, progress: Progress) -> None:
        """The teacher follows; the centres settle on what it saw."""
        done = Progress(progress.step - 1, progress.steps)
        self.teacher.follow(self.student, self.spec.teaching.inertia(done))
        self.centre.settle()
        self.patch_centre.settle()

    def layer_id(self, name: str) -> int:
        """0 for the mask token too."""
        return 0 if name.endswith("mask_token") else super().layer_id(name)

    def rate_scale(self, name: str, progress: Progress) -> float:
        """0 for the prototypes while they do not move; the patch embedding's own multiple."""
        if "last_layer" in name and progress.fraction < self.spec.still:
            return 0.0
        return self.spec.patch_rate if "patch_embed" in name else 1.0


def build(spec: Spec) -> DINOv2:
    """The method of a spec, randomly initialised."""
    return DINOv2(spec)


# Recipes. PerA's tables 8 to 11: 100,000 tiles of 512 pixels, 200 epochs of 520 steps.


def as_pera_repo() -> Recipe:
    """ViT-B/16 as PerA's repository trains it: PerA's crops, schedules and optimizer, large heads, KoLeo on logits."""
    return like_pera(
        Spec(
            encoder=learned.vit_b16(),
            crops=crops.jittered(),
            prototypes=131072,
            bottleneck=384,
            teaching=Teaching(momentum=0.992, cold=0.03, warm=0.05, warming=0.15),
            koleo_on="logits",
        )
    )


def table10() -> Recipe:
    """With the heads of PerA's table 10, half as many prototypes: 65,536 of 256 numbers."""
    base = as_pera_repo()
    return replace(base, method=replace(base.method, prototypes=65536, bottleneck=256))


def as_upstream() -> Recipe:
    """ViT-B/16 by the defaults of DINOv2's own code: 224 pixels, all colours, layer scale, its rates, decay and freezing.

    The rate is 4e-3 at a batch of 1024 and goes with the root of the batch; shares of the run are those of its 100 epochs.
    """
    views = replace(crops.recoloured(), large=(0.32, 1.0), small=(0.05, 0.32), mode="bicubic")
    encoder = learned.Spec(
        inputs=IMAGENET_RGB,
        drop_path=0.3,
        drop_path_law="uniform",
        drop_path_of="subset",
        layer_scale=1e-5,
    )
    teaching = Teaching(momentum=0.992, cold=0.04, warm=0.07, warming=0.3)
    optim = Optimizer(
        lr_per_256=2e-3,
        batch_power=0.5,
        weight_decay=0.04,
        weight_decay_end=0.4,
        betas=(0.9, 0.999),
        layer_decay=0.9,
        clip=3.0,
    )
    return replace(
        as_pera_repo(),
        method=Spec(encoder=encoder, crops=views, teaching=teaching, still=0.01, patch_rate=0.2),
        optim=optim,
        schedule=Cosine(warmup=0.1, floor=5e-4, inclusive=True),
    )


def smoke() -> Recipe:
    """The invented Earth, ten bands, two small heads: seconds."""
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
