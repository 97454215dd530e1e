"""The contract between a way of learning and the one loop that steps it.

A method is one file in this folder: `Spec` (frozen, every knob written once), `build(spec) -> Method`, and at the
bottom the recipes of its paper, one of them `smoke()`. The module makes its own views from raw samples, on the
device, and returns losses; it never sees the loop, the optimizer, the rank or a logger, so one batch is enough to
test it. Its name is its address: `load("mae.vit_g12x4")` imports `training.methods.mae` and calls `vit_g12x4()`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict
from torch import nn

from training.encoders import Encoder
from training.objectives import Losses

if TYPE_CHECKING:
    from training.feed import Samples

__all__ = ["Crop", "Losses", "Method", "MethodSpec", "Progress", "build"]


@dataclass(frozen=True)
class Progress:
    """Where training stands: `step` of `steps` are done. Every schedule is a function of this and nothing else."""

    step: int
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.step <= self.steps:
            raise ValueError(
                f"progress counts from 0 to a positive number of steps, not {self.step} of {self.steps}"
            )

    @property
    def fraction(self) -> float:
        """From 0 before the first step to 1 after the last."""
        return self.step / self.steps


def _shares(crop: tuple[float, float]) -> tuple[float, float]:
    if not 0 < crop[0] <= crop[1] <= 1:
        raise ValueError(
            f"a crop covers shares of the area that rise within 0 to 1, not {crop}; as in [0.2, 1.0]"
        )
    return crop


Crop = Annotated[tuple[float, float], AfterValidator(_shares)]
"""The least and the greatest share of a chip's area that a view covers; drawn evenly between."""


class MethodSpec(BaseModel):
    """Every setting of a method that is not about how it is optimised.

    A method that is `fitted` takes no steps: it sees its samples once (`training/probing.py`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fitted: ClassVar[bool] = False


class Method(nn.Module):
    """A module whose forward pass is one step's losses.

    `encoder` is what export keeps. In evaluation mode `forward` makes no random choice: the same batch gives the
    same losses.
    """

    encoder: Encoder

    def forward(self, batch: Mapping[str, Samples], progress: Progress) -> Losses:
        """Losses of one batch: stream name -> samples, as the recipe's streams are named."""
        raise NotImplementedError

    def after_step(self, progress: Progress) -> None:
        """Called once the optimizer has moved: the place of teachers, queues and prototypes. Default: nothing."""

    @property
    def last_layer(self) -> int:
        """The highest `layer_id`; layer-wise decay scales a parameter's rate by decay ** (last_layer - layer_id)."""
        return self.encoder.last_layer

    def layer_id(self, name: str) -> int:
        """Depth of a parameter, by its name in `named_parameters`: an encoder's own, 0 nearest the pixels, else the last."""
        return self.encoder.layer_id(name.partition("encoder.")[2]) if "encoder." in name else self.last_layer

    def rate_scale(self, name: str, progress: Progress) -> float:
        """A parameter's own multiple of the rate, beside layer decay; 0 keeps it still for a while. Default: 1."""
        return 1.0


def build(spec: MethodSpec) -> Method:
    """The module of a spec: `build` of the file that defines the spec."""
    method: Method = importlib.import_module(type(spec).__module__).build(spec)
    return method
