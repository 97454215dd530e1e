"""Shards from raster files to Parquet and back: all accounted for, the same bytes, and made again from a record."""

import datetime
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ground import EPSG, LEFT, TOP, write_band

from geodata import build
from geodata.build import build_shard, opened_landcover, sealed
from geodata.chips import ShardPlan
from geodata.errors import Corrupt, Missing, Transient
from geodata.sampling import plan
from geodata.shards import load_record, read_samples, record_path, shard_path, verify_shard
from geodata.source import Address, Period
from geodata.sources import cog
from geodata.spec import Area, ChipSpec, CorpusSpec, Quotas, SensorSpec, SplitSpec

SIDE = 1920  # metres
BANDS = {"B02": 10, "B05": 20, "B01": 60}
DAYS = ("20200604", "20200809")


def pixels(name: str, day: str) -> np.ndarray:
    rng = np.random.default_rng(int(day) + int(name[1:]))
    side = SIDE // BANDS[name]
    values = rng.integers(200, 4000, (side, side)).astype(np.uint16)
    values[: 480 // BANDS[name], : 480 // BANDS[name]] = 0
    return values


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder of two dates in three bands, without data in the north-west, over woods and crops."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    for day in DAYS:
        for name, gsd in BANDS.items():
            write_band(folder / f"T33TXN_{day}T101031_{name}.tif", pixels(name, day), gsd)
    cover = np.full((SIDE // 10, SIDE // 10), 2, np.uint8)
    cover[:, SIDE // 20 :] = 5
    write_band(tmp_path / "cover.tif", cover, 10)
    cog.forget()
    build._opened.cache_clear()
    return tmp_path


def corpus(place: Path, **options) -> CorpusSpec:
    source = {"root": str(place / "scenes"), "sensor": "sentinel2_l2a", "bands": list(BANDS)}
    part = {
        "sensor": "sentinel2_l2a",
        "source": Address(call="sources.geotiff.files", options=source),
        "bands": tuple(BANDS),
        "period": Period.from_text("2020-01-01/2021-01-01"),
        "dates": 2,
    }
    settings = {
        "name": "alps",
        "chip": ChipSpec(gsd=10.0, size=24),
        "quotas": Quotas(fixed={"forest": 12, "farmland": 8}),
        "regions": Area(name="alps", bounds=(LEFT, TOP - SIDE, LEFT + SIDE, TOP), epsg=EPSG),
        "landcover": Address(
            call="landcover.raster", options={"path": str(place / "cover.tif"), "table": "esri_2020"}
        ),
        "labels": True,
        "split": SplitSpec(block_m=480.0, fractions={"train": 1.0}),
        "shard_rows": 64,
    }
    return CorpusSpec(sensors=(SensorSpec(**part | options),), **settings)


def planned(spec: CorpusSpec) -> ShardPlan:
    (shard,) = plan(spec, opened_landcover(spec.landcover)).shards(64)
    return shard


def test_every_planned_chip_is_accepted_or_rejected_and_the_pixels_are_those_of_the_files(place, tmp_path):
    spec = corpus(place)
    shard = planned(spec)
    record = build_shard(shard, spec, tmp_path / "c")
    assert record.planned == len(shard.chips) == record.rows + len(record.rejects)
    assert set(record.rejected) == {"nodata"}
    verify_shard(shard_path(tmp_path / "c", shard.name), record)
    samples = list(read_samples(shard_path(tmp_path / "c", shard.name)))
    assert {sample.sample_id for sample in samples} | {reject.chip_id for reject in record.rejects} == {
        chip.chip_id for chip in shard.chips
    }
    for sample in samples:
        layer = sample.layers["s2"]
        assert layer.dates == (datetime.date(2020, 6, 4), datetime.date(2020, 8, 9))
        assert (layer.resampled, layer.nodata) == ((False, False), (0.0, 0.0))
        assert layer.properties["offset_applied_by"] == ("none", "none")
        row, col = int((TOP - sample.grid.origin[1]) // 10), int((sample.grid.origin[0] - LEFT) // 10)
        for date, day in enumerate(DAYS):
            for band, (name, gsd) in enumerate(BANDS.items()):
                whole = np.kron(pixels(name, day), np.ones((gsd // 10, gsd // 10), np.uint16))
                assert np.array_equal(layer.pixels[date, band], whole[row : row + 24, col : col + 24])
        codes = sample.layers["lc"].pixels[0, 0]
        assert sample.labels["landcover"] == (2 if (codes == 2).sum() >= (codes == 5).sum() else 5)


def test_a_sealed_shard_is_left_alone_and_an_unfinished_one_built_again(place, tmp_path):
    spec, root = corpus(place), tmp_path / "c"
    shard = planned(spec)
    record = build_shard(shard, spec, root)
    path = shard_path(root, shard.name)
    before = path.stat().st_mtime_ns
    assert build_shard(shard, spec, root) == record
    assert path.stat().st_mtime_ns == before
    for spoil in (
        lambda: record_path(root, shard.name).unlink(),
        lambda: record_path(root, shard.name).write_text("{"),
        lambda: path.unlink(),
        lambda: path.write_bytes(path.read_bytes()[:-100]),
    ):
        spoil()
        assert sealed(shard, spec, root) is None
        assert build_shard(shard, spec, root) == record
    assert load_record(root, shard.name) == record


def test_a_shard_built_twice_is_the_same_file(place, tmp_path):
    spec = corpus(place)
    shard = planned(spec)
    build_shard(shard, spec, tmp_path / "a")
    backwards = replace(shard, chips=tuple(reversed(shard.chips)))
    build_shard(backwards, spec, tmp_path / "b")
    names = (shard_path(Path(root), shard.name) for root in (tmp_path / "a", tmp_path / "b"))
    assert len({path.read_bytes() for path in names}) == 1


def test_the_folder_of_another_corpus_is_refused(place, tmp_path):
    spec = corpus(place)
    shard = planned(spec)
    build_shard(shard, spec, tmp_path / "c")
    other = corpus(place, max_cloud=0.5)
    with pytest.raises(ValueError, match=r"belongs to alps@1 .* raise the version, or choose another folder"):
        build_shard(shard, other, tmp_path / "c")


def test_made_again_from_a_record_the_hashes_are_equal_even_when_more_scenes_have_come(place, tmp_path):
    spec = corpus(place, select="all")
    shard = planned(spec)
    first = build_shard(shard, spec, tmp_path / "a")
    for name, gsd in BANDS.items():
        write_band(place / f"scenes/T33TXN_20200101T101031_{name}.tif", pixels(name, "20200604"), gsd)
    build._opened.cache_clear()
    again = build_shard(shard, spec, tmp_path / "b", like=first)
    assert again == first
    anew = build_shard(shard, spec, tmp_path / "c")
    assert [one["layers"]["s2"]["pixel_hash"] for one in anew.samples] != [
        one["layers"]["s2"]["pixel_hash"] for one in first.samples
    ]


def test_made_again_without_its_scenes_or_with_other_pixels_it_fails_by_name(place, tmp_path):
    spec = corpus(place, select="all")
    shard = planned(spec)
    first = build_shard(shard, spec, tmp_path / "a")
    write_band(place / f"scenes/T33TXN_{DAYS[0]}T101031_B02.tif", pixels("B02", DAYS[1]), 10)
    with pytest.raises(
        Corrupt, match=r"shard train-r0-00000 of alps@1: sample .*: s2 pixels hash to .* recorded is"
    ):
        build_shard(shard, spec, tmp_path / "b", like=first)
    for path in (place / "scenes").glob(f"*{DAYS[0]}*"):
        path.unlink()
    build._opened.cache_clear()
    with pytest.raises(
        Missing, match=r"made of sentinel2_l2a scene T33TXN_20200604T101031, which .* no longer finds"
    ):
        build_shard(shard, spec, tmp_path / "b", like=first)
    with pytest.raises(Corrupt, match="which are not the 20 of the record"):
        build_shard(replace(shard, chips=shard.chips[1:]), spec, tmp_path / "b", like=first)
    assert not (tmp_path / "b" / "records").exists()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 3]), "corrupt"),
        (lambda path: path.unlink(), "missing_band"),
    ],
)
def test_a_damaged_or_missing_file_refuses_the_chips_with_a_sentence(place, tmp_path, spoil, reason):
    for day in DAYS:
        spoil(place / f"scenes/T33TXN_{day}T101031_B02.tif")
    spec = corpus(place)
    shard = planned(spec)
    record = build_shard(shard, spec, tmp_path / "c")
    assert record.rows == 0
    assert record.rejected[reason] == len(record.rejects) or set(record.rejected) <= {reason, "nodata"}
    detail = next(reject.detail for reject in record.rejects if reject.reason == reason)
    assert "B02" in detail
    assert list(read_samples(shard_path(tmp_path / "c", shard.name))) == []


def test_a_source_that_does_not_answer_fails_the_shard_by_name_and_leaves_nothing(
    place, tmp_path, monkeypatch
):
    def busy(path: str):
        raise Transient(f"{path} could not be read; try later")

    spec = corpus(place)
    shard = planned(spec)
    monkeypatch.setattr(cog, "header", busy)
    with pytest.raises(Transient, match=r"shard train-r0-00000 of alps@1: .* could not be read; try later"):
        build_shard(shard, spec, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_folder_of_no_scenes_says_so(place, tmp_path):
    for path in (place / "scenes").glob("*.tif"):
        path.unlink()
    spec = corpus(place)
    with pytest.raises(Missing, match="none of 0 files under"):
        build_shard(planned(spec), spec, tmp_path / "c")
