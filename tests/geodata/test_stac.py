"""STAC against the stand-in: held against the synthetic Earth, plain rasterio, and formulas of the metadata."""

import json
import os
import urllib.parse
from datetime import date, timedelta

import numpy as np
import pystac
import pytest
import rasterio
import requests
from rasterio.windows import from_bounds

from geodata.chips import Chip
from geodata.compose import compose
from geodata.errors import Corrupt, Denied, Missing
from geodata.governor import Limits
from geodata.grid import chip_grid
from geodata.quality import inside_share
from geodata.radiometry import flags
from geodata.sample import Sample
from geodata.source import Address, Period
from geodata.sources import cog, stac, stac_items, stac_landcover, synthetic
from geodata.spec import Area, ChipSpec, CorpusSpec, Quotas, SensorSpec
from geodata.stubs import server
from geodata.stubs import stac as stand_in

LON, LAT = 16.35, 47.84
CHIP = chip_grid(LON, LAT, 10.0, 64)
SUMMER = Period.from_text("2020-06-01/2020-07-01")
KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def served():
    with server.serve([stand_in.routes()]) as stub:
        yield stub


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """Limits are for services that others use too."""
    for name in ("API_LIMITS", "SAS_LIMITS"):
        monkeypatch.setattr(stac_items, name, Limits(8, 1000.0))


@pytest.fixture
def stub(served):
    served.show("none")
    cog.forget()
    yield served
    served.show("none")


def planetary(stub, collection="sentinel-2-l2a", **options):
    return stac.planetary_computer(collection, api=f"{stub.url}/pc", tokens=f"{stub.url}/token", **options)


def known(source, grid=CHIP, period=SUMMER):
    return {scene.date: scene for scene in source.search(grid, period)}


def test_both_conventions_of_the_offset_in_one_series_give_the_pixels_of_the_synthetic_earth(stub):
    source, truth = planetary(stub, bands=["B02", "B11", "B8A"]), synthetic.sentinel2(0)
    wanted = known(truth)
    shared = [scene for scene in source.search(CHIP, SUMMER) if scene.date in wanted][:4]
    assert {scene.get("offset_applied_by") for scene in shared} == {"us", "none"}
    rows = [truth.sensor.band_names.index(band) for band in ("B02", "B11", "B8A")]
    for scene in shared:
        carries = float(str(scene.get("baseline"))) >= 4
        assert scene.get("offset_applied_by") == ("us" if carries else "none")
        raster, expected = source.read(scene, CHIP), truth.read(wanted[scene.date], CHIP)
        assert np.array_equal(raster.values, expected.values[rows])
        assert np.array_equal(raster.scl, expected.scl)
        assert not raster.resampled and scene.get("cloud_by") == "scl"


def test_pixels_are_those_of_plain_rasterio_less_the_offset(stub):
    source = planetary(stub, bands=["B03"])
    scene = next(one for one in source.search(CHIP, SUMMER) if one.get("offset_applied_by") == "us")
    token = requests.get(f"{stub.url}/token/sentinel2l2a01/sentinel-2-l2a", timeout=10).json()["token"]
    alone = rasterio.Env(
        GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"
    )  # a server in this process cannot list a folder
    with alone, rasterio.open(f"{scene.asset('B03')}?{token}") as file:
        stored = file.read(1, window=from_bounds(*CHIP.bounds, file.transform)).astype(int)
        assert file.crs.to_epsg() == scene.epsg
        assert tuple(file.bounds) == scene.bounds
    assert np.array_equal(source.read(scene, CHIP).values[0], stored - 1000)


def test_the_stand_ins_items_are_items_to_pystac(stub):
    asked = {"collections": ["sentinel-2-l2a"], "bbox": [LON, LAT, LON, LAT], "limit": 3}
    answer = requests.post(f"{stub.url}/pc/search", json=asked, timeout=30).json()
    for told in answer["features"]:
        item = pystac.Item.from_dict(told)
        assert item.datetime is not None and item.assets["B02"].href.startswith(stub.url)
        assert item.to_dict()["properties"]["proj:epsg"] == 32633


def test_earth_search_calls_bands_by_colour_and_says_who_removed_the_offset(stub):
    source = stac.earth_search(api=f"{stub.url}/es", bands=["B04"])
    truth = synthetic.sentinel2(0)
    wanted = known(truth)
    shared = [scene for scene in source.search(CHIP, SUMMER) if scene.date in wanted][:3]
    assert {scene.get("offset_applied_by") for scene in shared} == {"source", "none"}
    row = truth.sensor.band_names.index("B04")
    for scene in shared:
        assert np.array_equal(
            source.read(scene, CHIP).values[0], truth.read(wanted[scene.date], CHIP).values[row]
        )


@pytest.mark.parametrize(("lie", "told"), [("removed", "offset not removed"), ("kept", "removed twice")])
def test_a_flag_that_lies_is_seen_in_dark_pixels(lie, told):
    with server.serve([stand_in.routes(offsets="all", lie=lie)]) as stub:
        source = stac.earth_search(api=f"{stub.url}/es", bands=["B02", "B11", "B12"])
        scene = next(one for one in source.search(CHIP, SUMMER) if float(one.get("cloud") or 0) < 0.2)
        raster = source.read(scene, CHIP)
    _, told_of = flags(source.sensor, raster.values[None], [dict(scene.properties)])
    assert told in told_of[0]


def test_of_two_processings_the_last_is_offered_and_the_first_is_found_by_id(stub):
    source = planetary(stub, bands=["B02"])
    asked = {"collections": ["sentinel-2-l2a"], "bbox": list(CHIP.bbox()), "limit": 1000}
    asked["datetime"] = f"{SUMMER.first}T00:00:00Z/{SUMMER.last - timedelta(days=1)}T23:59:59Z"
    listed = {
        item["id"]
        for item in requests.post(f"{stub.url}/pc/search", json=asked, timeout=30).json()["features"]
    }
    twice = [name for name in listed if "_N0214_" in name and name.replace("_N0214_", "_N0500_") in listed]
    assert twice, "the stand-in lists some acquisitions in both processings"
    offered = {scene.scene_id for scene in source.search(CHIP, SUMMER)}
    assert offered == listed - set(twice)
    first, last = source.by_ids([twice[0], twice[0].replace("_N0214_", "_N0500_")])
    assert (first.get("baseline"), last.get("baseline")) == ("02.14", "05.00")
    assert np.array_equal(source.read(first, CHIP).values, source.read(last, CHIP).values)


def test_a_recorded_sample_is_made_again_of_its_scenes_though_no_search_lists_them(stub):
    source = planetary(stub, bands=["B02"])
    offered = [one.scene_id for one in source.search(CHIP, SUMMER) if "_N0500_" in one.scene_id]
    earlier = [one.replace("_N0500_", "_N0214_") for one in offered]
    address = Address(call="sources.stac.planetary_computer", options={"api": f"{stub.url}/pc"})
    part = SensorSpec(
        sensor="sentinel2", bands=("B02",), source=address, period=SUMMER, dates=1, max_cloud=1.0
    )
    spec = CorpusSpec(
        name="again",
        chip=ChipSpec(gsd=10.0, size=64),
        quotas=Quotas(fixed={"forest": 1}),
        regions=Area(name="here", bounds=(16.0, 47.0, 17.0, 48.0)),
        landcover=address,
        sensors=(part,),
    )
    chip = Chip("c-1", LON, LAT, "forest", "here", CHIP, "train", "0-0", 0, 1.0)
    first = compose(chip, spec, {"sentinel2": source})
    again = compose(chip, spec, {"sentinel2": source}, pinned={"s2": earlier[:1]})
    assert isinstance(first, Sample) and isinstance(again, Sample)
    assert again.layers["s2"].item_ids == tuple(earlier[:1])
    layer = first.layers["s2"]
    assert layer.redistribute and "Copernicus" in layer.attribution
    href = layer.hrefs[layer.item_ids[0]]["B02"]
    assert href.startswith(stub.url) and "?" not in href
    with pytest.raises(Missing):
        compose(chip, spec, {"sentinel2": source}, pinned={"s2": ["S2_20200601_N0214_33N_900_1"]})


def test_scenes_carry_what_finds_them_again_and_whose_they_are(stub):
    for scene in (
        planetary(stub).search(CHIP, SUMMER)[0],
        planetary(stub, "sentinel-1-rtc").search(CHIP, SUMMER)[0],
        planetary(stub, "naip").search(CHIP, SUMMER)[0],
    ):
        assert all(href.startswith(f"{stub.url}/") and "?" not in href for _, href in scene.assets)
        assert scene.get("updated") and scene.get("license") and scene.get("attribution")
        assert scene.get("redistribute") is True


def test_radar_is_gamma0_in_hundredths_of_a_decibel_with_its_orbit(stub):
    source, truth = planetary(stub, "sentinel-1-rtc"), synthetic.sentinel1(0)
    wanted = known(truth)
    scene = next(one for one in source.search(CHIP, SUMMER) if one.date in wanted)
    assert np.array_equal(source.read(scene, CHIP).values, truth.read(wanted[scene.date], CHIP).values)
    for name in ("product", "orbit_pass", "relative_orbit"):
        assert str(scene.get(name)) == str(wanted[scene.date].get(name))


def test_naip_is_the_camera_at_a_metre(stub):
    source, truth = planetary(stub, "naip"), synthetic.optical(0, 1.0)
    grid = chip_grid(LON, LAT, 1.0, 128)
    scene, wanted = source.search(grid, SUMMER)[0], truth.search(grid, SUMMER)[0]
    assert scene.date == wanted.date and source.sensor.gsd == 1.0
    assert np.array_equal(source.read(scene, grid).values, truth.read(wanted, grid).values)


def test_a_scene_that_ends_inside_the_chip_is_nodata_beyond_its_end(stub):
    source = planetary(stub, bands=["B02", "B05"])
    right = source.search(CHIP, SUMMER)[0].bounds[2]
    grid = CHIP.crop(0, round((right - CHIP.bounds[0]) / 10) - 24, 64, 64)
    scene = next(one for one in source.search(grid, SUMMER) if one.bounds[2] == right)
    raster = source.read(scene, grid)
    assert raster.valid.mean() == pytest.approx(24 / 64) == inside_share(scene, grid)
    assert raster.valid[:, :24].all() and not raster.values[:, :, 24:].any()


def test_pages_are_followed_in_both_dialects(stub, monkeypatch):
    whole = {name: len(source.search(CHIP, SUMMER)) for name, source in both(stub).items()}
    monkeypatch.setattr(stac_items, "PAGE", 9)
    stub.show("none")
    paged = {name: len(source.search(CHIP, SUMMER)) for name, source in both(stub).items()}
    assert paged == whole
    assert stub.stats()["requests"]["stac search"] > 4


def both(stub):
    return {"pc": planetary(stub), "es": stac.earth_search(api=f"{stub.url}/es")}


def test_neighbouring_chips_share_one_search_and_find_what_alone_they_would(stub):
    source = planetary(stub)
    chips = [chip_grid(16.30 + 0.02 * step, 47.80, 10.0, 64) for step in range(6)]
    found = [source.search(chip, SUMMER) for chip in chips]
    assert stub.stats()["requests"]["stac search"] == 1
    assert [planetary(stub).search(chip, SUMMER) for chip in reversed(chips)] == found[::-1]


def test_a_chip_at_the_antimeridian_finds_scenes_of_both_sides(stub):
    grid = chip_grid(179.999, -17.0, 10.0, 64)
    zones = {scene.epsg for scene in planetary(stub).search(grid, SUMMER)}
    assert zones == {32760, 32701}


def test_one_token_serves_many_files_and_is_renewed_before_it_ends(stub):
    source = planetary(stub, bands=["B02", "B03", "B04"])
    scenes = source.search(CHIP, SUMMER)[:2]
    for scene in scenes:
        source.read(scene, CHIP)
    assert stub.stats()["requests"]["stac token"] == 1
    with server.serve([stand_in.routes(lifetime_s=30.0)]) as other:
        source = planetary(other, bands=["B02", "B03"])
        scene = source.search(CHIP, SUMMER)[0]
        source.read(scene, CHIP)
        assert other.stats()["requests"]["stac token"] == len(scene.assets)


def test_a_token_that_ended_in_the_middle_of_a_run_is_asked_for_anew(stub, monkeypatch):
    source = planetary(stub, bands=["B02"])
    first, second = source.search(CHIP, SUMMER)[:2]
    source.read(first, CHIP)
    monkeypatch.setattr(stand_in, "_signature", lambda known, until: f"{known.name} {until} anew")
    assert source.read(second, CHIP).valid.any()
    assert stub.stats()["requests"]["stac token"] == 2


def test_a_storage_that_refuses_every_token_ends_the_run_in_a_sentence_without_signature(stub):
    source = planetary(stub, bands=["B02"])
    scene = source.search(CHIP, SUMMER)[0]
    stub.show([{"fault": "403", "match": "^stac file", "times": None}])
    with pytest.raises(Denied, match="refuses a token that was just issued") as told:
        source.read(scene, CHIP)
    assert "sig=" not in str(told.value) and "se=" not in str(told.value)


def test_too_many_questions_for_tokens_are_asked_again(stub):
    source = planetary(stub, bands=["B02"])
    scene = source.search(CHIP, SUMMER)[0]
    stub.show([{"fault": "429", "match": "^stac token", "times": 2}])
    assert source.read(scene, CHIP).valid.any()
    assert stub.stats()["faults"] == {"429": 2}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("fault", ["truncated", "closed", "503"])
def test_files_that_answer_brokenly_are_read_again_to_the_same_pixels(stub, fault):
    source = planetary(stub, bands=["B02", "B11"])
    scene = source.search(CHIP, SUMMER)[0]
    expected = source.read(scene, CHIP)
    cog.forget()
    stub.show([{"fault": fault, "match": "^stac file GET", "count": 2}])
    raster = source.read(scene, CHIP)
    assert np.array_equal(raster.values, expected.values) and np.array_equal(raster.scl, expected.scl)
    assert stub.stats()["faults"] == {fault: 2}


def test_a_band_that_is_gone_is_missing_in_words_without_signature(stub):
    source = planetary(stub, bands=["B02", "B03"])
    scene = source.search(CHIP, SUMMER)[0]
    stub.show([{"fault": "404", "match": "B03", "times": None}])
    with pytest.raises(Missing, match=r"B03\.tif is not there") as told:
        source.read(scene, CHIP)
    assert "sig=" not in str(told.value)


def test_a_subscription_key_is_sent_and_never_told(monkeypatch):
    with server.serve([stand_in.routes(key=KEY)]) as stub:
        monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", "wrong-and-secret")
        source = planetary(stub, "sentinel-1-rtc")
        scene = source.search(CHIP, SUMMER)[0]
        with pytest.raises(Denied, match="subscription key") as told:
            source.read(scene, CHIP)
        assert "wrong-and-secret" not in str(told.value) + repr(source.search(CHIP, SUMMER))
        monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", KEY)
        assert planetary(stub, "sentinel-1-rtc").read(scene, CHIP).valid.any()


def test_tokens_of_azure_are_asked_for_by_account_and_container_and_other_addresses_stay(stub):
    signer = stac_items.Signer(f"{stub.url}/token")
    signed = signer.signed("https://sentinel2l2a01.blob.core.windows.net/sentinel-2-l2a/10/x.tif")
    assert urllib.parse.parse_qs(urllib.parse.urlsplit(signed).query)["sp"] == ["rl"]
    for href in ("https://example.org/a/b/c.tif", "/data/x.tif", "s3://bucket/x.tif"):
        assert signer.signed(href) == href


def test_services_that_refuse_or_answer_nonsense_are_told_apart(stub):
    stub.show([{"fault": "401", "match": "^stac search", "times": None}])
    with pytest.raises(Denied, match="invalid authentication"):
        planetary(stub).search(CHIP, SUMMER)
    stub.show("none")
    with pytest.raises(Missing, match="no-such"):
        stac.search(
            f"{stub.url}/pc", "no-such", "sentinel2_l2a", stac.EARTH_SEARCH_PRODUCTS["sentinel-2-l2a"].assets
        ).items.collection()


def answering(body):
    return server.Routes("odd", ("/odd/",), lambda request: server.Response(json.dumps(body).encode(), 200))


def test_pages_that_lead_in_a_circle_and_items_that_are_none_are_corrupt():
    again = {"rel": "next", "href": "search", "method": "POST"}
    circle = {"type": "FeatureCollection", "features": [{"type": "Feature", "id": "a"}], "links": [again]}
    with server.serve([answering(circle)]) as stub, pytest.raises(Corrupt, match="lead back"):
        stac.earth_search(api=f"{stub.url}/odd").search(CHIP, SUMMER)
    nowhere = {"type": "Feature", "id": "a", "bbox": [16, 47, 17, 48], "properties": {}}
    listed = {"type": "FeatureCollection", "features": [nowhere]}
    with server.serve([answering(listed)]) as stub, pytest.raises(Corrupt, match="item a does not say"):
        stac.earth_search(api=f"{stub.url}/odd").search(CHIP, SUMMER)
    with server.serve([answering(["no", "object"])]) as stub, pytest.raises(Corrupt, match="'list'"):
        stac.earth_search(api=f"{stub.url}/odd").search(CHIP, SUMMER)


def catalog_of(folder, license, **properties):
    """A catalog of one item whose three bands lie in one local file."""
    known = {"datetime": "2020-06-05T10:00:00Z", "proj:code": f"EPSG:{CHIP.epsg}", **properties}
    known |= {"proj:shape": list(CHIP.shape), "proj:transform": list(CHIP.transform)}
    asset = {"href": "./picture.tif"}
    item = {"type": "Feature", "id": "one", "collection": "aerial", "bbox": list(CHIP.bbox())}
    item |= {"geometry": None, "assets": {"image": asset}, "properties": known}
    about = {"type": "Collection", "id": "aerial", "license": license, "providers": [{"name": "Survey"}]}
    about["links"] = [{"rel": "item", "href": "./item.json"}, {"rel": "license", "href": "https://x.org/l"}]
    (folder / "item.json").write_text(json.dumps(item))
    (folder / "collection.json").write_text(json.dumps(about))
    pixels = np.random.default_rng(3).integers(1, 255, (3, *CHIP.shape)).astype(np.uint8)
    with rasterio.open(
        folder / "picture.tif", "w", driver="GTiff", count=3, dtype="uint8", height=64, width=64,
        crs=f"EPSG:{CHIP.epsg}", transform=CHIP.affine(),
    ) as file:  # fmt: skip
        file.write(pixels)
    return os.path.join(folder, "collection.json"), pixels


RGB = {"R": "image#1", "G": "image#2", "B": "image#3"}


@pytest.mark.parametrize(
    ("license", "may"),
    [("CC-BY-4.0", True), ("CC-BY-NC-4.0", False), ("proprietary", False), ("CC0-1.0", True)],
)
def test_a_catalog_of_files_is_read_with_its_licence(tmp_path, license, may):
    root, pixels = catalog_of(tmp_path, license)
    source = stac.catalog(root, "optical", RGB, collection="aerial")
    (scene,) = source.search(CHIP, SUMMER)
    assert (scene.date, scene.epsg, scene.bounds) == (date(2020, 6, 5), CHIP.epsg, CHIP.bounds)
    assert (scene.get("license"), scene.get("attribution")) == (f"{license} https://x.org/l", "Survey")
    assert scene.get("redistribute") is may
    assert np.array_equal(source.read(scene, CHIP).values, pixels)
    assert source.search(CHIP, Period.from_text("2021-01-01/2022-01-01")) == []
    assert source.search(chip_grid(20.0, 47.84, 10.0, 64), SUMMER) == []


def test_catalogs_that_hold_nothing_or_are_no_json_say_so(tmp_path):
    root, _ = catalog_of(tmp_path, "CC0-1.0")
    with pytest.raises(Missing, match="no items of collection other"):
        stac.catalog(root, "optical", RGB, collection="other").search(CHIP, SUMMER)
    with pytest.raises(Missing, match="cannot be read"):
        stac.catalog(str(tmp_path / "gone.json"), "optical", RGB).search(CHIP, SUMMER)
    (tmp_path / "item.json").write_text("{")
    with pytest.raises(Corrupt, match="is no JSON"):
        stac.catalog(root, "optical", RGB).search(CHIP, SUMMER)


def test_sentinel2_without_baseline_or_offset_is_refused_unless_one_is_stated(tmp_path):
    root, _ = catalog_of(tmp_path, "CC0-1.0")
    assets = {"B02": "image#1", "B03": "image#2", "B04": "image#3"}
    with pytest.raises(ValueError, match="whether its DNs carry the offset is unknown"):
        stac.catalog(root, "sentinel2", assets).search(CHIP, SUMMER)
    (scene,) = stac.catalog(root, "sentinel2", assets, offset="none").search(CHIP, SUMMER)
    assert scene.get("offset_applied_by") == "none"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: stac.planetary_computer("landsat"), "no ready-made collection 'landsat'"),
        (lambda: stac.planetary_computer(bands=["B10"]), "has no band 'B10'"),
        (lambda: stac.planetary_computer(sensor="sentinel1"), "holds sentinel2, not sentinel1"),
        (lambda: stac.search("ftp://x", "c", "sentinel2", {"B02": "b"}), "begins with https://"),
        (lambda: stac.search("https://x", "c", "sentinel1", {"VV": "vv"}), "say `product`"),
        (lambda: stac.search("https://x", "c", "optical", RGB, unit="power"), "is for radar"),
    ],
)
def test_requests_that_cannot_work_are_refused_in_a_sentence(wrong, told):
    with pytest.raises(ValueError, match=told):
        wrong()


def test_the_price_is_near_what_is_asked(stub):
    source = planetary(stub, bands=["B02", "B03"])
    scenes = source.search(CHIP, SUMMER)[:2]
    for scene in scenes:
        source.read(scene, CHIP)
    asked = sum(stub.stats()["requests"].values())
    assert 0.4 < source.cost(2, CHIP).requests / asked < 2.5


def test_the_map_of_a_year_is_the_synthetic_one_in_the_codes_of_the_series(stub):
    cover = stac_landcover.planetary_computer(api=f"{stub.url}/pc", tokens=f"{stub.url}/token")
    truth = synthetic.landcover(0).read(CHIP).values
    expected = np.where(np.isin(truth, (3, 6)), 11, truth)
    raster = cover.read(CHIP)
    assert np.array_equal(raster.values, expected) and not raster.resampled
    lon, lat = CHIP.lonlat()
    rows, columns = np.array([3, 40, 61]), np.array([60, 5, 33])
    assert np.array_equal(cover.at(lon[rows, columns], lat[rows, columns]), expected[0, rows, columns])
    assert cover.classes.name == "esri_series"
    with pytest.raises(ValueError, match="no map is called 'naip'"):
        stac_landcover.planetary_computer("naip")
