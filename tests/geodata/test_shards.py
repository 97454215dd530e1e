"""Shards against pyarrow's own reader, a flipped byte, a full disk and a kill at any moment."""

import contextlib
import dataclasses
import json
import resource
import signal
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from blake3 import blake3
from shelf import META, Damage, picture, placeless, sample

from geodata import codec, shards
from geodata.errors import Corrupt, Missing
from geodata.grid import chip_grid
from geodata.sample import FileMeta, Sample, table
from geodata.sensors import PHOTO, SENTINEL2
from geodata.shards import Reject, drop, read_samples, verify_shard, write_shard

UNSTORED = {"considered": "", "refused": {}, "hrefs": {}}
"""What a layer knows that goes to the record and not into columns."""


def told(sample: Sample) -> str:
    """Everything a sample says, as text (so that nan equals nan), pixels as their hashes."""
    layers = {}
    for prefix, layer in sorted(sample.layers.items()):
        scl = None if layer.scl is None else layer.scl.tolist()
        plain = dataclasses.replace(
            layer, pixels=layer.pixels[:, :, :1, :1], scl=None, encoded=(), **UNSTORED
        )
        layers[prefix] = (plain, layer.pixels.tolist(), scl, layer.encoded)
    return repr((dataclasses.replace(sample, layers={}), layers))


def test_a_sample_comes_back_from_its_shard_and_a_missing_sensor_stays_missing(tmp_path):
    samples = [sample(3), sample(1, radar=False, photo=True), sample(2, dates=5)]
    record = write_shard(tmp_path / "a.parquet", samples, META)
    back = list(read_samples(tmp_path / "a.parquet"))
    assert [s.sample_id for s in back] == ["tiny-0001", "tiny-0002", "tiny-0003"]
    assert [told(one) for one in back] == [told(one) for one in sorted(samples, key=lambda s: s.sample_id)]
    assert "s1" not in back[0].layers and record.row_groups == (3,)
    assert verify_shard(tmp_path / "a.parquet", record) == dataclasses.replace(
        record, file_sha256=shards.file_sha256(tmp_path / "a.parquet")
    )


def test_a_picture_without_a_place_or_a_date_comes_back_with_its_original_bytes(tmp_path):
    meta = FileMeta((PHOTO,), ("class",), classes={"class": ("cat", "dog")})
    record = write_shard(tmp_path / "a.parquet", [placeless(0), placeless(1)], meta)
    (first, second), (_, said) = (
        read_samples(tmp_path / "a.parquet"),
        shards.open_shard(tmp_path / "a.parquet"),
    )
    assert [told(first), told(second)] == [told(placeless(0)), told(placeless(1))]
    assert first.grid is None and np.isnan(first.lon) and first.layers["hr"].dates == (None,)
    assert said.classes == {"class": ("cat", "dog")}
    row = pq.read_table(tmp_path / "a.parquet").to_pylist()[0]
    assert [row[name] for name in ("lon", "crs_epsg", "transform", "bbox", "geometry")] == [None] * 5
    (file,) = codec.images(row["hr_pixels"])[0].tiles[0]
    assert file == picture(np.random.default_rng(0), 12, 12, "PNG")
    verify_shard(tmp_path / "a.parquet", record)


def test_the_pixel_hash_is_blake3_of_type_shape_and_pixels_and_with_files_of_those(tmp_path):
    layer, photo = sample(1).layers["s2"], placeless(1).layers["hr"]
    head = f"{layer.pixels.dtype.str}{layer.pixels.shape}".encode()
    assert layer.pixel_hash() == blake3(head + layer.pixels.tobytes()).digest()
    swapped = dataclasses.replace(layer, pixels=np.asfortranarray(layer.pixels))
    assert swapped.pixel_hash() == layer.pixel_hash()
    otherwise_decoded = dataclasses.replace(photo, pixels=photo.pixels ^ 1)
    assert otherwise_decoded.pixel_hash() == photo.pixel_hash() != placeless(2).layers["hr"].pixel_hash()


def test_what_the_search_found_and_refused_is_in_the_record_once(tmp_path):
    record = write_shard(tmp_path / "a.parquet", [sample(1, photo=True), sample(2)], META)
    first = record.samples[0]["layers"]
    assert first["s2"]["considered"] == "ab" * 8 and first["s2"]["refused"] == {"item-x": "cloudy"}
    assert first["hr"]["phash"] == 2**64 - 2
    assert sorted(record.hrefs) == ["item-1-0", "item-1-1", "item-2-0", "item-2-1"]
    assert record.hrefs["item-2-1"] == {"B02": "https://example.org/item-2-1/B02.tif"}


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


def test_a_shard_without_some_samples_keeps_the_others_and_counts_the_dropped_as_rejects(tmp_path):
    path = tmp_path / "a.parquet"
    record = write_shard(path, [sample(n) for n in range(4)], META, [Reject("x", "cloudy")])
    made = drop(path, record, {"tiny-0002": "repeats tiny-0000"}, "duplicate")
    assert (made.planned, made.rows, made.rejected) == (5, 3, {"cloudy": 1, "duplicate": 1})
    assert Reject("tiny-0002", "duplicate", "repeats tiny-0000") in made.rejects
    assert [told(one) for one in read_samples(path)] == [told(sample(n)) for n in (0, 1, 3)]
    assert made.samples == record.samples[:2] + record.samples[3:] and "item-2-0" not in made.hrefs
    assert verify_shard(path, made) == made
    again = write_shard(tmp_path / "b.parquet", [sample(n) for n in (0, 1, 3)], META)
    assert (made.moments, made.counts, made.splits) == (again.moments, again.counts, again.splits)
    with pytest.raises(ValueError, match="holds no sample tiny-0002"):
        drop(path, made, ["tiny-0002"], "duplicate")


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
    record = verify_shard(path, write_shard(path, [sample(1), sample(2)], META))
    size = path.stat().st_size
    for at in np.linspace(0, size - 1, 60).astype(int):
        with Damage(path, int(at), 0x10), pytest.raises(Corrupt):
            verify_shard(path, record)
    with Damage(path, size // 2, 0), pytest.raises(Corrupt, match=r"a\.parquet"):
        verify_shard(path, record)
    path.unlink()
    with pytest.raises(Missing, match="is not there"):
        verify_shard(path, record)


@pytest.mark.parametrize("column", ["s2_pixels", "s2_dates"])
def test_a_flipped_bit_before_a_page_is_noticed_or_does_no_harm(tmp_path, column):
    """No checksum covers the header of a page; Arrow reads fewer rows, or shorter lists, without an error."""
    path = tmp_path / "a.parquet"
    optical = [
        dataclasses.replace(one, layers={"s2": one.layers["s2"]}) for one in (sample(1), sample(2, dates=3))
    ]
    record = write_shard(path, optical, FileMeta((SENTINEL2,)))
    group = pq.ParquetFile(path).metadata.row_group(0)
    leaves = [group.column(number) for number in range(group.num_columns)]
    start = next(leaf.data_page_offset for leaf in leaves if leaf.path_in_schema.startswith(column))
    whole = shards.read_table(path, 0, [column], record.footer_sha256)
    silent = 0
    for at in range(start, start + 24):
        for bit in range(8):
            with Damage(path, at, 1 << bit):
                try:
                    found = shards.read_table(path, 0, [column], record.footer_sha256)
                except Corrupt:
                    found = whole
                assert found.equals(whole), f"byte {at - start}, bit {bit}"
                bare = pq.ParquetFile(path, page_checksum_verification=True)
                with contextlib.suppress(pa.ArrowInvalid, OSError):
                    silent += not bare.read_row_group(0, [column]).equals(whole)
    assert silent, "Arrow alone notices all of them: the check of our own can go"


def test_a_footer_other_than_the_recorded_one_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    record = write_shard(path, [sample(1)], META)
    layers = sample(1).layers
    other = dataclasses.replace(layers["s2"], pixels=layers["s2"].pixels ^ 1)
    write_shard(path, [dataclasses.replace(sample(1), layers={**layers, "s2": other})], META)
    for read in (
        lambda: shards.open_shard(path, record.footer_sha256),
        lambda: shards.read_table(path, 0, ["region_id"], record.footer_sha256),
        lambda: list(read_samples(path, footer_sha256=record.footer_sha256)),
    ):
        with pytest.raises(Corrupt, match="footer that its record knows"):
            read()


def test_a_record_comes_back_and_not_a_byte_of_it_may_change(tmp_path):
    record = write_shard(shards.shard_path(tmp_path, "a"), [sample(1)], META, [Reject("x", "cloudy", "80 %")])
    shards.save_record(tmp_path, record)
    path = shards.record_path(tmp_path, "a")
    assert shards.load_record(tmp_path, "a") == record
    for at in range(0, path.stat().st_size, 37):
        with Damage(path, at, 0x20), pytest.raises(Corrupt, match=r"is not as it was written|does not begin"):
            shards.load_record(tmp_path, "a")
    with Damage(path, 100, 0), pytest.raises(Corrupt):
        shards.load_record(tmp_path, "a")


def test_a_flipped_pixel_byte_is_noticed_by_the_page_checksum_alone(tmp_path):
    path = tmp_path / "a.parquet"
    write_shard(path, [sample(1)], META)
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"SWB\x01") + 100] ^= 1
    path.write_bytes(whole)
    with pytest.raises(Corrupt, match="row group 0"):
        shards.read_table(path, 0, ["s2_pixels", "lc_pixels", "s1_pixels", "s2_scl"])


def test_another_schema_version_and_a_stranger_are_refused(tmp_path):
    rows = table([sample(1).to_row()], META)
    said = json.loads(rows.schema.metadata[b"swath"]) | {"schema_version": 99}
    pq.write_table(rows.replace_schema_metadata({"swath": json.dumps(said)}), tmp_path / "v99.parquet")
    with pytest.raises(Corrupt, match="schema version 99, this release reads 2; curate the corpus again"):
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
