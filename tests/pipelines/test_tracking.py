import json
import logging
import math
import time

import pytest

from pipelines import tracking
from pipelines.settings import Home, free_port


class Kept:
    """A tracked run that only remembers."""

    def __init__(self):
        self.rows, self.flushed = [], 0

    def metrics(self, step, values):
        self.rows.append((step, dict(values)))

    def flush(self):
        self.flushed += 1


def test_the_tail_copies_whole_lines_once_and_leaves_the_one_being_written(tmp_path):
    path, run = tmp_path / "metrics.jsonl", Kept()
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    tail = tracking.Tail(path, run)
    tail._read()
    assert run.rows == [(1, {"loss": 2.0})]
    with path.open("a") as stream:
        stream.write('ss": 1.0}\n')
    tail._read()
    tail._read()
    assert run.rows == [(1, {"loss": 2.0}), (2, {"loss": 1.0})]
    assert tail.last == {"step": 2, "loss": 1.0}


def test_the_tail_starts_before_the_file_and_reads_to_its_end_when_it_stops(tmp_path):
    path, run, told = tmp_path / "metrics.jsonl", Kept(), []
    with tracking.Tail(path, run, every_s=60) as tail:
        tail.tell = told.append
        path.write_text('{"step": 5, "loss": 0.5}\n')
    assert run.rows == [(5, {"loss": 0.5})]
    assert told == [{"step": 5, "loss": 0.5}]


def test_a_record_that_a_resumed_run_cut_back_is_read_again(tmp_path):
    path, run = tmp_path / "metrics.jsonl", Kept()
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n')
    tail = tracking.Tail(path, run)
    tail._read()
    path.write_text('{"step": 1, "loss": 2.0}\n')
    tail._read()
    assert [step for step, _ in run.rows] == [1, 2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("address", ["http", "sqlite"])
def test_a_tracker_that_is_down_is_one_warning_and_nothing_else(address, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    places = {
        "http": f"http://127.0.0.1:{free_port()}",
        "sqlite": f"sqlite:///{tmp_path}/no/such/folder/x.db",
    }
    (tmp_path / "no").write_text("a file where a folder should be")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", places[address])
    with (
        caplog.at_level(logging.WARNING, "pipelines.tracking"),
        tracking.tracked(Home.at(tmp_path), "e", "n") as run,
    ):
        for step in range(3):
            run.metrics(step, {"loss": 1.0})
        run.parameters({"steps": 3})
    assert run.run_id is None
    assert len([record for record in caplog.records if "the run goes on" in record.message]) == 1


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One SQLite store for this file: making one costs seconds."""
    return Home.at(tmp_path_factory.mktemp("store"))


def client(home):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=home.tracking)


def test_a_run_holds_parameters_metrics_and_tags_and_is_found_by_tag(store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("SWATH_FLOW_RUN_ID", "flow-7")
    with tracking.tracked(store, "pretrain", "mae.smoke@1", {"config.digest": "abc"}) as run:
        run.parameters({"steps": 3, "optim": {"clip": 1.0}, "note": "x" * 2000})
        for step in range(3):
            run.metrics(step, {"loss": 3.0 - step, "bad": math.nan, "text": "no", "flag": True})
    found = client(store).search_runs(
        [client(store).get_experiment_by_name("pretrain").experiment_id],
        "tags.`prefect.flow_run_id` = 'flow-7'",
    )
    assert [one.info.run_id for one in found] == [run.run_id]
    data = found[0].data
    assert data.params["optim.clip"] == "1.0"
    assert data.metrics == {"loss": 1.0}
    assert data.tags["config.digest"] == "abc"
    assert found[0].info.status == "FINISHED"
    history = client(store).get_metric_history(run.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(0, 3.0), (1, 2.0), (2, 1.0)]


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_ends_as_its_block_does(store, error, status, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(error), tracking.tracked(store, "pretrain", "cut") as run:
        raise error
    assert client(store).get_run(run.run_id).info.status == status


def test_many_metrics_go_in_few_calls(store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with tracking.tracked(store, "pretrain", "long") as run:
        began = time.monotonic()
        for step in range(2000):
            run.metrics(step, {"loss": float(step)})
    assert time.monotonic() - began < 10
    assert client(store).get_run(run.run_id).data.metrics["loss"] == 1999.0
    assert json.dumps(tracking.prefect_run()) == "{}"
