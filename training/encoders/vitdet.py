"""The plain ViT as a backbone for large images: most layers look through windows, a few across the whole image.

"Exploring Plain Vision Transformer Backbones for Object Detection" (Li et al. 2022), as the billion-scale paper
fine-tunes with it (sec. III): windows of 14 x 14 patches, layers 3, 6, 9 and 12 global, learnt relative positions, the
class token dropped. Weights of a pretrained `vit` go in under the same names; its position table becomes a parameter.

Two exact savings. Relative positions cost no logits matrix of their own: a query is lengthened by its products with the
tables and a key by the one-hot of its row and column, so that one dot product gives scale * q.k + q.Rh + q.Rw and
fused attention still applies. Windows are padded after the projection, with what it gives for the zeros that the
reference pads before it: its bias.

Letters: B batch, C branches, h x w grid of patches, S side of a window, D width, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from training.encoders import Tokens, vit

__all__ = ["Spec", "ViTDet", "build", "from_vit"]


class Spec(vit.Spec):
    """A ViT with windows. `image` is the size that tables of relative positions are made for; others interpolate."""

    weightless: ClassVar[frozenset[str]] = vit.Spec.weightless | {
        "kind", "image", "positions", "window", "whole", "relative", "taps", "final_norm",
    }  # fmt: skip
    kind: Literal["vitdet"] = "vitdet"  # type: ignore[assignment]
    positions: int | None = Field(None, gt=0)  # pixels the position table is made for; None: `image`
    window: int = Field(14, ge=0)  # patches a side; 0: every layer is global
    whole: tuple[int, ...] = (3, 6, 9, 12)  # layers, from 1, that look across the image
    relative: bool = True
    taps: tuple[int, ...] = (3, 6, 9, 12)  # layers, from 1, whose maps are given
    final_norm: bool = False  # of the last map; the paper's detectors have it, its segmenters not

    @model_validator(mode="after")
    def _layers_there_are(self) -> Spec:
        for name, layers in (("whole", self.whole), ("taps", self.taps)):
            if any(not 1 <= layer <= self.depth for layer in layers) or len(set(layers)) < len(layers):
                raise ValueError(f"{name}={layers} must name layers from 1 to {self.depth}, each once")
        if not self.taps:
            raise ValueError("taps names no layer, so there would be no map; name the last at least")
        if (self.positions or self.image) % self.patch:
            raise ValueError(f"positions {self.positions} must be whole patches of {self.patch} pixels")
        return self

    @property
    def table_side(self) -> int:
        """Patches a side of the position table."""
        return (self.positions or self.image) // self.patch

    def is_whole(self, layer: int) -> bool:
        """Whether layer `layer`, from 0, looks across the image."""
        return not self.window or layer + 1 in self.whole


class ViTDet(vit.ViT):
    """A plain ViT without class token whose tokens carry the maps of `taps`."""

    spec: Spec

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.channels, self.strides = (spec.width,) * len(spec.taps), (spec.patch,) * len(spec.taps)
        table = vit.sincos_table(spec.width, spec.table_side)
        del self.pos_embed, self.cls_token
        self.pos_embed = nn.Parameter(table)  # (1, 1 + L, D), the class token's entry kept for its place
        if not spec.final_norm:
            self.norm = nn.Identity()  # type: ignore[assignment]
        if spec.relative:
            for index, block in enumerate(self.blocks):
                side = spec.image // spec.patch if spec.is_whole(index) else spec.window
                for attn in (part for part in block.modules() if isinstance(part, vit.Attention)):
                    _add_tables(attn, side, spec.width // spec.heads)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tokens:
        """Encode images (B, S, H, W) of any size that is whole patches; every patch is looked at.

        Raises ValueError when `keep` is given: windows need their neighbours.
        """
        if keep is not None:
            raise ValueError("windows need all patches: encode without `keep`, or with the plain vit")
        height, width = images.shape[-2] // self.patch, images.shape[-1] // self.patch
        tokens, maps = self.embed(images), []  # (B, h * w, D)
        for index, block in enumerate(self.blocks):
            side = 0 if self.spec.is_whole(index) else self.spec.window
            tokens = block(tokens, partial(_mixed, reach=_Reach(height, width, side)))
            if index + 1 in self.spec.taps:
                maps.append(self.norm(tokens) if index + 1 == self.spec.depth else tokens)
        shaped = [tokens.transpose(1, 2).unflatten(2, (height, width)) for tokens in maps]
        return Tokens(None, self.norm(tokens), height, width, tuple(shaped))

    @property
    def table_side(self) -> int:
        """Patches a side of the position table."""
        return self.spec.table_side


def from_vit(weights: Mapping[str, Tensor], spec: Spec) -> dict[str, Tensor]:
    """The state of a `ViTDet` of `spec` from that of a pretrained `ViT`: class token dropped, positions interpolated.

    Relative tables, which no pretraining has, start at zero. Raises ValueError, naming them, for weights that are left
    over or missing: a table that is silently dropped costs more than it shows.
    """
    fresh = build(spec).state_dict()
    given = {name: value for name, value in weights.items() if name != "cls_token"}
    if not spec.final_norm:
        given = {name: value for name, value in given.items() if not name.startswith("norm.")}
    table = given["pos_embed"]
    side = round((table.shape[1] - 1) ** 0.5)
    given["pos_embed"] = vit.interpolated(table, side, (spec.table_side, spec.table_side))
    relative = {name: value for name, value in fresh.items() if name.endswith(_TABLES) and name not in given}
    strange = sorted(given.keys() ^ (fresh.keys() - relative.keys()))
    if strange:
        raise ValueError(
            f"weights and encoder differ in {', '.join(strange[:5])}: build both of the same width, depth and branches"
        )
    return relative | given


_TABLES = ("rel_pos_h", "rel_pos_w")


def _add_tables(attn: vit.Attention, side: int, channels: int) -> None:
    for name in _TABLES:
        attn.register_parameter(name, nn.Parameter(torch.zeros(2 * side - 1, channels)))


@dataclass(frozen=True)
class _Reach:
    """The grid of patches, and the side of windows (0: none)."""

    height: int
    width: int
    window: int


def _mixed(qkv: Tensor, attns: Sequence[vit.Attention], reach: _Reach) -> Tensor:
    """Attention (B, h * w, 3 * C * D) to (B, h * w, C * D) within windows or across the grid."""
    if not reach.window:
        return _attended(qkv, attns, reach.height, reach.width)
    side, height, width = reach.window, reach.height, reach.width
    down, right = -height % side, -width % side
    grid = qkv.unflatten(1, (height, width))
    if down or right:
        fill = _bias(attns).to(grid.dtype)  # (3 * C * D,)
        padded = fill.expand(len(grid), height + down, width + right, -1).clone()
        padded[:, :height, :width] = grid
        grid = padded
    rows, columns = grid.shape[1] // side, grid.shape[2] // side
    windows = grid.unflatten(1, (rows, side)).unflatten(3, (columns, side)).transpose(2, 3)
    mixed = _attended(windows.flatten(0, 2).flatten(1, 2), attns, side, side)  # (B * n, S * S, C * D)
    merged = mixed.unflatten(1, (side, side)).unflatten(0, (-1, rows, columns)).transpose(2, 3)
    return merged.flatten(3, 4).flatten(1, 2)[:, :height, :width].flatten(1, 2)


def _bias(attns: Sequence[vit.Attention]) -> Tensor:
    """What the projections give for a token of zeros: query, key, value, then branch."""
    parts = [
        attn.qkv.weight.new_zeros(attn.qkv.out_features) if attn.qkv.bias is None else attn.qkv.bias
        for attn in attns
    ]
    return torch.stack([part.unflatten(0, (3, -1)) for part in parts], dim=1).flatten()


def _attended(qkv: Tensor, attns: Sequence[vit.Attention], height: int, width: int) -> Tensor:
    if not hasattr(attns[0], "rel_pos_h"):
        return vit.whole(qkv, attns)
    query, key, value = vit.split_heads(qkv, sum(attn.heads for attn in attns))  # (B, C * heads, N, d)
    channels = query.shape[-1]
    by_branch = query.unflatten(1, (len(attns), -1)).unflatten(3, (height, width))  # (B, C, heads, h, w, d)
    down = torch.stack([_offsets(cast(Tensor, attn.rel_pos_h), height) for attn in attns]).to(
        query.dtype
    )  # (C, h, h, d)
    across = torch.stack([_offsets(cast(Tensor, attn.rel_pos_w), width) for attn in attns]).to(
        query.dtype
    )  # (C, w, w, d)
    to_rows = torch.einsum("bcgijd,cikd->bcgijk", by_branch, down)
    to_columns = torch.einsum("bcgijd,cjkd->bcgijk", by_branch, across)
    extra = torch.cat([to_rows, to_columns], dim=-1).flatten(3, 4).flatten(1, 2)  # (B, C * heads, N, h + w)
    rows = torch.eye(height, dtype=query.dtype, device=query.device).repeat_interleave(width, dim=0)
    columns = torch.eye(width, dtype=query.dtype, device=query.device).repeat(height, 1)
    places = torch.cat([rows, columns], dim=1).expand(*key.shape[:2], -1, -1)  # (B, C * heads, N, h + w)
    longer = torch.cat([query * channels**-0.5, extra], dim=-1), torch.cat([key, places], dim=-1)
    return F.scaled_dot_product_attention(*longer, value, scale=1.0).transpose(1, 2).flatten(2)


def _offsets(table: Tensor, side: int) -> Tensor:
    """Entries (side, side, d) of a table (2 S - 1, d) for each query and key along an axis; linear between sizes."""
    if len(table) != 2 * side - 1:
        table = F.interpolate(table.T[None], size=2 * side - 1, mode="linear")[0].T
    places = torch.arange(side, device=table.device)
    return table[places[:, None] - places[None, :] + side - 1]


def build(spec: Spec) -> ViTDet:
    """The encoder of a spec, randomly initialised but for its sine-cosine positions."""
    return ViTDet(spec)
