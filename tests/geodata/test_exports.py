"""Exports read by other people's readers: DuckDB and geopandas, pystac with its schemas, mlcroissant."""

import dataclasses
import itertools
import json
import os
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny import sample, sealed

from geodata import exports
from geodata.exports import geoparquet, select, stac, write
from geodata.manifest import Corpus
from geodata.shards import read_samples


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Five samples in two shards, all of which may be passed on."""
    shards = {
        "train-0": [sample(1), sample(2), sample(3)],
        "val-0": [sample(4, split="val"), sample(5, split="val")],
    }
    return sealed(tmp_path_factory.mktemp("tiny"), shards)


@pytest.fixture(scope="module")
def written(corpus: Corpus) -> dict[str, Path]:
    return write(select(corpus, corpus.root))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """One shard of both kinds, one of samples that may all go out, one of which none may."""
    shards = {
        "a": [sample(1), sample(2, barred=True), sample(3)],
        "b": [sample(4)],
        "c": [sample(5, barred=True)],
    }
    return sealed(tmp_path_factory.mktemp("mixed"), shards)


# GeoParquet


def test_duckdb_reads_the_index_as_geometry_and_finds_each_samples_pixels(
    corpus: Corpus, written: dict[str, Path]
) -> None:
    duckdb = pytest.importorskip("duckdb")
    index = written["geoparquet"]
    kinds = {row[0]: row[1] for row in duckdb.sql(f"describe select * from '{index}'").fetchall()}
    assert kinds["geometry"].startswith("GEOMETRY")
    assert "BLOB" not in {kind for name, kind in kinds.items() if not name.endswith("pixel_hash")}
    rows = duckdb.sql(
        f"select sample_id, shard, row_group, \"row\", s2_pixel_hash, bbox.xmin from '{index}'"
    ).fetchall()
    assert len(rows) == corpus.rows == 5
    for sample_id, shard, group, row, digest, xmin in rows:
        found = list(read_samples(corpus.root / shard, group))[row]
        assert found.sample_id == sample_id
        assert found.layers["s2"].pixel_hash() == bytes(digest)
        assert found.grid is not None
        assert found.grid.bbox()[0] == xmin


def test_geopandas_knows_the_projection_and_filters_by_the_covering(written: dict[str, Path]) -> None:
    geopandas = pytest.importorskip("geopandas")
    frame = geopandas.read_parquet(written["geoparquet"])
    assert frame.crs.to_string() == "OGC:CRS84"
    assert frame.geometry.is_valid.all()
    boxes = pq.read_table(written["geoparquet"], columns=["bbox"]).column("bbox").to_pylist()
    assert np.allclose(frame.bounds.to_numpy(), [list(box.values()) for box in boxes])
    one = frame.iloc[2]
    near = geopandas.read_parquet(written["geoparquet"], bbox=tuple(one.geometry.bounds))
    assert list(near["sample_id"]) == [one["sample_id"]]


def test_the_geo_metadata_says_where_everything_lies(corpus: Corpus, written: dict[str, Path]) -> None:
    told = json.loads(pq.read_metadata(written["geoparquet"]).metadata[b"geo"])
    assert told["version"] == "1.1.0"
    column = told["columns"][told["primary_column"]]
    boxes = [
        one.grid.bbox()
        for path in (corpus.root / "shards").iterdir()
        for one in read_samples(path)
        if one.grid
    ]
    assert column["bbox"] == [f(box[k] for box in boxes) for k, f in enumerate((min, min, max, max))]
    assert column["covering"]["bbox"]["ymax"] == ["bbox", "ymax"]


def test_the_index_tells_the_first_and_last_day_of_images_but_not_of_maps(written: dict[str, Path]) -> None:
    table = pq.read_table(
        written["geoparquet"], columns=["first_date", "last_date", "s2_cloud", "hr_license"]
    )
    first = table.to_pylist()[0]
    assert first == {
        "first_date": date(2019, 5, 5),
        "last_date": date(2020, 7, 2),
        "s2_cloud": [0.25, 0.75],
        "hr_license": "CC0-1.0",
    }


def test_row_groups_are_written_as_they_fill(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geoparquet, "ROWS_PER_GROUP", 2)
    path = geoparquet.write(select(corpus, tmp_path))
    meta = pq.read_metadata(path)
    assert [meta.row_group(place).num_rows for place in range(meta.num_row_groups)] == [2, 1, 2]


# STAC


def fit_core(values: dict) -> None:
    """Raise unless pystac's own core schemas accept this; schemas of extensions are on the network: see the live test."""
    pystac = pytest.importorskip("pystac")
    kind = {"Feature": "ITEM", "Catalog": "CATALOG", "Collection": "COLLECTION"}[values["type"]]
    validator = pytest.importorskip("pystac.validation").RegisteredValidator.get_validator()
    validator.validate_core(values, pystac.STACObjectType[kind], values["stac_version"])


def test_pystac_walks_the_catalog_and_every_object_fits_the_core_schema(
    corpus: Corpus, written: dict[str, Path]
) -> None:
    pystac = pytest.importorskip("pystac")
    collection = pystac.Collection.from_file(str(written["stac"]))
    for path in written["stac"].parent.rglob("*.json"):
        fit_core(json.loads(path.read_text()))
    items = {item.id: item for item in collection.get_items(recursive=True)}
    samples = {
        one.sample_id: one for path in (corpus.root / "shards").iterdir() for one in read_samples(path)
    }
    assert set(items) == set(samples)
    for name, item in items.items():
        grid = samples[name].grid
        assert grid is not None
        projection = pystac.extensions.projection.ProjectionExtension.ext(item)
        assert projection.epsg == grid.epsg
        assert projection.transform[:6] == list(grid.transform)
        assert item.get_collection().id == "tiny-1"
        asset = item.assets["hr"]
        own = pystac.extensions.projection.ProjectionExtension.ext(asset)
        assert own.shape == [24, 24]
        path = Path(asset.get_absolute_href())
        file = pystac.extensions.file.FileExtension.ext(asset)
        assert file.size == path.stat().st_size
        assert file.checksum == "1220" + exports.croissant.file_sha256(path)
        found = list(read_samples(path, asset.extra_fields["swath:row_group"]))[
            asset.extra_fields["swath:row"]
        ]
        assert found.sample_id == name


def test_the_collection_covers_its_items_in_space_and_time(written: dict[str, Path]) -> None:
    pystac = pytest.importorskip("pystac")
    collection = pystac.Collection.from_file(str(written["stac"]))
    west, south, east, north = collection.extent.spatial.bboxes[0]
    begin, end = collection.extent.temporal.intervals[0]
    for item in collection.get_items(recursive=True):
        assert west <= item.bbox[0] <= item.bbox[2] <= east
        assert south <= item.bbox[1] <= item.bbox[3] <= north
        assert begin <= item.common_metadata.start_datetime <= item.common_metadata.end_datetime <= end
    assert collection.license == "other"
    assert collection.assets["index"].get_absolute_href() == str(written["geoparquet"])


def test_an_item_tells_cloud_bands_and_radar_in_the_words_of_the_extensions(written: dict[str, Path]) -> None:
    values = json.loads(next(written["stac"].parent.glob("*/tiny-0001.json")).read_text())
    assert values["properties"]["eo:cloud_cover"] == 50.0
    assert values["properties"]["datetime"] is None
    assert values["properties"]["start_datetime"] == "2019-05-05T00:00:00Z"
    nir = next(band for band in values["assets"]["s2"]["bands"] if band["name"] == "B08")
    assert nir == {"name": "B08", "eo:center_wavelength": 0.8328, "eo:common_name": "nir"}
    radar = values["assets"]["s1"]
    assert (radar["sar:polarizations"], radar["sar:product_type"]) == (["VV", "VH"], "gamma0_rtc")
    ring = values["geometry"]["coordinates"][0]
    area = sum(a[0] * b[1] - b[0] * a[1] for a, b in itertools.pairwise(ring))
    assert area > 0, "the outline runs clockwise; GeoJSON wants it the other way"


def test_the_mirror_holds_the_same_items_as_the_files(written: dict[str, Path]) -> None:
    pystac = pytest.importorskip("pystac")
    folder = written["stac"].parent
    files = {path.stem: json.loads(path.read_text()) for path in folder.glob("*/tiny-*.json")}
    rows = pq.read_table(folder / "items.parquet").to_pylist()
    assert [row["id"] for row in rows] == sorted(files)
    for row in rows:
        one = files[row["id"]]
        for name, value in one["properties"].items():
            stored = row[name]
            assert (
                f"{stored:%Y-%m-%dT%H:%M:%SZ}" if name.endswith("datetime") and stored else stored
            ) == value
        assert {key for key, asset in row["assets"].items() if asset} == set(one["assets"])
        for key, asset in one["assets"].items():
            assert (folder / row["assets"][key]["href"]).resolve() == (
                folder / "x" / asset["href"]
            ).resolve(), "the same shard"
            assert {n: row["assets"][key][n] for n in asset if n not in ("href", "bands")} == {
                n: v for n, v in asset.items() if n not in ("href", "bands")
            }
    told = json.loads(pq.read_metadata(folder / "items.parquet").metadata[b"stac-geoparquet"])
    assert told["version"] == "1.1.0"
    assert pystac.Collection.from_dict(told["collections"]["tiny-1"]).id == "tiny-1"


def test_a_large_corpus_has_its_items_in_one_file_only(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stac, "MOST_FILES", 4)
    found = write(select(corpus, tmp_path), ["stac"])["stac"]
    assert sorted(path.name for path in found.parent.rglob("*")) == ["collection.json", "items.parquet"]
    assert pq.read_metadata(found.parent / "items.parquet").num_rows == 5


def test_a_mosaic_without_a_day_is_dated_by_its_fetching_and_says_so(tmp_path: Path) -> None:
    corpus = sealed(tmp_path / "c", {"a": [sample(1, dated=False)]})
    path = write(select(corpus, tmp_path / "out"), ["stac"])["stac"]
    values = json.loads((path.parent / "a" / "tiny-0001.json").read_text())
    fit_core(values)
    assert values["properties"]["datetime"] == "2024-01-02T00:00:00Z"
    assert values["properties"]["swath:date_of"] == "fetching"


def test_a_picture_that_lies_nowhere_is_exported_without_a_place(tmp_path: Path) -> None:
    nowhere = dataclasses.replace(
        sample(1, dated=False),
        sample_id="tiny-0009",
        grid=None,
        lon=float("nan"),
        lat=float("nan"),
        shifts=(),
    )
    corpus = sealed(
        tmp_path / "c", {"a": [sample(1), nowhere], "b": [dataclasses.replace(nowhere, sample_id="x")]}
    )
    found = write(select(corpus, tmp_path / "out"))
    geopandas = pytest.importorskip("geopandas")
    frame = geopandas.read_parquet(found["geoparquet"])
    assert frame.geometry.isna().tolist() == [False, True, True]
    values = json.loads((found["stac"].parent / "a" / "tiny-0009.json").read_text())
    fit_core(values)
    assert values["geometry"] is None
    assert "bbox" not in values
    assert "proj:code" not in values["properties"]
    collection = json.loads(found["stac"].read_text())
    fit_core(collection)
    placed = sample(1).grid
    assert placed is not None
    assert collection["extent"]["spatial"]["bbox"] == [list(placed.bbox())]


def test_another_catalog_in_the_folder_is_left_alone(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "stac").mkdir()
    (tmp_path / "stac" / "collection.json").write_text('{"id": "theirs"}')
    with pytest.raises(ValueError, match="holds theirs, not tiny-1"):
        write(select(corpus, tmp_path), ["stac"])
    assert (tmp_path / "stac" / "collection.json").exists()


@pytest.mark.live
def test_every_object_fits_the_schemas_of_its_extensions(written: dict[str, Path]) -> None:
    pystac = pytest.importorskip("pystac")
    collection = pystac.Collection.from_file(str(written["stac"]))
    assert collection.validate()
    assert next(iter(collection.get_items(recursive=True))).validate()


# Croissant


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of rdflib and pandas, inside mlcroissant
def test_mlcroissant_accepts_the_description_and_reads_the_rows(
    corpus: Corpus, written: dict[str, Path]
) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    dataset = mlcroissant.Dataset(jsonld=written["croissant"])
    assert not dataset.metadata.ctx.issues.errors
    assert not dataset.metadata.ctx.issues.warnings
    rows = {row["samples/sample_id"].decode(): row for row in dataset.records("samples")}
    samples = {
        one.sample_id: one for path in (corpus.root / "shards").iterdir() for one in read_samples(path)
    }
    assert set(rows) == set(samples)
    for name, row in rows.items():
        assert row["samples/split"].decode() == samples[name].split
        assert row["samples/lon"] == samples[name].lon
        assert list(row["samples/s2_cloud"]) == [0.25, 0.75]
        assert row["samples/label_crop"] == samples[name].labels["crop"]


def test_every_file_named_is_there_with_the_hash_and_size_it_is_said_to_have(
    written: dict[str, Path],
) -> None:
    import hashlib

    told = json.loads(written["croissant"].read_text())
    files = [one for one in told["distribution"] if one["@type"] == "cr:FileObject"]
    assert [one["contentUrl"] for one in files] == [
        "shards/train-0.parquet",
        "shards/val-0.parquet",
        "index.parquet",
    ]
    for one in files:
        content = (written["croissant"].parent / one["contentUrl"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == one["sha256"]
        assert one["contentSize"] == f"{len(content)} B"
    assert told["license"] == ["CC-BY-SA-3.0-IGO (Contains modified Copernicus Sentinel data)", "CC0-1.0"]


# What may not go out


def test_samples_that_may_not_be_passed_on_stop_the_export_and_are_counted_by_provider(
    mixed: Corpus, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"2 of 5 samples of tiny@1 may not be passed on \(acme 2\)"):
        select(mixed, tmp_path)
    assert not list(tmp_path.iterdir())


def test_skipping_them_needs_a_folder_that_does_not_hold_them(mixed: Corpus) -> None:
    with pytest.raises(ValueError, match="export to another one with --to FOLDER"):
        select(mixed, mixed.root, skip_restricted=True)


def test_what_is_skipped_is_in_no_file_of_the_export(mixed: Corpus, tmp_path: Path) -> None:
    selection = select(mixed, tmp_path, skip_restricted=True)
    assert selection.left_out == {"acme": 2}
    found = write(selection)
    kept = ["tiny-0001", "tiny-0003", "tiny-0004"]
    assert pq.read_table(found["geoparquet"]).column("sample_id").to_pylist() == kept
    told = [one.sample_id for shard in selection.shards for one in read_samples(shard.path)]
    assert told == kept
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == ["a.parquet", "b.parquet"]
    for shard in selection.shards:
        assert shard.sha256 == exports.croissant.file_sha256(shard.path)
        assert shard.bytes == shard.path.stat().st_size
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"Acme" not in path.read_bytes(), path
    assert (
        os.stat(tmp_path / "shards" / "b.parquet").st_ino
        == os.stat(mixed.root / "shards" / "b.parquet").st_ino
    )
    assert len(list(read_samples(mixed.root / "shards" / "a.parquet"))) == 3, "the corpus itself is as it was"


def test_a_corpus_of_which_nothing_may_go_out_is_not_exported(tmp_path: Path) -> None:
    corpus = sealed(tmp_path / "c", {"a": [sample(1, barred=True)]})
    with pytest.raises(ValueError, match="nothing to export"):
        select(corpus, tmp_path / "out", skip_restricted=True)


def test_an_unknown_format_is_refused_before_anything_is_written(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are geoparquet, croissant, stac"):
        write(dataclasses.replace(select(corpus, corpus.root), folder=tmp_path), ["kml"])
    assert not list(tmp_path.iterdir())
