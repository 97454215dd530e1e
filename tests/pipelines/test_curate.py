"""The stages of a curation by themselves: failures told apart, sums kept, nothing sealed that is not accounted for."""

import errno
import json
import os
import pickle
from types import SimpleNamespace

import pytest
from ground import REPOSITORY

from geodata.errors import Corrupt, Denied, Missing, Transient
from geodata.shards import ShardSummary
from pipelines import corpora, curate, draft, stages
from pipelines.draft import Draft, Order, Tally, failure
from pipelines.settings import Home


def test_failures_are_one_error_of_the_kind_that_a_retry_may_help():
    failures = {"b": Missing("gone"), "a": Transient("shard a: quota of the hour"), "c": OSError(5, "I/O")}
    error = failure(failures, 9)
    assert type(error) is Transient
    assert "3 of 9 shards failed (a, b, c): shard a: quota of the hour" in str(error)
    assert stages._worth_retrying(None, None, SimpleNamespace(result=lambda **_: error))


@pytest.mark.parametrize("error", [Corrupt("bad bytes"), OSError(errno.ENOSPC, "no room left to write x")])
def test_what_a_retry_cannot_help_is_not_retried_and_keeps_its_kind(error):
    failed = failure({"a": error}, 2)
    assert type(failed) is type(error)
    assert getattr(failed, "errno", None) == getattr(error, "errno", None)
    assert not stages._worth_retrying(None, None, SimpleNamespace(result=lambda **_: failed))


def test_where_a_person_must_act_that_is_said_first_and_not_retried():
    failed = failure({"a": Transient("busy"), "b": Denied("shard b: log in again")}, 2)
    assert type(failed) is Denied
    assert "log in again; mend that, then run the same command again" in str(failed)
    assert not stages._worth_retrying(None, None, SimpleNamespace(result=lambda **_: failed))


def test_many_failures_are_counted_and_the_first_five_named():
    error = failure({f"s{number}": Missing("x") for number in range(9)}, 10)
    assert "9 of 10 shards failed (s0, s1, s2, s3, s4 ...)" in str(error)


def test_a_row_hands_the_worlds_failures_back_and_lets_a_bug_through(monkeypatch, tmp_path):
    def fail(*_):
        raise error

    shard = SimpleNamespace(name="s")
    monkeypatch.setattr(Order, "whole", fail)
    monkeypatch.setattr(draft.governor, "govern", lambda: None)
    monkeypatch.setattr(draft, "_shards", lambda *_: [None, shard])
    order = Order(SimpleNamespace(shard_rows=8), tmp_path)
    for error in (Transient("later"), OSError(28, "full")):
        row = draft.build_row({"id": 0}, order, None, (1,))
        assert row["shard"] == "s"
        assert type(pickle.loads(row["outcome"])) is type(error)
    error = KeyError("a bug")
    with pytest.raises(KeyError):
        draft.build_row({"id": 0}, order, None, (1,))


def test_only_abandoned_temporary_files_are_swept(tmp_path):
    for folder in ("shards", "records"):
        (tmp_path / folder).mkdir()
        for name in (".x.parquet.7.tmp", ".young.parquet.8.tmp", "y"):
            (tmp_path / folder / name).write_bytes(b"")
        os.utime(tmp_path / folder / ".x.parquet.7.tmp", (0, 0))
    stages._sweep(tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {".young.parquet.8.tmp", "y"}


def summary(name, rows, planned):
    rejected = {"cloudy": planned - rows} if planned > rows else {}
    return ShardSummary(name, planned, rows, 10, "", (rows,) if rows else (), rejected)


class Planned:
    """A plan of so many chips in one shard."""

    def __init__(self, chips):
        self.chips = chips

    def __len__(self):
        return self.chips

    def shard_names(self, _):
        return ["a"]


def test_a_corpus_that_lost_a_chip_is_not_sealed(tmp_path, monkeypatch):
    monkeypatch.setattr(curate, "plan_summary", lambda *_: {})
    spec = corpora.spec_of("smoke")
    artifact = corpora.wanted(spec, Home.at(tmp_path))
    begun = Draft(artifact, Order(spec, artifact.path), Planned(20))
    begun.whole["a"] = summary("a", 7, 10)
    with pytest.raises(
        RuntimeError, match=r"has 20 planned chips, but 7 accepted and 3 rejected; chips were lost"
    ):
        curate.seal_corpus.fn(begun)
    assert not (artifact.path / "manifest.json").exists()


def test_each_step_of_a_curation_leaves_a_line(tmp_path):
    tally = Tally(failures={"c": Missing("x")})
    tally.add(summary("a", 7, 10))
    tally.add(summary("b", 1, 1))
    stages._log_row(tmp_path, tally)
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (row["step"], row["rows"], row["rejected"], row["failed"]) == (2, 8, 3, 1)
    assert str(tally) == "8 rows, 3 rejected, 1 failed"


def test_requests_of_several_rounds_add_up_and_the_highest_peak_stays():
    before = {"e": {"peak": 3, "granted": 10, "throttled": 1}}
    before["other"] = {"peak": 9, "granted": 99, "throttled": 9}
    after = {"e": {"peak": 5, "granted": 25, "throttled": 2}, "f": {"peak": 1, "granted": 2, "throttled": 0}}
    after["other"] = before["other"]
    once = draft._since(before, after, {})
    assert once == {
        "e": {"peak": 5, "granted": 15, "throttled": 1},
        "f": {"peak": 1, "granted": 2, "throttled": 0},
    }
    assert draft._since({}, {"e": {"peak": 4, "granted": 3, "throttled": 0}}, once)["e"] == {
        "peak": 5,
        "granted": 18,
        "throttled": 1,
    }


def test_differences_name_changed_pixels_and_samples_that_only_one_has():
    first = SimpleNamespace(pixel_hashes=lambda: {("a", "s2"): "1", ("b", "s2"): "2", ("c", "s2"): "3"})
    second = SimpleNamespace(pixel_hashes=lambda: {("a", "s2"): "1", ("b", "s2"): "9", ("d", "s2"): "4"})
    assert corpora.differences(first, second) == ["b s2", "c s2", "d s2"]
    assert corpora.differences(first, first) == []


def test_the_demo_reads_the_wheel_in_the_cache_whether_or_not_it_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert str(tmp_path / "swath") in corpora.spec_of("demo").model_dump_json()
    assert corpora.spec_of("demo", ["seed=3"]).seed == 3


def test_what_workers_run_has_its_own_address_when_prefect_loads_the_flow_from_its_file():
    from prefect.flows import load_flow_from_entrypoint

    flow = load_flow_from_entrypoint(f"{REPOSITORY}/pipelines/curate.py:curate")
    assert flow.name == "curate"
    assert flow.fn.__globals__["curated"].__globals__["build_missing"].fn.__globals__["built"] is draft.built
