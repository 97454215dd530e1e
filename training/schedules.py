"""Values that follow the run: momenta, temperatures and weight decay as functions of progress, and of nothing else.

The learning rate has its own settings in the recipe (`optim.factor`); these serve what a method schedules itself.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from training.methods import Progress

__all__ = ["Teaching", "cosine", "linear"]


def cosine(start: float, end: float, progress: Progress) -> float:
    """Half a cosine from `start`, in the first step, towards `end`, which the step after the last would have.

    end + (start - end) (1 + cos(pi i / N)) / 2 in step i of N (DINO, Caron et al. 2021, sec. 3.2).
    """
    return end + (start - end) * (1 + math.cos(math.pi * progress.fraction)) / 2


def linear(start: float, end: float, progress: Progress, within: float) -> float:
    """Evenly from `start`, in the first step, to `end`, in the last of the share `within` of the run; `end` after it.

    The n values of the share are numpy.linspace(start, end, n), as DINO warms its teacher's temperature.
    """
    steps = round(within * progress.steps)
    if progress.step >= steps or steps < 2:
        return end
    return start + (end - start) * progress.step / (steps - 1)


class Teaching(BaseModel):
    """How a teacher changes over a run: it follows ever more slowly, and after a while decides less sharply."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    momentum: float = Field(0.996, ge=0, le=1)  # of the average, rising to 1
    cold: float = Field(0.04, gt=0)  # the temperature to begin with
    warm: float = Field(0.07, gt=0)
    warming: float = Field(0.0, ge=0, le=1)  # the share of the run in which it rises

    def temperature(self, progress: Progress) -> float:
        """Of the teacher's outputs, in the next step."""
        return linear(self.cold, self.warm, progress, self.warming)

    def inertia(self, progress: Progress) -> float:
        """How much of itself the teacher keeps after the next step."""
        return cosine(self.momentum, 1.0, progress)
