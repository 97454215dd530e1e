import errno
import json
import os
import pickle
from types import SimpleNamespace

import pytest
from ground import REPOSITORY

from geodata.errors import Corrupt, Missing, Transient
from geodata.shards import ShardRecord
from pipelines import corpora, curate


def test_failures_are_one_error_of_the_kind_that_a_retry_may_help():
    failures = {"b": Missing("gone"), "a": Transient("shard a: quota of the hour"), "c": OSError(5, "I/O")}
    error = curate._failure(failures, 9)
    assert type(error) is Transient
    assert "3 of 9 shards failed (a, b, c): shard a: quota of the hour" in str(error)
    assert curate._worth_retrying(None, None, SimpleNamespace(result=lambda **_: error))


@pytest.mark.parametrize("error", [Corrupt("bad bytes"), OSError(errno.ENOSPC, "no room left to write x")])
def test_what_a_retry_cannot_help_is_not_retried_and_keeps_its_kind(error):
    failed = curate._failure({"a": error}, 2)
    assert type(failed) is type(error)
    assert getattr(failed, "errno", None) == getattr(error, "errno", None)
    assert not curate._worth_retrying(None, None, SimpleNamespace(result=lambda **_: failed))


def test_many_failures_are_counted_and_the_first_five_named():
    error = curate._failure({f"s{number}": Missing("x") for number in range(9)}, 10)
    assert "9 of 10 shards failed (s0, s1, s2, s3, s4 ...)" in str(error)


def test_a_row_hands_the_worlds_failures_back_and_lets_a_bug_through(monkeypatch, tmp_path):
    def fail(*_):
        raise error

    monkeypatch.setattr(corpora, "build_shard", fail)
    row = {"shard": "s", "work": pickle.dumps((None, None))}
    for error in (Transient("later"), OSError(28, "full")):
        problem = pickle.loads(corpora.build_row(row, None, tmp_path)["problem"])
        assert type(problem) is type(error)
    error = KeyError("a bug")
    with pytest.raises(KeyError):
        corpora.build_row(row, None, tmp_path)


def test_only_abandoned_temporary_files_are_swept(tmp_path):
    for folder in ("shards", "records"):
        (tmp_path / folder).mkdir()
        for name in (".x.parquet.7.tmp", ".young.parquet.8.tmp", "y"):
            (tmp_path / folder / name).write_bytes(b"")
        os.utime(tmp_path / folder / ".x.parquet.7.tmp", (0, 0))
    curate._sweep(tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {".young.parquet.8.tmp", "y"}


def record(name, rows, planned):
    rejects = tuple(SimpleNamespace(chip_id=f"{name}{n}", reason="cloudy") for n in range(planned - rows))
    return ShardRecord(name, planned, rows, 10, "", (rows,) if rows else (), rejects)


def test_a_corpus_that_lost_a_chip_is_not_sealed(tmp_path, monkeypatch):
    monkeypatch.setattr(curate, "_plan_summary", lambda *_: {})
    spec = corpora.spec_of("smoke")
    artifact = corpora.wanted(spec, curate.Home.at(tmp_path))
    with pytest.raises(
        RuntimeError, match=r"has 20 planned chips, but 7 accepted and 3 rejected; chips were lost"
    ):
        curate.seal_corpus.fn([None] * 20, spec, artifact, [record("a", 7, 10)])
    assert not (artifact.path / "manifest.json").exists()


def test_each_step_of_a_curation_leaves_a_line(tmp_path):
    curate._log_row(tmp_path, 1, [record("a", 7, 10), None], {"c": 1})
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (row["step"], row["rows"], row["rejected"], row["failed"]) == (1, 7, 3, 1)


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
    assert flow.fn.__globals__["build_row"] is corpora.build_row
