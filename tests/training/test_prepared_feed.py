"""Corpora of benchmarks reach training as their readers read the files: pixels, masks, labels, splits."""

from collections import Counter

import numpy as np
import pytest
from layouts import WRITERS, dataset_of

from geodata import benchmarks
from geodata.manifest import Corpus, open_corpus, seal
from geodata.prepare import load, plan, prepare_shard
from training.feed import once
from training.recipe import Stream

SMALL = [
    "bigearthnet_v2_mm",
    "oscd",
    "pastis_run2",
    "eurosat_ms_tr20_1",
    "fmow_s2_series",
    "levir_cd_samples",
]


@pytest.mark.parametrize("name", SMALL)
def test_shards_are_read_by_the_feed_as_they_were_read_from_the_files(name, tmp_path):
    benchmark = benchmarks.find(name)
    (tmp_path / "in").mkdir()
    WRITERS[dataset_of(name)](tmp_path / "in", benchmark)
    spec, root = load(name, tmp_path / "in"), tmp_path / "out"
    planned = plan(spec)
    records = [prepare_shard(shard, spec, root) for shard in planned.shards(spec.shard_rows)]
    again = prepare_shard(planned.shards(spec.shard_rows)[0], spec, tmp_path / "again")
    assert again.footer_sha256 == records[0].footer_sha256  # the same files give the same bytes
    corpus = Corpus(
        root, name, "1", spec.fingerprint, {}, tuple(records), classes={benchmark.label: benchmark.classes}
    )
    assert seal(corpus).rows == len(planned)
    seen = Counter()
    for split in planned.counts():
        for batch in once(Stream(corpus=str(root), split=split, layers=benchmark.layers), 1):
            (one,) = [one for one in planned.pictures if one.sample_id == batch.ids[0]]
            wanted = benchmark.reader.read(tmp_path / "in", one)
            for prefix, layer in wanted.layers.items():
                assert np.array_equal(batch.layers[prefix][0].numpy(), layer.pixels)
                assert batch.bands[prefix] == layer.sensor.band_names
            assert {label: int(value[0]) for label, value in batch.labels.items()} == dict(wanted.labels)
            seen[one.split] += 1
    assert seen == planned.counts()
    assert open_corpus(root).meta().classes == {benchmark.label: benchmark.classes}
