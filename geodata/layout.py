"""The fields that say where: the shape of a chip, counts per stratum, regions of the Earth, splits.

Two kinds of chip exist. Sensors that fly over are cut on the metres of a UTM zone (`ChipSpec`); maps that come as tiles
are taken tile by tile, as they are, on the web Mercator lattice (`TileSpec`): warping them would resample every pixel
and lose the original bytes. Values here are frozen and validated at birth; `spec` puts them together to a corpus.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pyproj import CRS
from pyproj.exceptions import CRSError

from geodata import webmercator
from geodata.grid import LATTICE_M, Grid, whole
from geodata.landcover import STRATA

CONTINENTS = ("africa", "asia", "europe", "north_america", "oceania", "south_america")
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Share = Annotated[float, Field(ge=0, le=1)]
Metres = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Frozen(BaseModel):
    """Values that never change, of exactly the types they declare, with no key too many."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ChipSpec(Frozen):
    """A square of ground: `size` pixels of `gsd` metres a side, its corner on the `lattice` (metres).

    `epsg` puts all chips in one zone, that of the scene they are cut from; None takes each point's own UTM zone.
    `spacing_m` is the least distance between chip centres, measured on the map grid and rounded up to whole
    lattice steps; None is one footprint, so that chips never overlap.
    """

    kind: Literal["utm"] = "utm"
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

    def grid(self, epsg: int, zoom: int, left: int, top: int) -> Grid:
        """The grid of a chip whose corner is `left` and `top` lattice steps from the origin of a zone; no `zoom`."""
        x, y = left * self.lattice, top * self.lattice
        return Grid(epsg, (self.gsd, 0.0, x, 0.0, -self.gsd, y), self.size, self.size)

    def site_id(self, epsg: int, zoom: int, left: int, top: int) -> str:
        """Zone and corner, in lattice steps."""
        return f"{epsg}-{left:06d}-{top:06d}"


class TileSpec(Frozen):
    """A square of web map tiles: `size` pixels a side, of tiles of `tile` pixels, at a zoom drawn for each point.

    `gsd_range` are metres on the ground. Each point draws one GSD in it, evenly by its logarithm or 'uniform', and takes
    the `zooms` 'nearest' to it at its latitude: a list of zooms would mix GSDs by latitude. The nearest zoom may miss a
    GSD by a factor of at most the square root of 2, so true GSDs reach that far beyond the range; rows say which they
    have. 'all' gives a point one chip at each zoom from the coarsest to the finest of the range.

    Chips of one zoom lie on a lattice of their own size, so they never overlap: a site is the spacing. A tile of 256
    pixels has the zoom that map engines count by; one of 512 (often written @2x) shows the same ground in twice the
    pixels a side.
    """

    kind: Literal["tiles"] = "tiles"
    gsd_range: tuple[Metres, Metres] = (0.3, 10.0)
    size: int = Field(default=512, gt=0)
    tile: Literal[256, 512] = 256
    gsd_draw: Literal["log_uniform", "uniform"] = "log_uniform"
    zooms: Literal["nearest", "all"] = "nearest"

    @model_validator(mode="after")
    def _whole(self) -> TileSpec:
        finest, coarsest = self.gsd_range
        if finest > coarsest:
            raise ValueError(
                f"gsd_range runs from fine to coarse, not from {finest:g} to {coarsest:g}; swap them"
            )
        across = self.size / self.tile
        if across < 1 or math.log2(across) % 1:
            raise ValueError(
                f"a chip of {self.size} pixels is not 1, 2, 4 or 8 tiles of {self.tile} a side; take a size that is"
            )
        return self

    @property
    def levels(self) -> int:
        """How many zoom levels a chip lies above its tiles: a chip of 2 x 2 tiles is one tile of the level above."""
        return int(math.log2(self.size // self.tile))

    @property
    def footprint_m(self) -> float:
        """Side of the largest chip there may be, metres on the ground."""
        return self.gsd_range[1] * self.size * math.sqrt(2)

    def grid(self, epsg: int, zoom: int, left: int, top: int) -> Grid:
        """The grid of a chip whose upper left tile is column `left` and row `top` of a zoom level."""
        assert epsg == webmercator.EPSG
        return webmercator.grid_of(zoom, left, top, 2**self.levels, self.tile)

    def site_id(self, epsg: int, zoom: int, left: int, top: int) -> str:
        """The quadkey of the upper left tile: its length is the zoom."""
        assert epsg == webmercator.EPSG
        return f"q{webmercator.quadkey(zoom, left, top)}"


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
        sums_to_one("shares", self.shares)
        if not self.count and not self.fixed:
            raise ValueError("quotas ask for no chip at all; give count and shares, or fixed counts")
        return self

    @property
    def total(self) -> int:
        """Chips asked for."""
        return self.count + sum(self.fixed.values())


class Continents(Frozen):
    """Land of the six continents; each gets chips in proportion to its weight.

    `outlines` says how exactly coasts are known: 'fine' to some 2 km; 'coarse' to some 50, as on the invented Earth.
    """

    kind: Literal["continents"] = "continents"
    weights: dict[str, Annotated[float, Field(gt=0)]]
    outlines: Literal["coarse", "fine"] = "coarse"

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
        if self.epsg != 4326 and not metric(self.epsg):
            raise ValueError(f"EPSG:{self.epsg} of area {self.name} is not in metres; use a UTM zone or 4326")
        return self

    @property
    def metric(self) -> bool:
        """Whether the bounds are metres rather than degrees."""
        return self.epsg != 4326


class Everywhere(Frozen):
    """The whole Earth from 80 S to 84 N; the land-cover map decides what is land."""

    kind: Literal["everywhere"] = "everywhere"


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
        sums_to_one("fractions", self.fractions)
        if not self.fractions:
            raise ValueError("fractions name no split; give train, val, test or some of them")
        return self


def blocks(area: Area, block_m: float) -> tuple[int, int]:
    """Columns and rows of whole blocks in a metric area; a remainder belongs to the last one."""
    xmin, ymin, xmax, ymax = area.bounds
    return max(1, int((xmax - xmin) / block_m)), max(1, int((ymax - ymin) / block_m))


def sums_to_one(name: str, shares: Mapping[Any, float]) -> None:
    """Raise ValueError unless shares are none at all, or sum to 1 within a millionth."""
    total = sum((Fraction(str(share)) for share in shares.values()), Fraction(0))
    if shares and abs(total - 1) > Fraction(1, 10**6):
        raise ValueError(f"{name} {dict(shares)} sum to {float(total):g}, not 1; change one of them")


@functools.lru_cache(maxsize=64)
def metric(epsg: int) -> bool:
    """Whether a CRS has metres for units. Raises ValueError for a code there is not."""
    try:
        crs = CRS.from_epsg(epsg)
    except CRSError as error:
        raise ValueError(
            f"EPSG:{epsg} is no known coordinate system; use a UTM zone (326xx, 327xx)"
        ) from error
    return crs.is_projected and crs.axis_info[0].unit_name == "metre"
