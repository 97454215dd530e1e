"""The feed: order, position, elasticity, padding, and data that is wrong."""

import json
import threading
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from conftest import sample, write_corpus

from geodata.errors import Corrupt
from training.feed import Feed, once, statistics
from training.recipe import Stream


def stream(corpus, **changes):
    return Stream(**({"corpus": str(corpus), "layers": ("s2",)} | changes))


def flat(lists):
    return [item for inner in lists for item in inner]


def taken(feed, batches, name="a"):
    return [batch[name].ids for batch in islice(feed, batches)]


def test_an_epoch_has_every_sample_once_and_the_next_has_another_order(corpus):
    feed = Feed({"a": stream(corpus)}, {"a": 12}, seed=1)
    assert feed.size("a") == 48
    ids = taken(feed, 8)
    first, second = flat(ids[:4]), flat(ids[4:])
    assert Counter(first) == Counter(second)
    assert len(set(first)) == 48
    assert first != second
    assert first != sorted(first)
    assert feed.epoch_of("a") == 2.0


def test_order_depends_on_the_seed_alone(corpus):
    def make(seed):
        return Feed({"a": stream(corpus)}, {"a": 12}, seed)

    assert taken(make(1), 6) == taken(make(1), 6)
    assert taken(make(1), 4) != taken(make(2), 4)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_together_read_what_one_rank_reads(corpus, world):
    alone = taken(Feed({"a": stream(corpus)}, {"a": 12}, 1), 9)
    parts = [taken(Feed({"a": stream(corpus)}, {"a": 12}, 1, rank, world), 9) for rank in range(world)]
    assert [flat(together) for together in zip(*parts, strict=True)] == alone


@pytest.mark.parametrize("stop", range(1, 9))
def test_resumed_at_any_step_it_yields_what_it_would_have_yielded(corpus, stop):
    whole = taken(Feed({"a": stream(corpus)}, {"a": 10}, 3), 12)
    first = Feed({"a": stream(corpus)}, {"a": 10}, 3)
    before = taken(first, stop)
    position = json.loads(json.dumps(first.position))
    assert before + taken(Feed({"a": stream(corpus)}, {"a": 10}, 3, position=position), 12 - stop) == whole


def test_two_ranks_resumed_as_one_see_every_sample_once(corpus):
    ranks = [Feed({"a": stream(corpus)}, {"a": 8}, 5, rank, 2) for rank in range(2)]
    seen = Counter(name for rank in ranks for ids in taken(rank, 3) for name in ids)
    assert ranks[0].position == ranks[1].position == {"a": 24}
    seen.update(flat(taken(Feed({"a": stream(corpus)}, {"a": 8}, 5, position=ranks[0].position), 3)))
    assert len(seen) == 48
    assert set(seen.values()) == {1}


def test_each_stream_has_its_own_share_and_epochs(corpus):
    feed = Feed({"a": stream(corpus), "b": stream(corpus, split="val", layers=("lc",))}, {"a": 12, "b": 4}, 0)
    batches = list(islice(feed, 6))
    assert [len(batch["a"]) for batch in batches] == [12] * 6
    assert Counter(name for batch in batches[:3] for name in batch["b"].ids) == Counter(
        name for batch in batches[3:] for name in batch["b"].ids
    )
    assert feed.position == {"a": 72, "b": 24}


def test_samples_are_what_was_written(corpus):
    batch = next(iter(Feed({"a": stream(corpus, layers=("s2", "lc"))}, {"a": 5}, 0)))["a"]
    assert batch.layers["s2"].shape == (5, 1, 4, 16, 16)
    assert batch.layers["s2"].dtype == torch.uint16
    for number, name in enumerate(batch.ids):
        made = sample(int(name.split("-")[1]))
        for layer in ("s2", "lc"):
            assert np.array_equal(batch.layers[layer][number].numpy(), made.layers[layer].pixels)
        assert batch.labels["class"][number] == made.labels["class"]
        assert batch.region[number] == made.region_id
    assert batch.dates["s2"].tolist() == [[18262]] * 5  # 2020-01-01
    assert batch.lonlat.tolist() == [[12.0, 52.0]] * 5
    assert batch.bands["s2"] == ("B02", "B03", "B04", "B08")
    assert (batch.nodata["s2"], batch.nodata["lc"]) == (0, 255)


def test_shorter_series_are_padded_with_nodata_and_date_minus_one(tmp_path):
    root = write_corpus(tmp_path / "series@1", {"train": 6}, dates=lambda number: 1 + number % 3)
    (batch,) = once(stream(root), 6)
    assert batch.layers["s2"].shape == (6, 3, 4, 16, 16)
    for number, name in enumerate(batch.ids):
        times = 1 + int(name.split("-")[1]) % 3
        assert (batch.dates["s2"][number] >= 0).tolist() == [True] * times + [False] * (3 - times)
        assert (batch.layers["s2"][number, times:].to(torch.int32) == 0).all()
        assert (batch.layers["s2"][number, :times].to(torch.int32) > 0).all()


def test_once_drops_nothing_and_keeps_the_order_of_the_corpus(corpus):
    batches = list(once(stream(corpus, split="test"), 4))
    assert [len(batch) for batch in batches] == [4, 4, 1]
    ids = [name for batch in batches for name in batch.ids]
    assert ids == sorted(ids)
    assert len(set(ids)) == 9


def test_statistics_are_those_of_the_split(corpus):
    pixels = torch.cat([batch.layers["s2"].double() for batch in once(stream(corpus), 64)])
    bands, mean, std = statistics({"a": stream(corpus), "b": stream(corpus)})["s2"]
    assert bands == ("B02", "B03", "B04", "B08")
    assert mean == pytest.approx(pixels.mean((0, 1, 3, 4)).tolist())
    assert std == pytest.approx(pixels.std((0, 1, 3, 4), correction=0).tolist())


def test_an_empty_split_a_missing_layer_and_an_uneven_batch_are_refused(tmp_path, corpus):
    root = write_corpus(tmp_path / "one@1", {"train": 4})
    with pytest.raises(ValueError, match=r"tiny@1 has no sample in split 'val'; it has .*train"):
        Feed({"a": stream(root, split="val")}, {"a": 2}, 0)
    with pytest.raises(ValueError, match=r"no layer 's1'; it has s2, lc"):
        Feed({"a": stream(corpus, layers=("s1",))}, {"a": 2}, 0)
    with pytest.raises(ValueError, match="7 samples of stream 'a' do not divide over 2 ranks"):
        Feed({"a": stream(corpus)}, {"a": 7}, 0, world=2)


def test_a_flipped_byte_is_corrupt_and_names_the_shard(tmp_path):
    root = write_corpus(tmp_path / "bad@1", {"train": 12}, shard_rows=12)
    (shard,) = (root / "shards").iterdir()
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 0x10
    shard.write_bytes(data)
    with pytest.raises(Corrupt, match=r"s0000\.parquet"):
        list(islice(Feed({"a": stream(root)}, {"a": 12}, 0), 1))


def test_nothing_runs_on_after_the_last_batch_was_taken(corpus):
    batches = iter(Feed({"a": stream(corpus)}, {"a": 8}, 0))
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("feed", "decode"))]
