"""What every task keeps, whatever its head and whatever encoder it stands on.

Tasks and decoders are found by walking their folders, so a new file without a case here fails.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

import training.decoders
import training.tasks
from training.encoders import Encoder, Inputs, Tokens, adapter, hierarchy, vit, vitdet
from training.encoders import build as build_encoder
from training.metrics import IGNORE
from training.tasks import (
    AnyTask,
    Series,
    Task,
    TaskSpec,
    build,
    change,
    classify,
    crops,
    multilabel,
    segment,
)

RGB = Inputs(layer="hr", bands=("R", "G", "B"))
PLAIN = vit.Spec(inputs=RGB, image=64, patch=8, width=16, depth=4, heads=2)
ENCODERS = {
    "vit": PLAIN,
    "vitdet": vitdet.Spec(
        inputs=RGB, image=64, patch=8, width=16, depth=4, heads=2, window=4, whole=(2, 4), taps=(1, 2, 3, 4)
    ),
    "hierarchy": hierarchy.Spec(inputs=RGB, name="resnet10t", output_stride=16),
    "adapter": adapter.Spec(inner=PLAIN, inputs=RGB, stem=8),
}
NAMES = ("water", "trees", "built")
SIDE, BATCH, DATES = 32, 2, 3


def dense(decoder: dict[str, object], auxiliary: float = 0.0) -> segment.Spec:
    return segment.Spec(classes=NAMES, layer="mask", decoder=decoder, auxiliary=auxiliary)


CASES: dict[str, TaskSpec] = {
    "classify": classify.Spec(classes=NAMES, label="class"),
    "classify/batch_norm": classify.Spec(classes=NAMES, label="class", batch_norm=True),
    "multilabel": multilabel.Spec(classes=NAMES),
    "segment/growing": dense({"kind": "growing", "channels": 8}),
    "segment/upernet": dense({"kind": "upernet", "channels": 16}, auxiliary=0.4),
    "segment/fcn": dense({"kind": "fcn", "channels": 8}),
    "segment/psanet": dense({"kind": "psanet", "channels": 8, "mask": 9}, auxiliary=0.4),
    "segment/deeplabv3plus": dense({"kind": "deeplabv3plus", "channels": 8}),
    "segment/pyramid": dense({"kind": "pyramid", "channels": 8}),
    "change/bit": change.Spec(decoder={"kind": "bit", "decoders": 2}),
    "change/siamese_unet": change.Spec(decoder={"kind": "siamese_unet", "channels": (16, 8, 8, 8)}),
    "crops/mean": crops.Spec(classes=NAMES, pool="mean", decoder={"channels": 8}),
    "crops/attention": crops.Spec(classes=NAMES, decoder={"channels": 8}),
    "crops/chip": crops.Spec(classes=NAMES, of="chip", truth="class"),
}


@dataclass(frozen=True)
class Case:
    """A task on an encoder, with something to see and something to say."""

    on: str
    task: Task
    seen: Tokens | Series
    target: Tensor

    @property
    def size(self) -> tuple[int, int]:
        return SIDE, SIDE


@cache
def encoder(name: str) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(ENCODERS[name]).eval()


@cache
def tokens(name: str, dates: int) -> Tokens:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH * dates, 3, SIDE, SIDE, generator=generator)
    with torch.no_grad():
        return encoder(name)(images)


def looked_at(task: Task, name: str) -> Tokens | Series:
    if task.dates == "one":
        return tokens(name, 1)
    dates = 2 if task.dates == "pair" else DATES
    present = torch.ones(BATCH, dates, dtype=torch.bool)
    if task.dates == "series":
        present[1, -1] = False
    days = torch.arange(BATCH * dates).reshape(BATCH, dates) * 90 + 18000
    return Series(tokens(name, dates), present, torch.where(present, days, -1))


def samples() -> SimpleNamespace:
    generator = torch.Generator().manual_seed(2)
    layer = torch.randint(2, (BATCH, 1, 1, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    layer[:, :, :, :4] = IGNORE
    labels = {"class": torch.tensor([2, 0]), "classes": torch.tensor([0b101, 0b010])}
    return SimpleNamespace(layers={"mask": layer}, labels=labels)


def stood(case: str, name: str) -> Case:
    torch.manual_seed(0)
    task = build(CASES[case], encoder(name))
    return Case(name, task, looked_at(task, name), task.target(samples()))


@pytest.fixture(params=[(case, name) for case in CASES for name in ENCODERS], ids="-".join)
def anywhere(request) -> Case:
    """Every task on every encoder."""
    return stood(*request.param)


@pytest.fixture(params=CASES)
def case(request) -> Case:
    """Every task, on the encoders in turn."""
    names = list(ENCODERS)
    return stood(request.param, names[list(CASES).index(request.param) % len(names)])


def test_every_task_and_every_decoder_has_a_case():
    def files(package) -> set[str]:
        return {path.stem for path in Path(package.__path__[0]).glob("*.py")} - {"__init__"}

    heads = {spec.decoder.kind for spec in CASES.values() if hasattr(spec, "decoder")}
    assert {spec.kind for spec in CASES.values()} == files(training.tasks)
    assert heads == files(training.decoders)


def test_any_encoder_will_do(anywhere):
    """Losses are finite and their own parts' sum, every parameter learns, logits and predictions have their form."""
    task, seen, target = anywhere.task, anywhere.seen, anywhere.target
    losses = task(seen, target)
    losses.total.backward()
    assert losses.total.isfinite() and losses.total > 0
    assert losses.total.item() == pytest.approx(sum(part.item() for part in losses.parts.values()))
    assert [name for name, parameter in task.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in task.parameters())
    task.eval()
    logits, guess = task.logits(seen, anywhere.size), task.predict(seen, anywhere.size)
    classes = len(task.spec.classes)
    assert logits.shape == (BATCH, classes, SIDE, SIDE)[: 4 if task.dense else 2]
    assert target.dtype == torch.int64 and guess.shape == target.shape
    assert torch.equal(guess, task.decide(logits))


def test_labels_of_another_grid_are_met(case):
    if case.task.dense:
        assert case.task.predict(case.seen, (SIDE // 2, SIDE)).shape == (BATCH, SIDE // 2, SIDE)
        assert case.task(case.seen, case.target[:, ::2]).total.isfinite()


def test_its_metric_takes_its_predictions_and_knows_the_truth(case):
    case.task.eval()
    guess, empty = case.task.predict(case.seen, case.size), case.task.metric()
    assert empty.update(guess.detach(), case.target).scores().keys() == empty.scores().keys()
    perfect = empty.update(torch.where(case.target == IGNORE, 0, case.target).to(guess.dtype), case.target)
    known = {name: score for name, score in perfect.scores().items() if score == score}
    assert known and all(score == 1 for score in known.values())


def test_targets_that_are_all_ignored_teach_nothing(case):
    losses = case.task(case.seen, torch.full_like(case.target, IGNORE))
    losses.total.backward()
    assert losses.total == 0
    assert all(parameter.grad.abs().max() == 0 for parameter in case.task.parameters())


def test_evaluation_repeats_itself_and_its_state_is_all_there_is(case):
    case.task(case.seen, case.target)  # moves the statistics of batch norms
    case.task.eval()
    logits = case.task.logits(case.seen, case.size)
    assert torch.equal(case.task.logits(case.seen, case.size), logits)
    torch.manual_seed(5)
    other = build(case.task.spec, encoder(case.on)).eval()
    other.load_state_dict(case.task.state_dict())
    assert torch.equal(other.logits(case.seen, case.size), logits)


def test_its_spec_comes_back_from_json(case):
    anything: TypeAdapter[TaskSpec] = TypeAdapter(AnyTask)
    assert anything.validate_json(anything.dump_json(case.task.spec)) == case.task.spec


def test_a_sample_is_judged_alone(case):
    """In evaluation, a sample's logits do not depend on the company it is in."""
    case.task.eval()
    both = case.task.logits(case.seen, case.size)
    first = one(case.seen)
    torch.testing.assert_close(case.task.logits(first, case.size), both[:1], rtol=1e-4, atol=1e-5)


def one(seen: Tokens | Series) -> Tokens | Series:
    """The first sample alone."""
    if isinstance(seen, Series):
        return Series(part(seen.tokens, seen.present.shape[1]), seen.present[:1], seen.days[:1])
    return part(seen, 1)


def part(seen: Tokens, count: int) -> Tokens:
    cls = None if seen.cls is None else seen.cls[:count]
    return Tokens(cls, seen.patches[:count], seen.height, seen.width, tuple(one[:count] for one in seen.maps))
