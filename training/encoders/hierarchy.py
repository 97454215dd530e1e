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
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from training.encoders import Encoder, EncoderSpec, Inputs, Tokens

__all__ = ["Hierarchy", "Spec", "build", "resnet50", "smoke", "swin_b", "swin_t"]

FAMILIES = ("resnet", "resnext", "wide_resnet", "swin")
STAGES = 4


class Spec(EncoderSpec):
    """A network of timm by its name, untrained; `image` (pixels) matters to windows and is ignored by convolutions.

    `output_stride` of 8 or 16 keeps the last stages of a residual network at that stride, with dilated convolutions of
    the same weights in place of steps, as dense heads such as DeepLab's want it. `channels` makes the stages of a residual
    network narrower than its name says.
    """

    weightless: ClassVar[frozenset[str]] = frozenset({"drop_path", "image", "output_stride"})

    kind: Literal["hierarchy"] = "hierarchy"
    name: str = "resnet50"
    image: int = Field(224, gt=0)
    drop_path: float = Field(0.0, ge=0, lt=1)
    output_stride: Literal[8, 16, 32] = 32
    channels: tuple[int, int, int, int] | None = None

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if not name.startswith(FAMILIES) or not timm.is_model(name):
            raise ValueError(
                f"{name!r} is no network of timm that shrinks in four stages; choose one of {', '.join(FAMILIES)} "
                "by its name in timm, as in resnet50"
            )
        return name

    @model_validator(mode="after")
    def _windows_have_steps(self) -> Spec:
        if self.name.startswith("swin") and self.output_stride != 32:
            raise ValueError(
                f"{self.name} has a stride of 32; output_stride={self.output_stride} is for residual networks"
            )
        if self.name.startswith("swin") and self.channels is not None:
            raise ValueError(
                f"{self.name} has its own channels; channels={self.channels} is for residual networks"
            )
        return self

    @property
    def timm_arguments(self) -> dict[str, Any]:
        """What timm must be told besides the name: what changes its weights, and nothing else."""
        narrow = {} if self.channels is None else {"channels": self.channels}
        return {"in_chans": len(self.inputs.bands)} | narrow


class Hierarchy(Encoder):
    """A timm network without its head. `patch` is the stride of the last stage in pixels, `width` its channels."""

    spec: Spec

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        sized: dict[str, Any] = (
            {"img_size": spec.image, "strict_img_size": False}
            if spec.name.startswith("swin")
            else {"output_stride": spec.output_stride}
        )
        self.body: Any = timm.create_model(
            spec.name,
            pretrained=False,
            num_classes=0,
            drop_path_rate=spec.drop_path,
            **spec.timm_arguments,
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
