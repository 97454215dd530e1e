"""`swath pretrain NAME --submit ADDRESS` against a Ray head started here: followed, attached to, stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ground import REPOSITORY, swath

from pipelines.settings import Home, free_port

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]
LONG = ("steps=5000", "batch=4", "log_every=1", "checkpoint_every=5000")


@pytest.fixture(scope="module")
def head(short_tmp) -> Iterator[str]:
    """The dashboard's address of a head node of our own, alive for this file."""
    folder = short_tmp / "head"
    ports = [free_port() for _ in range(4)]
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--temp-dir={folder}"]
    command += [
        f"--port={ports[0]}",
        f"--dashboard-port={ports[1]}",
        f"--dashboard-agent-listen-port={ports[2]}",
    ]
    command += [f"--ray-client-server-port={ports[3]}", "--dashboard-host=127.0.0.1", "--num-cpus=2"]
    command += ["--object-store-memory=200000000", "--disable-usage-stats", "--include-dashboard=true"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (short_tmp / "head.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=os.environ | {"PATH": path, "PYTHONPATH": str(REPOSITORY), "RAY_AUTH_MODE": "disabled"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{ports[1]}"
    try:
        wait_for(lambda: answers(address), 90, process)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def answers(address: str) -> bool:
    from pipelines.jobs import _client

    try:
        _client(address).list_jobs()
    except (ConnectionError, RuntimeError):
        return False
    return True


def wait_for(true, seconds: float, process: subprocess.Popen) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < end, f"not true after {seconds} s"
        time.sleep(0.3)


def status(address: str) -> dict[str, str]:
    from pipelines.jobs import _client

    return {str(job.submission_id): job.status.value for job in _client(address).list_jobs()}


@pytest.mark.usefixtures("curated")
def test_a_submitted_run_is_followed_to_its_sealed_encoder(head, home):
    arguments = (
        "steps=4",
        "batch=4",
        "log_every=1",
        "checkpoint_every=2",
        "--version",
        "job",
        "--corpus",
        "tiny@1",
    )
    done = swath("pretrain", "mae.smoke", *arguments, "--root", home.root, "--submit", head)
    assert done.returncode == 0, done.err
    made = home.place("encoder", "mae.smoke", "job")
    assert (made / "encoder" / "config.json").is_file()
    assert (made / "artifact.json").is_file()
    assert "submitted swath-encoder-mae-smoke-job-" in done.err
    assert "step 4/4" in done.err
    stage = json.loads((made / "stage.json").read_text())
    assert stage["mlflow_run"]
    assert stage["prefect_run"]

    (made / "artifact.json").unlink()
    again = swath("pretrain", "mae.smoke", *arguments, "--root", home.root, "--submit", head)
    assert again.returncode == 0, again.err
    assert "attached to swath-encoder-mae-smoke-job-" in again.err
    assert len([name for name in status(head) if "-job-" in name]) == 1


@pytest.mark.usefixtures("curated")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_stops_the_follower_stops_the_job(head, home: Home, number):
    version = f"cut{int(number)}"
    arguments = (*LONG, "--version", version, "--corpus", "tiny@1", "--root", home.root, "--submit", head)
    follower = swath("pretrain", "mae.smoke", *arguments, background=True)
    record = home.place("encoder", "mae.smoke", version) / "metrics.jsonl"
    wait_for(record.exists, 120, follower)
    name = next(name for name in status(head) if f"-{version}-" in name)
    follower.send_signal(number)
    _, said = follower.communicate(timeout=60)
    assert follower.returncode != 0, said
    assert f"stopping {name}" in said
    end = time.monotonic() + 20
    while status(head)[name] == "RUNNING" and time.monotonic() < end:
        time.sleep(0.5)
    assert status(head)[name] == "STOPPED"
    assert not (record.parent / "artifact.json").exists()


def test_an_address_where_no_head_answers_is_one_sentence(home, curated):
    arguments = ("steps=4", "--version", "nowhere", "--corpus", curated, "--root", home.root)
    done = swath("pretrain", "mae.smoke", *arguments, "--submit", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "no Ray head answers at http://127.0.0.1:" in done.err
    assert "Traceback" not in done.err
