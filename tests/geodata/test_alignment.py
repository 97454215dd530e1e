"""Shifts that were put in must come out: moved by scipy, held against scikit-image, over the synthetic Earth."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from geodata.alignment import CONFIDENT, Seen, measure, misfit, shifts
from geodata.grid import Grid, chip_grid
from geodata.sample import Layer
from geodata.source import Period
from geodata.sources import synthetic

PLACES = [(16.35, 47.84), (-101.5, 41.2), (74.2, 30.6), (-63.4, -34.8), (35.2, 9.1), (2.9, 49.3)]
SUMMER = Period.from_text("2020-06-01/2020-08-15")
SIZE = 96


def layer_of(source, grid: Grid, dates: int) -> Layer:
    """The clearest dates of a source, as a layer."""
    scenes = sorted(source.search(grid, SUMMER), key=lambda scene: (scene.get("cloud") or 0.0, scene.date))
    chosen = sorted(scenes[:dates], key=lambda scene: scene.date)
    rasters = [source.read(scene, grid) for scene in chosen]
    return Layer(
        sensor=source.sensor,
        pixels=np.stack([raster.values for raster in rasters]),
        dates=tuple(scene.date for scene in chosen),
        item_ids=tuple(scene.scene_id for scene in chosen),
        source="synthetic",
        cloud=tuple(raster.share("cloud") for raster in rasters),
        nodata=(0.0,) * len(rasters),
        properties={"relative_orbit": tuple(str(scene.get("relative_orbit")) for scene in chosen)},
        scl=np.stack([raster.scl for raster in rasters]) if rasters[0].scl is not None else None,
        gsd=grid.gsd,
    )


@pytest.fixture(scope="module")
def samples() -> list[dict[str, Layer]]:
    """Sentinel-2, Sentinel-1 and a picture of 5 m over six places with fields, towns or woods."""
    s2, s1, hr = synthetic.sentinel2(), synthetic.sentinel1(), synthetic.optical(gsd=5.0)
    made = []
    for place in PLACES:
        grid = chip_grid(*place, 10.0, SIZE)
        made.append(
            {"s2": layer_of(s2, grid, 2), "s1": layer_of(s1, grid, 6), "hr": layer_of(hr, grid.at(5.0), 1)}
        )
    return made


def moved(layer: Layer, right: float, down: float) -> Layer:
    """The same layer with its content moved by so many of its pixels, by scipy's splines."""
    used = {"s2": (0, 1, 2), "s1": (0,), "hr": (0, 1, 2)}[layer.sensor.prefix]
    info, pixels = np.iinfo(layer.pixels.dtype), layer.pixels.copy()
    for date in range(len(pixels)):
        for band in used:
            plane = ndimage.shift(pixels[date, band].astype(float), (down, right), order=3, mode="mirror")
            pixels[date, band] = np.clip(np.rint(plane), info.min + 1, info.max)
    scl = None if layer.scl is None else np.full_like(layer.scl, 4)
    return replace(layer, pixels=pixels, scl=scl)


def errors(samples, pair: str, prefix: str, right: float, down: float) -> np.ndarray:
    """Distance (pixels of 10 m) of each measured shift from the one put into the second layer of a pair."""
    found = []
    for layers in samples:
        step = layers[prefix].gsd / 10.0
        measured = shifts(layers | {prefix: moved(layers[prefix], right / step, down / step)})
        found += [np.hypot(one.right - right, one.down - down) for one in measured if one.pair == pair]
    return np.array(found)


@pytest.mark.parametrize(("right", "down"), [(0.0, 0.0), (0.25, -0.5), (1.0, 2.0), (-3.0, 0.75)])
def test_a_shift_of_radar_against_optics_comes_out(samples, right, down):
    found = errors(samples, "s2-s1", "s1", right, down)
    assert len(found) >= 4
    assert np.median(found) < 0.3 and found.max() < 0.8


@pytest.mark.parametrize(("right", "down"), [(0.0, 0.0), (-0.25, 0.5), (2.0, -1.0)])
def test_a_shift_of_sentinel2_against_the_picture_comes_out(samples, right, down):
    found = errors(samples, "hr-s2", "s2", right, down)
    assert len(found) >= 5
    assert np.median(found) < 0.15 and found.max() < 0.4


def test_dates_of_one_sensor_and_its_bands_are_measured_to_a_tenth_of_a_pixel(samples):
    between, bands = [], []
    for layers in samples:
        s2 = layers["s2"]
        pixels = s2.pixels.copy()
        pixels[1] = ndimage.shift(pixels[1].astype(float), (0, 0.5, -0.25), order=3, mode="mirror")
        for one in shifts({"s2": replace(s2, pixels=pixels, cloud=(0.0, 0.01), scl=None)}):
            if one.pair.startswith("s2-s2"):
                assert one.pair == f"s2-s2 {s2.dates[0]}/{s2.dates[1]}"
                between.append((one.right + 0.25, one.down - 0.5))
            elif one.pair == "s2 B08-B8A":
                bands.append((one.right, one.down))
    assert len(between) >= 5 and len(bands) >= 5
    assert np.abs(np.median(between, axis=0)).max() < 0.05 and np.abs(between).max() < 0.25
    assert np.abs(np.median(bands, axis=0)).max() < 0.05 and np.abs(bands).max() < 0.25


def test_it_agrees_with_scikit_image_where_that_can_measure(samples):
    for layers in samples:
        image = layers["s2"].pixels[0, 6].astype(float)
        other = ndimage.shift(image, (1.3, -0.6), order=3, mode="mirror")
        right, down, peak = measure(image, other)
        window = np.outer(np.hanning(SIZE), np.hanning(SIZE))
        edges = [window * ndimage.gaussian_gradient_magnitude(one, 1.0) for one in (image, other)]
        (row, col), _, _ = phase_cross_correlation(*edges, upsample_factor=20)
        assert peak > 2 * CONFIDENT
        assert (right, down) == pytest.approx((-0.6, 1.3), abs=0.1)
        assert (right, down) == pytest.approx((-col, -row), abs=0.2)


def test_an_edge_counts_whichever_side_is_brighter(samples):
    image = samples[0]["s2"].pixels[0, 6].astype(float)
    other = ndimage.shift(image, (2.0, 1.0), order=3, mode="mirror")
    assert measure(image, -other)[:2] == pytest.approx((1.0, 2.0), abs=0.1)


def test_unrelated_ground_noise_and_emptiness_are_no_measurement(samples):
    rng = np.random.default_rng(0)
    images = [layers["s2"].pixels[0, 6].astype(float) for layers in samples]
    radar = [layers["s1"].pixels[:, 0].mean(axis=0) for layers in samples]
    for shift in (1, 2, 3):
        for image, other in zip(images, radar[shift:] + radar[:shift], strict=True):
            assert measure(image, other)[2] < CONFIDENT
    peaks = [measure(rng.normal(size=(64, 64)), rng.normal(size=(64, 64)))[2] for _ in range(100)]
    assert np.mean(np.array(peaks) >= CONFIDENT) <= 0.02
    for empty in (
        measure(images[0], np.full_like(images[0], 7.0)),
        measure(images[0][:20, :20], images[0][:20, :20]),
    ):
        assert np.isnan(empty[:2]).all() and empty[2] == 0
    hidden = np.zeros(images[0].shape, bool)
    hidden[:40] = True
    assert measure(images[0], images[0], hidden)[2] == 0


def test_cloud_over_a_third_of_the_chip_does_not_move_the_rest(samples):
    image = samples[0]["s2"].pixels[0, 6].astype(float)
    other = ndimage.shift(image, (0.0, 1.5), order=3, mode="mirror")
    seen = np.ones(image.shape, bool)
    seen[30:60, 20:90] = False
    cloud = ndimage.gaussian_filter(np.random.default_rng(0).normal(9000, 9000, image.shape), 1.0)
    image, other = (np.where(seen, one, cloud) for one in (image, other))
    assert measure(image, other, seen)[:2] == pytest.approx((1.5, 0.0), abs=0.15)
    assert measure(image, other)[:2] != pytest.approx((1.5, 0.0), abs=0.15)


def test_images_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match=r"images of \(40, 40\) and \(40, 41\) pixels are not on one grid"):
        measure(np.zeros((40, 40)), np.zeros((40, 41)))


def test_a_view_is_averaged_like_in_a_loop():
    image = np.arange(30, dtype=float).reshape(5, 6)
    seen = image != 7
    half = Seen(image, seen, 5.0).at(10.0)
    for row in range(2):
        for col in range(3):
            block = (slice(2 * row, 2 * row + 2), slice(2 * col, 2 * col + 2))
            assert half.image[row, col] == np.mean(image[block])
            assert half.seen[row, col] == seen[block].all()
    assert half.gsd == 10.0


def test_layers_without_the_bands_or_without_a_clear_date_have_no_shift(samples):
    s2 = samples[0]["s2"]
    cloudy = replace(s2, cloud=(0.9, 0.8))
    assert shifts({"s2": cloudy, "s1": samples[0]["s1"]}) == ()
    blue = replace(s2, sensor=s2.sensor.pick(("B02",)), pixels=s2.pixels[:, :1])
    assert shifts({"s2": blue}) == ()
    assert shifts({"s1": samples[0]["s1"]}) == ()


GRID = Grid(32633, (10.0, 0.0, 600000.0, 0.0, -10.0, 5300040.0), 64, 64)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (GRID, None),
        (GRID.at(0.3125), None),
        (replace(GRID, epsg=32632), "x is in EPSG:32632, the chip in EPSG:32633"),
        (replace(GRID, transform=(10.0, 0.0, 600005.0, 0.0, -10.0, 5300040.0)), "x covers"),
        (replace(GRID, height=63), "x covers"),
        (replace(GRID, transform=(3.0, 0.0, 600000.0, 0.0, -3.0, 5300040.0)), "pixels of 3 m, in no whole ratio"),
    ],
)  # fmt: skip
def test_grids_are_held_against_the_chips(other, words):
    found = misfit(GRID, {"x": other})
    assert found is None if words is None else words in found


def test_the_round_trip_through_longitude_and_latitude_is_not_the_grids_own_arithmetic(monkeypatch):
    half = GRID.at(5.0)
    monkeypatch.setattr(Grid, "aligned", lambda self, other: True)
    assert misfit(GRID, {"x": half}) is None
    off = replace(half, transform=(5.0, 0.0, 600002.5, 0.0, -5.0, 5300040.0))
    assert "corner pixels come back from longitude and latitude 2.5" in misfit(GRID, {"x": off})


def test_the_mercator_grid_of_a_tile_is_as_good():
    tile = Grid(3857, (4.777314267823516, 0.0, 1878516.4, 0.0, -4.777314267823516, 6261721.4), 512, 512)
    assert misfit(tile, {"x": tile.at(tile.gsd * 2)}) is None
