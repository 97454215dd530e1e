"""What an encoder takes and gives: the contract every method and task is written against.

An encoder turns images into tokens. `keep` names the patches it is to look at, before any cost is spent on the
others: the single argument that masked autoencoding (a random quarter) and disjoint-patch distillation share.
A spec says its `kind`, which is the name of the file in this folder that knows how to build it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny, model_validator
from torch import Tensor, nn

__all__ = ["IMAGENET_RGB", "AnyEncoder", "Encoder", "EncoderSpec", "Inputs", "Tokens", "build", "spec_at"]


class Inputs(BaseModel):
    """Which pixels an encoder was made for: a layer of the corpus, its bands in order, and their statistics.

    `mean` and `std` are in the units of the stored pixels, one per band; left empty they are filled from the corpus
    manifest before a run, and travel with the exported encoder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str
    bands: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _one_of_each_per_band(self) -> Inputs:
        if not self.bands or len(set(self.bands)) != len(self.bands):
            raise ValueError(
                f"bands must be named, each once, not {self.bands}: list the bands of {self.layer!r}"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (0, len(self.bands)):
                raise ValueError(
                    f"{name} has {len(values)} values for {len(self.bands)} bands: give all or none"
                )
        if bool(self.mean) != bool(self.std):
            raise ValueError("mean and std belong together: give both or neither")
        if any(value <= 0 for value in self.std):
            raise ValueError(f"std must be positive, not {min(self.std)}: drop the constant band")
        return self


IMAGENET_RGB = Inputs(
    layer="hr",
    bands=("R", "G", "B"),
    mean=tuple(255 * value for value in (0.485, 0.456, 0.406)),
    std=tuple(255 * value for value in (0.229, 0.224, 0.225)),
)
"""Pictures of 8 bits a band, normalised by ImageNet's statistics, as most methods' papers do whatever they look at."""


class EncoderSpec(BaseModel):
    """What every encoder's spec says: the file that builds it, and the pixels it reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weightless: ClassVar[frozenset[str]] = frozenset()  # settings that the same weights may be used under

    kind: str
    inputs: Inputs

    @property
    def reads(self) -> dict[str, Inputs]:
        """The pixels that each part reads, by the part's name; of an encoder of one image, `inputs` by its layer."""
        return {self.inputs.layer: self.inputs}

    def with_statistics(self, other: Self) -> Self:
        """The same spec, its pixels normalised as those of another that is not `unlike` it."""
        return self.model_copy(update={"inputs": other.inputs})

    def unlike(self, other: EncoderSpec) -> list[str]:
        """Names of the settings in which weights made for one would not fit, or not mean the same in, the other."""
        mine, theirs = (
            {**dict(spec), "layer": spec.inputs.layer, "bands": spec.inputs.bands} for spec in (self, other)
        )
        names = (mine.keys() | theirs.keys()) - self.weightless - {"inputs"}
        return sorted(name for name in names if mine.get(name) != theirs.get(name))


@dataclass(frozen=True)
class Tokens:
    """An encoded image: `cls` (B, D) or None, `patches` (B, L, D) row by row, on a grid of `height` x `width`.

    When only some patches were kept, L is their number and their order is that of `keep`. `maps` are features
    (B, D', h', w') of several depths, shallow to deep, from encoders that give them; dense heads read these.
    """

    cls: Tensor | None
    patches: Tensor
    height: int
    width: int
    maps: tuple[Tensor, ...] = ()

    def map(self) -> Tensor:
        """The patches as an image of features (B, D, height, width); refused when some were left out."""
        batch, length, channels = self.patches.shape
        if length != self.height * self.width:
            raise ValueError(
                f"{length} tokens do not fill a {self.height} x {self.width} grid: encode without `keep`"
            )
        return self.patches.transpose(1, 2).reshape(batch, channels, self.height, self.width)


class Encoder(nn.Module):
    """A module that turns images into tokens. L patches, D `width`, P `patch` pixels.

    `channels` and `strides` (pixels) are those of the `maps` it gives, shallow to deep; empty for one that gives none.
    `embed` and `blocks` are its two halves, for methods whose tokens join halfway; `blocks` takes and gives (B, N, D).
    """

    spec: EncoderSpec
    width: int
    patch: int
    channels: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    blocks: nn.Module

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tokens:
        """Encode images (B, C, H, W) float32, normalised; `keep` (B, L') int64 holds the patches to look at."""
        raise NotImplementedError

    def embed(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Patch embeddings (B, L, D) with positions added, no class token."""
        raise NotImplementedError

    @property
    def last_layer(self) -> int:
        """The `layer_id` of what comes after the blocks."""
        raise NotImplementedError

    def layer_id(self, name: str) -> int:
        """Depth of a parameter by name: 0 nearest the pixels, `last_layer` after the blocks."""
        raise NotImplementedError


def spec_at(package: str, value: Any) -> Any:
    """The spec written as `value`, a mapping with a `kind`: validated by `Spec` of the module `package.kind`.

    Anything but a mapping is returned as it came, for the model that asked to judge.
    """
    if not isinstance(value, dict):
        return value
    kind = value.get("kind")
    if not isinstance(kind, str) or not kind.isidentifier():
        raise ValueError(f"{value!r} has no kind: name a module of {package}, as in kind='vit'")
    try:
        module = importlib.import_module(f"{package}.{kind}")
    except ModuleNotFoundError as error:
        if error.name != f"{package}.{kind}":
            raise
        raise ValueError(f"there is no {package}.{kind}: `kind` must name a module of {package}") from error
    return module.Spec.model_validate(value)


AnyEncoder = Annotated[
    SerializeAsAny[EncoderSpec], BeforeValidator(lambda value: spec_at("training.encoders", value))
]


def build(spec: EncoderSpec) -> Encoder:
    """The encoder of a spec, randomly initialised from torch's global generator."""
    encoder: Encoder = importlib.import_module(f"training.encoders.{spec.kind}").build(spec)
    return encoder
