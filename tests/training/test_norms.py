"""Batch norms of groups, against ordinary batch norms on each group's rows alone."""

import copy

import pytest
import timm
import torch
from torch import nn

from training import norms


def images(rows: int, channels: int = 3, side: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1, rows + 1).view(-1, 1, 1, 1)  # so that every choice of rows has other statistics
    return torch.randn(rows, channels, side, side, generator=generator, dtype=torch.float64) * scale


def norm(channels: int = 3, **options: object) -> nn.BatchNorm2d:
    torch.manual_seed(1)
    made = nn.BatchNorm2d(channels, **options).double()
    if made.affine:
        nn.init.uniform_(made.weight, 0.5, 2.0)
        nn.init.normal_(made.bias)
    return made


@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"momentum": 0.3}]
)
def test_every_group_is_normalised_as_if_it_were_alone(options):
    plain = norm(**options)
    each = [copy.deepcopy(plain) for _ in range(4)]
    grouped, given = norms.GroupedBatchNorm(copy.deepcopy(plain), 4), images(12)
    for _ in range(2):
        given = given + 1.0
        ours, theirs = given.clone().requires_grad_(), given.clone().requires_grad_()
        found = grouped(ours)
        wanted = torch.empty_like(given)
        for number, one in enumerate(each):
            wanted[number::4] = one(theirs[number::4])
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
        found.square().mul(given).sum().backward()
        wanted.square().mul(given).sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-9)
    if plain.affine:
        summed = sum(one.weight.grad for one in each)
        torch.testing.assert_close(grouped.weight.grad, summed, rtol=1e-9, atol=1e-9)
    if plain.track_running_stats:
        for name in ("running_mean", "running_var"):
            mean = torch.stack([getattr(one, name) for one in each]).mean(0)
            torch.testing.assert_close(getattr(grouped, name), mean, rtol=0, atol=1e-9)
        assert grouped.num_batches_tracked == 2


def test_in_evaluation_there_are_no_groups():
    plain = norm()
    plain(images(8))
    grouped = norms.GroupedBatchNorm(plain, 4)
    assert torch.equal(grouped.eval()(images(7)), plain.eval()(images(7)))


def test_a_network_keeps_its_weights_and_their_names():
    torch.manual_seed(0)
    plain = timm.create_model("resnet10t", num_classes=0)
    twin = copy.deepcopy(plain)
    norms.grouped(twin, 2)
    kinds = [
        sum(isinstance(part, kind) for part in twin.modules())
        for kind in (nn.BatchNorm2d, norms.GroupedBatchNorm)
    ]
    assert kinds[0] == kinds[1] > 10
    assert list(twin.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in twin.named_parameters()] == [name for name, _ in plain.named_parameters()]
    plain.load_state_dict(twin.state_dict())
    given = images(4, side=32).float()
    with torch.no_grad():
        found, whole = twin(given), plain(given)
        torch.testing.assert_close(found[0::2], plain(given[0::2]), rtol=1e-4, atol=1e-4)
    assert (found - whole).abs().max() > 0.1  # so groups did matter


def test_ragged_batches_and_networks_without_norms_are_refused():
    with pytest.raises(ValueError, match="10 images do not divide into 4 groups"):
        norms.GroupedBatchNorm(norm(), 4)(images(10))
    with pytest.raises(ValueError, match="Linear has no batch norm"):
        norms.grouped(nn.Linear(2, 2), 2)
    norms.grouped(nn.Linear(2, 2), 1)


class Net(nn.Module):
    """A norm and the mean of its output, with weights that make channels differ."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.norm = norm()
        norms.grouped(self, groups)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return self.norm(given).square().mean((2, 3)) + given.mean((2, 3))


def test_domains_in_one_batch_give_each_group_its_run_of_both():
    first, second, plain = images(8), 3 - images(4), Net(1)
    found = norms.together(Net(2), [first, second], 2)
    for half in range(2):
        ours, theirs = first[4 * half :][:4], second[2 * half :][:2]
        wanted = plain(torch.cat([ours, theirs]))
        torch.testing.assert_close(found[0][4 * half :][:4], wanted[:4], rtol=0, atol=1e-12)
        torch.testing.assert_close(found[1][2 * half :][:2], wanted[4:], rtol=0, atol=1e-12)


def test_shuffled_features_come_back_to_their_images():
    def encode(given: torch.Tensor) -> torch.Tensor:
        return given.flatten(1)

    given = images(12)
    assert torch.equal(norms.shuffled(encode, given, 4), given.flatten(1))


def test_shuffled_company_is_drawn_anew_and_is_that_of_the_drawn_order():
    given, plain, net = images(12), Net(1), Net(3)
    torch.manual_seed(3)
    found = norms.shuffled(net, given, 3)
    torch.manual_seed(3)
    order = torch.randperm(12)
    wanted = torch.empty_like(found)
    for part in order.view(3, 4):
        wanted[part] = plain(given[part])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert not torch.allclose(norms.shuffled(net, given, 3), found)


def test_the_second_domains_estimates_are_its_own_and_only_lent():
    net, alone = Net(1), Net(1)
    other = norms.Statistics(net)
    net(images(8))
    held = copy.deepcopy(net.state_dict())
    with other.lent(net):
        net(5 - images(8))
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in held.items())
    alone(5 - images(8))
    assert torch.equal(other.running_mean_0, alone.norm.running_mean)
    assert torch.equal(other.running_var_0, alone.norm.running_var)
    net.eval()
    with other.lent(net):
        lent = net(images(8))
    assert torch.equal(lent, alone.eval()(images(8)))
    with pytest.raises(RuntimeError, match="stop"), other.lent(net):
        raise RuntimeError("stop")
    assert torch.equal(net.norm.running_mean, held["norm.running_mean"])
