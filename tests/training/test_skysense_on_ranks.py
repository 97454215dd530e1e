"""SkySense on two ranks: losses, gradients, centres and prototypes of one process at the same global batch."""

import json

import pytest
import torch
from sights import rows, samples, tiny
from test_skysense import built
from torch import Tensor
from torch.distributed.tensor import DTensor
from two_ranks import launched

from training.augment import View
from training.methods import Method, Progress
from training.multiview import Sights
from training.objectives import Losses
from training.observation import Observation
from training.recipe import AnyParallel, Recipe, Stream, replace

COUNT = 4


def share(sights: Sights, rank: int, world: int) -> Sights:
    """A rank's places of a batch."""

    def some(values: Tensor, rounds: int = 2) -> Tensor:
        return rows(values, rank, world, rounds)

    def views(view: View, rounds: int) -> View:
        return View(*(some(part, rounds) for part in (view.boxes, view.across, view.down, view.turn)))

    large, small = sights.large, len(sights.small) // COUNT
    return Sights(
        Observation(
            *(
                {name: some(part) for name, part in each.items()}
                for each in (large.images, large.days, large.present)
            ),
            some(large.region),
        ),
        some(sights.small, small),
        views(sights.large_at, 2),
        views(sights.small_at, small),
        some(sights.places, 1),
    )


class Given(Method):
    """A method on given views: this rank's share of one global batch, of which some places lack sensors."""

    def __init__(self, balance: str, rank: int, world: int) -> None:
        super().__init__()
        self.inner = built(contrast=replace(tiny().contrast, balance=balance)).train()
        torch.manual_seed(3)
        whole = self.inner.sights(samples(COUNT, without={"s1": [0, 1], "hr": [3]}))
        self.given = share(whole, rank, world)

    def forward(self, batch: object, progress: Progress) -> Losses:
        return self.inner.losses(self.given, progress)

    @property
    def encoder(self) -> object:
        return self.inner.encoder


def recipe(parallel: AnyParallel) -> Recipe:
    return Recipe(
        method=tiny(),
        streams={"scenes": Stream(corpus="none", layers=("hr",))},
        batch=4,
        steps=1,
        parallel=parallel,
    )


def told(method: Given, losses: list[float]) -> dict[str, list[float]]:
    """Losses, gradients by parameter, and every buffer and a part of the teacher after the step."""
    found = {name: part.grad for name, part in method.named_parameters() if part.grad is not None}
    method.inner.after_step(Progress(1, 10))
    found |= {f"buffer {name}": part for name, part in method.named_buffers()}
    found |= {f"teacher {name}": part for name, part in method.inner.encoder.fusion.named_parameters()}
    whole = {name: part.full_tensor() if isinstance(part, DTensor) else part for name, part in found.items()}
    return {"losses": losses} | {name: part.flatten().tolist() for name, part in whole.items()}


WORKER = """
import json, sys, torch
import test_skysense_on_ranks as t
from training import parallel, ranks
from training.methods import Progress
from training.recipe import Ddp, Fsdp

with parallel.joined("cpu") as place:
    method = t.Given(sys.argv[2], place.rank, place.world)
    kind = {"ddp": Ddp, "fsdp": Fsdp}[sys.argv[3]]()
    module = parallel.wrap(method, t.recipe(kind), place)
    losses = module({}, Progress(0, 10))
    losses.total.backward()
    values = [ranks.mean(one).item() for one in t.values(losses)]
    found = t.told(method, values)
    if place.rank == 1:
        open(sys.argv[1], "w").write(json.dumps(found))
"""


def values(losses: Losses) -> list[Tensor]:
    """The total and the parts that are losses."""
    return [
        losses.total.detach(),
        *(
            part
            for name, part in sorted(losses.parts.items())
            if "_" in name[1:] and name != "teacher_entropy"
        ),
    ]


@pytest.mark.integration
@pytest.mark.parametrize(("balance", "kind"), [("centre", "ddp"), ("sinkhorn", "ddp"), ("centre", "fsdp")])
def test_two_ranks_are_one_process(tmp_path, balance, kind):
    out = tmp_path / "found.json"
    launched(WORKER, tmp_path, str(out), balance, kind)
    theirs = json.loads(out.read_text())

    alone = Given(balance, 0, 1)
    losses = alone({}, Progress(0, 10))
    losses.total.backward()
    ours = told(alone, [one.item() for one in values(losses)])
    assert ours.keys() == theirs.keys() and any("places.held" in key for key in ours)
    for key, value in ours.items():
        wanted, found = torch.tensor(value).double(), torch.tensor(theirs[key]).double()
        assert (found - wanted).norm() <= 1e-4 * wanted.norm() + 2e-5, key
