"""Transfer: a task's head on an encoder, trained together or alone.

Fine-tuning is a method like any other: it reads labelled samples instead of bare scenes, and its encoder starts
from what another method exported instead of from chance. With `freeze` only the head learns, on the encoder as it
was: the linear probe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from training import starting, tasks, weights
from training.augment import PADDING
from training.encoders import (
    AnyEncoder,
    Encoder,
    EncoderSpec,
    Inputs,
    Tokens,
    spatiotemporal,
    vit,
)
from training.encoders.spatiotemporal import Spatiotemporal
from training.methods import Losses, Method, MethodSpec, Progress
from training.metrics import Metric
from training.observation import Observation, cropped, cut, observed, scaled, thinned, turned
from training.recipe import Cosine, Optimizer, Recipe, Stream, replace
from training.sliding import joined, sliding
from training.tasks import AnyTask, Series, Task, classify, segment
from training.views import Viewing, drawn, whole

if TYPE_CHECKING:
    from training.feed import Samples

__all__ = ["FineTune", "Spec", "Window", "build"]


class Window(BaseModel):
    """Large images are looked at through windows of `size` pixels every `stride`, their logits averaged.

    Of an encoder of several sensors they are counted in cells.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(512, gt=0)
    stride: int = Field(384, gt=0)


class Spec(MethodSpec):
    """A task on an encoder. It reads the stream `labelled`.

    `init` is the folder of an exported encoder, or a file of weights in timm's or MAE's names; without it the encoder
    starts from chance. `encoder` may be left out for a folder, and must agree with what `init` holds when both are given.
    `form` is how the encoder is put to use: as it is; a plain ViT with windows and relative positions for images of
    `views.crop` pixels (`vitdet`) or with a convolutional companion (`adapter`); a residual network with its last stages
    `dilated` to a stride of 8. An encoder that a form is not made for stays as it is. `scored` says what counts as one:
    a sample; a scene, whose chips are put together where they overlap; or a sample and, for change, its next month.
    """

    task: AnyTask
    encoder: AnyEncoder | None = None
    init: str | None = None
    parts: tuple[str, ...] = ()  # of an encoder of several sensors, those put to use; none named: all
    freeze: bool = False  # train the head alone
    frozen: tuple[str, ...] = ()  # parts of the encoder that stay as they are while the others learn
    form: starting.Form = "own"
    drop_path: float | None = Field(None, ge=0, lt=1)  # None: what the encoder's spec says
    inputs: Inputs | None = None  # read in place of what the encoder was made for, as many bands
    reads: spatiotemporal.Reads | None = None  # the same for each of several sensors
    views: Viewing = Viewing()
    window: Window | None = None  # None: images are looked at whole
    scored: Literal["samples", "scenes", "months"] = "samples"

    @model_validator(mode="after")
    def _some_encoder(self) -> Spec:
        if self.encoder is None and self.init is None:
            raise ValueError(
                "a task needs an encoder: give init (a folder) or encoder (to start from chance)"
            )
        whole = (
            isinstance(self.encoder, spatiotemporal.Spec)
            if self.init is None
            else not weights.is_file(self.init)
        )
        if self.parts and not whole:
            raise ValueError(
                f"parts {', '.join(self.parts)} are taken out of an encoder of several sensors: give its exported folder "
                "as init, or a spatiotemporal encoder"
            )
        return self


class FineTune(Method):
    """An encoder under one head. Letters: B batch, T dates, S input channels, D width."""

    encoder: Encoder
    task: Task

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = starting.started(spec.encoder, spec.init, spec.parts, self._shaped)
        self.task = tasks.build(spec.task, self.encoder)
        if isinstance(self.encoder, Spatiotemporal):
            _looks_at_all_of_it(spec, self.task)
        for module in self._still():
            module.requires_grad_(False)

    def _shaped(self, wanted: EncoderSpec) -> EncoderSpec:
        spec = self.spec
        read = starting.reading(wanted, spec.inputs, spec.reads)
        image = spec.views.crop or spec.views.side
        return starting.formed(starting.dropping(read, spec.drop_path), spec.form, image)

    def train(self, mode: bool = True) -> FineTune:
        """Training mode for what trains: a frozen encoder stays in evaluation mode."""
        super().train(mode)
        for module in self._still():
            module.eval()
        return self

    def _still(self) -> list[nn.Module]:
        """What of the encoder does not learn. Raises ValueError for a part that is not there."""
        parts = dict(self.encoder.named_children())
        strange = sorted(set(self.spec.frozen) - parts.keys())
        if strange:
            raise ValueError(
                f"the encoder has parts {', '.join(parts)}, not {strange[0]!r}: freeze some of them"
            )
        return [self.encoder] if self.spec.freeze else [parts[name] for name in self.spec.frozen]

    def forward(self, batch: Mapping[str, Samples], progress: Progress) -> Losses:
        """The task's losses on views of the labelled samples; in evaluation, on the chips as they are."""
        samples = batch["labelled"]
        images, target = self.views(samples)  # (B, T, S, H, W) or an observation, (B, ...)
        return self.task(self.features(images, samples), target)

    def predict(self, samples: Samples) -> Tensor:
        """The task's predictions on whole chips, in the form of its target."""
        return self.task.decide(self.logits(samples))

    def logits(self, samples: Samples) -> Tensor:
        """Logits of whole chips, (B, K) or (B, K, H, W); those of large images are averaged over windows.

        They have the size of the image, or where several sensors see it, of its labels.
        """
        if isinstance(self.encoder, Spatiotemporal):
            return self._of_all(self._observed(samples), samples)
        images = whole(samples, self.inputs, self.spec.views, self.dates(samples))  # (B, T, S, H, W)
        height, width = samples.layers[self.inputs.layer].shape[-2:]
        window = self.spec.window
        if not self.task.dense or window is None or max(images.shape[-2:]) <= window.size:
            return self.task.logits(self.features(images, samples), (height, width))

        def of_window(part: Tensor) -> Tensor:
            features = self.features(part.unflatten(1, images.shape[1:3]), samples)
            return self.task.logits(features, (part.shape[-2], part.shape[-1]))

        classes = len(self.spec.task.classes)
        found = sliding(of_window, images.flatten(1, 2), window.size, window.stride, classes)
        if found.shape[-2:] != (height, width):
            found = F.interpolate(found, (height, width), mode="bilinear", align_corners=False)
        return found

    def _of_all(self, seen: Observation, samples: Samples) -> Tensor:
        """Logits of what several sensors see, those of a large place averaged over windows of cells."""
        *_, tall, wide = 1, 1, *self.target(samples).shape[1:]
        window, cells = self.spec.window, self._cells(seen)
        if not self.task.dense or window is None or cells <= window.size:
            return self.task.logits(self.features(seen, samples), (tall, wide))
        scale = tall // cells  # labels of a cell

        def of_window(rows: slice, columns: slice) -> Tensor:
            down, right = (slice(one.start // scale, one.stop // scale) for one in (rows, columns))
            part = self.features(cut(seen, cells, down, right), samples)
            return self.task.logits(part, (rows.stop - rows.start, columns.stop - columns.start))

        total = torch.zeros(len(samples), len(self.spec.task.classes), tall, wide).to(samples.lonlat.device)
        return joined(of_window, total, scale * window.size, scale * window.stride)

    def _cells(self, seen: Observation) -> int:
        """Cells a side of what was seen."""
        return next(iter(seen.images.values())).shape[-1] // self.encoder.patch

    def target(self, samples: Samples) -> Tensor:
        """What `predict` should have said."""
        return self.task.target(samples)

    def metric(self) -> Metric:
        """An empty metric of the task."""
        return self.task.metric()

    @property
    def scored(self) -> str:
        """What counts as one thing to be scored."""
        return self.spec.scored

    def features(self, images: Tensor | Observation, samples: Samples) -> Tokens | Series:
        """Encoded images (B, T, S, H, W), all dates in one batch, or all that an encoder of several sensors sees.

        No gradient is kept for a frozen encoder.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.spec.freeze):
            tokens: Tokens = self.encoder(images if isinstance(images, Observation) else images.flatten(0, 1))
        if isinstance(images, Observation) or self.task.dates == "one":
            return tokens
        days = samples.dates[self.inputs.layer][:, : images.shape[1]].long()  # (B, T)
        return Series(tokens, days != PADDING, days)

    def views(self, samples: Samples) -> tuple[Tensor | Observation, Tensor]:
        """Normalised images (B, T, S, H, W) and their targets; in training cut, turned and coloured, labels alike.

        For an encoder of several sensors, an observation, in training cut and turned.
        """
        target = self.task.target(samples)
        if isinstance(self.encoder, Spatiotemporal):
            seen = self._observed(samples)
            if not self.training:
                return seen, target
            labels = target if self.task.dense else None
            crop, cells = self.spec.views.crop, self._cells(seen)
            if crop is not None and crop < cells:
                seen, labels = cropped(seen, cells, crop, labels)
            seen, labels = turned(seen, self.spec.views.turns, labels)
            return seen, target if labels is None else labels
        dates = self.dates(samples)
        if not self.training:
            return whole(samples, self.inputs, self.spec.views, dates), target
        labels = target if self.task.dense else None
        images, labels = drawn(samples, self.inputs, self.spec.views, dates, labels)
        return images, target if labels is None else labels

    def _observed(self, samples: Samples) -> Observation:
        """All that the encoder's sensors saw of the chips."""
        encoder = cast(Spatiotemporal, self.encoder)
        region = None if encoder.places is None else encoder.places.region(samples.lonlat)
        seen, views = observed(samples, encoder.spec.reads, region), self.spec.views
        if views.dates is not None:
            seen = thinned(seen, views.dates, chosen="at random" if self.training else "evenly")
        return seen if views.side is None else scaled(seen, views.side, self.encoder.patch)

    def dates(self, samples: Samples) -> int:
        """How many dates of the samples the task looks at. Raises ValueError where a pair is wanted and is not there."""
        held = samples.dates[self.inputs.layer].shape[1]
        if self.task.dates == "pair" and held < 2:
            raise ValueError(
                f"the task compares two dates of {self.inputs.layer!r}, the samples have {held}; choose a corpus of pairs"
            )
        return {"one": 1, "pair": 2, "series": held}[self.task.dates]

    @property
    def inputs(self) -> Inputs:
        """The pixels the encoder reads, with the statistics it was made with."""
        return self.encoder.spec.inputs


def _looks_at_all_of_it(spec: Spec, task: Task) -> None:
    """Refuse what is made for one image at a time."""
    allowed = {name: getattr(Viewing(), name) for name in ("turns", "side", "crop", "dates")}
    views = spec.views.model_copy(update=allowed)
    if task.dates != "one":
        raise ValueError(
            f"the encoder sums up dates itself, task {spec.task.kind!r} would do it again: take segment or classify"
        )
    if views != Viewing() or spec.inputs is not None:
        raise ValueError(
            "several sensors are cut and turned alike: of views set turns, side, crop and dates, and reads in place of inputs"
        )


def build(spec: Spec) -> FineTune:
    """The method of a spec. Raises Missing when `init` names no exported encoder."""
    return FineTune(spec)


ESRI_CLASSES = {
    "water": 1,
    "trees": 2,
    "grass": 3,
    "flooded vegetation": 4,
    "crops": 5,
    "scrub": 6,
    "built": 7,
    "bare ground": 8,
    "snow or ice": 9,
}
"""The classes of ESRI's 2020 land cover that are ground; its clouds (10) are ignored."""

ESRI = segment.Spec(classes=tuple(ESRI_CLASSES), codes=tuple(ESRI_CLASSES.values()))

OSM = segment.Spec(
    classes=("built", "farmland", "grassland", "forest", "scrub", "wetland", "water"),
    codes=(0, 1, 2, 3, 4, 5, 6),
)
"""OpenStreetMap land use, in the seven codes of the demo corpus."""


def segment_demo() -> Recipe:
    """Land use under the demo's Sentinel-2. `method.init=FOLDER` starts from an encoder, else from chance."""
    return Recipe(
        method=Spec(task=OSM, encoder=vit.demo()),
        streams={"labelled": Stream(corpus="runs/corpora/demo@1", layers=("s2", "lc"))},
        batch=8,
        steps=600,
        optim=Optimizer(lr_per_256=3.2e-2, betas=(0.9, 0.999), clip=1.0),
        schedule=Cosine(warmup=0.05),
    )


def segment_smoke() -> Recipe:
    """Land cover of the invented Earth: seconds."""
    return Recipe(
        method=Spec(task=ESRI, encoder=vit.smoke()),
        streams={"labelled": Stream(corpus="runs/corpora/smoke@1", layers=("s2", "lc"))},
        batch=16,
        steps=20,
        optim=Optimizer(lr_per_256=1.6e-2, betas=(0.9, 0.999), layer_decay=0.8),
        schedule=Cosine(warmup=0.1),
        log_every=5,
        checkpoint_every=10,
    )


def classify_smoke() -> Recipe:
    """The class that covers most of each chip of the invented Earth, with a frozen encoder: seconds."""
    task = classify.Spec(classes=ESRI.classes, codes=ESRI.codes, label="landcover", pool="cls")
    return replace(
        segment_smoke(),
        method=Spec(task=task, encoder=vit.smoke(), freeze=True),
        streams={"labelled": Stream(corpus="runs/corpora/smoke@1", layers=("s2",))},
    )


def smoke() -> Recipe:
    """The smallest transfer."""
    return segment_smoke()
