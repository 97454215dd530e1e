"""Specs: what they refuse, how they are found, how overrides are read."""

import json

import pytest
import yaml

from geodata.contamination import benchmarks
from geodata.corpus import (
    CorpusSpec,
    SplitSpec,
    demo,
    load_spec,
    rsrsd_5m,
    rsrsd_100k,
    skysense_sequences,
    smoke,
    specs,
)
from geodata.overrides import overridden
from geodata.quotas import quotas
from geodata.spec import CONTINENTS, Area, ChipSpec, Continents, Quotas, SensorSpec, TileSpec


@pytest.mark.parametrize("make", specs().values(), ids=specs())
def test_a_published_corpus_survives_json_and_keeps_its_fingerprint(make):
    spec = make()
    again = CorpusSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert again.fingerprint == spec.fingerprint
    assert len(spec.fingerprint) == 64
    assert len(spec.place_id) == 8


def test_smoke_has_the_weights_and_quotas_of_the_paper():
    spec = smoke()
    assert spec.quotas.total == 96
    assert {name for name, weight in spec.regions.weights.items() if weight == 2} == {
        "europe",
        "asia",
        "north_america",
    }
    assert set(spec.regions.weights) == set(CONTINENTS)
    assert spec.quotas.shares["urban"] == 0.6
    assert [part.picked.prefix for part in spec.sensors] == ["hr", "s2", "s1"]


def test_the_fingerprint_follows_every_change_and_the_place_id_only_the_ground():
    spec = smoke()
    larger = overridden(spec, ["quotas.count=192", "version=2", "seed=3"])
    assert larger.fingerprint != spec.fingerprint
    assert larger.place_id == spec.place_id
    assert overridden(spec, ["chip.size=128"]).place_id != spec.place_id


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("quotas.count=1.5", "quotas.count: input should be a valid integer, not 1.5"),
        ("quotas.cont=1", "quotas.cont: no such key; valid keys are count, fixed, shares"),
        ("sensors.0.date=1", "no such key; valid keys are bands, dates, gsd"),
        ("quotas.shares.urban=0.7", "sum to 1.1, not 1"),
        ("quotas.shares.urban=-0.1", "quotas.shares.urban: input should be greater than or equal to 0"),
        ("quotas.shares.swamp=0.0", "'swamp' is no stratum; strata are urban, farmland"),
        ('quotas.fixed={"urban": 3}', "urban has both a share and a fixed count"),
        ("quotas.count=0", "give both or neither"),
        ("regions.weights.atlantis=1.0", "'atlantis' is no continent; continents are africa"),
        ("regions.weights={}", "no continent has a weight"),
        ("sensors.0.sensor=sentinel9", "no sensor is called 'sentinel9'; known are optical"),
        ("sensors.1.sensor=optical", "share a column prefix"),
        ("sensors.1.sensor=landcover", "set labels=true"),
        ('sensors.1.bands=["B99"]', "sentinel2 has no band 'B99'; it has B02"),
        ('sensors.1.bands=["B02", "B02"]', "name one twice"),
        ("sensors.1.period=2021-01-01/2020-01-01", "a period runs forward"),
        ("sensors.1.period=2021", "a period is written"),
        ("sensors.1.min_dates=7", "min_dates 7 exceeds dates 6"),
        ("sensors.1.select=best", "input should be 'clearest', 'spread', 'all' or 'rotate', not 'best'"),
        ("sensors.0.gsd=3.0", "whole ratio"),
        ("chip.gsd=7.0", "no whole number of 7 m pixels"),
        ("chip.gsd=NaN", "finite"),
        ("chip.epsg=4326", "not in metres"),
        ("chip.epsg=999999", "no known coordinate system"),
        ("split.fractions.train=0.9", "sum to 1.2, not 1"),
        ("split.fractions.holdout=0.1", "holdout"),
        ("split.block_m=600", "cannot hold a chip of 640 m"),
        ("split.assign=balanced", "use 'hash' here"),
        ("seed=true", "seed: input should be a valid integer, not True"),
        ("name=Bad Name", "name: string should match pattern"),
        ("sensors.7.dates=1", "no place in a list of 3"),
        ("chip.size.x=1", "no keys below it"),
        ("nothing.at.all=1", "valid keys are name, version, places, seed"),
        ("seed", "written key=value"),
    ],
)
def test_an_impossible_override_is_one_sentence(override, sentence):
    with pytest.raises(ValueError) as caught:
        load_spec("smoke", [override])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_are_typed_by_the_field_they_meet():
    spec = load_spec(
        "smoke", ["version=2", "chip.spacing_m=1280", "labels=false", "sensors.1.dates=3", "split.guard_m=0"]
    )
    assert (spec.version, spec.chip.spacing_m, spec.labels, spec.sensors[1].dates) == ("2", 1280.0, False, 3)


def test_a_changed_kind_drops_what_belonged_to_the_other():
    spec = load_spec(
        "smoke",
        [
            "regions.kind=area",
            "regions.name=alps",
            "regions.bounds=[6.0, 45.0, 11.0, 47.5]",
            "quotas.count=5",
        ],
    )
    assert spec.regions == Area(name="alps", bounds=(6.0, 45.0, 11.0, 47.5))


@pytest.mark.parametrize(
    ("bounds", "epsg", "sentence"),
    [
        ((10.0, 45.0, 10.0, 46.0), 4326, "no ground"),
        ((170.0, 45.0, -170.0, 46.0), 4326, "antimeridian"),
        ((0.0, 80.0, 1.0, 89.0), 4326, "clip it"),
        ((0.0, 0.0, 1.0, 1.0), 4258, "not in metres"),
    ],
)
def test_an_area_without_usable_ground_is_refused(bounds, epsg, sentence):
    with pytest.raises(ValueError, match=sentence):
        Area(name="a", bounds=bounds, epsg=epsg)


def test_a_metric_area_holds_a_chip_and_its_blocks():
    with pytest.raises(ValueError, match="smaller than one chip"):
        overridden(demo(), ["regions.bounds=[330000.0, 5814360.0, 330600.0, 5822040.0]"])
    with pytest.raises(ValueError, match="not that of the area"):
        overridden(demo(), ["chip.epsg=32632"])
    with pytest.raises(ValueError, match="blocks of 7680 m"):
        overridden(demo(), ["split.block_m=7680.0"])


def test_parts_refuse_by_themselves():
    with pytest.raises(ValueError, match="no chip at all"):
        Quotas()
    with pytest.raises(ValueError, match="name no split"):
        SplitSpec(fractions={})
    with pytest.raises(ValueError, match="greater than 0"):
        ChipSpec(gsd=10.0, size=0)
    with pytest.raises(ValueError, match="greater than 0"):
        Continents(weights={"asia": 0.0})
    assert ChipSpec(gsd=10.0, size=64).steps == 11
    assert ChipSpec(gsd=10.0, size=64, spacing_m=120.0).steps == 2
    assert SensorSpec.model_fields["max_cloud"].default == 0.2


def test_a_spec_is_found_by_name_dotted_name_file_and_manifest(tmp_path, monkeypatch):
    spec = smoke()
    values = json.loads(spec.model_dump_json())
    (tmp_path / "a.json").write_text(spec.model_dump_json())
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "manifest.json").write_text(json.dumps({"spec": values, "records": []}))
    (tmp_path / "corpora_of_mine.py").write_text(
        "from geodata.corpus import CorpusSpec, smoke\n\ndef alps() -> CorpusSpec:\n    return smoke()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in (
        "smoke",
        "corpora_of_mine.alps",
        *(str(tmp_path / f) for f in ("a.json", "a.yaml", "manifest.json")),
    ):
        assert load_spec(name) == spec
    assert load_spec(tmp_path / "a.yaml", ["seed=9"]).seed == 9


@pytest.mark.parametrize(
    "name", ["smok", "no.such.module", "json.loads", "os.getcwd", "load_spec", "geodata.corpus.specs"]
)
def test_a_name_that_is_no_corpus_is_refused_with_those_that_exist(name):
    with pytest.raises(ValueError, match="there are demo, rsrsd_100k, rsrsd_5m, skysense_sequences, smoke"):
        load_spec(name)


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("a.json", "{", "not readable JSON"),
        ("a.yaml", "a: [", "not readable YAML"),
        ("a.yaml", "!!python/object/apply:os.getcwd []", "not readable YAML"),
        ("a.yml", "- 1", "holds a list"),
        ("a.json", '{"name": "x"}', "chip: is required"),
        ("a.json", '{"name": "x", "colour": 1}', "colour: no such key; valid keys are chip, contamination"),
    ],
)
def test_a_bad_spec_file_is_one_sentence(tmp_path, file, content, sentence):
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError) as caught:
        load_spec(tmp_path / file)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_spec_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load_spec(tmp_path / "none.yaml")


def test_rsrsd_5m_asks_for_what_the_paper_states():
    """PerA, section 3.1 and table 1: pictures, GSD, size, shares, doubled continents, a thousand of four classes."""
    spec = rsrsd_5m()
    assert spec.quotas.total == 4_686_059
    assert spec.quotas.shares == {
        "urban": 0.6,
        "farmland": 0.1,
        "wetland": 0.1,
        "forest": 0.1,
        "watershed": 0.1,
    }
    assert spec.quotas.fixed == {"desert": 1000, "ice": 1000, "grassland": 1000, "cloud": 1000}
    assert {name: weight for name, weight in spec.regions.weights.items() if weight != 1} == {
        "europe": 2,
        "asia": 2,
        "north_america": 2,
    }
    assert (spec.chip.gsd_range, spec.chip.size, spec.chip.tile, spec.chip.zooms) == (
        (0.3, 10.0),
        512,
        256,
        "nearest",
    )
    assert (spec.min_share, spec.inland_km, spec.sensors[0].select) == (0.3, 5.0, "rotate")


def test_rsrsd_5m_counts_are_exact_in_both_directions():
    """The published rounded numbers sum to one or two too many, so a continent or two has one point less."""
    table = quotas(rsrsd_5m())
    fixed = table.pop("anywhere")
    assert sum(fixed.values()) == 4_000
    strata = {name: sum(row[name] for row in table.values()) for name in rsrsd_5m().quotas.shares}
    assert strata == {
        "urban": 2_809_235,
        "farmland": 468_206,
        "wetland": 468_206,
        "forest": 468_206,
        "watershed": 468_206,
    }
    assert {region: sum(row.values()) for region, row in table.items()} == {
        "europe": 1_040_458,
        "asia": 1_040_457,
        "north_america": 1_040_457,
        "africa": 520_229,
        "south_america": 520_229,
        "oceania": 520_229,
    }
    assert 3 * 1_040_458 + 3 * 520_229 - 4_682_059 == 2


def test_rsrsd_100k_asks_for_a_part_of_every_cell_under_the_same_ids():
    whole, part = rsrsd_5m(), rsrsd_100k()
    assert part.quotas.total == 100_000
    assert part.place_id == whole.place_id
    assert part.address == "rsrsd_100k@1"
    large, small = quotas(whole), quotas(part)
    for region, strata in small.items():
        for stratum, count in strata.items():
            assert 0 < count <= large[region][stratum]
            assert count == pytest.approx(large[region][stratum] / 46.86, rel=0.02)
    kept = ("seed", "chip", "regions", "landcover", "split", "sensors", "min_share", "inland_km")
    assert all(getattr(whole, name) == getattr(part, name) for name in kept)


def test_skysense_sequences_nest_three_sensors_in_640_m():
    """SkySense, section 3.1: RGB once, ten bands of Sentinel-2, VV and VH; sizes of its supplement as far as known."""
    spec = skysense_sequences()
    assert spec.quotas.total == 21_500_000
    assert [part.side(spec.chip) for part in spec.sensors] == [2048, 64, 64]
    assert spec.chip.footprint_m == 640.0
    optical, multi, radar = spec.sensors
    assert optical.gsd == 0.3125
    assert multi.picked.band_names == ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
    assert radar.picked.band_names == ("VV", "VH")
    assert (multi.dates, radar.dates, radar.orbit) == (64, 32, "one")
    small = load_spec("skysense_sequences", ["quotas.count=215"])
    assert small.quotas.total == 215
    assert small.place_id == spec.place_id


def test_published_corpora_name_benchmarks_that_there_are():
    for make in (rsrsd_5m, skysense_sequences):
        assert set(make().contamination.benchmarks) <= set(benchmarks())


def test_a_spec_from_before_there_were_tiles_has_utm_chips():
    values = json.loads(smoke().model_dump_json())
    for name in ("kind",):
        del values["chip"][name]
    for name in (
        "places",
        "min_share",
        "inland_km",
        "region_layout",
        "duplicates",
        "near_bits",
        "contamination",
    ):
        del values[name]
    del values["regions"]["outlines"]
    for part in values["sensors"]:
        del part["orbit"]
    assert CorpusSpec.model_validate_json(json.dumps(values)) == smoke()
    assert isinstance(smoke().chip, ChipSpec)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["chip.kind=hex"], "hex"),
        (["chip.size=500"], "not 1, 2, 4 or 8 tiles of 256"),
        (["chip.size=128"], "not 1, 2, 4 or 8 tiles of 256"),
        (["chip.size=1536"], "not 1, 2, 4 or 8 tiles of 256"),
        (["chip.tile=128"], "chip.tiles.tile"),
        (["chip.gsd_range=[10.0, 0.3]"], "from fine to coarse"),
        (["chip.gsd_range=[0.0, 0.3]"], "greater than 0"),
        (["chip.gsd=10.0"], "no such key; valid keys are gsd_draw, gsd_range"),
        (["sensors.0.gsd=2.5"], "tile chips keep the GSD of their zoom"),
        (["sensors.0.dates=2"], "'rotate' takes one scene a chip"),
        (["split.block_m=5000"], "cannot hold a chip of 7240.77 m"),
        (["regions.kind=area", "regions.name=a", "regions.bounds=[500000.0, 0.0, 600000.0, 90000.0]",
          "regions.epsg=32633", "inland_km=null", "quotas.fixed={}"], "give the area in degrees"),
        (["regions.kind=area", "regions.name=a", "regions.bounds=[500000.0, 0.0, 600000.0, 90000.0]",
          "regions.epsg=32633"], "asks where land is"),
        (["inland_km=-1"], "greater than or equal to 0"),
        (["min_share=1.5"], "less than or equal to 1"),
        (["near_bits=65"], "less than or equal to 64"),
        (["places=Not A Name"], "should match pattern"),
        (["region_layout=hexagons"], "'equal_angle' or 'equal_area'"),
        (["contamination.action=ignore"], "'report' or 'exclude'"),
        (["contamination.bufer_km=1"], "valid keys are action, benchmarks, buffer_km"),
        (["regions.outlines=exact"], "'coarse' or 'fine'"),
    ],
)  # fmt: skip
def test_an_impossible_tile_corpus_is_one_sentence(overrides, sentence):
    with pytest.raises(ValueError) as caught:
        load_spec("rsrsd_5m", overrides)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_that_a_paper_leaves_open_is_an_override():
    spec = load_spec(
        "rsrsd_5m",
        [
            "chip.gsd_range=[2.0, 10.0]",
            "chip.zooms=all",
            "chip.tile=512",
            "chip.gsd_draw=uniform",
            "min_share=0",
            "inland_km=null",
            "region_layout=equal_area",
            "duplicates=exact",
            "contamination.action=exclude",
            'sensors.0.source.options.providers=[{"name": "ours"}]',
        ],
    )
    assert spec.chip == TileSpec(gsd_range=(2.0, 10.0), zooms="all", tile=512, gsd_draw="uniform")
    assert spec.inland_km is None
    assert spec.sensors[0].source.options["providers"] == [{"name": "ours"}]
    assert spec.place_id != rsrsd_5m().place_id  # other pictures of the same ground
    assert load_spec("rsrsd_5m", ["chip.gsd_range=[2.0, 10.0]"]).place_id == rsrsd_5m().place_id
