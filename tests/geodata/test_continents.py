"""The six continents, against the map they were made from and against an atlas."""

import importlib.resources
import json
from pathlib import Path

import numpy as np
import pytest
import shapely

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
