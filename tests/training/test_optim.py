"""Parameter groups and schedules."""

import math

import pytest
import tiny_method
import torch

from training import optim
from training.methods import Progress
from training.recipe import Cosine, Optimizer, Poly, Steps, fill_inputs, replace

STATS = {"s2": (("B02", "B04"), (0.0, 0.0), (1.0, 1.0))}


def method():
    return tiny_method.build(fill_inputs(tiny_method.smoke(), STATS).method)


def factors(schedule, steps):
    return [optim.factor(schedule, Progress(step, steps)) for step in range(steps)]


def test_every_learning_parameter_is_in_one_group_and_vectors_do_not_decay():
    model = method()
    model.head.weight.requires_grad_(False)
    found = optim.groups(model, Optimizer(weight_decay=0.1, layer_decay=0.5))
    kept = [id(parameter) for group in found for parameter in group["params"]]
    assert sorted(kept) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    for group in found:
        assert {p.ndim >= 2 for p in group["params"]} == {group["weight_decay"] == 0.1}
    scales = {id(p): group["scale"] for group in found for p in group["params"]}
    named = dict(model.named_parameters())
    assert scales[id(named["encoder.layers.0.weight"])] == 0.25
    assert scales[id(named["encoder.layers.1.bias"])] == 0.5
    assert scales[id(named["head.bias"])] == 1.0


def test_a_model_in_which_nothing_learns_is_refused():
    with pytest.raises(ValueError, match="no parameter of Tiny learns"):
        optim.groups(method().requires_grad_(False), Optimizer())


def test_the_cosine_is_torchs():
    parameter = torch.nn.Parameter(torch.zeros(1))
    adam = torch.optim.AdamW([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=40, eta_min=0.1)
    ours = factors(Cosine(warmup=0.0, floor=0.1), 40)
    for factor in ours:
        assert factor == pytest.approx(theirs.get_last_lr()[0])
        adam.step()
        theirs.step()


def test_poly_and_steps_are_their_formulas_after_a_linear_warmup():
    poly = factors(Poly(warmup=0.2, power=0.9), 20)
    assert poly[:4] == [0.25, 0.5, 0.75, 1.0]
    assert poly[4:] == pytest.approx([(1 - step / 16) ** 0.9 for step in range(16)])
    steps = factors(Steps(warmup=0.1, milestones=(0.5, 0.75), gamma=0.1), 20)
    assert steps == pytest.approx([0.5, 1.0] + [1.0] * 8 + [0.1] * 5 + [0.01] * 5)


def test_the_rate_is_base_times_batch_over_256():
    recipe = replace(tiny_method.smoke(), batch=512, schedule=Cosine(warmup=0.0))
    assert optim.rate(recipe, Progress(0, 10)) == pytest.approx(0.2)
    assert optim.rate(recipe, Progress(5, 10)) == pytest.approx(0.1)


def test_each_group_gets_its_share_of_the_rate():
    built = optim.build(method(), Optimizer(layer_decay=0.5))
    optim.set_rate(built, 0.4)
    assert sorted({group["lr"] for group in built.param_groups}) == [0.1, 0.2, 0.4]


def test_clipping_bounds_the_norm_and_tells_the_norm_before():
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert optim.clip([parameter], None) == 5.0
    assert parameter.grad.tolist() == [3.0, 4.0]
    assert optim.clip([parameter], 1.0) == 5.0
    assert math.hypot(*parameter.grad.tolist()) == pytest.approx(1.0, abs=1e-5)
