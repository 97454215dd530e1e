"""Self-distillation of places seen by several sensors over time: pixels, objects and images, each sensor and all fused.

"SkySense: A Multi-Modal Remote Sensing Foundation Model Towards Universal Interpretation for Earth Observation Imagery" (Guo
et al. 2024). Two views of one tile, cut alike from a high-resolution image and from series of Sentinel-2 and Sentinel-1: what
the student says of a cell, of an object and of the whole in one view, the teacher's answer in the other must foretell
(eq. 5 to 9), for each sensor and for what fusion makes of them. Sensors of one place are told from those of others
(eq. 10), and each region's prototypes follow what was seen there (eq. 11 to 13). The teacher is what is kept.

The paper does not say how its losses are weighed, scheduled or optimised, nor its crops and colours: those numbers are
DINO's and ours. Its pretraining code is not public.

Letters: B places, P pairs of views, T dates, N cells of a view, E width of a sensor's cells, D of fused ones, R rows, K
prototypes of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import TYPE_CHECKING, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from training import correspondence, granularity, multiview
from training.distillation import Comparison, Granularities, LevelHead, heads
from training.encoders import spatiotemporal
from training.granularity import ViewPairs
from training.memory import Teacher
from training.methods import Losses, Method, MethodSpec, Progress
from training.multiview import SensorViews, Sights
from training.objectives import batch_nce
from training.observation import Observation
from training.recipe import Cosine, Ddp, Fsdp, Optimizer, Recipe, Stream, replace
from training.schedules import Teaching

if TYPE_CHECKING:
    from training.feed import Samples

__all__ = ["SkySense", "Spec", "build"]

FUSED = "fused"
"""The source that is no sensor: what fusion, and reading the region's prototypes, make of all of them."""


class Alignment(BaseModel):
    """Telling each sensor's image of a place from others' (eq. 10), on `width` numbers; the temperature is learned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(1.0, ge=0)
    width: int = Field(256, gt=0)
    temperature: float = Field(0.07, ge=0.001, le=0.5)


class Spec(MethodSpec):
    """Contrast at several granularities, alignment of sensors and prototypes of regions. It reads the stream `scenes`.

    Without `alignment` sensors meet in fusion alone; without `encoder.places` fused cells read no prototypes.
    """

    encoder: spatiotemporal.Spec
    views: SensorViews = SensorViews()
    contrast: Granularities = Granularities()
    alignment: Alignment | None = Alignment()
    weight: float = Field(1.0, gt=0)  # of the contrast
    teaching: Teaching = Teaching(warming=0.3)
    still: float = Field(0.0125, ge=0, le=1)  # the share of the run in which prototypes of heads do not move

    @model_validator(mode="after")
    def _fit(self) -> Spec:
        if not self.contrast.fused and self.encoder.places is not None:
            raise ValueError(
                "prototypes are learned from fused cells: set encoder.places=null, or contrast.fused"
            )
        if self.alignment is not None and len(self.encoder.sensors) < 2:
            raise ValueError("one sensor has nothing to be aligned with: set alignment=null")
        return self


class _Network(nn.Module):
    """An encoder and its heads; student and teacher are one each."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.encoder = spatiotemporal.build(spec.encoder)
        self.heads, self.fuses = heads(spec.contrast, _widths(spec)), spec.contrast.fused
        if not self.fuses:
            for part in (self.encoder.fusion, self.encoder.dates):
                part.requires_grad_(False)

    def forward(self, seen: Observation) -> dict[str, Tensor]:
        """Cells of views: of each sensor (2B, T, N, E), and fused (2B, 1, N, D), or 2 D with what the region adds."""
        encoder = self.encoder
        cells = encoder.cells(encoder.encoded(seen), seen)  # (2B, N, T, E)
        found = {name: some.transpose(1, 2) for name, some in cells.items()}
        if self.fuses:
            fused = encoder.fused(cells, seen)  # (2B, N, D)
            if encoder.places is not None:
                fused = torch.cat([fused, encoder.places(fused, seen.regions)], dim=-1)  # (2B, N, 2 D)
            found[FUSED] = fused[:, None]
        return found


class SkySense(Method):
    """Student and teacher. In evaluation views, dates and the choice of cells are fixed, and colours are as they are."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.student = _Network(spec)
        self.teacher = Teacher(self.student, evaluating=True)
        self.comparison = Comparison(spec.contrast, _widths(spec), spec.views.cells**2)
        if spec.alignment is not None:
            width = spec.alignment.width
            self.projections = nn.ModuleDict(
                {name: nn.Linear(spec.encoder.channels, width) for name in spec.encoder.sensors}
            )
            self.temperature = nn.Parameter(torch.tensor([spec.alignment.temperature]))

    @property
    def encoder(self) -> spatiotemporal.Spatiotemporal:  # type: ignore[override]
        """The teacher's."""
        return self._taught.encoder

    @property
    def _taught(self) -> _Network:
        return cast(_Network, self.teacher.module)

    def forward(self, batch: Mapping[str, Samples], progress: Progress) -> Losses:
        """Cross-entropies `source_level` of the student's sorting with the teacher's, and of `alignment`."""
        return self.losses(self.sights(batch["scenes"]), progress)

    def losses(self, sights: Sights, progress: Progress) -> Losses:
        """Losses of views: L = weight * (sum over sources and levels) + alignment.weight * (sum over ordered pairs)."""
        spec, student, temperature = self.spec, self.student, self.spec.teaching.temperature(progress)
        mine = student(sights.large)  # source: (2B, T, N, E)
        with torch.no_grad():
            theirs = self._taught(sights.large)
        parts: dict[str, Tensor] = {}
        signs: dict[str, Tensor] = {}
        for source, pairs in self.pairs(sights, mine, theirs).items():
            found, signs = self.comparison(source, pairs, student.heads, self._taught.heads, temperature)
            parts |= {f"{source}_{level}": loss for level, loss in found.items()}
        total = spec.weight * torch.stack(list(parts.values())).sum()
        if spec.alignment is not None:
            parts["alignment"] = self.aligned(mine, sights)
            total = total + spec.alignment.weight * parts["alignment"]
        if student.encoder.places is not None:
            cells = mine[FUSED][:, 0, :, : spec.encoder.fusion.width]  # (2B, N, D)
            student.encoder.places.absorb(cells, sights.large.regions)
        return Losses(total, {name: part.detach() for name, part in parts.items()} | signs)

    def pairs(
        self, sights: Sights, mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
    ) -> dict[str, list[ViewPairs]]:
        """Of each source both large views against each other, and small views of `hr` against both.

        (u, v) and (v, u) are two pairs, so that P is 2B; small views make 2 V B.
        """
        large, other = sights.large_at, correspondence.both_ways(sights.large_at)
        everyone = torch.ones_like(sights.places, dtype=torch.bool).repeat(2)
        found = {}
        for source, cells in mine.items():
            counted = sights.large.present[source].any(1) if source != FUSED else everyone
            exchanged = torch.cat(theirs[source].chunk(2)[::-1])
            found[source] = [granularity.paired(cells, large, exchanged, other, counted)]
        if sights.small is not None and len(sights.small):
            small = self.student.encoder.get_submodule("hr")(sights.small).patches[
                :, None
            ]  # (V * B, 1, N', E)
            rounds = len(small) // len(sights.places)
            whole = torch.cat([view.repeat(rounds, 1, 1, 1) for view in theirs["hr"].chunk(2)])
            counted = sights.large.present["hr"].any(1).chunk(2)[0].repeat(2 * rounds)
            near, far = (
                correspondence.repeated(sights.small_at, 2),
                correspondence.repeated(large, rounds, parts=2),
            )
            found["hr"].append(granularity.paired(small.repeat(2, 1, 1, 1), near, whole, far, counted))
        return found

    def aligned(self, mine: Mapping[str, Tensor], sights: Sights) -> Tensor:
        """Each sensor's mean cell told from those of other places by every other sensor's, over both views (eq. 10)."""
        with torch.autocast(sights.places.device.type, enabled=False):
            means = {name: mine[name].float().mean((1, 2)) for name in self.spec.encoder.sensors}  # (2B, E)
            found = {name: self.projections[name](mean).chunk(2) for name, mean in means.items()}
        held = {name: sights.large.present[name].any(1).chunk(2) for name in found}
        losses = [
            batch_nce(
                found[one][view],
                found[other][view],
                self.temperature,
                there=held[one][view] & held[other][view],
                places=sights.places,
            )
            for view in range(2)
            for one, other in permutations(found, 2)
        ]
        return torch.stack(losses).sum() / 2

    def sights(self, samples: Samples) -> Sights:
        """Two large views of each tile and small ones, drawn anew; in evaluation fixed."""
        places, spec = self.student.encoder.places, self.spec
        region = None if places is None else places.region(samples.lonlat)
        return multiview.sights(samples, spec.encoder.reads, spec.views, region, fixed=not self.training)

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Prototypes, centres and the teacher move, by the momentum of the step that was just made."""
        if self.student.encoder.places is not None and self.encoder.places is not None:
            self.student.encoder.places.settle()
            for known, found in zip(
                self.encoder.places.buffers(), self.student.encoder.places.buffers(), strict=True
            ):
                known.copy_(found)
        self.comparison.settle()
        if self.spec.alignment is not None:
            self.temperature.clamp_(0.001, 0.5)
        inertia = self.spec.teaching.inertia(Progress(progress.step - 1, progress.steps))
        self.teacher.follow(self.student, inertia)

    def rate_scale(self, name: str, progress: Progress) -> float:
        """0 for the prototypes of heads while they do not move."""
        return 0.0 if "last_layer" in name and progress.fraction < self.spec.still else 1.0


def _widths(spec: Spec) -> dict[str, int]:
    """Channels of the cells of each source."""
    found = dict.fromkeys(spec.encoder.sensors, spec.encoder.channels)
    return found | ({FUSED: spec.encoder.width} if spec.contrast.fused else {})


def build(spec: Spec) -> SkySense:
    """The method of a spec, randomly initialised."""
    return SkySense(spec)


# Recipes. Places of 640 m; the paper's batch, and an epoch of 21.5 million of them is 89,583 steps.


def huge() -> Recipe:
    """The paper's: 2.08 B with prototypes, a batch of 240 places on 80 GPUs, little more than one epoch."""
    return Recipe(
        method=Spec(encoder=spatiotemporal.huge()),
        streams={
            "scenes": Stream(
                corpus="runs/corpora/skysense_sequences@1", layers=("hr", "s2", "s1"), partial=True
            )
        },
        batch=240,
        steps=100_000,
        optim=Optimizer(
            lr_per_256=2e-4, batch_power=0.5, weight_decay=0.04, weight_decay_end=0.2, decay="maps",
            betas=(0.9, 0.999), clip=3.0,
        ),
        schedule=Cosine(warmup=0.05, floor=5e-3),
        precision="bf16",
        parallel=Fsdp(),
        activations="recompute",
    )  # fmt: skip


def base() -> Recipe:
    """369 M and fewer prototypes in heads; a node."""
    return _scaled(spatiotemporal.base(), prototypes=8192)


def small() -> Recipe:
    """91 M, a batch of 48; one GPU. Small batches want a slower teacher."""
    recipe = _scaled(spatiotemporal.small(), prototypes=4096)
    method = replace(_spec(recipe), teaching=Teaching(momentum=0.9995, warming=0.3))
    return replace(recipe, method=method, batch=48, steps=20_000)


def tiny() -> Recipe:
    """3.3 M, views of 8 cells; for tests of mechanisms and first looks at new data."""
    recipe = small()
    base = _spec(recipe)
    method = replace(
        base,
        encoder=spatiotemporal.tiny(),
        teaching=Teaching(momentum=0.99, warming=0.3),  # few steps want a faster teacher
        views=replace(base.views, cells=8, local=128),
        contrast=replace(base.contrast, head=LevelHead(prototypes=1024, hidden=256, bottleneck=64)),
    )
    return replace(recipe, method=method, batch=16, steps=2_000, precision="fp32", activations="keep")


def _scaled(encoder: spatiotemporal.Spec, prototypes: int) -> Recipe:
    recipe = huge()
    contrast = replace(_spec(recipe).contrast, head=LevelHead(prototypes=prototypes))
    method = replace(recipe.method, encoder=encoder, contrast=contrast)
    return replace(recipe, method=method, parallel=Ddp())


# Table 5b of the paper, one part after the other; the last row, 48.2, is `huge`. Scores are of Dyna.-MM.


def table5b_baseline() -> Recipe:
    """The high-resolution image alone, its whole views compared, as DINO; 42.2."""
    contrast = Granularities(levels=("images",), fused=False)
    return _parts(("hr", "fusion"), contrast=contrast, alignment=None)


def table5b_granularity() -> Recipe:
    """With pixels and objects; 44.4."""
    return _parts(("hr", "fusion"), contrast=Granularities(fused=False), alignment=None)


def table5b_sensors() -> Recipe:
    """With Sentinel-2 and Sentinel-1, and fusion; 47.0."""
    return _parts(("hr", "s2", "s1", "fusion"), alignment=None)


def table5b_alignment() -> Recipe:
    """With sensors aligned; 47.7."""
    return _parts(("hr", "s2", "s1", "fusion"))


def _parts(parts: tuple[str, ...], **settings: object) -> Recipe:
    recipe = huge()
    base = _spec(recipe)
    return replace(recipe, method=replace(base, encoder=base.encoder.only(parts), **settings))


def _spec(recipe: Recipe) -> Spec:
    assert isinstance(recipe.method, Spec)
    return recipe.method


def smoke() -> Recipe:
    """The invented Earth, few dates and small heads: seconds."""
    recipe = tiny()
    base = _spec(recipe)
    hr, places = base.encoder.hr, base.encoder.places
    assert hr is not None and places is not None
    method = replace(
        base,
        encoder=replace(base.encoder, hr=replace(hr, image=128), places=replace(places, side=4, count=8)),
        views=replace(
            base.views, places=replace(base.views.places, count=2), cells=4, s2_dates=3, s1_dates=2
        ),
        contrast=replace(
            base.contrast, cells=16, dates=2, head=LevelHead(prototypes=64, hidden=48, bottleneck=16)
        ),
    )
    return replace(
        recipe,
        method=method,
        streams={"scenes": Stream(corpus="runs/corpora/smoke@1", layers=("hr", "s2", "s1"))},
        batch=8,
        steps=12,
        optim=replace(recipe.optim, lr_per_256=4e-3),
        log_every=4,
        checkpoint_every=6,
    )
