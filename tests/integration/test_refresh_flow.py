"""Versions that go on from versions: refreshed, grown, asked again; what was made before stays as it was."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import rasterio
from ground import make_ground

from geodata.letters import read_letters
from geodata.manifest import open_corpus
from pipelines import artifacts, cli, corpora, refresh
from pipelines.settings import Home

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]

SETTINGS = {"quotas": {"fixed": {"forest": 20, "urban": 10}}, "split": {"block_m": 1440.0}, "shard_rows": 6}


def contents(root):
    """Hash of every file of a corpus, by path."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def edited(scenes, pattern, change):
    for path in scenes.glob(pattern):
        with rasterio.open(path, "r+") as file:
            file.write(change(file.read(1)), 1)


@pytest.fixture
def swath(capsys):
    """The command line in this process; what it said."""

    def run(*arguments):
        cli.main([*map(str, arguments)])
        return capsys.readouterr()

    return run


def test_a_corpus_goes_on_from_version_to_version_and_every_one_of_them_stays_readable(
    tmp_path, local_prefect, local_ray, swath
):
    spec = make_ground(tmp_path / "ground", **SETTINGS)
    scenes = tmp_path / "ground" / "scenes"
    home = Home.at(tmp_path / "home")
    root = ("--root", home.root)
    swath("curate", spec, *root)
    first = open_corpus(home.place("corpus", "tiny", "1"))
    before = contents(first.root)
    refused = {letter["chip_id"] for letter in read_letters(first.root)}
    assert refused == {reject.chip_id for reject in first.rejects()}
    assert {letter["reason"] for letter in read_letters(first.root)} == {"nodata"}

    # nothing is new: no new version
    said = swath("curate", spec, "--since", "tiny@1", *root)
    assert "nothing is new since tiny@1" in said.err
    assert said.out.strip().endswith("tiny@1")
    assert [one.address for one in artifacts.listing(home)] == ["tiny@1"]
    assert not home.place("corpus", "tiny", "1.1").exists()

    # the corner without data is mended at the source: verify finds no drift where chips were made, a retry takes it
    assert "equal" in swath("verify", "tiny@1", "--source", "10%", *root).out
    edited(scenes, "*.tif", lambda pixels: np.where(pixels == 0, 700, pixels))
    said = swath("retry", "tiny@1", "--where", "reason=nodata", *root)
    second = open_corpus(home.place("corpus", "tiny", "1.1"))
    assert f"since tiny@1: {len(refused)} added, 0 removed, 0 changed, {first.rows} unchanged" in said.err
    assert second.rows == first.planned == second.planned
    assert second.rejected == {}
    diff = json.loads((second.root / "diff.json").read_text())
    assert diff["by_reason"]["added"] == {"was nodata": len(refused)}
    assert diff["corpus"] == "tiny@1"
    assert {key: value for key, value in second.pixel_hashes().items() if key[0] not in refused} == (
        first.pixel_hashes()
    )
    linked = [
        record.name
        for record in first.records
        if not record.rejected
        and first.shard_path(record).samefile(second.root / "shards" / f"{record.name}.parquet")
    ]
    assert linked
    assert artifacts.resolve(home, "tiny@1.1").parents[0].startswith("corpus:tiny@1#")

    # a scene of another day is new: what is held is not read again
    for path in scenes.glob("*_20200604T*.tif"):
        shutil.copy(path, path.with_name(path.name.replace("20200604", "20200301")))
    edited(scenes, "*_20200301T*.tif", lambda pixels: pixels + 1)
    said = swath("curate", spec, "--since", refresh.newest(home, "tiny@1"), *root)
    third = open_corpus(home.place("corpus", "tiny", "1.2"))
    assert f"0 added, 0 removed, {second.rows} changed, 0 unchanged" in said.err
    items = {tuple(sample["layers"]["s2"]["item_ids"]) for sample in third.samples()}
    assert {item[0].split("_")[1][:8] for item in items} == {"20200301"}

    # more chips are wanted: those there are stay
    said = swath("curate", spec, "quotas.fixed.forest=25", "--since", "tiny@1.2", *root)
    fourth = open_corpus(home.place("corpus", "tiny", "1.3"))
    assert f"5 added, 0 removed, 0 changed, {third.rows} unchanged" in said.err
    assert fourth.pixel_hashes().items() >= third.pixel_hashes().items()
    assert fourth.plan["rounds"] == 2

    # all of them are whole, and the first is as it was
    assert contents(first.root) == before
    for one in (first, second, third, fourth):
        assert corpora.verify(open_corpus(one.root)) == []

    # and a successor can be regenerated from its manifest like any corpus
    said = swath("curate", "--from", fourth.root / "manifest.json", "--root", tmp_path / "again")
    assert f"of {fourth.rows} samples equal tiny@1.3, pixel for pixel" in said.out


def test_what_cannot_be_gone_on_from_is_refused_in_a_sentence(curated, spec_path, home, capsys):
    def refused(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([*map(str, arguments), "--root", str(home.root)])
        assert ended.value.code == 2
        return capsys.readouterr().err

    assert "differs from tiny@1 in seed, so" in refused("curate", spec_path, "seed=5", "--since", curated)
    assert "a successor can only grow" in refused(
        "curate", spec_path, "quotas.fixed.forest=5", "--since", curated
    )
    assert "differs from tiny@1 in shard_rows" in refused(
        "curate", spec_path, "shard_rows=4", "--since", curated
    )
    assert "give the new one another version=" in refused(
        "curate", spec_path, "version=1", "--since", curated
    )
    assert "no sealed corpus is called" in refused("curate", spec_path, "--since", "nothing@3")
    assert "chooses no refused chips" in refused("retry", curated, "--where", "colour=red")
    assert "no refused chip of tiny@1 is reason=cloudy; refused are" in refused(
        "retry", curated, "--where", "reason=cloudy"
    )
    assert "only version= can be given here" in refused(
        "retry", curated, "seed=3", "--where", "reason=nodata"
    )
    assert "a share is written 1% or 0.01" in refused("verify", curated, "--source", "much")
    assert "at most 100%" in refused("verify", curated, "--source", "200%")


def test_drift_at_the_source_is_listed_and_ends_with_status_1(tmp_path, local_prefect, local_ray, capsys):
    spec = make_ground(tmp_path / "ground", quotas={"fixed": {"forest": 6}}, split={"block_m": 1440.0})
    root = str(tmp_path / "home")
    cli.main(["curate", str(spec), "--root", root])
    edited(tmp_path / "ground" / "scenes", "*_B03.tif", lambda pixels: np.where(pixels > 0, pixels + 1, 0))
    capsys.readouterr()
    from geodata.build import reopen

    reopen()
    with pytest.raises(SystemExit) as ended:
        cli.main(["verify", "tiny@1", "--source", "100%", "--root", root])
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert "are as they were sealed" in said.out
    rows = open_corpus(Home.at(root).place("corpus", "tiny", "1")).rows
    assert sum(line.endswith(" s2 changed") for line in said.out.splitlines()) == rows
    assert f"lc: {rows} equal; s2: {rows} changed" in said.out
    assert "has drifted at its sources" in said.err


def test_samples_with_the_same_pixels_are_dropped_and_drawn_again(tmp_path, local_prefect, local_ray):
    """The western half of the ground repeats itself every 240 m, the distance of the chips."""
    settings = SETTINGS | {"duplicates": "exact", "rounds": 2, "labels": False}
    spec = make_ground(tmp_path / "ground", **settings)

    def tiled(pixels):
        side = pixels.shape[0]
        period = side // 24
        west = np.tile(pixels[3 * period : 4 * period, 3 * period : 4 * period], (24, 12))
        return np.concatenate([np.maximum(west, 1), pixels[:, side // 2 :]], axis=1)

    edited(tmp_path / "ground" / "scenes", "*.tif", tiled)
    home = Home.at(tmp_path / "home")
    cli.main(["curate", str(spec), "duplicates=keep", "version=keep", "rounds=1", "--root", str(home.root)])
    cli.main(["curate", str(spec), "--root", str(home.root)])
    kept = open_corpus(home.place("corpus", "tiny", "keep"))
    corpus = open_corpus(home.place("corpus", "tiny", "1"))
    hashes = [hash_ for (_, prefix), hash_ in kept.pixel_hashes().items() if prefix == "s2"]
    twice = len(hashes) - len(set(hashes))
    assert twice > 1  # the ground does what it is made for
    assert len({*corpus.pixel_hashes().values()}) == corpus.rows
    assert corpus.rejected["duplicate"] >= twice
    assert corpus.rows >= len(set(hashes))
    assert corpus.planned > kept.planned
    assert corpus.plan["rounds"] == 2
    assert all("the same pixels as" in one.detail for one in corpus.rejects() if one.reason == "duplicate")
    assert corpora.verify(corpus) == []
