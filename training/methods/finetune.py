"""Transfer: a task's head on an encoder, trained together or alone.

Fine-tuning is a method like any other: it reads labelled samples instead of bare scenes, and its encoder starts
from what another method exported instead of from chance. With `freeze` only the head learns, on the encoder as it
was: the linear probe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from pydantic import model_validator
from torch import Tensor

from training import augment, encoders, tasks, weights
from training.encoders import AnyEncoder, Encoder, Inputs, Tokens, vit
from training.export import load_encoder
from training.methods import Crop, Losses, Method, MethodSpec, Progress
from training.metrics import Metric
from training.recipe import Cosine, Optimizer, Recipe, Stream, replace
from training.tasks import AnyTask, Task, classify, segment

if TYPE_CHECKING:
    from training.feed import Samples

__all__ = ["FineTune", "Spec", "build"]


class Spec(MethodSpec):
    """A task on an encoder. It reads the stream `labelled`.

    `init` is the folder of an exported encoder, or a file of weights in timm's or MAE's names; without it the encoder
    starts from chance. `encoder` may be left out for a folder, and must agree with what `init` holds when both are given.
    """

    task: AnyTask
    encoder: AnyEncoder | None = None
    init: str | None = None
    freeze: bool = False  # train the head alone
    crop: Crop | None = None  # None: views are whole chips

    @model_validator(mode="after")
    def _some_encoder(self) -> Spec:
        if self.encoder is None and self.init is None:
            raise ValueError(
                "a task needs an encoder: give init (a folder) or encoder (to start from chance)"
            )
        return self


class FineTune(Method):
    """An encoder under one head. Letters: B batch, S input channels, D width."""

    encoder: Encoder
    task: Task

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = _encoder(spec)
        self.task = tasks.build(spec.task, self.encoder)
        if spec.freeze:
            self.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> FineTune:
        """Training mode for what trains: a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.spec.freeze:
            self.encoder.eval()
        return self

    def forward(self, batch: Mapping[str, Samples], progress: Progress) -> Losses:
        """The task's losses on views of the labelled samples; in evaluation, on the chips as they are."""
        images, target = self.views(batch["labelled"])  # (B, S, H, W), (B, ...)
        return self.task(self.features(images), target)

    def predict(self, samples: Samples) -> Tensor:
        """The task's predictions on whole chips, in the form of its target."""
        images = augment.prepare(samples, self.inputs)
        height, width = images.shape[-2:]
        return self.task.predict(self.features(images), (height, width))

    def target(self, samples: Samples) -> Tensor:
        """What `predict` should have said."""
        return self.task.target(samples)

    def metric(self) -> Metric:
        """An empty metric of the task."""
        return self.task.metric()

    def features(self, images: Tensor) -> Tokens:
        """Encoded images; no gradient is kept for a frozen encoder."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.spec.freeze):
            return self.encoder(images)

    def views(self, samples: Samples) -> tuple[Tensor, Tensor]:
        """Normalised images and their targets; in training flipped, turned and cropped, dense targets alike."""
        images, target = augment.prepare(samples, self.inputs), self.task.target(samples)
        if not self.training:
            return images, target
        labels = target if self.task.dense else None
        if self.spec.crop is not None:
            images, labels = augment.random_resized_crop(
                images, images.shape[-1], self.spec.crop, labels=labels
            )
        images, labels = augment.dihedral(images, labels)
        return images, target if labels is None else labels

    @property
    def inputs(self) -> Inputs:
        """The pixels the encoder reads, with the statistics it was made with."""
        return self.encoder.spec.inputs

    @property
    def last_layer(self) -> int:
        """The head's: that of the encoder's last parameters."""
        return self.encoder.last_layer

    def layer_id(self, name: str) -> int:
        """The encoder's own depths; the head counts as the last."""
        before, _, rest = name.partition(".")
        return self.encoder.layer_id(rest) if before == "encoder" else self.last_layer


def _encoder(spec: Spec) -> Encoder:
    """The spec's encoder: from chance, or with the weights of `init` and, where it says them, its input statistics."""
    if spec.init is None:
        assert spec.encoder is not None  # the spec saw to it
        return encoders.build(spec.encoder)
    bare = weights.is_file(spec.init)
    with torch.random.fork_rng(devices=[]):  # so that a head starts alike with and without `init`
        loaded = None if bare else load_encoder(spec.init)
    if spec.encoder is None:
        if loaded is None:
            raise ValueError(f"{spec.init} does not say what network it is of; give method.encoder as well")
        return loaded
    wanted = spec.encoder
    if loaded is not None:
        different = wanted.unlike(loaded.spec)
        if different:
            raise ValueError(
                f"the encoder in {spec.init} has another {', '.join(different)} than method.encoder: "
                "make them agree or set method.encoder=null"
            )
        wanted = wanted.model_copy(update={"inputs": loaded.spec.inputs})
    encoder = encoders.build(wanted)
    held = weights.read(spec.init) if loaded is None else loaded.state_dict()
    encoder.load_state_dict(weights.adapted(held, encoder))
    return encoder


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
