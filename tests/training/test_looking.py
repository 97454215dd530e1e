"""Where a class token looks, against timm; and what a study's looks hold."""

import json
from functools import partial

import pytest
import timm
import torch
from PIL import Image
from torch import nn

from training import known, looks, pictures, probe
from training.encoders import Inputs, hierarchy, learned, vit
from training.feed import Samples
from training.memory import Teacher
from training.recipe import Stream

RGB = Inputs(layer="hr", bands=("R", "G", "B"), mean=(100.0, 110.0, 120.0), std=(50.0, 60.0, 70.0))
TINY = {"inputs": RGB, "image": 32, "patch": 8, "width": 32, "depth": 3, "heads": 4}


def photographs(count, seed):
    """Two classes, red and green, with much noise."""
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(1, 100, (count, 1, 3, 35, 35), generator=draw)
    classes = torch.arange(count) % 2
    pixels[torch.arange(count), :, classes] += 120
    return Samples(
        [f"{seed}-{number}" for number in range(count)],
        {"hr": pixels.to(torch.uint8)},
        {"hr": torch.zeros(count, 1, dtype=torch.int32)},
        {"class": classes},
        torch.zeros(count, 2),
        torch.zeros(count),
        {"hr": RGB.bands},
    )


def test_attention_is_that_of_timms_last_layer():
    torch.manual_seed(0)
    encoder = vit.build(vit.Spec(**TINY)).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    ).eval()  # fmt: skip
    theirs.load_state_dict(encoder.state_dict())
    last, seen = theirs.blocks[-1].attn, []
    last.fused_attn = False
    last.attn_drop.register_forward_hook(lambda _, __, out: seen.append(out))
    images = torch.randn(2, 3, 32, 32)
    theirs(images)
    expected = seen[0][:, :, 0, 1:].unflatten(2, (4, 4))
    assert expected.std() > 0.01
    torch.testing.assert_close(pictures.attention(encoder, images), expected, atol=1e-5, rtol=1e-4)


def test_every_branch_has_its_heads_and_learned_positions_make_no_difference():
    images = torch.randn(2, 3, 32, 48)
    wide = pictures.attention(vit.build(vit.Spec(**TINY, branches=2)), images)
    assert wide.shape == (2, 8, 4, 6)
    assert (wide.sum((2, 3)) < 1).all() and wide.min() > 0
    assert pictures.attention(learned.build(learned.Spec(**TINY)), images).shape == (2, 4, 4, 6)
    with pytest.raises(ValueError, match="Hierarchy has no class token"):
        pictures.attention(hierarchy.build(hierarchy.Spec(inputs=RGB, name="resnet10t")), images)


def test_attention_maps_are_panels_of_the_image_the_mean_and_the_heads(tmp_path):
    encoder = vit.build(vit.Spec(**TINY)).train()
    paths = pictures.attentions(encoder, photographs(3, 0), tmp_path, count=2)
    assert encoder.training
    assert [path.name for path in paths] == ["attention-0-0.png", "attention-0-1.png"]
    with Image.open(paths[0]) as opened:
        panels = opened.convert("RGB")
    side = 32 * 6
    assert panels.size == (6 * side + 5 * 4, side)
    weights = pictures.attention(encoder, probe.viewed(encoder, photographs(3, 0)))[0]
    for panel, heat in ((1, weights.mean(0)), (5, weights[3])):
        tiles = torch.tensor([[sum(panels.getpixel((panel * (side + 4) + column * 48 + 24, row * 48 + 24)))
                               for column in range(4)] for row in range(4)])  # fmt: skip
        assert tiles.argmax() == heat.argmax() and tiles.argmin() == heat.argmin()


class Distilled(nn.Module):
    """As far as looks care: an encoder, and a teacher that has moved a little."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = vit.build(vit.Spec(**TINY))
        self.teacher = Teacher(self.encoder)
        with torch.no_grad():
            for parameter in self.teacher.parameters():
                parameter.mul_(1.01)


def red_and_green():
    def split(seed, count):
        return lambda: probe.labelled([photographs(count, seed), photographs(count, seed + 1)])

    nowhere = Stream(corpus="nowhere", layers=("hr",))
    return known.Ground(nowhere, ("red", "green"), split(1, 40), split(3, 20))


def test_looks_hold_every_kind_that_was_asked_for(tmp_path):
    kinds = ("attention", "features", "distances", "stages")
    looks.look(Distilled(), kinds, tmp_path, [photographs(1, 9)], red_and_green())
    numbers = json.loads((tmp_path / "looks.json").read_text())
    assert numbers["classes"] == ["red", "green"] and numbers["absent"] == {}
    found = numbers["features"]
    assert (
        found["samples"] == len(found["classes"]) == len(found["principal"]) == len(found["neighbours"]) == 40
    )
    assert found["classes"] == [0, 1] * 20
    assert found["knn"] == 1.0
    assert numbers["stages"]["pretrained"] == [1.0] * 4
    assert len(numbers["stages"]["untrained"]) == 4
    for bins in numbers["distances"].values():
        assert len(bins["edges"]) == len(bins["shares"]) + 1
        assert 0.97 < sum(bins["shares"]) <= 1.0001
    assert 0 < numbers["distances"]["differences"]["edges"][-1] < 0.5
    assert [entry["kind"] for entry in json.loads((tmp_path / "index.json").read_text())] == ["attention"]


def test_what_a_method_has_nothing_to_show_for_is_said(tmp_path):
    method = nn.Module()
    method.encoder = hierarchy.build(hierarchy.Spec(inputs=RGB, name="resnet10t"))
    looks.look(
        method, ("reconstruction", "attention", "distances"), tmp_path, [photographs(1, 9)], red_and_green()
    )
    assert json.loads((tmp_path / "looks.json").read_text())["absent"] == {
        "reconstruction": "Module reconstructs no pixels",
        "attention": "Hierarchy has no class token, so nothing that looks at its patches",
        "distances": "Module has no teacher",
    }
    assert json.loads((tmp_path / "index.json").read_text()) == []
