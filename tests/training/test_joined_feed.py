"""A joined corpus as training reads it: every sample of every part once an epoch, statistics over all of them."""

import numpy as np
import pytest
import tiny

from geodata import joining, manifest
from geodata.manifest import Corpus
from geodata.shards import save_record, shard_path, write_shard
from training.feed import Feed, once, statistics
from training.recipe import Stream


@pytest.fixture(scope="module")
def samples():
    """Whole samples, and in the second part one that was only photographed."""
    return {"north": [tiny.sample(0), tiny.sample(1)], "south": [tiny.sample(2, dated=False), tiny.sample(3)]}


@pytest.fixture(scope="module")
def stream(samples, tmp_path_factory) -> Stream:
    root, parts = tmp_path_factory.mktemp("corpora"), []
    for name, some in samples.items():
        record = write_shard(shard_path(root / name, "s0000"), some, tiny.META)
        save_record(root / name, record)
        parts.append(manifest.seal(Corpus(root / name, name, "1", name, tiny.SPEC, (record,))))
    both = manifest.seal(joining.joined(joining.load("both", parts), root / "both"))
    return Stream(corpus=str(both.root), layers=("hr", "s2", "s1"), partial=True)


def test_an_epoch_reads_every_sample_of_every_part_once(stream, samples):
    wanted = sorted(one.sample_id for some in samples.values() for one in some)
    feed = Feed({"scenes": stream}, {"scenes": 2}, seed=3, threads=0)
    assert feed.size("scenes") == 4
    epoch = [name for _, batch in zip(range(2), feed, strict=False) for name in batch["scenes"].ids]
    assert sorted(epoch) == wanted
    assert sorted(name for batch in once(stream, 3) for name in batch.ids) == wanted


def test_statistics_are_those_of_all_parts(stream, samples):
    found = statistics({"scenes": stream})
    for layer in ("hr", "s2", "s1"):
        some = [one.layers[layer] for part in samples.values() for one in part if layer in one.layers]
        values = np.concatenate(
            [
                one.pixels.astype(float).transpose(1, 0, 2, 3).reshape(len(one.sensor.bands), -1)
                for one in some
            ],
            1,
        )
        kept = [band[band != some[0].sensor.nodata] for band in values]
        np.testing.assert_allclose(found[layer][1], [band.mean() for band in kept], rtol=1e-9)
        np.testing.assert_allclose(found[layer][2], [band.std() for band in kept], rtol=1e-9)
