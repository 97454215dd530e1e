"""The adapter around plain ViTs: unharmed at first, four maps, and weights that go in and come out."""

import pytest
import torch

from training import weights
from training.encoders import EncoderSpec, Inputs, adapter, build, learned, vit, vitdet
from training.export import export_encoder, load_encoder
from training.methods import finetune
from training.tasks import segment

RGB = Inputs(layer="hr", bands=("R", "G", "B"), mean=(90.0,) * 3, std=(50.0,) * 3)
PLAIN = vit.Spec(inputs=RGB, image=64, patch=8, width=32, depth=4, heads=4)
PLAINS = {
    "vit": PLAIN,
    "branches": PLAIN.model_copy(update={"branches": 2}),
    "learned": learned.Spec(inputs=RGB, image=64, patch=16, width=32, depth=5, heads=4, layer_scale=0.1),
}


def small(inner: EncoderSpec = PLAIN) -> adapter.Spec:
    return adapter.Spec(inner=inner, inputs=RGB, stem=8)


def images(height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", PLAINS)
def test_four_maps_come_at_strides_of_4_to_32(name):
    torch.manual_seed(0)
    encoder = build(small(PLAINS[name]))
    tokens = encoder(images())
    assert [tuple(scale.shape) for scale in tokens.maps] == [
        (2, 32, 64 // stride, 96 // stride) for stride in encoder.strides
    ]
    assert encoder.strides == (4, 8, 16, 32) and encoder.channels == (32,) * 4
    patch = PLAINS[name].patch
    assert (tokens.height, tokens.width) == (64 // patch, 96 // patch)
    assert tokens.cls.shape == (2, 32)


@pytest.mark.parametrize("name", PLAINS)
def test_a_pretrained_vit_starts_unharmed(name):
    """With gamma 0 nothing is injected: its tokens are those of the bare ViT before the last norm."""
    torch.manual_seed(0)
    bare = build(PLAINS[name]).eval()
    encoder = build(small(PLAINS[name])).eval()
    encoder.load_state_dict(weights.adapted(bare.state_dict(), encoder))
    bare.norm = torch.nn.Identity()
    found, wanted = encoder(images()), bare(images())
    torch.testing.assert_close(found.patches, wanted.patches)
    torch.testing.assert_close(found.cls, wanted.cls)


def test_the_scales_reach_the_patches_once_gamma_has_learnt():
    torch.manual_seed(0)
    encoder = build(small()).eval()
    before = encoder(images()).patches
    for injector in encoder.injectors:
        torch.nn.init.ones_(injector.gamma)
    assert not torch.allclose(encoder(images()).patches, before)


def test_every_parameter_learns_from_the_maps():
    torch.manual_seed(0)
    encoder = build(small())
    for injector in encoder.injectors:
        torch.nn.init.ones_(injector.gamma)
    sum(scale.square().mean() for scale in encoder(images()).maps).backward()
    idle = [name for name, parameter in encoder.named_parameters() if parameter.grad is None]
    assert not idle


@pytest.mark.parametrize(
    ("width", "heads", "ratio", "millions"),
    [(384, 6, 1.0, 5.83), (768, 12, 0.5, 13.68)],
)
def test_the_companion_of_a_full_sized_vit_has_the_counted_parameters(width, heads, ratio, millions):
    """Every term counted by hand from the paper's plan: 64-channel stem, 4 injectors, 6 extractors."""
    inner = vit.Spec(inputs=RGB, width=width, heads=heads, depth=4)
    encoder = build(adapter.Spec(inner=inner, inputs=RGB, value_ratio=ratio))
    found = sum(p.numel() for name, p in encoder.named_parameters() if not name.startswith("inner."))

    def attention(scales: int) -> int:
        inside, looks = int(width * ratio), heads * scales * 4
        return (width + 1) * looks * 3 + (width + 1) * inside + (inside + 1) * width

    stem = 9 * (3 * 64 + 64 * 64 * 2 + 64 * 128 + 128 * 256 + 256 * 256) + 2 * (3 * 64 + 128 + 256 + 256)
    widening = width * (64 + 128 + 256 + 256 + 4)
    hidden = width // 4
    mlp = width * hidden * 2 + hidden + width + hidden * 10
    injector, extractor = attention(3) + 5 * width, attention(1) + 6 * width + mlp
    rest = (
        3 * width + 4 * width * width + width + 4 * 2 * width
    )  # scales' own tokens, the last doubling, norms
    assert found == stem + widening + 4 * injector + 6 * extractor + rest
    assert found / 1e6 == pytest.approx(millions, abs=0.005)


def test_it_comes_back_from_an_export(tmp_path):
    torch.manual_seed(0)
    encoder = build(small()).eval()
    export_encoder(encoder, tmp_path / "encoder", {})
    again = load_encoder(tmp_path / "encoder").eval()
    assert again.spec == encoder.spec
    assert torch.equal(again(images()).maps[0], encoder(images()).maps[0])


@pytest.mark.parametrize("name", PLAINS)
def test_fine_tuning_starts_from_an_exported_plain_encoder(name, tmp_path):
    torch.manual_seed(1)
    plain = build(PLAINS[name])
    export_encoder(plain, tmp_path / "plain", {})
    bare = PLAINS[name].model_copy(update={"inputs": RGB.model_copy(update={"mean": (), "std": ()})})
    wanted = adapter.Spec(inner=bare, inputs=bare.inputs, stem=8)
    task = segment.Spec(classes=("a", "b"), decoder={"kind": "pyramid", "channels": 8})
    model = finetune.build(finetune.Spec(task=task, encoder=wanted, init=str(tmp_path / "plain")))
    assert model.inputs == RGB  # the statistics it was made with
    for key, value in plain.state_dict().items():
        if not key.startswith("norm."):
            assert torch.equal(model.encoder.state_dict()[f"inner.{key}"], value), key
    other = adapter.Spec(inner=bare.model_copy(update={"heads": 2}), inputs=bare.inputs, stem=8)
    with pytest.raises(ValueError, match="another heads than"):
        finetune.build(finetune.Spec(task=task, encoder=other, init=str(tmp_path / "plain")))


def test_a_spec_says_what_it_differs_in():
    assert small().unlike(PLAIN) == []
    assert small().unlike(PLAIN.model_copy(update={"width": 64})) == ["width"]
    assert small().unlike(small().model_copy(update={"stem": 16})) == ["stem"]
    drop = small(PLAIN.model_copy(update={"drop_path": 0.3}))
    assert small().unlike(drop) == []
    assert adapter.around(PLAIN).inputs == RGB


def test_layers_keep_their_depths_and_the_companion_counts_as_last():
    encoder = build(small())
    assert encoder.last_layer == 5
    assert encoder.layer_id("inner.patch_embed.proj.weight") == 0
    assert encoder.layer_id("inner.blocks.2.norm1.weight") == 3
    assert encoder.layer_id("injectors.0.gamma") == encoder.layer_id("stem.first.0.0.weight") == 5


def test_drop_path_thins_the_companion_in_training_alone():
    torch.manual_seed(0)
    encoder = build(small(PLAIN.model_copy(update={"drop_path": 0.5})))
    for norm in encoder.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 0.0
            norm.eval()
    assert not torch.equal(encoder(images()).maps[1], encoder(images()).maps[1])
    encoder.eval()
    assert torch.equal(encoder(images()).maps[1], encoder(images()).maps[1])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="plain ViT, not an encoder of kind 'vitdet'"):
        small(vitdet.Spec(inputs=RGB, depth=12))
    with pytest.raises(ValueError, match="4 interactions do not fit into 3 layers"):
        small(PLAIN.model_copy(update={"depth": 3}))
    with pytest.raises(ValueError, match="72 x 64 pixels must be multiples of 32"):
        build(small())(images(72, 64))
    with pytest.raises(ValueError, match="encode without `keep`"):
        build(small())(images(), torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="leave inputs out"):
        adapter.Spec(inner=PLAIN, inputs=Inputs(layer="hr", bands=("R", "G")))
