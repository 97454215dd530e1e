"""One chip through all its sensors: a `Sample`, and the Parquet row it becomes.

Columns are flat and carry their sensor's prefix (`s2_pixels`, `s2_dates` ...), so that reading one sensor touches
only its pages. Nodata lives in the pixels themselves; dates of a series run along the first axis, oldest first. What a
check found (dark pixels, shifts between sensors, overlap with a benchmark) is a column too: a proof that is not in
the row is lost with the log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from math import isnan, nan
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from blake3 import blake3
from numpy.typing import NDArray

from geodata import codec, radiometry
from geodata.codec import Encoded
from geodata.errors import Corrupt
from geodata.grid import Grid
from geodata.sensors import Sensor, sensor

SCHEMA_VERSION = 2
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Layer:
    """All acquisitions of one sensor over a chip: pixels (T, C, H, W), and per date what is known of it.

    `cloud` and `nodata` are shares of the chip (0 to 1, nan where unknown); `scl` (T, H, W) are scene
    classification codes where the source has them; `dark` is the first percentile of valid pixels in stored units
    (Sentinel-2 only, else nan); `flags` are "" or what a check found odd; `phash` is a perceptual hash of 64 bits.
    With `encoded`, one a date, those files are what is stored and hashed (decoders differ in the last bit), and
    `pixels` is how they decode here. The last three are for the shard's record, not for its columns: a digest of all
    scenes that the search returned, scene id -> reason of those refused, scene id -> band -> unsigned address.
    """

    sensor: Sensor
    pixels: NDArray[Any]
    dates: tuple[date | None, ...]
    item_ids: tuple[str, ...]
    source: str
    cloud: tuple[float, ...] = ()
    nodata: tuple[float, ...] = ()
    resampled: tuple[bool, ...] = ()
    properties: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    scl: NDArray[np.uint8] | None = None
    gsd: float = 0.0
    license: str = ""
    attribution: str = ""
    redistribute: bool = True
    encoded: tuple[Encoded, ...] = ()
    phash: int | None = None
    flags: tuple[str, ...] = ()
    dark: tuple[float, ...] = ()
    considered: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)
    hrefs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        times = len(self.dates)
        bands = len(self.sensor.bands)
        if self.pixels.ndim != 4 or self.pixels.shape[:2] != (times, bands) or not times:
            raise ValueError(
                f"{self.sensor.prefix}: pixels {self.pixels.shape} are not ({times} dates, {bands} bands, height, width)"
            )
        if self.pixels.dtype != self.sensor.numpy_dtype:
            raise ValueError(f"{self.sensor.prefix}: pixels are {self.pixels.dtype}, not {self.sensor.dtype}")
        for name, unknown in _PER_DATE.items():
            if not getattr(self, name):
                object.__setattr__(self, name, (unknown,) * times)
        lengths = [len(self.item_ids), *(len(getattr(self, name)) for name in _PER_DATE)]
        lengths += [len(values) for values in self.properties.values()]
        lengths += [len(self.encoded)] if self.encoded else []
        if any(length != times for length in lengths):
            raise ValueError(f"{self.sensor.prefix}: {times} dates, but per-date values of length {lengths}")
        object.__setattr__(self, "gsd", self.gsd or self.sensor.gsd)

    def pixel_hash(self) -> bytes:
        """BLAKE3 (32 bytes) of dtype, shape and pixels: equal on any machine and with any version of a compressor.

        With `encoded`, of shape and original bytes instead. BLAKE3, because SHA-256 costs a quarter of compression.
        """
        digest = blake3(f"{self.pixels.dtype.str}{self.pixels.shape}".encode())
        for picture in self.encoded:
            tiles = [tile for row in picture.tiles for tile in row]
            layout = len(picture.tiles), len(picture.tiles[0]), [len(tile) for tile in tiles]
            digest.update(f"{picture.mime}{layout}".encode())
            for tile in tiles:
                digest.update(tile)
        if not self.encoded:
            digest.update(np.ascontiguousarray(self.pixels).reshape(-1).view(np.uint8).data)
        return digest.digest()


_PER_DATE: Mapping[str, object] = {
    "cloud": float("nan"),
    "nodata": float("nan"),
    "resampled": False,
    "flags": "",
    "dark": float("nan"),
}
"""What a layer holds for each date besides date and scene, and what stands for not known."""


@dataclass(frozen=True)
class Shift:
    """How far the second of a pair of layers ("s2-s1") lies from the first, measured from their pixels.

    `right` and `down` are pixels of `gsd` metres; `peak` (0 to 1) is how clearly the correlation stands out.
    """

    pair: str
    right: float
    down: float
    gsd: float
    peak: float


def judged(layer: Layer, least: int = 1) -> Layer:
    """The layer with `dark` and `flags`, where it is Sentinel-2's and a date has at least `least` pixels (H times W)."""
    if layer.sensor.prefix != "s2" or layer.pixels.shape[-2] * layer.pixels.shape[-1] < least:
        return layer
    per_date = [
        {name: values[date] for name, values in layer.properties.items()} for date in range(len(layer.dates))
    ]
    darkness, flags = radiometry.flags(layer.sensor, layer.pixels, per_date)
    return replace(layer, dark=darkness, flags=flags)


@dataclass(frozen=True)
class Sample:
    """One chip with everything known of it. `grid` is the chip's; a layer's grid is `grid.at(layer.gsd)`.

    A picture that lies nowhere has no grid, and nan for `lon` and `lat`. `contamination` names the benchmarks whose
    ground or pictures this sample repeats.
    """

    sample_id: str
    split: str
    lon: float
    lat: float
    grid: Grid | None
    stratum: str
    layers: Mapping[str, Layer]
    continent: str = ""
    region_id: int = -1
    cell_id: str = ""
    sampling_weight: float = 1.0
    labels: Mapping[str, int] = field(default_factory=dict)
    shifts: tuple[Shift, ...] = ()
    contamination: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"{self.sample_id}: split {self.split!r} is none of {', '.join(SPLITS)}")
        if self.grid is None:
            return
        for prefix, layer in self.layers.items():
            height, width = self.grid.at(layer.gsd).shape
            if layer.pixels.shape[2:] != (height, width):
                raise ValueError(
                    f"{self.sample_id}: {prefix} pixels {layer.pixels.shape} do not cover {height} x {width}"
                )

    def to_row(self) -> dict[str, Any]:
        """The Parquet row, by the columns of `schema`."""
        row: dict[str, Any] = {
            "sample_id": self.sample_id,
            "split": self.split,
            "region_id": self.region_id,
            "cell_id": self.cell_id,
            "lon": None if isnan(self.lon) else self.lon,
            "lat": None if isnan(self.lat) else self.lat,
            "continent": self.continent,
            "stratum": self.stratum,
            "sampling_weight": self.sampling_weight,
            "shifts": [
                {"pair": one.pair, "right": one.right, "down": one.down, "gsd_m": one.gsd, "peak": one.peak}
                for one in self.shifts
            ],
            "contamination": list(self.contamination),
        }
        row |= self._unplaced() if self.grid is None else _placed(self.grid)
        for prefix, layer in self.layers.items():
            row |= {f"{prefix}_{name}": value for name, value in _layer_row(layer).items()}
        return row | {f"label_{name}": value for name, value in self.labels.items()}

    def _unplaced(self) -> dict[str, Any]:
        """The columns of a picture without a place: its size in pixels is all there is."""
        height, width = max(layer.pixels.shape[2:] for layer in self.layers.values())
        return {"width": width, "height": height}

    @classmethod
    def from_row(cls, row: Mapping[str, Any], meta: FileMeta) -> Sample:
        """The inverse of `to_row`. Raises Corrupt when a pixel hash does not match."""
        placed = row["crs_epsg"] is not None
        grid = Grid(row["crs_epsg"], tuple(row["transform"]), row["height"], row["width"]) if placed else None
        present = [known for known in meta.sensors if row.get(f"{known.prefix}_pixels") is not None]
        return cls(
            sample_id=row["sample_id"],
            split=row["split"],
            lon=nan if row["lon"] is None else row["lon"],
            lat=nan if row["lat"] is None else row["lat"],
            grid=grid,
            stratum=row["stratum"],
            layers={known.prefix: _layer_from_row(row, known) for known in present},
            continent=row["continent"],
            region_id=row["region_id"],
            cell_id=row["cell_id"],
            sampling_weight=row["sampling_weight"],
            labels={name: row[f"label_{name}"] for name in meta.labels},
            shifts=tuple(
                Shift(one["pair"], one["right"], one["down"], one["gsd_m"], one["peak"])
                for one in row["shifts"]
            ),
            contamination=tuple(row["contamination"]),
        )


def _placed(grid: Grid) -> dict[str, Any]:
    outline = grid.footprint()
    west, south, east, north = outline.bounds
    return {
        "crs_epsg": grid.epsg,
        "transform": list(grid.transform),
        "width": grid.width,
        "height": grid.height,
        "gsd_m": grid.ground_gsd,
        "bbox": {"xmin": west, "ymin": south, "xmax": east, "ymax": north},
        "geometry": shapely.to_wkb(outline),
    }


def _layer_row(layer: Layer) -> dict[str, Any]:
    row: dict[str, Any] = {
        "pixels": codec.pack_images(layer.encoded, layer.pixels.shape)
        if layer.encoded
        else codec.pack(layer.pixels),
        "shape": list(layer.pixels.shape),
        "bands": list(layer.sensor.band_names),
        "gsd_m": layer.gsd,
        "dates": list(layer.dates),
        "cloud": list(layer.cloud),
        "nodata": list(layer.nodata),
        "item_ids": list(layer.item_ids),
        "resampled": list(layer.resampled),
        "source": layer.source,
        "license": layer.license,
        "attribution": layer.attribution,
        "redistribute": layer.redistribute,
        "phash": layer.phash,
        "flags": list(layer.flags),
        "dark": list(layer.dark),
        "pixel_hash": layer.pixel_hash(),
        "scl": None if layer.scl is None else codec.pack(layer.scl),
    }
    return row | {name: list(layer.properties.get(name, ())) or None for name in layer.sensor.per_date}


def _layer_from_row(row: Mapping[str, Any], known: Sensor) -> Layer:
    def cell(name: str) -> Any:
        return row[f"{known.prefix}_{name}"]

    stored = {name: cell(name) for name in known.per_date}
    layer = Layer(
        sensor=known,
        pixels=codec.unpack(cell("pixels")),
        dates=tuple(cell("dates")),
        item_ids=tuple(cell("item_ids")),
        source=cell("source"),
        cloud=tuple(cell("cloud")),
        nodata=tuple(cell("nodata")),
        resampled=tuple(cell("resampled")),
        properties={name: tuple(values) for name, values in stored.items() if values is not None},
        scl=None if cell("scl") is None else codec.unpack(cell("scl")),
        gsd=cell("gsd_m"),
        license=cell("license"),
        attribution=cell("attribution"),
        redistribute=cell("redistribute"),
        encoded=codec.images(cell("pixels")),
        phash=cell("phash"),
        flags=tuple(cell("flags")),
        dark=tuple(cell("dark")),
    )
    if layer.pixel_hash() != cell("pixel_hash"):
        raise Corrupt(f"{row['sample_id']}: {known.prefix} pixels do not match their hash; rebuild the shard")
    return layer


@dataclass(frozen=True)
class FileMeta:
    """What a shard says of itself in its file metadata, so that it can be read without this code.

    `classes` are the names of a label's values: value n of label L is `classes[L][n]`.
    """

    sensors: tuple[Sensor, ...]
    labels: tuple[str, ...] = ()
    corpus: str = ""
    fingerprint: str = ""
    created_by: str = ""
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def schema(self) -> pa.Schema:
        """The Arrow schema of a shard, with this and GeoParquet 1.1 metadata."""
        fields = list(_PLACE)
        for known in self.sensors:
            fields += [pa.field(f"{known.prefix}_{name}", kind) for name, kind in _LAYER]
            fields += [pa.field(f"{known.prefix}_{name}", pa.list_(pa.string())) for name in known.per_date]
        fields += [pa.field(f"label_{name}", pa.int32()) for name in self.labels]
        return pa.schema(fields, metadata={"swath": json.dumps(self._as_dict()), "geo": json.dumps(GEO)})

    def _as_dict(self) -> dict[str, Any]:
        tables = {
            known.prefix: {
                "sensor": known.name,
                "bands": list(known.band_names),
                "dtype": known.dtype,
                "nodata": known.nodata,
                "unit": known.unit,
                "scale": known.scale,
                "pixel_hash": "BLAKE3 of dtype, shape and pixels (or original files)",
                "pixels": "blob: header, shape, then byte-split zstd or the original picture files; axes date, band, row, column",
            }
            for known in self.sensors
        }
        return {
            "schema_version": SCHEMA_VERSION,
            "layers": tables,
            "labels": list(self.labels),
            "classes": {label: list(names) for label, names in self.classes.items()},
            "corpus": self.corpus,
            "fingerprint": self.fingerprint,
            "created_by": self.created_by,
        }

    @classmethod
    def from_schema(cls, schema: pa.Schema, path: object) -> FileMeta:
        """The inverse of `schema`. Raises Corrupt for a file that is no shard, or of an unknown version."""
        found = (schema.metadata or {}).get(b"swath")
        if found is None:
            raise Corrupt(f"{path} is a Parquet file, but no shard: its metadata has no `swath` entry")
        values = json.loads(found)
        if values["schema_version"] != SCHEMA_VERSION:
            raise Corrupt(
                f"{path} has schema version {values['schema_version']}, this release reads {SCHEMA_VERSION}; "
                "curate the corpus again, or read it with the release that wrote it"
            )
        sensors = tuple(
            sensor(layer["sensor"]).pick(tuple(layer["bands"])) for layer in values["layers"].values()
        )
        return cls(
            sensors=sensors,
            labels=tuple(values["labels"]),
            corpus=values["corpus"],
            fingerprint=values["fingerprint"],
            created_by=values["created_by"],
            classes={label: tuple(names) for label, names in values["classes"].items()},
        )


def table(rows: Sequence[Mapping[str, Any]], meta: FileMeta) -> pa.Table:
    """Rows of `Sample.to_row` as an Arrow table with the shard schema, in the order given; blobs are not copied."""
    schema = meta.schema()
    columns = [_column([row.get(field.name) for row in rows], field.type) for field in schema]
    return pa.table(columns, schema=schema)


def _column(values: list[Any], kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if kind != pa.large_binary():
        return pa.array(values, kind)
    return pa.chunked_array([_blob(value) for value in values], kind)


def _blob(value: pa.Buffer | None) -> pa.Array:
    """One blob as an array of its own, without a copy: joining megabytes only to split them again costs time."""
    if value is None:
        return pa.nulls(1, pa.large_binary())
    ends = pa.py_buffer(np.array([0, value.size], np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, ends, value])


_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_SHIFT = ("right", "down", "gsd_m", "peak")
_PLACE = (
    pa.field("sample_id", pa.string(), nullable=False),
    pa.field("split", pa.string(), nullable=False),
    pa.field("region_id", pa.int16()),
    pa.field("cell_id", pa.string()),
    pa.field("lon", pa.float64()),
    pa.field("lat", pa.float64()),
    pa.field("crs_epsg", pa.int32()),
    pa.field("transform", pa.list_(pa.float64(), 6)),
    pa.field("width", pa.int32(), nullable=False),
    pa.field("height", pa.int32(), nullable=False),
    pa.field("gsd_m", pa.float64()),
    pa.field("bbox", pa.struct([pa.field(name, pa.float64(), nullable=False) for name in _CORNERS])),
    pa.field("geometry", pa.binary()),
    pa.field("continent", pa.string()),
    pa.field("stratum", pa.string(), nullable=False),
    pa.field("sampling_weight", pa.float64()),
    pa.field(
        "shifts", pa.list_(pa.struct([("pair", pa.string()), *((name, pa.float64()) for name in _SHIFT)]))
    ),
    pa.field("contamination", pa.list_(pa.string())),
)
_LAYER = (
    ("pixels", pa.large_binary()),
    ("shape", pa.list_(pa.int32())),
    ("bands", pa.list_(pa.string())),
    ("gsd_m", pa.float64()),
    ("dates", pa.list_(pa.date32())),
    ("cloud", pa.list_(pa.float32())),
    ("nodata", pa.list_(pa.float32())),
    ("item_ids", pa.list_(pa.string())),
    ("resampled", pa.list_(pa.bool_())),
    ("source", pa.string()),
    ("license", pa.string()),
    ("attribution", pa.string()),
    ("redistribute", pa.bool_()),
    ("phash", pa.uint64()),
    ("flags", pa.list_(pa.string())),
    ("dark", pa.list_(pa.float32())),
    ("pixel_hash", pa.binary(32)),
    ("scl", pa.large_binary()),
)
GEO = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {
        "geometry": {
            "encoding": "WKB",
            "geometry_types": ["Polygon"],
            "covering": {"bbox": {name: ["bbox", name] for name in _CORNERS}},
        }
    },
}
