"""`key=value` on any frozen pydantic model, and its complaints as one sentence.

Corpora and recipes are both "a name and overrides", on the command line, in a job and in a deployment alike; this is
the one place that reads that spelling. Types are strict: `steps=1.5` for a whole number is refused, and an unknown
key is refused with the list of those there are.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)


def overridden(model: Model, texts: Iterable[str]) -> Model:
    """A copy of `model` with `a.b=c` applied, in order, and validated as a whole.

    The part after `=` is JSON (`3`, `[1, 2]`, `null`) or, failing that, text. A number in the path is a place in a
    list (`sensors.0.dates=4`). A changed `kind` drops its siblings: they belonged to another variant. Raises
    ValueError naming the key, the rule and the valid keys.
    """
    values = json.loads(model.model_dump_json())
    raw: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ValueError(f"an override is written key=value, not {text!r}")
        _assign(values, key, _parsed(value))
        raw[key] = value
    try:
        return type(model).model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        texts_wanted = [key for key in raw if any(_is_text(problem, key) for problem in error.errors())]
        if not texts_wanted:
            raise ValueError(sentence(error, type(model))) from error
    for key in texts_wanted:
        _assign(values, key, raw[key])
    return validated(type(model), values)


def validated(kind: type[Model], values: Mapping[str, Any]) -> Model:
    """A model from plain (JSON) values, strictly. Raises ValueError with one sentence."""
    try:
        return kind.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise ValueError(sentence(error, kind)) from error


def sentence(error: ValidationError, kind: type[BaseModel]) -> str:
    """All that a validation found wrong, as one line: key, value, rule; and the valid keys for an unknown one."""
    parts = []
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            valid = ", ".join(_keys(kind, problem["loc"][:-1]))
            parts.append(f"{key}: no such key; valid keys are {valid}")
        elif problem["type"] == "value_error":
            parts.append(": ".join(part for part in (key, str(problem["ctx"]["error"])) if part))
        elif problem["type"] == "missing":
            parts.append(f"{key}: is required")
        else:
            rule = problem["msg"][0].lower() + problem["msg"][1:]
            parts.append(f"{key}: {rule}, not {problem['input']!r}")
    return f"{kind.__name__}: " + "; ".join(parts)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _assign(values: Any, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for part in parents:
        values = values[_place(values, part, key)]
    if isinstance(values, dict):
        if last == "kind" and values.get("kind") != value:
            values.clear()
        values[last] = value
    else:
        values[_place(values, last, key)] = value


def _place(values: Any, part: str, key: str) -> Any:
    if isinstance(values, dict) and part in values:
        return part
    if isinstance(values, list) and part.isdigit() and int(part) < len(values):
        return int(part)
    if isinstance(values, dict):
        raise ValueError(f"{key}: no such key; valid keys are {', '.join(map(str, values)) or '(none)'}")
    if isinstance(values, list):
        raise ValueError(f"{key}: {part!r} is no place in a list of {len(values)}; places count from 0")
    raise ValueError(f"{key}: {part!r} has no keys below it, its parent is the value {values!r}")


def _is_text(problem: Any, key: str) -> bool:
    """Whether a problem is only that text which looks like a number (version=2) was read as one."""
    parts = iter(str(part) for part in problem["loc"])
    return problem["type"] == "string_type" and all(wanted in parts for wanted in key.split("."))


def _keys(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The field names of the model at a location; tags of unions and places in lists are steps like any other."""
    candidates: list[type[BaseModel]] = [kind]
    for part in location:
        below = [
            _models(model.model_fields[part].annotation) for model in candidates if part in model.model_fields
        ]
        tagged = [model for model in candidates if _tag(model) == part]
        candidates = [model for models in below for model in models] or tagged or candidates
    return sorted({name for model in candidates for name in model.model_fields})


def _tag(model: type[BaseModel]) -> object:
    field = model.model_fields.get("kind")
    return field.default if field else None


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models(part)]
