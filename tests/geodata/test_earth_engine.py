"""The real Earth Engine client against the stand-in over loopback: pixels, limits, faults, credentials.

The oracle for pixels is the synthetic Earth itself, rendered in this process, and rasterio where grids differ.
"""

import json
import logging
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import googleapiclient.errors
import httplib2
import numpy as np
import pytest
import rasterio.warp
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from geodata import governor, radiometry, transport
from geodata.classes import ESRI_2020
from geodata.earth import ground, sky
from geodata.errors import Corrupt, DataError, Denied, Missing, Transient
from geodata.grid import Grid, chip_grid
from geodata.source import Period, Priced, Stacking
from geodata.sources import earth_engine, earth_engine_account, earth_engine_cube, synthetic
from geodata.sources.earth_engine_account import Account, disconnect, judge
from geodata.stubs import earth_engine as stand_in
from geodata.stubs.server import Rule, serve

YEAR = Period.from_text("2020-01-01/2021-01-01")
SPRING = Period.from_text("2020-04-01/2020-06-01")
CHIP = chip_grid(16.35, 47.84, 10.0, 64)
SMALL = CHIP.crop(8, 8, 24, 24)
PROJECT = "stub-project"


@pytest.fixture(scope="module")
def server():
    disconnect()
    with serve([stand_in.routes()]) as stub:
        yield stub
    disconnect()


@pytest.fixture
def url(server, monkeypatch):
    """The stand-in without faults and counters at zero, a governor of the test's own, and short pauses."""
    server.show("none")
    before = governor.current()
    governor.use(governor.Governor())
    monkeypatch.setattr(transport, "FIRST_PAUSE_S", 0.01)
    yield server.url
    governor.use(before)


@pytest.fixture
def fresh(url):
    """For tests that open an account of their own."""
    disconnect()
    yield
    disconnect()


def source(url, name="sentinel2", **options):
    return getattr(earth_engine, name)(project=PROJECT, url=url, **options)


def truth(name, scenes, grid, **options):
    """What the synthetic Earth shows of scenes that were found through the stand-in."""
    known = getattr(synthetic, name)(**options)
    there = {scene.date: scene for scene in known.search(grid, YEAR)}
    return [known.read(there[scene.date], grid) for scene in scenes]


# Pixels


@pytest.mark.parametrize("level", ["ten", "l2a", "l1c"])
def test_sentinel2_is_the_synthetic_earth_pixel_by_pixel(url, level):
    opened = source(url, level=level)
    scenes = opened.search(CHIP, SPRING)
    assert [scene.date for scene in scenes] == [
        scene.date for scene in synthetic.sentinel2(level=level).search(CHIP, SPRING)
    ]
    for scene, wanted in zip(scenes, truth("sentinel2", scenes, CHIP, level=level), strict=True):
        found = opened.read(scene, CHIP)
        assert np.array_equal(found.values, wanted.values)
        assert found.bands == wanted.bands and found.valid.all() and not found.resampled


def test_sentinel1_is_the_synthetic_earth_in_hundredths_of_a_decibel(url):
    opened = source(url, "sentinel1")
    scenes = opened.search(CHIP, SPRING)
    assert scenes and all("_IW_" in scene.scene_id for scene in scenes), "other modes are filtered out"
    assert {scene.get("orbit_pass") for scene in scenes} == {"ascending", "descending"}
    assert {scene.get("product") for scene in scenes} == {"sigma0_grd"}
    for found, wanted in zip(opened.stack(scenes, CHIP), truth("sentinel1", scenes, CHIP), strict=True):
        low, high = (100 * limit for limit in radiometry.DB_RANGE)
        assert np.array_equal(found.values, np.clip(wanted.values, low, high))


def test_an_aerial_image_is_repeated_not_interpolated(url):
    opened = source(url, "naip")
    grid = chip_grid(16.35, 47.84, 0.3125, 64)
    scene = opened.search(grid, YEAR)[0]
    found = opened.read(scene, grid)
    (wanted,) = truth("optical", [scene], grid, gsd=0.625)
    assert np.array_equal(found.values, wanted.values)


def test_neighbours_and_finer_grids_share_their_pixels(url):
    opened = source(url)
    scene = opened.search(CHIP, SPRING)[0]
    whole = opened.read(scene, CHIP).values
    left, right = (opened.read(scene, CHIP.crop(0, col, 64, 32)).values for col in (0, 32))
    assert np.array_equal(np.concatenate([left, right], axis=2), whole)
    fine = opened.read(scene, CHIP.at(5.0))
    assert np.array_equal(fine.values[:, ::2, 1::2], whole) and not fine.resampled


def test_a_chip_in_another_crs_gets_nearest_pixels_and_says_so(url):
    opened = source(url)
    web = Grid(3857, (12.0, 0.0, 1820040.0, 0.0, -12.0, 6083040.0), 40, 40)
    scene = opened.search(web, SPRING)[0]
    found = opened.read(scene, web)
    native = chip_grid(*web.centre(), 10.0, 128)
    wanted = np.zeros(web.shape, np.uint16)
    rasterio.warp.reproject(
        truth("sentinel2", [scene], native)[0].values[0],
        wanted,
        src_transform=native.affine(),
        src_crs=f"EPSG:{native.epsg}",
        dst_transform=web.affine(),
        dst_crs="EPSG:3857",
        resampling=rasterio.warp.Resampling.nearest,
    )
    assert found.resampled and found.valid.all()
    assert np.mean(found.values[0] == wanted) > 0.99


def test_a_grid_off_the_pixels_of_its_scene_is_resampled(url):
    opened = source(url)
    scene = opened.search(CHIP, SPRING)[0]
    x, y = CHIP.origin
    off = Grid(CHIP.epsg, (10.0, 0.0, x + 4.0, 0.0, -10.0, y), 16, 16)
    assert opened.read(scene, off).resampled
    assert opened.read(scene, CHIP.at(20.0)).resampled, "coarser pixels are chosen among"


def test_clouds_are_those_of_the_score_where_there_is_one(url):
    opened = source(url, cloud_score=0.6)
    scenes = opened.search(CHIP, YEAR)
    assert {scene.get("cloud_by") for scene in scenes} == {"cloud_score_plus", "scl"}
    survey = ground.survey(CHIP, 0)
    chosen = scenes[:24]
    for scene, found, wanted in zip(
        chosen, opened.stack(chosen, CHIP), truth("sentinel2", chosen, CHIP), strict=True
    ):
        if scene.get("cloud_by") == "scl":
            assert np.array_equal(found.scl, wanted.scl)
        else:
            covered = 1 - np.max(sky.clouds(survey, scene.date), axis=0).astype(float) < 0.6
            assert found.share("cloud") == covered.mean()


def test_cloud_by_score_equals_the_loop_in_its_docstring():
    for scl in range(12):
        for score in range(3):
            cloud = scl in (3, 8, 9, 10)
            wanted = scl
            if score == 0 and not cloud and scl != 0:
                wanted = 9
            if score == 1 and cloud:
                wanted = 7
            found = earth_engine.cloud_by_score(np.array([[scl]], np.uint8), np.array([[score]], np.uint8))
            assert found.dtype == np.uint8 and int(found[0, 0]) == wanted, (scl, score)


# Limits


def test_twenty_dates_of_ten_bands_are_one_request(url, server):
    opened = source(url)
    scenes = opened.search(CHIP, YEAR)[:20]
    found = opened.stack(scenes, CHIP)
    assert len(found) == 20 and not any(isinstance(one, DataError) for one in found)
    assert server.stats()["requests"]["ee cube"] == 1 and "ee pixels" not in server.stats()["requests"]
    assert isinstance(opened, Stacking) and isinstance(opened, Priced)


def test_requests_stay_under_every_limit_of_the_service(url, server):
    """The stand-in refuses what is over a limit, so a plan that is wrong shows among its errors."""
    opened = source(url, level="l2a")
    wide = chip_grid(16.35, 47.84, 10.0, 384)
    scenes = opened.search(CHIP, SPRING)[:8]
    stacked = opened.stack(scenes, wide)
    stats = server.stats()
    assert stats["errors"] == {} and 2 <= stats["requests"]["ee cube"] <= 5
    asked = opened.cost(len(scenes), wide)
    assert asked.requests == 1 + stats["requests"]["ee cube"]
    alone = opened.read(scenes[5], wide)
    assert np.array_equal(stacked[5].values, alone.values)


@pytest.mark.parametrize(
    ("count", "size", "bands"), [(1, 1, 1), (20, 64, 12), (40, 289, 12), (3, 2048, 3), (2000, 2, 1)]
)
def test_a_plan_is_under_the_limits_by_plain_counting(count, size, bands):
    fields = tuple((f"B{number}", "<u2") for number in range(bands))
    grid = Grid(32633, (10.0, 0.0, 0.0, 0.0, -10.0, 0.0), size, size)
    together, side = earth_engine_cube.plan(fields, grid)
    assert together * bands <= 1024 and side <= 32768
    assert 1.2 * together * bands * 3 * min(side, size) ** 2 <= 50_331_648
    whole = size**2 * bands * 3 * 1.2 <= 50_331_648
    assert whole == (side >= size), "what fits is not cut"


def test_a_request_that_is_too_large_is_cut_in_time_and_never_repeated(url, server):
    opened = source(url)
    scenes = opened.search(SMALL, SPRING)[:4]
    plain = opened.stack(scenes, SMALL)
    for fault in ("memory", "size"):
        server.show([Rule(fault=fault, match="^ee cube", times=None)])
        found = opened.stack(scenes, SMALL)
        stats = server.stats()
        assert stats["faults"] == {fault: 3}, "all four, the first two, the last two"
        assert stats["requests"] == {"ee cube": 3, "ee pixels": 4}
        assert all(np.array_equal(a.values, b.values) for a, b in zip(found, plain, strict=True))


def test_a_single_scene_that_is_too_large_is_cut_in_space(url, server):
    opened = source(url)
    scene = opened.search(CHIP, SPRING)[0]
    plain = opened.read(scene, CHIP)
    server.show([Rule(fault="memory", match="^ee pixels", count=1)])
    found = opened.read(scene, CHIP)
    assert server.stats()["requests"]["ee pixels"] == 1 + 4
    assert np.array_equal(found.values, plain.values) and np.array_equal(found.scl, plain.scl)


def test_what_is_refused_at_any_size_is_missing(url, server):
    opened = source(url)
    scene = opened.search(CHIP, SPRING)[0]
    server.show([Rule(fault="memory", match="^ee (pixels|cube)", times=None)])
    with pytest.raises(Missing, match="refused at 16 x 16 pixels"):
        opened.read(scene, CHIP)


# Faults

RETRIED = {
    "429": Rule(fault="429", match="cube"),
    "429 with Retry-After": Rule(fault="429", match="cube", seconds=0.1),
    "500": Rule(fault="500", match="cube", times=2),
    "503": Rule(fault="503", match="cube"),
    "closed": Rule(fault="closed", match="cube"),
    "truncated": Rule(fault="truncated", match="cube"),
    "search": Rule(fault="truncated", match="search"),
}


@pytest.mark.parametrize("name", RETRIED)
def test_what_may_pass_is_tried_again_and_changes_no_pixel(url, server, name):
    opened = source(url)
    scenes = opened.search(SMALL, SPRING)[:3]
    plain = opened.stack(scenes, SMALL)
    server.show([RETRIED[name]])
    assert opened.search(SMALL, SPRING)[:3] == scenes
    found = opened.stack(scenes, SMALL)
    assert sum(server.stats()["faults"].values()) == (RETRIED[name].times or 0)
    assert all(np.array_equal(a.values, b.values) for a, b in zip(found, plain, strict=True))


def test_a_slow_answer_is_given_up_at_the_deadline_and_asked_again(url, server, fresh):
    opened = source(url, deadline_s=0.5)
    scenes = opened.search(SMALL, SPRING)[:2]
    server.show([Rule(fault="slow", match="cube", seconds=0.8)])
    assert not any(isinstance(one, DataError) for one in opened.stack(scenes, SMALL))
    assert server.stats()["requests"]["ee cube"] == 2


def test_what_never_passes_is_transient_after_a_bounded_number_of_attempts(url, server):
    opened = source(url)
    scenes = opened.search(SMALL, SPRING)[:2]
    server.show([Rule(fault="503", match="cube", times=None)])
    found = opened.stack(scenes, SMALL)
    assert [type(one) for one in found] == [Transient, Transient]
    assert server.stats()["requests"] == {"ee cube": transport.TRIES}


def test_a_scene_that_is_gone_is_missing_alone(url, server):
    opened = source(url)
    scenes = opened.search(SMALL, SPRING)[:5]
    gone = [*scenes[:3], scenes[3].__class__(**{**vars(scenes[3]), "scene_id": "S2A_GONE"}), scenes[4]]
    found = opened.stack(gone, SMALL)
    assert [isinstance(one, Missing) for one in found] == [False, False, False, True, False]
    assert "S2A_GONE" in str(found[3])
    with pytest.raises(Missing):
        opened.read(gone[3], SMALL)


@pytest.mark.parametrize("fault", ["401", "403"])
def test_a_refusal_ends_the_run_in_one_sentence(url, server, fault):
    opened = source(url)
    scenes = opened.search(SMALL, SPRING)[:2]
    server.show([Rule(fault=fault, match="cube", times=None)])
    with pytest.raises(Denied) as caught:
        opened.stack(scenes, SMALL)
    assert "credentials" in str(caught.value) and "\n" not in str(caught.value)
    assert server.stats()["requests"] == {"ee cube": 1}, "nobody asks twice"


def test_the_whole_fault_script_changes_no_pixel(url, server):
    opened = source(url)
    scenes = opened.search(SMALL, YEAR)
    parts = [scenes[start : start + 3] for start in range(0, 48, 3)]
    plain = [one for part in parts for one in opened.stack(part, SMALL)]
    server.show("full")
    with ThreadPoolExecutor(8) as pool:
        found = [one for part in pool.map(lambda part: opened.stack(part, SMALL), parts) for one in part]
    assert len(server.stats()["faults"]) >= 5
    assert all(np.array_equal(a.values, b.values) for a, b in zip(found, plain, strict=True))


def test_twenty_four_threads_never_exceed_the_limit(url, server):
    opened = source(url, concurrency=5)
    scenes = opened.search(SMALL, YEAR)[:24]
    started = threading.Barrier(24)

    def read(scene):
        started.wait()
        return opened.read(scene, SMALL)

    with ThreadPoolExecutor(24) as pool:
        assert len(list(pool.map(read, scenes))) == 24
    peak = server.stats()["peak"]["ee"]
    assert 2 <= peak <= 5
    (state,) = governor.current().state().values()
    assert state.peak <= 5 and state.in_flight == 0


def test_a_restricted_project_is_asked_less(url, server):
    opened = source(url)
    scene = opened.search(SMALL, SPRING)[0]
    (before,) = governor.current().state().values()
    server.show([Rule(fault="restricted")])
    opened.read(scene, SMALL)
    (after,) = governor.current().state().values()
    assert after.limit < before.limit / 2


def test_a_search_of_several_pages_finds_the_same(url, server, monkeypatch):
    opened = source(url)
    scenes = opened.search(SMALL, YEAR)
    monkeypatch.setattr(earth_engine, "PAGE", 10)
    server.show("none")
    assert opened.search(SMALL, YEAR) == scenes
    assert server.stats()["requests"] == {"ee search": math.ceil(len(scenes) / 10)}


def test_an_answer_of_another_shape_or_dtype_is_corrupt_and_garbage_is_asked_again(url):
    query = source(url)._query
    good = np.zeros((2, 2), [(f"0_{name}", kind) for name, kind in query.fields])
    grid = Grid(32633, (10.0, 0.0, 0.0, 0.0, -10.0, 0.0), 2, 2)

    def packed(values):
        import io

        file = io.BytesIO()
        np.save(file, values)
        return file.getvalue()

    assert query._decoded(packed(good), 1, grid)[0].shape == (2, 2)
    for wrong in (good[:1], good[["0_B2"]], good.astype([(name, "<f4") for name in good.dtype.names])):
        with pytest.raises(Corrupt):
            query._decoded(packed(wrong), 1, grid)
    for garbage in (b"", b"<html>", packed(good)[:-3]):
        with pytest.raises(earth_engine_account.Unreadable) as caught:
            query._decoded(garbage, 1, grid)
        assert judge(caught.value).kind == "retry"


def told(status, message, **headers):
    """The exception of the client's transport for an answer in the service's words."""
    body = json.dumps({"error": {"code": status, "message": message}}).encode()
    return googleapiclient.errors.HttpError(httplib2.Response({"status": status, **headers}), body)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (told(429, "Too many concurrent aggregations."), "throttled"),
        (told(403, "rateLimitExceeded"), "throttled"),
        (told(502, "Bad gateway"), "retry"),
        (TimeoutError("timed out"), "retry"),
        (ConnectionError("reset"), "retry"),
        (
            told(400, "Total request size (60000000 bytes) must be less than or equal to 50331648 bytes."),
            "shrink",
        ),
        (told(400, "User memory limit exceeded."), "shrink"),
        (told(400, "Computation timed out."), "shrink"),
        (told(404, "Image.load: Image asset 'X/Y' not found."), "sample"),
        (told(400, "No valid (un-masked) pixels in export region."), "sample"),
        (told(400, "Image.select: Band pattern 'VH' did not match any bands."), "sample"),
        (told(401, "Request had invalid authentication credentials."), "denied"),
        (told(403, "Caller does not have required permission to use project x."), "denied"),
        (told(404, "Project 'x' not found or deleted."), "denied"),
        (told(400, "Unknown algorithm 'Image.invent'."), "denied"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value)[:60],
)
def test_complaints_are_told_apart(url, error, kind):
    assert judge(error).kind == kind


def test_a_bug_is_nobodys_complaint(url):
    assert judge(KeyError("scenes")) is None


# Land cover


@pytest.mark.parametrize(
    ("dataset", "year", "same"),
    [
        ("esri_2020", None, {}),
        ("esri_series", 2020, {3: 11, 6: 11}),
        ("worldcover", None, {1: 80, 2: 10, 3: 30, 4: 90, 5: 40, 6: 20, 7: 50, 8: 60, 9: 70, 10: 255}),
        ("dynamic_world", 2020, {**{code: code - 1 for code in range(1, 10)}, 10: 255}),
    ],
)
def test_a_map_answers_in_its_raw_codes_on_grids_and_at_points(url, dataset, year, same):
    opened = source(url, "landcover", dataset=dataset, year=year)
    grid = chip_grid(16.37, 48.2, 250.0, 48, lattice=500.0)
    true = synthetic.landcover().read(grid).values[0]
    wanted = np.vectorize(lambda code: same.get(code, code))(true)
    assert len(np.unique(true)) > 3
    raster = opened.read(grid)
    assert np.array_equal(raster.values[0], wanted)
    assert np.array_equal(raster.valid, wanted != 255)
    lon, lat = (axis.ravel()[:50] for axis in grid.lonlat())
    points = opened.at(np.append(lon, np.nan), np.append(lat, 0.0))
    assert points.dtype == np.uint8 and points[-1] == 255
    exact = synthetic.landcover().at(lon, lat)
    assert np.array_equal(points[:-1], [same.get(code, code) for code in exact.tolist()])


def test_many_points_are_asked_in_parts_and_keep_their_order(url, server, monkeypatch):
    opened = source(url, "landcover")
    rng = np.random.default_rng(1)
    lon, lat = rng.uniform(10, 20, 300), rng.uniform(45, 50, 300)
    whole = opened.at(lon, lat)
    monkeypatch.setattr(earth_engine, "POINTS", 64)
    server.show("none")
    assert np.array_equal(opened.at(lon, lat), whole) and len(np.unique(whole)) > 2
    assert server.stats()["requests"] == {"ee value": 5}
    assert opened.at(np.zeros(0), np.zeros(0)).shape == (0,)


def test_a_code_of_the_other_system_is_refused(url):
    series = source(url, "landcover", dataset="esri_series", year=2020)
    mistaken = earth_engine._Map(ESRI_2020, series.account, series.asset, "b1", 2020)
    with pytest.raises(ValueError, match=r"holds code 11, but table esri_2020"):
        mistaken.read(chip_grid(16.37, 48.2, 250.0, 64, lattice=500.0))


# Accounts


def service_key(url):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": "0123456789abcdef",
        "private_key": pem.decode(),
        "client_email": f"curator@{PROJECT}.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": f"{url}{stand_in.TOKEN_PATH}",
    }


@pytest.fixture
def signed(fresh):
    """A stand-in that answers only who has a token."""
    with serve([stand_in.routes(signed=True)]) as stub:
        yield stub


@pytest.mark.parametrize("given", ["file", "text"])
def test_a_service_account_signs_in_with_its_own_key(signed, tmp_path, monkeypatch, given):
    key = json.dumps(service_key(signed.url))
    path = tmp_path / "key.json"
    path.write_text(key)
    monkeypatch.setenv("EARTHENGINE_SERVICE_ACCOUNT", str(path) if given == "file" else key)
    assert source(signed.url).search(SMALL, SPRING)
    assert signed.stats()["requests"]["ee token"] == 1


def test_without_credentials_nobody_is_let_in(signed):
    with pytest.raises(Denied, match="credentials"):
        source(signed.url).search(SMALL, SPRING)


@pytest.mark.parametrize("struck", ["", "^ee cube"], ids=["everywhere", "with tokens still given out"])
def test_a_token_that_expires_mid_run_is_one_sentence_without_a_secret(signed, monkeypatch, caplog, struck):
    key = service_key(signed.url)
    monkeypatch.setenv("EARTHENGINE_SERVICE_ACCOUNT", json.dumps(key))
    opened = source(signed.url)
    scenes = opened.search(SMALL, SPRING)
    opened.stack(scenes[:2], SMALL)
    signed.show([Rule(fault="401", match=struck, times=None)])
    with caplog.at_level(logging.DEBUG), pytest.raises(Denied) as caught:
        opened.stack(scenes[2:4], SMALL)
    assert "\n" not in str(caught.value) and str(caught.value).count(". ") <= 1
    told = str(caught.value) + repr(caught.value.__cause__) + caplog.text
    secrets = [line for line in key["private_key"].splitlines() if len(line) > 30]
    assert not any(secret in told for secret in [*secrets, "Bearer", key["private_key_id"]])


def test_a_key_that_is_none_is_refused_without_showing_it(fresh, url, monkeypatch):
    for text in ('{"type": "service_account", "private_key": "SECRET"}', "/no/such/key.json", "{SECRET"):
        monkeypatch.setenv("EARTHENGINE_SERVICE_ACCOUNT", text)
        with pytest.raises(Denied) as caught:
            source(url).search(SMALL, SPRING)
        assert "EARTHENGINE_SERVICE_ACCOUNT" in str(caught.value) and "SECRET" not in str(caught.value)


def test_an_account_is_checked_before_anything_is_asked(url, monkeypatch):
    for name in ("EARTHENGINE_PROJECT", "GOOGLE_CLOUD_PROJECT", "EARTHENGINE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="give project="):
        earth_engine.sentinel2()
    with pytest.raises(ValueError, match="https only"):
        earth_engine.sentinel2(project="p", url="http://example.org")
    with pytest.raises(ValueError, match="choose l1c, l2a, ten"):
        earth_engine.sentinel2(level="l3", project="p")
    with pytest.raises(ValueError, match="between 0 and 1"):
        earth_engine.sentinel2(cloud_score=60, project="p")
    with pytest.raises(ValueError, match="known are esri_2020"):
        earth_engine.landcover("corine", project="p")
    with pytest.raises(ValueError, match="2017 to"):
        earth_engine.landcover("esri_series", project="p")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "from-the-cloud")
    assert Account().endpoint == "earthengine-highvolume.googleapis.com/projects/from-the-cloud"
    monkeypatch.setenv("EARTHENGINE_PROJECT", "own")
    monkeypatch.setenv("EARTHENGINE_URL", url)
    assert Account().endpoint == f"{url.removeprefix('http://')}/projects/own" and Account().local
    monkeypatch.setattr(earth_engine_account.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "swath\[ee\]"'):
        earth_engine.sentinel1(project="p")


def test_a_process_speaks_to_one_project(url):
    source(url).search(SMALL, SPRING)
    with pytest.raises(ValueError, match="one Earth Engine project"):
        earth_engine.sentinel1(project="another", url=url).search(SMALL, SPRING)


def test_a_place_that_is_no_earth_engine_says_so(fresh, url):
    with serve([]) as empty, pytest.raises(Denied, match="no Earth Engine service"):
        source(empty.url).search(SMALL, SPRING)


def test_nothing_else_is_asked_when_the_client_starts(fresh, url, monkeypatch):
    import ee

    asked = []
    monkeypatch.setattr(ee.deprecation, "_FetchDataCatalogStac", lambda: asked.append(1) or {})
    source(url).search(SMALL, SPRING)
    assert not asked
    assert ee.data._get_state().max_retries == 0


def test_an_opened_source_travels_to_another_process(url):
    import pickle

    opened = source(url)
    scenes = opened.search(SMALL, SPRING)
    again = pickle.loads(pickle.dumps(opened))
    assert np.array_equal(again.read(scenes[0], SMALL).values, opened.read(scenes[0], SMALL).values)
    assert date(2020, 4, 1) <= scenes[0].date


def test_the_stand_in_names_an_operation_it_does_not_know(url):
    import ee

    opened = source(url)
    with pytest.raises(Denied, match=r"does not know the operation 'Image.add'"):
        opened.account.ask(lambda client: client.data.computeValue(client.Image.constant(1).add(2)))
    assert ee.data.is_initialized()
