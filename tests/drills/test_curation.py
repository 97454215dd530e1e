"""Curation under SIGKILL and on a full disk: nothing lost, nothing double, no half shard that passes for whole."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ground import REPOSITORY, make_ground, make_served, swath

from geodata.manifest import open_corpus
from geodata.stubs import earth_engine as stand_in
from geodata.stubs.server import serve
from pipelines.settings import Home

pytestmark = [pytest.mark.drill, pytest.mark.filterwarnings("default")]
MANY = {"quotas": {"fixed": {"forest": 60, "farmland": 60, "urban": 60}}, "shard_rows": 3}
SLOW = ("smoke", "quotas.count=90", "shard_rows=2", "rounds=1")
KILLS = 10


def records(home: Home) -> int:
    return len(list((home.place("corpus", "smoke", "1") / "records").glob("*.json")))


def checked(home: Home, name: str):
    """The sealed corpus, after every shard was read back."""
    corpus = open_corpus(home.place("corpus", name, "1"))
    for record in corpus.records:
        corpus.verify(record)
    assert corpus.rows + sum(corpus.rejected.values()) == corpus.planned
    names = [sample["sample_id"] for sample in corpus.samples()]
    assert len(names) == len(set(names)) == corpus.rows
    return corpus


def workers(run: subprocess.Popen[bytes]) -> list[int]:
    """Process ids of Ray's workers of a run that build shards or wait for one; Linux tells of them in /proc."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_bytes()

    def ours(pid: int) -> bool:
        return pid == run.pid or (pid in parents and ours(parents[pid]))

    builds = (b"ray::Map", b"ray::IDLE", b"ray::Read")
    return [pid for pid, name in names.items() if name.startswith(builds) and ours(pid)]


def begun(home: Home, log: Path) -> subprocess.Popen[bytes]:
    """A curation in a session of its own. What it says goes to a file: orphans of a killed one may keep a pipe open."""
    command = [sys.executable, "-m", "pipelines.cli", "curate", *SLOW, "--root", str(home.root)]
    with log.open("ab") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream, cwd=REPOSITORY, start_new_session=True)


def test_a_curation_killed_ten_times_ends_with_the_pixels_of_an_undisturbed_one(tmp_path):
    """Five times the driver with all it has started, five times one of its Ray workers, at random moments."""
    calm, rough = Home.at(tmp_path / "calm"), Home.at(tmp_path / "rough")
    undisturbed = swath("curate", *SLOW, "--root", calm.root)
    assert undisturbed.returncode == 0, undisturbed.err
    wanted = checked(calm, "smoke")

    seed = random.Random().randrange(10**6)
    print(f"random moments of seed {seed}")
    draw = random.Random(seed)
    victims = draw.sample(["driver", "worker"] * (KILLS // 2), KILLS)
    run, moments, log = None, [], tmp_path / "log"
    for number, victim in enumerate(victims):
        run = run or begun(rough, log)
        target = int(len(wanted.records) * 0.9 * (number + draw.random()) / KILLS)
        end = time.monotonic() + 120
        there = workers if victim == "worker" else lambda _: True
        while (records(rough) < target or not there(run)) and run.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(draw.random() * (6 if target == 0 else 0.2))
        assert run.poll() is None, f"it had ended before kill {number}:\n{log.read_text()}"
        moments.append((victim, records(rough)))
        if victim == "worker":
            with contextlib.suppress(ProcessLookupError):
                os.kill(draw.choice(workers(run)), signal.SIGKILL)
            continue
        os.killpg(run.pid, signal.SIGKILL)  # with the Prefect server that it started for itself
        assert run.wait(30) == -signal.SIGKILL
        run = None
    print(f"sealed shards at each kill: {moments} of {len(wanted.records)}")
    assert (run or begun(rough, log)).wait(280) == 0, log.read_text()
    found = checked(rough, "smoke")
    assert found.pixel_hashes() == wanted.pixel_hashes()
    assert [record.name for record in found.records] == [record.name for record in wanted.records]
    assert [record.file_sha256 for record in found.records] == [
        record.file_sha256 for record in wanted.records
    ]
    files = {path.stem for path in (found.root / "shards").glob("*.parquet")}
    assert files == {record.name for record in wanted.records}


def test_a_thousand_chips_under_the_full_fault_script_are_those_of_a_run_without_faults(tmp_path):
    """Two workers, 16 threads each, six requests at once allowed: the stand-in counts what it sees."""
    with serve([stand_in.routes()]) as stub:
        spec = make_served(tmp_path / "spec", stub.url, count=1000, concurrency=6, shard_rows=50)
        homes = Home.at(tmp_path / "calm"), Home.at(tmp_path / "faults")
        seen = []
        for home, faults in zip(homes, ("none", "full"), strict=True):
            stub.show(faults)
            began = time.monotonic()
            done = swath("curate", spec, "--root", home.root, timeout=600)
            assert done.returncode == 0, done.err
            seen.append(stub.stats())
            print(f"{faults}: {time.monotonic() - began:.0f} s, {seen[-1]}")
    calm, rough = (checked(home, "served") for home in homes)
    assert rough.planned == rough.rows + sum(rough.rejected.values()) == 1000
    assert rough.pixel_hashes() == calm.pixel_hashes()
    assert rough.rejected == calm.rejected
    assert {"429", "500", "503", "slow", "truncated", "closed", "memory", "size", "404"} == set(
        seen[1]["faults"]
    )
    assert all(one["peak"]["ee"] <= 6 for one in seen)
    (counted,) = json.loads((rough.root / "stage.json").read_text())["requests"].values()
    assert counted["peak"] <= 6
    print(f"governor: {counted}")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A folder that holds one megabyte; the test skips where it cannot be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here (root is needed)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_sentence_and_what_was_sealed_before_is_kept(tmp_path, small_disk):
    spec = make_ground(tmp_path / "ground", **MANY)
    home = Home.at(tmp_path / "home")
    home.root.mkdir()
    (home.root / "corpora").symlink_to(small_disk)
    full = swath("curate", spec, "--root", home.root)
    assert full.returncode == 1, full.err
    said = [line for line in full.err.splitlines() if line.startswith("swath: ")]
    assert len(said) == 1
    assert "no room left to write" in said[0]
    assert "Traceback" not in full.err
    root = home.place("corpus", "tiny", "1")
    assert not (root / "manifest.json").exists()
    whole = {path.stem for path in (root / "shards").glob("*.parquet")}
    sealed = {path.stem for path in (root / "records").glob("*.json")}
    assert sealed <= whole
    assert sealed

    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    kept = {name: (root / "records" / f"{name}.json").stat().st_mtime_ns for name in sealed}
    again = swath("curate", spec, "--root", home.root)
    assert again.returncode == 0, again.err
    checked(home, "tiny")
    assert {name: (root / "records" / f"{name}.json").stat().st_mtime_ns for name in sealed} == kept


BUILD_WITH_LITTLE_ROOM = """
import resource, sys
from pathlib import Path
from geodata.build import build_shard, opened_landcover
from geodata.corpus import load_spec
from geodata.sampling import plan
spec = load_spec(sys.argv[1])
shard = plan(spec, opened_landcover(spec.landcover)).shards(spec.shard_rows)[0]
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    build_shard(shard, spec, Path(sys.argv[2]))
except OSError as error:
    print(error.strerror)
"""


def test_a_shard_that_may_not_grow_leaves_neither_file_nor_record(tmp_path):
    spec = make_ground(tmp_path / "ground")
    root = tmp_path / "corpus"
    command = [sys.executable, "-c", BUILD_WITH_LITTLE_ROOM, str(spec), str(root)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=REPOSITORY, env=dict(os.environ), check=True
    )
    assert "no room left to write" in done.stdout
    assert not [path for path in root.rglob("*") if path.is_file()]
