"""The lattice of web tiles, against pyproj, rasterio and worked examples."""

import numpy as np
import pytest
from rasterio.warp import transform_bounds

from geodata import webmercator
from geodata.grid import Grid, project

PLACES = [(16.35, 47.84), (-179.99, -60.0), (179.99, 71.3), (0.0, 0.0), (-70.6, -33.4)]


def test_the_quadkey_of_the_worked_example():
    assert webmercator.quadkey(3, 3, 5) == "213"
    with pytest.raises(ValueError, match="zoom 3 has columns and rows 0 to 7"):
        webmercator.quadkey(3, 8, 0)


@pytest.mark.parametrize("zoom", [0, 1, 9, 17, 22])
def test_a_point_lies_in_the_tile_that_is_named_for_it(zoom):
    lon, lat = (np.array(values) for values in zip(*PLACES, strict=True))
    x, y = webmercator.tile_at(lon, lat, zoom)
    east, north = project(lon, lat, 3857)
    west, south, right, top = webmercator.tile_bounds(zoom, x, y)
    assert ((west <= east) & (east < right) & (south < north) & (north <= top)).all()


@pytest.mark.parametrize(("lon", "lat"), PLACES)
@pytest.mark.parametrize("gsd", [0.3, 0.6, 2.4, 10.0])
def test_the_zoom_for_a_gsd_is_the_nearest_on_the_ground(lon, lat, gsd):
    zoom = int(webmercator.zoom_for(gsd, lat))
    x, y = (int(value) for value in webmercator.tile_at(lon, lat, zoom))
    west, south, east, north = transform_bounds(
        "EPSG:3857", "EPSG:4326", *webmercator.tile_bounds(zoom, x, y)
    )
    metres = np.radians(east - west) * 6_378_137.0 * np.cos(np.radians((south + north) / 2))
    assert abs(np.log2(metres / 256 / gsd)) < 0.51
    assert webmercator.zoom_for(gsd, lat, 512) == zoom - 1


def test_published_gsds_of_zoom_levels():
    assert webmercator.gsd_at(0) == pytest.approx(156_543.034, abs=1e-3)
    assert webmercator.gsd_at(19) == pytest.approx(0.2986, abs=1e-4)
    assert webmercator.gsd_at(13, 60.0) == pytest.approx(19.109 / 2, abs=1e-3)


def test_zooms_of_many_points_come_as_an_array():
    lat = np.linspace(-70, 70, 1000)
    zooms = webmercator.zoom_for(np.full(1000, 0.6), lat)
    assert zooms.dtype == np.int64 and zooms.shape == lat.shape
    assert set(zooms) == {16, 17, 18}


def test_grids_of_tiles_know_themselves_again():
    grid = webmercator.grid_of(19, 285_000, 181_000, 2)
    assert grid.shape == (512, 512)
    assert webmercator.tiles_of(grid) == (19, 285_000, 181_000, 2, 2)
    assert webmercator.tiles_of(grid, 512) == (18, 142_500, 90_500, 1, 1)
    assert webmercator.tiles_of(webmercator.grid_of(18, 1, 1, 1, 512), 256) == (19, 2, 2, 2, 2)
    assert webmercator.tiles_of(grid.crop(1, 0, 512, 512)) is None
    assert webmercator.tiles_of(grid.crop(0, 0, 500, 512)) is None
    assert webmercator.tiles_of(Grid(32633, grid.transform, 512, 512)) is None


def test_neighbouring_tiles_share_an_edge_and_a_window_finds_them():
    left, right = (webmercator.grid_of(17, x, 45_649) for x in (71_488, 71_489))
    assert left.bounds[2] == pytest.approx(right.bounds[0], abs=1e-6)
    assert webmercator.window(left.bounds, 17) == (71_488, 45_649, 1, 1)
    assert webmercator.window(left.pad(1).bounds, 17) == (71_487, 45_648, 3, 3)


def test_a_metre_of_the_map_is_shorter_on_the_ground_by_the_cosine_of_the_latitude():
    _, north = project(0.0, 60.0, 3857)
    assert webmercator.ground_scale(north) == pytest.approx(0.5, abs=1e-9)
