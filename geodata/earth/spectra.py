"""Reflectance of each cover in the thirteen bands of Sentinel-2, and its year.

A cover is a mix of a bare and a green spectrum; how green is a curve over the year with a peak, a width and a base of
its own, half a year later in the south and flat in the tropics. Crops share their spectra, or nearly, and differ by
their calendar. The numbers are round values of the kind that textbooks show for these covers; none is measured.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geodata.earth import ground as land
from geodata.earth.ground import Survey, survey
from geodata.earth.noise import again, bell, hashed, noise, salt
from geodata.earth.plots import CROP_TYPES, Parcels, parcels, places
from geodata.grid import Grid

Float32 = NDArray[np.float32]

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")

# fmt: off
_SPECTRA = {
    "water":      (.045, .042, .038, .024, .020, .016, .015, .013, .012, .010, .001, .006, .004),
    "silt":       (.070, .085, .105, .095, .080, .045, .042, .035, .030, .022, .001, .010, .007),
    "canopy":     (.016, .020, .038, .022, .070, .190, .240, .260, .275, .275, .001, .125, .055),
    "needles":    (.014, .017, .028, .020, .050, .125, .155, .170, .180, .180, .001, .085, .038),
    "twigs":      (.040, .048, .062, .072, .095, .125, .140, .155, .170, .175, .001, .200, .135),
    "meadow":     (.024, .034, .072, .040, .112, .275, .340, .370, .385, .385, .001, .205, .105),
    "straw":      (.070, .090, .128, .165, .195, .225, .245, .265, .280, .280, .001, .335, .240),
    "crop":       (.020, .030, .066, .030, .102, .330, .420, .450, .465, .460, .001, .190, .085),
    "bloom":      (.026, .042, .145, .110, .190, .330, .385, .415, .430, .425, .001, .190, .090),
    "soil":       (.065, .080, .112, .145, .165, .180, .195, .210, .225, .230, .001, .295, .245),
    "stubble":    (.075, .098, .140, .182, .210, .235, .255, .275, .292, .292, .001, .350, .255),
    "marsh":      (.024, .032, .056, .034, .080, .180, .215, .232, .240, .238, .001, .105, .048),
    "mud":        (.050, .060, .080, .085, .092, .098, .100, .102, .104, .100, .001, .085, .055),
    "heath":      (.028, .036, .062, .050, .098, .190, .222, .242, .258, .260, .001, .195, .112),
    "dry scrub":  (.062, .078, .110, .138, .160, .182, .198, .214, .230, .232, .001, .300, .220),
    "sand":       (.120, .165, .250, .335, .370, .390, .405, .425, .440, .445, .001, .520, .475),
    "rock":       (.085, .100, .128, .148, .160, .168, .175, .183, .190, .192, .001, .225, .195),
    "ice":        (.780, .800, .790, .760, .745, .720, .690, .650, .610, .520, .002, .045, .035),
    "snow":       (.870, .890, .885, .875, .865, .850, .835, .810, .780, .700, .002, .110, .085),
    "asphalt":    (.078, .088, .100, .110, .116, .120, .124, .130, .135, .137, .001, .150, .140),
    "tile":       (.075, .092, .118, .190, .225, .240, .250, .265, .280, .285, .001, .330, .300),
    "metal":      (.260, .300, .320, .335, .345, .350, .355, .360, .365, .350, .001, .380, .360),
    "bitumen":    (.060, .066, .072, .078, .084, .088, .092, .098, .103, .105, .001, .125, .120),
    "concrete":   (.150, .185, .215, .240, .255, .262, .268, .278, .285, .285, .001, .320, .295),
    "cloud":      (.640, .660, .650, .650, .655, .660, .665, .670, .665, .420, .030, .480, .380),
}
# fmt: on

ENDMEMBERS = {name: np.array(values, np.float32) for name, values in _SPECTRA.items()}

_HAZE = np.array(
    [0.105, 0.075, 0.045, 0.026, 0.021, 0.017, 0.014, 0.011, 0.010, 0.004, 0.0005, 0.002, 0.001], np.float32
)
_THROUGH = np.array(
    [0.80, 0.84, 0.88, 0.91, 0.91, 0.91, 0.93, 0.94, 0.95, 0.42, 0.02, 0.96, 0.95], np.float32
)
"""Light of the air above, and the share of ground's light that comes through it (0.42 and 0.02: water vapour)."""


@dataclass(frozen=True)
class Cover:
    """A bare and a green spectrum; the day of the year when it is greenest in the north, how many days from there it
    takes to fade; how green it is at least and at most; how much its texture varies (share)."""

    bare: str
    green: str
    peak: float
    width: float
    least: float
    most: float
    texture: float


_PLANTS = {
    land.WATER: Cover("water", "silt", 200, 120, 0.02, 0.25, 0.02),
    land.TREES: Cover("twigs", "canopy", 190, 120, 0.30, 0.98, 0.11),
    land.GRASS: Cover("straw", "meadow", 165, 120, 0.25, 0.92, 0.08),
    land.WETLAND: Cover("mud", "marsh", 195, 110, 0.25, 0.95, 0.16),
    land.CROPS: Cover("soil", "crop", 170, 80, 0.05, 0.95, 0.06),
    land.SCRUB: Cover("dry scrub", "heath", 150, 115, 0.30, 0.75, 0.15),
    land.BUILT: Cover("concrete", "meadow", 170, 120, 0.10, 0.30, 0.10),
    land.BARE: Cover("sand", "dry scrub", 110, 70, 0.02, 0.12, 0.08),
    land.ICE: Cover("ice", "snow", 20, 170, 0.25, 1.00, 0.03),
}
_CROPS = (
    Cover("soil", "crop", 135, 75, 0.08, 0.95, 0.05),  # winter cereal
    Cover("soil", "crop", 212, 62, 0.03, 0.95, 0.05),  # maize
    Cover("soil", "bloom", 122, 70, 0.10, 0.92, 0.05),  # oilseed
    Cover("mud", "crop", 222, 68, 0.05, 0.90, 0.05),  # rice: flooded before it grows
    Cover("soil", "crop", 205, 88, 0.04, 0.98, 0.05),  # root crop
    Cover("stubble", "meadow", 175, 130, 0.15, 0.45, 0.07),  # fallow
)
_FIRST_CROP = 16
"""Covers are numbered by class code, crops from here on by type."""

_TABLE = {**_PLANTS, **{_FIRST_CROP + place: cover for place, cover in enumerate(_CROPS)}}
_KINDS = _FIRST_CROP + len(CROP_TYPES)


def _column(of: str) -> Float32:
    values = np.zeros(_KINDS, np.float32)
    for kind, cover in _TABLE.items():
        values[kind] = getattr(cover, of)
    return values


_PEAK, _WIDTH, _LEAST, _MOST, _TEXTURE = map(_column, ("peak", "width", "least", "most", "texture"))


def _rows(of: str) -> Float32:
    values = np.zeros((len(BANDS), _KINDS), np.float32)
    for kind, cover in _TABLE.items():
        values[:, kind] = ENDMEMBERS[getattr(cover, of)]
    return values


_BARE, _GREEN = _rows("bare"), _rows("green")


def _tints() -> Float32:
    """How the spectrum of each kind bends with the two fields of region: (2, bands, kinds), share of reflectance."""
    shapes = np.array(
        [
            [1, 1, 1, 1, 0.5, -0.5, -0.8, -1, -1, -1, 0, 0, 0.5],
            [-0.5, -0.5, 0, 0.5, 0.3, 0, 0, 0.2, 0.2, 0, 0, 1, 1],
            [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1],
        ],
        np.float32,
    )
    kinds = np.arange(_KINDS)
    bends = [
        bell(hashed(101 + field, kinds, np.full(_KINDS, shape))) for field in range(2) for shape in range(3)
    ]
    weights = np.clip(np.array(bends), -1.5, 1.5).reshape(2, 3, _KINDS) * np.float32(0.06)
    return np.einsum("fsk,sb->fbk", weights, shapes)


_TINTS = _tints()


@dataclass(frozen=True, eq=False)
class Surface:
    """What grows at each of a ground's pixels (N, flat): the kind of cover, its parcel, and its texture (share)."""

    ground: Survey
    kind: NDArray[np.uint8]
    parcel: Parcels
    texture: Float32


@functools.lru_cache(maxsize=4)
def skin(grid: Grid, seed: int) -> Surface:
    """Covers, parcels and texture of a grid: all that does not depend on the date. Shared: read, never write."""
    ground = survey(grid, seed)
    where = places(ground.lon.ravel(), ground.lat.ravel(), ground.seed)
    parcel = parcels(where)
    codes = ground.surface.ravel()
    kind = np.where(codes == land.CROPS, parcel.crop + np.uint8(_FIRST_CROP), codes)
    points = np.stack([ground.x.ravel(), ground.y.ravel()])
    lengths = [length for length in (170.0, 60.0, 23.0, 8.0, 2.7) if length > 1.6 * ground.grid.gsd]
    layers = noise(points, lengths, [salt(ground.seed, "texture", length) for length in map(int, lengths)])
    weights = np.array([0.75, 0.6, 0.45, 0.4, 0.4], np.float32)[: len(lengths)]
    texture = np.tensordot(weights, layers, 1) * _TEXTURE[kind]
    texture += np.float32(0.05) * np.where(codes == land.CROPS, bell(again(parcel.key, 21)), 0)
    return Surface(ground, kind, parcel, texture.astype(np.float32))


def greenness(skin: Surface, day: int) -> Float32:
    """How green each pixel (N,) is on a day of the year (1 to 366), 0 to 1."""
    ground, kind = skin.ground, skin.kind
    south = ground.lat.ravel() < 0
    season = np.clip((np.abs(ground.lat.ravel()) - 8.0) / 22.0, 0.15, 1.0).astype(np.float32)
    peak = _PEAK[kind] + np.where(south, np.float32(182.5), np.float32(0)) + 11 * ground.west.ravel()
    crop = kind >= _FIRST_CROP
    peak += np.where(crop, 7 * bell(again(skin.parcel.key, 22)), 0)
    away = (
        np.abs((np.float32(day) - peak + np.float32(182.5)) % np.float32(365) - np.float32(182.5))
        / _WIDTH[kind]
    )
    bump = np.maximum(1 - away * away, 0)
    bump *= bump * (3 - 2 * bump)
    needles = (kind == land.TREES) & (ground.cold.ravel() > 55)
    full = np.where(crop | (kind == land.ICE), np.float32(1), season)
    high = np.where(crop, _MOST[kind], _MOST[kind] * np.clip(0.75 + 0.5 * ground.wet.ravel(), 0.35, 1.0))
    value = high - (high - _LEAST[kind]) * full * (1 - bump)
    return np.where(needles, np.maximum(value, 0.8), value).astype(np.float32)


def snow_cover(ground: Survey, day: int) -> Float32:
    """Share of each pixel (N,) under seasonal snow."""
    away = abs((day - 20 + 182.5) % 365 - 182.5) / 182.5  # 0 in the northern winter, 1 in the summer
    winter = np.where(ground.lat.ravel() >= 0, 1 - 2 * away, 2 * away - 1).astype(np.float32)
    return np.clip((ground.cold.ravel() + 17 * winter - 72) / 6, 0, 1).astype(np.float32)


def reflectance(skin: Surface, day: int, bands: tuple[str, ...]) -> Float32:
    """Reflectance (C, N) of the natural surface on a day of the year; towns as one grey, for `render` to build on."""
    ground, kind = skin.ground, skin.kind
    rows = [BANDS.index(band) for band in bands]
    bare, green = _BARE[rows], _GREEN[rows]
    share = np.clip(greenness(skin, day) * (1 + 0.8 * skin.texture), 0, 1)
    values = bare[:, kind]
    values += share * (green - bare)[:, kind]
    cold = ground.cold.ravel()
    _mix(values, rows, (kind == land.TREES), np.clip((cold - 50) / 12, 0, 0.85), "needles")
    _mix(values, rows, (kind == land.BARE), np.clip((cold - 36) / 14, 0, 1), "rock")
    east, west = np.clip(ground.east.ravel(), -2, 2), np.clip(ground.west.ravel(), -2, 2)
    tint = _TINTS[:, rows]
    values *= 1 + skin.texture + east * tint[0][:, kind] + west * tint[1][:, kind]
    snow = snow_cover(ground, day)
    if snow.any():
        hold = np.where(kind == land.TREES, 0.45, np.where(kind == land.BUILT, 0.5, 0.95)).astype(np.float32)
        frozen = np.where(kind == land.WATER, np.clip(2 * snow - 1, 0, 1), snow * hold)
        values += frozen * (ENDMEMBERS["snow"][rows][:, None] * (1 + 0.3 * skin.texture) - values)
    return values


def _mix(values: Float32, rows: list[int], where: NDArray[np.bool_], share: Float32, spectrum: str) -> None:
    chosen = np.flatnonzero(where & (share > 0))
    if len(chosen):
        part = values[:, chosen]
        values[:, chosen] = part + share[chosen] * (ENDMEMBERS[spectrum][rows][:, None] - part)


def through_air(values: Float32, bands: tuple[str, ...], sun_height: float | Float32) -> Float32:
    """Top-of-atmosphere reflectance (C, N) of surface reflectance under a sun of the given sine of elevation."""
    rows = [BANDS.index(band) for band in bands]
    thick = (0.6 + 0.25 / np.maximum(sun_height, 0.25)).astype(np.float32)
    return values * _THROUGH[rows][:, None] + _HAZE[rows][:, None] * thick


def season(skin: Surface, day: int, which: NDArray[np.intp]) -> Float32:
    """How green lawns are at some pixels, 0.3 to 1: the year of grass."""
    ground = skin.ground
    lat = ground.lat.ravel()[which]
    peak = np.where(lat < 0, 347.5, 165.0)
    away = np.abs((day - peak + 182.5) % 365 - 182.5) / 182.5
    depth = 0.6 * np.clip((np.abs(lat) - 8.0) / 22.0, 0.15, 1.0)
    return (1 - depth * away).astype(np.float32)
