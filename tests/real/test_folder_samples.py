"""Real pictures in class folders: taken in whole, and fed to training as the pixels that Pillow reads."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geodata import manifest
from geodata.folders import FolderSpec, plan
from geodata.intake import import_shard
from geodata.manifest import Corpus, open_corpus
from geodata.twins import repeated
from training.augment import UNDATED
from training.feed import once
from training.recipe import Stream

pytestmark = pytest.mark.real
FEW = 40  # of each class and split: reading ten thousand small files takes a minute on a busy disk


def some(source: Path, target: Path, size: int) -> list[dict[str, str]]:
    """Links to some of the pictures of a folder with an index, and an index of those."""
    with (source / "index.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    taken: Counter[tuple[str, str]] = Counter()
    kept = []
    for row in rows:
        key = row["label"], row["split"]
        taken[key] += 1
        if taken[key] <= size:
            kept.append(row)
            (target / row["path"]).parent.mkdir(parents=True, exist_ok=True)
            (target / row["path"]).symlink_to(source / row["path"])
    with (target / "index.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(kept)
    return kept


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), [("eurosat_rgb", 64), ("cifar10_subset", 32)])
def test_a_labelled_folder_reaches_training_as_pillow_reads_it(shared_data, tmp_path, name, side):
    source = shared_data / name
    rows = some(source, tmp_path / "in", FEW)
    values = {
        "name": name,
        "root": str(tmp_path / "in"),
        "labels": "index",
        "index": "index.csv",
        "split": {"kind": "column"},
        "license": "see the data's own terms",
        "shard_rows": 300,
    }
    spec = FolderSpec.model_validate(values)
    found = plan(spec)
    out = tmp_path / "out"
    records = [import_shard(shard, spec, found.classes, out) for shard in found.shards(spec.shard_rows)]
    manifest.seal(Corpus(out, name, "1", spec.fingerprint, {}, tuple(records), classes=found.classes))
    corpus = open_corpus(out)
    assert (corpus.rows, corpus.rejected) == (len(rows), {}) and len(corpus.classes["class"]) == 10
    assert corpus.counts()["split"] == Counter(row["split"] for row in rows)
    labels = {row["path"]: row["label"] for row in rows}
    paths = {one["sample_id"]: one["layers"]["hr"]["item_ids"][0] for one in corpus.samples()}
    seen: Counter[str] = Counter()
    for batch in once(Stream(corpus=str(out), split="train", layers=("hr",)), 64):
        assert batch.layers["hr"].shape[1:] == (1, 3, side, side)
        for number, sample_id in enumerate(batch.ids):
            path = paths[sample_id]
            with Image.open(source / path) as image:
                wanted = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
            given = batch.layers["hr"][number, 0].numpy().astype(int)
            assert np.abs(given - wanted).max() <= 2, path  # decoders of JPEG differ in the last bits
            code = int(batch.labels["class"][number])
            assert corpus.classes["class"][code] == labels[path] == path.split("/")[-2]
            seen[labels[path]] += 1
        assert (
            len({int(code) for code in batch.labels["class"]}) >= 5 or len(batch.ids) < 64
        )  # classes are mixed
        assert batch.lonlat.isnan().all() and (batch.dates["hr"] == UNDATED).all()
    assert set(seen.values()) == {FEW}


def test_real_pictures_that_look_alike_are_found(shared_data, tmp_path):
    """CIFAR-10 is known to hold near copies within a class; what is exactly there twice is put in by this test."""
    some(shared_data / "cifar10_subset", tmp_path / "in", FEW)
    first = sorted((tmp_path / "in" / "train" / "cat").iterdir())[0]
    (first.parent / "copy.jpg").write_bytes(first.read_bytes())
    values = {
        "name": "cifar",
        "root": str(tmp_path / "in"),
        "split": {"kind": "folder"},
        "license": "research",
    }
    spec = FolderSpec.model_validate(values)
    found = plan(spec)
    records = [import_shard(shard, spec, found.classes, tmp_path / "out") for shard in found.shards(300)]
    exact = repeated(lambda: records, found, ["hr"], "exact", 0)
    dropped = {name: told for details in exact.values() for name, told in details.items()}
    paths = {one.sample_id: one.path for one in found.pictures}
    assert {paths[name] for name in dropped} <= {"train/cat/copy.jpg", f"train/cat/{first.name}"}
    assert len(dropped) == 1 and "the same pixels as" in next(iter(dropped.values()))
