"""A corpus of 4.69 million samples in 18 thousand shards: what its manifest costs to open, in a process of its own."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ground import REPOSITORY
from shelf import sample, sealed

from geodata import census, manifest
from geodata.manifest import Corpus

pytestmark = pytest.mark.drill
SAMPLES, ROWS = 4_686_059, 256

LOOK = """
import json, resource, sys, time
from geodata.manifest import open_corpus
began = time.process_time()
corpus = open_corpus(sys.argv[1])
opened = time.process_time() - began
began = time.process_time()
rows = sum(len(kept) for _, kept in corpus.parts("train"))
found = {"open_s": opened, "parts_s": time.process_time() - began, "rows": corpus.rows, "train": rows,
         "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
print(json.dumps(found))
"""


def large(small: Corpus) -> Corpus:
    """The shards of a small corpus over and over, each with its own name, hashes, splits and counts."""
    rng = np.random.default_rng(0)
    record = small.records[0]
    strata = [f"stratum-{number}" for number in range(9)]
    many = []
    for number in range(-(-SAMPLES // ROWS)):
        rows = min(ROWS, SAMPLES - number * ROWS)
        letters = rng.choice(3, rows, p=(0.9, 0.05, 0.05))
        counts = {
            "split": {
                name: int((letters == place).sum()) for place, name in enumerate(("train", "val", "test"))
            },
            "stratum": dict(zip(strata, rng.multinomial(rows, [1 / 9] * 9).tolist(), strict=True)),
            "continent": dict(zip("abcdef", rng.multinomial(rows, [1 / 6] * 6).tolist(), strict=True)),
        }
        many.append(
            dataclasses.replace(
                record,
                name=f"rsrsd-{number:05d}",
                planned=rows + 9,
                rows=rows,
                bytes=30_000_000 + number,
                row_groups=(64,) * (rows // 64) + ((rows % 64,) if rows % 64 else ()),
                rejected={"cloudy": 5, "nodata": 3, "placeholder": 1},
                counts=counts,
                splits="".join(map(str, letters.tolist())),
                file_sha256=rng.bytes(32).hex(),
                footer_sha256=rng.bytes(32).hex(),
                record_sha256=rng.bytes(32).hex(),
            )
        )
    counted = {
        name: dict.fromkeys(map(str, range(60)), 78_000) for name in census.counts([sample(1, photo=True)])
    }
    return dataclasses.replace(small, records=tuple(many), counted=counted)


def test_the_manifest_of_millions_opens_in_seconds_and_in_less_than_a_gigabyte(tmp_path):
    path = tmp_path / "large" / "manifest.json"
    manifest.write_atomic(path, manifest._manifest(large(sealed(tmp_path / "small", photo=True))))
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(path)], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    found = json.loads(done.stdout)
    print(f"{Path(path).stat().st_size / 1e6:.0f} MB of manifest: {found}")
    assert found["rows"] == SAMPLES
    assert found["peak_mb"] < 1024
    assert found["open_s"] < 20
