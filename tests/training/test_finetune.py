"""Transfer: where weights come from, what learns, what is looked at, and that a killed run goes on bit for bit."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from geodata.benchmarks import fraction
from training import evaluate
from training.decoders import growing, siamese_unet
from training.encoders import Inputs, Tokens, hierarchy, vit
from training.export import export_encoder
from training.feed import Samples
from training.loop import train
from training.methods import Progress, finetune
from training.reading import Crew, Row, Source
from training.recipe import Stream, load, replace
from training.sliding import sliding
from training.tasks import Series, Task, change, classify, segment
from training.views import Viewing, whole

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


TINY = [
    "method.encoder={kind: vit, image: 16, patch: 8, width: 16, depth: 2, heads: 2, drop_path: 0.1, "
    "inputs: {layer: s2, bands: [B02, B03, B04, B08]}}",
    "method.task.classes=[dark, bright]",
    "method.task.codes=[0, 1]",
    "method.views={zoom: [0.5, 2.0], crop: 16, turns: dihedral}",
    "steps=7",
    "batch=4",
    "log_every=1",
    "checkpoint_every=2",
]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [[], ["method.freeze=true"]])
def test_a_fine_tune_that_was_killed_goes_on_bit_for_bit(corpus, tmp_path, changes):
    recipe = load("finetune.segment_smoke", [*TINY, *changes, f"streams.labelled.corpus={corpus}"])

    def killed(checkpoint: Path) -> None:
        raise KeyboardInterrupt(str(checkpoint))

    train(recipe, tmp_path / "whole")
    for _ in range(2):  # after the second step and after the fourth
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "cut", on_checkpoint=killed)
    train(recipe, tmp_path / "cut")
    scores, losses, states = [], [], []
    for folder in (tmp_path / "whole", tmp_path / "cut"):
        settings, method = evaluate.restore(folder)
        scores.append(evaluate.evaluate(method, evaluate.held_out(settings, "test", 4)))
        states.append(method.state_dict())
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses.append({row["step"]: (row["loss"], row["gradient_norm"]) for row in rows})
    assert losses[0] == losses[1] and len(losses[0]) == 7
    assert scores[0] == pytest.approx(scores[1], nan_ok=True, rel=0, abs=0)
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_share_of_the_labels_is_the_same_for_all_nested_and_alike_in_every_class(corpus):
    def ids(share: float) -> dict[str, int]:
        source = Source(Stream(corpus=str(corpus), layers=("s2", "lc"), share=share))
        rows = [Row(source.read(part), row) for part, rows in enumerate(source.rows) for row in rows.tolist()]
        found = source.batch(rows, Crew(0))
        return dict(zip(found.ids, found.labels["class"].tolist(), strict=True))

    whole, half, quarter = ids(1.0), ids(0.5), ids(0.25)
    assert len(whole) == 48 and quarter.keys() < half.keys() < whole.keys()
    assert half == ids(0.5)
    for code in (0, 1):
        size = list(whole.values()).count(code)
        assert list(half.values()).count(code) == int(size / 2 + 0.5)
        assert list(quarter.values()).count(code) == int(size / 4 + 0.5)
    chosen = fraction(list(whole), list(whole.values()), 0.25, seed=0)
    assert chosen == quarter.keys()


def test_held_out_samples_are_all_scored_whatever_share_is_trained_on(corpus):
    recipe = load("finetune.segment_smoke", [*TINY, f"streams.labelled.corpus={corpus}"])
    small = replace(recipe, streams={"labelled": replace(recipe.streams["labelled"], share=0.1)})
    assert sum(len(batch["labelled"]) for batch in evaluate.held_out(small, "val", 5)) == 12


class Echo(torch.nn.Module):
    """An encoder whose one token a pixel is the pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.spec, self.width, self.patch, self.last_layer = ENCODER, 3, 1, 0

    def forward(self, images: torch.Tensor) -> Tokens:
        height, width = images.shape[-2:]
        return Tokens(None, images.flatten(2).transpose(1, 2), height, width)


class Bright(Task):
    """Logits that are the first band, its negative, and how far from the window's edge a pixel lies."""

    dense = True
    spec = SEGMENT

    def logits(self, features: Tokens, size: tuple[int, int]) -> torch.Tensor:
        image = features.map()[:, 0]
        ramp = torch.linspace(0, 1, image.shape[-1]).expand_as(image)
        return torch.stack([-image * ramp, image], 1)


def test_large_images_are_looked_at_through_windows():
    settings = finetune.Spec(task=SEGMENT, encoder=ENCODER, window=finetune.Window(size=16, stride=8))
    model = finetune.build(settings).eval()
    model.encoder, model.task = Echo(), Bright()
    samples = labelled(2)
    images = whole(samples, INPUTS, Viewing(), 1)[:, 0]

    def of_window(part: torch.Tensor) -> torch.Tensor:
        return model.task.logits(model.encoder(part), part.shape[-2:])

    assert torch.equal(model.logits(samples), sliding(of_window, images, 16, 8, 2))
    without = finetune.build(settings.model_copy(update={"window": None})).eval()
    without.encoder, without.task = Echo(), Bright()
    assert torch.equal(without.logits(samples), of_window(images))
    assert not torch.equal(without.logits(samples), model.logits(samples))


def test_chips_brought_to_another_size_are_scored_at_their_own():
    model = finetune.build(finetune.Spec(task=SEGMENT, encoder=ENCODER, views=Viewing(side=48))).eval()
    assert model.predict(labelled(2)).shape == (2, 32, 32)
    assert model.views(labelled(2))[0].shape == (2, 1, 3, 48, 48)


def test_a_plain_vit_takes_the_form_a_protocol_asks_for(tmp_path):
    encoder, folder = exported(tmp_path)
    views = Viewing(crop=64, turns="flips")
    spec = finetune.Spec(task=SEGMENT, init=folder, form="vitdet", drop_path=0.2, views=views)
    model = finetune.build(spec)
    form = model.encoder.spec
    assert (form.kind, form.image, form.positions, form.drop_path) == ("vitdet", 64, 32, 0.2)
    assert form.taps == form.whole == (1, 2)
    name = "blocks.0.attn.qkv.weight"
    assert torch.equal(model.encoder.state_dict()[name], encoder.state_dict()[name])
    adapted = finetune.build(finetune.Spec(task=SEGMENT, init=folder, form="adapter"))
    assert adapted.encoder.spec.kind == "adapter" and adapted.inputs == INPUTS
    assert torch.equal(adapted.encoder.state_dict()[f"inner.{name}"], encoder.state_dict()[name])
    net = hierarchy.Spec(inputs=INPUTS, name="resnet10t")
    assert finetune.build(finetune.Spec(task=SEGMENT, encoder=net, form="dilated")).encoder.patch == 8
    assert finetune.build(finetune.Spec(task=SEGMENT, encoder=net, form="vitdet")).encoder.spec == net


def test_bands_take_the_place_of_those_an_encoder_was_made_for(tmp_path):
    encoder, folder = exported(tmp_path)
    other = Inputs(layer="hr", bands=("R", "G", "B"), mean=(1.0,) * 3, std=(2.0,) * 3)
    model = finetune.build(finetune.Spec(task=SEGMENT, init=folder, inputs=other))
    assert model.inputs == other
    assert torch.equal(model.encoder.state_dict()["norm.weight"], encoder.state_dict()["norm.weight"])
    with pytest.raises(ValueError, match=r"reads 3 bands, method\.inputs names 1"):
        finetune.build(finetune.Spec(task=SEGMENT, init=folder, inputs=Inputs(layer="hr", bands=("R",))))


def test_a_pair_is_encoded_as_one_batch_and_a_single_date_refused():
    spec = finetune.Spec(task=change.Spec(decoder=siamese_unet.Spec(channels=(8, 8, 8, 8))), encoder=ENCODER)
    model = finetune.build(spec)
    samples = labelled(3)
    pairs = dataclasses.replace(
        samples,
        layers={
            "s2": samples.layers["s2"].to(torch.int32).repeat(1, 2, 1, 1, 1),
            "mask": (samples.layers["lc"] == 7).to(torch.uint8),
        },
        dates={"s2": torch.tensor([[10, 400]] * 3), "mask": torch.zeros(3, 1, dtype=torch.int32)},
    )
    images = whole(pairs, INPUTS, Viewing(), 2)
    series = model.features(images, pairs)
    assert isinstance(series, Series) and len(series.tokens.patches) == 6
    alone = model.encoder(images[1])  # the two dates of the second sample lie next to each other
    torch.testing.assert_close(series.tokens.patches[2:4], alone.patches)
    assert series.days.tolist() == [[10, 400]] * 3 and series.present.all()
    assert model({"labelled": pairs}, START).total.isfinite()
    with pytest.raises(ValueError, match="compares two dates of 's2', the samples have 1"):
        model.dates(samples)
