"""Transfer without training: what neighbours, or a line at each stage, make of an encoder as it is.

A probe is fine-tuning of which nothing is left but the encoder. It sees the training samples once and takes no step, so
for an encoder that is given nothing is random in it. Its recipes are protocols like any other: the same samples, views,
baselines and metrics.

Letters: B batch, D width, K classes, S stages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from training import probe
from training.encoders.spatiotemporal import Spatiotemporal
from training.methods import Losses, Progress, finetune
from training.metrics import IGNORE, Metric
from training.tasks import classify
from training.views import whole

if TYPE_CHECKING:
    from training.feed import Samples

__all__ = ["Neighbours", "Probe", "Spec", "Staged", "Stages", "build"]

Named = Callable[[Tensor], Tensor]
"""Features (B, D) -> a number for each class (B, K), the greatest of which is meant."""


class Neighbours(BaseModel):
    """The `k` nearest training samples vote (`probe.votes`), by the class token or the mean of the patches."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["neighbours"] = "neighbours"
    k: int = Field(20, gt=0)
    temperature: float = Field(0.07, gt=0)


class Stages(BaseModel):
    """A logistic regression with this `decay` on each stage, its map averaged over `grid` x `grid` parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["stages"] = "stages"
    grid: int = Field(1, gt=0)
    decay: float = Field(1e-3, gt=0)


class Spec(finetune.Spec):
    """A way to ask a frozen encoder for one class of a whole image."""

    fitted: ClassVar[bool] = True

    by: Annotated[Neighbours | Stages, Field(discriminator="kind")] = Neighbours()
    freeze: Literal[True] = True


class Probe(finetune.FineTune):
    """An encoder, and what `fit` has made of the training samples. The task says what the classes are; its head is idle."""

    spec: Spec

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        if not isinstance(self.task, classify.Classify):
            raise ValueError(f"a probe names one class of an image, task {spec.task.kind!r} does not")
        if isinstance(self.encoder, Spatiotemporal):
            raise ValueError("a probe looks at one image: name one sensor of the encoder with method.parts")
        self.task.requires_grad_(False)
        self._named: list[Named] = []

    @torch.no_grad()
    def fit(self, batches: Iterable[Samples]) -> None:
        """See every training sample once. Raises ValueError when none has a label."""
        rows: list[list[Tensor]] = []
        names = []
        for samples in batches:
            target = self.target(samples)
            rows.append([one[target != IGNORE] for one in self._looked(samples)])
            names.append(target[target != IGNORE])
        if not sum(len(one) for one in names):
            raise ValueError("nothing to fit: no training sample has a label of one of the classes")
        classes = torch.cat(names)
        self._named = [self._one((torch.cat(parts), classes)) for parts in zip(*rows, strict=True)]

    def predict(self, samples: Samples) -> Tensor:
        """Classes (B,) by neighbours, (B, S) by stages, shallow to deep. Raises ValueError before `fit`."""
        if not self._named:
            raise ValueError("this probe has seen nothing yet: fit it on the training samples first")
        found = [name(one).argmax(1) for name, one in zip(self._named, self._looked(samples), strict=True)]
        return torch.stack(found, 1) if isinstance(self.spec.by, Stages) else found[0]

    def metric(self) -> Metric:
        """An empty metric: of the classes, or of those at every stage."""
        return Staged() if isinstance(self.spec.by, Stages) else super().metric()

    def forward(self, batch: Mapping[str, Samples], progress: Progress) -> Losses:
        """Nothing here learns."""
        raise ValueError("a probe is fitted, not trained in steps: run it as a transfer, with steps=0")

    def _looked(self, samples: Samples) -> list[Tensor]:
        """Features (B, D) of whole chips, one of each stage."""
        images = whole(samples, self.inputs, self.spec.views, 1)[:, 0]  # (B, S, H, W)
        if isinstance(self.spec.by, Neighbours):
            return [probe.pooled(self.encoder, images)]
        maps = probe.stage_maps(self.encoder, images)
        return [F.adaptive_avg_pool2d(one, self.spec.by.grid).flatten(1) for one in maps]

    def _one(self, known: probe.Known) -> Named:
        by = self.spec.by
        if isinstance(by, Stages):
            return probe.line(known, by.decay)
        return lambda asked: probe.votes(known, asked, by.k, by.temperature)


@dataclass(frozen=True, eq=False)
class Staged:
    """How often each stage names the right class; the last stands for the encoder."""

    right: tuple[int, ...] = ()
    seen: int = 0

    def update(self, predictions: Tensor, target: Tensor) -> Staged:
        """With classes (B, S) for a target (B,) added; targets equal to 255 are left out."""
        known = target != IGNORE
        right = (predictions == target[:, None])[known].sum(0)
        return self + Staged(tuple(int(count) for count in right), int(known.sum()))

    def __add__(self, other: Staged) -> Staged:
        if not self.right or not other.right:
            return self if self.right else other
        both = zip(self.right, other.right, strict=True)
        return Staged(tuple(one + two for one, two in both), self.seen + other.seen)

    def scores(self) -> dict[str, float]:
        """`accuracy` of the last stage, and `accuracy_stage_1` and so on, shallow to deep; nan where nothing was seen."""
        shares = [count / self.seen if self.seen else float("nan") for count in self.right]
        last = shares[-1] if shares else float("nan")
        return {"accuracy": last} | {f"accuracy_stage_{n}": share for n, share in enumerate(shares, 1)}


def build(spec: Spec) -> Probe:
    """The probe of a spec, which has seen nothing yet. Raises Missing when `init` names no exported encoder."""
    return Probe(spec)
