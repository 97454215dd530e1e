"""Encoders that shrink their map stage by stage: residual networks and shifted-window transformers, from timm.

timm builds the network by name; this file only gives it the contract. The four stages are the `maps` a dense head reads,
the last one is the patches. `keep` makes no sense where neighbours are mixed from the first layer on, and is refused.
Weights keep timm's names behind `body.`.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

import timm
import torch
from pydantic import Field, field_validator
from torch import Tensor

from training.encoders import Encoder, EncoderSpec, Inputs, Tokens

__all__ = ["Hierarchy", "Spec", "build", "resnet50", "smoke", "swin_b", "swin_t"]

FAMILIES = ("resnet", "resnext", "wide_resnet", "swin")
STAGES = 4


class Spec(EncoderSpec):
    """A network of timm by its name, untrained; `image` (pixels) matters to windows and is ignored by convolutions."""

    weightless: ClassVar[frozenset[str]] = frozenset({"drop_path", "image"})

    kind: Literal["hierarchy"] = "hierarchy"
    name: str = "resnet50"
    image: int = Field(224, gt=0)
    drop_path: float = Field(0.0, ge=0, lt=1)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if not name.startswith(FAMILIES) or not timm.is_model(name):
            raise ValueError(
                f"{name!r} is no network of timm that shrinks in four stages; choose one of {', '.join(FAMILIES)} "
                "by its name in timm, as in resnet50"
            )
        return name


class Hierarchy(Encoder):
    """A timm network without its head. `patch` is the stride of the last stage in pixels, `width` its channels."""

    spec: Spec

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        sized: dict[str, Any] = (
            {"img_size": spec.image, "strict_img_size": False} if spec.name.startswith("swin") else {}
        )
        self.body: Any = timm.create_model(
            spec.name,
            pretrained=False,
            num_classes=0,
            in_chans=len(spec.inputs.bands),
            drop_path_rate=spec.drop_path,
            **sized,
        )
        info: Any = self.body.feature_info
        stages = info[-STAGES:]
        self.strides = tuple(int(stage["reduction"]) for stage in stages)
        self.channels = tuple(int(stage["num_chs"]) for stage in stages)
        self.width, self.patch = self.channels[-1], self.strides[-1]

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tokens:
        """Encode images (B, S, H, W): four maps, of which the last is also the patches. No class token."""
        if keep is not None:
            raise ValueError(
                f"{self.spec.name} mixes neighbours from its first layer on: encode without `keep`"
            )
        maps = self.body.forward_intermediates(images, norm=False, output_fmt="NCHW", intermediates_only=True)
        last = maps[-1]  # (B, D, h, w)
        height, width = last.shape[-2:]
        return Tokens(None, last.flatten(2).transpose(1, 2), height, width, tuple(maps[-STAGES:]))

    @property
    def last_layer(self) -> int:
        """The stem is 0, the stages 1 to 4."""
        return STAGES + 1

    def layer_id(self, name: str) -> int:
        """0 for the stem, then the stage, then what comes after."""
        found = re.match(r"body\.layers?[._]?(\d)\.", name)
        if found is None:
            return self.last_layer if name.startswith(("body.norm", "body.head", "body.fc")) else 0
        number = int(found.group(1))
        return number if self.spec.name.startswith(FAMILIES[:3]) else number + 1


def build(spec: Spec) -> Hierarchy:
    """The encoder of a spec, randomly initialised as timm does."""
    with torch.no_grad():
        return Hierarchy(spec)


RGB = Inputs(layer="hr", bands=("R", "G", "B"))


def resnet50(inputs: Inputs = RGB) -> Spec:
    """23.5 M: the encoder of GeRSP."""
    return Spec(inputs=inputs)


def swin_t(inputs: Inputs = RGB) -> Spec:
    """27.5 M."""
    return Spec(inputs=inputs, name="swin_tiny_patch4_window7_224")


def swin_b(inputs: Inputs = RGB) -> Spec:
    """86.7 M."""
    return Spec(inputs=inputs, name="swin_base_patch4_window7_224")


def smoke() -> Spec:
    """The smallest residual network."""
    return Spec(inputs=RGB, name="resnet10t")
