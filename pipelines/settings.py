"""Where runs live, and the environment that Ray, Prefect and MLflow find when they are imported.

All three read environment variables while they are imported and write to the home folder unless told otherwise.
Entry points therefore call `environment` before anything else; importing this module changes nothing. Whatever the
user has set wins.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

__all__ = ["Home", "environment", "free_port", "local_prefect", "local_ray"]

OBJECT_STORE_BYTES = 500 * 2**20
SHORT = "/tmp"  # Ray's sockets must fit in 107 bytes; a user's TMPDIR may be longer than that

QUIET = {
    "DO_NOT_TRACK": "true",  # MLflow honours this word only
    "RAY_USAGE_STATS_ENABLED": "0",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
ENGINES = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_local_fs_capacity_threshold": "0.99",
    "RAY_DATA_USE_DATASOURCE_V2": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",  # else rows are lost when the process ends
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the server keeps the log; people read the progress
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


@dataclass(frozen=True)
class Home:
    """The folder of runs: `corpora/NAME@VERSION`, `encoders/...`, `transfers/...`, `studies/...` and the trackers' own."""

    root: Path

    @classmethod
    def at(cls, root: Path | str) -> Home:
        """A home with an absolute path: workers and jobs are moved to folders of their own."""
        return cls(Path(root).expanduser().resolve())

    def place(self, kind: str, name: str, version: str) -> Path:
        """Where an artifact of a kind (corpus, encoder, transfer, study) belongs."""
        return self.root / FOLDERS[kind] / f"{name}@{version}"

    @property
    def prefect(self) -> Path:
        """Prefect's own folder: database, settings, results."""
        return self.root / "prefect"

    @property
    def tracking(self) -> str:
        """Address of the MLflow store: MLFLOW_TRACKING_URI, or a SQLite file beside the runs."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow.db'}"


FOLDERS: Mapping[str, str] = {
    "corpus": "corpora",
    "encoder": "encoders",
    "transfer": "transfers",
    "study": "studies",
}


def environment(home: Home) -> None:
    """Set what the engines read at import, where the user has not. Call before importing ray, prefect or mlflow.

    A Ray started here is reached by a token that only this process and its children know; Ray would otherwise write
    one into the home folder for every account to read.
    """
    for name, value in (QUIET | ENGINES).items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_HOME", str(home.prefect))
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)  # Prefect makes only the last folder
    if not os.environ.get("RAY_ADDRESS") and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))


@contextmanager
def local_ray(*, cpus: int | None = None, dashboard: bool = False) -> Iterator[None]:
    """Ray for the length of a block: the one that runs already, the cluster of RAY_ADDRESS, or a small one of our own.

    `dashboard` is for training, whose clean-up asks it; it costs 0.9 GB. Our own Ray keeps its session in a short
    temporary folder that is removed at the end.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    options = {"log_to_driver": False, "logging_level": "ERROR"}
    if os.environ.get("RAY_ADDRESS"):
        with _starting():
            ray.init(**options)
        try:
            with _heard_in_ray():
                yield
        finally:
            ray.shutdown()
        return
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"swath-{os.getpid()}-", dir=SHORT))
    try:
        with _starting():
            ray.init(
                num_cpus=cpus,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=dashboard,
                _temp_dir=str(folder),
                **options,
            )
        with _heard_in_ray():
            yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _starting() -> Iterator[None]:
    """Around `ray.init`: one sentence when it fails, and our handler of SIGTERM kept.

    Ray's own handler prints a stack and ends the process without cleaning up. Raises RuntimeError.
    """
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except Exception as error:
        address = os.environ.get("RAY_ADDRESS")
        remedy = (
            f"check that a cluster answers at RAY_ADDRESS={address} and has this version of Ray"
            if address
            else "where the machine is busy, run again when it is less so; the same command goes on"
        )
        raise RuntimeError(f"Ray did not start ({' '.join(str(error).split())}): {remedy}") from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _heard_in_ray() -> Iterator[None]:
    """Make SIGTERM end a wait for Ray too, and then do what it did before.

    While Ray waits it lets KeyboardInterrupt through and drops every other exception of a handler: Prefect's among them,
    so that a flow that was told to stop would go on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, calls = signal.getsignal(signal.SIGTERM), []

    def interrupt(number: int, frame: FrameType | None) -> None:
        calls.append((number, frame))
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except BaseException:
        if calls and callable(before):
            before(*calls[0])
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def sweep() -> None:
    """Remove the session folders of our own processes that were killed before they could."""
    for folder in Path(SHORT).glob("swath-*-*"):
        pid = folder.name.split("-")[1]
        try:
            ours = folder.stat().st_uid == os.getuid() and time.time() - folder.stat().st_mtime > 60
            if ours and pid.isdigit() and not _alive(int(pid)):
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:
            continue


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def free_port() -> int:
    """A port of the loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def local_prefect(home: Home, *, port: int = 4200, patience_s: float = 120) -> Iterator[str]:
    """A Prefect server for the length of a block, or the one PREFECT_API_URL names; yields the address of its API.

    Schedules need it: the server that a flow starts for itself has no scheduler. Must run before prefect is imported.
    """
    given = os.environ.get("PREFECT_API_URL")
    if given:
        yield given
        return
    address = f"http://127.0.0.1:{port}/api"
    home.prefect.mkdir(parents=True, exist_ok=True)
    with (home.prefect / "server.log").open("ab") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=os.environ | {"PREFECT_SERVER_UI_API_URL": address},
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C stops what it serves first, then the server
        )
    try:
        _wait_for(f"{address}/health", server, patience_s, home.prefect / "server.log")
        os.environ["PREFECT_API_URL"] = address
        yield address
    finally:
        os.environ.pop("PREFECT_API_URL", None)
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes], patience_s: float, log: Path) -> None:
    end = time.monotonic() + patience_s
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(
        f"the Prefect server did not answer at {url} within {patience_s:.0f} s; its log is {log}"
    )
