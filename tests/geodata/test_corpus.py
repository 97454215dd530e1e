"""Specs: what they refuse, how they are found, how overrides are read."""

import json

import pytest
import yaml

from geodata.corpus import CorpusSpec, SplitSpec, demo, load_spec, smoke, specs
from geodata.overrides import overridden
from geodata.spec import CONTINENTS, Area, ChipSpec, Continents, Quotas, SensorSpec


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
        ("sensors.1.select=best", "input should be 'clearest', 'spread' or 'all', not 'best'"),
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
        ("nothing.at.all=1", "valid keys are name, version, seed"),
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
    with pytest.raises(ValueError, match="there are demo, smoke"):
        load_spec(name)


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("a.json", "{", "not readable JSON"),
        ("a.yaml", "a: [", "not readable YAML"),
        ("a.yaml", "!!python/object/apply:os.getcwd []", "not readable YAML"),
        ("a.yml", "- 1", "holds a list"),
        ("a.json", '{"name": "x"}', "chip: is required"),
        ("a.json", '{"name": "x", "colour": 1}', "colour: no such key; valid keys are chip, labels"),
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
