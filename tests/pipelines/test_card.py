"""The card says what the samples hold, needs nothing but itself, and survives whatever is missing."""

import json
import re
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import META, sample, sealed

sys.path.insert(0, str(Path(__file__).parent))

from fake_study import fake_study
from test_report import Reader

from geodata.chips import Plan
from geodata.errors import Missing
from geodata.manifest import Corpus
from geodata.pictures import save_rejects
from geodata.shards import Reject, read_samples
from geodata.spec import ChipSpec
from pipelines import card, cli


def a_plan(places: list[tuple[float, float]]) -> Plan:
    size = len(places)
    whole = {name: np.zeros(size, np.int64) for name in ("round", "cell", "region", "stratum", "split")}
    whole |= {name: np.zeros(size, np.int64) for name in ("block_row", "block_col")}
    whole |= {"draw": np.arange(size), "zoom": np.full(size, -1), "top": np.full(size, 90000)}
    whole |= {
        "epsg": np.array([32601 + int((lon + 180) // 6) for lon, _ in places]),
        "left": np.arange(size) * 11,
    }
    lon, lat = np.array(places).T
    return Plan(
        place_id="0a1b2c3d",
        chip=ChipSpec(gsd=10.0, size=64),
        region_layout="equal_angle",
        regions=("europe",),
        quotas={"europe": {"urban": size}},
        columns=whole | {"lon": lon, "lat": lat},
        candidates={},
        shares={"europe": {"urban": 1.0}},
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Five samples, one with an image that may not be passed on and one beside a benchmark; two chips were refused."""
    root = tmp_path_factory.mktemp("tiny")
    last = replace(sample(5, split="val"), contamination=("potsdam: 0.3 km",))
    shards = {
        "train-0": [sample(1), sample(2, barred=True), sample(3)],
        "val-0": [sample(4, split="val"), last],
    }
    a_plan([(13.0, 52.0), (14.0, 50.0), (-100.0, 40.0), (25.0, -20.0), (140.0, -25.0)]).write(root)
    picture = np.full((40, 40, 3), 250, np.uint8)
    save_rejects(root / "rejects" / "train-0.png", [("r-1", "cloudy", "93 % of the chip", picture)])
    return sealed(
        root, shards, (Reject("r-1", "cloudy", "93 % of the chip"), Reject("r-2", "missing", "gone"))
    )


@pytest.fixture(scope="module")
def text(corpus: Corpus) -> str:
    return card.write(corpus.root).read_text()


def cells(text: str) -> set[str]:
    """The text of every cell of every table."""
    return {
        " ".join(re.sub(r"<[^>]*>", "", cell).split())
        for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", text, re.DOTALL)
    }


def test_the_page_is_whole_html_with_a_section_for_each_question(text: str) -> None:
    page = Reader(text)
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections == ["where", "what", "images", "bands", "rejects", "proofs", "terms", "provenance"]
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    linked = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert {f"#{name}" for name in sections} == linked


def test_the_page_loads_nothing_and_runs_nothing(text: str) -> None:
    for tag, attributes in Reader(text).tags:
        assert tag not in {"script", "iframe", "object", "embed"}
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "xlink:href", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    assert not re.search(r"@import|url\((?!#)", text)
    assert len(text.encode()) < 3_000_000


def test_bands_have_the_mean_and_spread_of_their_pixels(corpus: Corpus, text: str) -> None:
    train = [
        one
        for path in (corpus.root / "shards").iterdir()
        for one in read_samples(path)
        if one.split == "train"
    ]
    found = {(one.layer, one.band): one for one in card.collect(corpus.root).bands}
    for known in META.sensors:
        if known.kind == "map":
            assert not [key for key in found if key[0] == "land cover"]
            continue
        pixels = np.concatenate([one.layers[known.prefix].pixels for one in train]) * known.scale
        for place, name in enumerate(known.band_names):
            line = found[card.layer_name(known.prefix), name]
            assert line.mean == pytest.approx(pixels[:, place].mean())
            assert line.std == pytest.approx(pixels[:, place].std())
            assert line.valid == pixels[:, place].size
            assert card.figures(line.mean) in cells(text)


def test_seasons_clouds_and_series_are_those_of_the_samples(corpus: Corpus) -> None:
    samples = [one for path in (corpus.root / "shards").iterdir() for one in read_samples(path)]
    found = {one.title: one for one in card.collect(corpus.root).histograms}
    months = Counter(card.MONTHS[day.month - 1] for one in samples for day in one.layers["s2"].dates if day)
    assert found["Season of Sentinel-2 images"].groups == {"northern hemisphere": dict(months)}
    assert found["Length of series"].groups == {
        "optical": {"1": 5},
        "Sentinel-2": {"2": 5},
        "Sentinel-1": {"1": 5},
    }
    assert found["Cloud over chips"].groups == {"Sentinel-2": {"20–30": 5, "70–80": 5}}
    assert found["Year of images"].groups["optical"] == {"2019": 5}


def test_every_outcome_adds_up_and_refused_chips_are_shown(corpus: Corpus, text: str) -> None:
    told = cells(text)
    assert {"cloudy", "missing", "accepted", "planned", "71.4 %", "7"} <= told
    page = Reader(text)
    (picture,) = [tag for name, tag in page.tags if name == "img"]
    assert picture["alt"] == "Refused chip r-1, cloudy"
    assert "93 % of the chip" in page.text


def test_quotas_stand_beside_what_was_accepted(corpus: Corpus) -> None:
    (line,) = card.collect(corpus.root).lines
    assert (line.region, line.stratum, line.asked, line.planned, line.accepted) == (
        "europe",
        "urban",
        5,
        5,
        5,
    )


def test_licences_say_what_may_not_be_passed_on(text: str) -> None:
    told = cells(text)
    assert {
        "CC-BY-SA-3.0-IGO",
        "Contains modified Copernicus Sentinel data",
        "proprietary",
        "Acme Maps",
        "no",
    } <= told
    assert "Some of this may not be passed on" in Reader(text).text


def test_proofs_are_counted(corpus: Corpus, text: str) -> None:
    made = card.collect(corpus.root)
    (shift,) = made.shifts
    assert (shift.pair, shift.measured, shift.beyond) == ("Sentinel-2 to Sentinel-1", 5, 0.0)
    assert shift.median == pytest.approx(np.hypot(0.1, 0.2), abs=0.051)
    assert made.contamination == (("potsdam", 1),)
    assert "No image was flagged." in Reader(text).text
    assert {(one.layer, one.images, one.repeated) for one in made.duplicates} == {
        ("optical", 5, 0), ("Sentinel-2", 5, 0), ("Sentinel-1", 5, 0),
    }  # fmt: skip


def test_a_repeated_image_is_counted_as_a_duplicate(tmp_path: Path) -> None:
    twin = replace(sample(1), sample_id="tiny-9999")
    made = card.collect(sealed(tmp_path, {"a": [sample(1), twin, sample(2)]}).root)
    assert {one.layer: one.repeated for one in made.duplicates} == {
        "optical": 1,
        "Sentinel-2": 1,
        "Sentinel-1": 1,
    }


def test_many_chips_are_drawn_by_density_and_few_as_dots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    root = sealed(tmp_path, {"a": [sample(1)]}).root
    a_plan(list(zip(rng.uniform(-179, 179, 3000), rng.uniform(-55, 80, 3000), strict=True))).write(root)
    drawn = card.Plates(card.collect(root))
    dense = str(drawn.map())
    assert "1 to 2" in dense
    assert len(dense) < 500_000
    monkeypatch.setattr(card, "MOST_DOTS", 5000)
    assert "train" in str(drawn.map())


def test_what_a_corpus_says_is_text_and_never_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&$x^2$"
    one = sample(1)
    layer = replace(one.layers["hr"], license=evil, attribution=evil, flags=(evil,))
    made = replace(one, layers=one.layers | {"hr": layer}, stratum=evil, contamination=(evil,))
    root = sealed(tmp_path, {"a": [made]}, (Reject("x", evil, evil),)).root
    save_rejects(root / "rejects" / "a.png", [(evil, evil, evil, np.zeros((8, 8, 3), np.uint8))])
    text = card.write(root).read_text()
    page = Reader(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert evil in page.text


@pytest.mark.parametrize("how", ["absent", "cut"])
def test_a_missing_or_broken_file_costs_its_part_and_no_more(
    corpus: Corpus, tmp_path: Path, how: str
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(corpus.root, root)
    for name in ("plan.parquet", "shards/train-0.parquet", "rejects/train-0.png", "environment.json"):
        if how == "absent":
            (root / name).unlink()
        else:
            (root / name).write_bytes((root / name).read_bytes()[:40])
    text = Reader(card.write(root).read_text()).text
    assert "samples accepted" in text
    assert "71.4 %" in text


def test_a_corpus_that_is_not_sealed_has_no_card(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="run `swath curate` to its end first"):
        card.write(tmp_path)


def test_a_corpus_in_one_zone_is_drawn_on_its_own_ground(tmp_path: Path) -> None:
    root = fake_study(tmp_path).parents[1] / "corpora" / "demo@1"
    made = card.collect(root)
    assert made.near is not None
    assert "easting" in str(card.Plates(made).ground())


def test_an_export_brings_its_card_and_the_card_its_exports(tmp_path: Path) -> None:
    corpus = sealed(tmp_path / "c", {"a": [sample(1)]})
    files = card.export(corpus, tmp_path / "out")
    assert [path.name for path in files] == [
        "index.parquet",
        "croissant.json",
        "collection.json",
        "card.html",
    ]
    links = {attributes["href"] for tag, attributes in Reader(files[-1].read_text()).tags if tag == "a"}
    local = {link for link in links if link and not link.startswith("#")}
    assert local == {"index.parquet", "croissant.json", "stac/collection.json", "stac/items.parquet"}
    assert all((tmp_path / "out" / link).exists() for link in local)


def test_an_export_that_leaves_samples_out_has_no_card(corpus: Corpus, tmp_path: Path) -> None:
    files = card.export(corpus, tmp_path, "geoparquet", skip_restricted=True)
    assert [path.name for path in files] == ["index.parquet"]
    assert not (tmp_path / "card.html").exists()
    with pytest.raises(ValueError, match="no format of export"):
        card.export(corpus, tmp_path / "other", "shapefile")
    assert not (tmp_path / "other").exists()


def test_a_key_on_the_command_line_is_not_told(tmp_path: Path) -> None:
    root = sealed(tmp_path, {"a": [sample(1)]}).root
    command = "swath curate tiles url=https://tiles.example/{z}/{x}/{y}.png?key=hunter2secret"
    (root / "environment.json").write_text(json.dumps({"started": "2026-02-03", "command": command}))
    text = card.write(root).read_text()
    assert "tiles.example" in text
    assert "hunter2secret" not in text


def test_what_services_were_asked_is_told(tmp_path: Path) -> None:
    root = sealed(tmp_path, {"a": [sample(1)]}).root
    counted = {"earth engine": {"limit": 40, "in_flight": 0, "peak": 39, "granted": 12345, "throttled": 6}}
    (root / "stage.json").write_text(json.dumps({"requests": counted}))
    assert {"earth engine", "12,345", "39"} <= cells(card.write(root).read_text())


def test_the_command_says_what_it_wrote_and_refuses_in_one_sentence(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sealed(tmp_path / "c", {"a": [sample(1)]}).root
    cli.app(["export", str(folder), "--format", "croissant"], standalone_mode=False)
    assert capsys.readouterr().out.split() == [str(folder / "croissant.json"), str(folder / "card.html")]
    with pytest.raises(ValueError, match=r"1 of 5 samples of tiny@1 may not be passed on \(acme 1\)"):
        cli.app(["export", str(corpus.root), "--to", str(tmp_path / "out")], standalone_mode=False)
    cli.app(
        ["export", str(corpus.root), "--to", str(tmp_path / "out"), "--skip-restricted"],
        standalone_mode=False,
    )
    assert "left out: 1 sample of acme, which may not be passed on" in capsys.readouterr().err


def test_the_report_of_a_corpus_is_its_card(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    cli.app(["report", str(corpus.root)], standalone_mode=False)
    assert capsys.readouterr().out.strip() == str(corpus.root / "card.html")


def test_the_same_files_make_the_same_card(corpus: Corpus, text: str) -> None:
    assert card.render(card.collect(corpus.root)) == text
    assert json.dumps(text)
