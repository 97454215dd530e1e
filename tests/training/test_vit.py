"""The plain ViT against timm's, the published parameter counts, and the loop over branches it fuses."""

import math
from functools import partial

import pytest
import timm
import torch
from pydantic import TypeAdapter
from timm.models.vision_transformer import ParallelThingsBlock
from torch import Tensor, nn

from training.encoders import AnyEncoder, Encoder, EncoderSpec, Inputs, Tokens, build, vit

S2 = Inputs(layer="s2", bands=tuple(f"B{band:02}" for band in range(1, 14)))
TINY = vit.Spec(inputs=S2, image=32, patch=8, width=48, depth=3, heads=4)


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with every parameter drawn anew, so that no norm is 1 and no bias 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module


def images(count: int = 2, side: int = 32, seed: int = 1) -> Tensor:
    return torch.randn(count, 13, side, side, generator=torch.Generator().manual_seed(seed))


def built(**changes: object) -> vit.ViT:
    torch.manual_seed(0)
    return shaken(vit.build(TINY.model_copy(update=changes))).eval()


def one_by_one(block: vit.ParallelBlock, tokens: Tensor) -> Tensor:
    """The layer as the paper writes it: every branch on its own, summed."""
    start = tokens
    for branch in block.attns:
        tokens = tokens + branch.attn((block.norm1 or branch.norm)(start))
    start = tokens
    for branch in block.ffns:
        tokens = tokens + branch.mlp((block.norm2 or branch.norm)(start))
    return tokens


def test_counts_of_trainable_parameters_are_the_published_ones():
    published = {
        vit.vit_b12x1: 85_647_360,
        vit.l12x4: 605_261_824,
        vit.h12x4: 1_360_877_568,
        vit.g12x4: 2_418_483_200,
        vit.vit_l: 303_099_904,
        vit.vit_h14: 630_435_840,
    }
    for preset, count in published.items():
        with torch.device("meta"):
            encoder = vit.build(preset())
        assert sum(parameter.numel() for parameter in encoder.parameters()) == count, preset.__name__


@pytest.mark.parametrize(
    ("shared_norm", "qkv_bias", "count"),
    [(False, True, 605_409_280), (False, False, 605_261_824), (True, True, 605_261_824)],
)
def test_the_two_readings_of_605_million_and_the_one_that_is_not(shared_norm, qkv_bias, count):
    with torch.device("meta"):
        spec = vit.l12x4().model_copy(update={"shared_norm": shared_norm, "qkv_bias": qkv_bias})
        assert sum(parameter.numel() for parameter in vit.build(spec).parameters()) == count


def test_the_position_table_is_kept_but_never_trained():
    with torch.device("meta"):
        encoder = vit.build(vit.g12x4())
    assert encoder.pos_embed.numel() == 403_456
    assert "pos_embed" in encoder.state_dict()
    assert "pos_embed" not in dict(encoder.named_parameters())


def test_one_branch_is_timms_vit():
    encoder = built()
    theirs = timm.models.VisionTransformer(
        img_size=32, patch_size=8, in_chans=13, embed_dim=48, depth=3, num_heads=4, num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    ).eval()  # fmt: skip
    theirs.load_state_dict(encoder.state_dict())
    expected = theirs.forward_features(images())
    tokens = encoder(images())
    torch.testing.assert_close(tokens.cls, expected[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tokens.patches, expected[:, 1:], rtol=1e-5, atol=1e-5)
    assert (tokens.height, tokens.width) == (4, 4)


def test_two_branches_are_timms_parallel_block():
    block = built(branches=2).blocks[0]
    theirs = ParallelThingsBlock(48, 4, num_parallel=2, norm_layer=partial(nn.LayerNorm, eps=1e-6))
    theirs.load_state_dict(block.state_dict())
    tokens = torch.randn(2, 9, 48)
    torch.testing.assert_close(block(tokens), theirs.eval()(tokens), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("branches", [2, 3, 4])
@pytest.mark.parametrize("shared_norm", [True, False])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_the_fused_layer_equals_its_branches_one_by_one(branches, shared_norm, qkv_bias):
    block = built(branches=branches, shared_norm=shared_norm, qkv_bias=qkv_bias).blocks[1].double()
    tokens = torch.randn(2, 9, 48, dtype=torch.float64)
    fused, looped = block(tokens), one_by_one(block, tokens)
    torch.testing.assert_close(fused, looped, rtol=1e-12, atol=1e-12)
    parameters = list(block.parameters())
    for mine, theirs in zip(
        torch.autograd.grad(fused.square().sum(), parameters),
        torch.autograd.grad(looped.square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_one_parallel_branch_is_the_plain_block():
    plain = built().blocks[0]
    parallel = vit.ParallelBlock(TINY)
    names = {"attns.0.norm": "norm1", "attns.0.attn": "attn", "ffns.0.norm": "norm2", "ffns.0.mlp": "mlp"}
    weights = {}
    for name in parallel.state_dict():
        prefix = next(old for old in names if name.startswith(old + "."))
        weights[name] = plain.state_dict()[name.replace(prefix, names[prefix])]
    parallel.load_state_dict(weights)
    tokens = torch.randn(2, 9, 48)
    torch.testing.assert_close(parallel(tokens), plain(tokens), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shared_norm", [True, False])
def test_stochastic_depth_drops_whole_branches_of_single_images(shared_norm, monkeypatch):
    block = built(branches=3, shared_norm=shared_norm, drop_path=0.5).blocks[2].train()
    kept = [torch.tensor([[2.0, 0, 2], [0, 0, 0]]), torch.tensor([[0.0, 2, 0], [2, 2, 2]])]
    draws = iter(kept)
    monkeypatch.setattr(vit, "survivors", lambda *_: next(draws))
    tokens = torch.randn(2, 9, 48)
    expected = tokens
    for branches, norm, name, factors in (
        (block.attns, block.norm1, "attn", kept[0]),
        (block.ffns, block.norm2, "mlp", kept[1]),
    ):
        start = expected
        for index, branch in enumerate(branches):
            update = getattr(branch, name)((norm or branch.norm)(start))
            expected = expected + factors[:, index, None, None] * update
    torch.testing.assert_close(block(tokens), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("branches", [1, 2])
def test_stochastic_depth_rises_with_depth_and_keeps_the_mean(branches):
    encoder = built(branches=branches, drop_path=0.2)
    assert [block.drop_path for block in encoder.blocks] == [0.0, 0.1, 0.2]
    first, second = encoder(images()).patches, encoder(images()).patches
    assert torch.equal(first, second)
    encoder.train()
    torch.manual_seed(0)
    assert not torch.equal(encoder(images()).patches, first)
    drawn = vit.survivors(torch.zeros(20_000, 1), 4, 0.2)
    assert set(drawn.unique().tolist()) == {0.0, 1.25}
    assert abs(drawn.mean().item() - 1) < 0.01


def test_keeping_every_patch_in_any_order_changes_nothing():
    encoder = built()
    order = torch.stack([torch.randperm(16), torch.randperm(16)])
    whole, kept = encoder(images()), encoder(images(), keep=order)
    torch.testing.assert_close(kept.cls, whole.cls, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        kept.patches, torch.stack([whole.patches[i, order[i]] for i in range(2)]), rtol=1e-4, atol=1e-5
    )


def test_patches_left_out_are_never_looked_at():
    encoder, keep = built(), torch.tensor([[0, 5], [3, 9]])
    seen = images()
    spoiled = torch.full_like(seen, torch.nan)
    for row, chosen in enumerate(keep.tolist()):
        for index in chosen:
            top, left = 8 * (index // 4), 8 * (index % 4)
            spoiled[row, :, top : top + 8, left : left + 8] = seen[row, :, top : top + 8, left : left + 8]
    assert torch.equal(encoder(seen, keep=keep).patches, encoder(spoiled, keep=keep).patches)


def test_tokens_may_join_halfway():
    encoder = built()
    tokens = encoder.with_class(encoder.embed(images()))
    tokens = encoder.blocks[1:](encoder.blocks[:1](tokens))
    assert torch.equal(encoder.norm(tokens)[:, 1:], encoder(images()).patches)


def test_patchify_is_a_convolutions_view_of_the_image_and_is_undone():
    encoder, pixels = built(), images(side=48)[..., :32, :]
    by_convolution = encoder.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
    torch.testing.assert_close(
        encoder.patch_embed(vit.patchify(pixels, 8)), by_convolution, rtol=1e-5, atol=1e-5
    )
    assert torch.equal(vit.unpatchify(vit.patchify(pixels, 8), 4, 6), pixels)


def test_the_position_table_equals_the_formula():
    table = vit.sincos_table(16, 3)
    assert not table[0, 0].any()
    for row in range(3):
        for column in range(3):
            expected = [
                function(place * 10000 ** (-i / 4))
                for place in (column, row)
                for function in (math.sin, math.cos)
                for i in range(4)
            ]
            torch.testing.assert_close(table[0, 1 + 3 * row + column], torch.tensor(expected))


def test_another_image_size_gets_the_table_interpolated():
    encoder = built()
    tokens = encoder(images(side=48))
    assert tokens.patches.shape == (2, 36, 48)
    assert tokens.map().shape == (2, 48, 6, 6)
    grid = encoder.pos_embed[:, 1:].reshape(1, 4, 4, 48).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(grid, (6, 5), mode="bicubic", align_corners=False)
    assert torch.equal(encoder.positions(6, 5)[:, 1:], expected.flatten(2).transpose(1, 2))


def test_the_start_is_xavier_with_zero_biases():
    torch.manual_seed(0)
    encoder = vit.build(TINY.model_copy(update={"width": 96, "branches": 2}))
    kernel = encoder.patch_embed.proj.weight.flatten(1)
    limit = math.sqrt(6 / sum(kernel.shape))
    assert 0.98 * limit < kernel.abs().max() <= limit
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
    assert 0.01 < encoder.cls_token.std() < 0.03


def test_layers_are_numbered_from_the_pixels():
    encoder = built(branches=2)
    numbers = {name: encoder.layer_id(name) for name, _ in encoder.named_parameters()}
    assert numbers["patch_embed.proj.weight"] == numbers["cls_token"] == 0
    assert numbers["blocks.2.attns.1.attn.qkv.weight"] == 3
    assert numbers["norm.weight"] == encoder.last_layer == 4


def test_a_spec_is_found_by_its_kind_and_comes_back_from_json():
    anything: TypeAdapter[EncoderSpec] = TypeAdapter(AnyEncoder)
    text = anything.dump_json(TINY)
    assert anything.validate_json(text) == TINY
    assert isinstance(build(TINY), Encoder)
    with pytest.raises(ValueError, match=r"no training\.encoders\.resnext"):
        anything.validate_python({"kind": "resnext"})
    with pytest.raises(ValueError, match="has no kind"):
        anything.validate_python({"width": 48})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image": 30}, "whole number of patches"),
        ({"heads": 5}, "divide by heads"),
        ({"branches": 5}, "less than or equal to 4"),
        ({"colour": "blue"}, "Extra inputs"),
    ],
)
def test_an_impossible_spec_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        vit.Spec.model_validate(TINY.model_dump() | changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"bands": ()}, "must be named"),
        ({"bands": ("R", "R")}, "each once"),
        ({"mean": (1.0,)}, "1 values for 13 bands"),
        ({"mean": (1.0,) * 13}, "belong together"),
        ({"mean": (1.0,) * 13, "std": (1.0,) * 12 + (0.0,)}, "must be positive"),
    ],
)
def test_inputs_that_do_not_add_up_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Inputs.model_validate(S2.model_dump() | changes)


def test_an_image_that_is_not_whole_patches_is_refused():
    with pytest.raises(ValueError, match="not whole patches of 8"):
        built()(images(side=36))


def test_a_map_is_refused_when_patches_were_left_out():
    with pytest.raises(ValueError, match="encode without `keep`"):
        Tokens(None, torch.zeros(1, 3, 8), 2, 2).map()
