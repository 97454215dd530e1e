"""Computing again what was not kept, and sharding: the same gradients as one process that keeps everything."""

import json

import pytest
import torch
import torch.distributed as dist
from two_ranks import launched

from training import parallel
from training.encoders import Inputs, vit
from training.memory import Queue
from training.methods import Method, Progress, mae
from training.methods.mae import Decoder
from training.objectives import Losses
from training.recipe import Recipe, Stream, replace

ENCODER = vit.Spec(
    inputs=Inputs(layer="s2", bands=("B02", "B04")), image=32, patch=8, width=48, depth=3, heads=4, branches=2
)


class Remembering(Method):
    """Batch statistics beside a queue."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        self.queue = Queue(8, 4)


class Fixed(Method):
    """An autoencoder on given images and noise, as a method of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = mae.build(mae.Spec(encoder=ENCODER, decoder=Decoder(width=32, depth=2, heads=4)))
        self.encoder = self.inner.encoder

    def forward(self, batch, progress: Progress) -> Losses:
        return self.inner.losses(*batch)


def images(first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    pictures, noise = torch.randn(8, 2, 32, 32, generator=generator), torch.rand(8, 16, generator=generator)
    return pictures[first : first + count], noise[first : first + count]


def recipe(**changes: object) -> Recipe:
    base = Recipe(
        method=mae.Spec(encoder=ENCODER),
        streams={"scenes": Stream(corpus="none", layers=("s2",))},
        batch=8,
        steps=1,
    )
    return replace(base, **changes)


def gradients(settings: Recipe) -> dict[str, torch.Tensor]:
    method = Fixed()
    module = parallel.wrap(method, settings, parallel.Place())
    module(images(0, 8), Progress(0, 1)).total.backward()
    return {name: parameter.grad for name, parameter in method.named_parameters()}


@pytest.mark.parametrize("activations", ["recompute", "selective"])
def test_gradients_are_those_of_kept_activations(activations):
    kept, again = gradients(recipe()), gradients(recipe(activations=activations))
    assert kept.keys() == again.keys()
    for name, value in kept.items():
        torch.testing.assert_close(again[name], value, rtol=1e-6, atol=1e-7)


def saved_bytes(activations: str) -> int:
    """What one forward pass holds for the backward pass."""
    module = parallel.wrap(Fixed(), recipe(activations=activations), parallel.Place())
    seen: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(images(0, 8), Progress(0, 1))
    return sum(seen.values())


def test_recomputing_keeps_less():
    assert saved_bytes("recompute") < 0.7 * saved_bytes("keep")


def test_of_buffers_only_batch_statistics_travel_ahead_of_each_step():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        method = Remembering()
        module = parallel.wrap(method, recipe(), parallel.Place(world=2))
        sent = {buffer.data_ptr() for buffer in module.modules_buffers}
        assert sent == {buffer.data_ptr() for buffer in method.encoder[1].buffers()}
    finally:
        dist.destroy_process_group()


WORKER = """
import json, sys, torch
import test_parallel as t
from training import parallel
from training.methods import Progress
from training.recipe import Ddp, Fsdp

kind = {"ddp": Ddp, "fsdp": Fsdp}[sys.argv[2]]()
with parallel.joined("cpu") as place:
    method = t.Fixed()
    module = parallel.wrap(method, t.recipe(parallel=kind, activations=sys.argv[3]), place)
    module(t.images(4 * place.rank, 4), Progress(0, 1)).total.backward()
    found = {}
    for name, parameter in method.named_parameters():
        grad = parameter.grad
        found[name] = (grad.full_tensor() if hasattr(grad, "full_tensor") else grad).flatten().tolist()
    if place.rank == 0:
        open(sys.argv[1], "w").write(json.dumps(found))
"""


@pytest.mark.integration
@pytest.mark.parametrize(("kind", "activations"), [("ddp", "keep"), ("fsdp", "keep"), ("fsdp", "recompute")])
def test_two_ranks_have_the_gradients_of_one_process_at_the_same_global_batch(tmp_path, kind, activations):
    out = tmp_path / "gradients.json"
    launched(WORKER, tmp_path, str(out), kind, activations)
    two = json.loads(out.read_text())
    one = gradients(recipe())
    largest = max(value.abs().max().item() for value in one.values())
    for name, value in one.items():
        found = torch.tensor(two[name]).reshape(value.shape)
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-5 * largest)
