"""Curation through the flow: accounted for, resumable, verified, regenerated."""

import json
import os
import shutil

import pytest
from ground import make_ground

from geodata.manifest import open_corpus
from pipelines import artifacts, cli, corpora, stages
from pipelines import curate as flows
from pipelines.settings import Home

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("default"),
]  # the engines warn of themselves


@pytest.fixture
def corpus(curated, home):
    return open_corpus(artifacts.resolve(home, curated, "corpus").path)


def no_ray(**_):
    raise AssertionError("Ray was started")


def test_every_planned_chip_is_accepted_or_rejected_and_the_corpus_says_how_it_was_made(corpus):
    assert corpus.planned == corpus.rows + sum(corpus.rejected.values()) == 30
    for name in (
        "plan.json",
        "spec.json",
        "environment.json",
        "metrics.jsonl",
        "stage.json",
        "artifact.json",
    ):
        assert (corpus.root / name).is_file(), name
    rows = [json.loads(line) for line in (corpus.root / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["rows"] == corpus.rows
    assert rows[-1]["step"] == len(corpus.records)
    assert json.loads((corpus.root / "pictures" / "index.json").read_text())


def test_prefect_and_mlflow_point_at_each_other_and_the_table_holds_the_manifest(corpus, home):
    from mlflow.tracking import MlflowClient
    from prefect.client.orchestration import get_client

    stage = json.loads((corpus.root / "stage.json").read_text())
    run = MlflowClient(tracking_uri=home.tracking).get_run(stage["mlflow_run"])
    assert run.data.tags["prefect.flow_run_id"] == stage["prefect_run"]
    assert run.data.tags["data.manifest"] == str(corpus.root / "manifest.json")
    assert run.data.metrics["accepted"] == corpus.rows
    with get_client(sync_client=True) as client:
        found = client.read_artifacts()
    mine = [one for one in found if str(one.flow_run_id) == stage["prefect_run"]]
    (table,) = [one for one in mine if one.key == "corpus-tiny-1"]
    assert stage["mlflow_run"] in table.description
    assert json.loads(table.data)[0]["accepted"] == corpus.rows


def test_a_second_firing_finds_everything_sealed_and_does_nothing(
    corpus, curated, spec_path, home, monkeypatch, capsys
):
    monkeypatch.setattr(stages, "local_ray", no_ray)
    before = {path: path.stat().st_mtime_ns for path in corpus.root.rglob("*") if path.is_file()}
    assert flows.curate(str(spec_path), (), str(home.root)) == curated
    assert "is sealed; nothing to do" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in corpus.root.rglob("*") if path.is_file()} == before


def test_the_command_finds_a_sealed_corpus_without_asking_prefect(
    curated, spec_path, home, monkeypatch, capsys
):
    monkeypatch.setattr(flows, "curate", no_ray)
    cli.main(["curate", str(spec_path), "--root", str(home.root)])
    assert capsys.readouterr().out.strip().endswith("tiny@1")


def test_other_settings_under_the_same_name_are_refused(curated, spec_path, home, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["curate", str(spec_path), "seed=9", "--root", str(home.root)])
    assert ended.value.code == 2
    assert "tiny@1 was made of other settings" in capsys.readouterr().err


def test_verify_finds_a_single_flipped_byte(corpus, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(corpus.root, copy)
    cli.main(["verify", str(copy)])
    assert "are as they were sealed" in capsys.readouterr().out
    shard = sorted((copy / "shards").glob("*.parquet"))[1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        cli.main(["verify", str(copy)])
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert shard.name in said.out
    assert "1 problems" in said.err


def test_a_lost_shard_is_built_again_with_the_same_pixels_and_the_others_are_not_touched(
    corpus, spec_path, home, tmp_path
):
    other = Home.at(tmp_path / "other")
    shutil.copytree(home.root / "corpora", other.root / "corpora")
    root = other.place("corpus", "tiny", "1")
    shards = sorted((root / "shards").glob("*.parquet"))
    kept = {path: path.stat().st_mtime_ns for path in shards[1:]}
    shards[0].unlink()
    (root / "shards" / ".half.parquet.99.tmp").write_bytes(b"half")
    os.utime(root / "shards" / ".half.parquet.99.tmp", (0, 0))
    flows.curate(str(spec_path), (), str(other.root))
    assert open_corpus(root).pixel_hashes() == corpus.pixel_hashes()
    assert {path: path.stat().st_mtime_ns for path in shards[1:]} == kept
    assert not list((root / "shards").glob(".*"))
    assert corpora.verify(open_corpus(root)) == []


def test_a_manifest_is_rebuilt_pixel_for_pixel_under_another_version(corpus, home, capsys):
    cli.main(
        ["curate", "--from", str(corpus.root / "manifest.json"), "--root", str(home.root), "version=again"]
    )
    assert f"of {corpus.rows} samples equal tiny@1, pixel for pixel" in capsys.readouterr().out
    again = open_corpus(home.place("corpus", "tiny", "again"))
    assert again.pixel_hashes() == corpus.pixel_hashes()
    assert again.fingerprint != corpus.fingerprint


def test_a_source_that_changed_is_found_by_sample_and_nothing_is_sealed(
    tmp_path, local_prefect, local_ray, capsys
):
    import rasterio

    from geodata.build import _opened
    from geodata.sources import cog

    path = make_ground(tmp_path / "ground", quotas={"fixed": {"forest": 6}}, split={"block_m": 1440.0})
    home = Home.at(tmp_path / "home")
    flows.curate(str(path), (), str(home.root))
    first = open_corpus(home.place("corpus", "tiny", "1"))
    for scene in (tmp_path / "ground" / "scenes").glob("*_B02.tif"):
        with rasterio.open(scene, "r+") as file:
            pixels = file.read(1)
            pixels[pixels > 0] += 1
            file.write(pixels, 1)
    cog.forget()
    _opened.cache_clear()
    with pytest.raises(SystemExit) as ended:
        cli.main(["curate", "--from", str(first.root), "--root", str(tmp_path / "second")])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert any(name in said for name, _ in first.pixel_hashes())
    assert not (Home.at(tmp_path / "second").place("corpus", "tiny", "1") / "manifest.json").exists()


def test_a_shard_that_fails_is_named_the_others_are_sealed_and_a_repair_ends_it(
    tmp_path, local_prefect, local_ray
):
    path = make_ground(tmp_path / "ground", shard_rows=4)
    home = Home.at(tmp_path / "home")
    root = home.place("corpus", "tiny", "1")
    obstacle = root / "shards" / "train-r0-00000.parquet"
    obstacle.mkdir(parents=True)
    with pytest.raises(
        OSError, match=r"1 of \d+ shards failed \(train-r0-00000\).*run the same command again"
    ):
        flows.curate(str(path), (), str(home.root))
    sealed = {one.name: one.stat().st_mtime_ns for one in (root / "records").iterdir()}
    assert len(sealed) > 3
    assert not (root / "manifest.json").exists()
    assert not artifacts.listing(home)
    obstacle.rmdir()
    flows.curate(str(path), (), str(home.root))
    corpus = open_corpus(root)
    assert corpus.rows + sum(corpus.rejected.values()) == corpus.planned
    assert corpora.verify(corpus) == []
    assert {name: (root / "records" / name).stat().st_mtime_ns for name in sealed} == sealed


def test_refused_chips_are_drawn_again_while_rounds_last(tmp_path, local_prefect, local_ray):
    settings = {
        "quotas": {"fixed": {"forest": 60}},
        "split": {"block_m": 1440.0},
        "rounds": 3,
        "shard_rows": 32,
    }
    path = make_ground(tmp_path / "ground", **settings)
    home = Home.at(tmp_path / "home")
    flows.curate(str(path), (), str(home.root))
    corpus = open_corpus(home.place("corpus", "tiny", "1"))
    refused = sum(corpus.rejected.values())
    assert refused > 0
    assert corpus.planned > 60
    assert corpus.rows + refused == corpus.planned
    assert corpus.plan["rounds"] > 1
