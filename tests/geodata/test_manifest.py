"""Sealed corpora: what comes back, what a flipped byte does, and what millions of samples cost to open."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
from shelf import Damage, damages, sample, sealed

from geodata import manifest, shards
from geodata.errors import Corrupt, Missing
from geodata.files import file_sha256
from geodata.manifest import Corpus, open_corpus
from geodata.moments import Moments
from geodata.shards import Reject


def test_a_sealed_corpus_comes_back_and_its_totals_are_sums(tmp_path):
    corpus = sealed(tmp_path)
    back = open_corpus(tmp_path)
    assert back == corpus
    assert (back.planned, back.rows, back.rejected) == (7, 5, {"no_scene": 2})
    assert back.counts()["split"] == {"train": 4, "val": 1}
    assert sum(back.counts()["lc_train"].values()) == 4 * 256
    assert [(unit.path.name, unit.rows) for unit in back.units()] == [
        ("part-0.parquet", 3),
        ("part-1.parquet", 2),
    ]
    assert len(back.pixel_hashes()) == 15
    assert back.stats("val")["s2"] == Moments.of(sample(4).layers["s2"])
    with pytest.raises(ValueError, match="no sample in split 'test'"):
        back.stats("test")
    assert back.meta().labels == ("crop",)


def test_records_are_read_when_they_are_asked_for_and_must_be_those_that_were_sealed(tmp_path):
    sealed(tmp_path)
    size = (tmp_path / "manifest.json").stat().st_size
    assert b"item-1-0" not in (tmp_path / "manifest.json").read_bytes() and size < 20_000
    corpus = open_corpus(tmp_path)
    full = corpus.record("part-1")
    assert full.rejects == (Reject("r-part-1", "no_scene", "none in 2020"),)
    assert [one["sample_id"] for one in corpus.samples()] == [f"tiny-{number:04d}" for number in range(5)]
    assert Counter(reject.reason for reject in corpus.rejects()) == corpus.rejected
    assert full.file_sha256 == file_sha256(corpus.shard_path(full))
    with pytest.raises(ValueError, match="has no shard 'part-9'"):
        corpus.record("part-9")
    changed = dataclasses.replace(full, rejects=(Reject("r-part-1", "cloudy"),))
    shards.save_record(tmp_path, changed)
    with pytest.raises(Corrupt, match="is not the one that was sealed"):
        corpus.record("part-1")


def test_rows_of_a_split_are_known_without_opening_a_shard(tmp_path):
    corpus = sealed(tmp_path)
    for path in (tmp_path / "shards").iterdir():
        path.unlink()
    found = {
        split: [(unit.path.stem, rows.tolist()) for unit, rows in corpus.parts(split)]
        for split in ("train", "val", "test", "none")
    }
    assert found == {
        "train": [("part-0", [0, 1, 2]), ("part-1", [0])],
        "val": [("part-1", [1])],
        "test": [],
        "none": [],
    }


def test_a_corpus_without_its_manifest_does_not_count_and_a_sample_may_not_come_twice(tmp_path):
    corpus = sealed(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(Missing, match="swath curate"):
        open_corpus(tmp_path)
    record = shards.write_shard(shards.shard_path(tmp_path, "part-2"), [sample(1)], corpus.meta())
    shards.save_record(tmp_path, record)
    with pytest.raises(ValueError, match="sample tiny-0001 is in two shards"):
        manifest.seal(dataclasses.replace(corpus, records=(*corpus.records, record)))
    assert not (tmp_path / "manifest.json").exists()
    shards.record_path(tmp_path, "part-2").unlink()
    assert shards.load_record(tmp_path, "part-2") is None
    with pytest.raises(Missing, match=r"record .* is not there"):
        manifest.seal(dataclasses.replace(corpus, records=(*corpus.records, record)))


def test_a_manifest_of_another_release_is_refused_in_a_sentence(tmp_path):
    sealed(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"format": "swath corpus manifest", "name": "tiny"}, indent=1))
    with pytest.raises(Corrupt, match="or another release wrote it"):
        open_corpus(tmp_path)
    path.write_bytes(manifest.stamped({"format": "swath corpus manifest 3"}))
    with pytest.raises(Corrupt, match="is no swath corpus manifest 2"):
        open_corpus(tmp_path)


def test_files_beside_the_manifest_are_sealed_too(tmp_path):
    corpus = sealed(tmp_path)
    assert list(corpus.files) == ["spec.json"] and corpus.verify_files() == []
    with Damage(tmp_path / "spec.json", 3, 1):
        assert "is not the file that was sealed" in corpus.verify_files()[0]
    (tmp_path / "spec.json").unlink()
    assert "is not there any more" in corpus.verify_files()[0]


def problems(root) -> list[str]:
    """What a check of everything finds."""
    try:
        corpus = open_corpus(root)
    except Corrupt as error:
        return [str(error)]
    found = corpus.verify_files()
    for record in corpus.records:
        try:
            corpus.verify(record)
        except (Corrupt, Missing) as error:
            found.append(str(error))
    return found


def served(root) -> list[dict[str, object]]:
    """Every value of every row, as a reader that goes through the manifest gets them."""
    return [
        row
        for unit in open_corpus(root).units()
        for row in shards.read_table(unit.path, unit.row_group, None, unit.footer_sha256).to_pylist()
    ]


def test_flipped_bytes_and_cut_files_are_found_and_never_served(tmp_path):
    """The small one of the corruption drill."""
    sealed(tmp_path, photo=True)
    whole = repr(served(tmp_path))
    assert problems(tmp_path) == []
    for damage in damages(tmp_path, flips=20, cuts=5, seed=3):
        with damage:
            assert problems(tmp_path), damage
            try:
                found = repr(served(tmp_path))
            except Corrupt:
                continue
            assert found == whole, damage
    assert problems(tmp_path) == []


def test_a_large_manifest_is_small_per_shard_and_opens_at_once(tmp_path):
    corpus = sealed(tmp_path)
    one = corpus.records[0]
    many = tuple(dataclasses.replace(one, name=f"s{number:05d}") for number in range(300))
    path = tmp_path / "large" / "manifest.json"
    manifest.write_atomic(path, manifest._manifest(dataclasses.replace(corpus, records=many)))
    assert path.stat().st_size < 300 * 1500
    back = open_corpus(path)
    assert back.rows == 900 and len(list(back.parts("train"))) == 300
    letters = np.frombuffer(back.records[7].splits.encode(), np.uint8) - ord("0")
    assert letters.tolist() == [0, 0, 0]


def test_a_corpus_without_samples_says_so(tmp_path):
    record = shards.write_shard(
        shards.shard_path(tmp_path, "a"), [], sealed(tmp_path / "b").meta(), [Reject("x", "cloudy")]
    )
    shards.save_record(tmp_path, record)
    corpus = manifest.seal(Corpus(tmp_path, "tiny", "1", "0123", {}, (record,)))
    assert (corpus.rows, corpus.planned, corpus.counts()["split"]) == (0, 1, {})
    with pytest.raises(Missing, match="has no samples"):
        corpus.meta()
