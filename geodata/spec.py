"""A corpus: how many chips, over which land covers, seen by which sensors, when, and what is refused.

A `CorpusSpec` is the whole truth about a corpus: the same spec gives the same chips and, while the sources keep their
files, the same pixels. Specs are frozen and validated at birth, strictly, so that what exists can be run; the ones we
publish are functions in `corpus`. The fields that say where are in `layout`.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, PlainSerializer, Tag, model_validator

from geodata import contamination
from geodata.grid import Grid, whole
from geodata.layout import (
    CONTINENTS,
    SPLITS,
    Area,
    ChipSpec,
    Continents,
    Everywhere,
    Frozen,
    Metres,
    Quotas,
    Share,
    Split,
    SplitSpec,
    TileSpec,
    blocks,
    metric,
)
from geodata.sensors import Sensor, sensor
from geodata.source import Address, Period

__all__ = [
    "CONTINENTS",
    "SPLITS",
    "AnyChip",
    "Area",
    "ChipSpec",
    "ContaminationSpec",
    "Continents",
    "CorpusSpec",
    "Everywhere",
    "Frozen",
    "Quotas",
    "SensorSpec",
    "Split",
    "SplitSpec",
    "TileSpec",
    "blocks",
    "digest",
]


def _period(value: Any) -> Any:
    return value if isinstance(value, Period) else Period.from_text(str(value))


PeriodText = Annotated[Period, BeforeValidator(_period), PlainSerializer(str, return_type=str)]
"""A period, written 'YYYY-MM-DD/YYYY-MM-DD' in files."""

Bits = Annotated[int, Field(ge=0, le=64)]
"""Bits in which two 64-bit hashes of pictures may differ and still be the same picture."""


class SensorSpec(Frozen):
    """One sensor's part: where its pixels come from, which acquisitions are taken, when a chip is refused.

    `gsd` is what pixels are stored at (None: the sensor's own; on tile chips the chip's own, and nothing else). Up to
    `dates` acquisitions in the period are kept and fewer than `min_dates` refuse the chip. `select` chooses among those
    that pass: the 'clearest', ones 'spread' over the period, 'all' in order of date, or by 'rotate' one of the scenes,
    dealt out to the chips in turn: of several providers, each gets its share. `orbit` 'one' keeps the acquisitions of
    the one relative orbit that has most dates (the same view each time); 'any' mixes them. An acquisition passes with
    at most `max_cloud` of the chip under cloud (unknown passes) and at least `min_valid` of its pixels there.
    """

    sensor: str
    source: Address
    gsd: Metres | None = None
    bands: tuple[str, ...] = ()
    period: PeriodText
    dates: int = Field(default=1, gt=0)
    min_dates: int = Field(default=1, ge=0)
    select: Literal["clearest", "spread", "all", "rotate"] = "clearest"
    orbit: Literal["any", "one"] = "any"
    max_cloud: Share = 0.2
    min_valid: Share = 1.0

    @model_validator(mode="after")
    def _possible(self) -> SensorSpec:
        if sensor(self.sensor).prefix == "lc":
            raise ValueError(
                "land cover is no sensor of a corpus; set labels=true to store it beside the pixels"
            )
        sensor(self.sensor).pick(self.bands)
        if len(set(self.bands)) < len(self.bands):
            raise ValueError(f"bands {', '.join(self.bands)} name one twice; name each once")
        if self.min_dates > self.dates:
            raise ValueError(
                f"min_dates {self.min_dates} exceeds dates {self.dates}: no chip could pass; lower it"
            )
        if self.select == "rotate" and self.dates > 1:
            raise ValueError(
                f"'rotate' takes one scene a chip, but dates is {self.dates}; set dates=1, or select otherwise"
            )
        return self

    @property
    def picked(self) -> Sensor:
        """The sensor with the bands chosen here."""
        return sensor(self.sensor).pick(self.bands)

    @property
    def stored_gsd(self) -> float:
        """Metres per stored pixel of UTM chips."""
        return self.gsd or sensor(self.sensor).gsd

    def grid(self, chip: ChipSpec | TileSpec, ground: Grid) -> Grid:
        """The grid this sensor's pixels are stored on, for the chip on `ground`."""
        return ground if isinstance(chip, TileSpec) else ground.at(self.stored_gsd)

    def side(self, chip: ChipSpec | TileSpec) -> int:
        """Pixels a side that this sensor has of each chip."""
        return chip.size if isinstance(chip, TileSpec) else round(chip.footprint_m / self.stored_gsd)


class ContaminationSpec(Frozen):
    """Which downstream benchmarks a corpus is held against, and what happens to a chip that is found in one.

    `benchmarks` are names of footprints we ship ('all' for all), grown by `buffer_km`; `images` are folders of pictures
    without a place, compared by perceptual hash up to `near_bits` bits. Matches are stored with the row ('report') or
    refused ('exclude'; a place known only by its country refuses nothing).
    """

    benchmarks: tuple[str, ...] = ()
    buffer_km: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    images: tuple[str, ...] = ()
    near_bits: Bits = 6
    action: Literal["report", "exclude"] = "report"

    @model_validator(mode="after")
    def _known(self) -> ContaminationSpec:
        if self.benchmarks:
            contamination.known(self.benchmarks)
        return self


def _chip_kind(value: Any) -> str:
    """'utm' or 'tiles'; chips in files from before there were tiles have no kind, and are UTM's."""
    return str(value.get("kind", "utm") if isinstance(value, Mapping) else getattr(value, "kind", "utm"))


AnyChip = Annotated[
    Annotated[ChipSpec, Tag("utm")] | Annotated[TileSpec, Tag("tiles")], Discriminator(_chip_kind)
]
"""A chip of either kind, told apart by `kind`."""


class CorpusSpec(Frozen):
    """A corpus, whole. Raises ValueError, at construction, for what no run could satisfy.

    `places` names the corpus whose ids this one shares where both hold a chip (empty: its own), so that a subset is
    one. `labels` stores the land-cover map on the chip's grid beside the pixels. A chip whose stratum covers less than
    `min_share` of it is refused. Water is drawn from lakes and coasts: with `inland_km`, points of the stratum
    'watershed' lie on land or at most that far off it, else the open sea is water like any other (on continents:
    outside their outlines there are no points at all). `tries` candidates are drawn per chip wanted before a stratum
    counts as short. `rounds` is how often rejected chips are replaced by further draws (1: never). `region_layout` is
    how the Earth is cut into the 64 x 64 fields that rows are numbered by. `duplicates` refuses what was seen before:
    the same pixels ('exact'), or pictures within `near_bits` bits of each other's perceptual hash. A shard is planned
    with `shard_rows` chips.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    version: str = Field(default="1", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    places: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9_-]*)?$")
    seed: int = Field(default=0, ge=0)
    chip: AnyChip
    quotas: Quotas
    regions: Annotated[Continents | Area | Everywhere, Field(discriminator="kind")]
    landcover: Address
    labels: bool = False
    min_share: Share = 0.0
    inland_km: Annotated[float, Field(ge=0, le=100)] | None = None
    sensors: tuple[SensorSpec, ...] = Field(min_length=1)
    split: SplitSpec = Field(default_factory=SplitSpec)
    tries: int = Field(default=1000, gt=0)
    rounds: int = Field(default=1, gt=0)
    region_layout: Literal["equal_angle", "equal_area"] = "equal_angle"
    duplicates: Literal["keep", "exact", "perceptual"] = "keep"
    near_bits: Bits = 6
    contamination: ContaminationSpec = Field(default_factory=ContaminationSpec)
    shard_rows: int = Field(default=256, gt=0)

    @model_validator(mode="after")
    def _coherent(self) -> CorpusSpec:
        self._check_sensors()
        self._check_ground()
        self._check_blocks()
        return self

    def _check_sensors(self) -> None:
        prefixes = [sensor(part.sensor).prefix for part in self.sensors]
        if len(set(prefixes)) < len(prefixes):
            names = ", ".join(part.sensor for part in self.sensors)
            raise ValueError(
                f"sensors {names} share a column prefix ({', '.join(prefixes)}); keep one of each"
            )
        for part in self.sensors:
            if isinstance(self.chip, TileSpec):
                if part.gsd is not None:
                    raise ValueError(
                        f"{part.sensor} asks for {part.gsd:g} m, but tile chips keep the GSD of their zoom; leave gsd out"
                    )
                continue
            ratio = max(part.stored_gsd / self.chip.gsd, self.chip.gsd / part.stored_gsd)
            if whole(ratio) is None or whole(self.chip.footprint_m / part.stored_gsd) is None:
                raise ValueError(
                    f"a chip of {self.chip.size} pixels at {self.chip.gsd:g} m is no whole number of {part.sensor} "
                    f"pixels at {part.stored_gsd:g} m; choose GSDs in whole ratio (10 m / 2^k) that divide the chip"
                )

    def _check_ground(self) -> None:
        area, chip = self.regions, self.chip
        flat = isinstance(area, Area) and area.metric
        if flat and self.inland_km is not None:
            raise ValueError(
                f"inland_km {self.inland_km:g} asks where land is, which a metric area does not say; leave it out"
            )
        if isinstance(chip, TileSpec):
            if flat:
                raise ValueError("tile chips lie on no UTM zone; give the area in degrees (epsg 4326)")
            return
        if chip.epsg is not None and not metric(chip.epsg):
            raise ValueError(f"chip.epsg {chip.epsg} is not in metres; use a UTM zone")
        if not isinstance(area, Area) or not area.metric:
            return
        if chip.epsg not in (None, area.epsg):
            raise ValueError(f"chip.epsg {chip.epsg} is not that of the area, {area.epsg}; leave it out")
        xmin, ymin, xmax, ymax = area.bounds
        if min(xmax - xmin, ymax - ymin) < chip.footprint_m:
            raise ValueError(
                f"area {area.name} is {xmax - xmin:g} x {ymax - ymin:g} m, smaller than one chip of "
                f"{chip.footprint_m:g} m; enlarge it or take smaller chips"
            )

    def _check_blocks(self) -> None:
        split, least = self.split, self.chip.footprint_m + self.split.guard_m
        if split.block_m < least:
            raise ValueError(
                f"blocks of {split.block_m:g} m cannot hold a chip of {self.chip.footprint_m:g} m with a guard of "
                f"{split.guard_m:g} m; take block_m >= {least:g}"
            )
        if split.assign == "hash":
            return
        if not isinstance(self.regions, Area) or not self.regions.metric:
            raise ValueError("split 'balanced' deals out the blocks of a metric area; use 'hash' here")
        columns, rows = blocks(self.regions, split.block_m)
        used = sum(share > 0 for share in split.fractions.values())
        if not used <= columns * rows <= 4096:
            raise ValueError(
                f"area {self.regions.name} has {columns} x {rows} blocks of {split.block_m:g} m, but 'balanced' deals "
                f"{used} to 4096; change block_m or use 'hash'"
            )

    @property
    def address(self) -> str:
        """name@version."""
        return f"{self.name}@{self.version}"

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of the spec as canonical JSON: two specs are the same corpus when these agree."""
        return digest(json.loads(self.model_dump_json()))

    @functools.cached_property
    def place_id(self) -> str:
        """Eight hex digits that begin every chip's id: of name and chip alone, so that ids survive growth."""
        chip, name = self.chip, self.places or self.name
        if isinstance(chip, TileSpec):
            return digest({"name": name, "size": chip.size, "tile": chip.tile})[:8]
        return digest({"name": name, "gsd": chip.gsd, "size": chip.size, "lattice": chip.lattice})[:8]


def digest(values: Mapping[str, Any]) -> str:
    """sha256 (hex) of plain values as canonical JSON: sorted keys, no spaces."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
