"""Fields, streets and buildings: districts of flat ground, each divided by integers.

A district is 0.05 degrees high and about as wide. Within it, east and north are metres from its middle, turned by an
angle of its own; fields are bricks in that frame, streets a grid, lots divide its blocks, and one building stands in a
lot. Everything about a parcel or a building is a hash of its integers, so a pixel finds its own without looking around,
and outlines can be written down exactly.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import NDArray

from geodata.earth.ground import BUILT, fields, margin
from geodata.earth.noise import Hash, again, hashed, salt, unit

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

CROP_TYPES = ("winter cereal", "maize", "oilseed", "rice", "root crop", "fallow")
"""What grows on a parcel, by its number; the look-alikes of one season differ in another."""
ROOFS = ("tile", "metal", "bitumen", "concrete")

STREET_M = 9.0
"""Width of streets between blocks."""
_TALL = 0.05
"""Degrees of latitude of a district."""
_DEGREE_M = 111_195.0
_FROM_EDGE = 0.2
"""By how much `built` must win at its middle for a building to stand: none reach out of town by more than a wall."""


@functools.cache
def _columns() -> tuple[Ints, Float]:
    """Districts around the globe in each row, and metres of a degree of longitude in the row's middle."""
    middle = (np.arange(round(180 / _TALL)) + 0.5) * _TALL - 90.0
    metres = _DEGREE_M * np.cos(np.radians(middle))
    return np.maximum(1, np.floor(360.0 * metres / (_DEGREE_M * _TALL))).astype(np.int64), metres


@dataclass(frozen=True, eq=False)
class Places:
    """Points (N,) in their districts: which (row, column, hash), and where (u, v) in its turned frame, metres.

    `east` and `north` are the same position unturned, `cos` and `sin` the turn.
    """

    row: Ints
    column: Ints
    key: Hash
    u: Float
    v: Float
    east: Float
    north: Float
    cos: Float
    sin: Float

    def pick(self, which: NDArray[np.intp]) -> Places:
        """Some of the points."""
        return Places(*(array[which] for array in vars(self).values()))

    def moved(self, east: float | Float32, north: float | Float32) -> Places:
        """The points moved by metres, within the charts of their districts."""
        u, v = self.u + east * self.cos + north * self.sin, self.v + north * self.cos - east * self.sin
        return replace(self, u=u, v=v, east=self.east + east, north=self.north + north)

    def lonlat(self, u: Float, v: Float) -> tuple[Float, Float]:
        """Degrees of positions in the frames of these points."""
        count, metres = _columns()
        lon = (self.column + 0.5) / count[self.row] * 360.0 - 180.0
        lat = (self.row + 0.5) * _TALL - 90.0
        east, north = u * self.cos - v * self.sin, u * self.sin + v * self.cos
        return lon + east / metres[self.row], lat + north / _DEGREE_M


def places(lon: Float, lat: Float, seed: int) -> Places:
    """Where points (N,) lie in their districts."""
    count, metres = _columns()
    row = np.clip(np.floor((lat + 90.0) / _TALL).astype(np.int64), 0, len(count) - 1)
    share = ((lon + 180.0) % 360.0) / 360.0 * count[row]
    column = np.floor(share).astype(np.int64)
    east = (share - column - 0.5) * (360.0 / count[row]) * metres[row]
    north = (lat - ((row + 0.5) * _TALL - 90.0)) * _DEGREE_M
    key = hashed(salt(seed, "district"), row, column)
    half = unit(key).astype(np.float64) * 0.8 - 0.4  # tangent of half the turn: -44 to 44 degrees
    cos, sin = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    return Places(row, column, key, east * cos + north * sin, north * cos - east * sin, east, north, cos, sin)


@dataclass(frozen=True, eq=False)
class Parcels:
    """The parcel around each point (N,): a hash, its crop (place in `CROP_TYPES`), how far the point is from its edge
    and across its rows (metres; rows run along v)."""

    key: Hash
    crop: NDArray[np.uint8]
    inside: Float32
    across: Float32


def parcels(at: Places) -> Parcels:
    """The parcels that points lie on."""
    width = 90.0 + 150.0 * unit(again(at.key, 1)).astype(np.float64)
    length = 180.0 + 260.0 * unit(again(at.key, 2)).astype(np.float64)
    band = np.floor(at.u / width)
    shift = unit(hashed(7, at.key, band.astype(np.int64))).astype(np.float64) * length
    brick = np.floor((at.v + shift) / length)
    key = hashed(11, at.key, band.astype(np.int64), brick.astype(np.int64))
    across, along = at.u - band * width, at.v + shift - brick * length
    split = unit(again(key, 3)) < 0.35
    second = split & (along > length / 2)
    reach = np.where(split, length / 2, length)
    along = np.where(second, along - length / 2, along)
    key = np.where(second, again(key, 4), key)
    inside = np.minimum(np.minimum(across, width - across), np.minimum(along, reach - along))
    favourite = (unit(again(at.key, 5)) * 6).astype(np.uint8)
    drawn = (unit(again(key, 6)) * 6).astype(np.uint8)
    crop = np.where(unit(again(key, 7)) < 0.3, favourite, drawn)
    return Parcels(key, crop, inside.astype(np.float32), across.astype(np.float32))


@dataclass(frozen=True, eq=False)
class Plots:
    """The lot around each point (N,): the point's distance from the middle of the next street; whether a building could
    stand; its middle (u, v) and half sizes in the frame; and a hash. `park` marks blocks without buildings."""

    street: Float32
    park: Flags
    builds: Flags
    u: Float
    v: Float
    half_u: Float
    half_v: Float
    key: Hash

    def over(self, at: Places) -> Flags:
        """Whether points are where the roof of the lot is, if it is built."""
        return (np.abs(at.u - self.u) < self.half_u) & (np.abs(at.v - self.v) < self.half_v)

    def pick(self, which: NDArray[np.intp]) -> Plots:
        """Some of the lots."""
        return Plots(*(array[which] for array in vars(self).values()))


def plots(at: Places) -> Plots:
    """The lots that points lie on, built or not."""
    wide = 84.0 + 44.0 * unit(again(at.key, 11)).astype(np.float64)
    tall = 54.0 + 30.0 * unit(again(at.key, 12)).astype(np.float64)
    block_u, block_v = np.floor(at.u / wide), np.floor(at.v / tall)
    in_u, in_v = at.u - block_u * wide, at.v - block_v * tall
    street = np.minimum(np.minimum(in_u, wide - in_u), np.minimum(in_v, tall - in_v))
    block = hashed(13, at.key, block_u.astype(np.int64), block_v.astype(np.int64))
    kind = unit(again(block, 1))
    hall = kind > 0.86
    lots_u, lots_v = np.where(hall, 1.0, 4.0), np.where(hall, 1.0, 2.0)
    lot_u, lot_v = (wide - STREET_M) / lots_u, (tall - STREET_M) / lots_v
    which_u = np.clip(np.floor((in_u - STREET_M / 2) / lot_u), 0, lots_u - 1)
    which_v = np.clip(np.floor((in_v - STREET_M / 2) / lot_v), 0, lots_v - 1)
    key = hashed(17, block, which_u.astype(np.int64), which_v.astype(np.int64))
    share_u, share_v = (0.27 + 0.15 * unit(again(key, turn)).astype(np.float64) for turn in (1, 2))
    half_u, half_v = lot_u * share_u, lot_v * share_v
    slack_u, slack_v = lot_u / 2 - half_u - 1.0, lot_v / 2 - half_v - 1.0
    off_u, off_v = (unit(again(key, turn)).astype(np.float64) * 2 - 1 for turn in (3, 4))
    u = block_u * wide + STREET_M / 2 + (which_u + 0.5) * lot_u + off_u * slack_u
    v = block_v * tall + STREET_M / 2 + (which_v + 0.5) * lot_v + off_v * slack_v
    builds = (kind > 0.1) & (unit(again(key, 5)) < 0.88)
    return Plots(street.astype(np.float32), kind <= 0.1, builds, u, v, half_u, half_v, key)


def stands(at: Places, plot: Plots, seed: int) -> Flags:
    """Whether a building stands on each point's lot: one could, its middle is well inside a town, and its district
    holds it whole."""
    found = plot.builds.copy()
    asked = np.flatnonzero(found)
    if not len(asked):
        return found
    # a building is known by its district and its middle, to the micrometre
    names = np.stack(
        [
            at.row[asked],
            at.column[asked],
            *(np.rint(c[asked] * 64).astype(np.int64) for c in (plot.u, plot.v)),
        ]
    )
    code = ((names[0] * 7200 + names[1]) << 38) + ((names[2] + (1 << 18)) << 19) + names[3] + (1 << 18)
    _, first, owner = np.unique(code, return_index=True, return_inverse=True)
    one = at.pick(asked[first])
    lot = plot.pick(asked[first])
    lon, lat = one.lonlat(lot.u, lot.v)
    town = margin(fields(lon, lat, seed), BUILT) > _FROM_EDGE
    found[asked] = (town & _whole(one, lot))[owner]
    return found


def _whole(at: Places, plot: Plots) -> Flags:
    """Whether a district holds all of a building, however it is turned."""
    count, metres = _columns()
    east, north = plot.u * at.cos - plot.v * at.sin, plot.u * at.sin + plot.v * at.cos
    reach = plot.half_u + plot.half_v
    half = 180.0 / count[at.row] * metres[at.row]
    return (np.abs(east) < half - reach) & (np.abs(north) < _TALL / 2 * _DEGREE_M - reach)


def roofs(key: Hash) -> NDArray[np.uint8]:
    """Kind of roof (place in `ROOFS`) of buildings by their hash."""
    return np.digitize(unit(again(key, 6)), (0.45, 0.65, 0.85)).astype(np.uint8)


def heights(key: Hash) -> Float32:
    """Height of buildings by their hash, metres."""
    return np.float32(3.5) + np.float32(9.0) * unit(again(key, 7)) ** 2


def rectangles(at: Places, plot: Plots) -> NDArray[np.object_]:
    """Outlines of the buildings on points' lots, in longitude and latitude."""
    turns = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    corners = [at.lonlat(plot.u + a * plot.half_u, plot.v + b * plot.half_v) for a, b in turns]
    return shapely.polygons(np.stack([np.stack(corner, axis=-1) for corner in corners], axis=1))
