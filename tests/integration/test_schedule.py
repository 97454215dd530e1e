"""`swath curate NAME --every CRON`: a real server, a real schedule, two firings, of which the second does nothing."""

import json
import os
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from ground import make_ground, swath

from geodata.manifest import open_corpus
from pipelines.settings import Home, free_port, local_prefect

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]
CRON = "17 2 * * *"


def ask(address: str, path: str, body: object = None) -> object:
    """A JSON answer of the server's API, which says 503 while its SQLite file is locked by its own services."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}{path}", data, {"Content-Type": "application/json"})
    for _ in range(20):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            time.sleep(1.0)
    raise AssertionError(f"{path} was locked for 20 tries")


def wait_for(found, seconds: float, what: str):
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, f"no {what} after {seconds} s"
        time.sleep(0.5)
    return value


def fired(address: str, deployment: str) -> str:
    """Fire once and wait for the end: the final state's name."""
    run = ask(address, f"/deployments/{deployment}/create_flow_run", {})
    ended = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

    def state():
        now = ask(address, f"/flow_runs/{run['id']}")["state"]
        return now if now["type"] in ended else None

    return wait_for(state, 150, "end of the run")["type"]


def mtimes(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_the_second_firing_of_a_schedule_finds_everything_sealed_and_does_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    spec = make_ground(tmp_path / "ground", quotas={"fixed": {"forest": 6}}, split={"block_m": 1440.0})
    home = Home.at(tmp_path / "home")
    with local_prefect(home, port=free_port()) as address:
        variables = {"PREFECT_API_URL": address, "PREFECT_RUNNER_POLL_FREQUENCY": "2"}
        serving = swath("curate", spec, "--root", home.root, "--every", CRON, background=True, **variables)
        try:

            def deployed():
                assert serving.poll() is None, serving.communicate()
                return ask(address, "/deployments/filter", {})

            deployment = wait_for(deployed, 60, "deployment")[0]
            assert [one["schedule"]["cron"] for one in deployment["schedules"]] == [CRON]
            assert deployment["schedules"][0]["active"]
            assert fired(address, deployment["id"]) == "COMPLETED"
            corpus = open_corpus(home.place("corpus", "tiny", "1"))
            assert corpus.rows + sum(corpus.rejected.values()) == corpus.planned == 6
            before = mtimes(corpus.root)
            assert fired(address, deployment["id"]) == "COMPLETED"
            assert mtimes(corpus.root) == before
            waiting = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
            assert wait_for(lambda: ask(address, "/flow_runs/filter", waiting), 60, "scheduled run")
        finally:
            os.killpg(serving.pid, signal.SIGINT)  # as Ctrl-C does, and before the server goes
            try:
                serving.communicate(timeout=30)
            finally:
                serving.kill()
                serving.wait()
