"""What names a corpus gives its samples, and which of them are shown."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import BANDS, sample, write_corpus

from geodata import sensors
from geodata.manifest import Corpus, seal
from geodata.sample import FileMeta
from geodata.shards import save_record, shard_path, write_shard
from training import known
from training.recipe import Stream


def corpus(root, *, cover, splits=("train", "train", "val", "test")):
    """Chips 0, 1 ... without labels; odd ones are half class 1, urban."""
    held = (sensors.SENTINEL2.pick(BANDS), *([sensors.LANDCOVER] if cover else []))
    chips = [replace(sample(number, split), labels={}) for number, split in enumerate(splits)]
    if not cover:
        chips = [replace(one, layers={"s2": one.layers["s2"]}) for one in chips]
    record = write_shard(shard_path(root, "s0"), chips, FileMeta(held, (), "bare@1"))
    save_record(root, record)
    seal(Corpus(root, "bare", "1", "f" * 12, {}, (record,), plan={"classes": {"0": "water", "1": "trees"}}))
    return root


def ground(root, **settings):
    stream = Stream(corpus=str(root), layers=("s2",), **settings)
    return known.ground(SimpleNamespace(streams={"scenes": stream}), "s2")


def labels(batches):
    return torch.cat([names for _, names in batches])


def test_a_class_is_preferred_to_land_cover_and_that_to_the_stratum(tmp_path):
    classed = ground(write_corpus(tmp_path / "classed", {"train": 6, "val": 4}))
    assert classed.classes == () and sorted(labels(classed.test()).unique().tolist()) == [0, 1]
    covered = ground(corpus(tmp_path / "covered", cover=True))
    assert covered.classes == ("water", "trees")
    maps = labels(covered.train())
    assert maps.shape == (2, 16, 16)
    assert [float(one.float().mean()) for one in maps] == [0, 0.5]
    bare = ground(corpus(tmp_path / "bare", cover=False))
    assert bare.classes == ("forest", "urban")
    assert labels(bare.train()).tolist() == [0, 1]
    assert labels(bare.test()).tolist() == [1, 0]  # chip 3, of the test split, and chip 2, of validation


def test_a_corpus_of_one_split_has_nothing_to_learn_names_from(tmp_path):
    alone = ground(corpus(tmp_path / "alone", cover=False, splits=("train",) * 5))
    assert alone.train is None
    assert labels(alone.test()).tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(("split", "ids"), [("train", [0, 2]), ("val", [1, 3])])
def test_examples_are_spread_over_the_split_or_over_another(tmp_path, split, ids):
    root = corpus(tmp_path / "two", cover=False, splits=("train", "val") * 2)
    stream = Stream(corpus=str(root), layers=("s2",))
    found = [one.ids for one in known.examples(stream, split, 4)]
    assert found == [[f"chip-{number:04d}"] for number in ids]
    assert [one.ids for one in known.examples(stream, "test", 4)] == [["chip-0000"], ["chip-0002"]]
