"""PerA against published numbers: the official implementation on weights, pixels and masks made by a hash."""

import math

import pytest
import torch
from golden import hash_weights, hashed
from torch import Tensor, nn
from two_ranks import launched

from training import budget, optim, parallel, weights
from training.colour import Colour, Jitter
from training.crops import Pairs, Places
from training.encoders import Inputs, learned
from training.feed import Samples
from training.methods import Method, Progress, pera
from training.objectives import Losses
from training.recipe import Ddp, Recipe, Stream, load, replace
from training.schedules import Teaching

RGB = Inputs(layer="hr", bands=("R", "G", "B"), mean=(127.5,) * 3, std=(127.5,) * 3)
PARITY = pera.Spec(
    encoder=learned.Spec(inputs=RGB, image=64, patch=8, width=48, depth=4, heads=4),
    places=Places(count=2, size=32),
    head=pera.Head(prototypes=96, hidden=64, bottleneck=24),
    teaching=Teaching(momentum=0.992, cold=0.04, warm=0.04),
)
SMALL = PARITY.model_copy(
    update={"encoder": learned.Spec(inputs=RGB, image=32, patch=8, width=48, depth=2, heads=4),
            "places": Places(count=2, size=24)}
)  # fmt: skip
START = Progress(0, 10**9)  # so far from the end that nothing scheduled moves


def official(name: str) -> str:
    """The official implementation's name of one of our parameters."""
    name = name.removeprefix("inner.").replace(".encoder.", ".backbone.").replace(".head.", ".cls_head.")
    name = name.replace("teacher.module.", "teacher.").replace("pixel_head.last", "pred_head.last")
    return name.replace("pixel_head.", "pred_head.mlp0.").replace("mask_token", "s_mask_token")


def parity(**changes: object) -> pera.PerA:
    """The fixture's model; the teacher starts as the student does."""
    model = pera.build(PARITY.model_copy(update=changes))
    hash_weights(model, named=lambda name: official(name).replace("teacher.", "student."))
    return model


def crops(which: int, count: int, side: int) -> Tensor:
    values = hashed(7777777 * which, count * 3 * side * side) * math.sqrt(12)
    return values.reshape(count, 3, side, side).float()


def pairs() -> Pairs:
    return Pairs((crops(1, 6, 64), crops(3, 6, 32)), (crops(2, 6, 64), crops(4, 6, 32)))


def golden_noise() -> list[Tensor]:
    def noise(count: int, patches: int, offset: float) -> Tensor:
        rows = torch.arange(count, dtype=torch.float64)[:, None]
        return (0.6180339887498949 * torch.arange(patches, dtype=torch.float64) + 0.137 * rows + offset) % 1.0

    return [noise(6, 64, 0.05), noise(6, 16, 0.36)]


def settings() -> optim.AnyOptimizer:
    return replace(pera.vit_b16().optim, weight_decay_end=None)


PUBLISHED = [  # loss, small and large crops' cross-entropy, KoLeo / 2, MSE / 200, gradient norm before clipping
    (6.863723, 2.656280, 2.152001, 0.276876, 1.000033, 21.1935),
    (5.177937, 1.707799, 1.284889, 0.979895, 0.994635, 8.58925),
    (4.672171, 1.341369, 1.178907, 0.855166, 0.990431, 4.58278),
]
GRADIENTS = {
    "mask_token": 0.509585,
    "student.encoder.pos_embed": 1.27463,
    "student.encoder.cls_token": 1.16447,
    "student.encoder.patch_embed.proj.weight": 8.38516,
    "student.encoder.blocks.3.mlp.fc2.weight": 3.54118,
    "student.head.last_layer.weight_v": 2.02222,
    "student.head.last_layer.weight_g": 0.586405,
    "pixel_head.last_layer.weight_v": 0.0467618,
}


def test_three_steps_have_the_official_implementations_numbers():
    model = parity().train()
    optimizer = optim.build(model, settings())
    for step, (loss, small, large, koleo, pixels, norm) in enumerate(PUBLISHED):
        losses = model.losses(pairs(), golden_noise(), START)
        optimizer.zero_grad()
        losses.total.backward()
        if step == 0:
            found = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()
                     if name in GRADIENTS}  # fmt: skip
            assert found == pytest.approx(GRADIENTS, rel=1e-4)
        near = 1e-5 if step == 0 else 1e-4
        assert losses.total.item() == pytest.approx(loss, rel=near)
        parts = {name: losses.parts[name].item() for name in ("small", "large", "koleo", "pixels")}
        assert parts["pixels"] * 3 * 8 * 8 / 200 == pytest.approx(pixels, rel=near)
        assert (parts["small"], parts["large"], parts["koleo"]) == pytest.approx(
            (small, large, koleo), rel=near
        )
        assert optim.clip(model.parameters(), 3.0).item() == pytest.approx(norm, rel=near)
        for group in optimizer.param_groups:
            group |= {"lr": 1e-3, "weight_decay": 0.04}
        optimizer.step()
        model.after_step(Progress(1, START.steps))


def test_double_precision_finds_the_same_loss():
    doubled = Pairs(*(tuple(crop.double() for crop in side) for side in (pairs().student, pairs().teacher)))
    total = parity().double().losses(doubled, golden_noise(), START).total
    assert total.item() == pytest.approx(PUBLISHED[0][0], rel=1e-6)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])


def test_half_precision_finds_the_same_loss_and_direction():
    exact, half = parity(), parity()
    loss = exact.losses(pairs(), golden_noise(), START).total
    loss.backward()
    with torch.autocast("cpu", torch.bfloat16):
        rough = half.losses(pairs(), golden_noise(), START).total
    rough.backward()
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(loss.item(), rel=2e-2)
    assert torch.cosine_similarity(flat(exact), flat(half), dim=0) > 0.99


def poisoned(images: Tensor, where: Tensor, patch: int = 8) -> Tensor:
    """Images with NaN in the patches `where` (B, N)."""
    images, side = images.clone(), images.shape[-1] // patch
    for row, places in enumerate(where.tolist()):
        for place in places:
            top, left = patch * (place // side), patch * (place % side)
            images[row, :, top : top + patch, left : left + patch] = torch.nan
    return images


def test_no_network_looks_at_a_patch_that_is_not_its_own():
    model, given, noise = parity(), pairs(), golden_noise()
    expected = model.losses(given, noise, START).total.item()
    seen, hidden, other = model.split(noise)
    rest = torch.cat([seen[0], hidden[0]], dim=1)
    small = torch.stack([torch.tensor(sorted(set(range(16)) - set(row.tolist()))) for row in other[1]])
    unseen = torch.stack([torch.tensor(sorted(set(range(16)) - set(row.tolist()))) for row in seen[1]])
    blind = Pairs(
        (poisoned(given.student[0], other[0]), poisoned(given.student[1], unseen)),
        (poisoned(given.teacher[0], rest), poisoned(given.teacher[1], small)),
    )
    assert (seen[0].shape[1], hidden[0].shape[1], other[0].shape[1]) == (13, 13, 38)
    assert (seen[1].shape[1], other[1].shape[1]) == (3, 10)
    assert model.losses(blind, noise, START).total.item() == expected
    spoilt = Pairs(given.student, (poisoned(given.teacher[0], other[0][:, :1]), given.teacher[1]))
    assert math.isnan(model.losses(spoilt, noise, START).total.item())


def test_the_order_of_tokens_does_not_matter(monkeypatch):
    model, split = parity(), pera.disjoint_split
    expected = model.losses(pairs(), golden_noise(), START).total.item()
    monkeypatch.setattr(pera, "disjoint_split", lambda *given: [part.flip(1) for part in split(*given)])
    assert model.losses(pairs(), golden_noise(), START).total.item() == pytest.approx(expected, rel=1e-6)


def test_student_and_teacher_share_one_partition():
    model, noise = parity(), golden_noise()
    seen, hidden, other = model.split(noise)
    both = torch.cat([seen[0], hidden[0], other[0]], dim=1).sort(dim=1).values
    assert torch.equal(both, torch.arange(64).expand(6, -1))
    expected = model.losses(pairs(), noise, START).total.item()
    another = model.split([each.flip(1) for each in noise])[2]
    model.split = lambda given: [seen, hidden, another]
    assert model.losses(pairs(), noise, START).total.item() != pytest.approx(expected, rel=1e-3)


def test_crops_packed_together_equal_crops_one_size_at_a_time():
    model, given = parity(), pairs().student
    seen, hidden, _ = model.split(golden_noise())
    late = model.masked(hidden[0])
    whole, guess = model.student(given, seen, late)
    large, alone = model.student(given[:1], seen[:1], late)
    small, nothing = model.student(given[1:], seen[1:])
    assert nothing is None
    torch.testing.assert_close(whole, torch.cat([large, small]), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(guess, alone, rtol=1e-6, atol=1e-6)


def test_mask_tokens_join_halfway_as_they_are():
    model, images = parity(), pairs().student[0]
    (seen, _), (hidden,), _ = model.split(golden_noise())
    encoder = model.student.encoder
    tokens = encoder.blocks[:2](encoder.with_class(encoder.embed(images, seen)))
    masks = [
        [model.mask_token[0, 0] + encoder.pos_embed[0, 1 + place] for place in row] for row in hidden.tolist()
    ]
    late = torch.stack([torch.stack(row) for row in masks])
    ends = encoder.norm(encoder.blocks[2:](torch.cat([tokens, late], dim=1)))
    classes, guess = model.student([images], [seen], model.masked(hidden))
    torch.testing.assert_close(classes, ends[:, 0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(guess, ends[:, 1 + 13 :], rtol=1e-5, atol=1e-6)


def test_the_teacher_follows_and_never_learns():
    model = parity().train()
    assert not model.teacher.module.training
    model.losses(pairs(), golden_noise(), START).total.backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        if name.startswith("teacher."):
            assert parameter.grad is None and not parameter.requires_grad
        else:
            assert parameter.grad is not None and parameter.grad.any(), name
            parameter.data += 0.5
    logits = model.teacher.module.head(
        model.teacher.module(pairs().teacher, model.split(golden_noise())[2])[0]
    )
    model.after_step(Progress(1, START.steps))
    after = model.state_dict()
    torch.testing.assert_close(after["centre.value"], 0.1 * logits.mean(0), rtol=1e-4, atol=1e-6)
    for name, value in before.items():
        if name.startswith("teacher.module."):
            student = after[name.replace("teacher.module.", "student.")]
            torch.testing.assert_close(after[name], 0.992 * value + 0.008 * student, rtol=1e-5, atol=1e-6)


def test_only_what_learns_is_optimised_and_the_teachers_encoder_is_kept():
    model = parity()
    assert model.encoder is model.teacher.module.encoder
    held = {id(p) for group in optim.groups(model, settings()) for p in group["params"]}
    assert all(group["decays"] for group in optim.groups(model, settings()))
    named = dict(model.named_parameters())
    parts = {name.partition(".")[0] for name in named if id(named[name]) in held}
    assert parts == {"student", "pixel_head", "mask_token"}
    assert len(held) == sum(not name.startswith("teacher.") for name in named)
    fewer = optim.groups(model, pera.pera_plus().optim)
    kept = {
        name
        for group in fewer
        if group["decays"]
        for p in group["params"]
        for name in named
        if named[name] is p
    }
    assert {name.rpartition(".")[2] for name in kept} == {"weight", "weight_v"}
    assert not any("norm" in name for name in kept)


def test_layers_are_the_encoders():
    model = parity()
    assert model.layer_id("student.encoder.pos_embed") == 0
    assert model.layer_id("student.encoder.blocks.2.attn.qkv.weight") == 3
    assert (
        model.layer_id("student.head.mlp.0.weight") == model.layer_id("mask_token") == model.last_layer == 5
    )


def scenes(count: int = 4, side: int = 40, dates: int = 1, seed: int = 0) -> Samples:
    """Smooth random pictures, as a feed brings them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count * dates, 3, 4, 4, generator=generator)
    pixels = nn.functional.interpolate(coarse, (side, side), mode="bilinear") * 200 + 20
    return Samples(
        ids=[f"{index}" for index in range(count)],
        layers={"hr": pixels.unflatten(0, (count, dates)).to(torch.uint8)},
        dates={"hr": torch.arange(dates, dtype=torch.int32).expand(count, -1)},
        labels={},
        lonlat=torch.zeros(count, 2),
        region=torch.zeros(count, dtype=torch.int64),
        nodata={},
    )


def test_pairs_show_the_same_ground_in_colours_of_their_own():
    torch.manual_seed(0)
    plain = SMALL.model_copy(update={"student_colour": Colour(), "teacher_colour": Colour()})
    found = pera.build(plain).pairs(scenes())
    assert all(torch.equal(*both) for both in zip(found.student, found.teacher, strict=True))
    assert found.student[0].shape == (8, 3, 32, 32) and found.student[1].shape == (8, 3, 24, 24)
    assert not torch.equal(found.student[0][:4], found.student[0][4:])
    apart = pera.build(plain.model_copy(update={"aligned": False})).pairs(scenes())
    assert not any(torch.equal(*both) for both in zip(apart.student, apart.teacher, strict=True))
    often = Colour(jitter=Jitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1), p=1.0)
    coloured = pera.build(SMALL.model_copy(update={"student_colour": often, "teacher_colour": often})).pairs(
        scenes()
    )
    assert not any(torch.equal(*both) for both in zip(coloured.student, coloured.teacher, strict=True))


def test_colours_are_the_official_ones():
    torch.manual_seed(0)
    pictures = torch.rand(4000, 3, 2, 2)
    for colour, moved, grey in ((PARITY.student_colour, 0.8, 0.08), (PARITY.teacher_colour, 0.1, 0.0)):
        out = colour.apply(pictures)
        changed = (out != pictures).flatten(1).any(1)
        without = (out.amax(1) - out.amin(1)).flatten(1).amax(1) < 1e-6
        assert changed.float().mean().item() == pytest.approx(moved, abs=0.02)
        assert without.float().mean().item() == pytest.approx(grey, abs=0.015)
        strength = colour.jitter
        assert (strength.brightness, strength.contrast, strength.saturation, strength.hue) == (
            0.4,
            0.4,
            0.2,
            0.1,
        )


def test_evaluation_repeats_itself_and_training_does_not():
    torch.manual_seed(0)
    model, batch = pera.build(SMALL), {"scenes": scenes(dates=3)}
    first, second = model(batch, START).total.item(), model(batch, START).total.item()
    assert first != second
    model.centre.settle()
    centre = model.centre.value.clone()
    model.eval()
    assert model(batch, START).total.item() == model(batch, START).total.item()
    model.after_step(Progress(1, START.steps))
    assert torch.equal(model.centre.value, centre)
    torch.manual_seed(5)
    again = model.train()(batch, START).total.item()
    torch.manual_seed(5)
    assert model(batch, START).total.item() == again


def test_training_lowers_what_is_descended_and_says_what_would_show_a_collapse():
    torch.manual_seed(0)
    model = pera.build(SMALL)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    unseen = {"scenes": scenes(seed=1)}
    before = model.eval()(unseen, START).parts
    model.train()
    for step in range(40):
        optimizer.zero_grad()
        losses = model({"scenes": scenes(seed=2 + step % 4)}, START)
        losses.total.backward()
        optimizer.step()
        model.after_step(Progress(1, START.steps))
    after = model.eval()(unseen, START).parts
    signs = {"teacher_entropy", "spread", "centre", "divergence"}
    assert losses.parts.keys() == {"large", "small", "koleo", "pixels"} | signs
    assert after["pixels"] < 0.8 * before["pixels"]
    assert 0 < after["teacher_entropy"] < math.log(96)
    assert after["centre"] < 10 and after["spread"] > 0
    descended = after["large"] + after["small"] + 0.2 * after["koleo"] + 0.01 * 192 * after["pixels"]
    assert model(unseen, START).total.item() == pytest.approx(descended.item(), rel=1e-5)


def test_signs_of_collapse_are_what_their_names_say():
    model, given, noise = parity(), pairs(), golden_noise()
    parts = model.losses(given, noise, START).parts
    seen, hidden, other = model.split(noise)
    student = model.student.head(model.student(given.student, seen, model.masked(hidden[0]))[0])[:6]
    teacher = model.teacher.module.head(model.teacher.module(given.teacher, other)[0])[:6]
    aim, guess = (
        torch.distributions.Categorical(logits=teacher / 0.04),
        torch.distributions.Categorical(logits=student / 0.1),
    )
    divergence = torch.distributions.kl_divergence(aim, guess).mean()
    assert parts["teacher_entropy"].item() == pytest.approx(aim.entropy().mean().item(), rel=1e-4)
    assert parts["divergence"].item() == pytest.approx(divergence.item(), rel=1e-4)


ABLATIONS = {
    "sa": {"masks": None, "pixels": None},
    "sa_dm": {"pixels": None},
    "dm_pp": {"aligned": False},
    "features": {"apart": pera.Apart(of="features")},
    "linear": {"pixels": pera.Pixels(head="linear", over="mean", weight=0.1)},
    "large_only": {"places": Places(count=0)},
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_learns_in_all_its_parameters(name):
    torch.manual_seed(0)
    model = pera.build(SMALL.model_copy(update=ABLATIONS[name]))
    losses = model({"scenes": scenes()}, START)
    losses.total.backward()
    for parameter, value in model.named_parameters():
        if value.requires_grad:
            assert value.grad is not None and value.grad.isfinite().all(), parameter
            assert value.grad.any(), parameter
    assert ("pixels" in losses.parts) == ("mask_token" in dict(model.named_parameters()))
    if name == "linear":
        descended = losses.parts["large"] + losses.parts["small"] + 0.2 * losses.parts["koleo"]
        assert losses.total.item() == pytest.approx(
            (descended + 0.1 * losses.parts["pixels"]).item(), rel=1e-5
        )
    if name == "large_only":
        assert losses.parts["small"].item() == pytest.approx(0, abs=1e-5)


def test_without_masks_both_networks_see_every_patch():
    model = parity(masks=None, pixels=None)
    given = pairs()
    nowhere = torch.tensor([[63]] * 6)
    for spoilt in (
        Pairs((poisoned(given.student[0], nowhere), given.student[1]), given.teacher),
        Pairs(given.student, (poisoned(given.teacher[0], nowhere), given.teacher[1])),
    ):
        assert math.isnan(model.losses(spoilt, golden_noise(), START).total.item())


def test_a_reconstruction_shows_what_the_student_saw_and_guesses_the_rest():
    torch.manual_seed(0)
    model, samples = pera.build(SMALL), scenes(side=32)
    picture = model.reconstruct(samples)
    assert model.training
    original = samples.layers["hr"][:, 0].float()
    torch.testing.assert_close(picture.original, original, rtol=1e-4, atol=0.1)
    shown = picture.masked != 0
    assert shown.float().mean() == 3 / 16
    torch.testing.assert_close(picture.guessed[shown], original[shown], rtol=1e-4, atol=0.1)
    assert (picture.guessed - picture.original)[~shown].abs().mean() > 5
    with pytest.raises(ValueError, match="guesses no pixels"):
        pera.build(SMALL.model_copy(update={"pixels": None})).reconstruct(samples)


@pytest.mark.parametrize(
    ("name", "encoder", "head", "pixels", "trainable", "whole"),
    [
        ("vit_b16", 86_250_240, 57_020_800, 6_853_760, 150_125_568, 293_396_608),
        ("vit_g16_1024", 505_443_328, 57_545_088, 7_378_048, 570_367_488, 1_133_355_904),
        ("small_head", 86_250_240, 23_138_560, None, None, None),
    ],
)
def test_parameters_are_as_many_as_published(name, encoder, head, pixels, trainable, whole):
    found = budget.counts(load(f"pera.{name}"))
    assert found["encoder"] == found["student.encoder"] == found["teacher.module.encoder"] == encoder
    assert found["student.head"] == found["teacher.module.head"] == head
    if pixels is not None:
        assert (found["pixel_head"], found["trainable"], found["all"]) == (pixels, trainable, whole)
        assert found["mask_token"] == (768 if name == "vit_b16" else 1024)


@pytest.mark.slow
def test_a_step_multiplies_as_often_as_published():
    """Forward of both networks and twice the student's again, at two pictures and two operations a multiplication."""
    recipe = load("pera.vit_b16", ["method.encoder.drop_path=0.0"])
    found = budget._traced(recipe, {"scenes": 2}).flops / 2 / 2
    assert found == pytest.approx(260.7e9, rel=1.5e-2)


@pytest.mark.parametrize(
    ("epoch", "rate", "decay", "momentum", "temperature"),
    [
        (10, 5e-4, 0.04098, 0.992049, 0.03667),
        (20, 1e-3, None, None, None),
        (100, 5.872e-4, 0.12, 0.996, 0.05),
        (150, 1.794e-4, 0.1766, 0.998828, None),
    ],
)
def test_schedules_have_the_published_values(epoch, rate, decay, momentum, temperature):
    recipe, now = pera.vit_b16(), Progress(520 * epoch, 200 * 520)
    teaching = recipe.method.teaching
    assert optim.rate(recipe, now) == pytest.approx(rate, rel=2e-4)
    if decay is not None:
        assert optim.decay(recipe.optim, now) == pytest.approx(decay, abs=6e-5)
        assert teaching.inertia(now) == pytest.approx(momentum, abs=6e-7)
    if temperature is not None:
        assert teaching.temperature(now) == pytest.approx(temperature, abs=6e-6)


def test_the_rate_starts_at_nothing_and_ends_at_a_thousandth():
    recipe = pera.vit_b16()
    assert optim.rate(recipe, Progress(0, recipe.steps)) == 0
    assert optim.rate(recipe, Progress(recipe.steps, recipe.steps)) == pytest.approx(1e-6)
    assert optim.rate(replace(recipe, batch=16), Progress(20 * 520, recipe.steps)) == pytest.approx(1e-3)


def test_presets_are_the_papers_and_the_codes():
    code, paper, plus, main = pera.pera_official(), pera.pera_paper(), pera.pera_plus(), pera.vit_g16_1024()
    assert (code.optim.eps, code.optim.betas, code.optim.clip, code.optim.decay) == (
        2e-5,
        (0.9, 0.999),
        3.0,
        "all",
    )
    assert (code.batch, code.precision, code.method.student_temperature) == (192, "bf16", 0.1)
    method = code.method
    assert (method.places.large, method.places.small, method.places.count, method.places.size) == (
        (0.4, 1.0), (0.05, 0.4), 8, 96,
    )  # fmt: skip
    assert (method.places.down, method.places.aspect, method.encoder.image) == (0.5, (0.75, 1.33), 448)
    assert (method.encoder.drop_path, method.encoder.rate(0), method.encoder.drop_path_of) == (
        0.3,
        0.3,
        "subset",
    )
    assert (method.masks.student, method.masks.teacher) == (0.2, 0.6)
    assert (method.apart.weight, method.apart.of) == (0.1, "logits")
    assert (method.pixels.weight, method.pixels.over, method.pixels.head) == (0.01, "sum", "bounded")
    assert (paper.method.masks.student, paper.method.masks.teacher) == (0.3, 0.5)
    assert (paper.method.apart.weight, paper.method.pixels.weight, paper.method.pixels.over) == (
        0.01,
        0.1,
        "mean",
    )
    assert (plus.method.apart.of, plus.method.encoder.drop_path_of) == ("features", "samples")
    assert (plus.optim.decay, plus.optim.eps) == ("maps", 1e-8)
    assert (main.method.teaching.momentum, main.method.teaching.cold, main.method.teaching.warm) == (
        0.998,
        0.02,
        0.03,
    )
    assert main.steps == 200 * ((4_686_059 + 1_088_941 + 1_000_848) // 192)


@pytest.mark.parametrize(
    "name",
    [
        "rsrsd_100k", "alignment_only", "alignment_masks", "masks_pixels", "vit_b14", "vit_b8", "masks_30_20_50",
        "masks_20_30_50", "masks_30_10_60", "pera_paper", "pera_plus", "smoke", "vit_g16_1024",
    ],
)  # fmt: skip
def test_every_recipe_is_found_and_comes_back_from_json(name):
    recipe = load(f"pera.{name}")
    assert Recipe.parse(recipe.dump()).digest == recipe.digest
    if name != "smoke":
        assert recipe.digest != pera.vit_b16().digest


def test_the_published_checkpoint_goes_in_by_name():
    model = parity()
    state = {official(name): value for name, value in model.state_dict().items() if name != "centre.value"}
    assert {"student.backbone.pos_embed", "teacher.cls_head.last_layer.weight_g", "pred_head.mlp0.mlp.2.bias",
            "pred_head.last_layer.weight_v", "s_mask_token"} <= state.keys()  # fmt: skip
    other = pera.build(PARITY)
    other.load_state_dict(other.state_dict() | weights.as_pera(state))
    assert other.losses(pairs(), golden_noise(), START).total.item() == pytest.approx(
        PUBLISHED[0][0], rel=1e-5
    )
    encoder = learned.build(PARITY.encoder)
    encoder.load_state_dict(weights.adapted(state, encoder))
    assert torch.equal(encoder(pairs().teacher[0]).cls, model.encoder(pairs().teacher[0]).cls)
    with pytest.raises(ValueError, match="is no weight of PerA"):
        weights.as_pera({"optimizer.step": torch.zeros(1)})


def test_the_exported_encoder_opens_in_timm():
    import timm

    encoder = learned.build(PARITY.encoder)
    config = weights.for_timm(encoder)
    theirs = timm.models.VisionTransformer(num_classes=0, **config["model_args"]).eval()
    theirs.load_state_dict(encoder.state_dict())
    images = pairs().student[0]
    torch.testing.assert_close(
        encoder(images).cls, theirs.forward_features(images)[:, 0], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"places": Places(size=30)}, "not whole patches of 8"),
        ({"masks": None}, "where neither network looks"),
        ({"masks": {"student": 0.4, "teacher": 0.6}}, "where neither network looks"),
        ({"masks": {"student": 0.5, "teacher": 0.6}}, "share patches"),
    ],
)
def test_an_impossible_spec_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        pera.Spec.model_validate(dict(PARITY) | changes)


class Fixed(Method):
    """PerA on given pairs and noise, as a method of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = parity()

    @property
    def encoder(self):
        return self.inner.encoder

    def forward(self, batch, progress: Progress) -> Losses:
        return self.inner.losses(*batch, progress)

    def after_step(self, progress: Progress) -> None:
        self.inner.after_step(progress)


def share(first: int, count: int) -> tuple[Pairs, list[Tensor]]:
    """What `count` of four pictures are cut into, from the first on: crop 0 of each, then crop 1."""

    def some(rows: Tensor) -> Tensor:
        return rows.unflatten(0, (2, 4))[:, first : first + count].flatten(0, 1)

    given = Pairs((crops(1, 8, 64), crops(3, 8, 32)), (crops(2, 8, 64), crops(4, 8, 32)))
    generator = torch.Generator().manual_seed(3)
    noise = [torch.rand(8, 64, generator=generator), torch.rand(8, 16, generator=generator)]
    return Pairs(*(tuple(map(some, side)) for side in (given.student, given.teacher))), [
        some(one) for one in noise
    ]


def stepped(method: Fixed, module: nn.Module, batch: tuple[Pairs, list[Tensor]]) -> dict[str, Tensor]:
    """Two forward passes with one step between: the second loss, its gradients, the centre and a teacher's weight."""
    found: dict[str, Tensor] = {}
    for _ in range(2):
        method.zero_grad()
        losses = module(batch, START)
        losses.total.backward()
        method.after_step(Progress(1, START.steps))
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            grad = parameter.grad
            found[name] = grad.full_tensor() if hasattr(grad, "full_tensor") else grad
    found |= {f"loss.{name}": losses.parts[name] for name in ("large", "small", "koleo", "pixels")}
    return found | {"centre": method.inner.centre.value}


WORKER = """
import sys, torch
import test_pera as t
from training import parallel, ranks
from training.recipe import Ddp, Fsdp

kind = {"ddp": Ddp, "fsdp": Fsdp}[sys.argv[2]]()
with parallel.joined("cpu") as place:
    method = t.Fixed()
    module = parallel.wrap(method, t.recipe(parallel=kind), place)
    found = t.stepped(method, module, t.share(2 * place.rank, 2))
    found = {name: ranks.mean(value) if name.startswith("loss.") else value for name, value in found.items()}
    if place.rank == 0:
        torch.save(found, sys.argv[1])
"""


def recipe(**changes: object) -> Recipe:
    base = Recipe(method=PARITY, streams={"scenes": Stream(corpus="none", layers=("hr",))}, batch=4, steps=1)
    return replace(base, **changes)


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_have_the_losses_gradients_and_centre_of_one_process(tmp_path, kind):
    out = tmp_path / "found.pt"
    launched(WORKER, tmp_path, str(out), kind)
    two = torch.load(out, weights_only=True)
    method = Fixed()
    one = stepped(method, parallel.wrap(method, recipe(parallel=Ddp()), parallel.Place()), share(0, 4))
    assert two.keys() == one.keys()
    largest = max(value.abs().max().item() for name, value in one.items() if not name.startswith("loss."))
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, rtol=1e-4, atol=1e-5 * largest, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert one["centre"].norm() > 1e-3
