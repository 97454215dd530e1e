"""The fields of a corpus: how many points, over which land covers, seen by which sensors, when.

A `CorpusSpec` is the whole truth about a corpus: the same spec gives the same chips and, while the sources keep their
files, the same pixels. Specs are frozen and validated at birth, strictly, so that what exists can be run; the ones we
publish are functions in `corpus`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator
from pyproj import CRS
from pyproj.exceptions import CRSError

from geodata.grid import LATTICE_M, whole
from geodata.landcover import STRATA
from geodata.sensors import Sensor, sensor
from geodata.source import Address, Period

CONTINENTS = ("africa", "asia", "europe", "north_america", "oceania", "south_america")
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Share = Annotated[float, Field(ge=0, le=1)]
Metres = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _period(value: Any) -> Any:
    return value if isinstance(value, Period) else Period.from_text(str(value))


PeriodText = Annotated[Period, BeforeValidator(_period), PlainSerializer(str, return_type=str)]
"""A period, written 'YYYY-MM-DD/YYYY-MM-DD' in files."""


class Frozen(BaseModel):
    """Values that never change, of exactly the types they declare, with no key too many."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ChipSpec(Frozen):
    """A square of ground: `size` pixels of `gsd` metres a side, its corner on the `lattice` (metres).

    `epsg` puts all chips in one zone, that of the scene they are cut from; None takes each point's own UTM zone.
    `spacing_m` is the least distance between chip centres, measured on the map grid and rounded up to whole
    lattice steps; None is one footprint, so that chips never overlap.
    """

    gsd: Metres
    size: int = Field(gt=0)
    lattice: Metres = LATTICE_M
    epsg: int | None = None
    spacing_m: Metres | None = None

    @model_validator(mode="after")
    def _whole(self) -> ChipSpec:
        if whole(self.lattice / self.gsd) is None:
            raise ValueError(
                f"a lattice of {self.lattice:g} m holds no whole number of {self.gsd:g} m pixels; "
                f"choose a GSD that divides it"
            )
        return self

    @property
    def footprint_m(self) -> float:
        """Side of the chip, metres."""
        return self.gsd * self.size

    @property
    def steps(self) -> int:
        """Distance between neighbouring chip sites, in lattice steps."""
        return max(1, math.ceil((self.spacing_m or self.footprint_m) / self.lattice - 1e-9))


class Quotas(Frozen):
    """How many chips of which stratum.

    `count` chips are shared out over continents and strata by `shares` (which sum to 1), exactly, by largest
    remainder. `fixed` are further counts of other strata, over all regions together.
    """

    count: int = Field(default=0, ge=0)
    shares: dict[str, Share] = Field(default_factory=dict)
    fixed: dict[str, Annotated[int, Field(gt=0)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _possible(self) -> Quotas:
        for stratum in (*self.shares, *self.fixed):
            if stratum not in STRATA:
                raise ValueError(f"{stratum!r} is no stratum; strata are {', '.join(STRATA)}")
        twice = sorted(set(self.shares) & set(self.fixed))
        if twice:
            raise ValueError(f"{', '.join(twice)} has both a share and a fixed count; keep one of them")
        if bool(self.count) != bool(self.shares):
            raise ValueError(f"count {self.count} and shares {self.shares} go together; give both or neither")
        _sums_to_one("shares", self.shares)
        if not self.count and not self.fixed:
            raise ValueError("quotas ask for no chip at all; give count and shares, or fixed counts")
        return self

    @property
    def total(self) -> int:
        """Chips asked for."""
        return self.count + sum(self.fixed.values())


class Continents(Frozen):
    """Land of the six continents; each gets chips in proportion to its weight."""

    kind: Literal["continents"] = "continents"
    weights: dict[str, Annotated[float, Field(gt=0)]]

    @model_validator(mode="after")
    def _known(self) -> Continents:
        for name in self.weights:
            if name not in CONTINENTS:
                raise ValueError(f"{name!r} is no continent; continents are {', '.join(CONTINENTS)}")
        if not self.weights:
            raise ValueError(
                "no continent has a weight, so no chip has a place; name one or use kind 'everywhere'"
            )
        return self


class Area(Frozen):
    """One rectangle: (xmin, ymin, xmax, ymax) in units of `epsg`; in longitude and latitude when that is 4326.

    In a metric CRS, chips are cut in that CRS and lie wholly inside; in degrees, their centres do.
    """

    kind: Literal["area"] = "area"
    name: str = Field(min_length=1)
    bounds: tuple[float, float, float, float]
    epsg: int = 4326

    @model_validator(mode="after")
    def _holds_ground(self) -> Area:
        west, south, east, north = self.bounds
        if not (west < east and south < north):
            raise ValueError(
                f"area {self.name} has no ground between {self.bounds}: xmin < xmax and ymin < ymax are wanted; "
                f"cut one that crosses the antimeridian into two corpora"
            )
        if self.epsg == 4326 and not (west >= -180 and east <= 180 and south >= -80 and north <= 84):
            raise ValueError(
                f"area {self.name} {self.bounds} leaves UTM's -180..180, -80..84 degrees; clip it"
            )
        if self.epsg != 4326 and not _metric(self.epsg):
            raise ValueError(f"EPSG:{self.epsg} of area {self.name} is not in metres; use a UTM zone or 4326")
        return self

    @property
    def metric(self) -> bool:
        """Whether the bounds are metres rather than degrees."""
        return self.epsg != 4326


class Everywhere(Frozen):
    """The whole Earth from 80 S to 84 N; the land-cover map decides what is land."""

    kind: Literal["everywhere"] = "everywhere"


class SensorSpec(Frozen):
    """One sensor's part: where its pixels come from, which acquisitions are taken, when a chip is refused.

    `gsd` is what pixels are stored at (None: the sensor's own). Up to `dates` acquisitions in the period are kept
    and fewer than `min_dates` refuse the chip. `select` chooses among those that pass: the 'clearest', ones 'spread'
    over the period, or 'all' in order of date. An acquisition passes with at most `max_cloud` of the chip under
    cloud (unknown passes) and at least `min_valid` of its pixels there.
    """

    sensor: str
    source: Address
    gsd: Metres | None = None
    bands: tuple[str, ...] = ()
    period: PeriodText
    dates: int = Field(default=1, gt=0)
    min_dates: int = Field(default=1, ge=0)
    select: Literal["clearest", "spread", "all"] = "clearest"
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
        return self

    @property
    def picked(self) -> Sensor:
        """The sensor with the bands chosen here."""
        return sensor(self.sensor).pick(self.bands)

    @property
    def stored_gsd(self) -> float:
        """Metres per stored pixel."""
        return self.gsd or sensor(self.sensor).gsd


class SplitSpec(Frozen):
    """Which ground is for training and which for testing, decided by square blocks of `block_m`.

    Footprints of different splits are at least `guard_m` apart; a chip that would come nearer is not taken.
    'hash' gives each block to a split by its own number, so a corpus can grow without limit; 'balanced' deals out
    the blocks of a small metric area so that block counts match the fractions exactly and every split sees the same
    mix of classes, as nearly as blocks allow.
    """

    block_m: Metres = 20_000.0
    guard_m: float = Field(default=0.0, ge=0)
    fractions: dict[Split, Share] = Field(default={"train": 1.0}, validate_default=True)
    assign: Literal["hash", "balanced"] = "hash"

    @model_validator(mode="after")
    def _possible(self) -> SplitSpec:
        _sums_to_one("fractions", self.fractions)
        if not self.fractions:
            raise ValueError("fractions name no split; give train, val, test or some of them")
        return self


class CorpusSpec(Frozen):
    """A corpus, whole. Raises ValueError, at construction, for what no run could satisfy.

    `labels` stores the land-cover map on the chip's grid beside the pixels. `tries` candidates are drawn per chip
    wanted before a stratum counts as short. `rounds` is how often rejected chips are replaced by further draws
    (1: never). A shard is planned with `shard_rows` chips.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    version: str = Field(default="1", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(default=0, ge=0)
    chip: ChipSpec
    quotas: Quotas
    regions: Annotated[Continents | Area | Everywhere, Field(discriminator="kind")]
    landcover: Address
    labels: bool = False
    sensors: tuple[SensorSpec, ...] = Field(min_length=1)
    split: SplitSpec = Field(default_factory=SplitSpec)
    tries: int = Field(default=1000, gt=0)
    rounds: int = Field(default=1, gt=0)
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
            ratio = max(part.stored_gsd / self.chip.gsd, self.chip.gsd / part.stored_gsd)
            if whole(ratio) is None or whole(self.chip.footprint_m / part.stored_gsd) is None:
                raise ValueError(
                    f"a chip of {self.chip.size} pixels at {self.chip.gsd:g} m is no whole number of {part.sensor} "
                    f"pixels at {part.stored_gsd:g} m; choose GSDs in whole ratio (10 m / 2^k) that divide the chip"
                )

    def _check_ground(self) -> None:
        area, chip = self.regions, self.chip
        if chip.epsg is not None and not _metric(chip.epsg):
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
        chip = self.chip
        return digest({"name": self.name, "gsd": chip.gsd, "size": chip.size, "lattice": chip.lattice})[:8]


def blocks(area: Area, block_m: float) -> tuple[int, int]:
    """Columns and rows of whole blocks in a metric area; a remainder belongs to the last one."""
    xmin, ymin, xmax, ymax = area.bounds
    return max(1, int((xmax - xmin) / block_m)), max(1, int((ymax - ymin) / block_m))


def digest(values: Mapping[str, Any]) -> str:
    """sha256 (hex) of plain values as canonical JSON: sorted keys, no spaces."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _sums_to_one(name: str, shares: Mapping[Any, float]) -> None:
    total = sum((Fraction(str(share)) for share in shares.values()), Fraction(0))
    if shares and abs(total - 1) > Fraction(1, 10**6):
        raise ValueError(f"{name} {dict(shares)} sum to {float(total):g}, not 1; change one of them")


@functools.lru_cache(maxsize=64)
def _metric(epsg: int) -> bool:
    try:
        crs = CRS.from_epsg(epsg)
    except CRSError as error:
        raise ValueError(
            f"EPSG:{epsg} is no known coordinate system; use a UTM zone (326xx, 327xx)"
        ) from error
    return crs.is_projected and crs.axis_info[0].unit_name == "metre"
