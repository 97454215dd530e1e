"""Two ranks against one process with the same global batch: values, gradients, and what is kept between steps."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from two_ranks import launched

from training import parallel, ranks
from training.heads import Projector, PrototypeHead
from training.memory import Centre, Queue, Teacher
from training.objectives import (
    batch_nce,
    centred_softmax,
    contrast,
    info_nce,
    koleo,
    masked_patch_cross_entropy,
    prototype_cross_entropy,
    sinkhorn,
    soft_cross_entropy,
)

BATCH, WIDTH = 8, 6


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """Student and teacher features of given inputs, and one loss of each kind, at the rows from `first` to `last`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student, self.other = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.projector = Projector(WIDTH, 12, WIDTH, 3, "batch")
        self.head = PrototypeHead(WIDTH, prototypes=10, hidden=12, bottleneck=5)
        self.centre = Centre(10)
        self.queue = Queue(20, WIDTH)

    def forward(self, kind: str, first: int, last: int) -> Tensor:
        rows = drawn(BATCH, WIDTH, seed=1)[first:last]
        features, others = self.student(rows), self.other(rows)
        with torch.no_grad():
            aim = 3 * drawn(BATCH, 10, seed=2)[first:last]
        if kind == "koleo":
            return koleo(features, whole=True)
        if kind == "contrast":
            return contrast(features, others.detach(), 0.2)
        if kind == "batch_nce":
            return batch_nce(features, others, 0.2)
        if kind == "norm":
            return contrast(self.projector(features), others.detach(), 0.2)
        if kind == "queue":
            unit, keys = F.normalize(features), F.normalize(others.detach())
            loss = info_nce(unit, keys, self.queue.rows, 0.2)
            self.queue.push(keys)
            return loss
        if kind == "sinkhorn":
            return soft_cross_entropy(self.head(features), sinkhorn(aim, 0.3))
        if kind == "centre":
            loss = soft_cross_entropy(self.head(features), centred_softmax(aim, self.centre.value, 0.3))
            for half in aim.chunk(2):
                self.centre.absorb(half)
            return loss
        if kind == "patches":
            masks = (drawn(BATCH, 7, seed=3) > 0)[first:last]
            tokens = drawn(BATCH, 7, WIDTH, seed=4)[first:last][masks]
            return masked_patch_cross_entropy(
                self.head(self.student(tokens)), sinkhorn(self.head(tokens), 0.3), masks
            )
        directions, prototypes = self.head.directions(features), self.head.prototypes()
        return prototype_cross_entropy(directions, prototypes, aim.softmax(-1), 0.1, chunk=3)


KINDS = ("koleo", "contrast", "norm", "batch_nce", "queue", "sinkhorn", "centre", "patches", "prototypes")


def found(place: parallel.Place) -> dict[str, Tensor]:
    """Losses, their gradients and the memories after one step, of this rank's share of the batch."""
    kept = {}
    share = BATCH // place.world
    for kind in KINDS:
        net = Net()
        module = DistributedDataParallel(net, find_unused_parameters=True) if place.world > 1 else net
        loss = module(kind, place.rank * share, (place.rank + 1) * share)
        loss.backward()
        net.centre.settle()
        kept[f"{kind} loss"] = ranks.mean(loss)
        kept |= {
            f"{kind} {name}": part.grad for name, part in net.named_parameters() if part.grad is not None
        }
        kept |= {f"{kind} {name}": value for name, value in net.named_buffers()}
    rows = torch.arange(6.0).reshape(3, 2) + 6 * place.rank
    kept["rows"] = ranks.own(2 * ranks.gathered(rows))
    kept["told"] = ranks.broadcast(rows)
    with ranks.alone():
        kept["alone"] = torch.cat([ranks.gathered(rows), ranks.mean(rows), ranks.own(rows)])
    return kept


def followed(place: parallel.Place) -> dict[str, Tensor]:
    """A teacher's parameters after one move, sharded where there are two ranks."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    pair = nn.ModuleDict({"student": nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))})
    pair["teacher"] = Teacher(pair["student"])
    if place.world > 1:
        for part in (pair["student"][0], pair["student"], pair["teacher"].module[0], pair["teacher"].module):
            fully_shard(part)
    with torch.no_grad():
        for part in pair["student"].parameters():
            part.add_(1.0)
    pair["teacher"].follow(pair["student"], 0.9)
    whole = {name: part.detach() for name, part in pair.named_parameters()}
    return {name: part.full_tensor() if place.world > 1 else part for name, part in whole.items()}


WORKER = """
import sys, torch
import test_ranks as t
from training import parallel

with parallel.joined("cpu") as place:
    torch.save((t.found(place), t.followed(place)), f"{sys.argv[1]}/{place.rank}.pt")
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    launched(WORKER, folder, str(folder))
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.integration
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_descend_the_loss_of_the_global_batch_and_remember_it(two, kind):
    one = found(parallel.Place())
    names = [name for name in one if name.startswith(f"{kind} ")]
    assert len(names) > 3
    for mine, _ in two:
        for name in names:
            largest = max(
                1.0, float(one[name].abs().max())
            )  # gradients through a unit length are large at first
            torch.testing.assert_close(mine[name], one[name], rtol=1e-5, atol=2e-6 * largest, msg=name)
    kept = {"queue": "queue.held", "centre": "centre.value", "norm": "projector.1.running_mean"}
    moved = kept.get(kind)
    if moved is not None:
        assert (one[f"{kind} {moved}"] - dict(Net().named_buffers())[moved]).abs().max() > 0.01


@pytest.mark.integration
def test_rows_travel_in_the_order_of_the_ranks(two):
    (first, _), (second, _) = two
    rows = torch.arange(6.0).reshape(3, 2)
    assert torch.equal(first["rows"], 2 * rows)
    assert torch.equal(second["rows"], 2 * rows + 12)
    assert torch.equal(first["told"], rows)
    assert torch.equal(second["told"], rows)
    assert torch.equal(second["alone"], torch.cat([rows + 6] * 3))


@pytest.mark.integration
def test_a_sharded_teacher_follows_as_a_whole_one(two):
    one = followed(parallel.Place())
    for _, sharded in two:
        assert sharded.keys() == one.keys()
        for name, value in one.items():
            torch.testing.assert_close(sharded[name], value, msg=name)
    torch.testing.assert_close(one["teacher.module.0.weight"], one["student.0.weight"] - 0.9)


def test_without_a_process_group_everything_is_the_identity():
    rows = torch.randn(3, 2)
    assert (ranks.world(), ranks.rank()) == (1, 0)
    assert ranks.gathered(rows) is rows
    for same in (ranks.own(rows), ranks.mean(rows), ranks.broadcast(rows)):
        assert torch.equal(same, rows)
