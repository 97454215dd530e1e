"""Predicted bytes and operations against a real forward pass, and advice that makes a recipe fit."""

import json

import pytest
import torch

from training import budget, meter, parallel, profile
from training.methods import Progress, build, mae
from training.recipe import Ddp, Fsdp, fill_inputs, load, replace

SMALL = replace(mae.smoke(), batch=8)


@pytest.mark.parametrize("activations", ["keep", "recompute"])
def test_activations_and_operations_are_those_of_a_real_pass(activations):
    recipe = replace(SMALL, activations=activations)
    guess = budget.estimate(recipe, 1, 1e9, peak=1e12)
    method = build(fill_inputs(recipe, budget._Neutral()).method)
    module = parallel.wrap(method, recipe, parallel.Place())
    own = {tensor.untyped_storage().data_ptr() for tensor in (*method.parameters(), *method.buffers())}
    held: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage
        return tensor

    with (
        meter.forward_flops() as flops,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        module(budget.example(recipe, method, {"scenes": 8}), Progress(0, 1))
    assert guess.activations == pytest.approx(sum(one.nbytes() for one in held.values()), rel=0.02)
    again = 4 / 3 if activations == "recompute" else 1
    assert guess.seconds * 1e12 * budget.UTILISATION == pytest.approx(3 * flops[0] * again, rel=0.02)


def test_weights_gradients_and_moments_are_sixteen_bytes_a_parameter_and_shared_out_by_fsdp():
    alone = budget.estimate(SMALL, 1, 1e9)
    four = budget.estimate(replace(SMALL, parallel=Fsdp()), 4, 1e9)
    replica = budget.estimate(replace(SMALL, parallel=Ddp()), 4, 1e9)
    count = sum(parameter.numel() for parameter in build(SMALL.method).parameters())
    assert alone.trainable == count
    for found, parts in ((alone, 1), (replica, 1), (four, 4)):
        held = found.parameters + found.gradients + found.optimizer
        assert held == pytest.approx(16 * count / parts)
    wide = budget.estimate(replace(SMALL, parallel=Fsdp(), batch=32), 4, 1e9)
    assert wide.activations == pytest.approx(alone.activations)  # eight samples on each


@pytest.mark.slow
def test_the_largest_model_of_the_paper_fits_80_gb_only_with_changes():
    recipe = replace(load("mae.vit_g12x4"), batch=256)
    assert budget.estimate(recipe, 1, 80e9).parameters == pytest.approx(4 * (2_418_483_200 + 26_663_680))
    words = budget.advice(recipe, 1, 80e9)
    assert words is not None
    assert budget.estimate(load("mae.vit_g12x4", ["batch=256", *words.split()]), 1, 80e9).fits


@pytest.mark.slow
def test_what_cannot_fit_is_said_with_a_number_of_gpus():
    assert "GPUs" in budget.advice(replace(load("mae.vit_g12x4"), batch=64), 1, 16e9)
    with pytest.raises(ValueError, match="does not divide over 3 GPUs"):
        budget.estimate(SMALL, 3, 1e9)


@pytest.mark.parametrize(("text", "number"), [("80GB", 80e9), ("24 GiB", 24 * 2**30), ("1.5TB", 1.5e12)])
def test_memory_is_read_with_its_unit(text, number):
    assert budget.bytes_of(text) == number
    with pytest.raises(ValueError, match="as in 80GB"):
        budget.bytes_of(text.rstrip("GiBT "))


def test_a_profile_has_every_stage_and_adds_up_to_the_step(corpus, tmp_path):
    recipe = load("tiny_method.smoke", [f"streams.scenes.corpus={corpus}"])
    found = profile.profiled(recipe, tmp_path / "profile", steps=4)
    assert set(found.seconds) == set(profile.STAGES)
    for stage in ("data", "augment", "forward", "backward", "optimizer"):
        assert found.seconds[stage] > 0, stage
    assert sum(found.seconds[stage] for stage in profile.STAGES) <= 1.2 * found.step
    assert [stage for stage, *_ in found.rows()][-1] == "other"
    assert json.loads((tmp_path / "profile" / "profile.json").read_text())["steps"] == 4
    assert (tmp_path / "profile" / "trace.json").stat().st_size > 1000
