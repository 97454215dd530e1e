"""Transfer: where weights come from, what learns, and that labels follow their pixels."""

from pathlib import Path

import pytest
import torch

from training.decoders import growing
from training.encoders import Inputs, vit
from training.export import export_encoder
from training.feed import Samples
from training.methods import Progress, finetune
from training.recipe import load
from training.tasks import classify, segment
from training.views import Viewing

START = Progress(0, 10)
INPUTS = Inputs(layer="s2", bands=("B02", "B03", "B04"), mean=(1000.0,) * 3, std=(500.0,) * 3)
ENCODER = vit.Spec(inputs=INPUTS, image=32, patch=8, width=32, depth=2, heads=2)
SEGMENT = segment.Spec(classes=("dark", "bright"), codes=(4, 7), decoder=growing.Spec(channels=8))
CLASSIFY = classify.Spec(classes=("dark", "bright"), label="tone")


def labelled(count: int = 8, side: int = 32, seed: int = 0) -> Samples:
    """Images of bright and dark squares, labelled pixel by pixel and by what they mostly are."""
    generator = torch.Generator().manual_seed(seed)
    bright = torch.rand(count, 4, 4, generator=generator) < torch.rand(count, 1, 1, generator=generator)
    bright = bright.repeat_interleave(side // 4, 1).repeat_interleave(side // 4, 2)
    pixels = torch.where(bright[:, None, None].expand(-1, 1, 3, -1, -1), 1500, 500)
    codes = torch.where(bright, 7, 4)[:, None, None]
    return Samples(
        ids=[f"{index}" for index in range(count)],
        layers={"s2": pixels.to(torch.uint16), "lc": codes.to(torch.uint8)},
        dates={
            "s2": torch.zeros(count, 1, dtype=torch.int32),
            "lc": torch.zeros(count, 1, dtype=torch.int32),
        },
        labels={"tone": bright.float().mean((1, 2)).round().long()},
        lonlat=torch.zeros(count, 2),
        region=torch.zeros(count, dtype=torch.int64),
        nodata={"s2": 0, "lc": 255},
    )


def learnt(model: finetune.FineTune, steps: int) -> dict[str, float]:
    optimizer = torch.optim.AdamW([part for part in model.parameters() if part.requires_grad], lr=3e-3)
    for step in range(steps):
        optimizer.zero_grad()
        model({"labelled": labelled(seed=1 + step % 8)}, START).total.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return model.metric().update(model.predict(labelled()), model.target(labelled())).scores()


def exported(tmp_path: Path, spec: vit.Spec = ENCODER) -> tuple[vit.ViT, str]:
    torch.manual_seed(1)
    encoder = vit.build(spec)
    export_encoder(encoder, tmp_path / "encoder", {})
    return encoder, str(tmp_path / "encoder")


def test_a_map_is_learnt_and_held_to_images_never_seen():
    torch.manual_seed(0)
    model = finetune.build(finetune.Spec(task=SEGMENT, encoder=ENCODER, views=Viewing(area=(0.5, 1.0))))
    assert learnt(model, steps=60)["mean_iou"] > 0.9


def test_a_label_is_learnt_and_held_to_images_never_seen():
    torch.manual_seed(0)
    model = finetune.build(finetune.Spec(task=CLASSIFY, encoder=ENCODER))
    assert learnt(model, steps=40)["accuracy"] == 1


def test_labels_follow_their_pixels_through_every_view():
    torch.manual_seed(0)
    model = finetune.build(finetune.Spec(task=SEGMENT, encoder=ENCODER))
    samples = labelled()
    images, target = model.views(samples)
    assert torch.equal(images[:, 0, 0] > 0, target == 1)
    model.eval()
    straight, as_is = model.views(samples)
    assert torch.equal(as_is, model.target(samples))
    assert not torch.equal(images, straight)
    cropped = finetune.build(finetune.Spec(task=SEGMENT, encoder=ENCODER, views=Viewing(area=(0.3, 0.6))))
    images, target = cropped.views(samples)
    assert images.shape == (8, 1, 3, 32, 32)
    assert ((images[:, 0, 0] > 0) == (target == 1)).float().mean() > 0.95  # bilinear pixels, nearest labels


def test_evaluation_repeats_itself():
    model = finetune.build(finetune.Spec(task=SEGMENT, encoder=ENCODER)).eval()
    batch = {"labelled": labelled()}
    assert model(batch, START).total.item() == model(batch, START).total.item()


def test_a_frozen_encoder_stays_as_it_was():
    torch.manual_seed(0)
    spec = ENCODER.model_copy(update={"drop_path": 0.5})
    model = finetune.build(finetune.Spec(task=SEGMENT, encoder=spec, freeze=True))
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    head = {name: value.clone() for name, value in model.task.state_dict().items()}
    learnt(model.train(), steps=2)
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())
    assert not all(torch.equal(value, head[name]) for name, value in model.task.state_dict().items())
    assert not model.train().encoder.training and model.task.training


@pytest.mark.parametrize("named", [True, False])
def test_an_exported_encoder_is_where_training_starts(named, tmp_path):
    encoder, folder = exported(tmp_path)
    wanted = ENCODER.model_copy(
        update={"drop_path": 0.2, "inputs": INPUTS.model_copy(update={"mean": (), "std": ()})}
    )
    model = finetune.build(finetune.Spec(task=SEGMENT, encoder=wanted if named else None, init=folder))
    for name, value in encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], value), name
    assert model.inputs == INPUTS  # the statistics it was made with
    assert model.encoder.spec.drop_path == (0.2 if named else 0)


@pytest.mark.parametrize(
    ("changes", "different"),
    [({"depth": 3}, "depth"), ({"heads": 4}, "heads"), ({"image": 64, "patch": 16}, "image, patch")],
)
def test_an_encoder_of_another_shape_is_refused(changes, different, tmp_path):
    _, folder = exported(tmp_path)
    with pytest.raises(ValueError, match=f"another {different} than"):
        finetune.build(finetune.Spec(task=SEGMENT, encoder=ENCODER.model_copy(update=changes), init=folder))


def test_an_encoder_of_other_bands_is_refused(tmp_path):
    _, folder = exported(tmp_path)
    swapped = ENCODER.model_copy(
        update={"inputs": INPUTS.model_copy(update={"bands": ("B04", "B03", "B02")})}
    )
    with pytest.raises(ValueError, match="another bands than"):
        finetune.build(finetune.Spec(task=SEGMENT, encoder=swapped, init=folder))


def test_a_head_starts_alike_whatever_the_encoder_starts_from(tmp_path):
    _, folder = exported(tmp_path)
    heads = []
    for init in (None, folder):
        torch.manual_seed(3)
        heads.append(
            finetune.build(finetune.Spec(task=SEGMENT, encoder=ENCODER, init=init)).task.state_dict()
        )
    assert all(torch.equal(value, heads[1][name]) for name, value in heads[0].items())


def test_a_task_without_an_encoder_is_refused():
    with pytest.raises(ValueError, match="needs an encoder"):
        finetune.Spec(task=SEGMENT)


def test_the_head_counts_as_the_last_layer():
    model = finetune.build(finetune.Spec(task=SEGMENT, encoder=ENCODER))
    assert model.last_layer == 3
    assert model.layer_id("encoder.blocks.0.norm1.weight") == 1
    assert model.layer_id("encoder.norm.weight") == model.layer_id("task.head.0.0.weight") == 3


def test_recipes_take_overrides_inside_the_task_and_the_encoder():
    recipe = load(
        "finetune.segment_demo", ["method.encoder.width=64", "method.freeze=true", "method.init=runs/x"]
    )
    assert recipe.method.encoder.width == 64 and recipe.method.encoder.inputs.bands[0] == "B01"
    assert recipe.method.freeze and recipe.method.init == "runs/x"
    assert (
        load("finetune.segment_smoke", ["method.encoder=null", "method.init=runs/x"]).method.encoder is None
    )
    with pytest.raises(ValueError, match=r"method\.encoder\.depht"):
        load("finetune.smoke", ["method.encoder.depht=3"])
    assert load("finetune.classify_smoke").method.task.pool == "cls"
