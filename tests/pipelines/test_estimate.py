"""`swath plan`: what a corpus would take, in columns and as JSON, and when it is refused."""

import json
import re
import socket

import pytest
from ground import make_ground

from geodata import sampling
from geodata.build import opened_landcover
from geodata.corpus import load_spec
from geodata.costs import Cluster, Range
from geodata.prices import ACCEPTED
from pipelines import cli, estimate


def run(*arguments, capsys):
    """Exit status, stdout and stderr of a command in this process."""
    status = 0
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as end:
        status = int(end.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_ground(tmp_path_factory.mktemp("estimate"))


@pytest.fixture
def alone(monkeypatch):
    """No account, and no way out of the process."""
    for name in ("EARTHENGINE_PROJECT", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)

    def refuse(*_, **__):
        raise AssertionError("something was contacted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def as_json(*arguments, capsys):
    status, out, err = run("plan", *arguments, "--json", capsys=capsys)
    return status, json.loads(out), err


def test_points_are_told_beside_what_the_map_fills(tiny, tmp_path, capsys):
    status, found, _ = as_json(tiny, "shard_rows=4", "--root", tmp_path, capsys=capsys)
    assert status == 0
    assert found["asked"] == found["found"] == {"here": {"forest": 10, "farmland": 10, "urban": 10}}
    assert (found["points"], found["chips"], found["short"]) == (30, 30, 0)
    assert sum(found["chips_by"]["split"].values()) == 30
    assert (found["requests"], found["bytes_moved"]["high"]) == ({}, 0)
    # 30 chips x 1 date x 10 bands x 64 x 64 pixels x 2 bytes = 2.46 MB, half of the chips to all of them, packed
    assert found["samples"] == {"low": 30 * ACCEPTED.low, "middle": 30 * ACCEPTED.middle, "high": 30}
    assert 0.4 * 2.46e6 / 2 < found["bytes_stored"]["low"] < found["bytes_stored"]["high"] < 2.46e6


def test_what_the_map_cannot_fill_is_said_and_not_refilled(tiny, tmp_path, capsys):
    more = ("quotas.fixed.forest=200", "chip.spacing_m=640.0")
    status, found, _ = as_json(tiny, *more, "--root", tmp_path, capsys=capsys)
    assert status == 0
    spec = load_spec(tiny, more)
    plan = sampling.plan(spec, opened_landcover(spec.landcover))
    shortfalls = {one.stratum: one for one in plan.shortfalls}
    assert found["asked"]["here"]["forest"] == 200
    assert found["found"]["here"]["forest"] == shortfalls["forest"].found < 200
    assert found["short"] == sum(one.wanted - one.found for one in plan.shortfalls) > 0
    status, out, _ = run("plan", tiny, *more, "--root", tmp_path, capsys=capsys)
    assert f"{shortfalls['forest'].found} of 200" in out
    assert f"short: {found['short']} points" in out


def test_a_corpus_of_services_is_planned_without_contacting_any(tmp_path, capsys, alone):
    status, found, _ = as_json("rsrsd_5m", "--root", tmp_path, capsys=capsys)
    assert status == 0
    assert found["found"] is None
    assert found["points"] == 4_686_059
    by_stratum = {}
    for row in found["asked"].values():
        for name, count in row.items():
            by_stratum[name] = by_stratum.get(name, 0) + count
    assert by_stratum["urban"] == 2_809_235
    assert [by_stratum[name] for name in ("farmland", "wetland", "forest", "watershed")] == [468_206] * 4
    assert [by_stratum[name] for name in ("desert", "ice", "grassland", "cloud")] == [1_000] * 4
    assert sum(found["asked"]["africa"].values()) == 520_229
    # four tiles a picture, two a second
    assert found["requests"]["map tiles"]["low"] == 4 * 4_686_059
    assert found["days"]["low"] == pytest.approx(4 * 4_686_059 / 2 / 86_400)
    assert any("providers" in note for note in found["assumed"])


def test_earth_engine_compute_is_told_by_tier(tmp_path, capsys, alone):
    status, out, _ = run("plan", "skysense_sequences", "--root", tmp_path, capsys=capsys)
    assert status == 0
    for tier in ("community", "contributor", "partner"):
        assert re.search(rf"^{tier} +[\d,]+ +", out, re.MULTILINE)
    assert "is a service and was not asked" in out
    assert "21,500,000" in out


@pytest.mark.parametrize(
    "limit", ["days=30", "requests=1e6", "bytes=1e9", "dollars=10", "moved=1e9,chips=1e9"]
)
def test_over_its_budget_a_plan_is_shown_and_refused_in_one_sentence(limit, tmp_path, capsys, alone):
    status, out, err = run("plan", "rsrsd_5m", "--budget", limit, "--root", tmp_path, capsys=capsys)
    assert status == 2
    assert "requests to map tiles" in out
    assert len(err.strip().splitlines()) == 1
    name = limit.partition("=")[0]
    assert f"may go over its budget, {name}" in err and "--pilot" in err


def test_within_its_budget_nothing_is_refused(tmp_path, capsys, alone):
    status, found, _ = as_json(
        "rsrsd_5m", "--budget", "days=1e4,requests=1e9", "--root", tmp_path, capsys=capsys
    )
    assert status == 0
    assert found["budget"] == {"days": 1e4, "requests": 1e9}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--budget", "euros=4"), "'euros'"),
        (("--cluster", "cores=4"), "'cores'"),
        (("--cluster", "nodes=many"), "'many'"),
        (("--cluster", "nodes=0"), "no cluster"),
        (("--pilot", "-3"), "--pilot"),
    ],
)
def test_what_cannot_be_read_is_refused_before_anything_is_drawn(
    options, sentence, tiny, capsys, monkeypatch
):
    monkeypatch.setattr(sampling, "plan", lambda *_, **__: pytest.fail("drawn"))
    status, _, err = run("plan", tiny, *options, capsys=capsys)
    assert status == 2
    assert sentence in err


def test_a_pilot_takes_the_place_of_what_was_assumed(tiny, tmp_path, capsys):
    before = set(tmp_path.iterdir())
    status, found, err = as_json(tiny, "--pilot", "12", "--root", tmp_path, capsys=capsys)
    assert status == 0
    seen = found["pilot"]
    assert seen["tried"] == 12
    assert seen["accepted"] + sum(seen["rejected"].values()) == 12
    for share in seen["strata"].values():
        assert 0 <= share["low"] <= share["middle"] <= share["high"] <= 1
    assert not any("of the chips pass" in note for note in found["assumed"])
    assert found["cpu_hours"]["decode"]["middle"] > 0
    assert "pilot: " in err
    assert set(tmp_path.iterdir()) == before


def test_a_pilot_predicts_the_bytes_of_the_whole_corpus(tiny, tmp_path):
    from geodata.build import build_shard

    spec = load_spec(tiny)
    found = estimate.estimate(spec, pilot=16)
    plan = sampling.plan(spec, opened_landcover(spec.landcover))
    records = [build_shard(shard, spec, tmp_path) for shard in plan.shards(spec.shard_rows)]
    assert found.forecast.stored.low <= sum(record.bytes for record in records) <= found.forecast.stored.high
    assert found.forecast.samples.low <= sum(record.rows for record in records) <= found.forecast.samples.high


def test_machines_and_prices_are_named():
    found = estimate.cluster_of("nodes=8,dollars_per_node_hour=1.5")
    assert (found.nodes, found.dollars_per_node_hour, found.vcpus) == (8, 1.5, Cluster().vcpus)
    assert estimate.cluster_of(None) == Cluster()


def test_a_plan_that_was_drawn_before_is_not_drawn_again(tiny, tmp_path, capsys, monkeypatch):
    spec = load_spec(tiny)
    folder = tmp_path / "corpora" / spec.address
    folder.mkdir(parents=True)
    sampling.plan(spec, opened_landcover(spec.landcover)).write(folder)
    (folder / "spec.json").write_text(spec.model_dump_json())
    with monkeypatch.context() as patched:
        patched.setattr(sampling, "plan", lambda *_, **__: pytest.fail("drawn"))
        status, found, _ = as_json(tiny, "--root", tmp_path, capsys=capsys)
    assert (status, found["chips"]) == (0, 30)
    status, found, _ = as_json(tiny, "seed=1", "--root", tmp_path, capsys=capsys)
    assert (status, found["chips"]) == (0, 30)


def test_drawing_says_how_far_it_is(tiny, capsys, monkeypatch):
    monkeypatch.setattr(estimate, "EVERY_S", 0.0)
    estimate.drawn(load_spec(tiny))
    err = capsys.readouterr().err
    assert re.search(r"drawing 30 points: the map was asked at [\d,]+ places", err)


def test_a_range_is_one_number_when_its_ends_are_the_same():
    assert estimate._span(Range.exactly(4.0), estimate._count) == "4"
    assert estimate._span(Range(1, 2, 3000), estimate._count) == "1 to 3,000"
    assert [estimate._time(days) for days in (1e-5, 0.01, 0.5, 3.25, 400)] == [
        "0.86 s",
        "14 min",
        "12 h",
        "3.2 days",
        "400 days",
    ]


def test_a_curation_may_be_held_to_a_budget_too(tiny):
    spec = load_spec(tiny)
    plan = sampling.plan(spec, opened_landcover(spec.landcover))
    estimate.within(spec, plan, "chips=60,days=1")
    with pytest.raises(estimate.Refused, match="chips 30 against 10"):
        estimate.within(spec, plan, "chips=10")


def test_a_misspelt_budget_of_a_curation_costs_a_second(tiny, tmp_path, capsys):
    status, _, err = run("curate", tiny, "--budget", "dollar=3", "--root", tmp_path / "runs", capsys=capsys)
    assert status == 2
    assert "not 'dollar'" in err
    assert not list((tmp_path / "runs").glob("corpora/*"))
