"""A corpus as a static STAC catalog (1.1): one collection, one item a sample, its layers as assets.

`stac/items.parquet` (stac-geoparquet 1.1) holds all items whatever their number, and the collection names it as its
mirror. Up to `MOST_FILES` samples there is also a JSON file for each, in a catalog a shard, for tools that crawl;
beyond that millions of small files would serve nobody. An asset is a shard, because a sample has no file of its own:
`swath:column`, `swath:row_group` and `swath:row` say where in it the layer is.

Times are days: sources do not agree on hours. A series has its first and last day and no `datetime`. Where nobody
states a day (mosaics of map engines) the day of fetching stands for it, and `swath:date_of` says so.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from shapely.geometry.polygon import orient

from geodata.exports import Selection, Shard, around, batches, months
from geodata.exports.geoparquet import geo
from geodata.files import replacing, write_atomic
from geodata.grid import Grid
from geodata.sensors import Sensor

__all__ = ["MOST_FILES", "write"]

MOST_FILES = 10_000
ITEMS_PER_GROUP = 4096  # held as plain values until they are written
VERSION = "1.1.0"
PARQUET = "application/vnd.apache.parquet"
_EXTENSION = "https://stac-extensions.github.io/{}/schema.json"
EXTENSIONS = tuple(_EXTENSION.format(one) for one in ("projection/v2.0.0", "file/v2.1.0", "raster/v2.0.0"))
EO, SAR = _EXTENSION.format("eo/v2.0.0"), _EXTENSION.format("sar/v1.3.0")
COMMON_NAMES = {
    "R": "red",
    "G": "green",
    "B": "blue",
    "B01": "coastal",
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B05": "rededge071",
    "B06": "rededge075",
    "B07": "rededge078",
    "B08": "nir",
    "B8A": "nir08",
    "B09": "nir09",
    "B10": "cirrus",
    "B11": "swir16",
    "B12": "swir22",
}
TITLES = {
    "optical": "High-resolution optical image",
    "photo": "Picture",
    "multispectral": "Sentinel-2 series",
    "radar": "Sentinel-1 series",
    "map": "Land cover",
}

Item = dict[str, Any]
Box = tuple[float, float, float, float]


@dataclass
class _Seen:
    """What the collection says of its items, gathered while they pass."""

    box: Box | None = None
    first: datetime | None = None
    last: datetime | None = None
    gsd: set[float] = field(default_factory=set)
    codes: Counter[str] = field(default_factory=Counter)
    words: dict[str, Counter[str]] = field(default_factory=dict)
    licences: Counter[str] = field(default_factory=Counter)
    attributions: Counter[str] = field(default_factory=Counter)

    def add(self, item: Item, row: Mapping[str, Any], sensors: Sequence[Sensor]) -> None:
        properties = item["properties"]
        self.box = around(self.box, tuple(item["bbox"]) if item.get("bbox") else None)
        begin, end = properties["start_datetime"], properties["end_datetime"]
        self.first, self.last = min(self.first or begin, begin), max(self.last or end, end)
        if "gsd" in properties:
            self.gsd.add(properties["gsd"])
            self.codes[properties["proj:code"]] += 1
        for name in ("swath:split", "swath:stratum", "swath:continent"):
            self.words.setdefault(name, Counter())[properties[name]] += 1
        for known in sensors:
            if row[f"{known.prefix}_source"] is not None:
                self.licences[row[f"{known.prefix}_license"] or ""] += 1
                self.attributions[row[f"{known.prefix}_attribution"] or ""] += 1


def write(selection: Selection) -> Path:
    """Write the catalog below `stac/` and its collection last. Raises ValueError when another catalog is there."""
    folder = selection.folder / "stac"
    _cleared(folder, selection)
    seen = _Seen()
    children: list[str] = []
    columns = _columns(selection.meta.sensors)
    crawled = selection.rows <= MOST_FILES
    with (
        replacing(folder / "items.parquet") as temporary,
        pq.ParquetWriter(temporary, columns, compression="zstd", write_page_checksum=True) as writer,
    ):
        waiting: list[dict[str, Any]] = []
        for shard, items in _by_shard(selection, seen):
            if crawled:
                children.append(_catalog(folder, selection, shard, items))
            waiting += [_row(item) for item in items]
            if len(waiting) >= ITEMS_PER_GROUP:
                writer.write_table(pa.Table.from_pylist(waiting, columns), row_group_size=ITEMS_PER_GROUP)
                waiting = []
        if waiting:
            writer.write_table(pa.Table.from_pylist(waiting, columns), row_group_size=ITEMS_PER_GROUP)
        told = collection(selection, seen, children)
        mirror = {"version": "1.1.0", "collections": {told["id"]: told}}
        writer.add_key_value_metadata(
            {"geo": json.dumps(geo(seen.box)), "stac-geoparquet": json.dumps(mirror)}
        )
    return _saved(folder / "collection.json", told)


def collection(selection: Selection, seen: _Seen, children: Sequence[str]) -> dict[str, Any]:
    """The collection: extent, summaries, licences, the layers every item has, and where the whole of it is."""
    corpus = selection.corpus
    licences = sorted(name for name in seen.licences if name)
    links = [
        {"rel": "root", "href": "./collection.json", "type": "application/json"},
        *({"rel": "child", "href": href, "type": "application/json"} for href in children),
        *(
            {"rel": "license", "href": one, "type": "text/html"}
            for one in licences
            if one.startswith("https://")
        ),
    ]
    if selection.url:
        links.append(
            {
                "rel": "self",
                "href": f"{selection.url}/stac/collection.json",
                "type": "application/json",
            }
        )
    return {
        "type": "Collection",
        "stac_version": VERSION,
        "stac_extensions": [*EXTENSIONS, *_kinds(selection.meta.sensors)],
        "id": identity(selection),
        "title": selection.title,
        "description": f"{selection.rows:,} samples of ground, each through {_and([s.name for s in selection.meta.sensors])}, "
        f"in {len(selection.shards):,} Parquet shards. Made by {corpus.created_by or 'swath'}.",
        "keywords": ["remote sensing", "pretraining", *sorted({s.name for s in selection.meta.sensors})],
        "license": _spdx(licences),
        "providers": [
            {"name": name, "roles": ["licensor", "producer"]}
            for name in sorted(filter(None, seen.attributions))
        ],
        "extent": {
            "spatial": {"bbox": [list(seen.box or (-180.0, -90.0, 180.0, 90.0))]},
            "temporal": {"interval": [[_text(seen.first), _text(seen.last)]]},
        },
        "summaries": {
            **({"gsd": {"minimum": min(seen.gsd), "maximum": max(seen.gsd)}} if seen.gsd else {}),
            **({"proj:code": sorted(seen.codes)} if seen.codes else {}),
            **{name: sorted(filter(None, values)) for name, values in seen.words.items() if any(values)},
        },
        "item_assets": {known.prefix: _described(known) for known in selection.meta.sensors},
        "assets": _whole(selection),
        "links": links,
        "swath:version": corpus.version,
        "swath:fingerprint": corpus.fingerprint,
        "swath:licenses": licences,
        "swath:left_out": dict(selection.left_out),
    }


def identity(selection: Selection) -> str:
    """Id of the collection: name and version, joined by what STAC allows."""
    return f"{selection.corpus.name}-{selection.corpus.version}"


def item(row: Mapping[str, Any], shard: Shard, selection: Selection, up: str) -> Item:
    """One sample as a STAC item whose times are still values; `up` leads from its file to the folder of the export."""
    sensors = [known for known in selection.meta.sensors if row[f"{known.prefix}_source"] is not None]
    placed = row["crs_epsg"] is not None
    grid = Grid(row["crs_epsg"], tuple(row["transform"]), row["height"], row["width"]) if placed else None
    properties: dict[str, Any] = {
        **_times(row, selection),
        "swath:split": row["split"],
        "swath:stratum": row["stratum"],
        "swath:continent": row["continent"],
        "swath:sampling_weight": row["sampling_weight"],
    }
    if grid is not None:
        properties |= {"gsd": row["gsd_m"], "proj:code": f"EPSG:{grid.epsg}"}
        properties |= {"proj:shape": list(grid.shape), "proj:transform": list(grid.transform)}
    cloud = [
        one for known in sensors for one in row[f"{known.prefix}_cloud"] if one is not None and one == one
    ]
    if cloud:
        properties["eo:cloud_cover"] = round(100 * sum(cloud) / len(cloud), 3)
    made: Item = {
        "type": "Feature",
        "stac_version": VERSION,
        "stac_extensions": [*EXTENSIONS, *_kinds(selection.meta.sensors)],
        "id": row["sample_id"],
        "collection": identity(selection),
        "geometry": None,
        "properties": properties,
        "assets": {known.prefix: _asset(known, row, shard, grid, up) for known in sensors},
        "links": [
            {"rel": rel, "href": f"{up}stac/collection.json", "type": "application/json"}
            for rel in ("root", "collection")
        ],
    }
    if row["geometry"] is not None:
        outline = orient(shapely.from_wkb(row["geometry"]))
        made |= {"geometry": shapely.geometry.mapping(outline), "bbox": list(row["bbox"].values())}
    return made


def _by_shard(selection: Selection, seen: _Seen) -> Iterator[tuple[Shard, list[Item]]]:
    """The items of each shard, as they stand in its catalog."""
    shard, items = selection.shards[0], list[Item]()
    for place, read in batches(selection):
        if place is not shard:
            yield shard, items
            shard, items = place, []
        for row in read.to_pylist():
            made = item(row, place, selection, "../../")
            seen.add(made, row, selection.meta.sensors)
            items.append(made)
    yield shard, items


def _catalog(folder: Path, selection: Selection, shard: Shard, items: Sequence[Item]) -> str:
    """Write a shard's catalog and its items; its address from the collection."""
    name = Path(shard.href).stem
    root = {"href": "../collection.json", "type": "application/json"}
    links = [{"rel": "root", **root}, {"rel": "parent", **root}]
    links += [{"rel": "item", "href": f"./{one['id']}.json", "type": "application/geo+json"} for one in items]
    parent = {"rel": "parent", "href": "./catalog.json", "type": "application/json"}
    (folder / name).mkdir()
    for one in items:
        text = _json(one | {"links": [*one["links"], parent]})
        (folder / name / f"{one['id']}.json").write_text(text, encoding="utf-8")
    told = {
        "type": "Catalog",
        "stac_version": VERSION,
        "id": f"{identity(selection)}-{name}",
        "title": f"{selection.title}, {name}",
        "description": f"The {len(items)} samples of {shard.href}.",
        "links": links,
    }
    _saved(folder / name / "catalog.json", told)
    return f"./{name}/catalog.json"


def _times(row: Mapping[str, Any], selection: Selection) -> dict[str, Any]:
    first, last = row["first_date"], row["last_date"]
    told: dict[str, Any] = {}
    if first is None:
        fetched = sorted(one for one in row.get("hr_fetched") or () if one)
        told["swath:date_of"] = "fetching" if fetched else "the corpus"
        asked = months(selection)
        days = (fetched[0], fetched[-1]) if fetched else asked or ("1970-01-01", date.today().isoformat())
        first, last = (date.fromisoformat(day[:10]) for day in days)
    begin, end = _moment(first, time.min), _moment(last, time(23, 59, 59))
    return told | {
        "datetime": begin if first == last else None,
        "start_datetime": begin,
        "end_datetime": end,
    }


def _moment(day: date, hour: time) -> datetime:
    return datetime.combine(day, hour, tzinfo=UTC)


def _asset(known: Sensor, row: Mapping[str, Any], shard: Shard, grid: Grid | None, up: str) -> dict[str, Any]:
    """A layer of a sample: the shard, the bands, its own grid, and where in the shard it is."""
    prefix = known.prefix
    asset: dict[str, Any] = {
        "href": f"{up}{shard.href}",
        **_described(known),
        "gsd": row[f"{prefix}_gsd_m"],
        "file:size": shard.bytes,
        "file:checksum": f"1220{shard.sha256}",  # multihash: sha2-256, 32 bytes
        "swath:column": f"{prefix}_pixels",
        "swath:row_group": row["row_group"],
        "swath:row": row["row"],
        "swath:pixel_hash": row[f"{prefix}_pixel_hash"].hex(),
        "swath:dates": [None if day is None else day.isoformat() for day in row[f"{prefix}_dates"]],
        "swath:item_ids": list(row[f"{prefix}_item_ids"]),
        "swath:license": row[f"{prefix}_license"],
        "swath:attribution": row[f"{prefix}_attribution"],
    }
    if grid is not None:
        own = grid.at(row[f"{prefix}_gsd_m"])
        asset |= {"proj:shape": list(own.shape), "proj:transform": list(own.transform)}
    if known.kind == "radar":
        products = {one for one in row.get(f"{prefix}_product") or () if one}
        asset |= {"sar:frequency_band": "C", "sar:polarizations": list(known.band_names)}
        asset |= {"sar:product_type": products.pop()} if len(products) == 1 else {}
    return asset


@functools.lru_cache(maxsize=32)
def _described(known: Sensor) -> dict[str, Any]:
    """What is the same of a layer in every item."""
    title = TITLES.get("photo" if known.name == "photo" else known.kind, known.name)
    bands: list[dict[str, Any]] = []
    for band in known.bands:
        told: dict[str, Any] = {"name": band.name}
        if band.centre_nm is not None and known.kind != "radar":
            told["eo:center_wavelength"] = round(band.centre_nm / 1000, 4)
        if band.name in COMMON_NAMES and known.kind in ("optical", "multispectral"):
            told["eo:common_name"] = COMMON_NAMES[band.name]
        bands.append(told)
    return {
        "title": f"{title} ({known.name})",
        "type": PARQUET,
        "roles": ["data"],
        "data_type": known.dtype,
        "nodata": known.nodata,
        "unit": known.unit,
        "raster:scale": known.scale,
        "bands": bands,
    }


def _whole(selection: Selection) -> dict[str, Any]:
    """Assets of the collection: all items in one file, and the other exports where they are."""
    found = {
        "items": {
            "href": "./items.parquet",
            "title": "All items as stac-geoparquet",
            "description": "One row an item, in the order of the shards; neighbours on the ground are neighbours in it.",
            "type": PARQUET,
            "roles": ["collection-mirror"],
        }
    }
    for key, name, title, kind in (
        ("index", "index.parquet", "All samples as GeoParquet, with every column but the pixels", PARQUET),
        ("croissant", "croissant.json", "Croissant description of the shards", "application/ld+json"),
        ("card", "card.html", "Data card", "text/html"),
    ):
        if (selection.folder / name).exists():
            found[key] = {"href": f"../{name}", "title": title, "type": kind, "roles": ["metadata"]}
    return found


def _kinds(sensors: Sequence[Sensor]) -> list[str]:
    kinds = {known.kind for known in sensors}
    return [*([EO] if kinds & {"optical", "multispectral"} else []), *([SAR] if "radar" in kinds else [])]


def _spdx(licences: Sequence[str]) -> str:
    """What STAC calls a licence: the SPDX name when it is one and plain, else `other`, and the links tell more."""
    plain = len(licences) == 1 and all(letter.isalnum() or letter in ".-+" for letter in licences[0])
    return licences[0] if plain else "other"


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _saved(path: Path, values: Mapping[str, Any]) -> Path:
    write_atomic(path, _json(values).encode())
    return path


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False, default=_text)


def _cleared(folder: Path, selection: Selection) -> None:
    """Remove an earlier export of the same corpus, so that no item of it stays behind."""
    if not folder.exists():
        return
    try:
        found = json.loads((folder / "collection.json").read_bytes()).get("id")
    except (OSError, ValueError, AttributeError):
        found = None
    if found is None and not (folder / "items.parquet").exists() and any(folder.iterdir()):
        found = "something else"
    if found not in (None, identity(selection)):
        raise ValueError(
            f"{folder} holds {found}, not {identity(selection)}; export to another folder with --to, or delete it"
        )
    shutil.rmtree(folder)


# stac-geoparquet: the same items as rows, properties beside the rest, times as times


def _row(made: Item) -> dict[str, Any]:
    row = {name: value for name, value in made.items() if name not in ("properties", "geometry")}
    outline = made["geometry"]
    row["geometry"] = None if outline is None else shapely.to_wkb(shapely.geometry.shape(outline))
    if "bbox" in made:
        row["bbox"] = dict(zip(("xmin", "ymin", "xmax", "ymax"), made["bbox"], strict=True))
    row["assets"] = {
        key: asset | {"href": asset["href"].removeprefix("../")} for key, asset in made["assets"].items()
    }
    row["links"] = [
        link | {"href": link["href"].removeprefix("../../stac/")}
        for link in made["links"]
        if link["rel"] != "parent"
    ]
    return row | made["properties"]


def _columns(sensors: Sequence[Sensor]) -> pa.Schema:
    text, number, whole = pa.string(), pa.float64(), pa.int64()
    moment = pa.timestamp("us", tz="UTC")
    link = pa.struct([("rel", text), ("href", text), ("type", text)])
    grid = [("proj:shape", pa.list_(whole)), ("proj:transform", pa.list_(number))]
    band = pa.struct([("name", text), ("eo:center_wavelength", number), ("eo:common_name", text)])
    asset = [
        *((name, text) for name in ("href", "title", "type", "data_type", "unit")),
        ("roles", pa.list_(text)),
        ("nodata", number),
        ("raster:scale", number),
        ("gsd", number),
        ("bands", pa.list_(band)),
        ("file:size", whole),
        ("file:checksum", text),
        *grid,
        *((f"swath:{name}", text) for name in ("column", "pixel_hash", "license", "attribution")),
        *((f"swath:{name}", whole) for name in ("row_group", "row")),
        *((f"swath:{name}", pa.list_(text)) for name in ("dates", "item_ids")),
    ]
    radar = [("sar:frequency_band", text), ("sar:polarizations", pa.list_(text)), ("sar:product_type", text)]
    assets = [
        (known.prefix, pa.struct(asset + (radar if known.kind == "radar" else []))) for known in sensors
    ]
    return pa.schema(
        [
            ("type", text),
            ("stac_version", text),
            ("stac_extensions", pa.list_(text)),
            ("id", text),
            ("collection", text),
            ("geometry", pa.binary()),
            ("bbox", pa.struct([(name, number) for name in ("xmin", "ymin", "xmax", "ymax")])),
            ("links", pa.list_(link)),
            ("assets", pa.struct(assets)),
            ("datetime", moment),
            ("start_datetime", moment),
            ("end_datetime", moment),
            ("gsd", number),
            ("proj:code", text),
            *grid,
            ("eo:cloud_cover", number),
            ("swath:split", text),
            ("swath:stratum", text),
            ("swath:continent", text),
            ("swath:sampling_weight", number),
            ("swath:date_of", text),
        ]
    )
