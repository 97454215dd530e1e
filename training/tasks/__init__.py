"""What an encoder is put to: the contract of a downstream problem.

A task is a head. It knows how to read its target from labelled samples, what loss to take, what a prediction is and
which metric judges it; it does not know the encoder beyond its width and patch. `methods/finetune.py` joins the two.
A spec says its `kind`, the name of the file in this folder that builds it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny, model_validator
from torch import Tensor, nn

from training.encoders import Encoder, Tokens, spec_at
from training.metrics import IGNORE, Metric
from training.objectives import Losses

if TYPE_CHECKING:
    from training.feed import Samples

__all__ = ["AnyTask", "Task", "TaskSpec", "build"]


class TaskSpec(BaseModel):
    """What every task's spec says: the file that builds it, its classes in order, and what is stored for each.

    `codes[i]` is the stored value of class i, every other value is ignored; left empty, it is i itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    classes: tuple[str, ...]
    codes: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _a_code_a_class(self) -> TaskSpec:
        codes = self.stored
        if len(codes) != len(self.classes) or len(set(codes)) != len(codes):
            raise ValueError(f"{len(self.classes)} classes need as many distinct codes, not {codes}")
        if not all(0 <= code < IGNORE for code in codes):
            raise ValueError(f"codes must lie in 0..254, not {codes}: 255 means no label")
        return self

    @property
    def stored(self) -> tuple[int, ...]:
        """The stored value of each class."""
        return self.codes or tuple(range(len(self.classes)))

    def indices(self, codes: Tensor) -> Tensor:
        """Class indices (int64) of stored values; 255 for a value of no class."""
        table = torch.full((IGNORE + 1,), IGNORE, dtype=torch.int64)
        table[list(self.stored)] = torch.arange(len(self.stored))
        known = codes.long().clamp(-1, IGNORE)
        return table.to(codes.device)[torch.where(known < 0, IGNORE, known)]


class Task(nn.Module):
    """A head over an encoder's tokens. `dense` is true when targets are images that follow the pixels' flips."""

    spec: TaskSpec
    dense: bool = False

    def target(self, samples: Samples) -> Tensor:
        """What the head is to say: (B,) int64 class indices, or (B, H, W) when dense; 255 is ignored."""
        raise NotImplementedError

    def forward(self, features: Tokens, target: Tensor) -> Losses:
        """Losses of the head on encoded images."""
        raise NotImplementedError

    def predict(self, features: Tokens, size: tuple[int, int]) -> Tensor:
        """Predictions in the form of `target`, for images of `size` (height, width)."""
        raise NotImplementedError

    def metric(self) -> Metric:
        """An empty metric of this task; `update(predictions, target)` fills it."""
        raise NotImplementedError


AnyTask = Annotated[SerializeAsAny[TaskSpec], BeforeValidator(lambda value: spec_at("training.tasks", value))]


def build(spec: TaskSpec, encoder: Encoder) -> Task:
    """The task of a spec, with a head that fits the encoder."""
    task: Task = importlib.import_module(f"training.tasks.{spec.kind}").build(spec, encoder)
    return task
