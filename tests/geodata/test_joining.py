"""Joined corpora: the same files and samples under one manifest, sums that are those of all pixels, and what is refused."""

import dataclasses
import errno
import os

import numpy as np
import pytest
from shelf import META, sample

from geodata import joining, manifest, shards
from geodata.errors import Corrupt, Missing
from geodata.manifest import Corpus, open_corpus
from geodata.sample import FileMeta, Sample
from geodata.sensors import LANDCOVER, OPTICAL, SENTINEL1, SENTINEL2
from geodata.shards import Reject

CHIP = {"kind": "utm", "gsd": 10.0, "size": 16, "epsg": None}


def made(root, name: str, samples: list[Sample], meta: FileMeta = META, chip: dict = CHIP, **facts) -> Corpus:
    """A sealed corpus of one shard, with one chip refused."""
    refused = [Reject(f"r-{name}", "no_scene", "none in 2020")]
    record = shards.write_shard(shards.shard_path(root, "train-r0-00000"), samples, meta, refused)
    shards.save_record(root, record)
    spec = {"name": name, "chip": chip, "sensors": [{"sensor": "sentinel2"}]}
    return manifest.seal(Corpus(root, name, "1", name.encode().hex(), spec, (record,), **facts))


def two(tmp_path) -> list[Corpus]:
    """Three samples, and two of which one has no radar."""
    first = [sample(0), sample(1, split="val"), sample(2, dates=3)]
    return [
        made(tmp_path / "a", "one", first),
        made(tmp_path / "b", "other", [sample(3), sample(4, radar=False)]),
    ]


def together(corpora: list[Corpus], root, name: str = "both") -> Corpus:
    return manifest.seal(joining.joined(joining.load(name, corpora), root))


def test_shards_are_the_same_files_and_samples_rejects_and_ids_are_kept(tmp_path):
    corpora = two(tmp_path)
    both = together(corpora, tmp_path / "both")
    assert open_corpus(both.root) == both
    assert (both.rows, both.planned, both.rejected) == (5, 7, {"no_scene": 2})
    assert [one.name for one in both.records] == ["one@1-train-r0-00000", "other@1-train-r0-00000"]
    for part, record in zip(corpora, both.records, strict=True):
        assert os.path.samefile(both.shard_path(record), part.shard_path(part.records[0]))
    assert both.pixel_hashes() == corpora[0].pixel_hashes() | corpora[1].pixel_hashes()
    assert sorted(one.chip_id for one in both.rejects()) == ["r-one", "r-other"]
    for record in both.records:
        both.verify(record)
    told = [(one["corpus"], one["fingerprint"], one["rows"]) for one in both.plan["joined"]]
    assert told == [(f"{one.name}@1", one.fingerprint, one.rows) for one in corpora]
    assert both.spec["chip"]["size"] == 16 and both.spec["parts"][1]["corpus"] == "other@1"


def test_statistics_and_counts_are_those_of_all_pixels(tmp_path):
    both = together(two(tmp_path), tmp_path / "both")
    trained = [sample(0), sample(2, dates=3), sample(3), sample(4, radar=False)]
    for prefix in ("s2", "s1"):
        pixels = np.concatenate([one.layers[prefix].pixels for one in trained if prefix in one.layers])
        values = pixels.astype(float).transpose(1, 0, 2, 3).reshape(pixels.shape[1], -1)
        valid = [band[band != trained[0].layers[prefix].sensor.nodata] for band in values]
        found = both.stats("train")[prefix]
        assert found.count == tuple(map(len, valid))
        np.testing.assert_allclose(found.mean(), [band.mean() for band in valid], rtol=1e-12)
        np.testing.assert_allclose(found.std(), [band.std() for band in valid], rtol=1e-9)
    assert both.counts()["split"] == {"train": 4, "val": 1}


def test_a_join_outlives_its_parts_and_can_be_joined_again(tmp_path):
    corpora = two(tmp_path)
    both = together(corpora, tmp_path / "both")
    for path in (tmp_path / "b" / "shards").iterdir():
        path.unlink()
    for record in both.records:
        both.verify(record)
    third = made(tmp_path / "c", "third", [sample(7)])
    assert together([both, third], tmp_path / "all", "all").rows == 6


def test_files_are_copied_where_there_are_no_links(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.EXDEV, "another file system")

    corpora = two(tmp_path)
    monkeypatch.setattr(os, "link", none)
    both = together(corpora, tmp_path / "both")
    for part, record in zip(corpora, both.records, strict=True):
        assert not os.path.samefile(both.shard_path(record), part.shard_path(part.records[0]))
        both.verify(record)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chip": CHIP | {"size": 32}}, "chips of one@1 and other@1 disagree, .*size 16.*size 32"),
        ({"meta": dataclasses.replace(META, sensors=META.sensors[:3])}, "layer hr of one@1 .* and none"),
        (
            {
                "meta": dataclasses.replace(
                    META, sensors=(SENTINEL2.pick(("B02",)), SENTINEL1, LANDCOVER, OPTICAL)
                )
            },
            "layer s2 of .*'B02', .*'B12'.* and .*'B02'",
        ),
        (
            {"meta": dataclasses.replace(META, labels=())},
            "labels of one@1 and other@1 disagree, .*crop.* and none",
        ),
        ({"classes": {"crop": ("rye", "oat")}}, "classes of one@1 and other@1 disagree, none and crop"),
    ],
)
def test_what_one_stream_cannot_read_is_refused(tmp_path, change, said):
    first = made(tmp_path / "a", "one", [sample(0)])
    other = made(tmp_path / "b", "other", [], **change)
    if other.rows == 0:  # a corpus without samples says nothing of its layers
        with pytest.raises(Missing, match="has no samples"):
            joining.agreed([first, other])
    again = made(tmp_path / "c", "other", [thinned(sample(1), change.get("meta", META))], **change)
    with pytest.raises(ValueError, match=said):
        joining.agreed([first, again])


def thinned(one: Sample, meta: FileMeta) -> Sample:
    """The sample without what a shard of this metadata cannot hold."""
    known = {sensor.prefix: sensor for sensor in meta.sensors}
    layers = {
        prefix: layer
        if layer.sensor == known[prefix]
        else dataclasses.replace(
            layer, sensor=known[prefix], pixels=layer.pixels[:, : len(known[prefix].bands)]
        )
        for prefix, layer in one.layers.items()
        if prefix in known
    }
    return dataclasses.replace(one, layers=layers, labels=one.labels if meta.labels else {})


def test_codes_of_land_cover_must_come_of_one_table(tmp_path):
    meta = dataclasses.replace(META, labels=("landcover",))
    some = [dataclasses.replace(sample(number), labels={"landcover": 1}) for number in range(2)]
    first = made(tmp_path / "a", "one", some[:1], meta, plan={"classes": {"1": "water"}})
    other = made(tmp_path / "b", "other", some[1:], meta, plan={"classes": {"1": "trees"}})
    with pytest.raises(ValueError, match=r"land-cover codes of .* disagree, 1 water and 1 trees"):
        joining.agreed([first, other])


def test_an_id_or_a_corpus_that_comes_twice_is_refused(tmp_path):
    first, other = (
        made(tmp_path / "a", "one", [sample(0), sample(1)]),
        made(tmp_path / "b", "other", [sample(1)]),
    )
    with pytest.raises(
        ValueError, match="sample tiny-0001 is in one@1 and in other@1: leave one of them out"
    ):
        joining.joined(joining.load("both", [first, other]), tmp_path / "both")
    assert not (tmp_path / "both").exists()
    with pytest.raises(ValueError, match="one@1 is named twice"):
        joining.load("both", [first, first])
    with pytest.raises(ValueError, match="one@1 is no join: name two corpora or more"):
        joining.load("both", [first])


def test_a_part_that_is_another_corpus_by_now_or_damaged_is_refused(tmp_path):
    corpora = two(tmp_path)
    spec = joining.load("both", corpora)
    path = corpora[1].shard_path(corpora[1].records[0])
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(Corrupt, match=r"footer|end"):
        joining.joined(spec, tmp_path / "both")
    manifest.seal(dataclasses.replace(corpora[0], fingerprint="another"))
    with pytest.raises(Corrupt, match="join under another version"):
        joining.joined(spec, tmp_path / "both")
