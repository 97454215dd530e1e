"""Picking scenes and stacking them, with a source whose scenes are written down."""

import datetime
import re
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from geodata.chips import Chip
from geodata.compose import LABELS, Rejection, compose, select
from geodata.errors import Corrupt, Missing, Transient
from geodata.grid import Grid
from geodata.landcover import class_table
from geodata.sample import Sample
from geodata.sensors import sensor
from geodata.source import Address, Period, Raster, Scene
from geodata.spec import Area, ChipSpec, CorpusSpec, Quotas, SensorSpec

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
        rng = np.random.default_rng(len(scene.scene_id) + scene.date.toordinal())
        known = self.sensor
        shape = (len(known.bands), *grid.shape)
        values = rng.integers(1, 3000, shape).astype(known.dtype)
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


def test_a_damaged_scene_of_a_series_is_left_out_and_logged(caplog):
    source = monthly()
    source.fails = {"m01": Corrupt("m01.tif is cut short; fetch it again")}
    sample = made(source, part(select="all", dates=2))
    assert sample.layers["s2"].item_ids == ("m02", "m03")
    assert "m01.tif is cut short" in caplog.text


def test_a_source_that_does_not_answer_is_no_rejection():
    source = monthly()
    source.fails = {"m01": Transient("busy")}
    with pytest.raises(Transient):
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
