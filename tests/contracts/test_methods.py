"""What every way of learning must do, asked of each module in training/methods.

A method is found by its file: `Spec`, `build` and a recipe `smoke()`. One step of that recipe is taken on invented
samples of the layers its streams name, without the loop.
"""

import ast
import copy
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from pydantic import BaseModel
from torch import Tensor

import training.methods
from geodata import sensors
from training import optim
from training.export import export_encoder, load_encoder
from training.feed import Samples
from training.memory import Centre, Queue, Teacher
from training.methods import Method, MethodSpec, Progress
from training.objectives import Losses
from training.recipe import Recipe, fill_inputs

FOLDER = Path(training.methods.__file__ or "").parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
KNOWN = (sensors.SENTINEL2, sensors.SENTINEL1, sensors.OPTICAL, sensors.LANDCOVER)
SENSORS = {known.prefix: known for known in KNOWN}
COUNT, SIDE, DATES = 4, 72, 2

methods = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def module(name: str) -> ModuleType:
    return importlib.import_module(f"training.methods.{name}")


@cache
def recipe(name: str) -> Recipe:
    """The smoke recipe, its inputs' statistics filled in."""
    tables = {known.prefix: known.band_names for known in SENSORS.values()}
    statistics = {
        layer: (bands, (1500.0,) * len(bands), (700.0,) * len(bands)) for layer, bands in tables.items()
    }
    return fill_inputs(module(name).smoke(), statistics)


def values(spec: BaseModel, field: str) -> Iterator[str]:
    """What a spec and the specs inside it say in fields of that name."""
    for name in type(spec).model_fields:
        value = getattr(spec, name)
        if isinstance(value, BaseModel):
            yield from values(value, field)
        elif name == field and isinstance(value, str):
            yield value


def samples(name: str, seed: int = 0) -> dict[str, Samples]:
    """A batch of invented samples for each stream: pixels a little smooth, codes and labels of a few classes."""
    found, generator = {}, torch.Generator().manual_seed(seed)
    for stream, settings in recipe(name).streams.items():
        layers = {}
        for layer in settings.layers:
            known = SENSORS[layer]
            if known.kind == "map":
                pixels = torch.randint(1, 4, (COUNT, 1, 1, SIDE // 8, SIDE // 8), generator=generator)
                pixels = pixels.repeat_interleave(8, -1).repeat_interleave(8, -2)
            else:
                shape = (COUNT, DATES, len(known.bands), SIDE, SIDE)
                level = torch.randint(500, 2500, (COUNT, 1, len(known.bands), 1, 1), generator=generator)
                pixels = level + torch.randint(0, 500, shape, generator=generator)
            layers[layer] = pixels.to(getattr(torch, known.dtype))
        dates = {
            layer: torch.arange(pixels.shape[1], dtype=torch.int32).expand(COUNT, -1)
            for layer, pixels in layers.items()
        }
        labels = {
            label: torch.randint(0, 2, (COUNT,), generator=generator)
            for label in values(recipe(name).method, "label")
        }
        found[stream] = Samples(
            ids=[f"{stream}-{seed}-{number}" for number in range(COUNT)],
            layers=layers,
            dates=dates,
            labels=labels,
            lonlat=torch.zeros(COUNT, 2),
            region=torch.zeros(COUNT, dtype=torch.int64),
            bands={layer: SENSORS[layer].band_names for layer in layers},
            nodata={layer: SENSORS[layer].nodata for layer in layers},
        )
    return found


@dataclass
class Stepped:
    """A method before a step of its smoke recipe, after the optimizer moved, and after `after_step`."""

    method: Method
    losses: Losses
    before: dict[str, Tensor]
    moved: dict[str, Tensor]
    after: dict[str, Tensor]
    optimizer: torch.optim.Optimizer


def build(name: str, seed: int = 0) -> Method:
    torch.manual_seed(seed)
    made: Method = module(name).build(recipe(name).method)
    return made


def step(name: str, method: Method, optimizer: torch.optim.Optimizer, at: int) -> Losses:
    """One step in the middle of the run, as the loop takes it, short of `after_step`."""
    progress = Progress(at, recipe(name).steps)
    torch.manual_seed(at)
    method.train()
    optimizer.zero_grad(set_to_none=True)
    losses: Losses = method(samples(name, at), progress)
    losses.total.backward()
    optim.set_rates(optimizer, method, recipe(name), progress)
    optimizer.step()
    return losses


@cache
def stepped(name: str) -> Stepped:
    method, run = build(name), recipe(name)
    optimizer = optim.build(method, run.optim)
    before = copy.deepcopy(method.state_dict())
    losses = step(name, method, optimizer, run.steps // 2)
    moved = copy.deepcopy(method.state_dict())
    method.after_step(Progress(run.steps // 2 + 1, run.steps))
    return Stepped(method, losses, before, moved, copy.deepcopy(method.state_dict()), optimizer)


def teachers(method: Method) -> set[str]:
    """Names of the parameters of teachers."""
    return {
        f"{prefix}.{name}"
        for prefix, part in method.named_modules()
        if isinstance(part, Teacher)
        for name, _ in part.named_parameters()
    }


@methods
def test_a_method_is_a_spec_a_build_and_recipes(name):
    found = module(name)
    assert issubclass(found.Spec, MethodSpec)
    assert isinstance(recipe(name), Recipe) and isinstance(recipe(name).method, found.Spec)
    assert inspect.signature(found.smoke).parameters == {}
    assert {"Spec", "build"} <= set(found.__all__)
    assert isinstance(stepped(name).method, Method)


@methods
def test_every_setting_of_a_method_is_read_in_its_own_file(name):
    path = FOLDER / f"{name}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    specs = [
        found
        for found in vars(module(name)).values()
        if inspect.isclass(found)
        and issubclass(found, BaseModel)
        and found.__module__ == module(name).__name__
    ]
    unread = [
        f"{spec.__name__}.{field}"
        for spec in specs
        for field in vars(spec).get("__annotations__", {})
        if field in spec.model_fields and field != "kind" and field not in read
    ]
    assert not unread


@methods
def test_one_step_moves_everything_that_learns(name):
    found = stepped(name)
    assert found.losses.total.isfinite() and found.losses.total.ndim == 0
    assert found.losses.parts and all(part.isfinite().all() for part in found.losses.parts.values())
    assert not any(part.requires_grad for part in found.losses.parts.values())
    learning = {key: part for key, part in found.method.named_parameters() if part.requires_grad}
    assert learning
    progress = Progress(recipe(name).steps // 2, recipe(name).steps)
    still = {key for key in learning if found.method.rate_scale(key, progress) == 0}
    without = sorted(key for key, part in learning.items() if part.grad is None)
    assert not without
    held = {key for key in learning if torch.equal(found.before[key], found.moved[key])}
    assert held <= still | {key for key in learning if not learning[key].grad.any()}
    assert len(held - still) < len(learning) / 3  # some wait for a gate that starts at 0


@methods
def test_what_does_not_learn_is_moved_by_after_step_alone(name):
    found = stepped(name)
    frozen = {key for key, part in found.method.named_parameters() if not part.requires_grad}
    given = {id(part) for group in found.optimizer.param_groups for part in group["params"]}
    for key, part in found.method.named_parameters():
        assert (id(part) in given) == part.requires_grad, key
    for key in frozen:
        assert dict(found.method.named_parameters())[key].grad is None, key
        assert torch.equal(found.before[key], found.moved[key]), key
    assert teachers(found.method) <= frozen


@methods
def test_teachers_queues_and_centres_are_moved_by_a_step(name):
    found = stepped(name)
    kinds = (Teacher, Queue, Centre)
    for prefix, part in found.method.named_modules():
        if isinstance(part, kinds):
            keys = [key for key in found.after if key.startswith(f"{prefix}.")]
            assert any(not torch.equal(found.before[key], found.after[key]) for key in keys), prefix


@methods
def test_evaluation_repeats_itself_and_leaves_no_trace(name):
    method = build(name).eval()
    before, batch = copy.deepcopy(method.state_dict()), samples(name)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with torch.no_grad():
            found.append(method(batch, Progress(1, 2)))
    assert torch.equal(found[0].total, found[1].total)
    assert found[0].parts.keys() == found[1].parts.keys()
    for key, value in method.state_dict().items():
        assert torch.equal(value, before[key]), key


@methods
def test_a_method_goes_on_from_its_state_alone(name):
    first, second, run = build(name), build(name, seed=5), recipe(name)
    step(name, first, optim.build(first, run.optim), run.steps // 2)
    first.after_step(Progress(run.steps // 2 + 1, run.steps))
    second.load_state_dict(first.state_dict())
    second.train()
    found = []
    for method in (first, second):
        torch.manual_seed(3)
        found.append(method(samples(name, 3), Progress(run.steps // 2 + 1, run.steps)).total)
    assert torch.equal(found[0], found[1])


@methods
def test_chance_in_training_follows_from_the_seed(name):
    twins = [build(name), build(name)]
    for key, value in twins[1].state_dict().items():
        assert torch.equal(twins[0].state_dict()[key], value), key
    found = []
    for method in twins:
        torch.manual_seed(7)
        found.append(method(samples(name), Progress(1, 4)).total)
    assert torch.equal(found[0], found[1])


@methods
def test_half_precision_is_finite_and_close(name):
    found = []
    for wide in (True, False):
        method = build(name)
        torch.manual_seed(7)
        with torch.autocast("cpu", torch.bfloat16, enabled=not wide):
            total = method(samples(name), Progress(1, 4)).total
        total.backward()
        assert total.dtype == torch.float32
        assert all(part.grad is None or part.grad.isfinite().all() for part in method.parameters())
        found.append(float(total.detach()))
    assert found[1] == pytest.approx(found[0], rel=0.1)


@methods
def test_the_encoder_is_exported_and_loads(name, tmp_path):
    method = stepped(name).method
    encoder = method.encoder
    export_encoder(encoder, tmp_path / "encoder", {})
    loaded = load_encoder(tmp_path / "encoder")
    assert loaded.spec == encoder.spec
    side = getattr(encoder.spec, "image", SIDE)
    images = torch.randn(2, len(encoder.spec.inputs.bands), side, side)
    was_training = encoder.training
    encoder.eval()
    with torch.no_grad():
        mine, theirs = encoder(images), loaded.eval()(images)
    encoder.train(was_training)
    assert torch.equal(mine.patches, theirs.patches)
    assert replace(mine, patches=theirs.patches).map().shape[2:] == (mine.height, mine.width)


@methods
def test_layer_ids_cover_all_parameters(name):
    method = stepped(name).method
    ids = {key: method.layer_id(key) for key, _ in method.named_parameters()}
    assert all(isinstance(depth, int) and 0 <= depth <= method.last_layer for depth in ids.values()), ids
    assert {0, method.last_layer} <= set(ids.values())
    inside = {f"encoder.{key}": method.encoder.layer_id(key) for key, _ in method.encoder.named_parameters()}
    for key, depth in inside.items():
        assert ids.get(key, depth) == depth, key
