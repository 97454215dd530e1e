"""Weights of timm and of MAE go in, ours come out into timm: the same features on both sides."""

import json

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from geodata.errors import Corrupt, Missing
from training import weights
from training.encoders import Inputs, build, hierarchy, vit, vitdet
from training.export import export_encoder, load_encoder
from training.methods import mae

RGB = Inputs(layer="hr", bands=("R", "G", "B"), mean=(90.0, 95.0, 80.0), std=(40.0, 35.0, 30.0))
SPEC = vit.Spec(inputs=RGB, image=64, patch=16, width=48, depth=2, heads=4)


def images(side: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def timm_vit(**changes: object) -> VisionTransformer:
    torch.manual_seed(1)
    sizes = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 7}
    return VisionTransformer(**{**sizes, **changes}).eval()


def test_a_vit_of_timm_gives_the_same_features_here():
    theirs, ours = timm_vit(), vit.build(SPEC).eval()
    ours.load_state_dict(weights.adapted(theirs.state_dict(), ours))
    features = theirs.forward_features(images())
    found = ours(images())
    torch.testing.assert_close(found.cls, features[:, 0])
    torch.testing.assert_close(found.patches, features[:, 1:])


def test_positions_are_resized_as_timm_resizes_them():
    theirs, ours = timm_vit(img_size=96), vit.build(SPEC)
    found = weights.adapted(theirs.state_dict(), ours)["pos_embed"]
    from timm.layers import resample_abs_pos_embed

    expected = resample_abs_pos_embed(theirs.pos_embed, [4, 4], antialias=False)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_official_checkpoint_of_mae_loads_without_its_decoder(tmp_path, suffix):
    from safetensors.torch import save_file

    whole = mae.build(mae.Spec(encoder=SPEC, decoder=mae.Decoder(width=32, depth=1, heads=4)))
    official = {name.removeprefix("encoder."): value for name, value in whole.state_dict().items()}
    path = tmp_path / f"mae_pretrain{suffix}"
    if suffix == ".pth":
        torch.save({"model": official, "epoch": 399}, path)
    else:
        save_file(official, path)
    ours = vit.build(SPEC).eval()
    ours.load_state_dict(weights.adapted(weights.read(path), ours))
    torch.testing.assert_close(ours(images()).patches, whole.encoder.eval()(images()).patches)


def test_an_exported_vit_is_a_folder_that_timm_opens(tmp_path):
    ours = vit.build(SPEC).eval()
    path = export_encoder(ours, tmp_path / "encoder", {"recipe": "mae.tiny"})
    theirs = timm.create_model(f"local-dir:{path}", pretrained=True, num_classes=0).eval()
    torch.testing.assert_close(theirs.forward_features(images())[:, 1:], ours(images()).patches)
    assert theirs.pretrained_cfg["mean"] == list(RGB.mean)
    assert "create_model" in (path / "README.md").read_text()
    torch.testing.assert_close(load_encoder(path)(images()).patches, ours(images()).patches)


def test_an_exported_resnet_is_a_folder_that_timm_opens(tmp_path):
    ours = build(hierarchy.smoke().model_copy(update={"inputs": RGB})).eval()
    path = export_encoder(ours, tmp_path / "encoder", {})
    theirs = timm.create_model(f"local-dir:{path}", pretrained=True, num_classes=0).eval()
    torch.testing.assert_close(theirs.forward_features(images()), ours(images()).maps[-1])
    torch.testing.assert_close(load_encoder(path).eval()(images()).patches, ours(images()).patches)


def test_the_card_of_a_parallel_vit_is_code_that_loads_it(tmp_path):
    ours = vit.build(SPEC.model_copy(update={"branches": 4})).eval()
    path = export_encoder(ours, tmp_path / "encoder", {"recipe": "mae.tiny"})
    text = (path / "README.md").read_text()
    code = text.split("```python")[2].split("```")[0].replace("FOLDER", str(path))
    held: dict[str, object] = {}
    exec(code, held)
    theirs = held["encoder"].eval()
    torch.testing.assert_close(
        theirs.forward_features(images())[:, 1:], ours(images()).patches, rtol=1e-4, atol=1e-5
    )
    assert json.loads((path / "config.json").read_text())["spec"]["branches"] == 4


def test_a_windowed_backbone_takes_what_a_vit_was_pretrained_to(tmp_path):
    plain = vit.build(SPEC).eval()
    spec = vitdet.Spec.model_validate(
        SPEC.model_dump(exclude={"kind"}) | {"window": 0, "whole": (), "taps": (2,), "final_norm": True}
    )
    ours = vitdet.build(spec).eval()
    ours.load_state_dict(weights.adapted(plain.state_dict(), ours))
    torch.testing.assert_close(ours(images()).patches, plain.norm(plain.blocks(plain.embed(images()))))
    path = export_encoder(ours, tmp_path / "encoder", {})
    torch.testing.assert_close(load_encoder(path).eval()(images()).patches, ours(images()).patches)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: state.pop("pos_embed"), "lack pos_embed"),
        (lambda state: state.update({"blocks.9.norm1.weight": torch.ones(48)}), r"have also blocks\.9"),
        (
            lambda state: state.update({"patch_embed.proj.weight": torch.ones(48, 4, 16, 16)}),
            r"\(48, 4, 16, 16\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(change, sentence):
    state = timm_vit().state_dict()
    change(state)
    with pytest.raises(ValueError, match=sentence):
        weights.adapted(state, vit.build(SPEC))


class _Payload:
    def __reduce__(self):
        return print, ("executed",)


def test_a_checkpoint_that_wants_to_run_something_is_refused(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    torch.save({"model": _Payload()}, path)
    with pytest.raises(Corrupt, match="plain tensors"):
        weights.read(path)
    assert "executed" not in capsys.readouterr().out
    with pytest.raises(Missing, match="no weights"):
        weights.read(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("spec", "count", "channels"),
    [
        (hierarchy.resnet50(), 23_508_032, (256, 512, 1024, 2048)),
        (hierarchy.swin_t(), 27_519_354, (96, 192, 384, 768)),
        (hierarchy.swin_b(), 86_743_224, (128, 256, 512, 1024)),
    ],
)
def test_hierarchies_have_the_published_counts_and_four_stages(spec, count, channels):
    with torch.device("meta"):
        model = hierarchy.build(spec)
        found = model(torch.zeros(1, 3, 224, 224))
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert [tuple(level.shape) for level in found.maps] == [
        (1, channel, 56 >> stage, 56 >> stage) for stage, channel in enumerate(channels)
    ]
    assert found.patches.shape == (1, 49, channels[-1])


def test_hierarchies_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match="mixes neighbours"):
        build(hierarchy.smoke())(images(), keep=torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="no network of timm"):
        hierarchy.Spec(inputs=RGB, name="resnet51")
