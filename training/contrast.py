"""Momentum contrast: tell a picture's other view from those of many others, whose keys wait in a queue.

"Momentum Contrast for Unsupervised Visual Representation Learning" (MoCo, He et al. 2020). Queries come from the encoder
that learns; keys from a teacher that follows it slowly, so that keys of some hundred steps ago still compare with today's.

Letters: B pictures, S bands, H W the views' size, D width, Z width of the projection.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training import encoders, norms
from training.encoders import Encoder
from training.heads import Projector
from training.memory import Queue, Teacher
from training.objectives import info_nce

__all__ = ["Contrast", "MomentumContrast", "pooled"]


class Contrast(BaseModel):
    """Momentum contrast of the pictures of the streams `reads`.

    `follows` and `start` are for parity with the released code: a teacher of which only the backbone follows, and one
    whose backbone starts apart from the student's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reads: tuple[str, ...] = Field(("scenes",), min_length=1)
    head: Literal["mlp", "linear"] = "mlp"  # MoCo v2's projector, or v1's
    projection: int = Field(128, gt=0)
    temperature: float = Field(0.07, gt=0)
    momentum: float = Field(0.996, ge=0, le=1)  # of the teacher
    queue: int = Field(65_536, gt=0)
    follows: Literal["all", "backbone"] = "all"
    start: Literal["student", "apart"] = "student"


class MomentumContrast(nn.Module):
    """Projector, teacher and queue: what contrast adds to an encoder, thrown away after training."""

    def __init__(self, spec: Contrast, encoder: Encoder, groups: int) -> None:
        super().__init__()
        self.spec, self.groups = spec, groups
        layers = {"linear": 1, "mlp": 2}[spec.head]
        self.projector = Projector(encoder.width, encoder.width, spec.projection, layers)
        self.key_encoder, self.key_projector = Teacher(encoder), Teacher(self.projector)
        self.queue = Queue(spec.queue, spec.projection)
        self._fresh: list[Tensor] = []  # this step's keys, which the next step's queue will hold
        if spec.start == "apart":
            self.key_encoder.module.load_state_dict(encoders.build(encoder.spec).state_dict())
            self.follow(encoder)  # the released code moves the teacher before it is first asked

    def forward(self, features: Tensor, views: Tensor) -> Tensor:
        """Tell each query's key from the queue's (eq. 2): queries' features (B, D), keys' views (B, S, H, W)."""
        queries = _unit(self.projector(features))  # (B, Z)
        keys = self.keys(views)  # (B, Z)
        if self.training:
            self._fresh.append(keys)
        return info_nce(queries, keys, self.queue.rows, self.spec.temperature)

    @torch.no_grad()
    def keys(self, views: Tensor) -> Tensor:
        """The teacher's projections (B, Z), in training made in other company than the queries'."""

        def encode(images: Tensor) -> Tensor:
            return _unit(self.key_projector.module(pooled(self.key_encoder.module, images)))

        return norms.shuffled(encode, views, self.groups) if self.training else encode(views)

    def after_step(self, encoder: Encoder) -> None:
        """The keys of this step join the queue, and the teacher moves towards where the student now is."""
        for keys in self._fresh:
            self.queue.push(keys)
        self._fresh.clear()
        self.follow(encoder)

    def follow(self, encoder: Encoder) -> None:
        """W_teacher = m W_teacher + (1 - m) W_student (eq. 4): of the encoder and, as in the paper, the projector."""
        self.key_encoder.follow(encoder, self.spec.momentum)
        if self.spec.follows == "all":
            self.key_projector.follow(self.projector, self.spec.momentum)


def pooled(encoder: nn.Module, images: Tensor) -> Tensor:
    """Features (B, D): the mean of the encoded patches."""
    return encoder(images).patches.mean(1)


def _unit(rows: Tensor) -> Tensor:
    """Rows of length 1, in float32 or as wide as they came."""
    return F.normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=1)
