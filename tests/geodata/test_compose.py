"""Picking scenes and stacking them, with a source whose scenes are written down."""

import datetime
import re
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from PIL import Image

from geodata.chips import Chip
from geodata.choosing import by_orbit, considered, select
from geodata.codec import Encoded
from geodata.compose import LABELS, Rejection, compose
from geodata.errors import Corrupt, Denied, Missing, Transient
from geodata.grid import Grid, chip_grid
from geodata.landcover import class_table
from geodata.sample import Sample
from geodata.sensors import sensor
from geodata.source import Address, Period, Raster, Scene
from geodata.spec import Area, ChipSpec, ContaminationSpec, CorpusSpec, Quotas, SensorSpec, TileSpec

YEAR = Period.from_text("2020-01-01/2021-01-01")
GRID = Grid(32633, (10.0, 0.0, 600000.0, 0.0, -10.0, 5300040.0), 12, 12)
CHIP = Chip("c-1", 16.3, 47.8, "forest", "alps", GRID, "train", "0-0", 7, 1.5)
NOWHERE = Address(call="sources.geotiff.files")


def part(name="sentinel2", **options) -> SensorSpec:
    return SensorSpec(sensor=name, source=NOWHERE, period=YEAR, **options)


def spec(*parts: SensorSpec, **options) -> CorpusSpec:
    return CorpusSpec(
        name="alps",
        chip=ChipSpec(gsd=10.0, size=12),
        quotas=Quotas(fixed={"forest": 1}),
        regions=Area(name="alps", bounds=(16.0, 47.0, 17.0, 48.0)),
        landcover=NOWHERE,
        sensors=parts,
        **options,
    )


def scene(name: str, day: str, **properties) -> Scene:
    extra = {"epsg": GRID.epsg, "bounds": GRID.bounds}
    when = datetime.date.fromisoformat(day)
    return Scene(name, "sentinel2", when, **extra, properties=tuple(properties.items()))


@dataclass
class Listed:
    """A source of listed scenes: `cloud` is the share of rows under cloud, `fails` what reading a scene raises."""

    scenes: list[Scene]
    name: str = "sentinel2"
    cloud: dict[str, float] = field(default_factory=dict)
    fails: dict[str, Exception] = field(default_factory=dict)
    flat: tuple[str, ...] = ()
    reads: list[str] = field(default_factory=list)

    @property
    def sensor(self):
        return sensor(self.name)

    def search(self, grid, period):
        return sorted((s for s in self.scenes if s.date in period), key=lambda s: (s.date, s.scene_id))

    def read(self, scene, grid):
        self.reads.append(scene.scene_id)
        if scene.scene_id in self.fails:
            raise self.fails[scene.scene_id]
        rng = np.random.default_rng(len(scene.scene_id) + (scene.date.toordinal() if scene.date else 0))
        known = self.sensor
        shape = (len(known.bands), *grid.shape)
        values = rng.integers(1, 250 if known.dtype == "uint8" else 3000, shape).astype(known.dtype)
        if scene.scene_id in self.flat:
            values[:] = 5
        scl = np.full(grid.shape, 4, np.uint8)
        scl[: round(self.cloud.get(scene.scene_id, 0.0) * grid.height)] = 9
        told = scl if known.prefix == "s2" else None
        return Raster(values, np.ones(grid.shape, bool), grid, known.band_names, scl=told)


def monthly(**cloud) -> Listed:
    scenes = [scene(f"m{month:02d}", f"2020-{month:02d}-15", baseline="0300") for month in range(1, 13)]
    return Listed(scenes, cloud=cloud)


def made(source: Listed, one: SensorSpec, **options) -> Sample | Rejection:
    return compose(CHIP, spec(one, **options), {one.sensor: source})


def test_all_takes_the_first_dates_in_order():
    sample = made(monthly(m02=0.5), part(select="all", dates=3))
    assert isinstance(sample, Sample)
    assert sample.layers["s2"].item_ids == ("m01", "m03", "m04")
    assert sample.layers["s2"].pixels.shape == (3, 10, 12, 12)


def test_clearest_is_judged_on_the_chip_and_kept_in_order_of_date():
    cloud = {f"m{month:02d}": 0.25 for month in range(1, 13)} | {"m11": 0.0, "m04": 0.0, "m07": 1 / 12}
    sample = made(monthly(**cloud), part(dates=3, max_cloud=0.5))
    assert sample.layers["s2"].item_ids == ("m04", "m07", "m11")
    assert sample.layers["s2"].cloud == pytest.approx((0.0, 1 / 12, 0.0))


def test_clearest_reads_no_more_scenes_than_needed_when_scenes_tell_their_cloud():
    scenes = [
        scene(f"m{month:02d}", f"2020-{month:02d}-15", cloud=abs(month - 6) / 10) for month in range(1, 13)
    ]
    source = Listed(scenes, cloud={"m06": 1.0})
    sample = made(source, part(dates=2))
    assert source.reads == ["m06", "m05", "m07"]
    assert sample.layers["s2"].item_ids == ("m05", "m07")


def test_spread_takes_one_scene_of_each_part_of_the_period():
    source = monthly()
    one = part(select="spread", dates=4, min_dates=4)
    sample = made(source, one)
    assert [(day.month - 1) // 3 for day in sample.layers["s2"].dates] == [0, 1, 2, 3]
    assert len(source.reads) == 4
    gap = made(monthly(m01=1, m02=1, m03=1), one)
    assert len(gap.layers["s2"].dates) == 4


def test_the_order_of_scenes_is_the_same_for_the_same_seed_and_holds_all():
    scenes, one = monthly().scenes, part(select="spread", dates=4)
    orders = {seed: tuple(s.scene_id for s in select(scenes, one, seed)) for seed in range(20)}
    assert orders[3] == tuple(s.scene_id for s in select(list(reversed(scenes)), one, 3))
    assert all(sorted(order) == [s.scene_id for s in scenes] for order in orders.values())
    assert len(set(orders.values())) > 1
    assert select([], one, 0) == []


def test_one_day_counts_once_and_the_chips_own_zone_comes_first():
    scenes = [
        replace(scene("a", "2020-06-15"), epsg=32632, bounds=(-1e7, 0.0, 1e7, 1e7)),
        scene("b", "2020-06-15"),
        scene("c", "2020-06-16"),
    ]
    source = Listed(scenes)
    assert made(source, part(select="all", dates=3)).layers["s2"].item_ids == ("b", "c")
    assert made(Listed(scenes, cloud={"b": 1.0}), part(select="all", dates=1)).layers["s2"].item_ids == ("a",)


@pytest.mark.parametrize(
    ("source", "options", "reason", "words"),
    [
        (Listed([]), {}, "no_scene", "of 0 scenes in 2020-01-01/2021-01-01, 0 pass and 1 must"),
        (monthly(m01=0.5), {"dates": 12, "min_dates": 12}, "too_few_dates", "of 12 scenes .* 11 pass .*cloudy 1"),
        (Listed([scene("a", "2020-06-15")], cloud={"a": 1}), {}, "cloudy", "cloudy 1"),
        (Listed([scene("a", "2020-06-15")], flat=("a",)), {}, "flat", "flat 1"),
        (Listed([scene("a", "2020-06-15")], fails={"a": Corrupt("a.tif is cut short")}), {}, "corrupt", "a.tif is cut"),
        (Listed([scene("a", "2020-06-15")], fails={"a": Missing("a.tif is gone")}), {}, "missing", "a.tif is gone"),
        (Listed([replace(scene("a", "2020-06-15"), assets=(("B02", "x"),))]), {}, "missing_band", "has no band B03"),
        (Listed([replace(scene("a", "2020-06-15"), bounds=(0, 0, 1, 1))]), {}, "outside", "outside 1"),
    ],
)  # fmt: skip
def test_a_chip_without_enough_acquisitions_is_refused_with_the_reason(source, options, reason, words):
    refused = made(source, part(**options))
    assert isinstance(refused, Rejection)
    assert (refused.chip_id, refused.reason) == ("c-1", reason)
    assert re.search(words, refused.detail)


def test_a_chip_refused_by_its_pixels_brings_a_picture_of_them():
    cloudy = made(monthly(**{f"m{month:02d}": 1.0 for month in range(1, 13)}), part())
    assert cloudy.reason == "cloudy" and cloudy.preview.shape == (12, 12, 3)
    assert made(Listed([]), part()).preview is None


def test_a_damaged_scene_of_a_series_is_left_out_and_logged(caplog):
    source = monthly()
    source.fails = {"m01": Corrupt("m01.tif is cut short; fetch it again")}
    sample = made(source, part(select="all", dates=2))
    assert sample.layers["s2"].item_ids == ("m02", "m03")
    assert "m01.tif is cut short" in caplog.text


def test_a_source_that_does_not_answer_for_one_scene_makes_the_chip_unavailable():
    source = monthly()
    source.fails = {"m03": Transient("the archive is busy")}
    refused = made(source, part(select="all", dates=3))
    assert (refused.reason, refused.detail) == ("unavailable", "the archive is busy")
    assert refused.considered == {"s2": considered(source.scenes)}
    with pytest.raises(Transient):
        compose(CHIP, spec(part(dates=3)), {"sentinel2": source}, pinned={"s2": ["m03"]})


def test_a_service_that_lets_nobody_in_ends_the_run():
    source = monthly()
    source.fails = {"m01": Denied("the token has expired; renew it")}
    with pytest.raises(Denied, match="expired"):
        made(source, part(select="all", dates=2))


def test_the_layers_know_their_dates_sensors_and_properties():
    radar = Listed([scene("r", "2020-03-01", orbit_pass="ASCENDING", relative_orbit=7)], "sentinel1")
    parts = part(bands=("B08", "B02")), part("sentinel1")
    sample = compose(CHIP, spec(*parts), {"sentinel2": monthly(), "sentinel1": radar})
    assert (sample.sample_id, sample.split, sample.region_id, sample.sampling_weight) == (
        "c-1",
        "train",
        7,
        1.5,
    )
    assert sample.layers["s2"].sensor.band_names == ("B08", "B02")
    assert sample.layers["s2"].properties["baseline"] == ("0300",)
    assert sample.layers["s1"].properties == {
        "product": (None,),
        "orbit_pass": ("ASCENDING",),
        "relative_orbit": ("7",),
    }
    both = monthly()
    whole = both.read(both.scenes[0], GRID)
    assert np.array_equal(sample.layers["s2"].pixels[0], whole.values[[6, 0]])
    assert np.isnan(sample.layers["s1"].cloud[0])


def test_a_coarser_sensor_covers_the_same_ground():
    sample = made(monthly(), part(gsd=20.0))
    assert sample.layers["s2"].pixels.shape == (1, 10, 6, 6)
    assert GRID.aligned(GRID.at(sample.layers["s2"].gsd))


def test_an_optional_sensor_may_be_absent():
    sample = compose(
        CHIP,
        spec(part(), part("sentinel1", min_dates=0)),
        {"sentinel2": monthly(), "sentinel1": Listed([], "sentinel1")},
    )
    assert list(sample.layers) == ["s2"]


@dataclass
class Halves:
    """Forest (code 2) in the upper quarter, crops (5) below, nothing in the last row."""

    classes = class_table("esri_2020")

    def at(self, lon, lat):
        raise NotImplementedError

    def read(self, grid):
        codes = np.full(grid.shape, 5, np.uint8)
        codes[: grid.height // 4] = 2
        codes[-1] = 255
        return Raster(codes[None], codes != 255, grid, ("class",))


def test_labels_store_the_map_the_dominant_class_and_the_share_of_the_stratum():
    sample = compose(CHIP, spec(part(), labels=True), {"sentinel2": monthly()}, Halves())
    layer = sample.layers["lc"]
    assert layer.pixels.shape == (1, 1, 12, 12)
    assert np.unique(layer.pixels).tolist() == [2, 5, 255]
    assert layer.nodata == pytest.approx((1 / 12,))
    assert tuple(sample.labels) == LABELS
    assert sample.labels == {"landcover": 5, "stratum_percent": 25}


def test_pinned_scenes_are_read_again_without_judgement_and_a_lost_one_is_named():
    source, one = monthly(m03=1.0), part(dates=2)
    sample = compose(CHIP, spec(one), {"sentinel2": source}, pinned={"s2": ["m03", "m05"]})
    assert sample.layers["s2"].item_ids == ("m03", "m05")
    source.scenes = source.scenes[3:]
    with pytest.raises(
        Missing, match=r"made of sentinel2 scene m03, which sources\.geotiff\.files no longer finds"
    ):
        compose(CHIP, spec(one), {"sentinel2": source}, pinned={"s2": ["m03", "m05"]})


def test_a_source_that_answers_with_another_grid_is_a_bug_and_said_so():
    source = monthly()
    read = source.read
    source.read = lambda scene, grid: read(scene, grid.pad(1))
    with pytest.raises(ValueError, match="not the grid asked for"):
        made(source, part())


def undated(name: str, **properties) -> Scene:
    return replace(scene(name, "2020-06-15", **properties), date=None)


@dataclass
class Mosaics(Listed):
    """Scenes without a date: a search of any period finds them."""

    def search(self, grid, period):
        return sorted(self.scenes, key=lambda scene: scene.scene_id)


def test_scenes_without_a_date_are_each_their_own_and_come_last():
    scenes = [undated("b"), scene("d", "2020-03-01"), undated("a"), scene("c", "2020-02-01")]
    sample = made(Mosaics(scenes), part(select="all", dates=4))
    assert sample.layers["s2"].item_ids == ("c", "d", "a", "b")
    assert sample.layers["s2"].dates[2:] == (None, None)
    spread = select(scenes, part(select="spread", dates=2), 0)
    assert [one.scene_id for one in spread[2:]] == ["a", "b"]


def test_providers_are_dealt_out_in_turn_and_the_next_steps_in():
    scenes = [undated("y", provider="beta"), undated("x", provider="gamma"), undated("z", provider="alpha")]
    part_ = part("optical", gsd=10.0, select="rotate")
    taken = []
    for draw in range(6):
        chip = replace(CHIP, draw=draw)
        sample = compose(chip, spec(part_), {"optical": Mosaics(scenes, "optical")})
        taken.append(sample.layers["hr"].properties["provider"][0])
    assert taken == ["alpha", "beta", "gamma"] * 2
    broken = Mosaics(scenes, "optical", fails={"z": Missing("no tile")})
    sample = compose(CHIP, spec(part_), {"optical": broken})
    assert sample.layers["hr"].item_ids == ("y",)
    assert sample.layers["hr"].refused == {"z": "missing"}


def radar(
    name: str, day: str, orbit: int | None, product: str = "gamma0_rtc", side: str = "ASCENDING"
) -> Scene:
    known = {"product": product, "orbit_pass": side} | ({} if orbit is None else {"relative_orbit": orbit})
    return scene(name, day, **known)


def two_orbits() -> list[Scene]:
    return [
        radar("a1", "2020-01-01", 15),
        radar("b1", "2020-01-03", 88, side="DESCENDING"),
        radar("b1-again", "2020-01-03", 88, side="DESCENDING"),
        radar("a2", "2020-01-07", 15),
        radar("b2", "2020-01-09", 88, side="DESCENDING"),
        radar("a3", "2020-01-13", 15),
    ]


def test_one_orbit_is_that_with_most_days_and_of_equals_the_lower_number():
    one = part("sentinel1", select="all", dates=9, orbit="one")
    sample = made(Listed(two_orbits(), "sentinel1"), one)
    assert sample.layers["s1"].item_ids == ("a1", "a2", "a3")
    assert set(sample.layers["s1"].properties["relative_orbit"]) == {"15"}
    equal = made(Listed(two_orbits()[:5], "sentinel1"), one)
    assert equal.layers["s1"].item_ids == ("a1", "a2")
    assert (
        len(
            made(Listed(two_orbits(), "sentinel1"), part("sentinel1", select="all", dates=9))
            .layers["s1"]
            .dates
        )
        == 5
    )
    assert [name for name, _ in by_orbit([radar("u", "2020-01-01", None)])] == ["unknown orbit ASCENDING"]


def test_an_orbit_whose_scenes_do_not_pass_gives_way_to_the_next():
    one = part("sentinel1", select="all", dates=9, min_dates=2, orbit="one")
    source = Listed(two_orbits(), "sentinel1", flat=("a1", "a3"))
    assert made(source, one).layers["s1"].item_ids == ("b1", "b2")
    source.flat = ("a1", "a3", "b2")
    refused = made(source, one)
    assert refused.reason == "too_few_dates"
    assert "1 pass and 2 must in one orbit (flat 3)" in refused.detail


def test_radar_of_two_products_never_meets_in_a_layer():
    scenes = [radar("a", "2020-01-01", 15), radar("b", "2020-01-07", 15, product="sigma0_grd")]
    refused = made(Listed(scenes, "sentinel1"), part("sentinel1", dates=2))
    assert refused.reason == "mixed_product"
    assert "sources.geotiff.files offers gamma0_rtc and sigma0_grd for one chip" in refused.detail


@dataclass
class Stack(Listed):
    """A source that is asked for several scenes at once, and answers for each."""

    asked: list[list[str]] = field(default_factory=list)

    def stack(self, scenes, grid):
        self.asked.append([one.scene_id for one in scenes])
        answers = []
        for one in scenes:
            try:
                answers.append(self.read(one, grid))
            except (Missing, Corrupt, Transient) as error:
                answers.append(error)
        return answers


def stacked(source: Listed) -> Stack:
    return Stack(**{name: getattr(source, name) for name in ("scenes", "name", "cloud", "fails", "flat")})


@pytest.mark.parametrize("select", ["all", "spread", "clearest"])
def test_a_source_that_stacks_is_asked_for_all_that_is_wanted_and_gives_the_same_sample(select):
    plain = monthly(m01=1.0, m04=0.3, m05=1.0)
    plain.fails = {"m02": Missing("gone"), "m07": Corrupt("cut short")}
    one = part(select=select, dates=4, min_dates=4, max_cloud=0.5)
    several = stacked(plain)
    expected, sample = made(plain, one), made(several, one)
    assert sample.layers["s2"].item_ids == expected.layers["s2"].item_ids
    assert sample.layers["s2"].pixel_hash() == expected.layers["s2"].pixel_hash()
    assert sample.layers["s2"].refused == expected.layers["s2"].refused
    assert len(several.asked[0]) == (12 if select == "clearest" else 4)
    assert len(several.asked) <= 3


def test_one_scene_of_a_stack_that_was_not_answered_makes_the_chip_unavailable():
    source = stacked(monthly())
    source.fails = {"m02": Transient("timed out")}
    assert made(source, part(select="all", dates=3)).reason == "unavailable"


def test_scenes_that_are_known_are_not_asked_for_again():
    source = stacked(monthly(m02=0.6))
    one = part(select="all", dates=3)
    before = made(source, one)
    assert before.layers["s2"].item_ids == ("m01", "m03", "m04")
    source.scenes = [*source.scenes[2:], scene("m02b", "2020-02-20", baseline="0400")]
    source.reads.clear()
    source.asked.clear()
    after = compose(CHIP, spec(one), {"sentinel2": source}, known=before)
    assert after.layers["s2"].item_ids == ("m02b", "m03", "m04")
    assert source.reads == ["m02b"] and source.asked == []
    assert np.array_equal(after.layers["s2"].pixels[1:], before.layers["s2"].pixels[1:])
    assert np.array_equal(after.layers["s2"].scl[1:], before.layers["s2"].scl[1:])
    other = compose(
        CHIP, spec(part(select="all", dates=3, bands=("B02",))), {"sentinel2": source}, known=before
    )
    assert other.layers["s2"].item_ids == ("m02b", "m03", "m04")
    assert sorted(source.reads) == ["m02b", "m02b", "m03", "m04"]


def test_what_was_considered_and_refused_travels_with_the_layer():
    source = monthly(m01=0.9)
    source.fails = {"m02": Missing("gone")}
    layer = made(source, part(select="all", dates=2)).layers["s2"]
    assert layer.refused == {"m01": "cloudy", "m02": "missing"}
    assert layer.considered == considered(list(reversed(source.scenes))) != considered(source.scenes[1:])


def test_licences_and_remote_addresses_are_told_of_the_scenes_that_were_kept():
    free = {"license": "CC-BY-4.0", "attribution": "Copernicus", "redistribute": True}
    scenes = [
        replace(scene("a", "2020-01-01", **free), assets=tuple((b, f"https://host/{b}.tif") for b in sensor("sentinel2").band_names)),
        scene("b", "2020-02-01", **free | {"redistribute": False, "license": "proprietary"}),
        scene("c", "2020-03-01", license="never kept"),
    ]  # fmt: skip
    layer = made(Listed(scenes), part(select="all", dates=2)).layers["s2"]
    assert (layer.license, layer.attribution, layer.redistribute) == (
        "CC-BY-4.0; proprietary",
        "Copernicus",
        False,
    )
    assert list(layer.hrefs) == ["a"] and layer.hrefs["a"]["B04"] == "https://host/B04.tif"
    plain = made(monthly(), part()).layers["s2"]
    assert (plain.license, plain.attribution, plain.redistribute, plain.hrefs) == ("", "", True, {})


def test_original_files_are_passed_on_unless_bands_are_left_out():
    @dataclass
    class Pictures(Mosaics):
        def read(self, scene, grid):
            raster = super().read(scene, grid)
            return replace(raster, encoded=Encoded("image/png", ((scene.scene_id.encode(),),)))

    source = Pictures([undated("a"), undated("b")], "optical")
    layer = made(source, part("optical", gsd=10.0, select="all", dates=2)).layers["hr"]
    assert [one.tiles for one in layer.encoded] == [((b"a",),), ((b"b",),)]
    fewer = made(source, part("optical", gsd=10.0, bands=("G",))).layers["hr"]
    assert fewer.encoded == ()


def test_a_chip_whose_stratum_covers_too_little_is_refused_before_anything_is_read():
    source = monthly()
    refused = compose(CHIP, spec(part(), min_share=0.3), {"sentinel2": source}, Halves())
    assert (refused.reason, source.reads) == ("mixed", [])
    assert refused.detail == "forest covers 25% of the chip, and 30% must be"
    sample = compose(CHIP, spec(part(), min_share=0.25), {"sentinel2": source}, Halves())
    assert list(sample.layers) == ["s2"] and sample.labels == {}


def over(lon: float, lat: float) -> Chip:
    return replace(CHIP, lon=lon, lat=lat, grid=chip_grid(lon, lat, 10.0, 12))


@dataclass
class Anywhere(Listed):
    """Scenes that cover whatever is asked for."""

    def search(self, grid, period):
        return [replace(one, epsg=grid.epsg, bounds=grid.bounds) for one in super().search(grid, period)]


def test_ground_of_a_benchmark_is_reported_or_excluded_before_anything_is_read():
    source, chip = Anywhere(monthly().scenes), over(8.96, 48.93)
    rule = ContaminationSpec(benchmarks=("vaihingen", "potsdam"))
    sample = compose(chip, spec(part(), contamination=rule), {"sentinel2": source})
    assert sample.contamination == ("vaihingen 0.0 km (city: Vaihingen an der Enz)",)
    source.reads.clear()
    rule = rule.model_copy(update={"action": "exclude"})
    refused = compose(chip, spec(part(), contamination=rule), {"sentinel2": source})
    assert (refused.reason, source.reads) == ("contaminated", [])
    assert refused.detail.startswith("vaihingen 0.0 km")
    assert (
        compose(over(11.0, 52.0), spec(part(), contamination=rule), {"sentinel2": source}).contamination == ()
    )


def test_a_picture_of_a_benchmark_is_recognised_by_its_hash(tmp_path):
    source = Mosaics([undated("a")], "optical")
    one = part("optical", gsd=10.0)
    pixels = made(source, one).layers["hr"].pixels[0]
    Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / "same.png")
    rule = ContaminationSpec(images=(str(tmp_path),), near_bits=2)
    assert made(source, one, contamination=rule).contamination == (f"{tmp_path.name} same.png 0 bits",)
    refused = made(source, one, contamination=rule.model_copy(update={"action": "exclude"}))
    assert refused.reason == "contaminated"


def test_pinned_samples_are_proved_and_not_judged():
    rule = ContaminationSpec(benchmarks=("vaihingen",), action="exclude")
    chip, source = over(8.96, 48.93), Anywhere(monthly(m03=1.0).scenes)
    one = spec(part(dates=2), contamination=rule, min_share=0.9)
    sample = compose(chip, one, {"sentinel2": source}, Halves(), pinned={"s2": ["m03", "m05"]})
    assert sample.contamination == ("vaihingen 0.0 km (city: Vaihingen an der Enz)",)
    assert sample.layers["s2"].considered == considered(source.scenes)


def test_series_of_both_offset_conventions_are_flagged_by_date():
    @dataclass
    class Offset(Listed):
        def read(self, scene, grid):
            raster = super().read(scene, grid)
            return replace(raster, values=raster.values + np.uint16(1000 if scene.scene_id == "m02" else 100))

    source = Offset([replace(one, properties=(("offset_applied_by", "source"),)) for one in monthly().scenes])
    layer = made(source, part(select="all", dates=4)).layers["s2"]
    assert [bool(flag) for flag in layer.flags] == [False, True, False, False]
    assert "offset not removed" in layer.flags[1]
    for date, value in enumerate(layer.dark):
        bands = [layer.sensor.band_names.index(name) for name in ("B02", "B11", "B12")]
        assert value == min(np.percentile(layer.pixels[date, band], 1) for band in bands)


def test_tile_chips_keep_the_grid_of_their_zoom():
    chip = replace(
        CHIP,
        grid=Grid(3857, (4.777314267823516, 0.0, 1878516.4, 0.0, -4.777314267823516, 6261721.4), 256, 256),
    )
    one = CorpusSpec(
        name="tiles",
        chip=TileSpec(size=256, tile=256),
        quotas=Quotas(fixed={"forest": 1}),
        regions=Area(name="alps", bounds=(16.0, 47.0, 17.0, 48.0)),
        landcover=NOWHERE,
        sensors=(part("optical", select="rotate"),),
    )
    scenes = [replace(undated("a"), epsg=3857, bounds=chip.grid.bounds)]
    sample = compose(chip, one, {"optical": Mosaics(scenes, "optical")})
    assert sample.layers["hr"].pixels.shape == (1, 3, 256, 256)
    assert sample.layers["hr"].gsd == chip.grid.gsd
    assert sample.layers["hr"].phash is not None
