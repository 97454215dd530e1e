"""SkySense's encoder: one place seen by several sensors over time, factorised into what can be used alone.

"SkySense: A Multi-Modal Remote Sensing Foundation Model Towards Universal Interpretation for Earth Observation Imagery" (Guo
et al. 2024). Each sensor has its own spatial encoder, which sees one date at a time; their features are brought to one grid
of cells, 10 m of ground each; and a transformer at each cell fuses all sensors and dates (eq. 1 and 2). The prototypes of
the region can then be read beside it (eq. 3).

    cell of 10 m = 32 x 32 pixels of the high-resolution image = 1 pixel of Sentinel-2 = 1 of Sentinel-1

Any sensors with the fusion make an encoder, and each sensor's encoder is one by itself: `part` takes them out.

Letters: B batch, T dates of a sensor, S its bands, h x w = N cells, E width before fusion, D width of fusion.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal, Self, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from training import prototypes
from training.encoders import IMAGENET_RGB, Encoder, EncoderSpec, Inputs, Tokens, sentinel, swinv2
from training.encoders.fusion import Dates, Fusion, FusionSpec, UpHead
from training.observation import Observation
from training.prototypes import Prototypes

__all__ = [
    "SENSORS",
    "Reads",
    "Spatiotemporal",
    "Spec",
    "base",
    "build",
    "huge",
    "part",
    "small",
    "smoke",
    "tiny",
]

SENSORS = ("hr", "s2", "s1")
"""The sensors, in the order in which their tokens stand."""


class Reads(BaseModel):
    """For an encoder of several sensors: the pixels that a sensor's encoder reads in place of what it was made for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hr: Inputs | None = None
    s2: Inputs | None = None
    s1: Inputs | None = None


class Spec(EncoderSpec):
    """The sensors there are, how they are fused, and whether prototypes of their regions (`places`) are read as well.

    `inputs` are those of the first sensor, in whose pixels sizes are told; left out, they are found there.
    """

    weightless: ClassVar[frozenset[str]] = frozenset(SENSORS) | {"fusion", "places"}  # compared part by part

    kind: Literal["spatiotemporal"] = "spatiotemporal"
    hr: swinv2.Spec | None = None
    s2: sentinel.Spec | None = None
    s1: sentinel.Spec | None = None
    fusion: FusionSpec = FusionSpec()
    places: prototypes.Spec | None = None
    channels: int = Field(2816, gt=0)  # of a cell before fusion; those of `hr` where there is one

    @model_validator(mode="before")
    @classmethod
    def _inputs_of_the_first(cls, given: Any) -> Any:
        parts = [given[name] for name in SENSORS if given.get(name)] if isinstance(given, dict) else []
        if not parts or "inputs" in given:
            return given
        first = parts[0]
        return given | {"inputs": first["inputs"] if isinstance(first, dict) else first.inputs}

    @model_validator(mode="after")
    def _fit_together(self) -> Spec:
        if not self.sensors:
            raise ValueError("an encoder without sensors sees nothing: give hr, s2 or s1")
        first = next(iter(self.sensors.values())).inputs
        if (self.inputs.layer, self.inputs.bands) != (first.layer, first.bands):
            raise ValueError("inputs are those of the first sensor: leave inputs out")
        if self.hr is not None and self.channels != self.hr.channels[-1]:
            raise ValueError(
                f"hr gives a cell {self.hr.channels[-1]} channels: set channels to that, not to {self.channels}"
            )
        return self

    @property
    def sensors(self) -> dict[str, swinv2.Spec | sentinel.Spec]:
        """The spec of each sensor there is, in the order of SENSORS."""
        found = {"hr": self.hr, "s2": self.s2, "s1": self.s1}
        return {name: spec for name, spec in found.items() if spec is not None}

    @property
    def reads(self) -> dict[str, Inputs]:
        """The pixels that each sensor's encoder reads."""
        return {name: spec.inputs for name, spec in self.sensors.items()}

    @property
    def width(self) -> int:
        """Channels of an encoded cell: D, and as many again where prototypes are read."""
        return self.fusion.width * (1 if self.places is None else 2)

    @property
    def image(self) -> int:
        """The size in pixels that the first sensor's encoder is made for."""
        return next(iter(self.sensors.values())).image

    def only(self, parts: Collection[str]) -> EncoderSpec:
        """The spec of some parts: of SENSORS, `fusion` and `places`. One sensor without fusion is its own encoder.

        Raises ValueError for a part that is not there and for a choice that makes no encoder.
        """
        there = [*self.sensors, "fusion", *(["places"] if self.places else [])]
        missing, chosen = sorted(set(parts) - set(there)), [name for name in self.sensors if name in parts]
        if missing or not chosen:
            raise ValueError(
                f"the encoder has parts {', '.join(there)}, not {missing}: choose of them, one sensor at least"
            )
        if "fusion" not in parts:
            if len(chosen) > 1 or "places" in parts:
                raise ValueError(f"{', '.join(parts)} make no encoder without what joins them: add fusion")
            return self.sensors[chosen[0]]
        kept = {name: self.sensors.get(name) if name in parts else None for name in SENSORS}
        places = self.places if "places" in parts else None
        return self.model_copy(update={**kept, "inputs": self.sensors[chosen[0]].inputs, "places": places})

    def reading(self, inputs: Mapping[str, Inputs]) -> Self:
        """The same spec, sensors that are named reading other pixels, of as many bands. Raises ValueError for other numbers."""
        parts = dict(self.sensors)
        for name, asked in inputs.items():
            made = parts[name].inputs.bands if name in parts else ()
            if len(made) != len(asked.bands):
                raise ValueError(
                    f"{name} reads {len(made)} bands, method.reads names {len(asked.bands)}: name as many"
                )
            parts[name] = parts[name].model_copy(update={"inputs": asked})
        return self.model_copy(update={**parts, "inputs": next(iter(parts.values())).inputs})

    def with_statistics(self, other: Self) -> Self:
        """The same spec, the pixels of every sensor normalised as those of another that is not `unlike` it."""
        parts = {name: spec.with_statistics(other.sensors[name]) for name, spec in self.sensors.items()}  # type: ignore[arg-type]
        return self.model_copy(update={**parts, "inputs": other.inputs})

    def unlike(self, other: EncoderSpec) -> list[str]:
        """As of every spec, with the parts compared by what their weights depend on."""
        names = super().unlike(other)
        if not isinstance(other, Spec):
            return names
        mine, theirs = self.sensors, other.sensors
        names += [
            name
            for name in mine.keys() | theirs.keys()
            if name not in mine or name not in theirs or mine[name].unlike(theirs[name])
        ]
        if self.fusion.model_copy(update={"drop_path": 0.0}) != other.fusion.model_copy(
            update={"drop_path": 0.0}
        ):
            names.append("fusion")
        return sorted(names + (["places"] if self.places != other.places else []))


class Spatiotemporal(Encoder):
    """The sensors' encoders `hr`, `s2` and `s1`, and what joins them. `patch` is a cell's side in pixels of the first sensor.

    `encoded`, `cells` and `fused` are its steps, for methods that learn at each. Maps are the first three of `hr` and the
    fused cells; without `hr` there are none.
    """

    spec: Spec
    hr: swinv2.SwinV2 | None
    s2: sentinel.Sentinel | None
    s1: sentinel.Sentinel | None
    places: Prototypes | None

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.hr = None if spec.hr is None else swinv2.build(spec.hr)
        self.s2 = None if spec.s2 is None else sentinel.build(spec.s2)
        self.s1 = None if spec.s1 is None else sentinel.build(spec.s1)
        sentinels = {name: one for name, one in (("s2", spec.s2), ("s1", spec.s1)) if one is not None}
        self.up = nn.ModuleDict(
            {name: UpHead(one.width, one.patch, spec.channels) for name, one in sentinels.items()}
        )
        self.dates = Dates(spec.channels)
        self.fusion = Fusion(spec.fusion, spec.channels)
        self.patch = 1 if self.hr is None else self.hr.patch
        self.place(spec.places)

    def place(self, places: prototypes.Spec | None) -> None:
        """From now on read prototypes of `places`, new ones, or with None no longer any."""
        self.spec = self.spec.model_copy(update={"places": places})
        self.places = None if places is None else Prototypes(places, self.spec.fusion.width)
        self.width = self.spec.width
        if self.hr is not None:
            self.channels, self.strides = (*self.hr.channels[:-1], self.width), self.hr.strides

    def forward(self, seen: Tensor | Observation, keep: Tensor | None = None) -> Tokens:
        """Encode an observation, or undated images (B, S, H, W) of the first sensor: cells (B, N, `width`) as patches."""
        if keep is not None:
            raise ValueError("cells are encoded all together: encode without `keep`")
        if isinstance(seen, Tensor):
            seen = Observation.of(next(iter(self.spec.sensors)), seen)
        encoded = self.encoded(seen)
        fused = self.fused(self.cells(encoded, seen), seen)  # (B, N, D)
        if self.places is not None:
            fused = torch.cat([fused, self.places(fused, seen.regions)], dim=-1)  # (B, N, 2 D)
        name, first = next(iter(encoded.items()))
        scale = 1 if name == "hr" else self._sentinel(name).patch
        tokens = Tokens(None, fused, scale * first.height, scale * first.width)
        if "hr" not in encoded:
            return tokens
        dates = seen.images["hr"].shape[1]
        fine = (image.unflatten(0, (-1, dates))[:, 0] for image in encoded["hr"].maps[:-1])
        return Tokens(None, fused, tokens.height, tokens.width, (*fine, tokens.map()))

    def encoded(self, seen: Observation) -> dict[str, Tokens]:
        """Every image of every sensor by its own encoder: sensor -> tokens of B * T images. Others' sensors are left out.

        Raises ValueError for an observation by none of this encoder's sensors.
        """
        there = [name for name in self.spec.sensors if name in seen.images]
        if not there:
            raise ValueError(
                f"{', '.join(seen.images)} is nothing that {', '.join(self.spec.sensors)} can encode"
            )
        return {name: self.get_submodule(name)(seen.images[name].flatten(0, 1)) for name in there}

    def cells(self, encoded: Mapping[str, Tokens], seen: Observation) -> dict[str, Tensor]:
        """Features of each sensor on the common grid: sensor -> (B, N, T, E), the paper's F_i.

        Raises ValueError where sensors do not show the same ground.
        """
        images = {name: tokens.map() for name, tokens in encoded.items()}  # (B * T, D', h', w')
        images = {name: self.up[name](image) if name in self.up else image for name, image in images.items()}
        if len({image.shape[-2:] for image in images.values()}) > 1:
            sizes = ", ".join(f"{name} {tuple(image.shape[-2:])}" for name, image in images.items())
            raise ValueError(
                f"cells do not lie on each other ({sizes}): 32 pixels of hr are one of s2 and of s1"
            )
        return {
            name: image.flatten(2).unflatten(0, tuple(seen.days[name].shape)).permute(0, 3, 1, 2)
            for name, image in images.items()
        }

    def fused(self, cells: Mapping[str, Tensor], seen: Observation) -> Tensor:
        """What was seen of each cell by all sensors on all dates, in one vector (B, N, D): the paper's F_fus^mm."""
        names = [name for name in SENSORS if name in cells]
        dated = [cells[name] + self.dates(seen.days[name])[:, None] for name in names]  # (B, N, T, E)
        return self.fusion(torch.cat(dated, dim=2), torch.cat([seen.present[name] for name in names], dim=1))

    @property
    def last_layer(self) -> int:
        """The `layer_id` of what comes after the fusion's layers."""
        return self._deepest + self.spec.fusion.depth + 1

    def layer_id(self, name: str) -> int:
        """Sensors' own depths, all of which end where the fusion begins; its layers follow."""
        first, _, rest = name.partition(".")
        if first in self.spec.sensors:
            own = cast(Encoder, self.get_submodule(first))
            return own.layer_id(rest) + (self._deepest - own.last_layer if own.layer_id(rest) else 0)
        if rest.startswith("blocks."):
            return self._deepest + int(rest.split(".")[1]) + 1
        return self._deepest

    @property
    def _deepest(self) -> int:
        return max(cast(Encoder, self.get_submodule(name)).last_layer for name in self.spec.sensors)

    def _sentinel(self, name: str) -> sentinel.Sentinel:
        return cast(sentinel.Sentinel, self.get_submodule(name))


def part(whole: Encoder, parts: Collection[str]) -> Encoder:
    """Some parts of an encoder, with their weights (the same, not copies): of SENSORS, `fusion` and `places`.

    One sensor without fusion is that sensor's own encoder. Raises ValueError for parts that make no encoder.
    """
    if not isinstance(whole, Spatiotemporal):
        raise ValueError(f"an encoder of kind {whole.spec.kind!r} is one part: take it as it is")
    spec = whole.spec.only(parts)
    if not isinstance(spec, Spec):
        return cast(Encoder, whole.get_submodule(next(name for name in SENSORS if name in parts)))
    with torch.device("meta"):
        found = build(spec)
    for name in [name for name, _ in found.named_children() if name != "up"]:
        found.add_module(name, whole.get_submodule(name))
    for name in found.up:
        found.up[name] = whole.up[name]
    return found


def build(spec: Spec) -> Spatiotemporal:
    """The encoder of a spec, randomly initialised."""
    return Spatiotemporal(spec)


def huge() -> Spec:
    """SkySense's: 1,659 M, and 419 M numbers in prototypes."""
    return Spec(
        hr=swinv2.huge(),
        s2=sentinel.large(),
        s1=sentinel.large(sentinel.SENTINEL1_INPUTS),
        fusion=FusionSpec(drop_path=0.3),
        places=prototypes.Spec(),
        inputs=IMAGENET_RGB,
    )


def base() -> Spec:
    """369 M: for one node."""
    return Spec(
        hr=swinv2.base(),
        s2=sentinel.base(),
        s1=sentinel.base(sentinel.SENTINEL1_INPUTS),
        fusion=FusionSpec(width=768, depth=12, heads=12, drop_path=0.1),
        places=prototypes.Spec(),
        channels=1024,
        inputs=IMAGENET_RGB,
    )


def small() -> Spec:
    """91 M: for one GPU, or for patience."""
    return Spec(
        hr=swinv2.small(),
        s2=sentinel.small(),
        s1=sentinel.small(sentinel.SENTINEL1_INPUTS),
        fusion=FusionSpec(width=384, depth=6, heads=6, drop_path=0.1),
        places=prototypes.Spec(),
        channels=768,
        inputs=IMAGENET_RGB,
    )


def tiny() -> Spec:
    """3.3 M: for tests and tests of mechanisms; views of 256 pixels of `hr`, 8 of the others."""
    return Spec(
        hr=swinv2.tiny(),
        s2=sentinel.tiny(),
        s1=sentinel.tiny(sentinel.SENTINEL1_INPUTS),
        fusion=FusionSpec(width=96, depth=3, heads=4),
        places=prototypes.Spec(side=8, count=16),
        channels=192,
        inputs=IMAGENET_RGB,
    )


def smoke() -> Spec:
    """The smallest, of two sensors: a series of Sentinel-2 and one of Sentinel-1."""
    whole = tiny().only(("s2", "s1", "fusion", "places"))
    assert isinstance(whole, Spec)
    return whole
