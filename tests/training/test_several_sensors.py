"""Fine-tuning on several sensors at once: any parts, frozen or learning, with labels that follow every sensor's pixels."""

import pytest
import torch
from conftest import BANDS, write_corpus
from torch import Tensor

from training import evaluate, prototypes
from training.augment import PADDING
from training.decoders import fcn, upernet
from training.encoders import Inputs, sentinel
from training.encoders import spatiotemporal as st
from training.export import export_encoder, load_encoder
from training.feed import Samples
from training.loop import train
from training.methods import Progress, finetune
from training.observation import Observation, observed, turned
from training.recipe import Stream, load, replace
from training.tasks import classify, crops, multilabel, segment
from training.views import Viewing

START = Progress(0, 10)
FIELDS = segment.Spec(classes=("bare", "green"), layer="lc", decoder=fcn.Spec(channels=8))


def filled(spec: st.Spec) -> st.Spec:
    """The spec with statistics under which stored pixels of these samples are about one."""

    def one(part):
        bands = len(part.inputs.bands)
        inputs = part.inputs.model_copy(update={"mean": (100.0,) * bands, "std": (50.0,) * bands})
        return part.model_copy(update={"inputs": inputs})

    parts = {name: one(part) for name, part in spec.sensors.items()}
    return spec.model_copy(update={**parts, "inputs": next(iter(parts.values())).inputs})


WHOLE = filled(st.tiny())


def placed(count: int = 4, dates: int = 3, side: int = 4, seed: int = 0) -> Samples:
    """Places whose Sentinel-2 is bright where something grows, but only on their second date; the rest is noise."""
    generator = torch.Generator().manual_seed(seed)
    green = torch.rand(count, side, side, generator=generator) < 0.5

    def noise(*shape: int) -> Tensor:
        return 100 + 30 * torch.randn(count, *shape, generator=generator)

    s2 = noise(dates, 10, side, side)
    s2[:, 1] += 100 * green[:, None]
    days = 18000 + 60 * torch.arange(dates, dtype=torch.int32).expand(count, -1)
    short = days.clone()
    short[0, -1] = PADDING
    return Samples(
        ids=[str(number) for number in range(count)],
        layers={
            "hr": noise(1, 3, 32 * side, 32 * side).clamp(0, 255).to(torch.uint8),
            "s2": s2.clamp(1, 1000).to(torch.uint16),
            "s1": noise(dates, 2, side, side).to(torch.int16),
            "lc": green[:, None, None].to(torch.uint8),
        },
        dates={"hr": days[:, :1], "s2": days, "s1": short, "lc": days[:, :1]},
        labels={"much": (green.float().mean((1, 2)) > 0.5).long(), "both": 1 + (green.any((1, 2))).long()},
        lonlat=torch.tensor([[10.0, 50.0]]).expand(count, -1),
        region=torch.zeros(count, dtype=torch.int64),
        nodata={"hr": 0, "s2": 0, "s1": -32768, "lc": 255},
    )


def test_an_observation_is_the_samples_normalised():
    samples = placed()
    seen = observed(samples, WHOLE.reads, torch.zeros(4, dtype=torch.int64))
    assert {name: tuple(images.shape) for name, images in seen.images.items()} == {
        "hr": (4, 1, 3, 128, 128),
        "s2": (4, 3, 10, 4, 4),
        "s1": (4, 3, 2, 4, 4),
    }
    torch.testing.assert_close(seen.images["s2"], (samples.layers["s2"].float() - 100) / 50)
    assert (
        seen.present["s1"].tolist() == [[True, True, False]] + [[True] * 3] * 3 and seen.present["s2"].all()
    )
    assert torch.equal(seen.days["s2"], samples.dates["s2"].long())


@pytest.mark.parametrize(("turns", "many"), [("none", 1), ("across", 2), ("flips", 4), ("dihedral", 8)])
def test_all_sensors_and_the_labels_turn_together(turns, many):
    grid = torch.arange(16.0).reshape(1, 4, 4).expand(64, -1, -1)
    fine = grid.repeat_interleave(8, 1).repeat_interleave(8, 2)
    days = torch.zeros(64, 2, dtype=torch.int64)
    there = torch.ones(64, 2, dtype=torch.bool)
    seen = Observation(
        {
            "hr": fine[:, None, None].expand(-1, 2, 3, -1, -1),
            "s2": grid[:, None, None].expand(-1, 2, 1, -1, -1),
        },
        {"hr": days, "s2": days},
        {"hr": there, "s2": there},
    )
    found, labels = turned(seen, turns, grid, torch.Generator().manual_seed(0))
    assert torch.equal(found.images["s2"][:, 1, 0], labels)
    assert torch.equal(found.images["hr"][:, 0, 2, ::8, ::8], labels)
    assert len({tuple(one.flatten().tolist()) for one in labels}) == many


@pytest.mark.parametrize(
    ("parts", "task"),
    [
        (("s2", "fusion"), "label"),
        (("s2", "s1", "fusion"), "labels"),
        (("s2", "s1", "fusion", "places"), "fields"),
        (("hr", "s2", "s1", "fusion"), "label"),
        (("hr", "s2", "s1", "fusion", "places"), "fields"),
    ],
    ids=str,
)
def test_any_parts_do_any_task(parts, task):
    torch.manual_seed(0)
    tasks = {
        "fields": FIELDS,
        "label": classify.Spec(classes=("little", "much"), label="much"),
        "labels": multilabel.Spec(classes=("some", "none"), label="both"),
    }
    model = finetune.build(finetune.Spec(task=tasks[task], encoder=WHOLE.only(parts)))
    assert model.encoder.width == 96 * (2 if "places" in parts else 1)
    samples = placed()
    model({"labelled": samples}, START).total.backward()
    assert all(one.grad is not None for one in model.task.parameters())
    model.eval()
    with torch.no_grad():
        found, target = model.predict(samples), model.target(samples)
    assert found.shape == target.shape
    assert (
        model({"labelled": samples}, START).total.item() == model({"labelled": samples}, START).total.item()
    )
    model.metric().update(found, target).scores()


@pytest.mark.slow
def test_what_grows_is_learnt_from_a_series_and_not_from_its_first_date():
    shallow = {
        "s2": WHOLE.s2.model_copy(update={"depth": 1}),
        "fusion": WHOLE.fusion.model_copy(update={"depth": 1}),
    }

    def score(sensor_dates: slice) -> float:
        torch.manual_seed(0)
        encoder = WHOLE.model_copy(update=shallow).only(("s2", "fusion"))
        model = finetune.build(finetune.Spec(task=FIELDS, encoder=encoder))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

        def looked(seed: int) -> Samples:
            samples = placed(8, seed=seed)
            samples.layers["s2"], samples.dates["s2"] = (
                part["s2"][:, sensor_dates] for part in (samples.layers, samples.dates)
            )
            return samples

        for step in range(50):
            optimizer.zero_grad()
            model({"labelled": looked(1 + step)}, START).total.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            samples = looked(1000)
            return model.metric().update(model.predict(samples), model.target(samples)).scores()["accuracy"]

    assert score(slice(0, 3)) > 0.95 and score(slice(0, 1)) < 0.65


def test_upernet_reads_the_fine_maps_beside_the_fused_cells():
    torch.manual_seed(0)
    task = segment.Spec(classes=("bare", "green"), decoder=upernet.Spec(channels=8), auxiliary=0.4)
    model = finetune.build(finetune.Spec(task=task, encoder=WHOLE))
    assert set(model({"labelled": placed()}, START).parts) == {"cross_entropy", "auxiliary"}


def test_parts_of_an_exported_whole_are_where_training_starts(tmp_path):
    torch.manual_seed(1)
    whole = st.build(WHOLE)
    folder = str(export_encoder(whole, tmp_path / "whole", {}))
    for parts in (("s2", "s1", "fusion", "places"), ("s1",), ()):
        spec = finetune.Spec(
            task=classify.Spec(classes=("little", "much"), label="much"), init=folder, parts=parts
        )
        model = finetune.build(spec)
        state = whole.state_dict() if parts != ("s1",) else whole.s1.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in model.encoder.state_dict().items())
        model({"labelled": placed()}, START)
    assert isinstance(finetune.build(spec.model_copy(update={"parts": ("s1",)})).encoder, sentinel.Sentinel)
    bare = st.tiny()  # says nothing of statistics, which come with the weights
    chosen = ("s2", "s1", "fusion")
    both = finetune.build(spec.model_copy(update={"encoder": bare.only(chosen), "parts": chosen}))
    assert both.encoder.spec.s1.inputs.mean == (100.0, 100.0) and both.encoder.spec.inputs.std == (50.0,) * 10
    deeper = bare.model_copy(update={"s1": bare.s1.model_copy(update={"depth": 2})}).only(chosen)
    with pytest.raises(ValueError, match="has another s1 than"):
        finetune.build(spec.model_copy(update={"encoder": deeper, "parts": chosen}))


def test_one_sensor_is_put_under_a_dense_head_with_maps_of_its_layers_or_norms_of_its_stages(tmp_path):
    torch.manual_seed(1)
    whole = st.build(WHOLE)
    folder = str(export_encoder(whole, tmp_path / "whole", {}))
    task = segment.Spec(classes=("bare", "green"), decoder=upernet.Spec(channels=8))
    tapped = st.tiny().s2.model_copy(update={"taps": (1, 2, 3, 4)})
    model = finetune.build(finetune.Spec(task=task, init=folder, encoder=tapped, parts=("s2",)))
    assert torch.equal(model.encoder.pos_embed, whole.s2.pos_embed) and model.encoder.strides == (4,) * 4
    model({"labelled": placed(side=16)}, START)
    normed = st.tiny().hr.model_copy(update={"stage_norms": True})
    model = finetune.build(finetune.Spec(task=task, init=folder, encoder=normed, parts=("hr",)))
    state = model.encoder.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.hr.state_dict().items())
    assert {name for name in state if name not in whole.hr.state_dict()} == {
        f"stage_norms.{stage}.{part}" for stage in range(3) for part in ("weight", "bias")
    }
    labels = torch.zeros(4, 128, 128, dtype=torch.int64)
    model.task(model.features(torch.zeros(4, 1, 3, 128, 128), placed()), labels)


@pytest.mark.slow
def test_series_of_a_corpus_are_learnt_by_the_loop_judged_and_exported(tmp_path):
    """Of two or three dates each, so that some are filled up; the statistics of the bands are the corpus's."""
    root = write_corpus(
        tmp_path / "tiny@1", {"train": 24, "val": 4, "test": 4}, dates=lambda number: 2 + number % 2
    )
    s2 = st.tiny().s2.model_copy(update={"inputs": Inputs(layer="s2", bands=BANDS), "depth": 1})
    fused = st.tiny().fusion.model_copy(update={"depth": 1})
    recipe = replace(
        load("finetune.segment_smoke", []),
        method=finetune.Spec(
            task=segment.Spec(classes=("dark", "bright"), decoder=fcn.Spec(channels=8)),
            encoder=st.Spec(s2=s2, fusion=fused, channels=32, places=prototypes.Spec(side=2, count=3)),
        ),
        streams={"labelled": Stream(corpus=str(root), layers=("s2", "lc"))},
        batch=8,
        steps=12,
    )
    train(recipe, tmp_path / "run")
    settings, method = evaluate.restore(tmp_path / "run")
    assert evaluate.evaluate(method, evaluate.held_out(settings, "test", 4))["accuracy"] > 0.9
    loaded = load_encoder(tmp_path / "run" / "encoder")
    assert torch.equal(loaded.places.held, method.encoder.places.held)
    inputs = loaded.spec.s2.inputs
    assert inputs.mean == loaded.spec.inputs.mean and 500 < min(inputs.mean) < max(inputs.mean) < 4000


@pytest.mark.parametrize("frozen", [("hr",), ("hr", "s2", "s1", "up"), ("fusion", "dates")], ids="-".join)
def test_frozen_parts_stay_while_the_others_learn(frozen):
    torch.manual_seed(0)
    spread = WHOLE.model_copy(update={"fusion": WHOLE.fusion.model_copy(update={"drop_path": 0.5})})
    model = finetune.build(finetune.Spec(task=FIELDS, encoder=spread, frozen=frozen)).train()
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=1.0)
    model({"labelled": placed()}, START).total.backward()
    optimizer.step()
    still = {name for name, value in model.encoder.state_dict().items() if torch.equal(value, before[name])}
    for name, _ in model.encoder.named_parameters():
        if name.partition(".")[0] in frozen:
            assert name in still, name
    assert any(name.partition(".")[0] not in (*frozen, "places") and name not in still for name in before)
    assert (
        {name.partition(".")[0] for name in before if name.startswith("places")}
        == {"places"}
        <= {name.partition(".")[0] for name in still}
    )
    assert all(not model.encoder.get_submodule(name).training for name in frozen)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task": crops.Spec(classes=("bare", "green"))}, "sums up dates itself"),
        ({"views": Viewing(area=(0.2, 1.0))}, "cut and turned alike"),
        ({"inputs": WHOLE.inputs}, "cut and turned alike"),
        ({"frozen": ("s3",)}, "not 's3'"),
        ({"parts": ("s2",), "encoder": WHOLE.s2}, "taken out of an encoder of several sensors"),
        ({"reads": st.Reads(hr=WHOLE.s1.inputs)}, "hr reads 3 bands, method.reads names 2"),
        ({"reads": st.Reads(), "encoder": WHOLE.s2}, "has one sensor: set inputs"),
        ({"drop_path": 0.1}, "has no drop path"),
    ],
)
def test_what_cannot_be_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        finetune.build(finetune.Spec(**{"task": FIELDS, "encoder": WHOLE} | changes))
