"""Lattices against published tile numbers, pyproj's Mercator and geodesics, and nested loops over points and chips."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer

from geodata.grid import utm_epsg
from geodata.lattice import lattice
from geodata.layout import ChipSpec, TileSpec

TILES = TileSpec()
GEOD = Geod(ellps="WGS84")
MERCATOR = Transformer.from_crs(4326, 3857, always_xy=True)
HALF = 20037508.342789244

latitudes = st.floats(-85.0, 85.0)
longitudes = st.floats(-180.0, 179.999)
chances = st.floats(0.0, 1.0, exclude_max=True)


def snap(chip, lon, lat, chance=0.5):
    return lattice(chip).snap(*(np.atleast_1d(np.asarray(value, float)) for value in (lon, lat, chance)))


def ids(chip, sites):
    corners = zip(sites.epsg, sites.zoom, sites.left, sites.top, strict=True)
    return [chip.site_id(*(int(number) for number in corner)) for corner in corners]


def test_a_site_is_named_by_the_published_quadkey():
    """Column 3, row 5 of level 3 is 213 (Bing Maps Tile System)."""
    assert TILES.site_id(3857, 3, 3, 5) == "q213"
    assert lattice(TILES).parsed("q213") == (3857, 3, 3, 5)
    assert lattice(TILES).parsed("q2134") is None
    assert lattice(TILES).parsed("32633-000001-000002") is None


@pytest.mark.parametrize(
    ("lat", "gsd", "zoom"),
    [
        (0.0, 156543.034, 1),  # level 0 has one tile, and a chip needs four
        (0.0, 19.1, 13),
        (0.0, 9.55, 14),
        (0.0, 4.78, 15),
        (0.0, 2.39, 16),
        (0.0, 1.19, 17),
        (0.0, 0.60, 18),
        (0.0, 0.30, 19),
        (60.0, 0.30, 18),
        (60.0, 9.55, 13),
        (45.0, 0.422, 18),
        (-60.0, 1.19, 16),
    ],
)
def test_zooms_are_those_of_the_published_table_of_ground_resolutions(lat, gsd, zoom):
    """Ground resolution by level (Bing Maps Tile System); half as much at 60 degrees."""
    chip = TileSpec(gsd_range=(gsd, gsd))
    assert snap(chip, 10.0, lat).zoom.item() == zoom


@settings(max_examples=60, deadline=None)
@given(lon=longitudes, lat=latitudes, chance=chances)
@example(lon=-180.0, lat=0.0, chance=0.0)
@example(lon=0.0, lat=0.0, chance=0.999999)
def test_a_chip_holds_its_point_at_a_gsd_nearest_to_the_one_drawn(lon, lat, chance):
    found = snap(TILES, lon, lat, chance)
    wanted = 0.3 * (10.0 / 0.3) ** chance
    exact = math.log2(156543.034 * math.cos(math.radians(lat)) / wanted)
    assert abs(found.zoom.item() - exact) <= 0.5 + 1e-6
    grid = TILES.grid(3857, found.zoom.item(), found.left.item(), found.top.item())
    x, y = MERCATOR.transform(lon, lat)
    west, south, east, north = grid.bounds
    assert west - 1e-3 <= x <= east + 1e-3
    assert south - 1e-3 <= y <= north + 1e-3
    middle = MERCATOR.transform(found.lon.item(), found.lat.item())
    assert middle == pytest.approx(((west + east) / 2, (south + north) / 2), abs=1e-3)
    assert not found.edge.item()


@pytest.mark.parametrize(("tile", "size"), [(256, 512), (512, 512), (256, 256), (256, 1024), (512, 2048)])
def test_chips_are_whole_tiles_that_never_overlap(tile, size):
    chip = TileSpec(tile=tile, size=size, gsd_range=(4.0, 4.0))
    rng = np.random.default_rng(0)
    sites = snap(chip, rng.uniform(10.0, 10.5, 400), rng.uniform(45.0, 45.4, 400), rng.random(400))
    assert len(set(sites.zoom.tolist())) == 1
    side = 2 * HALF / 2 ** sites.zoom[0] / tile
    boxes = {}
    for name, left, top in zip(ids(chip, sites), sites.left, sites.top, strict=True):
        grid = chip.grid(3857, int(sites.zoom[0]), int(left), int(top))
        assert grid.shape == (size, size)
        assert grid.gsd == pytest.approx(side, rel=1e-12)
        assert (grid.origin[0] + HALF) / grid.gsd / tile == pytest.approx(left, abs=1e-6)
        boxes[name] = grid.bounds
    assert 5 < len(boxes) < 400
    names = list(boxes)
    for place, one in enumerate(names):
        for two in names[:place]:
            a, b = boxes[one], boxes[two]
            apart = max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3])
            assert apart >= -1e-6
    assert len(set(sites.key.tolist())) == len(boxes)


def test_the_ground_resolution_is_that_of_a_geodesic():
    for lon, lat in ((7.0, 0.1), (8.0, 47.0), (-120.0, -63.0), (179.9, 80.0)):
        site = snap(TILES, lon, lat)
        grid = TILES.grid(3857, site.zoom.item(), site.left.item(), site.top.item())
        west, south, east, north = grid.bbox()
        _, _, across = GEOD.inv(west, (south + north) / 2, east, (south + north) / 2)
        assert grid.ground_gsd * 512 == pytest.approx(across, rel=0.007)
        assert grid.ground_gsd == pytest.approx(grid.gsd * math.cos(math.radians(site.lat.item())), rel=1e-6)
    utm = ChipSpec(gsd=10.0, size=64).grid(32633, -1, 10_000, 90_000)
    assert utm.ground_gsd == utm.gsd == 10.0


def test_the_logarithm_of_the_gsd_is_even_and_a_uniform_draw_is_coarser():
    chance = (np.arange(20_000) + 0.5) / 20_000
    levels = {}
    for draw in ("log_uniform", "uniform"):
        chip = TileSpec(gsd_draw=draw)
        zooms = snap(chip, np.full(20_000, 5.0), np.zeros(20_000), chance).zoom
        levels[draw] = {zoom: float(np.mean(zooms == zoom)) for zoom in range(13, 21)}
    octaves = math.log2(10 / 0.3)
    for zoom in (15, 16, 17, 18):
        assert levels["log_uniform"][zoom] == pytest.approx(1 / octaves, abs=1e-3)
    assert sum(levels["log_uniform"].values()) == pytest.approx(1)
    assert levels["uniform"][14] > 0.3 > levels["uniform"][18]


@settings(max_examples=40, deadline=None)
@given(lon=longitudes, lat=latitudes)
def test_all_zooms_give_a_point_nested_chips_from_the_coarsest_to_the_finest(lon, lat):
    chip = TileSpec(zooms="all")
    site = snap(chip, lon, lat)
    columns = {name: getattr(site, name) for name in ("epsg", "zoom", "left", "top", "lon", "lat")} | {
        "draw": np.array([7])
    }
    spread = lattice(chip).spread(columns)
    zooms = spread["zoom"].tolist()
    assert zooms == list(range(zooms[0], site.zoom.item() + 1))
    resolution = 156543.034 * math.cos(math.radians(lat))
    assert abs(zooms[-1] - math.log2(resolution / 0.3)) <= 0.51
    assert abs(zooms[0] - math.log2(resolution / 10.0)) <= 0.6  # decided by the middle of the chip
    assert spread["draw"].tolist() == [7] * len(zooms)
    grids = [
        chip.grid(3857, *(int(number) for number in corner))
        for corner in zip(spread["zoom"], spread["left"], spread["top"], strict=True)
    ]
    for coarse, fine in itertools.pairwise(grids):
        assert coarse.gsd == pytest.approx(2 * fine.gsd)
        assert coarse.covers(fine)
    keys = lattice(chip).keys(spread)
    assert keys[0] == site.key.item()
    assert len(set(keys.tolist())) == len(zooms)


def test_points_of_one_coarsest_chip_have_one_key_and_others_none_of_their_chips():
    """A grid of points across the latitude where the coarsest zoom changes; every chip belongs to one key alone."""
    chip = TileSpec(zooms="all", gsd_range=(2.0, 10.0))
    lon, lat = (
        values.ravel() for values in np.meshgrid(np.linspace(10.0, 10.2, 40), np.linspace(42.0, 44.0, 300))
    )
    sites = snap(chip, lon, lat, np.zeros(len(lon)))
    assert len({key >> 52 for key in sites.key.tolist()}) == 2
    columns = {name: getattr(sites, name) for name in ("epsg", "zoom", "left", "top", "lon", "lat")}
    spread = lattice(chip).spread(columns | {"owner": sites.key})
    owners = {}
    for key, owner in zip(lattice(chip).keys(spread).tolist(), spread["owner"].tolist(), strict=True):
        assert owners.setdefault(key, owner) == owner


@pytest.mark.parametrize("chip", [TILES, TileSpec(zooms="all"), ChipSpec(gsd=10.0, size=64)])
def test_a_site_comes_back_from_its_name(chip):
    rng = np.random.default_rng(1)
    sites = snap(chip, rng.uniform(-180, 180, 50), rng.uniform(-79, 83, 50), rng.random(50))
    for place, name in enumerate(ids(chip, sites)):
        parsed = lattice(chip).parsed(name)
        assert parsed == tuple(
            int(values[place]) for values in (sites.epsg, sites.zoom, sites.left, sites.top)
        )
    columns = {name: getattr(sites, name) for name in ("epsg", "zoom", "left", "top")}
    if chip.kind == "utm" or chip.zooms == "nearest":
        np.testing.assert_array_equal(lattice(chip).keys(columns), sites.key)


def test_poles_end_at_the_edge_of_the_lattice_and_the_antimeridian_is_no_edge_of_tiles():
    sites = snap(TILES, [0.0, 10.0, 180.0, -180.0, 179.9999], [90.0, -85.06, 12.0, 12.0, 12.0], [0.5] * 5)
    assert sites.edge.tolist() == [True, True, False, False, False]
    names = ids(TILES, sites)
    assert names[2] == names[3] != names[4]
    for place in range(5):
        grid = TILES.grid(3857, *(int(v[place]) for v in (sites.zoom, sites.left, sites.top)))
        assert -HALF - 1e-6 <= grid.bounds[0] < grid.bounds[2] <= HALF + 1e-6


def test_utm_chips_reach_over_no_edge_of_a_zone_nor_over_the_antimeridian_nor_the_poles():
    chip = ChipSpec(gsd=10.0, size=64)
    lon = np.array([6.0, 6.001, 5.999, 180.0, -179.999, 179.999, 3.0, 3.0, 3.0])
    lat = np.array([50.0, 50.0, 50.0, 10.0, 10.0, 10.0, 84.1, -80.1, 89.9999])
    sites = snap(chip, lon, lat, np.zeros(9))
    assert sites.edge.all()
    inner = snap(chip, [6.1, 5.9, 179.9, -179.9], [50.0] * 4, [0.0] * 4)
    assert not inner.edge.any()
    for place in range(4):
        grid = chip.grid(int(inner.epsg[place]), -1, int(inner.left[place]), int(inner.top[place]))
        west, south, east, north = grid.bbox()
        assert east - west < 0.1
        zones = {utm_epsg(a, b) for a in (west, east) for b in (south, north)}
        assert zones == {int(inner.epsg[place])}


@pytest.mark.parametrize("guard", [0.0, 1000.0])
def test_the_outline_of_tile_chips_is_their_ground_and_half_the_guard(guard):
    rng = np.random.default_rng(2)
    sites = snap(TILES, rng.uniform(-170, 170, 40), rng.uniform(-80, 80, 40), rng.random(40))
    outline = lattice(TILES).reached(sites, np.arange(40), guard)
    for place in range(40):
        grid = TILES.grid(3857, *(int(v[place]) for v in (sites.zoom, sites.left, sites.top)))
        west, south, east, north = grid.bbox()
        lat = max(abs(south), abs(north))
        reached = outline.lon[place] + outline.east[place]
        _, _, across = GEOD.inv(east, lat, reached, lat)
        _, _, upward = GEOD.inv(west, north, west, outline.north[place])
        assert across == pytest.approx(guard / 2, rel=0.01, abs=0.02)
        assert upward == pytest.approx(guard / 2, rel=0.01, abs=0.02)
        assert outline.south[place] <= south + 1e-6
        assert outline.lon[place] + outline.west[place] <= west + 1e-6
