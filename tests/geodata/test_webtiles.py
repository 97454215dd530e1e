"""Web tiles against the stand-in: held against Pillow, the camera of the synthetic Earth, and real pictures."""

import hashlib
import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import requests
from PIL import Image

from geodata import webmercator
from geodata.codec import Encoded, decoded
from geodata.earth import camera
from geodata.errors import Corrupt, Denied, Missing
from geodata.grid import chip_grid
from geodata.quality import check, enlarged, overzoomed, placeholder
from geodata.sensors import OPTICAL
from geodata.source import Period, Raster
from geodata.sources import webtiles
from geodata.stubs import server
from geodata.stubs import tiles as stand_in

LON, LAT = 16.35, 47.84
YEAR = Period.from_text("2020-01-01/2021-01-01")
ACK = {"who": "A. Curator", "what": "contract 17", "date": "2024-01-01"}
KEY = "sesame&open=1"


@pytest.fixture(scope="module")
def served():
    with server.serve([stand_in.routes()]) as stub:
        yield stub


@pytest.fixture
def stub(served):
    served.show("none")
    yield served
    served.show("none")


def described(stub, template="/tiles/{z}/{x}/{y}.jpg", **changes):
    return {
        "name": "stand-in",
        "template": f"{stub.url}{template}",
        "license": "CC0-1.0",
        "attribution": "a synthetic Earth",
        "license_ack": ACK,
        "per_second": 1000.0,
        "connections": 2,
        **changes,
    }


def tiled(zoom, tiles=2, size=256):
    return webmercator.grid_of(zoom, *(int(at) for at in webmercator.tile_at(LON, LAT, zoom)), tiles, size)


def read(stub, grid, **changes):
    source = webtiles.tiles([described(stub, **changes)])
    (scene,) = source.search(grid, YEAR)
    return scene, source.read(scene, grid)


@pytest.mark.parametrize(
    "template", ["/tiles/{z}/{x}/{y}.jpg", "/tiles/{z}/{x}/{y}.png", "/quad/{quadkey}.jpg"]
)
def test_a_chip_of_tiles_keeps_their_bytes_and_is_what_pillow_decodes(stub, template):
    grid = tiled(17)
    scene, raster = read(stub, grid, template=template)
    zoom, x, y, rows, columns = webmercator.tiles_of(grid)
    assert (scene.date, scene.get("zoom"), scene.scene_id) == (None, 17, "stand-in/z17")
    assert raster.encoded is not None and not raster.resampled and raster.valid.all()
    for row in range(rows):
        for column in range(columns):
            path = template.format(
                z=zoom, x=x + column, y=y + row, quadkey=webmercator.quadkey(zoom, x + column, y + row)
            )
            file = raster.encoded.tiles[row][column]
            assert file == requests.get(stub.url + path, timeout=10).content
            pixels = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
            place = raster.values[:, row * 256 : row * 256 + 256, column * 256 : column * 256 + 256]
            assert np.array_equal(place, np.moveaxis(pixels, -1, 0))
    assert np.array_equal(decoded(raster.encoded), raster.values)


def test_tiles_of_512_pixels_are_the_same_ground_in_finer_pixels(stub):
    grid = tiled(16, 1, 512)
    scene, raster = read(stub, grid, template="/tiles/{z}/{x}/{y}@2x.png", tile=512)
    assert scene.get("zoom") == 16 and raster.encoded is not None and len(raster.encoded.tiles) == 1
    _, quarters = read(stub, tiled(17), template="/tiles/{z}/{x}/{y}.png")
    assert webmercator.tiles_of(grid) == (17, *webmercator.tiles_of(grid)[1:3], 2, 2)
    if tiled(17).bounds == grid.bounds:
        assert abs(raster.values.astype(int) - quarters.values).mean() < 1.0


def test_neighbouring_tiles_have_no_seam(stub):
    grid = tiled(17)
    _, raster = read(stub, grid, template="/tiles/{z}/{x}/{y}.png")
    whole = stand_in.rendered(grid)
    assert np.abs(raster.values.astype(int) - whole).max() <= 1


def test_a_chip_between_the_tiles_but_on_their_pixels_is_cut_and_not_resampled(stub):
    whole = tiled(17)
    _, around = read(stub, whole, template="/tiles/{z}/{x}/{y}.png")
    part = whole.crop(100, 30, 300, 260)
    _, raster = read(stub, part, template="/tiles/{z}/{x}/{y}.png")
    assert np.array_equal(raster.values, around.values[:, 100:400, 30:290])
    assert not raster.resampled and raster.encoded is None


def test_a_chip_in_utm_is_warped_once_and_lies_where_the_camera_sees_it(stub):
    grid = chip_grid(LON, LAT, 0.625, 256)
    scene, raster = read(stub, grid, template="/tiles/{z}/{x}/{y}.png")
    truth = camera.optical(grid, stand_in.DAY, 0).astype(int)
    assert scene.get("zoom") == 17 and raster.resampled and raster.encoded is None
    assert np.abs(raster.values - truth).mean() < 3.0  # the film's grain alone is 2.2
    aside = [
        np.abs(np.roll(raster.values, step, axis) - truth)[:, 8:-8, 8:-8].mean()
        for axis in (1, 2)
        for step in (-1, 1)
    ]
    assert np.abs(raster.values - truth)[:, 8:-8, 8:-8].mean() < 0.9 * min(aside)


def test_the_zoom_follows_the_gsd_on_the_ground_at_any_latitude():
    for lat, wanted in ((0.0, 17), (47.84, 17), (60.0, 16), (70.0, 16)):
        assert (
            webtiles.zoom_of(chip_grid(10.0, lat, 1.0, 64)) == wanted == int(webmercator.zoom_for(1.0, lat))
        )


def test_providers_without_the_zoom_offer_nothing_and_each_other_one_scene(stub):
    some = [described(stub, name="coarse", max_zoom=16), described(stub, name="b"), described(stub, name="a")]
    source = webtiles.tiles(some)
    assert [scene.scene_id for scene in source.search(tiled(17), YEAR)] == ["a/z17", "b/z17"]
    assert source.by_ids(["b/z17"]) == source.search(tiled(17), YEAR)[1:]
    with pytest.raises(Missing, match="no provider here"):
        source.by_ids(["c/z17"])


def test_a_row_says_whose_it_is_who_accepted_that_and_when_it_was_fetched(stub):
    scene, _ = read(stub, tiled(17))
    assert scene.get("license") == "CC0-1.0 (acknowledged by A. Curator on 2024-01-01: contract 17)"
    assert scene.get("attribution") == "a synthetic Earth" and scene.get("redistribute") is False
    assert str(scene.get("fetched")).startswith("20") and scene.get("provider") == "stand-in"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"license_ack": None}, "nobody has acknowledged its licence"),
        ({"license_ack": {"who": "", "what": "x", "date": "2024-01-01"}}, "license_ack.who"),
        ({"template": "/tiles/{z}/{x}.jpg"}, "a template is an http"),
        ({"template": "/tiles/{z}/{x}/{y}/{style}.jpg"}, "a template is an http"),
        ({"template": "/tiles/{z}/{x}/{y}.jpg?key=12345"}, "holds a key in plain text"),
        ({"template": "/tiles/{z}/{x}/{y}.jpg?key={key}"}, "`key_env` names no variable"),
        ({"key_env": "TILES_KEY"}, r"the template has no \{key\}"),
        ({"tile": 300}, "tile: input should be 256 or 512"),
        ({"colour": "blue"}, "colour: extra inputs are not permitted"),
    ],
)
def test_a_provider_that_is_not_described_in_full_is_refused_in_a_sentence(stub, changes, told):
    with pytest.raises(ValueError, match=told) as error:
        webtiles.tiles([described(stub, **changes)])
    assert "\n" not in str(error.value) and "12345" not in str(error.value)


def test_keys_come_from_the_environment_and_are_never_told(monkeypatch):
    with server.serve([stand_in.routes(key=KEY)]) as stub:
        keyed = {"template": "/tiles/{z}/{x}/{y}.png?key={key}", "key_env": "TILES_KEY"}
        with pytest.raises(Denied, match="TILES_KEY, which is not set"):
            webtiles.tiles([described(stub, **keyed)])
        monkeypatch.setenv("TILES_KEY", "wrong-and-secret")
        source = webtiles.tiles([described(stub, **keyed)])
        (scene,) = source.search(tiled(17), YEAR)
        with pytest.raises(Denied, match="HTTP 403") as told:
            source.read(scene, tiled(17))
        assert "wrong-and-secret" not in f"{told.value}{scene}{source}{source.servers}"
        assert stub.stats()["requests"]["tiles tile"] == 1, "a refusal is not asked again"
        with pytest.raises(Denied, match="HTTP 401"):
            read(stub, tiled(17))
        monkeypatch.setenv("TILES_KEY", KEY)
        assert read(stub, tiled(17), **keyed)[1].valid.all()


def test_403_ends_the_run_even_when_it_speaks_of_rates(stub):
    def answer(request):
        assert request.headers["user-agent"].startswith("swath")
        return server.Response(b"rate limit exceeded", 403)

    with server.serve([server.Routes("rude", ("/tiles/",), answer)]) as rude, pytest.raises(Denied):
        read(rude, tiled(17))


@pytest.mark.parametrize("fault", ["truncated", "closed", "503", "429"])
def test_tiles_that_answer_brokenly_are_asked_for_again(stub, fault):
    expected = read(stub, tiled(17))[1]
    stub.show([{"fault": fault, "times": 1, "share": 0.6}])
    assert read(stub, tiled(17))[1].encoded == expected.encoded
    assert stub.stats()["faults"][fault] >= 1


def test_no_more_requests_at_once_than_the_provider_allows():
    with server.serve([stand_in.routes()]) as stub:
        read(stub, tiled(17, 3), connections=2)
        assert stub.stats()["peak"]["tiles"] <= 2


def test_tiles_that_are_gone_or_no_pictures_are_told_apart(stub):
    stub.show([{"fault": "404", "times": None}])
    with pytest.raises(Missing, match="HTTP 404"):
        read(stub, tiled(17))
    for body, told in (
        (b"<html>sold out</html>", "no JPEG, PNG or WebP"),
        (b"\x89PNG rest", "no whole picture"),
    ):
        pages = server.Routes(
            "odd", ("/tiles/",), lambda _, body=body: server.Response(body, 200, "image/png")
        )
        with server.serve([pages]) as odd, pytest.raises(Corrupt, match=told):
            read(odd, tiled(17))
    stub.show("none")
    with pytest.raises(Corrupt, match="tiles of 256 x 256 pixels where 512 x 512 are stated"):
        read(stub, tiled(16, 1, 512), tile=512)


def test_chips_beyond_the_map_or_over_too_many_tiles_are_refused(stub):
    source = webtiles.tiles([described(stub, max_zoom=26)])
    north = webmercator.grid_of(4, 3, 0).crop(-300, 0, 256, 256)
    with pytest.raises(Missing, match="beyond the map"):
        source.read(replace(source.by_ids(["stand-in/z4"])[0]), north)
    with pytest.raises(ValueError, match="more than 1024"):
        source.read(source.by_ids(["stand-in/z17"])[0], tiled(17, 40))


def test_the_price_is_a_request_a_tile(stub):
    source = webtiles.tiles([described(stub)])
    assert source.cost(1, tiled(17)).requests == 4
    assert source.cost(3, tiled(17, 1)).requests == 3


# placeholders and enlarged tiles


def encoded(pixels, rows=2, columns=2, format="PNG", **options):
    """A raster of the pictures, each stored as a file."""
    height, width = pixels.shape[1] // rows, pixels.shape[2] // columns
    files = []
    for row in range(rows):
        line = []
        for column in range(columns):
            part = pixels[:, row * height : (row + 1) * height, column * width : (column + 1) * width]
            file = io.BytesIO()
            Image.fromarray(np.moveaxis(part, 0, -1)).save(file, format, **options)
            line.append(file.getvalue())
        files.append(tuple(line))
    kept = Encoded(f"image/{format.lower()}", tuple(files))
    grid = webmercator.grid_of(17, 70_000, 45_000, rows, 256)
    return Raster(decoded(kept), np.ones(grid.shape, bool), grid, ("R", "G", "B"), encoded=kept)


def test_placeholders_are_known_by_colour_by_repetition_and_by_hash():
    with server.serve([stand_in.routes(empty=1.0)]) as stub:
        scene, nothing = read(stub, tiled(17, 1))
        assert placeholder(scene, nothing) is None, "one such picture alone could be a picture"
        assert (
            check(scene, read(stub, tiled(17))[1], sensor=OPTICAL, max_cloud=1, min_valid=0.5)
            == "placeholder"
        )
        digest = hashlib.sha256(nothing.encoded.tiles[0][0]).hexdigest()
        told, _ = read(stub, tiled(17, 1), placeholders=[digest])
        assert check(told, nothing, sensor=OPTICAL, max_cloud=1, min_valid=0.5) == "placeholder"
    grey = np.full((3, 512, 512), 204, np.uint8)
    grey[:, :256] = np.random.default_rng(0).integers(0, 255, (3, 256, 512))
    assert placeholder(scene, encoded(grey)) == "placeholder"
    picture = np.random.default_rng(0).integers(0, 255, (3, 512, 512)).astype(np.uint8)
    assert placeholder(scene, encoded(picture)) is None


@pytest.mark.slow
def test_tiles_past_the_imagery_are_overzoomed_and_those_within_are_not():
    places = [(2.35, 48.8), (-99.1, 19.4), (77.2, 28.6), (31.2, 30.0), (16.35, 47.84)]
    seen = Counter()
    with server.serve([stand_in.routes(native_zoom=17)]) as stub:
        source = webtiles.tiles([described(stub, "/tiles/{z}/{x}/{y}.png")])
        for lon, lat in places:
            for zoom in (16, 17, 18, 19):
                x, y = (int(at) for at in webmercator.tile_at(lon, lat, zoom))
                grid = webmercator.grid_of(zoom, x, y, 1)
                (scene,) = source.search(grid, YEAR)
                seen[zoom > 17, overzoomed(source.read(scene, grid))] += 1
    assert seen[False, "overzoomed"] == 0
    assert seen[True, "overzoomed"] >= seen[True, None]


def test_water_without_texture_is_not_judged():
    calm = np.random.default_rng(0).integers(60, 63, (3, 256, 256)).astype(np.uint8)
    assert enlarged(calm) is None
    assert enlarged(np.full((3, 256, 256), 9, np.uint8)) is None


def test_pixels_repeated_two_by_two_are_enlarged():
    small = np.random.default_rng(0).integers(0, 255, (3, 128, 128)).astype(np.uint8)
    assert enlarged(small) is False
    assert enlarged(small.repeat(2, 1).repeat(2, 2)) is True


def real_tiles(shared_data):
    """Native 256-pixel tiles of five real archives, 0.075 to 0.5 m."""
    oam = sorted((shared_data / "oam_kampala_buildings" / "images").glob("*.png"))[::4]
    usgs = sorted((shared_data / "rsvqa_hr_usgs").glob("*.tif"))
    levir = sorted((shared_data / "levir_cd_samples" / "A").glob("*.png"))
    neon = sorted((shared_data / "neon_tree_crowns").glob("*.png"))
    for path in (*oam, *usgs, *levir, *neon):
        pixels = np.moveaxis(np.asarray(Image.open(path).convert("RGB")), -1, 0)
        for row in range(0, pixels.shape[1] - 255, 256):
            for column in range(0, pixels.shape[2] - 255, 256):
                tile = pixels[:, row : row + 256, column : column + 256]
                if (tile.max(axis=0) > 0).mean() > 0.98:
                    yield tile


def larger(tile, times, how, quality):
    middle = Image.fromarray(np.moveaxis(tile, 0, -1)).crop((64, 64, 64 + 256 // times, 64 + 256 // times))
    picture = middle.resize((256, 256), how)
    if quality:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        picture = Image.open(file)
    return np.moveaxis(np.asarray(picture), -1, 0)


@pytest.mark.real
def test_real_tiles_are_told_from_their_enlargements(shared_data):
    tiles = list(real_tiles(shared_data))
    assert len(tiles) > 60
    ways = [
        (2, Image.Resampling.BILINEAR, None),
        (2, Image.Resampling.BICUBIC, 85),
        (4, Image.Resampling.BICUBIC, None),
        (4, Image.Resampling.BILINEAR, 85),
    ]
    rates = {way: np.mean([enlarged(larger(tile, *way)) is True for tile in tiles]) for way in ways}
    assert np.mean([enlarged(tile) is True for tile in tiles]) < 0.05
    assert all(rate > 0.85 for (_, _, quality), rate in rates.items() if quality is None), rates
    assert all(rate > 0.4 for rate in rates.values()), rates
