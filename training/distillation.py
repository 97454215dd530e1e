"""How a student's features are compared with a teacher's at several granularities: heads, centres, objects, one loss.

Each source (a sensor, or all fused) has a head, which sorts features among prototypes; pixels, objects and images share
it, and each has a centre of its own, for their means differ (SkySense, sec. 3.3, after DINO).

Letters: P pairs of views, R rows that are compared, D width of a source, Z width before prototypes, K prototypes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training import granularity
from training.granularity import Objects, Rows, ViewPairs
from training.heads import PrototypeHead
from training.masking import noise
from training.memory import Centre
from training.objectives import centred_softmax, collapse_signs, prototype_cross_entropy, sinkhorn

__all__ = ["Comparison", "Granularities", "LevelHead", "heads"]

Level = Literal["pixels", "objects", "images"]
LOOKED_AT = 128
"""Rows that signs of collapse are taken of."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LevelHead(_Part):
    """What sorts features among prototypes: one for each source, or for each of its levels as well."""

    prototypes: int = Field(65536, gt=1)
    hidden: int = Field(2048, gt=0)
    bottleneck: int = Field(256, gt=0)
    each: Literal["source", "level"] = "source"

    def name(self, source: str, level: Level) -> str:
        """The head that a level of a source is sorted by."""
        return source if self.each == "source" else f"{source}_{level}"


class Granularities(_Part):
    """Which levels of which sources are compared: of every sensor, and with `fused` of all together.

    Of pixels, a step takes at most so many `cells` of a pair of views at so many `dates`.
    """

    levels: tuple[Level, ...] = Field(("pixels", "objects", "images"), min_length=1)
    fused: bool = True
    cells: int = Field(64, gt=0)
    dates: int = Field(4, gt=0)
    objects: Objects = Objects()
    head: LevelHead = LevelHead()
    balance: Literal["centre", "sinkhorn"] = "centre"  # of the teacher's outputs
    temperature: float = Field(0.1, gt=0)  # of the student's


def heads(spec: Granularities, widths: Mapping[str, int]) -> nn.ModuleDict:
    """The heads of sources of such widths; their prototypes' scales stay 1."""
    head, found = spec.head, nn.ModuleDict()
    for source, width in widths.items():
        for name in dict.fromkeys(head.name(source, level) for level in spec.levels):
            found[name] = PrototypeHead(width, head.prototypes, head.hidden, head.bottleneck, scale="frozen")
    return found


class Comparison(nn.Module):
    """The loss of every level of a source, and what it needs besides heads: a centre each, and what objects begin from."""

    def __init__(self, spec: Granularities, widths: Mapping[str, int], cells: int) -> None:
        super().__init__()
        self.spec = spec
        self.centres = nn.ModuleDict(
            {f"{source}_{level}": Centre(spec.head.prototypes) for source in widths for level in spec.levels}
        )
        for source, width in widths.items():
            queries = torch.empty(spec.objects.count(cells), width)
            self.register_buffer(f"queries_{source}", nn.init.orthogonal_(queries))

    def forward(
        self,
        source: str,
        pairs: Sequence[ViewPairs],
        student: nn.ModuleDict,
        teacher: nn.ModuleDict,
        temperature: float,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The cross-entropy of each level (eq. 5 to 9), the teacher's outputs sharpened by `temperature`; signs of collapse.

        for each level, for each of its rows: p = softmax(H(f) / temperature of the student),
            q = softmax((H'(f') - centre) / temperature); total -= share * sum over k of q[k] * log(p[k])
        """
        found: dict[str, Tensor] = {}
        signs: dict[str, Tensor] = {}
        for level in self.spec.levels:
            name, rows = self.spec.head.name(source, level), self.rows(source, level, pairs)
            head, taught = (cast(PrototypeHead, each[name]) for each in (student, teacher))
            centre = cast(Centre, self.centres[f"{source}_{level}"])
            target = self.target(rows, taught, centre, temperature)
            directions = head.directions(rows.mine)  # (R, Z)
            found[level] = prototype_cross_entropy(
                directions, head.prototypes(), target, self.spec.temperature, rows.shares
            )
            signs = collapse_signs(target(slice(LOOKED_AT)), rows.mine[:LOOKED_AT], centre.value)
        return found, signs

    def rows(self, source: str, level: Level, pairs: Sequence[ViewPairs]) -> Rows:
        """What is compared at a level, and what each row counts for."""
        if level == "pixels":
            return granularity.joined([granularity.pixels(pair, *self.chosen(pair)) for pair in pairs])
        if level == "objects":
            queries = self.get_buffer(f"queries_{source}")
            return granularity.joined(
                [granularity.objects(pair, queries, self.spec.objects) for pair in pairs]
            )
        return granularity.joined([granularity.images(pair) for pair in pairs])

    def chosen(self, pairs: ViewPairs) -> tuple[Tensor, Tensor]:
        """Cells (P, k) and dates (P, t) that the pixels of a step come from; in evaluation always the same."""
        count, dates, cells, _ = pairs.mine.shape
        device, fixed = pairs.mine.device, not self.training
        places, times = (noise(count, many, device, fixed=fixed) for many in (cells, dates))
        return granularity.chosen(pairs, places, times, (self.spec.cells, self.spec.dates))

    @torch.no_grad()
    def target(
        self, rows: Rows, head: PrototypeHead, centre: Centre, temperature: float
    ) -> Callable[[slice], Tensor]:
        """How the teacher sorts rows: a function that gives (r, K) of some. The centre notes their mean, as they count."""
        answers, prototypes = head.directions(rows.theirs), head.prototypes()  # (R, Z), (K, Z)
        if self.spec.balance == "sinkhorn":
            balanced = sinkhorn(F.linear(answers, prototypes), temperature, there=rows.shares > 0)
            return lambda some: balanced[some]
        weight = rows.shares.sum()
        mean = (rows.shares[:, None] * answers).sum(0, keepdim=True) / weight.clamp(min=1e-12)
        centre.absorb(F.linear(mean, prototypes), weight)  # logits are linear in directions

        def sorted_as(some: slice) -> Tensor:
            return centred_softmax(F.linear(answers[some], prototypes), centre.value, temperature)

        return sorted_as

    def settle(self) -> None:
        """The centres move to what was noted."""
        for centre in self.centres.values():
            cast(Centre, centre).settle()
