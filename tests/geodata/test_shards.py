"""Shards against pyarrow's own reader, a flipped byte, a full disk and a kill at any moment."""

import dataclasses
import json
import resource
import signal
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from geodata import codec, shards
from geodata.errors import Corrupt, Missing
from geodata.grid import chip_grid
from geodata.sample import FileMeta, Layer, Sample, table
from geodata.sensors import LANDCOVER, SENTINEL1, SENTINEL2
from geodata.shards import Corpus, Moments, Reject, open_corpus, read_samples, verify_shard, write_shard

META = FileMeta((SENTINEL2, SENTINEL1, LANDCOVER), ("crop",), "tiny", "0123abcd", "swath test")


def sample(number: int, *, dates: int = 2, radar: bool = True, split: str = "train") -> Sample:
    rng = np.random.default_rng(number)
    grid = chip_grid(13.0 + number / 100, 52.4, 10.0, 16)
    days = tuple(date(2020, 1, 1 + 5 * day) for day in range(dates))
    names = tuple(f"item-{number}-{day}" for day in range(dates))
    optical = Layer(
        SENTINEL2,
        rng.integers(0, 4000, (dates, 10, 16, 16)).astype(np.uint16),
        days,
        names,
        "synthetic",
        cloud=(0.25,) * dates,
        nodata=(0.0,) * dates,
        properties={"baseline": ("05.09",) * dates},
        scl=rng.integers(0, 12, (dates, 16, 16)).astype(np.uint8),
    )
    labels = Layer(
        LANDCOVER, rng.integers(1, 4, (1, 1, 16, 16)).astype(np.uint8), days[:1], ("map",), "synthetic"
    )
    layers = {"s2": optical, "lc": labels}
    if radar:
        pixels = rng.integers(-2500, -500, (dates, 2, 16, 16)).astype(np.int16)
        layers["s1"] = Layer(SENTINEL1, pixels, days, names, "synthetic", resampled=(True,) * dates)
    return Sample(
        f"tiny-{number:04d}",
        split,
        *grid.centre(),
        grid,
        "urban",
        layers,
        "EU",
        7,
        "c",
        2.0,
        {"crop": number},
    )


def same(left: Sample, right: Sample) -> bool:
    parts = [(left.layers[prefix], right.layers[prefix]) for prefix in left.layers]
    pixels = all(np.array_equal(a.pixels, b.pixels) and np.array_equal(a.scl, b.scl) for a, b in parts)
    rest = all(
        (a.dates, a.item_ids, a.cloud[:1] if a.scl is not None else (), a.resampled, dict(a.properties))
        == (b.dates, b.item_ids, b.cloud[:1] if b.scl is not None else (), b.resampled, dict(b.properties))
        for a, b in parts
    )
    bare = [dataclasses.replace(s, layers={}) for s in (left, right)]
    return pixels and rest and bare[0] == bare[1] and set(left.layers) == set(right.layers)


def test_a_sample_comes_back_from_its_shard_and_a_missing_sensor_stays_missing(tmp_path):
    samples = [sample(3), sample(1, radar=False), sample(2, dates=5)]
    record = write_shard(tmp_path / "a.parquet", samples, META)
    back = list(read_samples(tmp_path / "a.parquet"))
    assert [s.sample_id for s in back] == ["tiny-0001", "tiny-0002", "tiny-0003"]
    assert all(same(a, b) for a, b in zip(back, sorted(samples, key=lambda s: s.sample_id), strict=True))
    assert "s1" not in back[0].layers and record.row_groups == (3,)
    verify_shard(tmp_path / "a.parquet", record)


def test_a_shard_explains_itself_without_our_code(tmp_path):
    path = tmp_path / "a.parquet"
    write_shard(path, [sample(1)], META)
    file = pq.ParquetFile(path)
    said = json.loads(file.schema_arrow.metadata[b"swath"])
    assert said["layers"]["s1"] == said["layers"]["s1"] | {"unit": "dB", "nodata": -32768, "scale": 0.01}
    geo = json.loads(file.schema_arrow.metadata[b"geo"])
    assert geo["version"] == "1.1.0" and geo["primary_column"] == "geometry"
    row = file.read().to_pylist()[0]
    assert shapely.from_wkb(row["geometry"]).bounds == tuple(row["bbox"].values())
    assert file.schema_arrow.field("s2_pixels").type == pa.large_binary()
    blob = row["s2_pixels"]
    planes = pa.Codec("zstd").decompress(blob[16 + 16 :], 2 * 10 * 16 * 16 * 2, asbytes=True)
    half = len(planes) // 2
    low, high = np.frombuffer(planes[:half], np.uint8), np.frombuffer(planes[half:], np.uint8)
    assert np.array_equal(
        (low + 256 * high.astype(np.uint16)).reshape(2, 10, 16, 16), sample(1).layers["s2"].pixels
    )


def test_a_shard_built_twice_is_the_same_file(tmp_path):
    samples = [sample(number) for number in range(5)]
    first = write_shard(tmp_path / "a.parquet", samples, META)
    second = write_shard(tmp_path / "b" / "a.parquet", samples[::-1], META)
    assert first == second


def test_row_groups_hold_at_most_64_rows_and_the_bytes_allowed(tmp_path, monkeypatch):
    samples = [sample(number, radar=False) for number in range(70)]
    assert write_shard(tmp_path / "a.parquet", samples, META).row_groups == (64, 6)
    monkeypatch.setattr(shards, "BYTES_PER_GROUP", 10 * samples[0].layers["s2"].pixels.nbytes)
    assert max(write_shard(tmp_path / "b.parquet", samples, META).row_groups) == 9
    file = pq.ParquetFile(tmp_path / "a.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [64, 6]


def test_accepted_and_rejected_make_up_planned_or_there_is_no_record(tmp_path):
    record = write_shard(
        tmp_path / "a.parquet", [sample(1)], META, [Reject("x", "cloudy"), Reject("y", "cloudy")]
    )
    assert (record.planned, record.rows, record.rejected) == (3, 1, {"cloudy": 2})
    with pytest.raises(ValueError, match="a chip was lost"):
        dataclasses.replace(record, planned=4)
    empty = write_shard(tmp_path / "b.parquet", [], META, [Reject("x", "cloudy")])
    assert empty.row_groups == () and list(read_samples(tmp_path / "b.parquet")) == []


def test_two_samples_of_one_id_are_refused(tmp_path):
    with pytest.raises(ValueError, match="tiny-0001 comes twice"):
        write_shard(tmp_path / "a.parquet", [sample(1), sample(1)], META)
    assert not (tmp_path / "a.parquet").exists()


def test_a_flipped_byte_anywhere_is_noticed(tmp_path):
    path = tmp_path / "a.parquet"
    record = write_shard(path, [sample(1), sample(2)], META)
    whole = path.read_bytes()
    for at in np.linspace(5, len(whole) - 9, 60).astype(int):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(Corrupt):
            verify_shard(path, record)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Corrupt, match=r"a\.parquet"):
        verify_shard(path, record)
    path.unlink()
    with pytest.raises(Missing, match="is not there"):
        verify_shard(path, record)


def test_a_flipped_pixel_byte_is_noticed_by_the_page_checksum_alone(tmp_path):
    path = tmp_path / "a.parquet"
    write_shard(path, [sample(1)], META)
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"SWB\x01") + 100] ^= 1
    path.write_bytes(whole)
    with pytest.raises(Corrupt, match="row group 0"):
        shards.read_table(path, 0, ["s2_pixels", "lc_pixels", "s1_pixels", "s2_scl"])


def test_another_schema_version_and_a_stranger_are_refused(tmp_path):
    rows = table([sample(1)], META)
    said = json.loads(rows.schema.metadata[b"swath"]) | {"schema_version": 99}
    pq.write_table(rows.replace_schema_metadata({"swath": json.dumps(said)}), tmp_path / "v99.parquet")
    with pytest.raises(Corrupt, match="schema version 99"):
        list(read_samples(tmp_path / "v99.parquet"))
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(Corrupt, match="but no shard"):
        list(read_samples(tmp_path / "other.parquet"))


def test_a_full_disk_leaves_no_shard(tmp_path):
    """RLIMIT_FSIZE stands in for the disk: the kernel refuses the write in the middle, with EFBIG."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match="no room left to write"):
            write_shard(tmp_path / "a.parquet", [sample(number) for number in range(20)], META)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_moments_are_numpys_over_valid_pixels_and_add_exactly():
    layers = [sample(number).layers["s2"] for number in range(3)]
    total = Moments.of(layers[0]) + Moments.of(layers[1]) + Moments.of(layers[2])
    for band in range(10):
        pixels = np.concatenate([layer.pixels[:, band].ravel() for layer in layers]).astype(np.float64)
        pixels = pixels[pixels != 0]
        assert total.count[band] == pixels.size
        assert np.isclose(total.mean()[band], pixels.mean()) and np.isclose(total.std()[band], pixels.std())


def sealed(root: Path) -> Corpus:
    records = []
    for name, numbers in (("part-0", range(3)), ("part-1", range(3, 5))):
        samples = [sample(n, split="val" if n == 4 else "train") for n in numbers]
        record = write_shard(shards.shard_path(root, name), samples, META, [Reject(f"r-{name}", "no_scene")])
        shards.save_record(root, record)
        records.append(shards.load_record(root, name))
    corpus = Corpus(root.resolve(), "tiny", "1", "0123abcd", {"name": "tiny"}, tuple(records))
    shards.seal(corpus)
    return corpus


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


def test_a_shard_without_its_record_and_a_corpus_without_its_manifest_do_not_count(tmp_path):
    corpus = sealed(tmp_path)
    shards.record_path(tmp_path, "part-1").unlink()
    assert shards.load_record(tmp_path, "part-1") is None
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(Missing, match="swath curate"):
        open_corpus(tmp_path)
    twice = dataclasses.replace(corpus, records=corpus.records + corpus.records[:1])
    with pytest.raises(ValueError, match="is in two shards"):
        shards.seal(twice)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(Corrupt, match="does not parse"):
        open_corpus(tmp_path)


def test_pixels_that_do_not_fit_their_grid_or_sensor_are_refused():
    good = sample(1)
    with pytest.raises(ValueError, match="do not cover"):
        dataclasses.replace(good, grid=chip_grid(13, 52, 10.0, 32))
    with pytest.raises(ValueError, match="int32, not uint16"):
        dataclasses.replace(good.layers["s2"], pixels=good.layers["s2"].pixels.astype(np.int32))
    with pytest.raises(ValueError, match="not \\(1 dates"):
        dataclasses.replace(good.layers["s2"], dates=(date(2020, 1, 1),))
    with pytest.raises(ValueError, match="none of train"):
        dataclasses.replace(good, split="holdout")
    assert codec.describe(codec.pack(good.layers["s2"].pixels))[1] == (2, 10, 16, 16)
