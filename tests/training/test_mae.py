"""The masked autoencoder against published numbers: the reference implementation on weights made by a hash."""

import math

import pytest
import torch
from golden import hash_weights, hashed, stepped
from torch import Tensor, nn

from training.encoders import Inputs, vit
from training.feed import Samples
from training.masking import random_split
from training.methods import Progress, mae
from training.objectives import standardise

RGB = Inputs(layer="hr", bands=("R", "G", "B"), mean=(0.0,) * 3, std=(1.0,) * 3)
PARITY = mae.Spec(
    encoder=vit.Spec(inputs=RGB, image=64, patch=8, width=48, depth=4, heads=4),
    decoder=mae.Decoder(width=32, depth=2, heads=4),
)
START = Progress(0, 10)


def hashed_images() -> Tensor:
    return (hashed(7777777, 6 * 3 * 64 * 64) * math.sqrt(12)).reshape(6, 3, 64, 64).float()


def golden_noise(images: int = 6, patches: int = 64) -> Tensor:
    rows, columns = torch.arange(images, dtype=torch.float64), torch.arange(patches, dtype=torch.float64)
    return (0.6180339887498949 * columns + 0.137 * rows[:, None] + 0.05) % 1.0


def parity(**changes: object) -> mae.MAE:
    """The fixture's model; changes to `norm_pix` are the method's, all others the encoder's."""
    norm_pix = bool(changes.pop("norm_pix", False))
    encoder = PARITY.encoder.model_copy(update=changes)
    model = mae.build(PARITY.model_copy(update={"encoder": encoder, "norm_pix": norm_pix}))
    hash_weights(model)
    return model


TWO = {"branches": 2, "depth": 3}


@pytest.mark.parametrize(
    ("changes", "loss", "gradient", "predictions"),
    [
        ({}, 2.120932, 2.33621, 15120.3),
        ({"norm_pix": True}, 2.116681, 2.33634, 15120.3),
        (TWO, 2.089476, 2.24931, 14988.3),
        (TWO | {"qkv_bias": True}, 2.092969, 2.18518, 14941.4),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_reference_implementations_numbers_come_out(changes, loss, gradient, predictions, dtype):
    model, images, noise = parity(**changes).to(dtype), hashed_images().to(dtype), golden_noise()
    if (
        dtype == torch.float64
    ):  # the tables and images are float32 in the fixture; rounding them does not show
        model.double()
    total = model.losses(images, noise).total
    total.backward()
    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm()
    seen, hidden = random_split(noise, 0.25)
    features = model.decode(model.encode(images, seen), seen, hidden)
    assert total.item() == pytest.approx(loss, rel=1e-6)
    assert norm.item() == pytest.approx(gradient, rel=1e-5)
    assert model.pixels(features[:, 1:]).sum().item() == pytest.approx(predictions, abs=0.1)


@pytest.mark.slow
def test_the_numbers_of_peras_repository_come_out():
    """Its norms divide by a larger deviation, its decoder is MAE's own, and it trains with PerA's optimizer."""
    encoder = PARITY.encoder.model_copy(update={"norm_eps": 1e-5})
    model = mae.build(PARITY.model_copy(update={"encoder": encoder, "decoder": mae.Decoder()}))
    hash_weights(model)
    found = stepped(model, lambda: model.losses(hashed_images(), golden_noise()))
    totals = [value.total.item() for value, _, _ in found]
    assert totals[0] == pytest.approx(1.830840, rel=1e-6)
    assert totals[1:] == pytest.approx([2.688629, 1.484900], rel=1e-5)
    assert [norm for _, norm, _ in found] == pytest.approx([9.52137, 5.46192, 2.75751], rel=1e-4)


def test_the_count_of_peras_table():
    with torch.device("meta"):
        model = mae.build(mae.as_pera_repo().method)
    assert sum(part.numel() for part in model.parameters()) == 111_655_680
    assert sum(part.numel() for part in model.encoder.parameters()) == 85_647_360


def test_the_fixture_itself_is_the_published_one():
    seen, _ = random_split(golden_noise(), 0.25)
    assert sorted(seen[0].tolist()) == [0, 5, 10, 13, 18, 21, 26, 31, 34, 39, 42, 44, 47, 52, 55, 60]
    for changes, count in ((TWO, 216_784), (TWO | {"qkv_bias": True}, 217_648)):
        model = parity(**changes)
        tables = model.encoder.pos_embed.numel() + model.decoder_pos_embed.numel()
        assert sum(parameter.numel() for parameter in model.parameters()) + tables == count


@pytest.mark.parametrize(
    ("encoder", "count"),
    [
        (vit.vit_b12x1, 26_008_320),
        (vit.l12x4, 26_139_392),
        (vit.h12x4, 26_401_536),
        (vit.g12x4, 26_663_680),
        (vit.vit_l, 26_139_392),
        (vit.vit_h14, 26_178_124),
    ],
)
def test_decoders_have_the_published_counts(encoder, count):
    with torch.device("meta"):
        model = mae.build(mae.Spec(encoder=encoder()))
    whole = sum(parameter.numel() for parameter in model.parameters())
    assert whole - sum(parameter.numel() for parameter in model.encoder.parameters()) == count


def test_the_order_of_the_visible_patches_does_not_matter():
    model, images, noise = parity(), hashed_images(), golden_noise()
    shuffled = noise.clone()
    for row in shuffled:
        least = row.argsort()[:16]
        row[least] = row[least].flip(0)
    assert not torch.equal(random_split(noise, 0.25)[0], random_split(shuffled, 0.25)[0])
    assert model.losses(images, shuffled).total.item() == pytest.approx(
        model.losses(images, noise).total.item(), rel=1e-5
    )


def test_visible_patches_are_no_part_of_the_loss():
    model, images, noise = parity().double(), hashed_images().double(), golden_noise()
    seen, hidden = random_split(noise, 0.25)
    features = model.encode(images, seen).detach()
    target = model.target(images, hidden)
    for row, index in enumerate(seen[:, 0].tolist()):
        top, left = 8 * (index // 8), 8 * (index % 8)
        images[row, :, top : top + 8, left : left + 8] = 1e3
    assert torch.equal(model.target(images, hidden), target)
    assert not torch.equal(model.encode(images, seen), features)


SMALL = mae.Spec(
    encoder=vit.Spec(
        inputs=Inputs(layer="s2", bands=tuple("abcdefghijklm"), mean=(1500.0,) * 13, std=(700.0,) * 13),
        image=32,
        patch=8,
        width=48,
        depth=2,
        heads=4,
    ),
    decoder=mae.Decoder(width=32, depth=1, heads=4),
)


def scenes(count: int = 8, side: int = 40, dates: int = 1, seed: int = 0) -> Samples:
    """Smooth random images in 13 bands that go together, as a feed brings them: uint16, 0 where there is nothing."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count * dates, 1, 2, 2, generator=generator)
    gains = torch.linspace(1000, 3000, 13)[:, None, None]
    pixels = nn.functional.interpolate(coarse, (side, side), mode="bilinear") * gains + 1
    return Samples(
        ids=[f"{index}" for index in range(count)],
        layers={"s2": pixels.unflatten(0, (count, dates)).to(torch.uint16)},
        dates={"s2": torch.arange(dates, dtype=torch.int32).expand(count, -1)},
        labels={},
        lonlat=torch.zeros(count, 2),
        region=torch.zeros(count, dtype=torch.int64),
        nodata={"s2": 0},
    )


@pytest.mark.parametrize("norm_pix", [False, True])
def test_training_on_images_lowers_the_loss_of_images_never_seen(norm_pix):
    torch.manual_seed(0)
    model = mae.build(SMALL.model_copy(update={"norm_pix": norm_pix}))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    unseen = {"scenes": scenes(seed=1)}
    before = model.eval()(unseen, START).total.item()
    model.train()
    for step in range(60):
        optimizer.zero_grad()
        losses = model({"scenes": scenes(seed=2 + step % 4)}, START)
        losses.total.backward()
        optimizer.step()
    assert losses.parts.keys() == {"pixels"}
    assert model.eval()(unseen, START).total.item() < 0.8 * before


def test_every_parameter_learns():
    model = mae.build(SMALL.model_copy(update={"encoder": SMALL.encoder.model_copy(update={"branches": 2})}))
    model({"scenes": scenes()}, START).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_evaluation_repeats_itself_and_training_does_not():
    torch.manual_seed(0)
    model, batch = mae.build(SMALL), {"scenes": scenes(dates=3)}
    first, second = model(batch, START).total.item(), model(batch, START).total.item()
    assert first != second
    model.eval()
    assert model(batch, START).total.item() == model(batch, START).total.item()
    torch.manual_seed(5)
    again = model.train()(batch, START).total.item()
    torch.manual_seed(5)
    assert model(batch, START).total.item() == again


def test_views_in_evaluation_are_the_centre_of_the_first_date():
    model, samples = mae.build(SMALL).eval(), scenes(dates=2)
    pixels = samples.layers["s2"][:, 0, :, 4:36, 4:36].float()
    torch.testing.assert_close(model.views(samples), (pixels - 1500) / 700)
    with pytest.raises(ValueError, match="too small for views of 32"):
        model.views(scenes(side=24))


@pytest.mark.parametrize("norm_pix", [False, True])
def test_a_reconstruction_shows_what_was_seen_and_guesses_the_rest(norm_pix):
    torch.manual_seed(0)
    model, samples = mae.build(SMALL.model_copy(update={"norm_pix": norm_pix})), scenes()
    picture = model.reconstruct(samples)
    assert model.training
    original = samples.layers["s2"][:, 0, :, 4:36, 4:36].float()
    torch.testing.assert_close(picture.original, original, rtol=1e-4, atol=0.1)
    shown = picture.masked != 0
    assert shown.float().mean() == 0.25
    torch.testing.assert_close(picture.masked[shown], picture.original[shown])
    torch.testing.assert_close(picture.guessed[shown], picture.original[shown], rtol=1e-4, atol=0.1)
    assert (picture.guessed - picture.original)[~shown].abs().mean() > 10


@pytest.mark.parametrize("norm_pix", [False, True])
def test_a_perfect_guess_is_painted_as_the_original(norm_pix, monkeypatch):
    model, samples = mae.build(SMALL.model_copy(update={"norm_pix": norm_pix})).eval(), scenes()
    images = model.views(samples)
    _, hidden = random_split(model.noise(images), 0.25)
    target = model.target(images, hidden)
    monkeypatch.setattr(model, "pixels", lambda features: standardise(target)[0] if norm_pix else target)
    picture = model.reconstruct(samples)
    torch.testing.assert_close(picture.guessed, picture.original, rtol=1e-4, atol=0.1)
    assert model({"scenes": samples}, START).total.item() < 1e-10


def test_the_decoder_counts_as_the_last_layer():
    model = mae.build(SMALL)
    assert model.last_layer == 3
    assert model.layer_id("encoder.patch_embed.proj.weight") == 0
    assert model.layer_id("encoder.blocks.1.attn.qkv.weight") == 2
    assert model.layer_id("decoder_blocks.0.attn.qkv.weight") == 3
    assert model.layer_id("mask_token") == 3


@pytest.mark.parametrize(
    ("name", "rate", "steps", "warmup"),
    [
        ("vit_b12x1", 1.2e-3, 780_800, 40 * 488),
        ("rvsa_b", 1.2e-3, 780_800, 40 * 488),
        ("vit_l12x4", 1.2e-3, 195_200, 40 * 488),
        ("vit_h12x4", 1.2e-3, 195_200, 40 * 488),
        ("vit_g12x4", 8e-4, 195_200, 40 * 488),
    ],
)
def test_recipes_are_the_papers(name, rate, steps, warmup):
    recipe = getattr(mae, name)()
    assert recipe.optim.lr_per_256 * recipe.batch / 256 == pytest.approx(rate)
    assert recipe.steps == steps
    assert recipe.schedule.warmup * recipe.steps == pytest.approx(warmup)
    assert (recipe.optim.weight_decay, recipe.optim.betas, recipe.optim.clip) == (0.05, (0.9, 0.95), None)
    assert (recipe.method.decoder.width, recipe.method.decoder.depth, recipe.method.decoder.heads) == (
        512,
        8,
        16,
    )
    views = recipe.method.crop, recipe.method.resample, recipe.method.down, recipe.method.turn
    assert views == ((0.2, 1.0), "bicubic", 0.0 if name == "rvsa_b" else 0.5, 0.0)
    assert recipe.method.encoder.inputs.mean == pytest.approx((123.675, 116.28, 103.53))
    assert not recipe.method.norm_pix


@pytest.mark.parametrize("branches", [1, 2])
def test_half_precision_finds_the_same_loss(branches):
    model, images, noise = parity(branches=branches), hashed_images(), golden_noise()
    exact = model.losses(images, noise).total.item()
    with torch.autocast("cpu", torch.bfloat16):
        half = model.losses(images, noise).total
    half.backward()
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(exact, rel=2e-2)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("crop", [(0.0, 1.0), (0.5, 0.2), (0.5, 1.2)])
def test_a_crop_that_is_no_share_of_the_area_is_refused(crop):
    with pytest.raises(ValueError, match="shares of the area"):
        mae.Spec(encoder=SMALL.encoder, crop=crop)
