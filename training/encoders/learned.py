"""The vision transformer of self-distillation: learned positions, its own stochastic depth, sequences packed.

What DINO, DINOv2, PerA and MoCo v3 train: a plain ViT (`vit`) whose position table is a parameter, started from a
truncated normal. Their methods show it crops of two sizes, so its layers also take `Packed` tokens: groups of
sequences of equal length as one token matrix. Norms, projections and feed-forwards are then one large product over all
crops, and only attention sees where a sequence ends. Parameters are named as timm and the official checkpoints name
them.

Letters: B sequences of a group, N tokens of a sequence, T tokens of all groups, D width, L patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from geodata.sensors import SENTINEL2
from training.encoders import IMAGENET_RGB, Inputs, vit

__all__ = [
    "Layer",
    "Learned",
    "Packed",
    "Spec",
    "build",
    "pack",
    "smoke",
    "unpack",
    "vit_b16",
    "vit_g16_1024",
    "vit_s16",
]


class Spec(vit.Spec):
    """A plain ViT of one branch with learned positions; `drop_path` follows `drop_path_law` over the depth.

    `drop_path_of` is what stochastic depth leaves out: the branch of single `samples`, each by its own draw, or a
    `subset` of the group, whose branch is then not computed at all (DINOv2, Oquab et al. 2023, sec. 5). The subset's
    true rate follows the size of the group: of n sequences max(int(n (1 - rate)), 1) are kept.
    """

    weightless: ClassVar[frozenset[str]] = vit.Spec.weightless | {"drop_path_law", "drop_path_of"}

    kind: Literal["learned"] = "learned"  # type: ignore[assignment]
    positions: Literal["learned", "sincos_rows_first"] = "learned"  # MoCo v3's fixed table has rows first
    drop_path_law: Literal["linear", "uniform"] = "linear"
    drop_path_of: Literal["samples", "subset"] = "samples"
    layer_scale: float | None = Field(None, gt=0)  # the start of a factor per channel and branch; None: none

    @model_validator(mode="after")
    def _one_branch(self) -> Spec:
        if self.branches > 1 or self.shared_norm:
            raise ValueError("layers with learned positions have one branch: build kind='vit' for several")
        return self

    def rate(self, layer: int) -> float:
        """The probability of stochastic depth in layer `layer`, from 0."""
        return self.drop_path * (1.0 if self.drop_path_law == "uniform" else layer / max(self.depth - 1, 1))


class Learned(vit.ViT):
    """A plain ViT with a class token whose `blocks` also take and give `Packed` tokens.

    It starts as DINOv2 does: linear maps and positions from a truncated normal of 0.02, the class token of 1e-6, the
    patch embedding as torch's convolutions. Methods whose paper starts elsewhere do so after building it.
    """

    spec: Spec
    norm: nn.LayerNorm

    def __init__(self, spec: Spec) -> None:
        super(vit.ViT, self).__init__()  # every part is built here; what ViT does with them stays
        self.spec, self.width, self.patch = spec, spec.width, spec.patch
        self.patch_embed = vit.PatchEmbed(len(spec.inputs.bands), spec.patch, spec.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, spec.width))
        table = vit.sincos_table(spec.width, self.table_side).roll(spec.width // 2, dims=2)  # (1, 1 + L, D)
        if spec.positions == "learned":
            self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty_like(table), std=0.02))
        else:
            self.register_buffer("pos_embed", table)
        self.blocks = nn.Sequential(*(Layer(spec, spec.rate(index)) for index in range(spec.depth)))
        self.norm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        _initialise(self.blocks)
        nn.init.normal_(self.cls_token, std=1e-6)

    def positions(self, height: int, width: int) -> Tensor:
        """The position table (1, 1 + height * width, D) of a grid, bicubic between the grid it was made for.

        The scale is that of a grid a tenth of a patch larger, as in DINO, whose published weights expect it. Computed
        in float32 at least; gradients flow through it.
        """
        side = self.table_side
        if (height, width) == (side, side):
            return self.pos_embed
        exact = self.pos_embed[:, 1:].to(torch.promote_types(self.pos_embed.dtype, torch.float32))
        image = exact.reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, D, side, side)
        scale = (height + 0.1) / side, (width + 0.1) / side
        image = F.interpolate(image, scale_factor=scale, mode="bicubic", align_corners=False)
        table = image.flatten(2).transpose(1, 2)  # (1, height * width, D)
        return torch.cat([self.pos_embed[:, :1], table.to(self.pos_embed.dtype)], dim=1)

    def together(self, groups: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Groups (B, N, D) of embedded tokens, class token first, through all layers and the norm as one matrix."""
        tokens, shapes = self.blocks(pack(groups))
        return unpack(Packed(self.norm(tokens), shapes))


class Packed(NamedTuple):
    """Groups of sequences as one matrix: `tokens` (T, D), and the `shapes` (B, N) of the groups in their order."""

    tokens: Tensor
    shapes: tuple[tuple[int, int], ...]


def pack(groups: Sequence[Tensor]) -> Packed:
    """Groups (B, N, D) of sequences, each group of its own B and N, as one token matrix."""
    shapes = tuple((group.shape[0], group.shape[1]) for group in groups)
    tokens = [group.flatten(0, 1) for group in groups]
    return Packed(tokens[0] if len(tokens) == 1 else torch.cat(tokens), shapes)


def unpack(packed: Packed) -> tuple[Tensor, ...]:
    """The groups (B, N, D) of a token matrix: `pack` undone."""
    return tuple(part.unflatten(0, shape) for part, shape in _parts(packed.tokens, packed.shapes))


Branch = Callable[[Packed], Tensor]
"""Half a layer without its residual: tokens (T, D), packed, to their update (T, D)."""


class Layer(nn.Module):
    """One pre-norm layer: x + scale * attention(norm(x)), then x + scale * feed-forward(norm(x))."""

    def __init__(self, spec: Spec, drop_path: float = 0.0) -> None:
        super().__init__()
        self.drop_path, self.subset = drop_path, spec.drop_path_of == "subset"
        self.norm1 = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.attn = vit.Attention(spec.width, spec.heads, qkv_bias=spec.has_qkv_bias)
        self.ls1 = _scale(spec)
        self.norm2 = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.mlp = vit.Mlp(spec.width, spec.mlp * spec.width)
        self.ls2 = _scale(spec)

    def forward(self, tokens: Tensor | Packed, mix: vit.Mix | None = None) -> Tensor | Packed:
        """Tokens (B, N, D), or several groups of them packed, through the layer; given back as they came."""
        packed = tokens if isinstance(tokens, Packed) else pack([tokens])

        def attend(given: Packed) -> Tensor:
            within = partial(_mixed, shapes=given.shapes, mix=mix or vit.whole)
            return self.ls1(self.attn(self.norm1(given.tokens), within))

        packed = self._added(packed, attend)
        packed = self._added(packed, lambda given: self.ls2(self.mlp(self.norm2(given.tokens))))
        return packed if isinstance(tokens, Packed) else unpack(packed)[0]

    def _added(self, packed: Packed, branch: Branch) -> Packed:
        """Tokens plus what a branch makes of them, or of those that stochastic depth keeps."""
        tokens, shapes = packed
        if not self.training or not self.drop_path:
            return Packed(tokens + branch(packed), shapes)
        if not self.subset:
            kept = [vit.survivors(tokens.new_empty(count, 0), 1, self.drop_path) for count, _ in shapes]
            factors = [
                some.repeat_interleave(length, 0) for some, (_, length) in zip(kept, shapes, strict=True)
            ]
            return Packed(tokens + torch.cat(factors) * branch(packed), shapes)  # factors (T, 1)
        few = [subset(count, self.drop_path, tokens.device) for count, _ in shapes]
        rows = _rows(few, shapes)  # (T',) the kept sequences' tokens
        fewer = tuple((len(some), length) for some, (_, length) in zip(few, shapes, strict=True))
        weights = [
            tokens.new_full((some * length, 1), count / some)
            for (some, length), (count, _) in zip(fewer, shapes, strict=True)
        ]
        update = branch(Packed(tokens[rows], fewer)) * torch.cat(weights)  # (T', D)
        return Packed(tokens.index_add(0, rows, update.to(tokens.dtype)), shapes)


def subset(count: int, rate: float, device: torch.device) -> Tensor:
    """The sequences, of `count`, that stochastic depth keeps: int(count * (1 - rate)) of them, at least one, drawn."""
    return torch.randperm(count, device=device)[: max(int(count * (1 - rate)), 1)]


class LayerScale(nn.Module):
    """A learned factor for each channel of a branch (CaiT, Touvron et al. 2021)."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), start))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (..., D), each channel by its factor."""
        return tokens * self.gamma


def _scale(spec: Spec) -> nn.Module:
    return nn.Identity() if spec.layer_scale is None else LayerScale(spec.width, spec.layer_scale)


def _initialise(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def _parts(rows: Tensor, shapes: Sequence[tuple[int, int]]) -> list[tuple[Tensor, tuple[int, int]]]:
    """The rows (B * N, ...) of each group of a matrix, with its shape."""
    return list(zip(rows.split([count * length for count, length in shapes]), shapes, strict=True))


def _mixed(
    qkv: Tensor, attns: Sequence[vit.Attention], shapes: Sequence[tuple[int, int]], mix: vit.Mix
) -> Tensor:
    """Attention within each sequence of each group: (T, 3 * D) to (T, D)."""
    parts = [mix(part.unflatten(0, shape), attns).flatten(0, 1) for part, shape in _parts(qkv, shapes)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _rows(kept: Sequence[Tensor], shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Where the tokens of the kept sequences of each group lie in the matrix of all groups."""
    rows, start = [], 0
    for some, (count, length) in zip(kept, shapes, strict=True):
        rows.append((start + some[:, None] * length + torch.arange(length, device=some.device)).flatten())
        start += count * length
    return torch.cat(rows)


def build(spec: Spec) -> Learned:
    """The encoder of a spec, randomly initialised."""
    return Learned(spec)


def vit_s16(inputs: Inputs = IMAGENET_RGB) -> Spec:
    """ViT-S/16, 21.7 M at 224 pixels: for claims scaled down."""
    return Spec(inputs=inputs, width=384, heads=6)


def vit_b16(inputs: Inputs = IMAGENET_RGB) -> Spec:
    """PerA's ViT-B/16 of 448 pixels, 86.25 M, with its uniform stochastic depth."""
    return Spec(inputs=inputs, image=448, drop_path=0.3, drop_path_law="uniform", drop_path_of="subset")


def vit_g16_1024(inputs: Inputs = IMAGENET_RGB) -> Spec:
    """PerA's slim ViT-G: 40 layers of 1024 channels, 505.4 M."""
    return vit_b16(inputs).model_copy(update={"width": 1024, "depth": 40, "heads": 16})


def smoke() -> Spec:
    """For 64 px chips of Sentinel-2's ten bands: for tests."""
    inputs = Inputs(layer="s2", bands=SENTINEL2.band_names)
    return Spec(inputs=inputs, image=48, patch=8, width=96, depth=4, heads=4)
