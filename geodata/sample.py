"""One chip through all its sensors: a `Sample`, and the Parquet row it becomes.

Columns are flat and carry their sensor's prefix (`s2_pixels`, `s2_dates` ...), so that reading one sensor touches
only its pages. Nodata lives in the pixels themselves; dates of a series run along the first axis, oldest first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from geodata import codec
from geodata.errors import Corrupt
from geodata.grid import Grid
from geodata.sensors import Sensor, sensor

SCHEMA_VERSION = 1
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Layer:
    """All acquisitions of one sensor over a chip: pixels (T, C, H, W), and per date what is known of it.

    `cloud` and `nodata` are shares of the chip (0 to 1, nan where unknown); `scl` (T, H, W) are scene
    classification codes where the source has them.
    """

    sensor: Sensor
    pixels: NDArray[Any]
    dates: tuple[date, ...]
    item_ids: tuple[str, ...]
    source: str
    cloud: tuple[float, ...] = ()
    nodata: tuple[float, ...] = ()
    resampled: tuple[bool, ...] = ()
    properties: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    scl: NDArray[np.uint8] | None = None
    gsd: float = 0.0

    def __post_init__(self) -> None:
        times = len(self.dates)
        bands = len(self.sensor.bands)
        if self.pixels.ndim != 4 or self.pixels.shape[:2] != (times, bands) or not times:
            raise ValueError(
                f"{self.sensor.prefix}: pixels {self.pixels.shape} are not ({times} dates, {bands} bands, height, width)"
            )
        if self.pixels.dtype != self.sensor.numpy_dtype:
            raise ValueError(f"{self.sensor.prefix}: pixels are {self.pixels.dtype}, not {self.sensor.dtype}")
        for name in ("cloud", "nodata", "resampled"):
            if not getattr(self, name):
                object.__setattr__(self, name, (False if name == "resampled" else float("nan"),) * times)
        lengths = [len(self.item_ids), len(self.cloud), len(self.nodata), len(self.resampled)]
        lengths += [len(values) for values in self.properties.values()]
        if any(length != times for length in lengths):
            raise ValueError(f"{self.sensor.prefix}: {times} dates, but per-date values of length {lengths}")
        object.__setattr__(self, "gsd", self.gsd or self.sensor.gsd)

    def sha256(self) -> bytes:
        """Hash of shape, dtype and pixels: equal on any machine and any library version, unlike a file's hash."""
        digest = hashlib.sha256(f"{self.pixels.dtype.str}{self.pixels.shape}".encode())
        digest.update(np.ascontiguousarray(self.pixels).data)
        return digest.digest()


@dataclass(frozen=True)
class Sample:
    """One chip with everything known of it. `grid` is the chip's; a layer's grid is `grid.at(layer.gsd)`."""

    sample_id: str
    split: str
    lon: float
    lat: float
    grid: Grid
    stratum: str
    layers: Mapping[str, Layer]
    continent: str = ""
    region_id: int = -1
    cell_id: str = ""
    sampling_weight: float = 1.0
    labels: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"{self.sample_id}: split {self.split!r} is none of {', '.join(SPLITS)}")
        for prefix, layer in self.layers.items():
            height, width = self.grid.at(layer.gsd).shape
            if layer.pixels.shape[2:] != (height, width):
                raise ValueError(
                    f"{self.sample_id}: {prefix} pixels {layer.pixels.shape} do not cover {height} x {width}"
                )

    def to_row(self) -> dict[str, Any]:
        """The Parquet row, by the columns of `schema`."""
        west, south, east, north = self.grid.bbox()
        row: dict[str, Any] = {
            "sample_id": self.sample_id,
            "split": self.split,
            "region_id": self.region_id,
            "cell_id": self.cell_id,
            "lon": self.lon,
            "lat": self.lat,
            "crs_epsg": self.grid.epsg,
            "transform": list(self.grid.transform),
            "width": self.grid.width,
            "height": self.grid.height,
            "gsd_m": self.grid.gsd,
            "bbox": {"xmin": west, "ymin": south, "xmax": east, "ymax": north},
            "geometry": shapely.to_wkb(self.grid.footprint()),
            "continent": self.continent,
            "stratum": self.stratum,
            "sampling_weight": self.sampling_weight,
        }
        for prefix, layer in self.layers.items():
            row |= {f"{prefix}_{name}": value for name, value in _layer_row(layer).items()}
        return row | {f"label_{name}": value for name, value in self.labels.items()}

    @classmethod
    def from_row(cls, row: Mapping[str, Any], meta: FileMeta) -> Sample:
        """The inverse of `to_row`. Raises Corrupt when a pixel hash does not match."""
        grid = Grid(row["crs_epsg"], tuple(row["transform"]), row["height"], row["width"])
        present = [known for known in meta.sensors if row.get(f"{known.prefix}_pixels") is not None]
        return cls(
            sample_id=row["sample_id"],
            split=row["split"],
            lon=row["lon"],
            lat=row["lat"],
            grid=grid,
            stratum=row["stratum"],
            layers={known.prefix: _layer_from_row(row, known) for known in present},
            continent=row["continent"],
            region_id=row["region_id"],
            cell_id=row["cell_id"],
            sampling_weight=row["sampling_weight"],
            labels={name: row[f"label_{name}"] for name in meta.labels},
        )


def _layer_row(layer: Layer) -> dict[str, Any]:
    row: dict[str, Any] = {
        "pixels": codec.pack(layer.pixels),
        "shape": list(layer.pixels.shape),
        "bands": list(layer.sensor.band_names),
        "gsd_m": layer.gsd,
        "dates": list(layer.dates),
        "cloud": list(layer.cloud),
        "nodata": list(layer.nodata),
        "item_ids": list(layer.item_ids),
        "resampled": list(layer.resampled),
        "source": layer.source,
        "sha256": layer.sha256(),
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
    )
    if layer.sha256() != cell("sha256"):
        raise Corrupt(f"{row['sample_id']}: {known.prefix} pixels do not match their hash; rebuild the shard")
    return layer


@dataclass(frozen=True)
class FileMeta:
    """What a shard says of itself in its file metadata, so that it can be read without this code."""

    sensors: tuple[Sensor, ...]
    labels: tuple[str, ...] = ()
    corpus: str = ""
    fingerprint: str = ""
    created_by: str = ""

    def schema(self) -> pa.Schema:
        """The Arrow schema of a shard, with this and GeoParquet 1.1 metadata."""
        fields = list(_PLACE)
        for known in self.sensors:
            fields += [pa.field(f"{known.prefix}_{name}", kind) for name, kind in _LAYER]
            fields += [pa.field(f"{known.prefix}_{name}", pa.list_(pa.string())) for name in known.per_date]
        fields += [pa.field(f"label_{name}", pa.int32()) for name in self.labels]
        return pa.schema(fields, metadata={"swath": json.dumps(self._as_dict()), "geo": json.dumps(_GEO)})

    def _as_dict(self) -> dict[str, Any]:
        tables = {
            known.prefix: {
                "sensor": known.name,
                "bands": list(known.band_names),
                "dtype": known.dtype,
                "nodata": known.nodata,
                "unit": known.unit,
                "scale": known.scale,
                "pixels": "blob: header, shape, byte-split zstd; axes date, band, row, column",
            }
            for known in self.sensors
        }
        return {
            "schema_version": SCHEMA_VERSION,
            "layers": tables,
            "labels": list(self.labels),
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
                f"{path} has schema version {values['schema_version']}, this release reads {SCHEMA_VERSION}"
            )
        sensors = tuple(
            sensor(layer["sensor"]).pick(tuple(layer["bands"])) for layer in values["layers"].values()
        )
        return cls(
            sensors, tuple(values["labels"]), values["corpus"], values["fingerprint"], values["created_by"]
        )


def table(samples: Sequence[Sample], meta: FileMeta) -> pa.Table:
    """Samples as an Arrow table with the shard schema, in the order given."""
    return pa.Table.from_pylist([sample.to_row() for sample in samples], schema=meta.schema())


_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_PLACE = (
    pa.field("sample_id", pa.string(), nullable=False),
    pa.field("split", pa.string(), nullable=False),
    pa.field("region_id", pa.int16()),
    pa.field("cell_id", pa.string()),
    pa.field("lon", pa.float64(), nullable=False),
    pa.field("lat", pa.float64(), nullable=False),
    pa.field("crs_epsg", pa.int32(), nullable=False),
    pa.field("transform", pa.list_(pa.float64(), 6), nullable=False),
    pa.field("width", pa.int32(), nullable=False),
    pa.field("height", pa.int32(), nullable=False),
    pa.field("gsd_m", pa.float64(), nullable=False),
    pa.field(
        "bbox", pa.struct([pa.field(name, pa.float64(), nullable=False) for name in _CORNERS]), nullable=False
    ),
    pa.field("geometry", pa.binary(), nullable=False),
    pa.field("continent", pa.string()),
    pa.field("stratum", pa.string(), nullable=False),
    pa.field("sampling_weight", pa.float64()),
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
    ("sha256", pa.binary(32)),
    ("scl", pa.large_binary()),
)
_GEO = {
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
