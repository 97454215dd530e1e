"""Protocols on several sensors at once, at tiny size: what is cut, thinned and joined, and that every part learns."""

import pytest
import torch
from test_protocols import invented

from geodata import benchmarks
from training import prototypes
from training.augment import PADDING
from training.encoders import Inputs
from training.encoders import spatiotemporal as st
from training.methods import Progress, build, finetune
from training.observation import Observation, cropped, cut, scaled, thinned
from training.recipe import load
from training.regions import NOWHERE

NAMES = (
    "skysense_bigearthnet_mm",
    "skysense_dynamicearthnet_mm",
    "skysense_dynamicearthnet_mm_prototypes",
    "skysense_pastis_mm",
)
SIDES = {"skysense_bigearthnet_mm": 12, "skysense_pastis_mm": 12}
CHIP = 64


def filled(inputs: Inputs) -> Inputs:
    count = len(inputs.bands)
    return inputs.model_copy(update={"mean": (100.0,) * count, "std": (50.0,) * count})


def small(name: str) -> finetune.FineTune:
    """A protocol's method on a tiny encoder, images of a few cells."""
    method = load(name).method
    whole = st.tiny().model_copy(update={"places": prototypes.Spec(side=2, count=3)})
    whole = whole.reading({part: filled(inputs) for part, inputs in whole.reads.items()})
    changes = {"encoder": whole, "views": method.views.model_copy(update={"dates": method.views.dates and 2})}
    if method.window is not None:
        changes["window"] = finetune.Window(size=4, stride=4)
        changes["views"] = changes["views"].model_copy(update={"side": method.views.side and 256, "crop": 4})
    if method.reads is not None:
        changes["reads"] = st.Reads(hr=filled(method.reads.hr))
    torch.manual_seed(0)
    return build(method.model_copy(update=changes))


def samples(name: str, count: int = 2):
    data = benchmarks.find(load(name).streams["labelled"].corpus.split("/")[-1].split("@")[0])
    found = invented(data, SIDES.get(name, CHIP), count)
    for layer in found.layers:
        if layer != "mask":
            found.layers[layer] = found.layers[layer].clamp(min=1)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_part_that_is_named_learns_and_the_whole_is_scored(name):
    model, seen = small(name), samples(name)
    parts = set(model.spec.parts)
    there = {one for one, part in model.encoder.named_children() if part is not None}
    assert parts <= there and there - parts <= {"up", "dates"}
    losses = model.train()({"labelled": seen}, Progress(0, 10))
    losses.total.backward()
    assert losses.total.isfinite()
    without = [one for one, part in model.encoder.named_parameters() if part.grad is None]
    assert without == []
    model.eval()
    with torch.no_grad():
        found, target = model.predict(seen), model.target(seen)
    assert found.shape == target.shape
    assert any(value == value for value in model.metric().update(found, target).scores().values())


@pytest.mark.slow
def test_eight_chips_of_radar_and_colour_are_learnt_by_heart():
    model = small("skysense_bigearthnet_mm").train()
    seen = samples("skysense_bigearthnet_mm", 8)
    for layer in ("s2", "s1"):  # every chip has colours of its own, on which noise lies
        pixels = seen.layers[layer][..., :8, :8]
        own = torch.randint(
            20, 300, (8, 1, pixels.shape[2], 1, 1), generator=torch.Generator().manual_seed(1)
        )
        seen.layers[layer] = own + pixels // 10
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(40):
        optimizer.zero_grad()
        model({"labelled": seen}, Progress(0, 10)).total.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        score = model.metric().update(model.predict(seen), model.target(seen)).scores()
    assert score["map_micro"] > 0.99


def test_what_is_read_and_used_is_what_the_protocol_says():
    planet, plain = small("skysense_dynamicearthnet_mm_prototypes"), small("skysense_dynamicearthnet_mm")
    assert planet.encoder.spec.hr.inputs.layer == "ps" and planet.encoder.spec.hr.inputs.bands == (
        "R",
        "G",
        "B",
    )
    assert planet.encoder.spec.inputs == planet.encoder.spec.hr.inputs
    assert planet.encoder.width == 2 * plain.encoder.width and plain.encoder.places is None
    assert small("skysense_bigearthnet_mm").encoder.hr is None
    where = planet._observed(samples("skysense_dynamicearthnet_mm_prototypes")).region
    assert (where != NOWHERE).all()


@pytest.mark.slow
def test_logits_of_windows_are_the_mean_of_what_each_window_says():
    model, seen = small("skysense_dynamicearthnet_mm").eval(), samples("skysense_dynamicearthnet_mm", 1)
    model.spec = model.spec.model_copy(update={"window": finetune.Window(size=4, stride=3)})
    with torch.no_grad():
        found, all_of_it = model.logits(seen), model._observed(seen)
        total, count = torch.zeros_like(found), torch.zeros(CHIP, CHIP)
        for top in (0, 3, 4):
            for left in (0, 3, 4):
                images = {
                    sensor: image[..., scale * top : scale * (top + 4), scale * left : scale * (left + 4)]
                    for scale, (sensor, image) in zip((32, 1, 1), all_of_it.images.items(), strict=True)
                }
                part = Observation(images, all_of_it.days, all_of_it.present, all_of_it.region)
                rows, columns = (slice(8 * one, 8 * (one + 4)) for one in (top, left))
                total[..., rows, columns] += model.task.logits(model.encoder(part), (32, 32))
                count[rows, columns] += 1
    torch.testing.assert_close(found, total / count, atol=1e-5, rtol=1e-4)


def ground(side: int = 8) -> tuple[Observation, torch.Tensor]:
    """Every pixel says which cell it is in."""
    cells = torch.arange(side * side, dtype=torch.float32).reshape(1, side, side).expand(3, -1, -1)
    fine, labels = (cells.repeat_interleave(by, 1).repeat_interleave(by, 2) for by in (4, 2))
    days = torch.zeros(3, 2, dtype=torch.int64)
    images = {
        "hr": fine[:, None, None].expand(-1, 2, 3, -1, -1),
        "s2": cells[:, None, None].expand(-1, 2, 1, -1, -1),
    }
    there = torch.ones(3, 2, dtype=torch.bool)
    return Observation(images, {"hr": days, "s2": days}, {"hr": there, "s2": there}), labels


def test_all_sensors_and_labels_are_cut_in_the_same_cells():
    seen, labels = ground()
    part = cut(seen, 8, slice(2, 5), slice(1, 7))
    assert torch.equal(part.images["hr"][0, 0, 0, ::4, ::4], part.images["s2"][0, 0, 0])
    assert part.images["s2"][0, 0, 0, 0].tolist() == [17.0, 18.0, 19.0, 20.0, 21.0, 22.0]
    places = set()
    for seed in range(20):
        part, mine = cropped(seen, 8, 3, labels, torch.Generator().manual_seed(seed))
        assert torch.equal(part.images["hr"][:, 0, 0, ::4, ::4], part.images["s2"][:, 0, 0])
        assert torch.equal(mine[:, ::2, ::2], part.images["s2"][:, 1, 0])
        places.add(int(mine[0, 0, 0]))
    assert len(places) > 10


def test_the_first_sensor_has_its_pixels_and_the_others_one_a_cell():
    seen, _ = ground()
    found = scaled(seen, 64, 16)
    assert found.images["hr"].shape[-2:] == (64, 64) and found.images["s2"].shape[-2:] == (4, 4)
    means = seen.images["s2"].unflatten(-1, (4, 2)).unflatten(-3, (4, 2)).mean((-1, -3))
    torch.testing.assert_close(found.images["s2"][..., 1:3, 1:3], means[..., 1:3, 1:3])
    assert torch.equal(scaled(seen, 32, 4).images["hr"], seen.images["hr"])


@pytest.mark.parametrize("chosen", ["evenly", "at random"])
def test_of_a_series_so_many_dates_are_seen_of_those_that_are_there_in_their_order(chosen):
    days = torch.tensor([[10, 20, 30, 40, 50, 60, 70], [10, PADDING, 30, 40, PADDING, PADDING, PADDING]])
    images = days[..., None, None, None].float().expand(-1, -1, 1, 2, 2)
    seen = Observation({"s2": images}, {"s2": days}, {"s2": days != PADDING})
    torch.manual_seed(0)
    sets = set()
    for _ in range(20):
        found = thinned(seen, 4, chosen=chosen)
        kept = found.days["s2"][0].tolist()
        assert kept == sorted(kept) and len(set(kept)) == 4 and found.present["s2"][0].all()
        assert found.days["s2"][1][found.present["s2"][1]].tolist() == [10, 30, 40]
        assert torch.equal(found.images["s2"][:, :, 0, 0, 0], found.days["s2"].float())
        sets.add(tuple(kept))
    assert sets == {(10, 30, 50, 70)} if chosen == "evenly" else len(sets) > 5
