"""DINO against published numbers, its paper's loop, and itself seen from other sides."""

import pytest
import torch
import torch.nn.functional as F
from golden import hash_weights, hashed_pictures, stepped

from training import optim
from training.crops import jittered
from training.encoders import Inputs, learned
from training.methods import Progress, dino
from training.objectives import view_cross_entropy
from training.recipe import replace
from training.schedules import Teaching

RGB = Inputs(layer="hr", bands=("R", "G", "B"), mean=(0.0,) * 3, std=(1.0,) * 3)
PARITY = dino.Spec(
    encoder=learned.Spec(
        inputs=RGB, image=64, patch=8, width=48, depth=4, heads=4, norm_eps=1e-5, qkv_bias=False
    ),
    crops=replace(jittered(), size=32, count=2),
    prototypes=96,
    hidden=64,
    bottleneck=24,
    teaching=Teaching(momentum=0.992, cold=0.04, warm=0.04),
)


def published(name: str) -> str:
    return name.replace("student.encoder.", "student.backbone.")


def parity(**changes: object) -> dino.DINO:
    model = dino.build(replace(PARITY, **changes))
    hash_weights(model, named=published)
    model.teacher.follow(model.student, 0.0)
    return model.train()


def test_the_reference_implementations_numbers_come_out():
    model = parity()
    large, small = hashed_pictures(1, 6, 64), hashed_pictures(3, 6, 32)
    found = stepped(model, lambda: model.losses(large, small, 0.04))
    totals = [value.total.item() for value, _, _ in found]
    assert totals[0] == pytest.approx(1.832755, rel=1e-5)
    assert totals[1:] == pytest.approx([1.243572, 1.509616], rel=1e-4)
    assert [norm for _, norm, _ in found] == pytest.approx([12.1643, 9.67441, 11.833], rel=1e-4)


def test_every_view_is_compared_with_the_teachers_other_views():
    torch.manual_seed(0)
    views, prototypes = F.normalize(torch.randn(5, 3, 8), dim=-1), torch.randn(11, 8)
    targets = torch.softmax(torch.randn(2, 3, 11), dim=-1)
    total, terms, large = 0.0, 0, 0.0
    for seen in range(2):
        for guess in range(5):
            if guess == seen:
                continue
            log_odds = torch.log_softmax(views[guess] @ prototypes.T / 0.1, dim=-1)
            term = sum(-(targets[seen, row] * log_odds[row]).sum() for row in range(3)) / 3
            total, terms, large = total + term, terms + 1, large + term * (guess < 2)
    found = view_cross_entropy(views, prototypes, targets, 0.1)
    assert terms == 8
    torch.testing.assert_close(found[0] + found[1], total / terms)
    torch.testing.assert_close(found[0], large / terms)
    alone, nothing = view_cross_entropy(views[:2], prototypes, targets, 0.1)
    torch.testing.assert_close(alone, large / 2)
    assert nothing == 0


def test_the_centre_is_that_of_large_crops_and_first_used_a_step_later():
    model = parity()
    large, small = hashed_pictures(1, 6, 64), hashed_pictures(3, 6, 32)
    first = model.losses(large, small, 0.04).total
    assert not model.centre.value.any()
    logits = model.teacher.module.head(model.teacher.module([large]))
    model.centre.settle()
    torch.testing.assert_close(model.centre.value, 0.1 * logits.mean(0))
    again = model.losses(large, small, 0.04).total
    assert again.item() != pytest.approx(first.item(), rel=1e-3)
    targets = torch.softmax((logits - model.centre.value) / 0.04, dim=-1).unflatten(0, (2, 3))
    torch.testing.assert_close(model.targets(large, 0.04), targets)


def test_signs_of_collapse_are_told():
    model = parity()
    large, small = hashed_pictures(1, 6, 64), hashed_pictures(3, 6, 32)
    value = model.losses(large, small, 0.04)
    targets = model.targets(large, 0.04)
    entropy = torch.distributions.Categorical(targets).entropy().mean()
    torch.testing.assert_close(value.parts["teacher_entropy"], entropy)
    divergence = value.total - entropy
    torch.testing.assert_close(value.parts["divergence"], divergence)
    alike = torch.zeros_like(large) + large[:1]
    assert model.losses(alike, small, 0.04).parts["spread"] == pytest.approx(0, abs=1e-6)
    assert value.parts["spread"] > 0.01


def test_the_teacher_has_no_gradient_and_no_stochastic_depth():
    model = parity(encoder=replace(PARITY.encoder, drop_path=0.9))
    large, small = hashed_pictures(1, 6, 64), hashed_pictures(3, 6, 32)
    torch.testing.assert_close(model.targets(large, 0.04), model.targets(large, 0.04), rtol=0, atol=0)
    model.losses(large, small, 0.04).total.backward()
    assert all(part.grad is None for part in model.teacher.parameters())
    assert model.encoder is model.teacher.module.encoder


@pytest.mark.parametrize(
    ("recipe", "trainable"),
    [(dino.as_pera_repo, 143_112_320), (dino.table10, 86_222_592 + 23_138_560 - 65_536)],
)
def test_the_published_counts(recipe, trainable):
    with torch.device("meta"):
        model = dino.build(recipe().method)
    assert sum(part.numel() for part in model.parameters() if part.requires_grad) == trainable
    assert sum(part.numel() for part in model.encoder.parameters()) == 86_222_592


def test_the_schedules_of_peras_repository():
    recipe = dino.as_pera_repo()
    teaching = recipe.method.teaching
    for epoch, rate, decay, momentum, temperature in [
        (10, 5e-4, 0.04098, 0.992049, 0.03667),
        (100, 5.872e-4, 0.12, 0.996, 0.05),
        (150, 1.794e-4, 0.1766, 0.998828, 0.05),
    ]:
        progress = Progress(epoch * 520, recipe.steps)
        assert optim.rate(recipe, progress) == pytest.approx(rate, rel=1e-3)
        assert optim.decay(recipe.optim, progress) == pytest.approx(decay, rel=1e-3)
        assert teaching.inertia(progress) == pytest.approx(momentum, rel=1e-6)
        assert teaching.temperature(progress) == pytest.approx(temperature, rel=1e-3)
    assert optim.rate(recipe, Progress(0, recipe.steps)) == 0
    assert optim.rate(recipe, Progress(20 * 520, recipe.steps)) == pytest.approx(1e-3)


def test_prototypes_stand_still_for_an_epoch_upstream():
    recipe = dino.as_upstream()
    with torch.device("meta"):
        model = dino.build(recipe.method)
    name = "student.head.last_layer.weight_v"
    assert model.rate_scale(name, Progress(0, recipe.steps)) == 0
    assert model.rate_scale(name, Progress(recipe.steps // 50, recipe.steps)) == 1
    assert model.rate_scale("student.head.mlp.0.weight", Progress(0, recipe.steps)) == 1
    assert not model.student.head.last_layer.weight_g.requires_grad
