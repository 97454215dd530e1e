"""A corpus in Croissant 1.1 (JSON-LD): its files with their hashes, and the columns that its samples have.

Croissant's readers join no files and decode no pixels of ours, so the record set names every column of a shard that
is a number, a word, a day or a list of these; the pixel column is described where it is, among the sensors' facts, and
left as bytes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa

from geodata.exports import Selection, batches, made_on
from geodata.files import file_sha256, write_atomic
from geodata.sample import FileMeta

__all__ = ["write"]

PARQUET = "application/x-parquet"  # the name that Croissant's own reader knows
VERSION = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){0,2}")

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The names of the vocabulary, as the specification lists them."""

_KINDS = (
    (pa.types.is_string, "sc:Text"),
    (pa.types.is_boolean, "sc:Boolean"),
    (pa.types.is_date, "sc:Date"),
    (pa.types.is_integer, "sc:Integer"),
    (pa.types.is_floating, "sc:Float"),
)
_WORDS = {
    "sample_id": "Identity of the sample: stable, unique within the corpus",
    "split": "train, val or test; decided by blocks of ground",
    "region_id": "Field of the 64 x 64 longitude-latitude lattice, row by row from the north-west",
    "cell_id": "Block of ground that the split was decided by",
    "lon": "Longitude of the centre, degrees",
    "lat": "Latitude of the centre, degrees",
    "crs_epsg": "EPSG code of the projection of the pixels",
    "transform": "Affine transform (a, b, c, d, e, f) from column and row to projected metres",
    "width": "Pixels along a row, at gsd_m",
    "height": "Pixels along a column, at gsd_m",
    "gsd_m": "Ground sample distance, metres",
    "continent": "Continent of the centre",
    "stratum": "Land-cover stratum the sample was drawn for",
    "sampling_weight": "Share of the stratum's ground over its share of the samples",
    "contamination": "Benchmarks whose ground or images this sample repeats",
}
_LAYER_WORDS = {
    "shape": "Axes of the pixels: dates, bands, rows, columns",
    "bands": "Names along the band axis",
    "gsd_m": "Ground sample distance of this layer, metres",
    "dates": "Day of each image, oldest first",
    "cloud": "Share of the sample under cloud, for each date",
    "nodata": "Share of the sample without data, for each date",
    "item_ids": "Scene of the provider each image was cut from",
    "resampled": "Whether pixels were interpolated, for each date",
    "source": "Source the layer was read from",
    "license": "Licence of the layer",
    "attribution": "Whom to name",
    "redistribute": "Whether the layer may be passed on",
    "phash": "Perceptual hash, 64 bits",
    "flags": "What a check found odd, for each date; empty where nothing",
    "dark": "First percentile of the valid pixels, stored units, for each date",
}


def write(selection: Selection) -> Path:
    """Write `croissant.json` in the folder of the export."""
    path = selection.folder / "croissant.json"
    write_atomic(path, json.dumps(describe(selection), indent=1, ensure_ascii=False).encode())
    return path


def describe(selection: Selection) -> dict[str, Any]:
    """The whole description, as plain values."""
    corpus = selection.corpus
    layers = "; ".join(_layer(known) for known in selection.meta.sensors)
    made = made_on(corpus)
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": selection.title,
        "description": f"{selection.rows:,} samples of ground in {len(selection.shards):,} Parquet shards. {layers}. "
        f"Pixels are blobs; the metadata entry `swath` of each shard says how they are laid out.",
        "license": _licences(selection),
        "citeAs": f"Corpus {selection.title}, fingerprint {corpus.fingerprint}, made by {corpus.created_by or 'swath'}.",
        **({"version": corpus.version} if VERSION.fullmatch(corpus.version) else {}),
        **({"datePublished": made} if made else {}),
        **({"url": selection.url} if selection.url else {}),
        "isLiveDataset": False,
        "keywords": ["remote sensing", "pretraining", *sorted({s.name for s in selection.meta.sensors})],
        "distribution": [*_files(selection), _shards()],
        "recordSet": [_splits(selection), _samples(selection.meta)],
    }


def _layer(known: Any) -> str:
    scale = "" if known.scale == 1 else f", times {known.scale:g}"
    return (
        f"{known.prefix}_pixels: {known.name}, {known.dtype}, bands {' '.join(known.band_names)}, "
        f"{known.unit}{scale}, nodata {known.nodata}"
    )


def _licences(selection: Selection) -> list[str]:
    """Every licence that occurs, whom to name with it where anybody is; read from the rows."""
    columns = [(f"{s.prefix}_license", f"{s.prefix}_attribution") for s in selection.meta.sensors]
    found: dict[str, set[str]] = {}
    for _, read in batches(selection):
        for licence, attribution in columns:
            pairs = zip(read.column(licence).to_pylist(), read.column(attribution).to_pylist(), strict=True)
            for name, who in set(pairs):
                if name:
                    found.setdefault(name, set()).update({who} if who else ())
    named = {name: sorted(who)[:5] for name, who in sorted(found.items())}
    return [f"{name} ({'; '.join(who)})" if who else name for name, who in named.items()] or ["unknown"]


def _files(selection: Selection) -> list[dict[str, Any]]:
    """A file object for each shard, and for the index where it has been written."""
    files = [
        _file(Path(shard.href).name, shard.href, shard.bytes, shard.sha256, f"{shard.rows:,} samples")
        for shard in selection.shards
    ]
    index = selection.folder / "index.parquet"
    if index.exists():
        files.append(
            _file(
                "index.parquet",
                "index.parquet",
                index.stat().st_size,
                file_sha256(index),
                "All samples without their pixels (GeoParquet)",
            )
        )
    return files


def _file(name: str, href: str, size: int, sha256: str, description: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": href,
        "name": name,
        "description": description,
        "contentUrl": href,
        "contentSize": f"{size} B",
        "encodingFormat": PARQUET,
        "sha256": sha256,
    }


def _shards() -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": "shards",
        "name": "shards",
        "description": "All shards; their hashes are those of the file objects.",
        "encodingFormat": PARQUET,
        "includes": "shards/*.parquet",
    }


def _splits(selection: Selection) -> dict[str, Any]:
    names = ("train", "val", "test")
    return {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "name": "splits",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [{"@type": "cr:Field", "@id": "splits/name", "name": "name", "dataType": "sc:Text"}],
        "data": [{"splits/name": name} for name in names if name in selection.corpus.counts()["split"]],
    }


def _samples(meta: FileMeta) -> dict[str, Any]:
    fields = [_field(column, meta) for column in meta.schema()]
    return {
        "@type": "cr:RecordSet",
        "@id": "samples",
        "name": "samples",
        "description": "One record a sample, through all its sensors.",
        "key": {"@id": "samples/sample_id"},
        "field": [one for one in fields if one is not None],
    }


def _field(column: pa.Field, meta: FileMeta) -> dict[str, Any] | None:
    """A column as a field; None for the kinds that Croissant has no word for."""
    listed = pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
    inner = column.type.value_type if listed else column.type
    kind = next((name for fits, name in _KINDS if fits(inner)), None)
    if kind is None:
        return None
    made: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"samples/{column.name}",
        "name": column.name,
        "description": _meaning(column.name, meta),
        "dataType": "cr:Split" if column.name == "split" else kind,
        "source": {"fileSet": {"@id": "shards"}, "extract": {"column": column.name}},
    }
    if column.name == "split":
        made |= {"dataType": "sc:Text", "references": {"field": {"@id": "splits/name"}}}
    return made | ({"isArray": True, "arrayShape": "-1"} if listed else {})


def _meaning(name: str, meta: FileMeta) -> str:
    if name in _WORDS:
        return _WORDS[name]
    if name.startswith("label_"):
        return f"Label {name.removeprefix('label_')}"
    known = next((one for one in meta.sensors if name.startswith(f"{one.prefix}_")), None)
    rest = name.partition("_")[2]
    words = _LAYER_WORDS.get(rest, f"{rest.replace('_', ' ').capitalize()}, for each date")
    return words if known is None else f"{words} ({known.name})"
