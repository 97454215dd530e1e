"""Nearness to benchmarks against geodesics of points laid out densely, and pictures against all with all."""

import json
import math
from importlib import resources

import numpy as np
import pytest
import shapely
from PIL import Image
from pyproj import Geod, Transformer

from geodata.contamination import (
    Match,
    Place,
    _distance_km,
    benchmarks,
    excluding,
    known,
    near_ground,
    same_pictures,
)
from geodata.errors import Missing
from geodata.grid import chip_grid
from geodata.likeness import perceptual
from geodata.spec import ContaminationSpec

EARTH = Geod(ellps="WGS84")


def points_along(outline: shapely.Geometry, count: int = 400) -> np.ndarray:
    rings = outline.boundary
    return np.array(
        [rings.interpolate(share, normalized=True).coords[0] for share in np.linspace(0, 1, count)]
    )


def slow_km(grid, place: Place) -> float:
    """The shortest geodesic between points laid along both outlines; 0 where one holds a point of the other."""
    chip = grid.footprint()
    if place.outline.intersects(chip):
        return 0.0
    ours = points_along(chip, 60)
    theirs = (
        points_along(place.outline, 3000) if place.outline.area else shapely.get_coordinates(place.outline)
    )
    lon, lat = np.repeat(ours, len(theirs), axis=0).T
    other_lon, other_lat = np.tile(theirs, (len(ours), 1)).T
    metres = EARTH.inv(lon, lat, other_lon, other_lat)[2]
    return max(0.0, float(metres.min()) / 1000 - place.radius_km)


@pytest.mark.parametrize("name", ["potsdam", "pastis", "dynamicearthnet", "bigearthnet"])
def test_distances_are_geodesics_between_points_laid_along_the_outlines(name):
    rng = np.random.default_rng(len(name))
    for place in rng.choice(np.array(benchmarks()[name].places, object), 1):
        middle = place.outline.centroid
        for bearing, km in ((20, 3), (110, 60), (200, 150)):
            lon, lat, _ = EARTH.fwd(middle.x, middle.y, bearing, 1000 * (km + place.radius_km))
            grid = chip_grid(lon, lat, 10.0, 96)
            assert _distance_km(grid, place) == pytest.approx(slow_km(grid, place), abs=0.15, rel=0.002)


def test_the_buffer_decides_and_the_quick_test_on_a_sphere_loses_nothing():
    rng = np.random.default_rng(2)
    places = [(one, place) for one in known(["all"]) for place in one.places]
    for number in rng.choice(len(places), 16):
        benchmark, place = places[number]
        middle = place.outline.centroid
        lon, lat, _ = EARTH.fwd(middle.x, middle.y, rng.uniform(0, 360), rng.uniform(0, 60_000))
        grid = chip_grid(lon, lat, 10.0, 64)
        away = min(
            _distance_km(grid, other) for other in benchmark.places if other.outline.distance(middle) < 5
        )
        for buffer in (max(away - 0.01, 0), away + 0.01):
            matches = near_ground(grid, [benchmark.name], buffer)
            assert [round(match.km, 6) for match in matches] == ([round(away, 6)] if away <= buffer else [])


def test_the_nearest_place_is_told_and_how_well_it_is_known():
    grid = chip_grid(2.35, 48.85, 10.0, 64)
    assert [str(match) for match in near_ground(grid, ["spacenet", "oscd", "potsdam"], 1.0)] == [
        "spacenet 0.0 km (city: Paris)",
        "oscd 0.0 km (city: paris)",
    ]
    assert near_ground(chip_grid(-30.0, 30.0, 10.0, 64), ["all"], 50.0) == []


def test_a_country_is_reported_and_excludes_nothing():
    matches = near_ground(chip_grid(14.0, 47.5, 10.0, 64), ["all"], 1.0)
    assert [str(match) for match in matches] == ["bigearthnet 0.0 km (country: Austria)"]
    assert excluding(matches) is None
    assert excluding(near_ground(chip_grid(8.96, 48.93, 10.0, 64), ["all"], 1.0)).name == "vaihingen"


def test_a_name_that_is_not_known_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"no benchmark is called 'paris'; known are all, potsdam, "):
        near_ground(chip_grid(2.35, 48.85, 10.0, 64), ["paris"], 1.0)


def test_the_table_says_of_each_benchmark_who_says_so_and_how_well_places_are_known():
    raw = json.loads(resources.files("geodata").joinpath("data/benchmarks.json").read_text(encoding="utf-8"))
    assert "GeoNames" in raw["source"] and "Natural Earth" in raw["source"]
    names = [
        "potsdam",
        "loveda",
        "levir_cd",
        "oscd",
        "pastis",
        "bigearthnet",
        "dynamicearthnet",
        "fmow",
        "aid",
        "ucm",
        "dior",
        "dota",
        "fair1m",
        "resisc45",
    ]
    assert set(names) <= set(benchmarks())
    for one in benchmarks().values():
        assert one.source and one.task
        assert bool(one.places) == (one.precision != "unknown")
        for place in one.places:
            assert shapely.is_valid(place.outline) and not place.outline.is_empty
            assert (place.radius_km > 0) == (one.precision == "city")
    sizes = {
        name: len(benchmarks()[name].places) for name in ("dynamicearthnet", "spacenet7", "pastis", "oscd")
    }
    assert sizes == {"dynamicearthnet": 75, "spacenet7": 59, "pastis": 4, "oscd": 22}


def test_sentinel2_tiles_lie_on_their_lattice_and_in_their_band_of_latitude():
    bands = {"U": (48, 56), "T": (40, 48)}
    for place in benchmarks()["pastis"].places:
        south, north = bands[place.name[3]]
        _, low, _, high = place.outline.bounds
        assert south - 1 < low < high < north + 1
        zone = int(place.name[1:3])
        assert zone == int((place.outline.centroid.x + 180) // 6) + 1
        x, y = Transformer.from_crs(4326, 32600 + zone, always_xy=True).transform(
            *place.outline.exterior.coords.xy
        )
        assert min(x) % 60 == pytest.approx(0, abs=1e-3) or min(x) % 60 == pytest.approx(60, abs=1e-3)
        assert max(y) % 60 == pytest.approx(0, abs=1e-3) or max(y) % 60 == pytest.approx(60, abs=1e-3)
        assert (max(x) - min(x), max(y) - min(y)) == pytest.approx((109_800, 109_800), abs=0.01)


def test_map_tiles_are_where_their_labels_say():
    """Files of this cube are called 10N-122W-40N by the archive itself: zone, longitude and latitude."""
    (place,) = [one for one in benchmarks()["dynamicearthnet"].places if one.name == "1311_3077_13"]
    west, south, east, north = place.outline.bounds
    assert -123 < west < east < -122 and 40 < south < north < 41
    assert EARTH.inv(west, south, east, south)[2] == pytest.approx(
        40_075_017 / 8192 * math.cos(math.radians(40.8)), rel=0.01
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng = np.random.default_rng(8)
    root = tmp_path_factory.mktemp("aid")
    for name in ("park/1.png", "park/2.png", "port/1.png"):
        (root / name).parent.mkdir(exist_ok=True)
        small = Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8))
        small.resize((96, 96), Image.Resampling.BICUBIC).save(root / name)
    return root


def test_a_picture_of_a_folder_is_recognised_after_recompression(folder, tmp_path):
    copy = tmp_path / "copy.jpg"
    Image.open(folder / "park/2.png").resize((80, 80)).save(copy, quality=70)
    ours = perceptual(Image.open(copy))
    (match,) = same_pictures([None, ours], [str(folder)], 8)
    assert (match.name, match.place) == (folder.name, "park/2.png")
    assert match.bits == (perceptual(Image.open(folder / "park/2.png")) ^ ours).bit_count()
    assert str(match) == f"{folder.name} park/2.png {match.bits} bits"
    assert excluding([match]) == match
    assert same_pictures([0x0123456789ABCDEF], [str(folder)], 4) == []
    assert same_pictures([None], [str(folder)], 8) == []


def test_a_folder_that_is_not_there_or_empty_is_named(tmp_path):
    with pytest.raises(Missing, match=r"nowhere, against whose pictures .* is no folder; check `images`"):
        same_pictures([1], [str(tmp_path / "nowhere")], 6)
    (tmp_path / "broken.jpg").write_bytes(b"no")
    with pytest.raises(Missing, match=r"holds no picture that opens \(1 do not\)"):
        same_pictures([1], [str(tmp_path)], 6)


def test_matches_are_words_for_a_column():
    assert str(Match("pastis", "tile", "T31TFM", km=0.64)) == "pastis 0.6 km (tile: T31TFM)"


def test_a_spec_that_names_an_unknown_benchmark_is_refused_when_it_is_written():
    assert ContaminationSpec(benchmarks=("all",)).benchmarks == ("all",)
    with pytest.raises(ValueError, match="no benchmark is called 'potsdamm'"):
        ContaminationSpec(benchmarks=("potsdam", "potsdamm"))
