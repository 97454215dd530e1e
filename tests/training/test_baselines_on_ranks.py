"""DINO, DINOv2 and MoCo v3 on two ranks: the gradients, centres and norms of one process at the same global batch."""

import json

import pytest
import test_dino
import test_dinov2
import test_moco
import torch
from golden import hashed_pictures
from torch import Tensor
from two_ranks import launched

from training.methods import Method, Progress
from training.objectives import Losses

BATCH = 4


def mine(images: Tensor, rank: int, world: int) -> Tensor:
    """A rank's pictures of crops that come crop by crop, (V * B, ...)."""
    return images.unflatten(0, (-1, BATCH)).chunk(world, dim=1)[rank].flatten(0, 1)


class Given(Method):
    """A method on given crops: this rank's share of one global batch."""

    def __init__(self, name: str, rank: int, world: int) -> None:
        super().__init__()
        large, small = hashed_pictures(1, 2 * BATCH, 64), hashed_pictures(3, 2 * BATCH, 32)
        masks = torch.rand(2 * BATCH, 64, generator=torch.Generator().manual_seed(0)) < 0.2
        masks[::2] = False
        crops = [mine(each, rank, world) for each in (large, small, masks)]
        self.inner, self.given = {
            "dino": lambda: (test_dino.parity(), (*crops[:2], 0.04)),
            "dinov2": lambda: (test_dinov2.parity(), (*crops, 0.04)),
            "moco": lambda: (test_moco.parity(), (crops[0], 0.2)),
        }[name]()

    def forward(self, batch: object, progress: Progress) -> Losses:
        return self.inner.losses(*self.given)


def told(method: Given, total: Tensor) -> dict[str, list[float]]:
    """Gradients by parameter, and every buffer after the step."""
    found = {name: part.grad for name, part in method.named_parameters() if part.grad is not None}
    method.inner.after_step(Progress(1, 10))
    found |= {f"buffer {name}": part for name, part in method.named_buffers()}
    return {"loss": [total.item()]} | {name: part.flatten().tolist() for name, part in found.items()}


WORKER = """
import json, sys, torch
import test_baselines_on_ranks as t
from torch.nn.parallel import DistributedDataParallel
from training import parallel, ranks
from training.methods import Progress

with parallel.joined("cpu") as place:
    method = t.Given(sys.argv[2], place.rank, place.world)
    module = DistributedDataParallel(method, broadcast_buffers=False)
    losses = module({}, Progress(0, 1))
    losses.total.backward()
    found = t.told(method, ranks.mean(losses.total))
    if place.rank == 1:
        open(sys.argv[1], "w").write(json.dumps(found))
"""


@pytest.mark.integration
@pytest.mark.parametrize("name", ["dino", "dinov2", "moco"])
def test_two_ranks_are_one_process(tmp_path, name):
    out = tmp_path / "found.json"
    launched(WORKER, tmp_path, str(out), name)
    theirs = json.loads(out.read_text())

    alone = Given(name, 0, 1)
    losses = alone({}, Progress(0, 1))
    losses.total.backward()
    ours = told(alone, losses.total)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        wanted, found = torch.tensor(value).double(), torch.tensor(theirs[key]).double()
        assert (found - wanted).norm() <= 1e-4 * wanted.norm() + 2e-5, key
