"""The plain vision transformer, with one to four parallel branches a layer.

Width, depth and heads as in ViT (Dosovitskiy et al. 2021), with the fixed sine-cosine positions of MAE (He et al.
2022) and the parallel layers of "A Billion-scale Foundation Model for Remote Sensing Images" (sec. III): every layer
holds C attentions side by side and then C feed-forwards side by side, so that a model grows at constant depth. Heads
and feed-forward size are per branch. Parameters are named as MAE and timm name them, so published weights load.

A parallel layer is computed as one wide one: the branches' norms are folded into the linear maps that follow them
and the maps are joined, which gives one matrix product where there would be C. The parameters stay per branch.

Letters: B batch, C branches, L patches, N tokens, D width, P patch, S input channels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from geodata.sensors import SENTINEL2, SENTINEL2_L1C
from training.encoders import Encoder, EncoderSpec, Inputs, Tokens
from training.masking import gather

__all__ = [
    "Attention",
    "Block",
    "Mix",
    "Spec",
    "ViT",
    "build",
    "demo",
    "g12x4",
    "h12x4",
    "initialise",
    "l12x4",
    "patchify",
    "sincos_table",
    "smoke",
    "split_heads",
    "unpatchify",
    "vit_b12x1",
    "vit_h14",
    "vit_l",
]


class Spec(EncoderSpec):
    """A plain ViT: `depth` layers of `branches` attentions and `branches` feed-forwards, `width` channels wide."""

    weightless: ClassVar[frozenset[str]] = frozenset({"drop_path"})

    kind: Literal["vit"] = "vit"
    image: int = Field(224, gt=0)  # pixels; the grid the position table is made for
    patch: int = Field(16, gt=0)  # pixels
    width: int = Field(768, gt=0)
    depth: int = Field(12, gt=0)
    heads: int = Field(12, gt=0)  # of each branch
    branches: int = Field(1, ge=1, le=4)
    mlp: int = Field(4, gt=0)  # hidden over width, of each branch
    shared_norm: bool = False  # one norm for the branches of a half-layer, instead of one each
    qkv_bias: bool | None = None  # None: on for one branch, off for several, as the published counts have it
    drop_path: float = Field(
        0.0, ge=0, lt=1
    )  # in training, of the last layer; rises linearly from 0 at the first
    norm_eps: float = Field(1e-6, gt=0)

    @model_validator(mode="after")
    def _divisible(self) -> Spec:
        if self.image % self.patch:
            raise ValueError(f"image {self.image} must be a whole number of patches of {self.patch} pixels")
        if self.width % self.heads or self.width % 4:
            raise ValueError(
                f"width {self.width} must divide by heads ({self.heads}) and by 4 (for the positions)"
            )
        return self

    @property
    def has_qkv_bias(self) -> bool:
        """`qkv_bias`, its default resolved."""
        return self.branches == 1 if self.qkv_bias is None else self.qkv_bias


class ViT(Encoder):
    """A plain ViT with a class token and fixed positions."""

    spec: Spec
    blocks: nn.Sequential
    pos_embed: Tensor  # (1, 1 + L, D)

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec, self.width, self.patch = spec, spec.width, spec.patch
        self.patch_embed = PatchEmbed(len(spec.inputs.bands), spec.patch, spec.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, spec.width))
        self.register_buffer("pos_embed", sincos_table(spec.width, spec.image // spec.patch))  # (1, 1 + L, D)
        rates = [spec.drop_path * index / max(spec.depth - 1, 1) for index in range(spec.depth)]
        self.blocks = nn.Sequential(*(_layer(spec, rate) for rate in rates))
        self.norm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        initialise(self)
        nn.init.normal_(self.cls_token, std=0.02)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tokens:
        """Encode images (B, S, H, W) of any size that is whole patches; `keep` (B, L') int64 chooses patches."""
        height, width = images.shape[-2] // self.patch, images.shape[-1] // self.patch
        tokens = self.embed(images, keep)  # (B, L', D)
        tokens = self.norm(self.blocks(self.with_class(tokens)))  # (B, 1 + L', D)
        return Tokens(tokens[:, 0], tokens[:, 1:], height, width)

    def embed(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Patch embeddings with positions (B, L', D), no class token; patches not kept cost nothing."""
        patches = patchify(images, self.patch)  # (B, L, S, P, P)
        table = self.positions(images.shape[-2] // self.patch, images.shape[-1] // self.patch)[
            :, 1:
        ]  # (1, L, D)
        if keep is None:
            return self.patch_embed(patches) + table
        return self.patch_embed(gather(patches, keep)) + table[0, keep]

    def with_class(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, D) with the class token in front: (B, 1 + N, D)."""
        first = self.cls_token + self.pos_embed[:, :1]
        return torch.cat([first.to(tokens.dtype).expand(tokens.shape[0], -1, -1), tokens], dim=1)

    def positions(self, height: int, width: int) -> Tensor:
        """The position table (1, 1 + height * width, D) of a grid, bicubic between the grid it was made for."""
        return interpolated(self.pos_embed, self.table_side, (height, width))

    @property
    def table_side(self) -> int:
        """Patches a side of the position table."""
        return self.spec.image // self.spec.patch

    @property
    def last_layer(self) -> int:
        """The `layer_id` of what comes after the blocks."""
        return self.spec.depth + 1

    def layer_id(self, name: str) -> int:
        """0 for the embedding, i + 1 for layer i (all its branches), depth + 1 for the rest."""
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1
        return 0 if name.startswith(("patch_embed.", "cls_token", "pos_embed")) else self.last_layer


def _layer(spec: Spec, drop_path: float) -> nn.Module:
    if spec.branches > 1:
        return ParallelBlock(spec, drop_path)
    hidden = spec.mlp * spec.width
    bias, eps = spec.has_qkv_bias, spec.norm_eps
    return Block(spec.width, spec.heads, hidden, qkv_bias=bias, drop_path=drop_path, norm_eps=eps)


Mix = Callable[[Tensor, Sequence["Attention"]], Tensor]
"""How tokens look at each other: queries, keys and values (B, N, 3 * C * D) of C attentions to (B, N, C * D)."""


class PatchEmbed(nn.Module):
    """One linear map from a patch's pixels to a token; kept as a convolution's weight, (D, S, P, P)."""

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, patches: Tensor) -> Tensor:
        """Patches (B, L, S, P, P) to tokens (B, L, D)."""
        return F.linear(patches.flatten(2), self.proj.weight.flatten(1), self.proj.bias)


class Attention(nn.Module):
    """The parameters of one multi-head self-attention, and its plain forward."""

    def __init__(self, width: int, heads: int, *, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, mix: Mix | None = None) -> Tensor:
        """Attended tokens, (B, N, D) to (B, N, D)."""
        return self.proj((mix or whole)(self.qkv(tokens), (self,)))


class Mlp(nn.Module):
    """Two linear maps with an exact GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Each token alone, (B, N, D) to (B, N, D)."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """One pre-norm layer: x + attention(norm(x)), then x + feed-forward(norm(x)). `drop_path` is its probability."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attn = Attention(width, heads, qkv_bias=qkv_bias)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width, hidden)

    def forward(self, tokens: Tensor, mix: Mix | None = None) -> Tensor:
        """Tokens (B, N, D) through the layer."""
        tokens = tokens + self._dropped(self.attn(self.norm1(tokens), mix))
        return tokens + self._dropped(self.mlp(self.norm2(tokens)))

    def _dropped(self, update: Tensor) -> Tensor:
        if not self.training or not self.drop_path:
            return update
        return update * survivors(update, 1, self.drop_path)[..., None]


class ParallelBlock(nn.Module):
    """One layer of C branches: x + sum of attentions, then x + sum of feed-forwards, each over its own norm.

    Sec. III of the billion-scale paper, after "Three things everyone should know about Vision Transformers" (Touvron
    et al. 2022). Parameters are `attns.j.{norm, attn}` and `ffns.j.{norm, mlp}`, or `norm1` and `norm2` when shared.
    """

    def __init__(self, spec: Spec, drop_path: float = 0.0) -> None:
        super().__init__()
        self.branches, self.drop_path, self.norm_eps = spec.branches, drop_path, spec.norm_eps
        self.norm1 = nn.LayerNorm(spec.width, eps=spec.norm_eps) if spec.shared_norm else None
        self.norm2 = nn.LayerNorm(spec.width, eps=spec.norm_eps) if spec.shared_norm else None
        self.attns, self.ffns = nn.ModuleList(), nn.ModuleList()
        for _ in range(spec.branches):
            attn = Attention(spec.width, spec.heads, qkv_bias=spec.has_qkv_bias)
            self.attns.append(_branch(spec, attn=attn))
            self.ffns.append(_branch(spec, mlp=Mlp(spec.width, spec.mlp * spec.width)))

    def forward(self, tokens: Tensor, mix: Mix | None = None) -> Tensor:
        """Tokens (B, N, D) through the layer, all branches of a half in one product."""
        kept, attns = self._survivors(tokens), [cast(Attention, branch.attn) for branch in self.attns]
        weight, bias = folded([attn.qkv for attn in attns], self._norms(self.norm1, self.attns), parts=3)
        inner = (mix or whole)(F.linear(centred(tokens, self.norm_eps), weight, bias), attns)  # (B, N, C * D)
        tokens = tokens + summed(inner, [attn.proj for attn in attns], kept)

        kept, mlps = self._survivors(tokens), [cast(Mlp, branch.mlp) for branch in self.ffns]
        weight, bias = folded([mlp.fc1 for mlp in mlps], self._norms(self.norm2, self.ffns), parts=1)
        inner = F.gelu(F.linear(centred(tokens, self.norm_eps), weight, bias))  # (B, N, C * 4D)
        return tokens + summed(inner, [mlp.fc2 for mlp in mlps], kept)

    def _norms(self, shared: nn.LayerNorm | None, branches: nn.ModuleList) -> list[nn.LayerNorm]:
        return (
            [cast(nn.LayerNorm, branch.norm) for branch in branches]
            if shared is None
            else [shared] * self.branches
        )

    def _survivors(self, tokens: Tensor) -> Tensor | None:
        if not self.training or not self.drop_path:
            return None
        return survivors(tokens, self.branches, self.drop_path)


def _branch(spec: Spec, **body: nn.Module) -> nn.Sequential:
    norm = {} if spec.shared_norm else {"norm": nn.LayerNorm(spec.width, eps=spec.norm_eps)}
    return nn.Sequential(OrderedDict(norm | body))


def whole(qkv: Tensor, attns: Sequence[Attention]) -> Tensor:
    """Every token attends to every other: (B, N, 3 * C * D), ordered query, key, value, then branch, to (B, N, C * D)."""
    query, key, value = split_heads(qkv, sum(attn.heads for attn in attns))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def split_heads(qkv: Tensor, heads: int) -> Tensor:
    """Query, key and value (3, B, heads, N, d) of (B, N, 3 * heads * d)."""
    return qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)


def centred(tokens: Tensor, eps: float) -> Tensor:
    """Layer norm without scale and shift: the part the branches share."""
    return F.layer_norm(tokens, tokens.shape[-1:], eps=eps)


def folded(maps: Sequence[nn.Linear], norms: Sequence[nn.LayerNorm], *, parts: int) -> tuple[Tensor, Tensor]:
    """One weight and bias that do to a centred token what each map does after its norm: W diag(g), W b + bias.

    Outputs are ordered by part (query, key and value are three), then by branch.
    """
    weights, biases = [], []
    for linear, norm in zip(maps, norms, strict=True):
        shift = linear.weight @ norm.bias
        shift = shift if linear.bias is None else shift + linear.bias
        weights.append((linear.weight * norm.weight).unflatten(0, (parts, -1)))
        biases.append(shift.unflatten(0, (parts, -1)))
    return torch.cat(weights, dim=1).flatten(0, 1), torch.cat(biases, dim=1).flatten()


def summed(inner: Tensor, maps: Sequence[nn.Linear], kept: Tensor | None) -> Tensor:
    """The sum over branches of each map on its slice of `inner` (B, N, C * E), branch j weighed by `kept` (B, C)."""
    weight = torch.cat([linear.weight for linear in maps], dim=1)  # (D, C * E)
    biases = torch.stack([linear.bias for linear in maps])  # (C, D)
    if kept is None:
        return F.linear(inner, weight, biases.sum(0))
    inner = (inner.unflatten(-1, (len(maps), -1)) * kept[:, None, :, None]).flatten(2)
    return F.linear(inner, weight) + (kept @ biases.to(kept.dtype))[:, None]


def survivors(like: Tensor, branches: int, rate: float) -> Tensor:
    """Stochastic depth's factors (B, branches): 0 with probability `rate`, else 1 / (1 - rate)."""
    kept = torch.rand(like.shape[0], branches, device=like.device) >= rate
    return kept.to(like.dtype) / (1 - rate)


def patchify(images: Tensor, patch: int) -> Tensor:
    """Images (B, S, H, W) cut into patches (B, L, S, P, P), row by row; refused unless they divide evenly."""
    batch, channels, height, width = images.shape
    if height % patch or width % patch:
        raise ValueError(f"{height} x {width} pixels are not whole patches of {patch}: crop or resize first")
    cut = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def unpatchify(patches: Tensor, height: int, width: int) -> Tensor:
    """The images (B, S, H, W) of patches (B, height * width, S, P, P): `patchify` undone."""
    batch, _, channels, patch, _ = patches.shape
    cut = patches.reshape(batch, height, width, channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return cut.reshape(batch, channels, height * patch, width * patch)


def sincos_table(width: int, side: int) -> Tensor:
    """Fixed positions (1, 1 + side * side, width), zeros for the class token (MAE, He et al. 2022).

    With w_i = 10000 ** (-i / (width / 4)), entry (row, column) is
    [sin(column * w), cos(column * w), sin(row * w), cos(row * w)].
    """
    quarter = width // 4
    rates = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * rates  # (side, D / 4)
    along = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, D / 2)
    columns = along[None].expand(side, -1, -1)
    rows = along[:, None].expand(-1, side, -1)
    table = torch.cat([columns, rows], dim=2).reshape(1, side * side, width)
    return torch.cat([table.new_zeros(1, 1, width), table], dim=1).float()


def interpolated(table: Tensor, side: int, grid: tuple[int, int]) -> Tensor:
    """A position table (1, 1 + side * side, D) on another grid of patches, bicubic; the first entry stays."""
    if grid == (side, side):
        return table
    exact = table[:, 1:].to(torch.promote_types(table.dtype, torch.float32))
    image = exact.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, grid, mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], image.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)


def initialise(module: nn.Module) -> None:
    """MAE's start: Xavier-uniform linear maps (a patch embedding is one), zero biases, unit norms."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(part.weight.flatten(1))
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def build(spec: Spec) -> ViT:
    """The encoder of a spec, randomly initialised."""
    return ViT(spec)


RGB = Inputs(layer="hr", bands=("R", "G", "B"))


def vit_b12x1(inputs: Inputs = RGB) -> Spec:
    """ViT-B, 86 M: the baseline of the billion-scale paper."""
    return Spec(inputs=inputs)


def l12x4(inputs: Inputs = RGB) -> Spec:
    """605.26 M in 12 layers of four branches."""
    return Spec(inputs=inputs, width=1024, heads=16, branches=4)


def h12x4(inputs: Inputs = RGB) -> Spec:
    """1.36 B; heads of 96 channels."""
    return Spec(inputs=inputs, width=1536, heads=16, branches=4)


def g12x4(inputs: Inputs = RGB) -> Spec:
    """2.42 B."""
    return Spec(inputs=inputs, width=2048, heads=32, branches=4)


def vit_l(inputs: Inputs = RGB) -> Spec:
    """MAE's ViT-L/16, 303 M."""
    return Spec(inputs=inputs, width=1024, depth=24, heads=16)


def vit_h14(inputs: Inputs = RGB) -> Spec:
    """MAE's ViT-H/14, 630 M."""
    return Spec(inputs=inputs, patch=14, width=1280, depth=32, heads=16)


def demo() -> Spec:
    """0.9 M for 64 px chips of Sentinel-2's 13 bands; a laptop's processor trains it."""
    inputs = Inputs(layer="s2", bands=SENTINEL2_L1C.band_names)
    return Spec(inputs=inputs, image=64, patch=8, width=128, depth=4, heads=4)


def smoke() -> Spec:
    """For 64 px chips of Sentinel-2's ten bands of 10 and 20 m, two branches a layer: for tests."""
    inputs = Inputs(layer="s2", bands=SENTINEL2.band_names)
    return Spec(inputs=inputs, image=64, patch=8, width=96, depth=4, heads=4, branches=2)
