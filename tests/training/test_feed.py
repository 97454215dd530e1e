"""The feed: order, position, elasticity, padding, and data that is wrong."""

import gc
import io
import json
import os
import threading
from collections import Counter
from dataclasses import replace
from itertools import islice
from math import nan
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import sample, write_corpus
from PIL import Image

from geodata.codec import Encoded
from geodata.errors import Corrupt
from geodata.manifest import Corpus, open_corpus, seal
from geodata.sample import FileMeta, Layer, Sample
from geodata.sensors import PHOTO
from geodata.shards import read_samples, save_record, shard_path, write_shard
from training.augment import UNDATED, prepare
from training.encoders import Inputs
from training.feed import Feed, once, statistics
from training.order import WINDOW
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


def photos(root, count=10, size=24, kinds=("JPEG", "PNG")):
    """A sealed corpus of pictures that lie nowhere, JPEG and PNG in turn, and their pixels by Pillow."""
    meta, samples, pixels = FileMeta((PHOTO,), ("class",), "photos@1"), [], {}
    for number in range(count):
        rng, kind = np.random.default_rng(number), kinds[number % len(kinds)]
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        file = io.BytesIO()
        coarse.resize((size + 8, size), Image.Resampling.BICUBIC).save(file, kind)
        shown = np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1)[None]
        files = Encoded(f"image/{kind.lower()}", ((file.getvalue(),),))
        layer = Layer(PHOTO, np.ascontiguousarray(shown), (None,), (str(number),), "folder", encoded=(files,))
        name, labels = f"photo-{number:04d}", {"class": number % 2}
        samples.append(Sample(name, "train", nan, nan, None, "", {"hr": layer}, labels=labels))
        pixels[name] = shown
    record = write_shard(shard_path(root, "p"), samples, meta)
    save_record(root, record)
    seal(Corpus(root, "photos", "1", "f" * 12, {}, (record,)))
    return pixels


def test_imported_pictures_are_fed_with_bands_last_and_prepared_with_bands_first(tmp_path):
    pixels = photos(tmp_path / "photos@1")
    batch = next(iter(Feed({"a": stream(tmp_path / "photos@1", layers=("hr",))}, {"a": 10}, 0)))["a"]
    shown = batch.layers["hr"]
    assert shown.shape == (10, 1, 3, 24, 32) and shown.stride()[2] == 1
    for number, name in enumerate(batch.ids):
        assert np.array_equal(shown[number].numpy(), pixels[name])
    assert torch.isnan(batch.lonlat).all()
    assert batch.dates["hr"].tolist() == [[UNDATED]] * 10 and batch.region.tolist() == [-1] * 10
    inputs = Inputs(layer="hr", bands=("R", "G", "B"), mean=(100.0,) * 3, std=(50.0,) * 3)
    images = prepare(batch, inputs)
    plain = replace(batch, layers={"hr": shown.contiguous()})
    assert images.is_contiguous() and torch.equal(images, prepare(plain, inputs))


def test_pictures_of_two_sizes_are_refused_by_name(tmp_path):
    photos(tmp_path / "photos@1", kinds=("JPEG",))
    whole = open_corpus(tmp_path / "photos@1")
    (record,) = whole.records
    one, *others = read_samples(whole.shard_path(record))
    layer = replace(one.layers["hr"], pixels=one.layers["hr"].pixels[..., :16].copy(), encoded=())
    made = write_shard(
        whole.shard_path(record),
        [replace(one, layers={"hr": layer}), *others],
        FileMeta((PHOTO,), ("class",)),
    )
    save_record(whole.root, made)
    seal(replace(whole, records=(made,)))
    with pytest.raises(
        Corrupt, match=r"p\.parquet.*sample photo-\d+: hr is \(3, 24, .*one stream needs one shape"
    ):
        next(iter(Feed({"a": stream(whole.root, layers=("hr",))}, {"a": 10}, 0)))


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batches_are_the_same_with_any_number_of_threads_and_stay_as_they_were(tmp_path, threads):
    """Memory is used again only when nobody holds it: here everything is held, half of it as a view of a view."""
    root = write_corpus(tmp_path / "series@1", {"train": 24}, dates=lambda number: 1 + number % 3)
    made = {f"chip-{number:04d}": sample(number, dates=1 + number % 3) for number in range(24)}
    held = []
    for batch in islice(Feed({"a": stream(root)}, {"a": 4}, 0, threads=threads), 30):
        samples = batch["a"]
        held.append((samples.ids, samples.layers["s2"][1:].numpy()[:, 0], samples.layers["s2"][:1]))
    assert [ids for ids, _, _ in held] == taken(Feed({"a": stream(root)}, {"a": 4}, 0, threads=0), 30)
    for ids, rest, first in held:
        expected = [made[name].layers["s2"].pixels for name in ids]
        assert all(np.array_equal(found, known[0]) for found, known in zip(rest, expected[1:], strict=True))
        assert np.array_equal(first[0, : len(expected[0])].numpy(), expected[0])


def test_memory_that_was_let_go_is_used_again(corpus):
    feed = Feed({"a": stream(corpus)}, {"a": 12}, 0, threads=0)
    places = {batch["a"].layers["s2"].data_ptr() for batch in islice(feed, 40)}
    assert len(places) <= 3


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_files_are_closed_when_their_window_is_over(corpus):
    def held():
        links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
        return sum(link.exists() and corpus in link.resolve().parents for link in links)

    batches = iter(Feed({"a": stream(corpus)}, {"a": 12}, 0, threads=0))
    most = max(held() for _ in islice(batches, 60))
    batches.close()
    gc.collect()
    assert 0 < most <= 3 * WINDOW
    assert held() == 0


def test_no_byte_of_a_blob_can_change_unnoticed(tmp_path):
    root = write_corpus(tmp_path / "bad@1", {"train": 3})
    (shard,) = (root / "shards").iterdir()
    whole = shard.read_bytes()
    start = whole.index(b"SWB\x01")
    for at in range(start, start + 400, 7):
        shard.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(Corrupt, match=r"s0000\.parquet, row group 0, sample chip-\d+: .* checksum"):
            list(once(stream(root), 3))
    shard.write_bytes(whole)
    assert len(list(once(stream(root), 3))) == 1
