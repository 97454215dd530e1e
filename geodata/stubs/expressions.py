"""Expression graphs of Earth Engine, evaluated as far as `sources.earth_engine` uses them.

One function for each operation, under the name the service knows it by. What is not here is refused by name, so that a
change of the source that needs more shows at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np

from geodata.grid import Bounds
from geodata.source import Period
from geodata.stubs.archive import (
    CLOUD_SCORE,
    Archive,
    Channel,
    Frame,
    Look,
    Points,
    Seen,
    Unanswerable,
    scored,
)

Given = Mapping[str, Any]
Test = Callable[[Given], bool]
"""A filter on an image's properties."""


@dataclass(frozen=True)
class Spot:
    """Ground or a point that a request names: bounds in a CRS."""

    epsg: int
    bounds: Bounds


@dataclass(frozen=True)
class Feature:
    """A row of a table."""

    area: Spot | None
    told: Given


@dataclass(frozen=True)
class Shelf:
    """A collection of the archive, not listed before it has to be."""

    name: str
    area: Spot | None = None
    period: Period | None = None
    tests: tuple[Test, ...] = ()
    bands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Held:
    """A collection that was made: images or features."""

    items: tuple[Any, ...]


class Interpreter:
    """Evaluates one graph."""

    def __init__(self, archive: Archive, expression: Mapping[str, Any]) -> None:
        self.archive = archive
        self._nodes, self._result = expression["values"], expression["result"]
        self._known: dict[int, Any] = {}
        self._frees: dict[int, bool] = {}

    def value(self) -> Any:
        """What the graph comes to: a Frame, a collection, a Feature, or plain JSON. Raises Unanswerable."""
        return self._at(self._result, {})

    def listed(self, collection: Any) -> tuple[Any, ...]:
        """The members of a collection."""
        if isinstance(collection, Held):
            return collection.items
        if not isinstance(collection, Shelf):
            raise Unanswerable(400, f"Expected a collection, not {type(collection).__name__}.")
        if collection.area is None or collection.period is None:
            raise Unanswerable(400, "the stand-in lists a collection only within filterBounds and filterDate")
        area, period = collection.area, collection.period
        found = self.archive.listed(collection.name, area.epsg, area.bounds, period)
        return tuple(frame for frame in found if all(test(frame.told) for test in collection.tests))

    def _at(self, name: str, bound: Given) -> Any:
        return self._node(self._nodes[name], bound)

    def _node(self, node: Given, bound: Given) -> Any:
        """The value of a node; one that mentions no argument of a function around it is found once."""
        if not self._free(node):
            return self._found(node, bound)
        if id(node) not in self._known:
            self._known[id(node)] = self._found(node, {})
        return self._known[id(node)]

    def _found(self, node: Given, bound: Given) -> Any:
        ((kind, value),) = node.items()
        if kind == "constantValue":
            return value
        if kind == "valueReference":
            return self._at(value, bound)
        if kind == "argumentReference":
            return bound[value]
        if kind == "arrayValue":
            return [self._node(one, bound) for one in value["values"]]
        if kind == "dictionaryValue":
            return {key: self._node(one, bound) for key, one in value["values"].items()}
        if kind == "functionDefinitionValue":
            names, body = value["argumentNames"], value["body"]
            return lambda *given: self._at(body, {**bound, **dict(zip(names, given, strict=True))})
        if kind == "functionInvocationValue":
            name = value["functionName"]
            if name not in OPERATIONS:
                known = ", ".join(sorted(OPERATIONS))
                raise Unanswerable(
                    400, f"the stand-in does not know the operation {name!r}; it knows {known}"
                )
            given = {key: self._node(one, bound) for key, one in value["arguments"].items()}
            return OPERATIONS[name](self, given)
        raise Unanswerable(400, f"the stand-in does not know a node of kind {kind!r}")

    def _free(self, node: Given) -> bool:
        if id(node) not in self._frees:
            self._frees[id(node)] = self._mentions_none(node)
        return self._frees[id(node)]

    def _mentions_none(self, part: Any) -> bool:
        if isinstance(part, list):
            return all(self._mentions_none(one) for one in part)
        if not isinstance(part, dict) or "constantValue" in part:
            return True
        if "argumentReference" in part:
            return False
        if isinstance(name := part.get("valueReference"), str):
            return self._free(self._nodes[name])
        if isinstance(name := part.get("functionDefinitionValue"), dict):
            return self._free(self._nodes[name["body"]])
        return all(self._mentions_none(one) for one in part.values())


Operation = Callable[[Interpreter, Given], Any]


def _load(graph: Interpreter, given: Given) -> Frame:
    return graph.archive.frame(given["id"])


def _load_collection(graph: Interpreter, given: Given) -> Shelf:
    return Shelf(given["id"])


def _filtered(graph: Interpreter, given: Given) -> Shelf | Held:
    collection, filters = given["collection"], _flat(given["filter"])
    for one in filters:
        if isinstance(one, Spot) and isinstance(collection, Shelf):
            collection = replace(collection, area=one)
        elif isinstance(one, Period) and isinstance(collection, Shelf):
            collection = replace(collection, period=one)
        elif isinstance(collection, Shelf):
            collection = replace(collection, tests=(*collection.tests, one))
        else:
            raise Unanswerable(400, "the stand-in filters only collections of the archive")
    return collection


def _flat(filters: Any) -> list[Any]:
    return [one for part in filters for one in _flat(part)] if isinstance(filters, list) else [filters]


def _equals(graph: Interpreter, given: Given) -> Test:
    name, value = given["leftField"], given["rightValue"]
    return lambda told: told.get(name) == value


def _contains(graph: Interpreter, given: Given) -> Test:
    name, value = given["leftField"], given["rightValue"]
    return lambda told: value in told.get(name, ())


def _rectangle(graph: Interpreter, given: Given) -> Spot:
    west, south, east, north = (float(value) for value in given["coordinates"])
    return Spot(given["crs"], (west, south, east, north))


def _point(graph: Interpreter, given: Given) -> Spot:
    lon, lat = (float(value) for value in given["coordinates"])
    return Spot(4326, (lon, lat, lon, lat))


def _projection(graph: Interpreter, given: Given) -> int:
    return epsg_of(given["crs"])


def epsg_of(text: str) -> int:
    """The number of 'EPSG:32633'. Raises Unanswerable."""
    found = re.fullmatch(r"EPSG:(\d+)", str(text))
    if found is None:
        raise Unanswerable(400, f"The CRS of a map projection could not be parsed: {text!r}.")
    return int(found[1])


def _wkt(graph: Interpreter, given: Given) -> str:
    frame = given["projection"]
    west, _, _, north = frame.bounds
    terms = (("0_0", frame.gsd), ("0_2", west), ("1_1", -frame.gsd), ("1_2", north))
    told = "".join(f', \n  PARAMETER["elt_{place}", {value}]' for place, value in terms)
    return f'PARAM_MT["Affine", \n  PARAMETER["num_row", 3], \n  PARAMETER["num_col", 3]{told}]'


def _mapped(graph: Interpreter, given: Given) -> Held:
    return Held(tuple(given["baseAlgorithm"](one) for one in graph.listed(given["collection"])))


def _column(graph: Interpreter, given: Given) -> list[Any]:
    values = (one.told.get(given["property"]) for one in graph.listed(given["collection"]))
    return [value for value in values if value is not None]


def _select(graph: Interpreter, given: Given) -> Frame:
    frame, chosen = given["input"], []
    for wanted in given["bandSelectors"]:
        found = (
            [frame.bands[wanted]] if isinstance(wanted, int) else [b for b in frame.bands if b.name == wanted]
        )
        if not found:
            there = ", ".join(band.name for band in frame.bands)
            raise Unanswerable(
                400,
                f"Image.select: Band pattern '{wanted}' did not match any bands. Available bands: [{there}]",
            )
        chosen += found
    return replace(frame, bands=tuple(chosen))


def _link(graph: Interpreter, given: Given) -> Frame:
    frame, other, names = given["input"], given["imageCollection"], given["linkedBands"]
    if other.name != CLOUD_SCORE:
        raise Unanswerable(400, f"the stand-in links Cloud Score+ only, not {other.name}")
    index = frame.told["system:index"]
    if scored(index):
        linked = _select(
            graph, {"input": graph.archive.frame(f"{CLOUD_SCORE}/{index}"), "bandSelectors": names}
        )
        return replace(frame, bands=(*frame.bands, *linked.bands))
    masked = tuple(Channel(name, "<f8", _masked(frame.bands[0].look)) for name in names)
    return replace(frame, bands=(*frame.bands, *masked))


def _masked(look: Look) -> Look:
    def masked(place: Any) -> Seen:
        values, valid = look(place)
        return np.zeros(values.shape), np.zeros(valid.shape, bool)

    return masked


def _changed(look: Look, change: Callable[[Any, Any], Seen]) -> Look:
    return lambda place: change(*look(place))


def _unmask(graph: Interpreter, given: Given) -> Frame:
    if given.get("sameFootprint", True):
        raise Unanswerable(400, "the stand-in unmasks beyond footprints only: sameFootprint=False")
    fill = given["value"]

    def change(band: Channel) -> Channel:
        wide = np.result_type(np.dtype(band.dtype), np.min_scalar_type(fill))

        def filled(values: Any, valid: Any) -> Seen:
            return np.where(valid, values.astype(wide), wide.type(fill)), np.ones(valid.shape, bool)

        return Channel(band.name, wide.str, _changed(band.look, filled))

    return given["input"].each(change)


def _cast(dtype: str) -> Operation:
    def cast(graph: Interpreter, given: Given) -> Frame:
        def convert(values: Any, valid: Any) -> Seen:
            info = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else None
            inside = np.clip(values, info.min, info.max) if info else values
            return np.asarray(inside).astype(dtype), valid

        return given["value"].each(lambda band: Channel(band.name, dtype, _changed(band.look, convert)))

    return cast


def _gte(graph: Interpreter, given: Given) -> Frame:
    limit = given["image2"]
    return given["image1"].each(
        lambda band: Channel(
            band.name, "|u1", _changed(band.look, lambda values, valid: (values >= limit, valid))
        )
    )


def _add(graph: Interpreter, given: Given) -> Frame:
    return replace(given["dstImg"], bands=(*given["dstImg"].bands, *given["srcImg"].bands))


def _to_bands(graph: Interpreter, given: Given) -> Frame:
    frames = graph.listed(given["collection"])
    named = [
        replace(band, name=f"{number}_{band.name}")
        for number, frame in enumerate(frames)
        for band in frame.bands
    ]
    return Frame(tuple(named))


def _chosen(graph: Interpreter, given: Given) -> Frame:
    """One image of a map, whatever it was made of: the synthetic Earth has one state."""
    return graph.archive.map(given["collection"].name)


def _reduced(graph: Interpreter, given: Given) -> Held:
    image, rows = given["image"], graph.listed(given["collection"])
    points = np.array([row.area.bounds[:2] for row in rows], float).reshape(-1, 2)
    values, valid = image.bands[0].look(Points(points[:, 0], points[:, 1]))
    told = ({"first": value.item()} if seen else {} for value, seen in zip(values, valid, strict=True))
    return Held(tuple(Feature(row.area, {**row.told, **new}) for row, new in zip(rows, told, strict=True)))


OPERATIONS: Mapping[str, Operation] = {
    "AggregateFeatureCollection.array": _column,
    "Collection": lambda graph, given: Held(tuple(given["features"])),
    "Collection.filter": _filtered,
    "Collection.map": _mapped,
    "DateRange": lambda graph, given: Period(
        date.fromisoformat(given["start"]), date.fromisoformat(given["end"])
    ),
    "Element.get": lambda graph, given: given["object"].told.get(given["property"]),
    "Feature": lambda graph, given: Feature(given.get("geometry"), given.get("metadata") or {}),
    "Filter.and": lambda graph, given: given["filters"],
    "Filter.dateRangeContains": lambda graph, given: given["leftValue"],
    "Filter.equals": _equals,
    "Filter.intersects": lambda graph, given: given["rightValue"].area,
    "Filter.listContains": _contains,
    "GeometryConstructors.Point": _point,
    "GeometryConstructors.Rectangle": _rectangle,
    "Image.addBands": _add,
    "Image.constant": lambda graph, given: given["value"],
    "Image.geometry": lambda graph, given: Spot(given["feature"].epsg, given["feature"].bounds),
    "Image.gte": _gte,
    "Image.linkCollection": _link,
    "Image.load": _load,
    "Image.projection": lambda graph, given: given["image"],
    "Image.reduceRegions": _reduced,
    "Image.select": _select,
    "Image.toByte": _cast("|u1"),
    "Image.toFloat": _cast("<f4"),
    "Image.toUint16": _cast("<u2"),
    "Image.unmask": _unmask,
    "ImageCollection.fromImages": lambda graph, given: Held(tuple(given["images"])),
    "ImageCollection.load": _load_collection,
    "ImageCollection.mosaic": _chosen,
    "ImageCollection.toBands": _to_bands,
    "List.contains": lambda graph, given: given["element"] in given["list"],
    "List.map": lambda graph, given: [given["baseAlgorithm"](one) for one in given["list"]],
    "Projection": _projection,
    "Projection.crs": lambda graph, given: f"EPSG:{given['projection'].epsg}",
    "Projection.transform": _wkt,
    "Reducer.first": lambda graph, given: "first",
    "reduce.mode": _chosen,
}
