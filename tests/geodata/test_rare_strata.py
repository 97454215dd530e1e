"""Maps that know where their classes lie: cells, and draws from them, against nested loops, geodesics and tables."""

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import Geod

from geodata.continents import NAMES, codes, polygons
from geodata.corpus import load_spec, rsrsd_5m, rsrsd_100k, smoke, with_landcover
from geodata.errors import Missing
from geodata.landcover import ESRI_2020, STRATA, raster
from geodata.overrides import overridden
from geodata.sampling import OUTCOMES, more, plan, quotas
from geodata.sites import BOXES, _Boxes

SPHERE = Geod(a=6_371_007.2, b=6_371_007.2)
STEP = 2.0
RARE = ((40, 100), (41, 7), (30, 93), (20, 60), (60, 120), (52, 31), (44, 170), (33, 111), (25, 80), (48, 3))
"""Rows and columns of the ten cells of two degrees that are built up."""


def world(path, codes_, step=STEP, **options):
    rows, cols = codes_.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=rows,
        width=cols,
        dtype=codes_.dtype,
        crs="EPSG:4326",
        transform=Affine(step, 0, -180, 0, -step, 90),
        **options,
    ) as file:
        file.write(codes_, 1)
    return str(path)


def painted():
    """Trees over all, water in stripes, crops in blocks, wetland here and there, ten cells built."""
    codes_ = np.full((90, 180), 2, np.uint8)
    codes_[:, ::5] = 1
    codes_[10:80:7] = 5
    codes_[3::11, 4::13] = 4
    for row, col in RARE:
        codes_[row, col] = 7
    return codes_


@pytest.fixture(scope="module")
def cover(tmp_path_factory):
    return raster(world(tmp_path_factory.mktemp("cover") / "cover.tif", painted()), "esri_2020")


def tiles(count=400, **changes):
    """Everywhere, as tile chips of 0.6 to 10 m."""
    texts = [
        "regions.kind=everywhere",
        "chip.kind=tiles",
        "chip.gsd_range=[0.6, 10.0]",
        "sensors.0.gsd=null",
        f"quotas.count={count}",
        *(f"{key.replace('__', '.')}={value}" for key, value in changes.items()),
    ]
    alone = smoke().model_copy(update={"sensors": smoke().sensors[:1]})
    return overridden(alone, texts)


def ids(found, **where):
    return [c.chip_id for c in found.chips if all(getattr(c, key) == value for key, value in where.items())]


def test_cells_are_the_pixels_of_their_class_by_a_nested_loop(cover):
    cells = cover.index(["urban", "wetland"])
    codes_ = painted()
    for stratum, code in (("urban", 7), ("wetland", 4)):
        expected = {
            (-180 + col * STEP, 90 - (row + 1) * STEP, -180 + (col + 1) * STEP, 90 - row * STEP)
            for row in range(90)
            for col in range(180)
            if codes_[row, col] == code
        }
        assert {tuple(box) for box in cells.of(stratum).tolist()} == expected
    assert len(cells.of("forest")) == 0  # not asked for


def test_cells_of_a_finer_map_hold_several_pixels_and_miss_none(tmp_path, monkeypatch):
    codes_ = np.random.default_rng(0).choice([2, 2, 2, 2, 7, 0], (67, 131)).astype(np.uint8)
    path = world(tmp_path / "fine.tif", codes_, step=0.5, nodata=0)
    monkeypatch.setattr("geodata.landcover._CELLS", 500)
    cells = raster(path, "esri_2020").index(["urban", "forest"])
    assert 100 < len(cells.boxes) <= 18 * 33
    for row in range(67):
        for col in range(131):
            if codes_[row, col]:
                lon, lat = -180 + (col + 0.5) * 0.5, 90 - (row + 0.5) * 0.5
                west, south, east, north = cells.of("urban" if codes_[row, col] == 7 else "forest").T
                assert ((west < lon) & (lon < east) & (south < lat) & (lat < north)).sum() == 1
    west, south, east, north = cells.boxes.T
    assert east.max() == -180 + 131 * 0.5
    assert south.min() == 90 - 67 * 0.5


def test_maps_that_cannot_tell_have_no_index(tmp_path, monkeypatch, cover):
    path = tmp_path / "utm.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=4,
        width=4,
        dtype="uint8",
        crs="EPSG:32633",
        transform=Affine(10, 0, 600000, 0, -10, 5300040),
    ) as file:
        file.write(np.full((1, 4, 4), 2, np.uint8))
    assert raster(str(path), "esri_2020").index(["forest"]) is None
    monkeypatch.setattr("geodata.landcover._WHOLE", 100)
    fresh = raster(cover.path, "esri_2020")
    assert fresh.index(["forest"]) is None
    lon, lat = np.random.default_rng(0).uniform(-90, 90, (2, 500))
    np.testing.assert_array_equal(fresh.at(lon, lat), cover.at(lon, lat))


def test_boxes_have_the_area_of_geodesic_polygons_and_are_drawn_by_it():
    boxes = np.array([[0.0, 0.0, 2.0, 2.0], [10.0, 60.0, 12.0, 62.0], [-150.0, -31.0, -146.0, -30.0]])
    drawn = _Boxes(boxes)
    areas = []
    for west, south, east, north in boxes:
        along = np.linspace(west, east, 400)
        lon = [*along, *along[::-1]]
        lat = [south] * 400 + [north] * 400
        areas.append(abs(SPHERE.polygon_area_perimeter(lon, lat)[0]))
    globe = 4 * np.pi * 6_371_007.2**2
    assert drawn.extent == pytest.approx(sum(areas) / globe, rel=1e-5)
    lon, lat = drawn.points(np.random.default_rng(0).random((60_000, 4)))
    inside = [((lon >= w) & (lon <= e) & (lat >= s) & (lat <= n)).mean() for w, s, e, n in boxes]
    assert sum(inside) == pytest.approx(1)
    assert inside == pytest.approx(np.array(areas) / sum(areas), abs=0.01)


def test_points_of_a_rare_stratum_are_even_over_its_cells(cover):
    """Chi-square over the ten built-up cells, expected by area; and of longitudes within them."""
    found = plan(tiles(3000, quotas__shares='{"urban": 1.0}'), cover)
    assert not found.shortfalls
    lon, lat = (np.array([getattr(chip, name) for chip in found.chips]) for name in ("lon", "lat"))
    col, row = ((lon + 180) // STEP).astype(int), ((90 - lat) // STEP).astype(int)
    counts = np.array([((row == r) & (col == c)).sum() for r, c in RARE])
    assert counts.sum() == 3000
    heights = np.array([np.sin(np.radians(90 - r * 2)) - np.sin(np.radians(88 - r * 2)) for r, _ in RARE])
    expected = 3000 * heights / heights.sum()
    assert (
        (counts - expected) ** 2 / expected
    ).sum() < 27.88  # 99.9 % of chi-square with 9 degrees of freedom
    within = np.histogram((lon + 180) % STEP, 10, (0, STEP))[0]
    assert ((within - 300) ** 2 / 300).sum() < 27.88


def test_quotas_are_exact_and_few_candidates_are_wasted(cover):
    found = plan(tiles(500), cover)
    assert found.counts("stratum") == {
        "urban": 300,
        "farmland": 50,
        "wetland": 50,
        "forest": 50,
        "watershed": 50,
    }
    tally = found.candidates["everywhere"]
    assert set(tally) == set(OUTCOMES)
    assert sum(tally.values()) < 1500  # ten cells of 16,200: by rejection 300 would need half a million
    for chip in found.chips:
        code = cover.at(np.array([chip.lon]), np.array([chip.lat]))[0]
        assert ESRI_2020.strata[int(code)] == chip.stratum


def by_cell(found):
    """Ids by region of the quota and stratum, in order."""
    groups = {}
    for place, key in enumerate(zip(found.columns["cell"], found.columns["stratum"], strict=True)):
        groups.setdefault(key, []).append(found.chip_id(place))
    return groups


@pytest.mark.parametrize("change", [{"batch": 1 << 20}, {"batch": 17}, {"workers": 2}, {"workers": 8}])
def test_neither_batch_nor_workers_change_the_plan(cover, change):
    spec = tiles(120)
    assert plan(spec, cover, **change) == plan(spec, cover)


def test_a_small_plan_begins_the_large_one_and_replacements_continue_it(cover):
    one, two = plan(tiles(400), cover), plan(tiles(800), cover)
    for stratum in one.counts("stratum"):
        first = ids(one, stratum=stratum)
        assert ids(two, stratum=stratum)[: len(first)] == first
    lost = ids(one, stratum="urban")[:40]
    grown = more(one, tiles(400), cover, lost)
    assert len(grown) == 440
    assert ids(grown, stratum="urban") == ids(two, stratum="urban")[:280]
    assert more(grown, tiles(400), cover, lost) == grown


def test_shares_and_weights_are_those_of_the_area_by_a_nested_loop(cover):
    found = plan(tiles(4000), cover)
    codes_, area = painted(), {}
    for row in range(90):
        high = np.sin(np.radians(90 - row * STEP)) - np.sin(np.radians(88 - row * STEP))
        for code in codes_[row]:
            stratum = ESRI_2020.strata[int(code)]
            area[stratum] = area.get(stratum, 0.0) + high / 2 * STEP / 360
    shares = found.shares["everywhere"]
    for stratum in ("urban", "wetland"):
        assert shares[stratum] == pytest.approx(area[stratum], rel=0.02)
    assert shares["forest"] == pytest.approx(area["forest"], rel=0.02)
    weights = {chip.stratum: chip.weight for chip in found.chips}
    assert weights["forest"] / weights["urban"] == pytest.approx(
        area["forest"] / 0.1 / (area["urban"] / 0.6), rel=0.03
    )


def test_what_a_map_lacks_is_short_at_once_and_what_is_full_is_short_in_the_end(cover):
    spec = tiles(100, quotas__fixed='{"ice": 5}')
    (short,) = plan(spec, cover).shortfalls
    assert (short.stratum, short.wanted, short.found, short.candidates) == ("ice", 5, 0, 0)
    crowded = tiles(
        9000,
        chip__gsd_range="[150.0, 150.0]",
        split__block_m=200000.0,
        tries=20,
        quotas__shares='{"urban": 1.0}',
    )
    found = plan(crowded, cover)
    (short,) = found.shortfalls
    assert short.found == len(found) == len(set(ids(found))) < 2000
    assert short.candidates == 180_000
    assert found.candidates["everywhere"]["taken"] > 100_000


def test_points_at_the_poles_are_counted_and_none_becomes_a_chip(tmp_path):
    ice = raster(world(tmp_path / "ice.tif", np.full((90, 180), 9, np.uint8)), "esri_2020")
    spec = tiles(2000, quotas__shares='{"ice": 1.0}')
    found = plan(spec, ice)
    beyond = 1 - np.sin(np.radians(85.0511))  # of the sphere's area, both caps
    seen = sum(found.candidates["everywhere"].values())
    assert found.candidates["everywhere"]["zone edge"] == pytest.approx(
        seen * beyond, abs=4 * (seen * beyond) ** 0.5
    )
    assert max(abs(chip.lat) for chip in found.chips) < 85.06


def test_utm_chips_are_drawn_from_cells_too(cover):
    spec = overridden(smoke(), ["regions.kind=everywhere", "quotas.count=300"])
    found = plan(spec, cover)
    assert found.counts("stratum")["urban"] == 180
    assert found.chips[0].grid.on_lattice(60.0)
    assert plan(spec, cover, batch=50) == found
    assert sum(found.candidates["everywhere"].values()) < 1500


def test_an_area_in_degrees_cuts_the_cells_to_itself(cover):
    row, col = RARE[0]
    west, north = -180 + col * STEP, 90 - row * STEP
    bounds = [west + 0.5, north - 1.5, west + 1.5, north + 3.0]
    spec = tiles(
        50, regions__kind="area", regions__name="a", regions__bounds=bounds, quotas__shares='{"urban": 1.0}'
    )
    found = plan(spec, cover)
    assert len(found) == 50
    assert all(bounds[0] <= c.lon <= bounds[2] and north - 1.5 <= c.lat <= north for c in found.chips)
    assert sum(found.candidates["a"].values()) < 70


def test_fixed_counts_are_shared_out_by_area_over_continents_that_have_the_class(tmp_path):
    """Two fields of desert, in Australia and in Africa, the second three times the first."""
    codes_ = np.full((90, 180), 2, np.uint8)
    codes_[56:58, 152:154] = 8  # 124 to 128 E, 22 to 26 S
    codes_[32:34, 92:98] = 8  # 4 to 16 E, 22 to 26 N
    cover = raster(world(tmp_path / "desert.tif", codes_), "esri_2020")
    alone = smoke().model_copy(update={"sensors": smoke().sensors[:1]})
    texts = [
        "chip.kind=tiles",
        "sensors.0.gsd=null",
        "quotas.count=0",
        "quotas.shares={}",
        'quotas.fixed={"desert": 1000}',
    ]
    found = plan(overridden(alone, texts), cover)
    assert quotas(overridden(alone, texts)) == {"anywhere": {"desert": 1000}}
    counts = found.counts("region")
    assert set(counts) == {"africa", "oceania"}
    assert counts["africa"] == pytest.approx(750, abs=3.3 * (1000 * 0.75 * 0.25) ** 0.5)
    assert set(found.counts("cell")) == {"anywhere"}


def test_water_lies_on_land_or_near_its_coast_when_asked(tmp_path):
    sea = raster(world(tmp_path / "sea.tif", np.full((90, 180), 1, np.uint8)), "esri_2020")
    free = plan(tiles(600, quotas__shares='{"watershed": 1.0}'), sea)
    near = plan(tiles(600, quotas__shares='{"watershed": 1.0}', inland_km=5.0), sea)
    on_land = [codes(chip.lon, chip.lat, outlines="fine") >= 0 for chip in free.chips]
    assert 0.2 < np.mean(on_land) < 0.4
    assert near.candidates["everywhere"]["outside"] > 300
    off = [chip for chip in near.chips if codes(chip.lon, chip.lat, outlines="fine") < 0]
    assert 5 < len(off) < 100
    coast = shapely.get_coordinates(
        [shapely.segmentize(shapely.boundary(polygons(name, "fine")), 0.02) for name in NAMES]
    )
    for chip in off:
        close = np.abs(coast[:, 1] - chip.lat) < 0.1
        lon, lat = coast[close].T
        count = len(lon)
        _, _, metres = SPHERE.inv([chip.lon] * count, [chip.lat] * count, lon, lat)
        assert min(metres) < 5_150


@pytest.mark.slow
def test_continents_take_the_sea_at_their_coast_for_water_alone(tmp_path):
    codes_ = np.full((900, 1800), 2, np.uint8)
    codes_[::2] = 1
    cover = raster(world(tmp_path / "half.tif", codes_, step=0.2), "esri_2020")
    alone = smoke().model_copy(update={"sensors": smoke().sensors[:1]})
    texts = [
        "chip.kind=tiles",
        "sensors.0.gsd=null",
        "quotas.count=600",
        'quotas.shares={"watershed": 0.5, "forest": 0.5}',
    ]
    texts += ["regions.outlines=fine", "inland_km=5.0", 'regions.weights={"oceania": 1.0, "europe": 1.0}']
    found = plan(overridden(alone, texts), cover)
    assert not found.shortfalls
    at_sea = {"watershed": 0, "forest": 0}
    for chip in found.chips:
        west, _, east, _ = BOXES[chip.region]
        assert (chip.lon - west) % 360 <= east - west + 2
        at_sea[chip.stratum] += int(codes(chip.lon, chip.lat, outlines="fine") < 0)
    assert at_sea["forest"] == 0
    assert at_sea["watershed"] > 3


def test_a_map_with_a_code_outside_its_table_is_one_sentence(tmp_path):
    codes_ = painted()
    codes_[3, 3] = 77
    with pytest.raises(ValueError, match=r"holds code 77, but table esri_2020 has only 1, 2") as caught:
        plan(tiles(), raster(world(tmp_path / "odd.tif", codes_), "esri_2020"))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_hundred_thousand_are_among_the_five_million(tmp_path):
    """At a hundredth of both, on a map that has every class on every continent."""
    codes_ = np.random.default_rng(5).integers(1, 11, (180, 360)).astype(np.uint8)
    path = world(tmp_path / "mixed.tif", codes_, step=1.0)
    whole, part = (with_landcover(make(), path, "esri_2020") for make in (rsrsd_5m, rsrsd_100k))
    assert whole.place_id == part.place_id
    assert whole.quotas.total == 4_686_059
    assert part.quotas.total == 100_000
    fixed = '{"desert": %d, "ice": %d, "grassland": %d, "cloud": %d}'
    whole = overridden(whole, ["quotas.count=8000", f"quotas.fixed={fixed % (40, 40, 40, 40)}"])
    part = overridden(part, ["quotas.count=800", f"quotas.fixed={fixed % (4, 4, 4, 4)}"])
    large, small = plan(whole, whole.landcover.open()), plan(part, part.landcover.open())
    assert (len(large), len(small)) == (8160, 816)
    few, many = by_cell(small), by_cell(large)
    assert set(few) <= set(many)
    for cell, names in few.items():
        assert many[cell][: len(names)] == names
    assert sum(len(names) for names in few.values()) == 816


def test_another_map_is_a_path_and_the_name_of_its_table(tmp_path):
    path = world(tmp_path / "cover.tif", painted())
    with pytest.raises(
        ValueError, match=r"codes 1, 2, 4, 5, 7, which do not say.*esri_2020, esri_series"
    ) as caught:
        with_landcover(rsrsd_5m(), path)
    assert "\n" not in str(caught.value)
    spec = with_landcover(rsrsd_5m(), path, "esri_2020")
    assert spec.landcover.options == {"path": path, "table": "esri_2020"}
    assert spec.quotas == rsrsd_5m().quotas
    with pytest.raises(ValueError, match="no class table is called 'esri'"):
        with_landcover(rsrsd_5m(), path, "esri")
    with pytest.raises(Missing, match="does not open"):
        with_landcover(rsrsd_5m(), tmp_path / "none.tif")
    exact = np.resize(np.array([10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100], np.uint8), (30, 60))
    told = with_landcover(rsrsd_5m(), world(tmp_path / "told.tif", exact, step=6.0))
    assert told.landcover.options["table"] == "worldcover"
    counting = np.resize(np.arange(1, 10, dtype=np.uint8), (30, 60))
    with pytest.raises(ValueError, match="name its table"):
        with_landcover(rsrsd_5m(), world(tmp_path / "nine.tif", counting, step=6.0))


@pytest.mark.slow
@pytest.mark.real
def test_the_world_in_twenty_classes_tells_its_table_and_gives_every_stratum_but_clouds(shared_data):
    path = shared_data / "landcover_glcnmo2008_third_degree" / "cover.tif"
    spec = with_landcover(load_spec("rsrsd_5m", ["quotas.count=20000"]), path)
    assert spec.landcover.options["table"] == "glcnmo_2008"
    cover = spec.landcover.open()
    found = plan(spec, cover)
    assert [(short.region, short.stratum) for short in found.shortfalls] == [("anywhere", "cloud")]
    assert found.counts("stratum")["urban"] == 12_000
    with rasterio.open(path) as file:
        pixels = file.read(1)
        table = cover.classes.strata
        for chip in found.chips[:2000]:
            row, col = file.index(chip.lon, chip.lat)
            assert table[int(pixels[row, col])] == chip.stratum
    names = {STRATA.index(name) for name in ("urban", "wetland")}
    assert names <= set(found.columns["stratum"].tolist())
