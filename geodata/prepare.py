"""Build one shard of a benchmark: every planned sample is read by its data set's reader, checked, written, read back.

The same as for folders of pictures (`intake`), but a sample may have several layers, masks and dates, and what a file
means its reader knows. A file that is damaged or missing is a reject; a label that is none of the classes is none of the
world's failures but a wrong reader or a wrong folder, and ends the run.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from geodata import benchmarks
from geodata.benchmarks import Benchmark, Labelled
from geodata.build import created_by
from geodata.errors import Corrupt, Missing
from geodata.folders import FolderPlan, FolderShard, Picture
from geodata.intake import sealed
from geodata.layout import Frozen
from geodata.overrides import overridden
from geodata.sample import FileMeta, Sample, judged
from geodata.sensors import MASK
from geodata.shards import Reject, ShardRecord, save_record, shard_path, verify_shard, write_shard
from geodata.source import at_home
from geodata.spec import digest

__all__ = ["PreparedSpec", "file_meta", "load", "plan", "prepare_shard", "told"]

TELLING = 1024
"""Pixels of a date from which on its darkest tell of its radiometry; of a field or a single pixel they do not."""


class PreparedSpec(Frozen):
    """A benchmark and the folder it lies in; `shard_rows` is how many samples one file holds at most."""

    kind: Literal["benchmark"] = "benchmark"
    name: str = Field(min_length=1)
    version: str = Field(default="1", min_length=1)
    root: str = Field(min_length=1)
    shard_rows: int = Field(default=1024, gt=0)

    @property
    def benchmark(self) -> Benchmark:
        """What it is."""
        return benchmarks.find(self.name)

    @property
    def address(self) -> str:
        """name@version."""
        return f"{self.name}@{self.version}"

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of what decides the samples: the place of the folder is not part of it."""
        return digest(self.model_dump(mode="json", exclude={"root"}) | {"is": self.benchmark.described()})


def load(name: str, root: Path, overrides: tuple[str, ...] = ()) -> PreparedSpec:
    """The spec of a benchmark by its name. Raises ValueError when there is none, or for an override it lacks."""
    rows = benchmarks.find(name).shard_rows
    spec = PreparedSpec(name=name, root=str(Path(at_home(str(root))).resolve()), shard_rows=rows)
    return overridden(spec, overrides)


def plan(spec: PreparedSpec) -> FolderPlan:
    """Every sample in order of id, and the names of the label's values.

    Raises Missing naming all that is not there, ValueError for a class that is not known or an id that comes twice.
    """
    benchmark, root = spec.benchmark, Path(spec.root)
    missing = benchmarks.check(benchmark, root)
    if missing:
        raise Missing("; ".join(missing))
    planned = sorted(benchmark.reader.planned(root), key=lambda one: one.sample_id)
    twice = [one.sample_id for one, after in itertools.pairwise(planned) if one.sample_id == after.sample_id]
    if twice:
        raise ValueError(f"{spec.name}: two samples are called {twice[0]}; is the data set there twice?")
    if not planned:
        raise ValueError(f"{root} has no sample of {benchmark.title}; check the folder")
    classes = {benchmark.label: benchmark.classes} if planned[0].labels else {}
    return FolderPlan(tuple(planned), classes, {})


def file_meta(spec: PreparedSpec) -> FileMeta:
    """What the shards of a benchmark say of themselves."""
    benchmark = spec.benchmark
    return FileMeta(
        benchmark.sensors,
        benchmark.labels,
        spec.address,
        spec.fingerprint,
        created_by(),
        {benchmark.label: benchmark.classes},
    )


def prepare_shard(shard: FolderShard, spec: PreparedSpec, root: Path) -> ShardRecord:
    """Read, check, write and read back one shard of the corpus at `root`, record last; a sealed one stays as it is.

    Every planned sample ends as a row or as a reject: 'corrupt', 'missing'. Raises ValueError for a label that is none
    of the classes, or when `root` holds another corpus.
    """
    done = sealed(shard, spec, root)
    if done is not None:
        return done
    rejects: list[Reject] = []
    path = shard_path(root, shard.name)
    record = write_shard(path, _samples(shard, spec, rejects), file_meta(spec), rejects)
    record = verify_shard(path, record)
    save_record(root, record)
    return record


def _samples(shard: FolderShard, spec: PreparedSpec, rejects: list[Reject]) -> Iterator[Sample]:
    """Samples one by one; those that cannot be read are added to `rejects`."""
    benchmark, root = spec.benchmark, Path(spec.root)
    for one in shard.pictures:
        try:
            found = benchmark.reader.read(root, one)
        except (Corrupt, Missing) as error:
            reason = "missing" if isinstance(error, Missing) else "corrupt"
            rejects.append(Reject(one.sample_id, reason, f"{one.path}: {error}"))
            continue
        _known(found, benchmark, one)
        yield Sample(
            one.sample_id,
            one.split,
            found.lon,
            found.lat,
            None,
            _stratum(found, benchmark),
            {prefix: judged(layer, TELLING) for prefix, layer in found.layers.items()},
            cell_id=found.scene,
            labels=found.labels,
        )


def _known(found: Labelled, benchmark: Benchmark, one: Picture) -> None:
    """Raises ValueError for layers or labels other than the benchmark says it has."""
    if tuple(found.layers) != benchmark.layers or tuple(found.labels) != benchmark.labels:
        raise ValueError(
            f"{one.path}: its reader gives layers {tuple(found.layers)} and labels {tuple(found.labels)}, but "
            f"{benchmark.name} has {benchmark.layers} and {benchmark.labels}; mend the reader"
        )
    if benchmark.dense:
        codes = np.unique(found.layers[MASK.prefix].pixels)
        strange = [int(code) for code in codes if benchmarks.IGNORED != code >= len(benchmark.classes)]
    else:
        top = 1 << len(benchmark.classes) if benchmark.task == "multilabel" else len(benchmark.classes)
        strange = [code for code in found.labels.values() if not 0 <= code < top]
    if strange:
        raise ValueError(
            f"{one.path}: label {strange[0]} is none of the {len(benchmark.classes)} classes of {benchmark.name}; "
            "is this the data set it should be?"
        )


def _stratum(found: Labelled, benchmark: Benchmark) -> str:
    """The class of a sample that has one; of others, what is asked of them."""
    single = not benchmark.dense and benchmark.task != "multilabel"
    return benchmark.classes[found.labels["class"]] if single else benchmark.task


def told(plan: FolderPlan, spec: PreparedSpec) -> dict[str, Any]:
    """What the manifest says of the plan: what the benchmark is, and whether all of it is here."""
    counts = plan.counts()
    partial = spec.benchmark.partial(counts)
    return {
        "kind": "benchmark",
        "pictures_planned": len(plan),
        "found": counts,
        "partial": partial,
        "benchmark": json.loads(json.dumps(spec.benchmark.described())),
    }
