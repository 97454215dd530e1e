"""The six continents, against the map they were made from and against an atlas."""

import gzip
import importlib.resources
import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from pyproj import Geod

from geodata import continents

NATURAL_EARTH = (
    Path(__file__).resolve().parents[2].parent
    / "shared/data/continents_natural_earth/continents_110m.geojson"
)

CITIES = {
    "europe": [(2.35, 48.86), (37.62, 55.75), (-3.70, 40.42), (59.0, 57.0)],
    "asia": [(116.4, 39.9), (77.2, 28.6), (32.86, 39.93), (139.0, 36.0), (65.5, 57.2), (-173.0, 66.8)],
    "north_america": [(-99.13, 19.43), (-104.99, 39.74), (-84.1, 9.95), (-75.7, 45.4), (-42.0, 70.0)],
    "africa": [(18.42, -33.2), (3.38, 6.9), (36.82, -1.29), (47.5, -18.9)],
    "south_america": [(-46.63, -23.2), (-58.9, -34.6), (-53.0, 4.0), (-68.1, -16.5)],
    "oceania": [(134.0, -25.0), (144.9, -37.0), (172.0, -43.2), (144.0, -6.5)],
}


@pytest.mark.parametrize("name", continents.NAMES)
def test_cities_lie_on_their_continent(name):
    lon, lat = np.array(CITIES[name]).T
    assert list(continents.continent_of(lon, lat)) == [name] * len(lon)


def test_the_open_sea_antarctica_and_nowhere_have_no_continent():
    lon, lat = np.array([(-30.0, 30.0), (160.0, 20.0), (0.0, -85.0), (np.nan, 10.0), (5.0, np.inf)]).T
    assert list(continents.continent_of(lon, lat)) == [""] * 5
    assert (continents.codes(lon, lat) == -1).all()


def test_longitudes_may_run_past_the_antimeridian_and_any_shape_is_kept():
    assert continents.continent_of(np.array([[187.0, 371.0]]), np.array([[66.8, 46.0]])).tolist() == [
        ["asia", "europe"]
    ]
    assert continents.continent_of(np.array([]), np.array([])).shape == (0,)


def test_codes_count_names_and_short_names_are_two_letters():
    lon, lat = np.array([CITIES[name][0] for name in continents.NAMES]).T
    assert continents.codes(lon, lat).tolist() == list(range(6))
    assert sorted(continents.SHORT.values()) == ["AF", "AS", "EU", "NA", "OC", "SA"]


def test_areas_are_those_of_the_atlas():
    atlas = {
        "africa": 30.37e6,
        "asia": 44.58e6,
        "europe": 10.18e6,
        "north_america": 24.71e6,
        "oceania": 8.53e6,
        "south_america": 17.84e6,
    }
    assert continents.areas() == pytest.approx(atlas, rel=0.05)


def test_continents_do_not_overlap():
    outlines = [continents.polygons(name) for name in continents.NAMES]
    assert all(outline.is_valid for outline in outlines)
    assert sum(outline.area for outline in outlines) == pytest.approx(
        shapely.union_all(outlines).area, rel=1e-4
    )


def test_a_name_that_is_none_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="'atlantis' is no continent; continents are africa"):
        continents.polygons("atlantis")


def test_the_file_is_small_and_says_where_it_comes_from():
    file = importlib.resources.files("geodata") / "data" / "continents.json"
    text = file.read_text(encoding="utf-8")
    assert len(text) < 60_000
    assert "public domain" in json.loads(text)["source"]


@pytest.mark.real
@pytest.mark.skipif(not NATURAL_EARTH.is_file(), reason="the map is not beside the checkout")
def test_points_lie_where_natural_earth_has_them():
    features = json.loads(NATURAL_EARTH.read_text(encoding="utf-8"))["features"]
    shapes = {
        feature["properties"]["continent"].lower().replace(" ", "_"): shapely.make_valid(
            shapely.geometry.shape(feature["geometry"])
        )
        for feature in features
    }
    rng = np.random.default_rng(5)
    lon, lat = rng.uniform(-180, 180, 20_000), np.degrees(np.arcsin(rng.uniform(-0.9, 0.99, 20_000)))
    mine = continents.continent_of(lon, lat)
    for name in continents.NAMES:
        there = shapely.contains_xy(shapes[name], lon, lat)
        if name in ("europe", "asia"):  # we split Russia, they do not
            eurasia = shapely.contains_xy(shapes["europe"], lon, lat) | shapely.contains_xy(
                shapes["asia"], lon, lat
            )
            there = eurasia & ((mine == name) | ((name == "asia") == (lon > 60)) & (mine == ""))
        differs = there != (mine == name)
        assert differs.sum() < 0.06 * there.sum()


FINE_CITIES = {
    "europe": [(12.49, 41.89), (23.72, 37.98), (-9.2, 38.78), (17.8, 59.4), (-21.9, 64.14)],
    "asia": [(103.85, 1.35), (139.69, 35.68), (121.47, 31.23), (29.1, 40.99), (72.88, 19.09)],
    "north_america": [(-122.42, 37.76), (-73.87, 40.73), (-157.85, 21.32), (-66.06, 18.42), (-61.7, 16.1)],
    "africa": [(31.24, 30.04), (-17.44, 14.72), (3.06, 36.74), (39.27, -6.81), (55.5, -21.1)],
    "south_america": [(-58.42, -34.61), (-79.9, -2.19), (-52.33, 4.9), (-43.35, -22.87), (-91.1, -0.8)],
    "oceania": [(151.2, -33.87), (115.86, -31.95), (174.77, -36.86), (147.18, -9.46), (178.44, -18.1)],
}
"""Towns on coasts and islands, many of which the coarse outlines miss."""


@pytest.mark.parametrize("name", continents.NAMES)
def test_towns_on_coasts_and_islands_lie_on_land_by_the_fine_outlines(name):
    lon, lat = np.array(FINE_CITIES[name]).T
    assert continents.codes(lon, lat, outlines="fine").tolist() == [continents.NAMES.index(name)] * len(lon)


def test_the_coarse_outlines_miss_a_fourth_of_the_coast_towns():
    lon, lat = np.array([point for points in FINE_CITIES.values() for point in points]).T
    assert (continents.codes(lon, lat) < 0).mean() > 0.25


def test_the_fine_outlines_leave_straits_and_gulfs_to_the_sea_and_agree_inland_with_the_coarse():
    straits = [(-5.6, 35.95), (0.0, 50.3), (12.7, 44.9), (129.2, 34.4), (-122.9, 48.3), (-90.0, 28.5)]
    lon, lat = np.array(straits).T
    assert (continents.codes(lon, lat, outlines="fine") == -1).all()
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(-180, 180, 40_000), np.degrees(np.arcsin(rng.uniform(-1, 1, 40_000)))
    coarse, fine = continents.codes(lon, lat), continents.codes(lon, lat, outlines="fine")
    both = (coarse >= 0) & (fine >= 0)
    assert (coarse[both] == fine[both]).mean() > 0.998
    assert abs(both.sum() / (coarse >= 0).sum() - 1) < 0.03


def test_the_fine_file_is_small_and_says_where_it_comes_from():
    data = (importlib.resources.files("geodata") / "data" / "outlines_50m.json.gz").read_bytes()
    assert len(data) < 120_000
    assert "public domain" in json.loads(gzip.decompress(data))["source"]
    for name in continents.NAMES:
        assert shapely.is_valid(continents.polygons(name, "fine"))


def test_a_point_off_the_coast_belongs_to_the_land_within_reach_by_geodesics():
    """A walk from the beach into the sea, and around a cape, by distance to the densely cut outline."""
    geod = Geod(ellps="WGS84")
    outline = continents.polygons("oceania", "fine")
    coast = shapely.get_coordinates(shapely.segmentize(shapely.boundary(outline), 0.02))
    rng = np.random.default_rng(1)
    lon, lat = rng.uniform(146.0, 149.5, 150), rng.uniform(-44.5, -39.0, 150)
    near = coast[(np.abs(coast[:, 0] - 147.5) < 3) & (np.abs(coast[:, 1] + 42) < 4)]
    found = continents.codes(lon, lat, 40.0, "fine")
    on_land = continents.codes(lon, lat, outlines="fine") >= 0
    checked = 0
    for x, y, code, land in zip(lon, lat, found, on_land, strict=True):
        count = len(near)
        metres = geod.inv([x] * count, [y] * count, near[:, 0], near[:, 1])[2].min()
        if not land and abs(metres - 40_000) > 800:
            assert (code == continents.NAMES.index("oceania")) == (metres < 40_000)
            checked += 1
    assert checked > 60


def test_reach_goes_over_the_antimeridian():
    """Wrangel Island lies on both sides of it; its north coast is at 71.6 degrees."""
    lon = np.array([179.99, -179.99, 179.99, -179.99])
    found = continents.codes(lon, np.array([71.85, 71.85, 72.4, 72.4]), 40.0, "fine")
    assert found.tolist() == [continents.NAMES.index("asia")] * 2 + [-1] * 2
    assert continents.polygons("asia", "fine").bounds[::2] == (-180, 180)


def test_boxes_that_meet_land_are_those_of_a_loop_over_polygons():
    rng = np.random.default_rng(3)
    west, south = rng.uniform(-180, 179, 120), rng.uniform(-60, 80, 120)
    boxes = np.stack([west, south, west + 1, south + 1], 1)
    found = continents.meeting(boxes, 0.0, "fine")
    for place, name in enumerate(continents.NAMES):
        outline = continents.polygons(name, "fine")
        shapely.prepare(outline)
        assert found[:, place].tolist() == [bool(outline.intersects(shapely.box(*box))) for box in boxes]
    wider = continents.meeting(boxes, 30.0, "fine")
    assert (wider | ~found).all()
    middle = continents.codes(west + 0.5, south + 0.5, 30.0, "fine")
    assert wider[np.flatnonzero(middle >= 0), middle[middle >= 0]].all()
