"""The plain ViT over 10 m pixels, as SkySense encodes each date of Sentinel-2 and Sentinel-1 with it.

Patches of 4 pixels, learned positions, a class token that helps while encoding, and no norm at the end: what follows (an
up head and the fusion over time) was made for that. For dense heads on one date, the maps of some of its layers.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from geodata.sensors import SENTINEL1, SENTINEL2
from training.encoders import Inputs, Tokens, learned, vit

__all__ = [
    "SENTINEL1_INPUTS",
    "SENTINEL2_INPUTS",
    "Sentinel",
    "Spec",
    "base",
    "build",
    "large",
    "small",
    "smoke",
    "tiny",
]

SENTINEL2_INPUTS = Inputs(layer="s2", bands=SENTINEL2.band_names)
SENTINEL1_INPUTS = Inputs(layer="s1", bands=SENTINEL1.band_names)


class Spec(learned.Spec):
    """A ViT of learned positions without a last norm. `image` (pixels) is the size that the position table is made for.

    `taps` are layers, from 1, whose maps it gives; without them it gives none.
    """

    weightless: ClassVar[frozenset[str]] = learned.Spec.weightless | {"taps"}

    kind: Literal["sentinel"] = "sentinel"  # type: ignore[assignment]
    image: int = Field(64, gt=0)
    patch: int = Field(4, gt=0)
    norm_eps: float = Field(1e-5, gt=0)
    taps: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _layers_there_are(self) -> Spec:
        if any(not 1 <= tap <= self.depth for tap in self.taps) or sorted(set(self.taps)) != list(self.taps):
            raise ValueError(f"taps={self.taps} must name layers from 1 to {self.depth}, rising")
        return self


class Sentinel(learned.Learned):
    """A ViT whose last layer's tokens are given as they are. Letters: B batch, S bands, D width, h x w patches."""

    spec: Spec

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.norm = nn.Identity()  # type: ignore[assignment]
        self.channels, self.strides = (spec.width,) * len(spec.taps), (spec.patch,) * len(spec.taps)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tokens:
        """Encode images (B, S, H, W) of any size that is whole patches; `keep` (B, L') int64 chooses patches.

        Raises ValueError where only some patches are kept and maps are wanted.
        """
        if not self.spec.taps:
            return super().forward(images, keep)
        if keep is not None:
            raise ValueError("maps need all patches: encode without `keep`, or with taps=[]")
        height, width = images.shape[-2] // self.patch, images.shape[-1] // self.patch
        tokens, maps = self.with_class(self.embed(images)), []  # (B, 1 + L, D)
        for number, layer in enumerate(self.blocks, 1):
            tokens = layer(tokens)
            if number in self.spec.taps:
                maps.append(tokens[:, 1:].transpose(1, 2).unflatten(2, (height, width)))
        return Tokens(tokens[:, 0], tokens[:, 1:], height, width, tuple(maps))

    def positions(self, height: int, width: int) -> Tensor:
        """The position table (1, 1 + height * width, D) of a grid: bicubic to exactly its size."""
        return vit.ViT.positions(self, height, width)


def build(spec: Spec) -> Sentinel:
    """The encoder of a spec, randomly initialised."""
    return Sentinel(spec)


def large(inputs: Inputs = SENTINEL2_INPUTS) -> Spec:
    """ViT-L/4, 302.7 M with ten bands: SkySense's."""
    return Spec(inputs=inputs, width=1024, depth=24, heads=16, drop_path=0.3)


def base(inputs: Inputs = SENTINEL2_INPUTS) -> Spec:
    """ViT-B/4, 85.4 M with ten bands."""
    return Spec(inputs=inputs, drop_path=0.1)


def small(inputs: Inputs = SENTINEL2_INPUTS) -> Spec:
    """ViT-S/4, 21.5 M with ten bands."""
    return Spec(inputs=inputs, width=384, heads=6, drop_path=0.1)


def tiny(inputs: Inputs = SENTINEL2_INPUTS) -> Spec:
    """0.5 M: for tests and tests of mechanisms."""
    return Spec(inputs=inputs, width=96, depth=4, heads=3)


def smoke() -> Spec:
    """The smallest."""
    return tiny()
