"""ViT-Adapter: a plain ViT made fit for dense tasks by a convolutional companion that it trades with.

"Vision Transformer Adapter for Dense Predictions" (Chen et al. 2023). A small convolutional stem knows edges and fine
scales, the ViT knows the image. Four times over its depth, the ViT first takes from the companion's three scales (the
injector, whose part starts at zero, so that a pretrained ViT starts unharmed) and the companion then takes from the ViT
(the extractor, with a feed-forward that also looks at neighbours); at the end two more times. Out come four maps, at
strides of 4 to 32 pixels, in each of which the ViT's last map is added.

The class token, if a ViT has one, stays in its layers as it was pretrained; its last norm is left out. Weights of a bare
ViT go in by `weights.adapted`, and the companion then starts from chance.

Letters: B batch, L patches of h x w, M cells of the scales 8, 16 and 32, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from training.deformable import DeformableAttention, Sizes, centres
from training.encoders import AnyEncoder, Encoder, EncoderSpec, Tokens, vit, vitdet
from training.encoders import build as build_encoder
from training.synced import synced

__all__ = ["Adapter", "Spec", "around", "build"]

STRIDES = (4, 8, 16, 32)
COARSEST = STRIDES[-1]
NORM_EPS = 1e-6


class Spec(EncoderSpec):
    """An adapter around a plain ViT, of kind `vit` or one that builds on it. `inputs` are those of `inner`."""

    kind: Literal["adapter"] = "adapter"
    inner: AnyEncoder
    stem: int = Field(64, gt=0)  # channels of the finest convolutions
    interactions: int = Field(4, gt=0)
    heads: int | None = Field(None, gt=0)  # of the attentions between the two; None: those of `inner`
    points: int = Field(4, gt=0)  # that a head looks at on each scale
    value_ratio: float = Field(0.5, gt=0)  # width of what is read over D; 1 in the paper's two smallest
    hidden_ratio: float = Field(0.25, gt=0)  # of the extractors' feed-forwards over D

    @model_validator(mode="before")
    @classmethod
    def _inputs_of_the_inner(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "inputs" in given or "inner" not in given:
            return given
        inner = given["inner"]
        return given | {"inputs": inner.get("inputs") if isinstance(inner, dict) else inner.inputs}

    @model_validator(mode="after")
    def _plain(self) -> Spec:
        if not isinstance(self.inner, vit.Spec) or isinstance(self.inner, vitdet.Spec):
            raise ValueError(
                f"an adapter goes around a plain ViT, not an encoder of kind {self.inner.kind!r}"
            )
        if (self.inputs.layer, self.inputs.bands) != (self.inner.inputs.layer, self.inner.inputs.bands):
            raise ValueError("an adapter reads the bands its inner encoder reads: leave inputs out")
        if self.inner.depth < self.interactions:
            raise ValueError(
                f"{self.interactions} interactions do not fit into {self.inner.depth} layers; ask for fewer"
            )
        return self

    @property
    def plain(self) -> vit.Spec:
        """The inner spec, with the statistics of this one's inputs."""
        return cast(vit.Spec, self.inner.model_copy(update={"inputs": self.inputs}))

    def unlike(self, other: EncoderSpec) -> list[str]:
        """As of every spec; weights of a bare inner encoder do fit."""
        if not isinstance(other, Spec):
            return self.plain.unlike(other)
        own = [name for name in super().unlike(other) if name != "inner"]
        return sorted({*own, *self.plain.unlike(other.plain)})


class Adapter(Encoder):
    """A plain ViT and its companion; `width` and `patch` are the ViT's."""

    spec: Spec

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        plain, width = spec.plain, spec.plain.width
        self.spec, self.width, self.patch = spec, width, plain.patch
        self.channels, self.strides = (width,) * len(STRIDES), STRIDES
        self.inner = cast(vit.ViT, build_encoder(plain))
        self.inner.norm = nn.Identity()  # type: ignore[assignment]
        self.stem = _Stem(len(spec.inputs.bands), spec.stem, width)
        self.level = nn.Parameter(torch.randn(3, width))
        self.injectors = nn.ModuleList(_Injector(spec) for _ in range(spec.interactions))
        self.extractors = nn.ModuleList(_Extractor(spec) for _ in range(spec.interactions + 2))
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in STRIDES)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tokens:
        """Encode images (B, S, H, W): the ViT's tokens and four maps (B, D, ., .) at strides 4, 8, 16 and 32.

        Raises ValueError when `keep` is given, or sides are no multiples of 32.
        """
        self._refuse(images, keep)
        height, width = images.shape[-2] // self.patch, images.shape[-1] // self.patch
        fine, *coarse = self.stem(images)  # (B, D, ., .)
        grid: Sizes = [(height, width)]
        sizes = [(scale.shape[-2], scale.shape[-1]) for scale in coarse]
        here, there = centres(grid, images.device), centres(sizes, images.device)  # (L, 2), (M, 2)
        cells = [scale.flatten(2).transpose(1, 2) for scale in coarse]
        scales = torch.cat(
            [part + own for part, own in zip(cells, self.level, strict=True)], dim=1
        )  # (B, M, D)
        tokens = self.inner.with_class(self.inner.embed(images))  # (B, 1 + L, D)
        extractors = list(self.extractors)
        for number, (injector, layers) in enumerate(zip(self.injectors, self._slices(), strict=True)):
            first, patches = tokens[:, :1], tokens[:, 1:]
            tokens = torch.cat([first, injector(patches, here, scales, sizes)], dim=1)
            for layer in layers:
                tokens = layer(tokens)
            last = number == len(self.injectors) - 1
            for extractor in extractors[number:] if last else extractors[number : number + 1]:
                scales = extractor(scales, there, tokens[:, 1:], grid, sizes)
        patches = tokens[:, 1:]
        maps = self._maps(patches.transpose(1, 2).unflatten(2, (height, width)), fine, scales, sizes)
        return Tokens(tokens[:, 0], patches, height, width, maps)

    def _maps(self, seen: Tensor, fine: Tensor, scales: Tensor, sizes: Sizes) -> tuple[Tensor, ...]:
        """The four maps of the ViT's (B, D, h, w), the stem's finest and the three scales (B, M, D)."""
        parts = scales.transpose(1, 2).split([height * width for height, width in sizes], dim=2)
        coarse = [part.unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]
        maps = [fine + self.up(coarse[0]), *coarse]
        return tuple(
            norm(scale + F.interpolate(seen, scale.shape[-2:], mode="bilinear", align_corners=False))
            for norm, scale in zip(self.norms, maps, strict=True)
        )

    def _slices(self) -> list[Sequence[nn.Module]]:
        """The ViT's layers in as many equal runs as there are interactions."""
        layers, count = list(self.inner.blocks), self.spec.interactions
        bounds = [len(layers) * part // count for part in range(count + 1)]
        return [layers[first:last] for first, last in pairwise(bounds)]

    def _refuse(self, images: Tensor, keep: Tensor | None) -> None:
        if keep is not None:
            raise ValueError("the adapter's convolutions need all patches: encode without `keep`")
        if images.shape[-2] % COARSEST or images.shape[-1] % COARSEST:
            raise ValueError(
                f"{images.shape[-2]} x {images.shape[-1]} pixels must be multiples of {COARSEST} for four scales: "
                "crop or resize first"
            )

    @property
    def last_layer(self) -> int:
        """The ViT's."""
        return self.inner.last_layer

    def layer_id(self, name: str) -> int:
        """The ViT's own depths; the companion, which nobody pretrained, counts as what comes after."""
        before, _, rest = name.partition(".")
        return self.inner.layer_id(rest) if before == "inner" else self.last_layer


class _Stem(nn.Module):
    """Convolutions of the image to maps (B, D, ., .) at strides of 4, 8, 16 and 32 pixels."""

    def __init__(self, bands: int, channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            _stepping(bands, channels, 2),
            _stepping(channels, channels, 1),
            _stepping(channels, channels, 1),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        plan = (channels, 2 * channels, 4 * channels, 4 * channels)
        self.steps = nn.ModuleList(_stepping(before, after, 2) for before, after in pairwise(plan))
        self.widen = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in plan)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Four maps, finest first."""
        maps = [self.first(images)]
        for step in self.steps:
            maps.append(step(maps[-1]))
        return [widen(image) for widen, image in zip(self.widen, maps, strict=True)]


def _stepping(before: int, after: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


class _Injector(nn.Module):
    """The ViT's patches take from the scales: x + gamma * attention, gamma a factor per channel that starts at 0."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        width = spec.plain.width
        self.norm_query, self.norm_cells = (
            nn.LayerNorm(width, eps=NORM_EPS),
            nn.LayerNorm(width, eps=NORM_EPS),
        )
        self.attention = _attention(spec, scales=3)
        self.gamma = nn.Parameter(torch.zeros(width))

    def forward(self, patches: Tensor, places: Tensor, scales: Tensor, sizes: Sizes) -> Tensor:
        taken = self.attention(self.norm_query(patches), places, self.norm_cells(scales), sizes)
        return patches + self.gamma * taken


class _Extractor(nn.Module):
    """The scales take from the ViT's patches, then each looks at its neighbours in a feed-forward."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        width, self.drop_path = spec.plain.width, spec.plain.drop_path
        self.norm_query, self.norm_cells = (
            nn.LayerNorm(width, eps=NORM_EPS),
            nn.LayerNorm(width, eps=NORM_EPS),
        )
        self.attention = _attention(spec, scales=1)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = _ConvolvedMlp(width, int(width * spec.hidden_ratio))

    def forward(self, scales: Tensor, places: Tensor, patches: Tensor, grid: Sizes, sizes: Sizes) -> Tensor:
        taken = self.attention(self.norm_query(scales), places, self.norm_cells(patches), grid)
        scales = scales + taken
        update = self.mlp(self.norm(scales), sizes)
        if self.training and self.drop_path:
            update = update * vit.survivors(update, 1, self.drop_path)[..., None]
        return scales + update


class _ConvolvedMlp(nn.Module):
    """A feed-forward with a depth-wise 3 x 3 convolution between its two maps, on each scale by itself."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        for part in (self.fc1, self.fc2):
            nn.init.trunc_normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)

    def forward(self, scales: Tensor, sizes: Sizes) -> Tensor:
        parts = self.fc1(scales).transpose(1, 2).split([height * width for height, width in sizes], dim=2)
        seen = [
            self.depthwise(part.unflatten(2, size)).flatten(2)
            for part, size in zip(parts, sizes, strict=True)
        ]
        return self.fc2(F.gelu(torch.cat(seen, dim=2).transpose(1, 2)))


def _attention(spec: Spec, scales: int) -> DeformableAttention:
    heads = spec.heads or spec.plain.heads
    return DeformableAttention(spec.plain.width, scales, heads, points=spec.points, ratio=spec.value_ratio)


def around(inner: EncoderSpec) -> Spec:
    """The paper's adapter around a plain ViT. Raises ValueError for other encoders."""
    return Spec(inner=inner, inputs=inner.inputs)


def build(spec: Spec) -> Adapter:
    """The encoder of a spec, randomly initialised."""
    return synced(Adapter(spec))
