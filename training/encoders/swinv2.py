"""Swin Transformer V2, as SkySense's encoder of high-resolution images has it.

"Swin Transformer V2: Scaling Up Capacity and Resolution" (Liu et al. 2022): attention within shifted windows by cosine,
positions as a small network of the distance, norms after each residual branch. The huge one has a further norm after
every sixth block of a stage. Attention, merging and the pieces of a block are timm's, under timm's names; this file puts
them together so that images of any size go through, as the published networks take them: where a map is one window
across there is nothing to shift, and a map smaller than a window is refused.

Letters: B batch, S input channels, h x w cells of a stage, D channels of a stage.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from timm.layers.patch_embed import PatchEmbed
from timm.models.swin_transformer_v2 import (
    PatchMerging,
    SwinTransformerV2Block,
    window_partition,
    window_reverse,
)
from torch import Tensor, nn

from training.encoders import IMAGENET_RGB, Encoder, EncoderSpec, Inputs, Tokens

__all__ = ["Spec", "SwinV2", "base", "build", "huge", "small", "smoke", "tiny"]

STAGES = 4
PATCH = 4  # pixels of the first stage's cells; each next stage's have twice the side


class Spec(EncoderSpec):
    """Four stages of `depths` blocks; the first has `width` channels, each next one twice as many.

    `image` (pixels) is the size it is trained with and no limit. `further_norms` of n puts a norm after every n-th block
    of a stage. `stage_norms` are norms of the first three maps, for dense heads; the last map always has one.
    """

    weightless: ClassVar[frozenset[str]] = frozenset({"drop_path", "image", "stage_norms"})

    kind: Literal["swinv2"] = "swinv2"
    image: int = Field(512, gt=0)
    width: int = Field(352, gt=0)
    depths: tuple[int, int, int, int] = (2, 2, 18, 2)
    heads: tuple[int, int, int, int] = (8, 16, 32, 64)
    window: int = Field(8, gt=1)  # cells a side
    drop_path: float = Field(0.0, ge=0, lt=1)  # of the last block; rises linearly from 0 at the first
    further_norms: int = Field(0, ge=0)  # 0: none
    stage_norms: bool = False

    @model_validator(mode="after")
    def _divisible(self) -> Spec:
        for stage, (channels, heads) in enumerate(zip(self.channels, self.heads, strict=True), 1):
            if channels % heads:
                raise ValueError(f"{heads} heads do not divide the {channels} channels of stage {stage}")
        _fitting(self.image, self.image, self.window)
        return self

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the four stages."""
        return tuple(self.width * 2**stage for stage in range(STAGES))

    @property
    def rates(self) -> list[list[float]]:
        """The probability of stochastic depth of each block of each stage."""
        law = iter(torch.linspace(0, self.drop_path, sum(self.depths), device="cpu").tolist())
        return [[next(law) for _ in range(depth)] for depth in self.depths]


class SwinV2(Encoder):
    """Swin V2 without a head. `patch` is the stride of the last stage in pixels, `width` its channels."""

    spec: Spec

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec, self.channels = spec, spec.channels
        self.strides = tuple(PATCH * 2**stage for stage in range(STAGES))
        self.width, self.patch = self.channels[-1], self.strides[-1]
        self.patch_embed = PatchEmbed(
            None, PATCH, len(spec.inputs.bands), spec.width, nn.LayerNorm, flatten=False, output_fmt="NHWC"
        )
        self.layers = _Stages()
        for number in range(STAGES):
            self.layers.add_module(str(number), _Stage(spec, number))
        self.norm = nn.LayerNorm(self.width)
        self.stage_norms = nn.ModuleList(map(nn.LayerNorm, self.channels[:-1] if spec.stage_norms else ()))
        _initialise(self)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tokens:
        """Encode images (B, S, H, W), sides multiples of 32: four maps, the last of which is also the patches."""
        if keep is not None:
            raise ValueError("windows mix neighbours from the first layer on: encode without `keep`")
        _fitting(images.shape[-2], images.shape[-1], self.spec.window)
        cells, maps = self.patch_embed(images), []  # (B, h, w, D)
        for number, stage in enumerate(self.layers.children()):
            cells = stage(cells)
            if number == STAGES - 1:
                cells = self.norm(cells)
            normed = self.stage_norms[number](cells) if number < len(self.stage_norms) else cells
            maps.append(normed.permute(0, 3, 1, 2))
        return Tokens(None, cells.flatten(1, 2), cells.shape[1], cells.shape[2], tuple(maps))

    @property
    def last_layer(self) -> int:
        """The `layer_id` of the norms of the maps."""
        return sum(self.spec.depths) + 1

    def layer_id(self, name: str) -> int:
        """0 for the patch embedding, then the blocks of all stages in order; merging counts to the block after it."""
        found = re.match(r"layers\.(\d)\.(?:downsample|blocks\.(\d+))\.", name)
        if found is None:
            return 0 if name.startswith("patch_embed.") else self.last_layer
        stage, block = int(found[1]), int(found[2] or 0)
        return sum(self.spec.depths[:stage]) + block + 1


class _Stages(nn.Module):
    """The stages by number. Not a stack itself, so that what is sharded or computed again is a block, not a stage."""


class _Stage(nn.Module):
    def __init__(self, spec: Spec, number: int) -> None:
        super().__init__()
        width = spec.channels[number]
        self.downsample = PatchMerging(width // 2, width) if number else nn.Identity()
        self.blocks = nn.ModuleList(
            _Block(spec, number, place, rate) for place, rate in enumerate(spec.rates[number])
        )

    def forward(self, cells: Tensor) -> Tensor:
        """Cells (B, h, w, D) of the stage before to this one's, (B, h / 2, w / 2, 2 D) after the first."""
        cells = self.downsample(cells)
        for block in self.blocks:
            cells = block(cells)
        return cells


class _Block(SwinTransformerV2Block):
    """timm's block with a further norm, whose shift depends on the map it sees. Cells (B, h, w, D) to the same shape."""

    def __init__(self, spec: Spec, stage: int, place: int, drop_path: float) -> None:
        side = spec.image // (PATCH * 2**stage)
        shift = spec.window // 2 if place % 2 else 0
        super().__init__(
            spec.channels[stage],
            (side, side),
            spec.heads[stage],
            spec.window,
            shift,
            always_partition=True,
            dynamic_mask=True,
            drop_path=drop_path,
        )
        if spec.further_norms and place % spec.further_norms == spec.further_norms - 1:
            self.norm3 = nn.LayerNorm(spec.channels[stage])

    def forward(self, x: Tensor) -> Tensor:
        cells = x + self.drop_path1(self.norm1(self._attn(x)))
        cells = cells + self.drop_path2(self.norm2(self.mlp(cells)))
        return self.norm3(cells) if hasattr(self, "norm3") else cells

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        side, shift = self.window_size[0], self.shift_size[0]
        if min(height, width) <= side:
            shift = 0
        shifted = x.roll((-shift, -shift), (1, 2)) if shift else x
        padded = F.pad(shifted, (0, 0, 0, -width % side, 0, -height % side))
        windows = window_partition(padded, self.window_size).flatten(1, 2)
        seen = self.attn(windows, self.get_attn_mask(padded) if shift else None)
        whole = window_reverse(seen.unflatten(1, (side, side)), self.window_size, padded.shape[1:3])
        whole = whole[:, :height, :width]
        return whole.roll((shift, shift), (1, 2)) if shift else whole


def _initialise(encoder: SwinV2) -> None:
    """The start of the published networks: blocks that at first add nothing, as the norms that end them are 0."""
    for part in encoder.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, _Block):
            for norm in (part.norm1, part.norm2):
                nn.init.zeros_(cast(nn.LayerNorm, norm).weight)


def _fitting(height: int, width: int, window: int) -> None:
    stride = PATCH * 2 ** (STAGES - 1)
    if height % stride or width % stride or min(height, width) < stride * window:
        raise ValueError(
            f"{height} x {width} pixels do not fit windows of {window}: sides are multiples of {stride} and at least "
            f"{stride * window}; resize or crop"
        )


def build(spec: Spec) -> SwinV2:
    """The encoder of a spec, randomly initialised."""
    return SwinV2(spec)


def huge(inputs: Inputs = IMAGENET_RGB) -> Spec:
    """655 M: SkySense's; a further norm after every sixth block, 44 channels a head."""
    return Spec(inputs=inputs, drop_path=0.2, further_norms=6)


def base(inputs: Inputs = IMAGENET_RGB) -> Spec:
    """86.9 M."""
    return Spec(inputs=inputs, width=128, heads=(4, 8, 16, 32), drop_path=0.2)


def small(inputs: Inputs = IMAGENET_RGB) -> Spec:
    """27.6 M."""
    return Spec(inputs=inputs, width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), drop_path=0.2)


def tiny(inputs: Inputs = IMAGENET_RGB) -> Spec:
    """1.3 M, of 256 pixels: for tests and tests of mechanisms."""
    return Spec(inputs=inputs, image=256, width=24, depths=(2, 2, 2, 2), heads=(2, 4, 4, 8), window=4)


def smoke() -> Spec:
    """The smallest."""
    return tiny()
