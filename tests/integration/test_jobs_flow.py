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
from ground import REPOSITORY, swath, wait_for

from pipelines import cli
from pipelines.pretrain import pretrain
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
        end_all(process, folder)
        shutil.rmtree(folder, ignore_errors=True)


def end_all(process: subprocess.Popen, folder: Path) -> None:
    """End a head and whatever still names its folder: its own processes, and no other Ray's."""
    try:
        process.wait(4)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            continue


def answers(address: str) -> bool:
    from pipelines.jobs import _client

    try:
        _client(address).list_jobs()
    except (ConnectionError, RuntimeError):
        return False
    return True


def status(address: str) -> dict[str, str]:
    from pipelines.jobs import _client

    return {str(job.submission_id): job.status.value for job in _client(address).list_jobs()}


def test_a_submitted_run_is_followed_to_its_sealed_encoder_and_attached_to_when_asked_again(
    head, curated, home, capsys
):
    settings = ("steps=4", "batch=4", "log_every=1", "checkpoint_every=2")
    asked = {"root": str(home.root), "corpus": curated, "version": "job", "submit": head}
    pretrain("mae.smoke", settings, **asked)
    made = home.place("encoder", "mae.smoke", "job")
    said = capsys.readouterr().err
    assert "submitted swath-encoder-mae-smoke-job-" in said
    assert "Running entrypoint for job" in said
    assert "pretrain: 4/4 steps, loss" in said
    assert (made / "encoder" / "config.json").is_file()
    stage = json.loads((made / "stage.json").read_text())
    assert stage["mlflow_run"]
    assert stage["prefect_run"]

    (made / "artifact.json").unlink()
    pretrain("mae.smoke", settings, **asked)
    assert "attached to swath-encoder-mae-smoke-job-" in capsys.readouterr().err
    assert (made / "artifact.json").is_file()
    assert len([name for name in status(head) if "-job-" in name]) == 1


def test_whoever_stops_the_follower_stops_the_job(head, curated, home: Home):
    arguments = (*LONG, "--version", "cut", "--corpus", curated, "--root", home.root, "--submit", head)
    follower = swath("pretrain", "mae.smoke", *arguments, background=True)
    record = home.place("encoder", "mae.smoke", "cut") / "metrics.jsonl"
    wait_for(record.exists, 120, follower)
    name = next(name for name in status(head) if "-cut-" in name)
    follower.send_signal(signal.SIGTERM)
    _, said = follower.communicate(timeout=60)
    assert follower.returncode == 128 + signal.SIGTERM, said
    assert f"stopping {name}" in said
    end = time.monotonic() + 20
    while status(head)[name] == "RUNNING" and time.monotonic() < end:
        time.sleep(0.5)
    assert status(head)[name] == "STOPPED"
    assert not (record.parent / "artifact.json").exists()


def test_an_address_where_no_head_answers_is_one_sentence(home, curated, capsys):
    arguments = ["steps=4", "--version", "nowhere", "--corpus", curated, "--root", str(home.root)]
    with pytest.raises(SystemExit) as ended:
        cli.main(["pretrain", "mae.smoke", *arguments, "--submit", f"http://127.0.0.1:{free_port()}"])
    assert ended.value.code == 1
    assert "no Ray head answers at http://127.0.0.1:" in capsys.readouterr().err
