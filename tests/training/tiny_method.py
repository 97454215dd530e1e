"""A method small enough to step hundreds of times a second, addressed from outside the package like anybody's own."""

import os
import signal

import torch
from torch import Tensor, nn

from training import augment
from training.encoders import EncoderSpec, Inputs
from training.methods import Losses, Method, MethodSpec, Progress
from training.recipe import Cosine, Optimizer, Recipe, Stream


class Small(EncoderSpec):
    """A linear map of pixels."""

    kind: str = "tiny"
    inputs: Inputs = Inputs(layer="s2", bands=("B04", "B02"))
    width: int = 4


class Spec(MethodSpec):
    """Guess pixels from noisy, turned pixels; without noise nothing is random. `explode_at` is for drills."""

    encoder: Small = Small()
    noise: float = 0.1
    explode_at: int = -1


class Net(nn.Module):
    def __init__(self, spec: Small) -> None:
        super().__init__()
        self.spec = spec
        self.layers = nn.ModuleList([nn.Conv2d(len(spec.inputs.bands), spec.width, 3, padding=1)])
        self.layers.append(nn.Conv2d(spec.width, spec.width, 1))

    def forward(self, images: Tensor) -> Tensor:
        for layer in self.layers:
            images = torch.tanh(layer(images))
        return images


class Tiny(Method):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = Net(spec.encoder)
        self.head = nn.Conv2d(spec.encoder.width, len(spec.encoder.inputs.bands), 1)
        self.register_buffer("moved", torch.zeros((), dtype=torch.int64))

    def forward(self, batch, progress: Progress) -> Losses:
        images = augment.prepare(batch["scenes"], self.spec.encoder.inputs)
        if self.spec.noise and self.training:
            images, _ = augment.dihedral(images)
        noisy = images + self.training * self.spec.noise * torch.randn_like(images)
        error = (self.head(self.encoder(noisy)) - images).square().mean()
        if progress.step == self.spec.explode_at:
            error = error * float("nan")
        if os.environ.get("DIE_AT") == str(progress.step):
            os.kill(os.getpid(), signal.SIGKILL)
        return Losses.sum(pixels=error)

    def after_step(self, progress: Progress) -> None:
        self.moved += 1

    @property
    def last_layer(self) -> int:
        return 2

    def layer_id(self, name: str) -> int:
        return {"0": 0, "1": 1}.get(name.split(".")[2], 2) if name.startswith("encoder") else 2


def build(spec: MethodSpec | EncoderSpec) -> nn.Module:
    return Net(spec) if isinstance(spec, Small) else Tiny(spec)


def smoke() -> Recipe:
    return Recipe(
        method=Spec(),
        streams={"scenes": Stream(corpus="runs/corpora/tiny@1", layers=("s2",))},
        batch=8,
        steps=12,
        optim=Optimizer(lr_per_256=0.1, layer_decay=0.5, clip=1.0),
        schedule=Cosine(warmup=0.25),
        log_every=1,
        checkpoint_every=4,
    )


def other() -> Recipe:
    return smoke().model_copy(update={"steps": 5})
