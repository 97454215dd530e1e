"""Prototypes of regions: against the loop in the docstring, the attention of the paper, and two ranks against one."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from two_ranks import launched

from training import parallel, ranks
from training.objectives import sinkhorn
from training.prototypes import Prototypes, Spec, assigned
from training.regions import NOWHERE

HERE = Path(__file__).parent
FEW = Spec(side=2, count=3)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bank(width: int = 5, **changes: object) -> Prototypes:
    torch.manual_seed(0)
    return Prototypes(FEW.model_copy(update=changes), width).double()


def learnt(held: Tensor, visits: int, cells: Tensor, spec: Spec) -> Tensor:
    """One region's prototypes after a step, by the loop: held (K, D), all cells of the region (n, D)."""
    count, width = held.shape
    cosines = [
        [float(cell @ one / cell.norm() / one.norm()) / spec.temperature for one in held] for cell in cells
    ]
    shares = sinkhorn(torch.tensor(cosines, dtype=torch.float64), 1.0, spec.rounds).tolist()
    momentum = min(spec.momentum, (1 + visits) / (10 + visits))
    rows = []
    for k in range(count):
        total, weight = [0.0] * width, 0.0
        for share, cell in zip(shares, cells.tolist(), strict=True):
            total = [sum_ + share[k] * value for sum_, value in zip(total, cell, strict=True)]
            weight += share[k]
        divisor = weight if spec.update == "mean" else 1.0
        rows.append(
            [
                momentum * old + (1 - momentum) * new / divisor
                for old, new in zip(held[k].tolist(), total, strict=True)
            ]
        )
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("update", ["mean", "sum"])
def test_regions_learn_as_in_the_docstring(update):
    prototypes, region = bank(update=update), torch.tensor([2, 0, 2, NOWHERE])
    for step in range(3):
        cells = 3 * normal(4, 7, 5, seed=step)
        before = prototypes.held.clone()
        if step == 0:  # the length that cells have, whatever regions they are of
            before = before / before.norm(dim=-1, keepdim=True) * cells.square().sum(-1).mean().sqrt()
        prototypes.absorb(cells[:3], region[:3])  # in two batches, as a step of several
        prototypes.absorb(cells[3:], region[3:])
        prototypes.settle()
        expected = before.clone()
        expected[2] = learnt(before[2], step, cells[[0, 2]].flatten(0, 1), prototypes.spec)
        expected[0] = learnt(before[0], step, cells[1], prototypes.spec)
        torch.testing.assert_close(prototypes.held, expected)
        assert prototypes.visits.tolist() == [step + 1, 0, step + 1, 0]
    before = prototypes.held.clone()
    prototypes.settle()  # nothing noted
    assert torch.equal(prototypes.held, before)


@pytest.mark.parametrize(("visits", "momentum"), [(1, 2 / 11), (10, 11 / 20), (1000, 0.9)])
def test_a_region_seen_often_moves_slowly_and_a_new_one_almost_wholly(visits, momentum):
    prototypes = bank(momentum=0.9)
    prototypes.visits[:] = visits
    before, cells = prototypes.held.clone(), normal(1, 50, 5)
    prototypes.absorb(cells, torch.tensor([1]))
    prototypes.settle()
    new = learnt(before[1], -1, cells[0], FEW)  # no momentum at all
    torch.testing.assert_close(prototypes.held[1], momentum * before[1] + (1 - momentum) * new)


def test_cells_read_their_regions_prototypes_by_equation_3_and_no_gradient_reaches_these():
    prototypes, cells = bank(), normal(2, 4, 5).requires_grad_()
    found = prototypes(cells, torch.tensor([3, NOWHERE]))
    for cell, read in zip(cells[0].detach(), found[0].detach(), strict=True):
        odds = [math.exp(float(cell @ one) / math.sqrt(5)) for one in prototypes.held[3]]
        expected = sum(odd / sum(odds) * one for odd, one in zip(odds, prototypes.held[3], strict=True))
        torch.testing.assert_close(read, expected)
    assert not found[1].any()
    found.square().sum().backward()
    assert cells.grad[0].any() and not cells.grad[1].any()
    assert not list(prototypes.parameters()) and not prototypes.held.requires_grad
    assert set(prototypes.state_dict()) == {"held", "visits"}


def test_reading_is_exact_under_autocast():
    prototypes = bank().float()
    cells = 4 * normal(2, 4, 5).float()
    exact = prototypes(cells, torch.tensor([3, 1]))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(prototypes(cells, torch.tensor([3, 1])), exact, rtol=0, atol=0)


def test_groups_are_assigned_each_by_itself():
    logits, group = 5 * normal(4, 6, 3), torch.tensor([1, 0, 1, 2])
    found = assigned(logits, group, 3)
    for number in range(3):
        rows = group == number
        torch.testing.assert_close(found[rows].flatten(0, 1), sinkhorn(logits[rows].flatten(0, 1), 1.0, 3))


def test_columns_are_as_even_as_published():
    """Largest error of a column's sum after 1, 3, 5 and 10 rounds, of tables of 256 x 100 from 0 to 1."""
    published = {1: 0.14, 3: 0.0033, 5: 0.00008, 10: 1e-8}
    for rounds, error in published.items():
        found = []
        for seed in range(8):
            generator = torch.Generator().manual_seed(seed)
            table = torch.rand(256, 100, generator=generator, dtype=torch.float64)
            shares = sinkhorn(table, 0.05, rounds)
            torch.testing.assert_close(shares.sum(1), torch.ones(256, dtype=torch.float64))
            found.append(float((shares.sum(0) / 2.56 - 1).abs().max()))
        assert min(found) / 3 < error < 3 * max(found), (rounds, error, found)


def test_prototypes_take_cells_of_half_precision_and_stay_in_single():
    prototypes = Prototypes(FEW, 5)
    prototypes.absorb(normal(2, 4, 5).to(torch.bfloat16).requires_grad_(), torch.tensor([0, 1]))
    prototypes.settle()
    assert prototypes.held.dtype == torch.float32 and prototypes.held.isfinite().all()


def found(place: parallel.Place) -> Tensor:
    """Prototypes after three steps, this rank having its share of eight samples; regions lie on both sides."""
    prototypes = bank()
    share = 8 // place.world
    mine = slice(place.rank * share, (place.rank + 1) * share)
    for step, region in enumerate(([0, 1, 0, 2, 0, 2, 3, 3], [NOWHERE, 1, 1, 1, 3, 3, 3, 0], [2] * 8)):
        prototypes.absorb(2 * normal(8, 6, 5, seed=step)[mine], torch.tensor(region)[mine])
        prototypes.settle()
    assert ranks.world() == place.world
    return torch.cat([prototypes.held.flatten(), prototypes.visits.double()])


WORKER = """
import sys, torch
import test_prototypes as t
from training import parallel

with parallel.joined("cpu") as place:
    torch.save(t.found(place), f"{sys.argv[1]}/{place.rank}.pt")
"""


@pytest.mark.integration
def test_two_ranks_learn_what_one_process_would(tmp_path):
    launched(WORKER, tmp_path, str(tmp_path))
    one, (first, second) = found(parallel.Place()), (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, one, rtol=1e-12, atol=1e-12)
