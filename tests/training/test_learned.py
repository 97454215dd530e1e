"""The ViT with learned positions against timm's, DINO's interpolation, and packed groups against groups one by one."""

import math
from functools import partial

import pytest
import timm
import torch
from torch import Tensor, nn

from training import weights
from training.encoders import Inputs, learned, vit
from training.encoders.learned import Packed, pack, unpack

RGB = Inputs(layer="hr", bands=("R", "G", "B"))
TINY = learned.Spec(inputs=RGB, image=32, patch=8, width=48, depth=4, heads=4)


def built(seed: int = 0, **changes: object) -> learned.Learned:
    """A small encoder with every parameter moved, so that no norm is 1 and no bias 0."""
    encoder = learned.build(TINY.model_copy(update=changes)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return encoder


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layer_scale", [None, 0.1])
@pytest.mark.parametrize("norm_eps", [1e-6, 1e-5])
def test_it_is_timms_vit(layer_scale, norm_eps):
    encoder, images = built(layer_scale=layer_scale, norm_eps=norm_eps), normal(2, 3, 32, 32)
    theirs = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=4, num_heads=4, num_classes=0, init_values=layer_scale,
        norm_layer=partial(nn.LayerNorm, eps=norm_eps),
    ).eval()  # fmt: skip
    theirs.load_state_dict(encoder.state_dict())
    expected, tokens = theirs.forward_features(images), encoder(images)
    torch.testing.assert_close(tokens.cls, expected[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tokens.patches, expected[:, 1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "count", "table"),
    [
        (learned.vit_b16(), 86_250_240, 602_880),
        (learned.vit_b16().model_copy(update={"image": 512}), 86_434_560, 787_200),
        (learned.vit_b16().model_copy(update={"qkv_bias": False}), 86_222_592, 602_880),
        (learned.vit_g16_1024(), 505_443_328, 803_840),
        (learned.vit_g16_1024().model_copy(update={"image": 512}), 505_689_088, 1_049_600),
    ],
)
def test_parameters_are_as_many_as_published_and_positions_among_them(spec, count, table):
    with torch.device("meta"):
        encoder = learned.build(spec)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == count
    assert encoder.pos_embed.numel() == table


def test_another_grid_is_interpolated_with_dinos_offset():
    encoder = built()
    grid = encoder.pos_embed[:, 1:].reshape(1, 4, 4, 48).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(  # facebookresearch/dino, interpolate_pos_encoding
        grid, scale_factor=((6 + 0.1) / 4, (2 + 0.1) / 4), mode="bicubic", align_corners=False
    )
    found = encoder.positions(6, 2)
    assert torch.equal(found[:, 1:], expected.permute(0, 2, 3, 1).flatten(1, 2))
    assert torch.equal(found[:, :1], encoder.pos_embed[:, :1])
    assert torch.equal(encoder.positions(4, 4), encoder.pos_embed)
    assert found.shape == (1, 13, 48)
    found.square().sum().backward()
    assert encoder.pos_embed.grad.any()


@pytest.mark.parametrize("side", [1, 2, 3, 5, 6, 7, 9, 14, 28, 37])
def test_every_grid_gets_as_many_positions_as_it_has_patches(side):
    encoder = learned.build(TINY.model_copy(update={"image": 28 * 8, "width": 8, "depth": 1, "heads": 2}))
    assert encoder.positions(side, side).shape == (1, 1 + side**2, 8)


def test_moco_v3s_table_has_rows_first_and_is_not_trained():
    encoder = learned.build(TINY.model_copy(update={"positions": "sincos_rows_first", "width": 16}))
    for row in range(4):
        for column in range(4):
            expected = [
                function(place * 10000 ** (-i / 4))
                for place in (row, column)
                for function in (math.sin, math.cos)
                for i in range(4)
            ]
            torch.testing.assert_close(encoder.pos_embed[0, 1 + 4 * row + column], torch.tensor(expected))
    assert not encoder.pos_embed[0, 0].any()
    assert "pos_embed" not in dict(encoder.named_parameters())


def groups() -> tuple[Tensor, Tensor, Tensor]:
    return normal(2, 9, 48), normal(5, 3, 48, seed=2), normal(1, 1, 48, seed=3)


def test_packed_groups_equal_groups_one_by_one():
    encoder = built(layer_scale=0.5).double()
    alone = [group.double().requires_grad_() for group in groups()]
    together = [group.detach().clone().requires_grad_() for group in alone]
    expected = [encoder.blocks(group) for group in alone]
    packed = encoder.blocks(pack(together))
    assert packed.shapes == ((2, 9), (5, 3), (1, 1)) and packed.tokens.shape == (34, 48)
    for mine, theirs in zip(unpack(packed), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
    sum(part.square().sum() for part in expected).backward()
    packed.tokens.square().sum().backward()
    for mine, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-8, atol=1e-10)


def test_no_token_sees_another_sequence():
    encoder, (first, second, third) = built(), groups()
    changed = first.clone()
    changed[1] = torch.nan
    whole, spoilt = (unpack(encoder.blocks(pack([one, second, third]))) for one in (first, changed))
    assert torch.equal(whole[0][0], spoilt[0][0]) and spoilt[0][1].isnan().all()
    assert torch.equal(whole[1], spoilt[1]) and torch.equal(whole[2], spoilt[2])


def test_the_order_of_tokens_does_not_matter():
    encoder, tokens = built(), normal(2, 9, 48)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        encoder.blocks(tokens[:, order]), encoder.blocks(tokens)[:, order], rtol=1e-4, atol=1e-5
    )


def by_hand(layer: learned.Layer, tokens: Tensor, kept: list[list[int]], factors: list[float]) -> Tensor:
    """One group through a layer: per branch the sequences it is computed for, and what its update is multiplied by."""
    for rows, factor, norm, body in zip(
        kept, factors, (layer.norm1, layer.norm2), (layer.attn, layer.mlp), strict=True
    ):
        tokens = tokens.clone()
        for row in rows:
            tokens[row] = tokens[row] + factor * body(norm(tokens[row : row + 1]))[0]
    return tokens


def test_a_subset_is_computed_and_weighed_up_group_by_group(monkeypatch):
    layer = built(drop_path=0.3, drop_path_law="uniform", drop_path_of="subset").blocks[0].train()
    draws = [[4, 0, 2], [1], [3, 1, 0], [0]]  # attention of both groups, then feed-forward of both
    told = iter([torch.tensor(rows) for rows in draws])
    asked = []

    def chosen(count: int, rate: float, device: torch.device) -> Tensor:
        asked.append((count, rate))
        return next(told)

    monkeypatch.setattr(learned, "subset", chosen)
    first, second = normal(5, 3, 48), normal(2, 9, 48, seed=2)
    mine = unpack(layer(pack([first, second])))
    assert asked == [(5, 0.3), (2, 0.3)] * 2
    for found, tokens, kept in ((mine[0], first, draws[::2]), (mine[1], second, draws[1::2])):
        factors = [len(tokens) / len(rows) for rows in kept]
        torch.testing.assert_close(found, by_hand(layer, tokens, kept, factors), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("count", "rate", "kept"), [(32, 0.3, 22), (4, 0.3, 2), (1, 0.3, 1), (6, 0.9, 1)])
def test_the_subset_has_the_published_size_and_every_sequence_its_turn(count, rate, kept):
    torch.manual_seed(0)
    drawn = [learned.subset(count, rate, torch.device("cpu")) for _ in range(300)]
    assert all(len(set(rows.tolist())) == kept for rows in drawn)
    seen = torch.bincount(torch.cat(drawn), minlength=count) / 300
    torch.testing.assert_close(seen, torch.full((count,), kept / count), rtol=0, atol=0.12)


def test_samples_drop_one_by_one(monkeypatch):
    layer = built(drop_path=0.5, drop_path_law="uniform").blocks[0].train()
    told = iter([torch.tensor([[2.0], [0.0]]), torch.tensor([[0.0], [2.0]])])
    monkeypatch.setattr(vit, "survivors", lambda *_: next(told))
    tokens = normal(2, 9, 48)
    expected = by_hand(layer, tokens, [[0], [1]], [2.0, 2.0])
    torch.testing.assert_close(layer(tokens), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("law", "rates"), [("linear", [0.0, 0.1, 0.2, 0.3]), ("uniform", [0.3] * 4)])
@pytest.mark.parametrize("of", ["samples", "subset"])
def test_stochastic_depth_follows_its_law_and_only_in_training(law, rates, of):
    encoder, images = built(drop_path=0.3, drop_path_law=law, drop_path_of=of), normal(4, 3, 32, 32)
    assert [layer.drop_path for layer in encoder.blocks] == pytest.approx(rates)
    whole = encoder(images).patches
    assert torch.equal(encoder(images).patches, whole)
    torch.manual_seed(0)
    assert not torch.equal(encoder.train()(images).patches, whole)


def test_every_parameter_learns_under_a_subset_in_half_precision():
    encoder = learned.build(TINY.model_copy(update={"drop_path": 0.3, "drop_path_of": "subset"})).train()
    with torch.autocast("cpu", torch.bfloat16):
        tokens = encoder(normal(4, 3, 32, 32))
    (tokens.cls.float().square().sum() + tokens.patches.float()[..., 0].sum()).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert name.endswith("qkv.bias") or parameter.grad.any(), name


def test_the_start_is_dinov2s():
    torch.manual_seed(0)
    encoder = learned.build(TINY.model_copy(update={"width": 96, "layer_scale": 1e-5}))
    for name, parameter in encoder.named_parameters():
        if name == "cls_token":
            assert 1e-7 < parameter.std() < 1e-5
        elif name.startswith("patch_embed"):
            assert parameter.abs().max() <= (3 * 8 * 8) ** -0.5  # torch's convolution
        elif name.endswith("gamma"):
            assert (parameter == 1e-5).all()
        elif name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name


def test_weights_load_onto_another_grid_by_name():
    encoder = built()
    larger = learned.build(TINY.model_copy(update={"image": 48}))
    larger.load_state_dict(weights.adapted(encoder.state_dict(), larger))
    assert torch.equal(larger.blocks[2].mlp.fc1.weight, encoder.blocks[2].mlp.fc1.weight)
    assert larger.pos_embed.shape == (1, 37, 48)
    numbers = {name: larger.layer_id(name) for name, _ in larger.named_parameters()}
    assert numbers["pos_embed"] == numbers["cls_token"] == 0
    assert numbers["blocks.3.mlp.fc2.weight"] == 4 and numbers["norm.weight"] == larger.last_layer == 5


def test_packing_is_undone():
    assert all(torch.equal(a, b) for a, b in zip(unpack(pack(groups())), groups(), strict=True))
    one = normal(2, 9, 48)
    assert pack([one]).tokens.data_ptr() == one.data_ptr()
    assert isinstance(built().blocks(pack([one])), Packed)


@pytest.mark.parametrize(
    ("changes", "sentence"), [({"branches": 2}, "one branch"), ({"norm_eps": 0}, "greater")]
)
def test_an_impossible_spec_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        learned.Spec.model_validate(TINY.model_dump() | changes)
