import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from pipelines import settings
from pipelines.settings import Home, environment


def test_a_home_is_absolute_because_workers_run_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = Home.at("runs")
    assert home.root == tmp_path / "runs"
    assert home.place("corpus", "smoke", "2") == tmp_path / "runs" / "corpora" / "smoke@2"


def test_the_environment_is_set_once_and_what_the_user_set_wins(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "PREFECT_HOME", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "9")
    before = dict(os.environ)
    environment(Home.at(tmp_path))
    token = os.environ["RAY_AUTH_TOKEN"]
    environment(Home.at(tmp_path / "other"))
    assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "9"
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "prefect")
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert os.environ["RAY_AUTH_TOKEN"] == token
    assert len(token) == 32
    for name in set(os.environ) - set(before):
        monkeypatch.delenv(name)


def test_a_cluster_of_the_users_keeps_its_own_way_in(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://somewhere:10001")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    environment(Home.at(tmp_path))
    assert "RAY_AUTH_MODE" not in os.environ
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_the_tracking_store_lies_beside_the_runs_unless_an_address_is_given(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert Home.at(tmp_path).tracking == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert Home.at(tmp_path).tracking == "http://tracker:5000"


def test_session_folders_of_dead_processes_are_swept_and_living_ones_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "SHORT", str(tmp_path))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, young, alive = (
        tmp_path / name for name in (f"swath-{gone.pid}-a", f"swath-{gone.pid}-b", f"swath-{os.getpid()}-c")
    )
    for folder in (dead, young, alive):
        folder.mkdir()
    for folder in (dead, alive):
        os.utime(folder, (0, 0))
    settings.sweep()
    assert not dead.exists()
    assert young.exists()
    assert alive.exists()


def test_a_server_that_dies_at_once_is_one_sentence_with_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(settings.sys, "executable", "/bin/false")
    with (
        pytest.raises(RuntimeError, match=r"did not answer at http://127.0.0.1:\d+/api/health .* its log is"),
        settings.local_prefect(Home.at(tmp_path), port=settings.free_port(), patience_s=5),
    ):
        pass


def test_a_server_the_user_names_is_used_and_none_started(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    monkeypatch.setattr(urllib.request, "urlopen", None)
    with settings.local_prefect(Home.at(tmp_path)) as address:
        assert address == "http://127.0.0.1:1/api"
    assert not Path(tmp_path / "prefect").exists()


def test_a_wait_for_ray_is_interrupted_and_the_handler_before_has_the_last_word():
    class ToldToStopError(BaseException):
        pass

    def before(number, frame):
        raise ToldToStopError

    def wait():
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            seen.append(type(error))
            raise

    kept, seen = signal.signal(signal.SIGTERM, before), []
    try:
        with pytest.raises(ToldToStopError), settings._heard_in_ray():
            wait()
        assert seen == [KeyboardInterrupt]
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, kept)


@pytest.mark.parametrize(
    ("address", "remedy"),
    [(None, "run again when it is less so"), ("ray://far:10001", "RAY_ADDRESS=ray://far")],
)
def test_a_ray_that_does_not_start_is_one_sentence(monkeypatch, address, remedy):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(RuntimeError, match=rf"did not start \(timed out\): .*{remedy}"), settings._starting():
        raise Exception("timed\nout")
