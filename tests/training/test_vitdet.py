"""The windowed ViT and its pyramid against published numbers, and against attention written out."""

import math

import pytest
import torch
from golden import hash_weights, hashed
from torch import Tensor

from training.encoders import Inputs, vit, vitdet
from training.pyramid import Pyramid

RGB = Inputs(layer="hr", bands=("R", "G", "B"))
PARITY = vitdet.Spec(
    inputs=RGB, image=80, positions=64, patch=8, width=48, depth=6, heads=4,
    window=4, whole=(3, 6), taps=(6,),
)  # fmt: skip


def backbone(**changes: object) -> vitdet.ViTDet:
    model = vitdet.build(PARITY.model_copy(update=changes)).double().eval()
    hash_weights(model)
    return model


def images() -> Tensor:
    return (hashed(7777777, 2 * 3 * 80 * 80) * math.sqrt(12)).reshape(2, 3, 80, 80)


@pytest.mark.parametrize(
    ("relative", "count", "total", "squares", "first", "last", "levels"),
    [
        (
            False, 182_016, -3017.1121, 46396.358, -2.5609662, 0.36649576,
            (74050.051, 20132.96, 5037.5928, 1197.7541),
        ),
        (
            True, 183_600, -2747.0876, 52287.254, -3.2376088, -0.11004433,
            (73968.124, 20247.504, 4991.3039, 1190.2514),
        ),
    ],
)  # fmt: skip
def test_the_reference_implementations_maps_come_out(relative, count, total, squares, first, last, levels):
    model = backbone(relative=relative)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    (found,) = model(images()).maps
    assert found.shape == (2, 48, 10, 10)
    assert found.sum().item() == pytest.approx(total, rel=1e-7)
    assert found.square().sum().item() == pytest.approx(squares, rel=1e-7)
    assert found[0, 0, 0, 0].item() == pytest.approx(first, rel=1e-6)
    assert found[1, 47, 9, 9].item() == pytest.approx(last, rel=1e-6)
    pyramid = Pyramid(48, 8, channels=24).double()
    hash_weights(pyramid, ones=True)
    for level, side, expected in zip(pyramid([found]), (40, 20, 10, 5), levels, strict=True):
        assert level.shape == (2, 24, side, side)
        assert level.square().sum().item() == pytest.approx(expected, rel=1e-7)


def written_out(attn: vit.Attention, tokens: Tensor, height: int, width: int) -> Tensor:
    """Attention with relative positions by loops over queries: scale * q.k + q.Rh + q.Rw."""
    query, key, value = attn.qkv(tokens).unflatten(2, (3, attn.heads, -1)).permute(2, 0, 3, 1, 4)
    out = torch.empty_like(query)
    for place in range(height * width):
        row, column = divmod(place, width)
        q = query[:, :, place]  # (B, heads, d)
        logits = torch.einsum("bhd,bhnd->bhn", q * q.shape[-1] ** -0.5, key)
        for other in range(height * width):
            r, c = divmod(other, width)
            table = attn.rel_pos_h[row - r + height - 1] + attn.rel_pos_w[column - c + width - 1]
            logits[:, :, other] += q @ table
        out[:, :, place] = torch.einsum("bhn,bhnd->bhd", logits.softmax(-1), value)
    return attn.proj(out.transpose(1, 2).flatten(2))


def test_longer_queries_are_relative_positions_written_out():
    attn = backbone().blocks[2].attn  # global, tables for 10 x 10
    tokens = hashed(1, 100 * 48).reshape(1, 100, 48)
    mixed = attn(tokens, lambda qkv, attns: vitdet._mixed(qkv, attns, vitdet._Reach(10, 10, 0)))
    torch.testing.assert_close(mixed, written_out(attn, tokens, 10, 10), rtol=0, atol=1e-12)


def test_padded_windows_are_attention_over_each_piece_with_zeros_for_keys():
    attn = backbone().blocks[0].attn  # windows of 4, grid 6 x 5: padded to 8 x 8
    tokens = hashed(5, 30 * 48).reshape(1, 30, 48)
    mixed = attn(tokens, lambda qkv, attns: vitdet._mixed(qkv, attns, vitdet._Reach(6, 5, 4)))
    grid = tokens.new_zeros(8, 8, 48)
    grid[:6, :5] = tokens.reshape(6, 5, 48)
    expected = torch.empty_like(grid)
    for top in (0, 4):
        for left in (0, 4):
            piece = grid[top : top + 4, left : left + 4].reshape(1, 16, 48)
            expected[top : top + 4, left : left + 4] = written_out(attn, piece, 4, 4).reshape(4, 4, 48)
    torch.testing.assert_close(mixed.reshape(6, 5, 48), expected[:6, :5], rtol=0, atol=1e-12)


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_branches_in_windows_are_summed_as_if_alone(qkv_bias):
    model = backbone(branches=2, depth=2, whole=(2,), taps=(2,), qkv_bias=qkv_bias)
    block, tokens = model.blocks[0], hashed(9, 30 * 48).reshape(1, 30, 48)

    def mix(qkv: Tensor, attns: object) -> Tensor:
        return vitdet._mixed(qkv, attns, vitdet._Reach(6, 5, 4))

    after = tokens + sum(branch.attn(branch.norm(tokens), mix) for branch in block.attns)
    after = after + sum(branch(after) for branch in block.ffns)
    torch.testing.assert_close(block(tokens, mix), after, rtol=0, atol=1e-12)


def test_a_window_as_large_as_the_image_is_global_attention():
    inside, across = backbone(window=10, whole=(), relative=False), backbone(window=0, relative=False)
    torch.testing.assert_close(inside(images()).maps[0], across(images()).maps[0], rtol=0, atol=1e-12)


def test_pretrained_weights_go_in_and_give_the_plain_vits_tokens():
    plain = vit.build(vit.Spec(inputs=RGB, image=64, patch=8, width=48, depth=3, heads=4)).eval()
    spec = vitdet.Spec(
        inputs=RGB, image=64, patch=8, width=48, depth=3, heads=4, window=0, whole=(), taps=(1, 3), final_norm=True
    )  # fmt: skip
    model = vitdet.build(spec).eval()
    model.load_state_dict(vitdet.from_vit(plain.state_dict(), spec))
    pictures = images()[..., :64, :64].float()
    expected = plain.norm(plain.blocks(plain.embed(pictures)))  # no class token in either
    torch.testing.assert_close(model(pictures).patches, expected)
    assert [tuple(found.shape) for found in model(pictures).maps] == [(2, 48, 8, 8)] * 2


def test_positions_are_interpolated_and_trained_and_strange_weights_refused():
    plain = vit.build(vit.Spec(inputs=RGB, image=64, patch=8, width=48, depth=3, heads=4))
    spec = vitdet.Spec(inputs=RGB, image=128, patch=8, width=48, depth=3, heads=4, whole=(3,), taps=(3,))
    state = vitdet.from_vit(plain.state_dict(), spec)
    assert state["pos_embed"].shape == (1, 1 + 16 * 16, 48)
    assert vitdet.build(spec).pos_embed.requires_grad
    wrong = {name: value for name, value in plain.state_dict().items() if name != "blocks.1.mlp.fc1.bias"}
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp\.fc1\.bias"):
        vitdet.from_vit(wrong, spec)


def test_backbones_have_the_published_counts():
    spec = vitdet.Spec(inputs=RGB, image=1024, positions=224, taps=(12,))
    for relative, count in ((True, 85_889_024), (False, 85_796_352)):
        with torch.device("meta"):
            model = vitdet.build(spec.model_copy(update={"relative": relative}))
            pyramid = Pyramid(768, 16)
        assert sum(parameter.numel() for parameter in model.parameters()) == count
        whole = count + sum(parameter.numel() for parameter in pyramid.parameters())
        assert whole == {True: 91_449_024, False: 91_356_352}[relative]


def test_four_taps_make_a_wide_pyramid_of_the_backbones_width():
    model = backbone(taps=(1, 2, 4, 6))
    levels = Pyramid(48, 8, plan="wide").double()(model(images()).maps)
    assert [tuple(level.shape) for level in levels] == [(2, 48, side, side) for side in (40, 20, 10, 5)]
    with pytest.raises(ValueError, match="1 or 4 maps, not 2"):
        Pyramid(48, 8).double()(model(images()).maps[:2])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"whole": (7,)}, "layers from 1 to 6"), ({"taps": ()}, "no map"), ({"positions": 60}, "whole patches")],
)
def test_an_impossible_spec_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        vitdet.Spec.model_validate(PARITY.model_dump() | changes)
    with pytest.raises(ValueError, match="need all patches"):
        backbone()(images(), keep=torch.zeros(2, 4, dtype=torch.int64))
