"""Every setting of one run: a frozen model made by a Python function, changed only by `key=value`.

`load("mae.smoke", ["steps=100"])` imports `training.methods.mae` and calls `smoke()`; a dotted name outside works the
same, and a JSON or YAML file may stand for a recipe. Overrides are read as YAML and validated strictly, so a
misspelt key or a wrong type is one sentence that lists what is valid, before anything is started. Variants that
exclude each other (`optim`, `schedule`, `parallel`) are separate models told apart by `kind`; a changed kind starts from that
variant's defaults.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, cast

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from training.methods import MethodSpec

__all__ = [
    "AnyOptimizer",
    "AnyParallel",
    "AnySchedule",
    "Cosine",
    "Ddp",
    "Fsdp",
    "Optimizer",
    "Poly",
    "Recipe",
    "Restarts",
    "Sgd",
    "Single",
    "Steps",
    "Stream",
    "fill_inputs",
    "load",
    "protocols",
    "replace",
]

PROTOCOLS = "training.protocols"
"""Where a name without a dot is looked for: a paper's way of fine-tuning on a benchmark, as in gersp_eurosat."""

Statistics = Mapping[str, tuple[tuple[str, ...], tuple[float, ...], tuple[float, ...]]]
"""layer -> (bands, mean, std), in the order and units of the stored pixels."""


class Settings(BaseModel):
    """A frozen group of settings; unknown keys and loose types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Stream(Settings):
    """One source of batches: a split of a sealed corpus, the layers to decode, and its share of the batch.

    With `share` only that part of the samples is used, of each class alike: always the same, and within any larger one.
    A `partial` stream takes samples that lack some of the layers, as series without any date.
    """

    corpus: str
    split: Literal["train", "val", "test"] = "train"
    layers: tuple[str, ...] = Field(min_length=1)
    weight: int = Field(1, ge=1)
    share: float = Field(1.0, gt=0, le=1)
    partial: bool = False


class _Moves(Settings):
    """What every optimizer is told. `weight_decay` goes to `weight_decay_end` by half a cosine where that is given; `decay`
    says which parameters it reaches; `layer_decay` shrinks the rate towards the pixels; `clip` bounds the gradient's norm
    (None: never). The rate at batch B is `lr_per_256` x (B / 256) ** `batch_power`: 1 is linear, 0 leaves it alone."""

    lr_per_256: float = Field(1.5e-4, gt=0)
    batch_power: float = Field(1.0, ge=0, le=1)
    weight_decay: float = Field(0.05, ge=0)
    weight_decay_end: float | None = Field(None, ge=0)
    decay: Literal["matrices", "maps", "all"] = (
        "matrices"  # maps: matrices but for tokens, positions and scales
    )
    layer_decay: float = Field(1.0, gt=0, le=1)
    clip: float | None = Field(None, gt=0)


class Optimizer(_Moves):
    """AdamW."""

    kind: Literal["adamw"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)


class Sgd(_Moves):
    """Stochastic gradient descent with momentum; weight decay is added to the gradient."""

    kind: Literal["sgd"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1)


class _Warmed(Settings):
    warmup: float = Field(0.05, ge=0, lt=1)


class Cosine(_Warmed):
    """Linear warmup over the share `warmup` of the run, then half a cosine down to `floor` x the rate.

    An `inclusive` warmup counts both its ends, 0 and the full rate, as DINO's code does.
    """

    kind: Literal["cosine"] = "cosine"
    floor: float = Field(0.0, ge=0, le=1)
    inclusive: bool = False


class Restarts(_Warmed):
    """`rounds` times half a cosine from the full rate down to `floor` x the rate (SGDR, Loshchilov and Hutter 2017).

    With `epochs` the rate stands still within each of that many equal parts of a round.
    """

    kind: Literal["restarts"] = "restarts"
    warmup: float = Field(0.0, ge=0, lt=1)
    rounds: int = Field(5, ge=1)
    epochs: int | None = Field(None, ge=1)
    floor: float = Field(0.0, ge=0, lt=1)


class Poly(_Warmed):
    """Linear warmup, then (1 - progress) ** power."""

    kind: Literal["poly"] = "poly"
    power: float = Field(0.9, gt=0)


class Steps(_Warmed):
    """Linear warmup, then the rate times `gamma` at each milestone, given as fractions of the run."""

    kind: Literal["steps"] = "steps"
    milestones: tuple[float, ...] = (0.6, 0.8)
    gamma: float = Field(0.1, gt=0, le=1)


class Single(Settings):
    """One process, and a refusal of more."""

    kind: Literal["single"] = "single"


class Ddp(Settings):
    """A replica of the model in each process; one process needs none."""

    kind: Literal["ddp"] = "ddp"
    find_unused: bool = False


class Fsdp(Settings):
    """Parameters, gradients and optimizer state sharded over processes (FSDP2), for models that outgrow a device."""

    kind: Literal["fsdp"] = "fsdp"
    reshard: bool = True


AnyOptimizer = Annotated[Optimizer | Sgd, Field(discriminator="kind")]
AnySchedule = Annotated[Cosine | Poly | Restarts | Steps, Field(discriminator="kind")]
AnyParallel = Annotated[Single | Ddp | Fsdp, Field(discriminator="kind")]


class Recipe(Settings):
    """Every setting of one run.

    `batch` counts samples of all streams on all ranks in one step of the optimizer; streams share it by weight.
    `activations` are kept for the backward pass, or computed again in it: all of a layer's, or ('selective') all but
    matrix products and attention. With `validate_every` the losses of the validation split are taken every so many
    steps, and the checkpoint with the least is kept besides the newest. `name` is the address it was loaded from. A
    method that is fitted takes 0 `steps`, and what is said of them means nothing there.
    """

    name: str = ""
    method: SerializeAsAny[MethodSpec]
    streams: dict[str, Stream] = Field(min_length=1)
    batch: int = Field(ge=1)
    steps: int = Field(ge=0)
    optim: AnyOptimizer = Optimizer()
    schedule: AnySchedule = Cosine()
    accumulate: int = Field(1, ge=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    parallel: AnyParallel = Ddp()
    activations: Literal["keep", "selective", "recompute"] = "keep"
    compile: bool = False
    seed: int = Field(0, ge=0)
    log_every: int = Field(10, ge=1)
    validate_every: int | None = Field(None, ge=1)
    checkpoint_every: int = Field(500, ge=1)
    keep: int = Field(2, ge=1)

    @field_validator("method", mode="plain")
    @classmethod
    def _method(cls, value: object, info: ValidationInfo) -> MethodSpec:
        if info.context is not None:
            value = info.context
        if not isinstance(value, MethodSpec):
            raise ValueError(f"method is the Spec of a method file, not {type(value).__name__}")
        return value

    @model_validator(mode="after")
    def _steps_or_none(self) -> Self:
        if bool(self.steps) == self.method.fitted:
            raise ValueError(
                f"steps={self.steps} is refused: a method that is fitted at once takes 0"
                if self.steps
                else "steps=0 is refused: a method that learns by steps needs a number greater than 0"
            )
        return self

    @model_validator(mode="after")
    def _whole_shares(self) -> Self:
        for name, share in self.shares().items():
            if share % self.accumulate:
                raise ValueError(
                    f"stream {name!r} has {share} samples a step, which accumulate={self.accumulate} does not divide; "
                    "change batch or accumulate"
                )
        return self

    def shares(self) -> dict[str, int]:
        """Samples of each stream in one step of the optimizer, over all ranks. Raises ValueError if not whole."""
        total = sum(stream.weight for stream in self.streams.values())
        if self.batch % total:
            raise ValueError(
                f"batch={self.batch} does not divide into {total} parts (the streams' weights together); use a multiple"
            )
        return {name: self.batch * stream.weight // total for name, stream in self.streams.items()}

    @property
    def digest(self) -> str:
        """sha256 of what decides the numbers: all but cadence, placement and the folder a corpus lies in."""
        tree = self.model_dump(
            mode="json",
            exclude={
                "name",
                "log_every",
                "validate_every",
                "checkpoint_every",
                "keep",
                "parallel",
                "activations",
            },
        )
        tree["method"] = {"module": type(self.method).__module__, "spec": tree["method"]}
        for stream in tree["streams"].values():
            stream["corpus"] = Path(stream["corpus"]).name
        return hashlib.sha256(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def dump(self) -> str:
        """As JSON, indented; `parse` reads it back."""
        return self.model_dump_json(indent=1)

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """The recipe that `dump` wrote. Raises ValueError in one sentence."""
        tree = json.loads(text)
        return _validated(tree, type(_named(_name_of(tree, "the recipe")).method))


R = TypeVar("R", bound=BaseModel)


def replace(settings: R, **changes: object) -> R:
    """The same settings with some changed, validated again."""
    fields = {name: getattr(settings, name) for name in type(settings).model_fields}
    return type(settings).model_validate(fields | changes)


def load(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at an address or in a .json/.yaml file, with `a.b=c` overrides applied in order.

    A file names its base (`name: mae.smoke`) and says all or only some settings; its `streams` replace the base's.
    Raises ValueError in one sentence: value, rule, remedy.
    """
    tree: dict[str, Any] = {}
    address = name
    if name.endswith((".json", ".yaml", ".yml")):
        tree = _read(Path(name))
        address = _name_of(tree, name)
    base = _named(address)
    merged = base.model_dump(mode="json")
    if "streams" in tree:
        merged["streams"] = {}
    merged = _merge(merged, tree)
    given = [_override(text) for text in overrides]
    for path, value in given:
        merged = _merge(merged, _nested(path, value), path)
    recipe = _validated(merged, type(base.method))
    _check_types(recipe, given)
    return recipe


def fill_inputs(recipe: Recipe, statistics: Statistics) -> Recipe:
    """The recipe with every empty `mean`/`std` of its method's inputs taken from the corpus statistics.

    Raises ValueError for a layer or band the corpora do not have.
    """
    return recipe.model_copy(update={"method": _filled(recipe.method, statistics)})


def _filled(model: BaseModel, statistics: Statistics) -> BaseModel:
    fields = type(model).model_fields
    if {"layer", "bands", "mean", "std"} <= fields.keys():
        return model if model.mean else _with_statistics(model, statistics)  # type: ignore[attr-defined]
    inner = {name: getattr(model, name) for name in fields}
    changed = {
        name: _filled(value, statistics) for name, value in inner.items() if isinstance(value, BaseModel)
    }
    return model.model_copy(update=changed) if changed else model


def _with_statistics(inputs: Any, statistics: Statistics) -> BaseModel:
    if inputs.layer not in statistics:
        raise ValueError(
            f"the encoder reads layer {inputs.layer!r}, but the streams bring {', '.join(sorted(statistics))}; "
            "name it in the stream's layers"
        )
    bands, mean, std = statistics[inputs.layer]
    missing = [band for band in inputs.bands if band not in bands]
    if missing:
        raise ValueError(
            f"the encoder reads band {missing[0]} of {inputs.layer!r}, but the corpus has {', '.join(bands)}"
        )
    rows = [bands.index(band) for band in inputs.bands]
    return replace(inputs, mean=tuple(mean[row] for row in rows), std=tuple(std[row] for row in rows))


# ---- names and files


def protocols() -> tuple[str, ...]:
    """Names of the protocols there are, which need no dot."""
    return tuple(sorted(_protocols()))


def _protocols() -> Mapping[str, Callable[[], object]]:
    found: Mapping[str, Callable[[], object]] = importlib.import_module(PROTOCOLS).PROTOCOLS
    return found


def _named(address: str) -> Recipe:
    recipe = _function(address)()
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{address} returns {type(recipe).__name__}, not a Recipe; name a recipe function")
    return recipe.model_copy(update={"name": address})


def _function(address: str) -> Callable[[], object]:
    module_name, _, function = address.rpartition(".")
    if not module_name and address in _protocols():
        return _protocols()[address]
    if not re.fullmatch(r"\w+(\.\w+)*", module_name) or not function.isidentifier():
        raise ValueError(
            f"{address!r} is no recipe's name; write METHOD.RECIPE, as in mae.smoke, or one of the protocols "
            f"{', '.join(protocols())}"
        )
    for candidate in (f"training.methods.{module_name}", module_name):
        try:
            module = importlib.import_module(candidate)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{candidate}.".startswith(f"{error.name}."):
                continue
            raise
        found = getattr(module, function, None)
        if callable(found):
            return cast(Callable[[], object], found)
        names = ", ".join(sorted(_recipes_of(module))) or "none"
        raise ValueError(f"{candidate} has no recipe {function!r}; it has {names}")
    known = ", ".join(_methods())
    raise ValueError(f"no method {module_name!r} in training.methods ({known}), nor a module of that name")


def _recipes_of(module: Any) -> Iterator[str]:
    for name, value in vars(module).items():
        returns = getattr(value, "__annotations__", {}).get("return")
        if returns in (Recipe, "Recipe") and value.__module__ == module.__name__ and not name.startswith("_"):
            yield name


def _methods() -> list[str]:
    folder = Path(importlib.import_module("training.methods").__path__[0])
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def _name_of(tree: object, where: str) -> str:
    name = tree.get("name") if isinstance(tree, dict) else None
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where} has no `name`; begin it with the recipe it changes, as in name: mae.smoke")
    return name


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"no recipe file {path}; give a file that exists or a name such as mae.smoke")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is neither JSON nor YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds {type(tree).__name__}, not settings by name")
    return tree


# ---- overrides


class _Loader(yaml.SafeLoader):
    """YAML 1.1, except that 1e-4 is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _override(text: str) -> tuple[str, object]:
    path, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", path):
        raise ValueError(f"{text!r} is no override; write key=value, as in steps=100 or optim.clip=1.0")
    try:
        return path, yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{text!r}: the value does not read as YAML; quote it") from error


def _nested(path: str, value: object) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    return value  # type: ignore[return-value]


def _merge(old: Any, new: Any, path: str = "") -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if isinstance(new, dict) and old is not None and path:
            path = path.rpartition(".")[0]
            raise ValueError(f"{path} reaches inside {json.dumps(old)}, which has no keys of its own")
        return copy.deepcopy(new)
    if "kind" in new and new["kind"] != old.get("kind", new["kind"]):
        return copy.deepcopy(new)
    return old | {key: _merge(old[key], value, path) if key in old else value for key, value in new.items()}


def _check_types(recipe: Recipe, given: Sequence[tuple[str, object]]) -> None:
    """Specs of methods may validate loosely; what was asked for must still be what was kept."""
    for path, value in dict(given).items():
        kept: Any = recipe.model_dump(mode="json")
        for key in path.split("."):
            kept = kept.get(key) if isinstance(kept, dict) else None
        if not _same(value, kept) and kept is not None:
            raise ValueError(
                f"{path}={value!r} is {_type(value)}; it must be {_type(kept)}, as in {path}={kept}"
            )


def _same(given: object, kept: object) -> bool:
    if isinstance(given, dict):
        return True  # the parts it leaves out have defaults
    if isinstance(given, list) and isinstance(kept, list):
        return len(given) == len(kept) and all(map(_same, given, kept))
    if isinstance(kept, float):
        return type(given) in (int, float)
    return kept is None or type(given) is type(kept)


def _type(value: object) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", list: "a list"}
    return names.get(type(value), type(value).__name__)


# ---- validation, with errors of one sentence


def _validated(tree: Mapping[str, Any], method_type: type[MethodSpec]) -> Recipe:
    spec = tree.get("method", {})
    try:
        method = method_type.model_validate_json(_json(spec))
    except ValidationError as error:
        raise ValueError(_sentence(error, method_type, spec, ["method"])) from None
    try:
        return Recipe.model_validate_json(_json({**tree, "method": None}), context=method)
    except ValidationError as error:
        raise ValueError(_sentence(error, Recipe, tree, [])) from None


def _json(tree: object) -> str:
    return json.dumps(tree, default=str)


def _sentence(error: ValidationError, model: type[BaseModel], tree: Any, prefix: list[str]) -> str:
    first: Any = error.errors(include_url=False)[0]
    message = str(first["msg"])
    parts, models = _walk(model, tree, first["loc"])
    path = ".".join([*prefix, *parts])
    if first["type"] == "extra_forbidden":
        valid = sorted({name for found in models for name in found.model_fields})
        return f"there is no setting {path!r}; valid here: {', '.join(valid)}"
    if first["type"] == "missing":
        return f"{path} is not given and has no default; add {path}=VALUE"
    if first["type"] in ("value_error", "union_tag_invalid", "union_tag_not_found"):
        text = message.removeprefix("Value error, ")
        return f"{path}: {text}" if path else text
    return f"{path}={first['input']!r} is refused: {message[0].lower()}{message[1:]}"


def _walk(
    model: type[BaseModel], tree: Any, where: Sequence[object]
) -> tuple[list[str], list[type[BaseModel]]]:
    """The written path of a validation error (without the kinds pydantic puts in), and the models of its last key."""
    here, parents = [model], [model]
    path: list[str] = []
    for part in where:
        fields = [found.model_fields[str(part)] for found in here if part in found.model_fields]
        tagged = [found for found in here if not fields and _kind(found) == part]
        if tagged:
            here = tagged
            continue
        parents = here or parents
        tree = tree.get(part) if isinstance(tree, dict) else None
        inside = [found for field in fields for found in _models(field.annotation)]
        if not fields and path:
            inside = here  # a key of a dictionary, or a setting that is not there
        here = [_as_written(found, tree) for found in inside]
        path.append(str(part))
    return path, parents


def _kind(model: type[BaseModel]) -> object:
    field = model.model_fields.get("kind")
    return field.default if field else None


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _models(part)]


def _as_written(model: type[BaseModel], tree: Any) -> type[BaseModel]:
    """The subclass whose file the written `kind` names, or the model itself."""
    kind = tree.get("kind") if isinstance(tree, dict) else None
    named = (cls for cls in model.__subclasses__() if cls.__module__.rpartition(".")[2] == kind)
    return next(named, model)
