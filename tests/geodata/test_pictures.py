"""Pictures of layers: what is red is red, what is empty is white, and the files are whole PNGs."""

import datetime
import io
import json
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from geodata import pictures
from geodata.grid import Grid
from geodata.landcover import TABLES, class_table
from geodata.sample import Layer, Sample
from geodata.sensors import LANDCOVER, sensor
from geodata.source import Raster

GRID = Grid(32633, (10.0, 0.0, 600000.0, 0.0, -10.0, 5300040.0), 16, 16)
ESRI = class_table("esri_2020")


def layer(name: str, pixels: np.ndarray, gsd: float = 10.0) -> Layer:
    days = tuple(datetime.date(2020, month + 1, 1) for month in range(len(pixels)))
    known = sensor(name)
    ids = tuple(str(day) for day in days)
    return Layer(known, pixels.astype(known.dtype), days, ids, "test", gsd=gsd)


def sentinel2() -> Layer:
    rng = np.random.default_rng(0)
    pixels = rng.integers(500, 900, (2, 10, 16, 16))
    pixels[0, 2, :, :8] = 3000  # B04: red in the west
    pixels[:, :, -1] = 0
    return layer("sentinel2", pixels)


def sentinel1() -> Layer:
    pixels = np.full((1, 2, 16, 16), -2500)
    pixels[:, 0, :8], pixels[:, 1, :8] = -300, -900
    pixels[:, :, 15] = -32768
    return layer("sentinel1", pixels)


def sample() -> Sample:
    optical = layer("optical", np.full((1, 3, 64, 64), 90), 2.5)
    codes = np.full((1, 1, 16, 16), 2, np.uint8)
    codes[..., 4:8] = 7
    cover = Layer(LANDCOVER, codes, (datetime.date(2020, 1, 1),), ("esri_2020",), "test", gsd=10.0)
    layers = {"s1": sentinel1(), "lc": cover, "hr": optical, "s2": sentinel2()}
    return Sample("c-1", "val", 16.3, 47.8, GRID, "forest", layers)


def test_true_colour_shows_the_red_band_red_and_missing_pixels_white():
    shown = pictures.true_colour(sentinel2())
    assert shown.shape == (16, 16, 3)
    assert shown[:15, :8, 0].mean() > 1.5 * shown[:15, :8, 1].mean()
    assert shown[:15, 8:, 0].max() < 60
    assert (shown[15] == 255).all()


def test_dates_of_a_series_share_one_stretch():
    series = sentinel2()
    darker = np.concatenate([series.pixels[:1], series.pixels[:1] // 2])
    shown = pictures.true_colour(layer("sentinel2", darker), 1)
    assert shown[:15].mean() < pictures.true_colour(layer("sentinel2", darker), 0)[:15].mean()


def test_radar_is_bright_where_both_polarisations_return_much():
    shown = pictures.radar(sentinel1())
    assert shown[:8].mean() > 150 > 60 > shown[8:15].mean()
    assert (shown[15] == 255).all()


def test_a_layer_without_red_green_blue_is_grey_and_says_so():
    bands = sensor("sentinel2").pick(("B11",))
    one = Layer(bands, sentinel2().pixels[:, :1], sentinel2().dates, ("a", "b"), "test")
    with pytest.raises(ValueError, match="use `grey`"):
        pictures.true_colour(one)
    shown = pictures.shown(one)
    assert (shown[..., 0] == shown[..., 2]).all()


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_no_two_classes_of_a_table_look_the_same(table):
    colours = pictures.class_colours(table)
    assert len(set(colours.values())) == len(table.codes)
    names = [name for name, _ in pictures.legend(table, colours)]
    assert names == [table.codes[code] for code in sorted(table.codes)]


def test_codes_become_the_colours_of_their_class_and_none_white():
    shown = pictures.classes(np.array([[2, 7, 255]], np.uint8), ESRI)
    assert [tuple(colour) for colour in shown[0]] == [
        pictures.STRATUM_COLOURS["forest"],
        pictures.STRATUM_COLOURS["urban"],
        (255, 255, 255),
    ]
    assert len({tuple(pictures.scene_classes(np.uint8([[code]]))[0, 0]) for code in range(12)}) == 12


def test_a_strip_shows_every_layer_at_one_size_optical_first():
    strip = pictures.strip(sample(), ESRI, side=32)
    assert strip.shape == (32, 4 * 32 + 3 * 2, 3)
    assert (strip[:, :32] == 90).all()
    assert tuple(strip[0, -1]) == pictures.STRATUM_COLOURS["forest"]
    assert pictures.strip(sample(), ESRI, side=32, dates=2).shape[1] == 5 * 32 + 4 * 2


def test_a_sheet_has_a_place_for_each_picture():
    tile = np.zeros((32, 32, 3), np.uint8)
    page = pictures.sheet([(f"chip {number}", tile) for number in range(7)], columns=3)
    assert page.shape == (3 * 50, 3 * 36, 3)
    with pytest.raises(ValueError, match="at least one picture"):
        pictures.sheet([])


@dataclass
class Halves:
    """Trees in the west, water in the east, of whatever is asked."""

    classes = ESRI

    def at(self, lon, lat):
        return np.where(np.asarray(lon) < 0, 2, 1).astype(np.uint8)

    def read(self, grid):
        codes = np.full(grid.shape, 1, np.uint8)
        codes[:, : grid.width // 2] = 2
        return Raster(codes[None], np.ones(grid.shape, bool), grid, ("class",))


def test_points_lie_where_they_should_on_the_world_and_on_a_grid():
    world = pictures.world(Halves(), width=90)
    assert world.shape == (45, 90, 3)
    assert len(np.unique(world.reshape(-1, 3), axis=0)) == 2
    marked = pictures.points(world, (-180, -90, 180, 90), [90.0], [45.0], [(255, 0, 0)], radius=1)
    rows, cols = np.nonzero((marked == (255, 0, 0)).all(axis=-1))
    assert abs(rows.mean() - 45 / 4) <= 1
    assert abs(cols.mean() - 90 * 3 / 4) <= 1


def test_an_album_explains_its_whole_pictures(tmp_path):
    index = pictures.album(tmp_path, [sample()], ESRI, cover=(Halves(), GRID))
    assert json.loads((tmp_path / "index.json").read_text()) == json.loads(json.dumps(index))
    assert [entry["kind"] for entry in index] == ["landcover", "chip"]
    assert index[0]["bounds"] == GRID.bounds
    assert index[1]["caption"] == "forest, val, 2020-01-01 to 2020-02-01"
    assert [name for name, _ in index[1]["legend"]] == ["trees", "built"]
    for entry in index:
        with Image.open(io.BytesIO((tmp_path / entry["file"]).read_bytes())) as image:
            image.load()
            assert image.format == "PNG"


def test_pictures_are_the_same_bytes_each_time():
    assert pictures.png(pictures.strip(sample())) == pictures.png(pictures.strip(sample()))
