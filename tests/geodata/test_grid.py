"""Grid against rasterio, pyproj's own inverse and Sentinel-2's real tile origins."""

import math

import numpy as np
import pytest
import rasterio.windows
from rasterio.warp import Resampling, reproject
from rasterio.warp import transform as rasterio_transform

from geodata.grid import Grid, chip_grid, project, unproject, utm_epsg
from geodata.source import regrid


def square(epsg=32633, gsd=10.0, x=330000.0, y=5822040.0, height=64, width=64):
    return Grid(epsg, (gsd, 0, x, 0, -gsd, y), height, width)


def test_a_grid_refuses_rotation_and_pixels_that_are_not_square():
    with pytest.raises(ValueError, match="north-up"):
        Grid(32633, (10, 0.1, 0, 0, -10, 0), 4, 4)
    with pytest.raises(ValueError, match="square"):
        Grid(32633, (10, 0, 0, 0, -20, 0), 4, 4)


def test_a_grid_refuses_a_gsd_that_does_not_divide_it():
    with pytest.raises(ValueError, match="whole ratio"):
        square().at(60.0)
    assert square(height=192, width=192).at(60.0).shape == (32, 32)
    assert square().at(0.3125).shape == (2048, 2048)


def test_windows_are_rasterios_windows():
    scene = square(height=768, width=1536)
    for row, col in ((0, 0), (10, 700), (-5, -7), (760, 1530)):
        chip = scene.crop(row, col, 64, 64)
        theirs = rasterio.windows.from_bounds(*chip.bounds, transform=scene.affine())
        assert scene.window(chip) == (theirs.row_off, theirs.col_off, theirs.height, theirs.width)


def test_a_window_off_the_lattice_is_refused_and_another_zone_too():
    scene = square()
    with pytest.raises(ValueError, match="off the 10 m lattice"):
        scene.window(square(x=330005.0))
    with pytest.raises(ValueError, match="EPSG:32634"):
        scene.window(square(epsg=32634))


def test_640_m_are_eleven_pixels_of_60_m_of_which_the_last_is_cut():
    coarse = Grid(32633, (60, 0, 330000, 0, -60, 5822040), 128, 256)
    assert coarse.window(square(x=330600.0, y=5821440.0)) == (10, 10, 11, 11)


@pytest.mark.parametrize(
    ("lon", "lat", "epsg"),
    [(13.1, 52.4, 32633), (-70.6, -33.4, 32719), (179.99, 1.0, 32660), (-180.0, -1.0, 32701)],
)
def test_zones_are_the_published_ones(lon, lat, epsg):
    assert utm_epsg(lon, lat) == epsg


def test_there_are_no_zones_beyond_84_north_and_80_south():
    for lat in (84.1, -80.1):
        with pytest.raises(ValueError, match="outside UTM"):
            utm_epsg(0.0, lat)


def test_projection_agrees_with_rasterio_to_a_millimetre():
    x, y = project(13.1, 52.4, 32633)
    (theirs_x,), (theirs_y,) = rasterio_transform("EPSG:4326", "EPSG:32633", [13.1], [52.4])
    assert math.hypot(x - theirs_x, y - theirs_y) < 1e-3
    assert np.allclose(unproject(x, y, 32633), (13.1, 52.4))


def test_chips_sit_on_the_60_m_lattice_and_hold_their_point():
    rng = np.random.default_rng(1)
    for lon, lat in zip(rng.uniform(-180, 180, 40), rng.uniform(-79, 83, 40), strict=True):
        chip = chip_grid(lon, lat, 10.0, 64)
        assert chip.on_lattice(60.0) and chip.on_lattice(20.0)
        west, south, east, north = chip.bounds
        x, y = project(lon, lat, chip.epsg)
        assert west < x < east and south < y < north
        assert max(abs((west + east) / 2 - x), abs((south + north) / 2 - y)) <= 30.0 + 1e-6


def test_tiles_cover_a_grid_once():
    grid = square(height=130, width=70)
    seen = np.zeros(grid.shape, int)
    for tile in grid.tiles(64):
        row, col, height, width = grid.window(tile)
        seen[row : row + height, col : col + width] += 1
    assert (seen == 1).all()


def test_alignment_is_equal_ground_and_whole_ratio():
    chip = square()
    assert chip.aligned(chip.at(0.625)) and chip.at(20.0).aligned(chip)
    assert not chip.aligned(chip.crop(0, 1, 64, 64))
    assert not chip.aligned(square(epsg=32634))


@pytest.mark.parametrize("ratio", [1, 2, 6])
def test_a_checkerboard_comes_back_exactly_from_10_20_and_60_m(ratio):
    native = Grid(32633, (10.0 * ratio, 0, 330000, 0, -10.0 * ratio, 5822040), 160, 160)
    rows, cols = np.indices(native.shape)
    board = ((rows + cols) % 2 * 1000 + 7).astype(np.uint16)[None]
    chip = square(x=330600.0, y=5821440.0)
    cut, resampled = regrid(board, native, chip, nodata=0, categorical=False)
    offset = 600 // (10 * ratio)
    wanted = np.kron(board[0], np.ones((ratio, ratio), np.uint16))[offset * ratio :, offset * ratio :][
        :64, :64
    ]
    assert not resampled and np.array_equal(cut[0], wanted)


def test_ground_outside_the_native_raster_is_nodata():
    native = square(height=32, width=32)
    cut, resampled = regrid(
        np.full((1, 32, 32), 9, np.uint16), native, native.pad(4), nodata=0, categorical=False
    )
    assert not resampled and cut.sum() == 9 * 32 * 32 and not cut[0, :4].any() and not cut[0, :, -4:].any()


def test_what_must_be_warped_is_rasterios_reproject_and_says_so():
    rng = np.random.default_rng(3)
    native, chip = square(), square(x=330003.0, height=40, width=40)
    values = rng.integers(1, 4000, (2, 64, 64)).astype(np.uint16)
    cut, resampled = regrid(values, native, chip, nodata=0, categorical=False)
    wanted = np.zeros_like(cut)
    reproject(
        values,
        wanted,
        src_transform=native.affine(),
        src_crs="EPSG:32633",
        dst_transform=chip.affine(),
        dst_crs="EPSG:32633",
        src_nodata=0,
        dst_nodata=0,
        resampling=Resampling.bilinear,
    )
    assert resampled and np.array_equal(cut, wanted)
