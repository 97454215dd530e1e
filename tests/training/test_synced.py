"""Batch norms over ranks: two ranks against one process with the whole batch, and one process against torch."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from two_ranks import launched

from training import parallel
from training.encoders import Inputs, vit
from training.synced import SyncedBatchNorm, synced
from training.tasks import build, segment


def net() -> nn.Module:
    torch.manual_seed(0)
    return synced(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5))
    )


def found(place: parallel.Place) -> dict[str, Tensor]:
    """Outputs, gradients and running estimates after two steps, this rank's share of eight images."""
    model = net()
    called = DistributedDataParallel(model) if place.world > 1 else model
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(8, 3, 6, 6, generator=generator) * 3 + torch.arange(8.0)[:, None, None, None]
    share = 8 // place.world
    mine = slice(place.rank * share, (place.rank + 1) * share)
    weights = torch.randn(8, 5, 4, 4, generator=generator)
    for _ in range(2):
        out = called(images[mine])
        (out * weights[mine]).mean().backward()
    kept = {"out": out.detach()}
    kept |= {f"gradient {name}": parameter.grad for name, parameter in model.named_parameters()}
    return kept | dict(model.named_buffers())


WORKER = """
import sys, torch
import test_synced as t
from training import parallel

with parallel.joined("cpu") as place:
    torch.save(t.found(place), f"{sys.argv[1]}/{place.rank}.pt")
"""


@pytest.mark.integration
def test_two_ranks_are_one_process_with_the_whole_batch(tmp_path):
    launched(WORKER, tmp_path, str(tmp_path))
    one = found(parallel.Place())
    two = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    torch.testing.assert_close(
        torch.cat([part.pop("out") for part in two]), one.pop("out"), rtol=1e-4, atol=1e-5
    )
    for part in two:
        for name, value in one.items():
            torch.testing.assert_close(part[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_alone_it_is_torchs():
    images = torch.randn(4, 3, 5, 5)
    ours, theirs = SyncedBatchNorm(3), nn.BatchNorm2d(3)
    for _ in range(2):
        assert torch.equal(ours(images), theirs(images))
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    assert torch.equal(ours.eval()(images), theirs.eval()(images))


def test_every_batch_norm_of_a_task_is_synced_and_keeps_its_state():
    inputs = Inputs(layer="hr", bands=("R", "G", "B"))
    encoder = vit.build(vit.Spec(inputs=inputs, image=32, patch=8, width=16, depth=1, heads=2))
    for kind in ("upernet", "fcn", "deeplabv3plus"):  # our own, torchvision's and the library's
        spec = segment.Spec(classes=("a", "b"), decoder={"kind": kind, "channels": 8})
        task, plain = build(spec, encoder), segment.build(spec, encoder)
        norms = [part for part in task.modules() if isinstance(part, nn.BatchNorm2d)]
        assert norms and all(type(norm) is SyncedBatchNorm for norm in norms)
        assert plain.state_dict().keys() == task.state_dict().keys()
        assert [n.momentum for n in norms] == [
            n.momentum for n in plain.modules() if isinstance(n, nn.BatchNorm2d)
        ]
