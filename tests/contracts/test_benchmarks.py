"""Every benchmark reads two images in the layout its data set was published in, and says what is missing.

The tests write those images themselves, with labels they know; a data set without such a pair fails here.
"""

import json
from datetime import date

import numpy as np
import pytest
from layouts import (
    WRITERS,
    aid,
    bigearthnet_,
    dataset_of,
    dynamicearthnet,
    eurosat_ms,
    kampala,
    pastis_,
    rgb,
    saved,
)

from geodata import benchmarks
from geodata.benchmarks import bigearthnet, cdd, isaid, pastis, potsdam, whu_cd
from geodata.benchmarks.readers import pairs, rasters
from geodata.benchmarks.readers.tiles import origins
from geodata.errors import Corrupt
from geodata.folders import FolderShard
from geodata.prepare import load, plan, prepare_shard


def one_a_reader():
    """Ways of dividing one data set read it alike: of those that differ by their lists only, the first."""
    seen, kept = set(), []
    for name in benchmarks.names():
        stem = name.rstrip("0123456789").removesuffix("_tr") if "_tr" in name else name
        stem = stem.partition("_tr")[0]
        if stem not in seen:
            seen.add(stem)
            kept.append(name)
    return kept


def test_every_data_set_has_its_pair_here():
    assert set(WRITERS) == set(benchmarks.modules())
    assert len(set(benchmarks.names())) == len(benchmarks.names())


@pytest.mark.parametrize("name", one_a_reader())
def test_two_images_as_published_give_the_labels_they_were_written_with(name, tmp_path):
    benchmark = benchmarks.find(name)
    wanted = WRITERS[dataset_of(name)](tmp_path, benchmark)
    assert benchmarks.check(benchmark, tmp_path) == []
    planned = plan(load(name, tmp_path)).pictures
    assert len({one.sample_id for one in planned}) == len(planned) >= 2
    found = set()
    for one in planned:
        part = next((part for part in wanted if part in one.sample_id), None)
        if part is None:
            continue
        labelled = benchmark.reader.read(tmp_path, one)
        assert tuple(labelled.layers) == benchmark.layers and tuple(labelled.labels) == benchmark.labels
        if benchmark.dense:
            assert np.array_equal(labelled.layers["mask"].pixels[0, 0], wanted[part]), one.sample_id
            image = next(layer for prefix, layer in labelled.layers.items() if prefix != "mask")
            assert image.pixels.shape[-2:] == labelled.layers["mask"].pixels.shape[-2:]
        elif benchmark.task == "multilabel":
            bits = labelled.labels["classes"]
            assert [name for bit, name in enumerate(benchmark.classes) if bits >> bit & 1] == wanted[part]
        else:
            assert benchmark.classes[labelled.labels["class"]] == wanted[part]
        found.add(part)
    assert found == set(wanted)


@pytest.mark.parametrize("name", one_a_reader())
def test_an_empty_folder_is_told_apart_line_by_line(name, tmp_path):
    benchmark = benchmarks.find(name)
    missing = benchmarks.check(benchmark, tmp_path)
    assert len(missing) >= 2 and benchmark.url in missing[-1] and benchmark.title in missing[-1]
    assert "there is no" in benchmarks.check(benchmark, tmp_path / "nowhere")[0]


@pytest.mark.parametrize("name", benchmarks.names())
def test_what_a_benchmark_says_of_itself_is_whole(name):
    benchmark = benchmarks.find(name)
    assert benchmark.name == name and benchmarks.find(name) is benchmark
    assert len(set(benchmark.classes)) == len(benchmark.classes) >= 2
    assert (
        benchmark.url.startswith("http")
        and benchmark.license
        and benchmark.attribution
        and benchmark.contained
    )
    assert set(benchmark.splits) <= {"train", "val", "test"}
    assert json.loads(json.dumps(benchmark.described()))["classes"] == list(benchmark.classes)


# What is special to one of them


def test_eurosat_bands_stand_where_the_instrument_has_them(tmp_path):
    benchmark = benchmarks.find("eurosat_ms_tr20_0")
    eurosat_ms(tmp_path, benchmark)
    layer = benchmark.reader.read(tmp_path, plan(load(benchmark.name, tmp_path)).pictures[0]).layers["s2"]
    assert layer.pixels[0, :, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 12, 8, 9, 10, 11]


def test_radar_is_hundredths_of_a_decibel_and_dates_come_from_names(tmp_path):
    benchmark = benchmarks.find("bigearthnet_v1_mm")
    bigearthnet_(tmp_path, benchmark)
    found = benchmark.reader.read(tmp_path, plan(load(benchmark.name, tmp_path)).pictures[0])
    assert found.layers["s1"].pixels[0, :, 0, 0].tolist() == [-1125, -1750]
    assert found.layers["s1"].dates == found.layers["s2"].dates == (date(2017, 6, 13),)
    assert found.layers["s2"].pixels[0, :, 7, 7].tolist() == [100 + n for n in range(13) if n != 10]


def test_pastis_series_hold_both_passes_by_date_and_the_place(tmp_path):
    benchmark = benchmarks.find("pastis_run1")
    pastis_(tmp_path, benchmark)
    found = benchmark.reader.read(tmp_path, plan(load(benchmark.name, tmp_path)).pictures[0])
    radar = found.layers["s1"]
    assert radar.dates == (date(2018, 9, 17), date(2018, 9, 17), date(2018, 9, 18))
    assert radar.properties["orbit_pass"] == ("ascending", "descending", "ascending")
    assert radar.pixels[:, 0, 0, 0].tolist() == [-1150, -950, -1150]
    # Lambert-93 has its middle at 3 degrees east, 46.5 north, (700 km, 6600 km); a degree east is 76.7 km there
    assert found.lon == pytest.approx(3 - 99.15 / 76.7, abs=0.01) and found.lat == pytest.approx(
        46.50, abs=0.01
    )


def test_pastis_folds_rotate_and_are_scored_once_each():
    table_ = {run: {fold: pastis.split_of(fold, run) for fold in range(1, 6)} for run in range(1, 6)}
    assert table_[1] == {1: "train", 2: "train", 3: "train", 4: "val", 5: "test"}
    assert table_[2] == {2: "train", 3: "train", 4: "train", 5: "val", 1: "test"}
    assert sorted(fold for run in table_.values() for fold, split in run.items() if split == "test") == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_a_place_is_scored_at_every_zoom_or_at_none(tmp_path):
    kampala(tmp_path, benchmarks.find("kampala_buildings_19"))
    splits = {}
    for zoom in (19, 20, 21):
        for one in plan(load(f"kampala_buildings_{zoom}", tmp_path)).pictures:
            _, column, row, _ = one.path.rpartition("/")[2].removesuffix(".png").split("-")
            place = int(column) >> zoom - 19, int(row) >> zoom - 19
            splits.setdefault(place, set()).add(one.split)
    assert splits == {(100, 200): {"train"}, (101, 200): {"test"}, (101, 201): {"test"}}


def test_the_official_potsdam_lists_have_24_and_14_tiles():
    assert (len(set(potsdam.TRAIN)), len(set(potsdam.TEST))) == (24, 14)
    assert not set(potsdam.TRAIN) & set(potsdam.TEST) and "7_10" in potsdam.TRAIN


def test_the_19_classes_join_32_of_43_and_drop_the_rest():
    joined = [old for olds in bigearthnet.JOINED.values() for old in olds]
    assert len(set(joined)) == 32 and len(bigearthnet.DROPPED) == 11
    assert not set(joined) & set(bigearthnet.DROPPED)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: bigearthnet.bits(["Moon"], of_19=False), "'Moon' is no class"),
        (lambda: bigearthnet.bits(["Airports"], of_19=True), "'Airports' is no class"),
        (lambda: potsdam.coloured(np.full((3, 2, 2), 90, np.uint8), boundaries=True, what="x"), "colour"),
        (lambda: potsdam.coloured(np.zeros((3, 2, 2), np.uint8), boundaries=True, what="x"), "colour"),
        (lambda: isaid.coloured(np.full((3, 2, 2), 1, np.uint8), "x"), r"\(1, 1, 1\)"),
        (lambda: pairs.changed(np.full((4, 4), 128, np.uint8), "x"), "grey"),
        (lambda: rasters.mask(np.full((2, 2), 9), {0: 0, 1: 1}, ("", ""), what="x"), "code 9"),
        (lambda: rasters.mask(np.full((2, 2), -1), {0: 0}, ("", ""), what="x"), "code -1"),
        (lambda: cdd.split_of(cdd.Path("Real/subset/trial/A/0.jpg")), "trial"),
    ],
)
def test_what_no_class_is_ends_the_run(call, told):
    with pytest.raises(ValueError, match=told):
        call()


def test_an_unknown_class_folder_ends_the_run(tmp_path):
    benchmark = benchmarks.find("aid_tr20_0")
    aid(tmp_path, benchmark)
    saved(tmp_path / "Spaceport" / "spaceport_1.jpg", rgb(600))
    with pytest.raises(ValueError, match="'Spaceport', which is none of the 30 classes"):
        plan(load("aid_tr20_0", tmp_path))


def test_an_unknown_class_in_a_table_ends_the_run(tmp_path):
    benchmark = benchmarks.find("fmow_s2")
    WRITERS["fmow_s2"](tmp_path, benchmark)
    path = tmp_path / "train.csv"
    path.write_text(path.read_text().replace("airport", "spaceport"))
    with pytest.raises(ValueError, match="'spaceport' is none of the 62"):
        plan(load("fmow_s2", tmp_path))


def test_arrays_that_hold_objects_are_refused(tmp_path):
    np.save(tmp_path / "bad.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(Corrupt, match="cannot be read"):
        rasters.npy(tmp_path / "bad.npy")


def test_a_picture_in_no_list_ends_the_run(tmp_path):
    benchmark = benchmarks.find("aid_tr20_0")
    aid(tmp_path, benchmark)
    saved(tmp_path / "Airport" / "airport_361.jpg", rgb(600))
    with pytest.raises(ValueError, match="in no published list"):
        plan(load("aid_tr20_0", tmp_path))


def test_a_damaged_file_is_a_reject_with_its_reason(tmp_path):
    benchmark = benchmarks.find("aid_tr20_0")
    aid(tmp_path, benchmark)
    path = tmp_path / "Airport" / "airport_1.jpg"
    path.write_bytes(path.read_bytes()[:900])
    spec = load("aid_tr20_0", tmp_path)
    record = prepare_shard(FolderShard("pictures-00000", plan(spec).pictures), spec, tmp_path / "out")
    assert record.rejected == {"corrupt": 1} and record.rows == 1 and record.planned == 2
    assert "Airport/airport_1.jpg" in record.rejects[0].detail


def test_a_month_without_its_image_is_a_reject(tmp_path):
    benchmark = benchmarks.find("dynamicearthnet_pla")
    dynamicearthnet(tmp_path, benchmark)
    (tmp_path / "planet/10N/a/1311_3077_13_10N/PF-SR/2018-02-01.tif").unlink()
    spec = load(benchmark.name, tmp_path)
    record = prepare_shard(FolderShard("pictures-00000", plan(spec).pictures), spec, tmp_path / "out")
    assert record.rejected == {"missing": 1} and record.rows == 1


def test_the_published_counts_of_chips_come_out():
    assert len(origins(6000, 6000, 512, 384)) == 256
    cities = [(431, 469), (730, 544), (774, 634), (824, 716), (545, 558), (426, 451), (241, 385)]
    cities += [(353, 426), (639, 688), (458, 476)]  # the ten regions of OSCD that are scored
    assert sum(len(origins(*one, 96, 96)) for one in cities) == 385
    height, width = 15_354, 32_507
    assert len(range(0, height, whu_cd.CHIP)) * len(range(0, width, whu_cd.CHIP)) == 7620
