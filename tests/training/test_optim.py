"""Parameter groups and schedules."""

import math

import pytest
import tiny_method
import torch

from training import optim
from training.methods import Progress
from training.recipe import Cosine, Optimizer, Poly, Restarts, Sgd, Steps, fill_inputs, replace

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
        assert {p.ndim >= 2 for p in group["params"]} == {group["decays"]}
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


def test_the_rate_may_grow_with_the_root_of_the_batch_or_not_at_all():
    for power, expected in ((0.5, 0.1 * math.sqrt(2)), (0.0, 0.1)):
        optimizer = Optimizer(lr_per_256=0.1, batch_power=power)
        recipe = replace(tiny_method.smoke(), batch=512, schedule=Cosine(warmup=0.0), optim=optimizer)
        assert optim.rate(recipe, Progress(0, 10)) == pytest.approx(expected)


def test_restarts_are_torchs_warm_restarts():
    parameter = torch.nn.Parameter(torch.zeros(1))
    sgd = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(sgd, T_0=8, eta_min=0.1)
    for factor in factors(Restarts(rounds=5, floor=0.1), 40):
        assert factor == pytest.approx(theirs.get_last_lr()[0])
        sgd.step()
        theirs.step()


def test_restarts_by_epoch_have_the_published_values_and_stand_still_within_an_epoch():
    schedule = Restarts(rounds=5, epochs=20, floor=1 / 7)
    rates = [0.007 * factor for factor in factors(schedule, 100 * 3)]  # 100 epochs of 3 steps
    assert all(rates[first : first + 3] == [rates[first]] * 3 for first in range(0, 300, 3))
    by_epoch = rates[::3]
    published = {0: 0.007, 1: 0.006963, 10: 0.004, 19: 0.001037, 20: 0.007, 40: 0.007}
    assert {epoch: round(by_epoch[epoch], 6) for epoch in published} == published


def test_an_inclusive_warmup_is_a_linspace_and_then_the_cosine():
    found = factors(Cosine(warmup=0.1, floor=1e-3, inclusive=True), 200)
    assert found[:20] == pytest.approx(torch.linspace(0, 1, 20, dtype=torch.float64).tolist())
    assert found[20] == 1.0
    assert found[110] == pytest.approx(0.5005)


def test_weight_decay_follows_its_own_cosine_and_spares_vectors():
    recipe = replace(tiny_method.smoke(), optim=Optimizer(weight_decay=0.04, weight_decay_end=0.2))
    model = method()
    built = optim.build(model, recipe.optim)
    for step, expected in ((0, 0.04), (100, 0.12), (150, 0.1766)):
        optim.set_rates(built, model, recipe, Progress(step, 200))
        decays = {group["decays"]: group["weight_decay"] for group in built.param_groups}
        assert decays[False] == 0.0
        assert decays[True] == pytest.approx(expected, abs=5e-5)


def test_decay_of_all_reaches_vectors_too():
    found = optim.groups(method(), Optimizer(decay="all"))
    assert [group["decays"] for group in found] == [True]


def test_each_group_gets_its_share_of_the_rate():
    recipe = replace(
        tiny_method.smoke(),
        batch=256,
        schedule=Cosine(warmup=0.0),
        optim=Optimizer(lr_per_256=0.4, layer_decay=0.5),
    )
    model = method()
    built = optim.build(model, recipe.optim)
    optim.set_rates(built, model, recipe, Progress(0, 10))
    assert sorted({group["lr"] for group in built.param_groups}) == [0.1, 0.2, 0.4]


def test_a_parameter_may_have_a_rate_of_its_own_that_follows_progress(monkeypatch):
    model = method()
    monkeypatch.setattr(
        model,
        "rate_scale",
        lambda name, progress: 0.0 if name == "head.weight" and progress.step < 5 else 1.0,
    )
    recipe = replace(tiny_method.smoke(), batch=256, schedule=Steps(warmup=0.0, gamma=1.0))
    built = optim.build(model, recipe.optim)
    of_head = next(
        group for group in built.param_groups if any(p is model.head.weight for p in group["params"])
    )
    assert len(of_head["params"]) == 1
    for step, scale in ((0, 0.0), (5, 1.0)):
        optim.set_rates(built, model, recipe, Progress(step, 10))
        assert of_head["lr"] == scale * optim.rate(recipe, Progress(step, 10))


def test_sgd_steps_as_written():
    model = torch.nn.Linear(1, 1, bias=False)
    model.last_layer, model.layer_id, model.rate_scale = 0, lambda name: 0, lambda name, progress: 1.0
    recipe = replace(
        tiny_method.smoke(), batch=256, schedule=Steps(warmup=0.0, gamma=1.0), optim=Sgd(lr_per_256=0.1)
    )
    built, weight, speed = optim.build(model, recipe.optim), model.weight.item(), 0.0
    for step, slope in enumerate((1.0, -0.5, 0.25)):
        optim.set_rates(built, model, recipe, Progress(step, 3))
        model.weight.grad = torch.full((1, 1), slope)
        built.step()
        speed = 0.9 * speed + slope + 0.05 * weight
        weight -= 0.1 * speed
        assert model.weight.item() == pytest.approx(weight, rel=1e-5)


def test_clipping_bounds_the_norm_and_tells_the_norm_before():
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert optim.clip([parameter], None) == 5.0
    assert parameter.grad.tolist() == [3.0, 4.0]
    assert optim.clip([parameter], 1.0) == 5.0
    assert math.hypot(*parameter.grad.tolist()) == pytest.approx(1.0, abs=1e-5)
