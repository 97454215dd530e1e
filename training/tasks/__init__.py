"""What an encoder is put to: the contract of a downstream problem.

A task is a head. It knows how to read its target from labelled samples, what loss to take, what a prediction is and
which metric judges it; it does not know the encoder beyond the shape of what it gives. `methods/finetune.py` joins
the two: one encoded image a sample, or all of its dates, encoded as one batch, as a `Series`. A spec says its `kind`,
the name of the file in this folder that builds it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Generic, Literal, TypeVar

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny, model_validator
from torch import Tensor, nn

from training.encoders import Encoder, Tokens, spec_at
from training.metrics import IGNORE, Confusion, Metric
from training.objectives import Losses
from training.synced import synced

if TYPE_CHECKING:
    from training.feed import Samples

__all__ = ["AnyTask", "Dates", "Series", "Task", "TaskSpec", "build", "class_label", "class_map", "integers"]

Dates = Literal["one", "pair", "series"]
"""How many dates of a sample a task looks at: its first, its first two, or all there are."""


@dataclass(frozen=True)
class Series:
    """Encoded series of B samples with T dates each; of a pair, T is 2.

    `tokens` hold all images as one batch of B * T, the dates of a sample next to each other. `present` (B, T) bool is
    false where a series was filled up to the longest, and those images mean nothing; `days` (B, T) int64 are days
    since 1970-01-01.
    """

    tokens: Tokens
    present: Tensor
    days: Tensor

    def __post_init__(self) -> None:
        shape, images = tuple(self.present.shape), len(self.tokens.patches)
        if len(shape) != 2 or tuple(self.days.shape) != shape or shape[0] * shape[1] != images:
            raise ValueError(
                f"{images} encoded images are no series of present {shape} and days {tuple(self.days.shape)}: "
                "give (B, T) of both and B * T images"
            )

    def by_date(self, images: Tensor) -> Tensor:
        """Something (B * T, ...) of each image as (B, T, ...)."""
        return images.unflatten(0, tuple(self.present.shape))


Seen = TypeVar("Seen", Tokens, Series)
"""What a task looks at: one image, or several of the same ground."""


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


class Task(nn.Module, Generic[Seen]):
    """A head over an encoder's tokens: of one image, or of a `Series` when `dates` is pair or series.

    `dense` is true when targets are images that follow the pixels' flips. `logits` are what neighbouring windows of a
    large image may average before they are decided, and `predict` is both in one.
    """

    spec: TaskSpec
    dense: bool = False
    dates: Dates = "one"

    def target(self, samples: Samples) -> Tensor:
        """What the head is to say: (B,) int64 class indices, or (B, H, W) when dense; 255 is ignored.

        Several classes a sample are (B, K), 0 or 1 each.
        """
        raise NotImplementedError

    def forward(self, features: Seen, target: Tensor) -> Losses:
        """Losses of the head on encoded images."""
        raise NotImplementedError

    def logits(self, features: Seen, size: tuple[int, int]) -> Tensor:
        """Logits (B, K), or (B, K, H, W) at `size` (H, W) when dense; `size` matters to dense tasks only."""
        raise NotImplementedError

    def decide(self, logits: Tensor) -> Tensor:
        """The prediction of logits (B, K, ...), in the form of `target`: the likeliest class."""
        return logits.argmax(1)

    def predict(self, features: Seen, size: tuple[int, int]) -> Tensor:
        """Predictions in the form of `target`, for images of `size` (height, width)."""
        return self.decide(self.logits(features, size))

    def metric(self) -> Metric:
        """An empty metric of this task; `update(predictions, target)` fills it."""
        return Confusion.empty(self.spec.classes)


def class_label(samples: Samples, label: str, spec: TaskSpec) -> Tensor:
    """Class indices (B,) int64 of the samples' integer label of that name; codes of no class become 255."""
    return spec.indices(integers(samples, label))


def integers(samples: Samples, label: str) -> Tensor:
    """The integer label (B,) of that name. Raises ValueError, with the names there are, when samples lack it."""
    if label not in samples.labels:
        raise ValueError(f"samples have labels {sorted(samples.labels)}, not {label!r}: name one of them")
    return samples.labels[label]


def class_map(samples: Samples, layer: str, spec: TaskSpec) -> Tensor:
    """Class indices (B, H, W) int64 of a label layer's first date; codes of no class become 255."""
    if layer not in samples.layers:
        raise ValueError(f"samples have layers {sorted(samples.layers)}, not {layer!r}: feed the labels")
    return spec.indices(samples.layers[layer][:, 0, 0])  # (B, H, W)


AnyTask = Annotated[SerializeAsAny[TaskSpec], BeforeValidator(lambda value: spec_at("training.tasks", value))]


def build(spec: TaskSpec, encoder: Encoder) -> Task:
    """The task of a spec, with a head that fits the encoder and batch norms that see the batch of all ranks."""
    task: Task = importlib.import_module(f"training.tasks.{spec.kind}").build(spec, encoder)
    return synced(task)
