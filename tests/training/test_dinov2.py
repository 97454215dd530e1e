"""DINOv2 against published numbers, the slow way of saying the same, and upstream's settings."""

import pytest
import torch
import torch.nn.functional as F
from golden import hash_weights, hashed_pictures, stepped
from torch import Tensor

from training import optim
from training.crops import jittered
from training.encoders import Inputs, learned
from training.methods import Progress, dinov2
from training.recipe import replace
from training.schedules import Teaching

RGB = Inputs(layer="hr", bands=("R", "G", "B"), mean=(0.0,) * 3, std=(1.0,) * 3)
PARITY = dinov2.Spec(
    encoder=learned.Spec(inputs=RGB, image=64, patch=8, width=48, depth=4, heads=4),
    crops=replace(jittered(), size=32, count=2),
    prototypes=96,
    hidden=64,
    bottleneck=24,
    teaching=Teaching(momentum=0.992, cold=0.04, warm=0.04),
    koleo_on="logits",
)
LARGE, SMALL = hashed_pictures(1, 6, 64), hashed_pictures(3, 6, 32)


def published(name: str) -> str:
    for ours, theirs in {
        "encoder.": "backbone.",
        "mask_token": "backbone.mask_token",
        "patch_head.": "ibot_head.",
        ".head.": ".dino_head.",
    }.items():
        name = name.replace(ours, theirs)
    return name


def parity(**changes: object) -> dinov2.DINOv2:
    model = dinov2.build(replace(PARITY, **changes))
    hash_weights(model, named=published)
    model.teacher.follow(model.student, 0.0)
    return model.train()


def masks() -> Tensor:
    places, found = torch.arange(64), torch.zeros(6, 64, dtype=torch.bool)
    for number in range(3):
        found[2 * number] = (7 * places + number) % 64 < 10 + 5 * number
    return found


def test_the_reference_implementations_numbers_come_out():
    model = parity()
    found = stepped(model, lambda: model.losses(LARGE, SMALL, masks(), 0.04))
    rows = [
        (5.200054, 2.007270, 0.613882, 1.129594, 1.176492, 22.8901),
        (4.518230, 1.281709, 0.671044, 1.547529, 1.127986, 9.95227),
        (4.016080, 1.104996, 0.561618, 1.493082, 1.025425, 6.01868),
    ]
    for number, ((value, norm, _), (total, small, large, koleo, patches, wanted)) in enumerate(
        zip(found, rows, strict=True)
    ):
        exact, parts = 1e-4 if number else 1e-5, value.parts
        assert value.total.item() == pytest.approx(total, rel=exact)
        told = [parts["small"].item(), parts["large"].item(), parts["koleo"].item() / 0.2]
        assert [*told, parts["patches"].item() / 2] == pytest.approx(
            [small, large, koleo, patches], rel=exact
        )
        assert norm == pytest.approx(wanted, rel=1e-4)
    norms = {name: part.norm().item() for name, part in found[0][2].items()}
    for name, wanted in {
        "student.encoder.pos_embed": 1.33407,
        "student.mask_token": 0.183545,
        "student.head.last_layer.weight_v": 2.97319,
        "student.patch_head.last_layer.weight_v": 0.629893,
    }.items():
        assert norms[name] == pytest.approx(wanted, rel=1e-4), name


def test_hidden_patches_show_the_student_nothing_but_their_place():
    model = parity()
    changed = LARGE.clone()
    for crop, place in masks().nonzero().tolist():
        top, left = 8 * (place // 8), 8 * (place % 8)
        changed[crop, :, top : top + 8, left : left + 8] = 7.0
    seen = [model.student.tokens(images, masks()) for images in (LARGE, changed)]
    assert torch.equal(*seen)
    assert not torch.equal(model.student.tokens(LARGE), model.student.tokens(changed))


def test_patches_are_sorted_as_the_teacher_sorts_them_crop_by_crop():
    model = parity()
    teacher, student = model.teacher.module, model.student
    with torch.no_grad():
        seen = teacher.encoder.together([teacher.tokens(LARGE)])[0][:, 1:]
        guess = student.encoder.together([student.tokens(LARGE, masks())])[0][:, 1:]
        total = torch.zeros(())
        for crop in range(6):
            hidden = masks()[crop].nonzero()[:, 0].tolist()
            for place in hidden:
                target = torch.softmax(teacher.patch_head(seen[crop, place]) / 0.04, dim=-1)
                log_odds = torch.log_softmax(student.patch_head(guess[crop, place]) / 0.1, dim=-1)
                total -= (target * log_odds).sum() / len(hidden) / 6
    value = model.losses(LARGE, SMALL, masks(), 0.04)
    torch.testing.assert_close(value.parts["patches"], total, rtol=1e-5, atol=1e-6)


def test_each_centre_is_the_mean_of_what_its_head_said():
    model = parity()
    places = masks().flatten().nonzero()[:, 0]
    model.targets(LARGE, places, 0.04)
    model.centre.settle()
    model.patch_centre.settle()
    teacher = model.teacher.module
    tokens = teacher.encoder.together([teacher.tokens(LARGE)])[0]
    torch.testing.assert_close(model.centre.value, 0.1 * teacher.head(tokens[:, 0]).mean(0))
    logits = teacher.patch_head(tokens[:, 1:][masks()])
    torch.testing.assert_close(model.patch_centre.value, 0.1 * logits.mean(0), rtol=1e-4, atol=1e-6)


def test_sinkhorn_gives_every_prototype_its_share_and_needs_no_centre():
    model = parity(balance="sinkhorn")
    places = masks().flatten().nonzero()[:, 0]
    targets, patches = model.targets(LARGE, places, 0.04)
    logits = model.teacher.module.head(model.teacher.module.encoder(LARGE).cls)
    wanted = torch.exp(logits.double() / 0.04)
    for _ in range(3):
        wanted = wanted / wanted.sum(0, keepdim=True)
        wanted = wanted / wanted.sum(1, keepdim=True)
    torch.testing.assert_close(targets.flatten(0, 1), wanted.float(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(patches(slice(0, 9)).sum(1), torch.ones(9))
    model.losses(LARGE, SMALL, masks(), 0.04)
    model.after_step(Progress(1, 10))
    assert not model.centre.value.any() and not model.patch_centre.value.any()


def test_koleo_of_features_is_that_of_the_class_tokens():
    model = parity(koleo_on="features")
    student = model.student
    tokens = student.encoder.together([student.tokens(LARGE, masks())])[0][:, 0]
    total = 0.0
    for crop in F.normalize(tokens, dim=-1).split(3):
        for row in range(3):
            total -= min((crop[row] - crop[other]).norm() for other in range(3) if other != row).log() / 3
    value = model.losses(LARGE, SMALL, masks(), 0.04)
    torch.testing.assert_close(value.parts["koleo"], 0.1 * total, rtol=1e-4, atol=1e-6)


def test_masks_are_those_of_ibot_and_fixed_in_evaluation():
    torch.manual_seed(0)
    model = parity(encoder=replace(PARITY.encoder, image=128))
    counts = torch.stack([model.masks(16).sum(1) for _ in range(20)])
    assert (counts.count_nonzero(1) == 8).all()
    assert counts.max() <= 0.5 * 256 and counts[counts > 0].float().mean() / 256 == pytest.approx(
        0.3, abs=0.03
    )
    assert not torch.equal(counts[0].sort().values, counts[1].sort().values)
    model.eval()
    assert torch.equal(model.masks(16), model.masks(16))


def test_a_step_without_small_crops_or_hidden_patches_is_a_step():
    model = parity()
    value = model.losses(LARGE, SMALL[:0], torch.zeros(6, 64, dtype=torch.bool), 0.04)
    value.total.backward()
    assert value.parts["patches"] == 0 and value.parts["small"] == 0
    model.after_step(Progress(1, 10))
    assert model.patch_centre.value.isfinite().all() and value.total.isfinite()


@pytest.mark.parametrize(
    ("recipe", "trainable", "whole"),
    [
        (dinov2.as_pera_repo, 200_292_608, 400_585_216),
        (dinov2.table10, 132_528_128, 265_056_256),
    ],
)
def test_the_published_counts(recipe, trainable, whole):
    with torch.device("meta"):
        model = dinov2.build(recipe().method)
    assert sum(part.numel() for part in model.parameters() if part.requires_grad) == trainable
    assert sum(part.numel() for part in model.parameters()) == whole


def test_upstreams_groups_have_upstreams_rates_and_decays():
    recipe = dinov2.as_upstream()
    with torch.device("meta"):
        model = dinov2.build(recipe.method)
    optimizer = optim.build(model, recipe.optim)
    optim.set_rates(optimizer, model, recipe, Progress(recipe.steps // 10, recipe.steps))
    names = {id(part): name for name, part in model.named_parameters()}
    rates = {names[id(part)]: group["lr"] for group in optimizer.param_groups for part in group["params"]}
    decays = {
        names[id(part)]: group["weight_decay"] for group in optimizer.param_groups for part in group["params"]
    }
    full = 4e-3 * (192 / 1024) ** 0.5
    assert rates["student.head.mlp.0.weight"] == pytest.approx(full)
    assert rates["student.encoder.blocks.11.attn.qkv.weight"] == pytest.approx(full * 0.9)
    assert rates["student.encoder.pos_embed"] == pytest.approx(full * 0.9**13)
    assert rates["student.mask_token"] == pytest.approx(full * 0.9**13)
    assert rates["student.encoder.patch_embed.proj.weight"] == pytest.approx(full * 0.9**13 * 0.2)
    for name in ("blocks.0.norm1.weight", "blocks.0.ls1.gamma", "blocks.0.attn.qkv.bias"):
        assert decays[f"student.encoder.{name}"] == 0
    assert decays["student.encoder.pos_embed"] > 0
    optim.set_rates(optimizer, model, recipe, Progress(0, recipe.steps))
    still = [group for group in optimizer.param_groups if "last_layer" in group["name"]]
    assert still and all(group["lr"] == 0 for group in still)
