"""Heads: counts of the papers' tables, torch's own weight norm, and the handling that hooks do not survive."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from training.heads import Projector, PrototypeHead


def parameters(module: nn.Module) -> int:
    return sum(part.numel() for part in module.parameters())


@pytest.mark.parametrize(
    ("width", "prototypes", "bottleneck", "count"),
    [
        (768, 131_072, 384, 57_020_800),
        (1024, 131_072, 384, 57_545_088),
        (768, 65_536, 256, 23_138_560),
        (768, 16 * 16 * 3, 384, 6_853_760),
        (1024, 16 * 16 * 3, 384, 7_378_048),
    ],
)
def test_prototype_heads_have_the_published_number_of_parameters(width, prototypes, bottleneck, count):
    with torch.device("meta"):
        assert parameters(PrototypeHead(width, prototypes, bottleneck=bottleneck)) == count


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ((2048, 2048, 128, 2), 4_458_624),  # GeRSP and MoCo v2
        ((2048, 2048, 128, 1), 262_272),  # MoCo
        ((768, 4096, 256, 3, "batch"), 768 * 4096 + 4096**2 + 4096 * 256 + 4 * 4096),  # MoCo v3
        ((256, 4096, 256, 2, "batch"), 2 * 256 * 4096 + 2 * 4096),
    ],
)
def test_projectors_have_the_published_number_of_parameters(settings, count):
    with torch.device("meta"):
        assert parameters(Projector(*settings)) == count


def test_parameters_carry_the_published_names():
    head = PrototypeHead(6, 10, hidden=8, bottleneck=4)
    linear = [f"mlp.{number}.{part}" for number in (0, 2, 4) for part in ("weight", "bias")]
    assert [*head.state_dict()] == [*linear, "last_layer.weight_g", "last_layer.weight_v"]
    assert head.last_layer.weight_g.shape == (10, 1) and head.last_layer.weight_v.shape == (10, 4)


def reference(head: PrototypeHead, features: torch.Tensor) -> torch.Tensor:
    """The same head with torch's own weight norm."""
    last = nn.utils.parametrizations.weight_norm(nn.Linear(4, 10, bias=False), dim=0)
    last.parametrizations.weight.original0.data.copy_(head.last_layer.weight_g.data)
    last.parametrizations.weight.original1.data.copy_(head.last_layer.weight_v.data)
    first, second, third = head.mlp[0], head.mlp[2], head.mlp[4]
    reduced = third(F.gelu(second(F.gelu(first(features)))))
    return last(reduced / reduced.norm(dim=-1, keepdim=True))


def test_logits_are_those_of_weight_norm():
    torch.manual_seed(0)
    head, features = PrototypeHead(6, 10, hidden=8, bottleneck=4), torch.randn(5, 7, 6)
    with torch.no_grad():
        head.last_layer.weight_g.uniform_(0.5, 2)
        for layer in (head.mlp[0], head.mlp[2], head.mlp[4]):
            layer.weight.normal_()
    torch.testing.assert_close(head(features), reference(head, features))
    torch.testing.assert_close(head.prototypes().norm(dim=1), head.last_layer.weight_g[:, 0])


def test_a_head_copied_after_use_is_a_head_of_its_own():
    torch.manual_seed(0)
    head, features = PrototypeHead(6, 10, hidden=8, bottleneck=4), torch.randn(3, 6)
    before = head(features)
    twin = copy.deepcopy(head)
    assert torch.equal(twin(features), before)
    twin(features).sum().backward()
    assert all(part.grad is None for part in head.parameters())
    assert all(part.grad is not None for part in twin.parameters())
    with torch.no_grad():
        head.last_layer.weight_v.neg_()
    assert torch.equal(twin(features), before)
    torch.testing.assert_close(head(features), -before)


def test_a_frozen_scale_does_not_learn_and_a_trained_one_does():
    for scale, learns in (("frozen", False), ("trained", True)):
        head = PrototypeHead(6, 10, hidden=8, bottleneck=4, scale=scale)
        head(torch.randn(3, 6)).square().sum().backward()
        assert (head.last_layer.weight_g.grad is not None) == learns
        assert head.last_layer.weight_v.grad.any()
        assert torch.equal(head.last_layer.weight_g, torch.ones(10, 1))


def test_linear_layers_start_truncated_normal_and_prototypes_as_torch_does():
    torch.manual_seed(0)
    head = PrototypeHead(256, 512, hidden=256, bottleneck=64)
    for layer in (head.mlp[0], head.mlp[2], head.mlp[4]):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not layer.bias.any()
    assert head.last_layer.weight_v.abs().max() <= 1 / 8  # uniform within 1 / sqrt(64)
    assert head.last_layer.weight_v.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.02)


def test_half_precision_keeps_directions_of_unit_length():
    head = PrototypeHead(6, 10, hidden=8, bottleneck=4)
    with torch.autocast("cpu", torch.bfloat16):
        directions = head.directions(torch.randn(3, 6))
        assert head.prototypes().dtype == torch.float32
    torch.testing.assert_close(directions.float().norm(dim=-1), torch.ones(3), rtol=1e-2, atol=0)


def test_the_last_norm_of_a_projector_only_standardises():
    torch.manual_seed(0)
    projected = Projector(6, 8, 4, 3, "batch")(3 + torch.randn(64, 6))
    torch.testing.assert_close(projected.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(projected.var(0, unbiased=False), torch.ones(4), atol=1e-2, rtol=0)


def test_layers_of_a_projector_stand_in_order():
    plain, normed = Projector(6, 8, 4), Projector(6, 8, 4, 3, "batch")
    assert [type(layer).__name__ for layer in plain] == ["Linear", "ReLU", "Linear"]
    thrice = ["Linear", "GlobalBatchNorm", "ReLU"] * 2
    assert [type(layer).__name__ for layer in normed] == [*thrice, "Linear", "GlobalBatchNorm"]
    rows = torch.randn(5, 6)
    expected = torch.relu(rows @ plain[0].weight.T + plain[0].bias) @ plain[2].weight.T + plain[2].bias
    torch.testing.assert_close(plain(rows), expected)


@pytest.mark.parametrize("made", [lambda: PrototypeHead(6, 10, layers=0), lambda: Projector(6, 8, 4, 0)])
def test_a_head_without_layers_is_refused(made):
    with pytest.raises(ValueError, match="at least one layer"):
        made()
