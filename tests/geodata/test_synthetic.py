"""The synthetic Earth: one world for all grids, zones, GSDs and sensors, and a plausible one."""

import datetime
import math
from itertools import pairwise

import numpy as np
import pytest
import rasterio.features

from geodata.earth import ground, msi, radar, sky, spectra
from geodata.earth.noise import bell, hashed, noise, unit
from geodata.errors import Missing
from geodata.grid import Grid, chip_grid, project, unproject
from geodata.landcover import ESRI_2020
from geodata.source import Address, Period
from geodata.sources import synthetic

YEAR = Period.from_text("2020-01-01/2021-01-01")
SUMMER = datetime.date(2020, 6, 20)
BANDS = synthetic.SENTINEL2_L1C.band_names


def spot(code, south, north, west=-10.0, east=40.0, seed=0, pure=0.0, gsd=10.0, size=64):
    """A chip around a point of a class, at least `pure` of it that class."""
    rng = np.random.default_rng(code)
    for _ in range(30):
        lon, lat = rng.uniform(west, east, 3000), rng.uniform(south, north, 3000)
        for place in np.flatnonzero(ground.classes_at(lon, lat, seed) == code)[:25]:
            grid = chip_grid(lon[place], lat[place], gsd, size)
            if (ground.survey(grid, seed).codes == code).mean() >= pure:
                return grid
    raise AssertionError(f"no chip of class {code}")


SOURCES = {
    "l1c": synthetic.sentinel2(level="l1c"),
    "l2a": synthetic.sentinel2(level="l2a"),
    "ten": synthetic.sentinel2(),
    "s1": synthetic.sentinel1(),
    "optical": synthetic.optical(),
}


@pytest.fixture(scope="module")
def town():
    return spot(ground.BUILT, 44, 54, pure=0.5)


# ---- one world


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("window", [(0, 0, 31, 17), (5, 11, 40, 50), (-7, -9, 30, 30)])
def test_any_two_grids_agree_on_the_pixels_they_share(name, window, town):
    source = SOURCES[name]
    row, col, height, width = window
    whole = town.pad(12)
    scene = source.search(town, YEAR)[9]
    ground.survey.cache_clear()
    spectra.skin.cache_clear()
    one, part = source.read(scene, whole), source.read(scene, town.crop(row, col, height, width))
    rows, cols = slice(12 + row, 12 + row + height), slice(12 + col, 12 + col + width)
    assert np.array_equal(part.values, one.values[:, rows, cols])
    if one.scl is not None:
        assert np.array_equal(part.scl, one.scl[rows, cols])


@pytest.mark.parametrize("gsd", [0.3125, 0.6, 1.25, 5.0])
def test_optical_tiles_agree_at_every_gsd(gsd, town):
    source = synthetic.optical()
    x, y = town.origin
    whole = Grid(town.epsg, (gsd, 0, x, 0, -gsd, y), 60, 60)
    scene = source.search(whole, YEAR)[3]
    part = source.read(scene, whole.crop(13, 7, 30, 41))
    assert np.array_equal(part.values, source.read(scene, whole).values[:, 13:43, 7:48])


def test_another_seed_is_another_earth(town):
    one, two = (ground.survey(town, seed).codes for seed in (0, 1))
    assert (one != two).mean() > 0.1


def test_neighbouring_zones_show_the_same_classes():
    lon, lat = 12.0, 47.3  # between zones 32 and 33
    west, east = (chip_grid(lon, lat, 10.0, 200, epsg=epsg) for epsg in (32632, 32633))
    codes = ground.survey(west, 0).codes
    x, y = np.meshgrid(*west.xy())
    x, y = project(*unproject(x, y, west.epsg), east.epsg)
    col, row = (x - east.origin[0]) / 10, (east.origin[1] - y) / 10
    near = 0.05  # compare where a pixel of one has its centre on the centre of one of the other
    inside = (col > 0) & (row > 0) & (col < 200) & (row < 200)
    centred = inside & (np.hypot(col % 1 - 0.5, row % 1 - 0.5) < near)
    assert centred.sum() > 50
    other = ground.survey(east, 0).codes[row[centred].astype(int), col[centred].astype(int)]
    assert (other == codes[centred]).mean() > 0.99
    fine = chip_grid(lon, lat, 10.0, 60, epsg=32632)
    assert (
        ground.classes_at(*(a.ravel() for a in fine.lonlat()), 0) == ground.survey(fine, 0).codes.ravel()
    ).mean() > 0.997


def test_a_coarse_pixel_has_the_class_of_the_fine_one_at_its_middle(town):
    coarse = ground.survey(town, 0).codes
    odd = Grid(
        town.epsg, (2.0, 0, town.origin[0], 0, -2.0, town.origin[1]), 320, 320
    )  # five by five: a middle pixel
    assert np.array_equal(ground.survey(odd, 0).codes[2::5, 2::5], coarse)


def test_coarse_reflectance_is_the_mean_of_its_ground(town):
    scene = SOURCES["l1c"].search(town, YEAR)[9]
    values = SOURCES["l1c"].read(scene, town).values
    for band, step in (("B05", 2), ("B11", 2)):
        layer = values[BANDS.index(band)]
        assert np.array_equal(layer, layer[::step, ::step].repeat(step, 0).repeat(step, 1))
    layer = values[BANDS.index("B01"), :60, :60]
    assert np.array_equal(layer, layer[::6, ::6].repeat(6, 0).repeat(6, 1))
    moved = town.crop(1, 2, 40, 40)  # off the 20 m and 60 m lattice
    assert np.array_equal(SOURCES["l1c"].read(scene, moved).values, values[:, 1:41, 2:42])


def test_a_large_grid_is_made_of_pieces_that_fit(monkeypatch, town):
    sources = {"landcover": synthetic.landcover(), **SOURCES}
    wholes, parts = {}, {}
    for found in (wholes, parts):
        for name, source in sources.items():
            arguments = () if name == "landcover" else (source.search(town, YEAR)[9],)
            found[name] = source.read(*arguments, town).values
        monkeypatch.setattr(synthetic, "_PIECE", 25)
    assert all(np.array_equal(wholes[name], parts[name]) for name in sources)


def test_a_coarser_grid_is_resampled_and_says_so(town):
    source = SOURCES["ten"]
    scene = source.search(town, YEAR)[9]
    assert source.read(scene, town.at(20.0)).resampled
    fine = source.read(scene, town.crop(0, 0, 4, 4).at(5.0))
    assert not fine.resampled
    assert np.array_equal(fine.values[:, ::2, ::2], source.read(scene, town).values[:, :4, :4])


def test_both_sides_of_the_antimeridian_and_the_equator_have_data():
    for lon, lat in ((179.999, -16.5), (-179.999, 67.0), (37.0, 0.0005)):
        grid = chip_grid(lon, lat, 10.0, 32)
        assert ground.survey(grid, 0).codes.min() >= 1
        x, y = np.meshgrid(*grid.xy())
        there = ground.survey(grid, 0)
        lons, lats = unproject(x, y, grid.epsg)
        assert np.allclose((there.lon - lons + 180) % 360 - 180, 0, atol=1e-7)
        assert np.allclose(there.lat, lats, atol=1e-7)


def test_beyond_utm_is_missing():
    grid = Grid(32633, (10.0, 0, 500_000.0, 0, -10.0, 9_500_040.0), 8, 8)
    for source in SOURCES.values():
        with pytest.raises(Missing, match="80 S to 84 N"):
            source.search(grid, YEAR)
    with pytest.raises(Missing, match="80 S to 84 N"):
        synthetic.landcover().read(grid)


# ---- the map


def test_the_map_answers_at_points_and_on_grids():
    landcover = Address(call="sources.synthetic.landcover").open()
    assert landcover.classes is ESRI_2020
    grid = chip_grid(8.5, 49.0, 10.0, 40)
    raster = landcover.read(grid)
    assert raster.values.dtype == np.uint8
    assert raster.valid.all()
    lon, lat = (axis.ravel() for axis in grid.lonlat())
    assert (landcover.at(lon, lat).reshape(40, 40) == raster.values[0]).mean() > 0.99
    assert landcover.at(np.array([np.nan, 8.5]), np.array([1.0, np.inf])).tolist() == [255, 255]
    raster.values[:] = 0
    assert landcover.read(grid).values.all()


def test_every_class_exists_and_climates_are_where_they_belong():
    rng = np.random.default_rng(1)
    lon, lat = rng.uniform(-180, 180, 60_000), np.degrees(np.arcsin(rng.uniform(-0.93, 0.99, 60_000)))
    codes = ground.classes_at(lon, lat, 0)
    assert set(np.unique(codes)) == set(range(1, 11))
    land = ground.continents.codes(lon, lat) >= 0

    def share(code, low, high):
        here = land & (np.abs(lat) >= low) & (np.abs(lat) < high)
        return (codes[here] == code).mean()

    assert share(ground.BARE, 20, 30) > 0.25 > 5 * share(ground.BARE, 0, 10)
    assert share(ground.TREES, 0, 10) > 0.4 > 2 * share(ground.TREES, 20, 30)
    assert share(ground.ICE, 75, 83) > 0.4
    assert share(ground.ICE, 0, 40) < 0.01
    assert share(ground.CROPS, 38, 52) > 0.15 > 3 * share(ground.CROPS, 66, 80)
    assert 0.02 < share(ground.BUILT, 0, 60) < 0.12
    assert 0.005 < share(ground.WETLAND, 0, 70) < 0.08
    assert 0.002 < share(ground.CLOUDS, 0, 90) < 0.04
    assert (codes[~land & (np.abs(lat) < 60)] == ground.WATER).mean() > 0.9
    assert 0.01 < share(ground.WATER, 0, 70) < 0.08


def test_classes_come_in_patches(town):
    codes = ground.survey(town, 0).codes
    assert (codes[:, 1:] == codes[:, :-1]).mean() > 0.95


# ---- Sentinel-2


@pytest.mark.parametrize("level", ["l1c", "l2a", "ten"])
def test_scenes_come_every_five_days_and_say_what_they_are(level, town):
    source = Address(call="sources.synthetic.sentinel2", options={"level": level}).open()
    scenes = source.search(town, YEAR)
    assert {(b.date - a.date).days for a, b in pairwise(scenes)} == {5}
    assert all(scene.get("offset_applied_by") == "source" for scene in scenes)
    assert all(0 <= scene.get("cloud") <= 1 for scene in scenes)
    raster = source.read(scenes[0], town)
    assert raster.bands == source.sensor.band_names
    assert raster.values.min() >= 1


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match="choose l1c, l2a, ten"):
        synthetic.sentinel2(level="l3")


def test_some_scenes_are_clear_and_some_overcast(town):
    source = SOURCES["ten"]
    told = np.array([scene.get("cloud") for scene in source.search(town, YEAR)])
    assert (told < 0.1).mean() > 0.2
    assert (told > 0.6).mean() > 0.1
    scenes = source.search(town, YEAR)[::3]
    seen = np.array([source.read(scene, town).share("cloud") for scene in scenes])
    assert (seen < 0.1).mean() > 0.25
    assert np.corrcoef(seen, told[::3])[0, 1] > 0.2


def test_scene_classes_fit_what_is_seen():
    source = SOURCES["ten"]
    found = {}
    for code, band in ((ground.CROPS, (44, 54)), (ground.WATER, (44, 54))):
        grid = spot(code, *band)
        for scene in source.search(grid, YEAR)[::4]:
            raster = source.read(scene, grid)
            for scl in np.unique(raster.scl):
                found.setdefault(int(scl), []).append(raster.values[:, raster.scl == scl].mean(axis=1))
    mean = {scl: np.mean(values, axis=0) for scl, values in found.items()}
    blue, red, near = (source.sensor.band_names.index(band) for band in ("B02", "B04", "B08"))
    assert {3, 4, 5, 6, 8, 9} <= set(mean)
    assert mean[9][blue] > 4000 > mean[4][blue]
    assert mean[8][blue] > mean[4][blue]
    assert mean[3][near] < 0.8 * mean[4][near]
    assert mean[6][near] < 800

    def index(scl):
        return (mean[scl][near] - mean[scl][red]) / (mean[scl][near] + mean[scl][red])

    assert index(4) > 0.5 > index(5) > index(6)


def greenest(grid, months=range(1, 13)):
    """NDVI of the clear ground by month, without sky."""
    skin = spectra.skin(grid, 0)
    values = [spectra.reflectance(skin, 30 * month - 15, ("B04", "B08")) for month in months]
    return np.array([((near - red) / (near + red)).mean() for red, near in values])


@pytest.mark.parametrize("code", [ground.TREES, ground.GRASS, ground.CROPS])
def test_the_year_runs_the_other_way_round_in_the_south(code):
    north, south = greenest(spot(code, 40, 50, pure=0.6)), greenest(spot(code, -50, -38, -75, -60, pure=0.6))
    assert north[4:9].mean() > north[[10, 11, 0, 1]].mean() + 0.05
    assert south[[10, 11, 0, 1]].mean() > south[4:9].mean() + 0.05


def test_the_tropics_have_hardly_a_season():
    tropics, north = (
        greenest(spot(ground.TREES, -4, 4, 10, 28, pure=0.8)),
        greenest(spot(ground.TREES, 42, 48, pure=0.8)),
    )
    assert np.ptp(tropics) < 0.4 * np.ptp(north)


def test_crops_that_look_alike_on_a_day_differ_over_the_year():
    curves, days = {}, range(90, 280, 10)
    grid = spot(ground.CROPS, 46, 52, pure=0.8)
    skin = spectra.skin(grid.pad(60), 0)
    for kind in np.unique(skin.kind[skin.kind > 10]):
        red, near = np.array([spectra.reflectance(skin, day, ("B04", "B08")) for day in days]).swapaxes(0, 1)
        index = (near - red) / (near + red)
        curves[int(kind)] = (index[:, skin.kind == kind].mean(1), index[:, skin.kind == kind].std(1).mean())
    assert len(curves) >= 4
    pairs = [(a, b) for a in curves for b in curves if a < b]
    apart = [np.abs(curves[a][0] - curves[b][0]) for a, b in pairs]
    assert all(gap.max() > 0.15 for gap in apart)
    assert sum(gap.min() < 0.05 for gap in apart) > len(pairs) / 2


def test_regions_tint_their_covers():
    colours = []
    for west in (-120, -60, 20, 80):
        skin = spectra.skin(spot(ground.TREES, -10, 12, west, west + 40, pure=0.7), 0)
        values = spectra.reflectance(skin, 170, ("B03", "B08", "B11"))[:, skin.kind == ground.TREES]
        colours.append(values.mean(axis=1))
    assert (np.ptp(colours, axis=0) / np.mean(colours, axis=0)).max() > 0.05


def test_the_air_brightens_blue_and_takes_out_the_cirrus_band(town):
    scene = SOURCES["l1c"].search(town, YEAR)[9]
    above = SOURCES["l1c"].read(scene, town).values
    below = SOURCES["l2a"].read(scene, town).values
    clear = SOURCES["l2a"].read(scene, town).scl < 8
    if clear.any():
        assert above[BANDS.index("B01")][clear].mean() > below[0][clear].mean()
    dark = msi.sentinel2(town, SUMMER, 0, ("B10", "B04"), top_of_atmosphere=True)[0]
    assert np.median(dark[0]) < 0.5 * np.median(dark[1])


def test_shadows_fall_away_from_the_sun():
    height, east, north = sky.sun(np.array([50.0, -40.0, 0.0]), SUMMER)
    assert east.min() > 0
    assert north[0] < 0 < north[1]
    assert height[0] > height[1] > 0
    noon = math.sin(math.radians(90 - 50 + 23.44))
    assert 0.8 * noon < height[0] < noon


# ---- Sentinel-1


def test_speckle_is_gamma_with_the_stated_looks():
    key = hashed(3, np.arange(200)[:, None], np.arange(500))
    power = 10 ** (radar.speckle(key).astype(float) / 10)
    assert power.mean() == pytest.approx(1.0, abs=0.01)
    assert power.mean() ** 2 / power.var() == pytest.approx(radar.ENL, rel=0.03)
    rng = np.random.default_rng(0)
    drawn = rng.gamma(radar.ENL, 1 / radar.ENL, key.shape)
    quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
    assert np.quantile(power, quantiles) == pytest.approx(np.quantile(drawn, quantiles), rel=0.02)


def test_a_radar_image_shows_the_looks_over_even_ground_and_no_clouds():
    grid = chip_grid(-30.0, 35.0, 10.0, 96)  # open sea
    values = synthetic.sentinel1().read(synthetic.sentinel1().search(grid, YEAR)[0], grid).values
    power = 10 ** (values / 1000)
    for band in power:
        assert band.mean() ** 2 / band.var() == pytest.approx(radar.ENL, rel=0.08)
    apart = np.corrcoef(values[0].ravel(), values[1].ravel())[0, 1]
    beside = np.corrcoef(values[0][:, 1:].ravel(), values[0][:, :-1].ravel())[0, 1]
    assert abs(apart) < 0.06
    assert abs(beside) < 0.06


def test_passes_alternate_every_six_days_and_differ(town):
    source = synthetic.sentinel1()
    scenes = source.search(town, YEAR)
    assert {(b.date - a.date).days for a, b in pairwise(scenes)} == {6}
    assert [scene.get("orbit_pass") for scene in scenes[:3]] in (
        ["ascending", "descending", "ascending"],
        ["descending", "ascending", "descending"],
    )
    assert len({scene.get("relative_orbit") for scene in scenes}) == 2
    assert {scene.get("product") for scene in scenes} == {"gamma0_rtc"}


def test_backscatter_orders_the_classes():
    means = {}
    for code in (ground.WATER, ground.TREES, ground.BUILT, ground.BARE):
        grid = spot(code, 30 if code == ground.BARE else 42, 50, pure=0.7)
        values = radar.sentinel1(grid, SUMMER, 0, ascending=True) / 100
        means[code] = values[:, ground.survey(grid, 0).surface == code].mean(axis=1)
    for band in (0, 1):
        order = [means[code][band] for code in (ground.WATER, ground.BARE, ground.TREES, ground.BUILT)]
        assert order == sorted(order)
    assert all(vv > vh + 3 for vv, vh in means.values())


# ---- camera and truth


def test_the_camera_has_a_finest_gsd(town):
    source = synthetic.optical(gsd=1.25)
    grid = Grid(town.epsg, (0.3125, 0, *town.origin[:1], 0, -0.3125, town.origin[1]), 64, 64)
    scene = source.search(grid, YEAR)[0]
    values = source.read(scene, grid).values
    assert np.array_equal(values, values[:, ::4, ::4].repeat(4, 1).repeat(4, 2))
    assert np.array_equal(values[:, ::4, ::4], source.read(scene, grid.at(1.25)).values)
    for gsd in (0.1, 30.0):
        with pytest.raises(ValueError, match=r"0\.3 to 10 m"):
            synthetic.optical(gsd=gsd)


def test_finer_tiles_have_more_texture():
    grid = spot(ground.TREES, 44, 54, pure=1.0)
    source = synthetic.optical()
    x, y = grid.origin
    rough = []
    for gsd in (0.625, 10.0):
        tile = Grid(grid.epsg, (gsd, 0, x, 0, -gsd, y), 64, 64)
        values = source.read(source.search(tile, YEAR)[5], tile).values.astype(float)
        rough.append(values.std(axis=(1, 2)).mean())
    assert rough[0] > 1.5 * rough[1]


@pytest.fixture(scope="module")
def streets(town):
    """A tile of 300 m at 0.5 m in town, and its truth."""
    x, y = town.crop(17, 17, 30, 30).origin
    grid = Grid(town.epsg, (0.5, 0, x, 0, -0.5, y), 600, 600)
    return grid, synthetic.truth(grid, 0)


def roof_mask(grid):
    """Where the renderer puts roofs."""
    from geodata.earth.plots import places, plots, stands

    here = ground.survey(grid, 0)
    at = places(here.lon.ravel(), here.lat.ravel(), 0)
    lot = plots(at)
    mask = stands(at, lot, 0) & lot.over(at) & (here.surface.ravel() == ground.BUILT)
    return mask.reshape(grid.shape)


def test_outlines_of_buildings_are_where_roofs_are_rendered(streets):
    grid, found = streets
    assert len(found["buildings"]) > 10
    burnt = rasterio.features.rasterize(
        [outline.polygon for outline in found["buildings"]], grid.shape, transform=grid.affine()
    ).astype(bool)
    mask = roof_mask(grid)
    assert (burnt & mask).sum() / (burnt | mask).sum() > 0.97
    assert {outline.kind for outline in found["buildings"]} <= {"tile", "metal", "bitumen", "concrete"}


def test_roofs_look_like_what_they_are(streets):
    grid, found = streets
    source = synthetic.optical()
    values = source.read(source.search(grid, YEAR)[6], grid).values.astype(float)
    by_kind = {}
    for kind in ("tile", "metal", "bitumen"):
        shapes = [outline.polygon.buffer(-1) for outline in found["buildings"] if outline.kind == kind]
        if shapes:
            inside = rasterio.features.rasterize(shapes, grid.shape, transform=grid.affine()).astype(bool)
            by_kind[kind] = values[:, inside].mean(axis=1)
    assert len(by_kind) >= 2
    if "tile" in by_kind:
        assert by_kind["tile"][0] > by_kind["tile"][1] + 15 > by_kind["tile"][2]
    brightness = {kind: colour.mean() for kind, colour in by_kind.items()}
    if "metal" in brightness:
        assert brightness["metal"] > max(v for k, v in brightness.items() if k != "metal")


def test_parcels_are_what_the_pixels_grow():
    grid = spot(ground.CROPS, 46, 52, pure=0.8)
    found = synthetic.truth(grid, 0)["parcels"]
    assert len(found) > 5
    kinds = sorted({outline.kind for outline in found})
    shapes = [(outline.polygon, kinds.index(outline.kind) + 1) for outline in found]
    burnt = rasterio.features.rasterize(shapes, grid.shape, transform=grid.affine())
    skin = spectra.skin(grid, 0)
    grown = np.zeros(grid.shape, np.uint8)
    for place, kind in enumerate(spectra.CROP_TYPES):
        if kind in kinds:
            grown.ravel()[skin.kind == 16 + place] = kinds.index(kind) + 1
    assert (burnt == grown).mean() > 0.97
    assert sum(outline.polygon.area for outline in found) == pytest.approx(100 * (grown > 0).sum(), rel=0.02)


def test_truth_of_a_part_is_part_of_the_truth(streets):
    grid, found = streets
    part = synthetic.truth(grid.crop(100, 100, 200, 200), 0)["buildings"]
    assert part
    assert {outline.polygon.wkb for outline in part} <= {
        outline.polygon.wkb for outline in found["buildings"]
    }


# ---- noise


def test_noise_is_centred_smooth_and_its_own():
    rng = np.random.default_rng(2)
    for dimensions in (2, 3):
        points = rng.uniform(-6e6, 6e6, (dimensions, 40_000))
        one, two = noise(points, [1000.0, 1000.0], [1, 2])
        assert abs(one.mean()) < 0.03
        assert 0.9 < one.std() < 1.1
        assert abs(np.corrcoef(one, two)[0, 1]) < 0.03
        near = noise(points + 5.0, [1000.0], [1])[0]
        assert np.abs(near - one).max() < 0.15


def test_noise_of_many_points_is_that_of_each():
    points = np.random.default_rng(4).uniform(-1e6, 1e6, (3, 70_001))
    whole = noise(points, [900.0, 70.0], [5, 6])
    picked = [0, 3, 65_535, 65_536, 70_000]
    assert np.array_equal(noise(points[:, picked], [900.0, 70.0], [5, 6]), whole[:, picked])


def test_hashes_are_even_and_unrelated():
    key = hashed(9, np.arange(-500, 500)[:, None], np.arange(200))
    even = unit(key)
    assert np.abs(np.histogram(even, 20, (0, 1))[0] / key.size - 0.05).max() < 0.003
    assert abs(np.corrcoef(even[1:].ravel(), even[:-1].ravel())[0, 1]) < 0.01
    assert bell(key).std() == pytest.approx(1.0, abs=0.01)
