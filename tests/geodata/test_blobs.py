"""Where blobs lie in a shard, against the file's own bytes and pyarrow's reader."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shelf import META, sample

from geodata import blobs, codec, shards
from geodata.errors import Corrupt
from geodata.shards import write_shard

PIXELS = ["s2_pixels", "s1_pixels", "lc_pixels", "hr_pixels"]


@pytest.fixture
def shard(tmp_path, monkeypatch):
    """Seven samples in groups of three, one of them without radar, some with pictures."""
    monkeypatch.setattr(shards, "ROWS_PER_GROUP", 3)
    samples = [
        sample(number, dates=1 + number % 3, radar=number != 4, photo=number > 2) for number in range(7)
    ]
    path = tmp_path / "a.parquet"
    return path, write_shard(path, samples, META)


def test_every_blob_lies_where_the_footer_says(shard):
    path, record = shard
    data, file = path.read_bytes(), pq.ParquetFile(path)
    assert record.row_groups == (3, 3, 1)
    for number in range(3):
        group = shards.read_group(path, number, ["sample_id"], PIXELS, record.footer_sha256)
        assert group.table.column_names == ["sample_id"]
        for column in PIXELS:
            stored = file.read_row_group(number, columns=[column])[column].to_pylist()
            for blob, value in zip(group.blobs[column], stored, strict=True):
                assert (blob.size == 0) == (value is None)
                if value is not None:
                    assert data[blob.offset : blob.offset + blob.size] == value
                    assert blob.shape == codec.describe(value)[1]
                    assert blob.files == bool(codec.images(value))


def test_equal_blobs_are_found_one_after_the_other(tmp_path):
    twins = [sample(number, photo=True) for number in (1, 2)]
    twins[1] = type(twins[1])(**{**twins[1].__dict__, "layers": twins[0].layers})
    path = tmp_path / "a.parquet"
    record = write_shard(path, twins, META)
    first, second = shards.read_group(path, 0, ["sample_id"], PIXELS, record.footer_sha256).blobs["s2_pixels"]
    assert first.xxh3 == second.xxh3 and second.offset >= first.offset + first.size


def test_a_blob_is_read_whole_or_not_at_all(shard):
    path, record = shard
    blob = shards.read_group(path, 0, ["sample_id"], PIXELS, record.footer_sha256).blobs["s2_pixels"][1]
    data, memory = path.read_bytes(), np.empty(blob.size + 5, np.uint8).data
    handle = os.open(path, os.O_RDWR)
    try:
        found = blobs.read(handle, blob, memory)
        assert np.array_equal(codec.unpack(found), sample(1, dates=2).layers["s2"].pixels)
        os.pwrite(handle, bytes([data[blob.offset + blob.size - 1] ^ 0x40]), blob.offset + blob.size - 1)
        with pytest.raises(Corrupt, match="do not match their checksum"):
            blobs.read(handle, blob, memory)
        os.ftruncate(handle, blob.offset + blob.size - 1)
        with pytest.raises(Corrupt, match="do not match their checksum"):
            blobs.read(handle, blob, memory)
    finally:
        os.close(handle)


def test_a_shard_that_compresses_its_columns_is_not_written(tmp_path):
    path, row = (
        tmp_path / "a.parquet",
        {"s2_pixels": codec.pack(np.zeros((1, 1, 64, 64), np.uint8), compress=False)},
    )
    pq.write_table(
        pa.table({"s2_pixels": pa.array([row["s2_pixels"].to_pybytes()])}), path, compression="zstd"
    )
    with pytest.raises(ValueError, match="is not in the file as it was given"):
        blobs.Index(["s2_pixels"]).add(path, [row])


def test_a_footer_without_places_is_corrupt(shard):
    path, record = shard
    with pytest.raises(Corrupt, match="does not say where the blobs lie"):
        shards.read_group(path, 0, ["sample_id"], ["s9_pixels"], record.footer_sha256)
    with pytest.raises(Corrupt, match="does not say where the blobs lie"):
        blobs.from_footer({}, 0, PIXELS)
