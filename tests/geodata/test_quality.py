"""Checks of one acquisition over one chip: None, or one word."""

import datetime

import numpy as np
import pytest

from geodata.grid import Grid, chip_grid
from geodata.quality import border, check, cloudy, flat, inside_share, nodata, outside, saturated
from geodata.sensors import SENTINEL1, SENTINEL2
from geodata.source import Raster, Scene

GRID = Grid(32633, (10.0, 0.0, 600000.0, 0.0, -10.0, 5300040.0), 10, 10)
NOISE = np.random.default_rng(0).integers(1, 3000, (2, 10, 10)).astype(np.uint16)


def scene(bounds=GRID.bounds, epsg=GRID.epsg) -> Scene:
    return Scene("one", "sentinel2", datetime.date(2020, 6, 4), epsg, bounds)


def raster(values=NOISE, valid=None, scl=None) -> Raster:
    there = np.ones((10, 10), bool) if valid is None else valid
    return Raster(values, there, GRID, ("B02", "B03"), scl=scl)


def rows(count: int) -> np.ndarray:
    return np.repeat(np.arange(10) < count, 10).reshape(10, 10)


def test_a_good_acquisition_has_no_reason():
    assert check(scene(), raster(), SENTINEL2, max_cloud=0.2, min_valid=1.0) is None


def test_a_chip_half_outside_the_scene_is_outside():
    xmin, ymin, xmax, ymax = GRID.bounds
    half = scene((xmin, ymin, xmin + 50, ymax))
    assert inside_share(half, GRID) == pytest.approx(0.5)
    assert outside(half, GRID, 0.6) == "outside"
    assert outside(half, GRID, 0.5) is None
    assert check(half, raster(valid=rows(5)), SENTINEL2, max_cloud=1, min_valid=0.6) == "outside"
    assert outside(scene((xmax, ymin, xmax + 10, ymax)), GRID, 0.01) == "outside"


def test_a_scene_in_degrees_holds_a_chip_in_metres():
    west, south, east, north = GRID.bbox()
    assert inside_share(scene((west - 1, south - 1, east + 1, north + 1), 4326), GRID) == pytest.approx(1)
    assert inside_share(
        scene(((west + east) / 2, south - 1, east + 1, north + 1), 4326), GRID
    ) == pytest.approx(0.5, abs=0.01)


def test_a_chip_on_the_antimeridian_is_inside_what_lies_on_both_sides():
    grid = chip_grid(179.9995, 10.0, 10.0, 64)
    assert inside_share(scene((170.0, 0.0, 190.0, 20.0), 4326), grid) == pytest.approx(1)


@pytest.mark.parametrize(
    ("there", "limit", "reason"), [(10, 1.0, None), (9, 1.0, "nodata"), (9, 0.9, None), (0, 0.0, "nodata")]
)
def test_nodata_is_counted_against_the_limit_and_none_at_all_never_passes(there, limit, reason):
    assert nodata(raster(valid=rows(there)), limit) == reason


def test_cloud_is_a_share_of_the_valid_pixels_and_unknown_passes():
    scl = np.full((10, 10), 4, np.uint8)
    scl[:2] = 9
    assert cloudy(raster(scl=scl), 0.2) is None
    assert cloudy(raster(scl=scl), 0.19) == "cloudy"
    assert cloudy(raster(scl=scl, valid=rows(2)), 0.9) == "cloudy"
    assert cloudy(raster(), 0.0) is None


def test_a_placeholder_is_flat_and_one_constant_band_is_not():
    values = NOISE.copy()
    values[0] = 7
    assert flat(raster(values)) is None
    values[1] = 9
    assert flat(raster(values)) == "flat"
    values[1, 9] = 8
    assert flat(raster(values, valid=rows(9))) == "flat"


def test_mostly_saturated_is_refused_and_a_white_roof_is_not():
    values = NOISE.copy()
    values[0, :5] = 65535
    assert saturated(raster(values)) is None
    values[1, 5] = 65535
    assert saturated(raster(values)) == "saturated"


def radar(low: list[tuple[int, int]] = (), lacking: int = 0, side: int = 40) -> Raster:
    """VV about -12 dB, at the least that is stored in the given pixels, without data in some of the first row."""
    values = np.random.default_rng(1).integers(-2000, -800, (2, side, side)).astype(np.int16)
    for row, col in low:
        values[0, row, col] = -3500
    values[:, 0, :lacking] = -32768
    grid = Grid(32633, (10.0, 0.0, 600000.0, 0.0, -10.0, 5300040.0), side, side)
    return Raster(values, values[0] != -32768, grid, ("VV", "VH"))


def test_radar_at_the_border_of_its_swath_is_refused_and_dark_speckle_is_not():
    patch = [(row, col) for row in (7, 8, 9) for col in (20, 21, 22)]
    scattered = [(row, col) for row in range(0, 40, 2) for col in range(0, 40, 2)]
    assert border(radar(), SENTINEL1) is None
    assert border(radar(scattered), SENTINEL1) is None
    assert border(radar(patch[:-1]), SENTINEL1) is None
    assert border(radar(patch), SENTINEL1) == "border"
    assert border(radar(lacking=16), SENTINEL1) is None
    assert border(radar(lacking=17), SENTINEL1) == "border"
    assert border(radar(patch), SENTINEL2) is None


def test_border_is_the_more_telling_reason_for_radar_without_data():
    one = radar(lacking=17)
    where = scene(one.grid.bounds)
    assert check(where, one, SENTINEL1, max_cloud=1.0, min_valid=1.0) == "border"
    assert check(where, radar(lacking=3), SENTINEL1, max_cloud=1.0, min_valid=1.0) == "nodata"
    assert check(where, radar(lacking=3), SENTINEL1, max_cloud=1.0, min_valid=0.9) is None
