"""How a corpus is found by name or file.

A corpus is a function that returns a `CorpusSpec`, in `published` or in a module of your own; it may also stand in a
JSON or YAML file, or in the manifest of a corpus that exists. `load_spec` reads all of these, and applies overrides.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import yaml

from geodata import published
from geodata.landcover import class_table, table_of
from geodata.overrides import overridden, validated
from geodata.published import demo, rsrsd_5m, rsrsd_100k, skysense_sequences, smoke
from geodata.source import Address
from geodata.spec import (
    Area,
    ChipSpec,
    ContaminationSpec,
    Continents,
    CorpusSpec,
    Everywhere,
    Quotas,
    SensorSpec,
    SplitSpec,
    TileSpec,
)

__all__ = [
    "Area",
    "ChipSpec",
    "ContaminationSpec",
    "Continents",
    "CorpusSpec",
    "Everywhere",
    "Quotas",
    "SensorSpec",
    "SplitSpec",
    "TileSpec",
    "demo",
    "load_spec",
    "rsrsd_5m",
    "rsrsd_100k",
    "skysense_sequences",
    "smoke",
    "specs",
    "with_landcover",
]


def load_spec(name: str | Path, overrides: Iterable[str] = ()) -> CorpusSpec:
    """A spec by name or file, with `a.b=c` overrides.

    A name is a published corpus ('smoke') or a function of your own ('my_pkg.corpora.alps'). A file is JSON or YAML with
    the fields of `CorpusSpec`, or the manifest.json of a corpus, whose spec it then is. Raises ValueError.
    """
    text = str(name)
    if text.endswith((".json", ".yaml", ".yml")):
        spec = _from_file(Path(text))
    else:
        spec = _maker(text)()
    return overridden(spec, overrides)


def with_landcover(spec: CorpusSpec, path: str | Path, table: str | None = None) -> CorpusSpec:
    """The same corpus, its strata taken from a raster file. `table` names what its codes mean.

    Without `table`, a file that holds exactly the codes of one table, and codes that are no mere counting from 0 or 1,
    tells it (see `landcover.table_of`). Raises ValueError with the tables there are when the file does not tell, and
    Missing when there is none.
    """
    where = str(path)
    local = not where.startswith(("~", "/vsi")) and "://" not in where
    name = class_table(table).name if table else table_of(where).name
    address = Address(
        call="landcover.raster",
        options={"path": str(Path(where).absolute()) if local else where, "table": name},
    )
    return CorpusSpec.model_validate({**dict(spec), "landcover": address})


def specs() -> dict[str, Callable[[], CorpusSpec]]:
    """The published corpora by name: functions of no required argument that return a spec."""
    return {
        name: value
        for name, value in vars(published).items()
        if not name.startswith("_") and _makes_spec(value)
    }


def _makes_spec(value: object) -> bool:
    if not inspect.isfunction(value) or value.__annotations__.get("return") not in ("CorpusSpec", CorpusSpec):
        return False
    return all(given.default is not given.empty for given in inspect.signature(value).parameters.values())


def _maker(name: str) -> Callable[[], CorpusSpec]:
    known = specs()
    if name in known:
        return known[name]
    module_name, _, function_name = name.rpartition(".")
    function = None
    if module_name:
        try:
            function = getattr(importlib.import_module(module_name), function_name, None)
        except ModuleNotFoundError as error:
            if not module_name.startswith(error.name or module_name):
                raise
    if _makes_spec(function):
        return function  # type: ignore[return-value]
    raise ValueError(
        f"no corpus is called {name!r}; there are {', '.join(sorted(known))}, or write package.module.function "
        f"(declared to return CorpusSpec) or a .json or .yaml file"
    )


def _from_file(path: Path) -> CorpusSpec:
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except FileNotFoundError as error:
        raise ValueError(f"spec file {path} does not exist; check the path") from error
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"spec file {path} is not readable {path.suffix[1:].upper()}: {reason}") from error
    if isinstance(values, dict) and isinstance(values.get("spec"), dict):
        values = values["spec"]
    if not isinstance(values, dict):
        raise ValueError(f"spec file {path} holds a {type(values).__name__}, not the fields of a corpus")
    return validated(CorpusSpec, values)
