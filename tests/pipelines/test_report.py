"""The page says what the files say, needs nothing but itself, and survives whatever is missing."""

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_study import fake_study, save

from pipelines.page import Arm, Curation, Page, compare
from pipelines.report import collect, majority_of, render, write

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and refuses a page whose tags do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_study(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def text(study: Path) -> str:
    return write(study).read_text()


def test_the_page_is_whole_html_with_a_section_for_each_part(text: str) -> None:
    page = Reader(text)
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections == ["corpus", "pretraining", "transfer", "provenance"]
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))


def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing(text: str) -> None:
    for tag, attributes in Reader(text).tags:
        assert tag not in {"script", "iframe", "object", "embed"}
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            address = attributes.get(name) or "#"
            assert address.startswith(("#", "data:")) or (
                tag == "a" and address.startswith(("http://", "https://"))
            )
    assert not re.search(r"@import|url\((?!#)", text)
    assert len(text.encode()) < 4_000_000


def test_every_picture_and_chart_has_words_for_those_who_cannot_see_it(text: str) -> None:
    tags = Reader(text).tags
    pictures = [attributes for tag, attributes in tags if tag == "img"]
    charts = [attributes for tag, attributes in tags if tag == "svg" and attributes.get("class") == "chart"]
    assert len(pictures) == 12 + 4 + 4
    assert all(picture["alt"] and picture["width"] for picture in pictures)
    assert len(charts) == 9
    assert all(chart["aria-label"] for chart in charts)


def test_accepted_and_rejected_add_up_to_planned_and_the_page_shows_the_sum(study: Path, text: str) -> None:
    corpus = collect(study).curation
    assert corpus is not None
    assert corpus.balanced
    assert corpus.planned == sum(shard["accepted"] + shard["rejected"] for shard in corpus.shards)
    rejected = sum(corpus.rejected.values())
    assert (
        f"{corpus.accepted} accepted + {rejected} rejected = {corpus.planned} planned." in Reader(text).text
    )
    assert len(corpus.points) == corpus.planned
    assert sum(point.kept for point in corpus.points) == corpus.accepted
    assert corpus.seams


def test_classes_carry_the_names_of_the_corpus_own_table(study: Path) -> None:
    corpus = collect(study).curation
    assert corpus is not None
    assert corpus.class_unit == "labelled pixels"
    assert {"farmland", "forest", "water"} <= set(corpus.classes)
    assert set(corpus.classes["forest"]) == {"train", "val", "test"}


def test_scores_stand_beside_their_baseline_with_mean_and_spread(study: Path, text: str) -> None:
    (transfer,) = collect(study).transfers
    assert [arm.name for arm in transfer.arms] == ["pretrained", "random initialisation", "majority class"]
    assert all(len(arm.values("mean_iou")) == 3 for arm in transfer.arms if arm.seeded)
    assert transfer.arms[0].values("iou/scrub") == ()
    assert transfer.comparison is not None
    assert transfer.comparison.sentence.split(";")[0] in Reader(text).text
    assert "0.090" in text


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ((0.05, 0.051, 0.052), "supported"),
        ((-0.05, -0.051, -0.052), "contradicted"),
        ((0.05, -0.02, 0.01), "undecided"),
        ((0.05,), "undecided"),
    ],
)
def test_a_difference_is_claimed_only_beyond_the_spread_of_seeds(
    gains: tuple[float, ...], verdict: str
) -> None:
    one = Arm("pretrained", {seed: {"mean_iou": 0.4 + gain} for seed, gain in enumerate(gains)})
    other = Arm("random", {seed: {"mean_iou": 0.4} for seed in range(3)})
    assert compare(one, other, "mean_iou").verdict == verdict


def test_the_interval_is_students(study: Path) -> None:
    """Gains 1, 2, 3 have mean 2 and standard error 1/sqrt(3); t(0.975, 2) = 4.303 makes the interval 2 ± 2.484."""
    one = Arm("pretrained", {seed: {"m": seed + 1.0} for seed in range(3)})
    other = Arm("random", {seed: {"m": 0.0} for seed in range(3)})
    assert "+2.000 (95 % interval -0.484 to +4.484)" in compare(one, other, "m").reason


def test_the_majority_baseline_is_what_a_constant_prediction_would_score(study: Path) -> None:
    """80 pixels of a and 20 of b under a prediction that is a everywhere: IoU 0.8 and 0, accuracy 0.8, recall 1 and 0."""
    classes = {"a": {"train": 9, "test": 80}, "b": {"train": 1, "test": 20}}
    corpus = Curation("c@1", 1, 1, {}, classes=classes, class_unit="labelled pixels")
    arm = Arm("pretrained", {0: {"iou/a": 0.9, "iou/b": 0.1}})
    (always,) = majority_of(corpus, [arm])
    assert always.name == "always a"
    assert always.scores[None] == pytest.approx(
        {"accuracy": 0.8, "mean_iou": 0.4, "mean_accuracy": 0.5, "mean_f1": 0.5 * 2 * 0.8 / 1.8}
    )
    assert majority_of(corpus, [Arm("other classes", {0: {"iou/x": 0.9}})]) == ()


def test_what_a_recipe_says_is_text_and_never_markup(tmp_path: Path) -> None:
    study = fake_study(tmp_path)
    evil = "<script>alert(1)</script>\"'&$x^2$"
    values = json.loads((study / "study.json").read_text())
    values |= {"title": evil, "task": evil, "commands": [evil]}
    values["licences"][0] |= {"url": "javascript:alert(1)", "licence": evil}
    values["transfers"][0]["arm"] = evil
    values["stages"][0] |= {"prefect_run": evil, "prefect_url": "data:text/html,x"}
    save(study / "study.json", values)
    save(tmp_path / "encoders" / "mae.demo@1" / "recipe.json", {"name": evil, "note": "</pre>" + evil})
    text = write(study).read_text()
    page = Reader(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert evil in page.text
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert not [link for link in links if link and link.startswith(("javascript:", "data:"))]


def test_a_study_that_has_not_run_says_so(tmp_path: Path) -> None:
    text = Reader(write(tmp_path).read_text()).text
    for words in ("Nothing has run yet", "No verdict yet", "No corpus", "No encoder has been pretrained"):
        assert words in text
    assert render(Page("empty", "Nothing has run yet.")).startswith("<!doctype html>")


@pytest.mark.parametrize(
    "missing",
    [
        "corpora/demo@1/manifest.json",
        "corpora/demo@1/plan.json",
        "corpora/demo@1/plan.parquet",
        "corpora/demo@1/pictures/chip-00.png",
        "corpora/demo@1/pictures/index.json",
        "encoders/mae.demo@1/metrics.jsonl",
        "encoders/mae.demo@1/done.json",
        "transfers/pretrained-0/scores.json",
        "transfers/pretrained-0/recipe.json",
        "transfers/random-1/environment.json",
        "studies/demo/study.json",
    ],
)
@pytest.mark.parametrize("how", ["absent", "cut"])
def test_a_missing_or_broken_file_costs_its_part_and_no_more(tmp_path: Path, missing: str, how: str) -> None:
    study = fake_study(tmp_path)
    path = tmp_path / missing
    if how == "absent":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:40])
    Reader(write(study).read_text())


def test_a_killed_runs_last_half_line_is_left_out(tmp_path: Path) -> None:
    save(tmp_path / "recipe.json", {"name": "mae.smoke", "seed": 3})
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": NaN}\n{"step": 3, "lo'
    )
    page = collect(tmp_path)
    assert page.pretraining is not None
    (run,) = page.pretraining.runs
    assert run.curves == {"loss": ((1, 0.5),)}
    assert not run.finished
    assert page.notes == ()
    assert "has not finished" in render(page)


def test_a_corpus_or_a_run_alone_is_a_page_too(study: Path) -> None:
    runs = study.parent.parent
    assert write(runs / "corpora" / "demo@1").name == "card.html"
    assert collect(runs / "encoders" / "mae.demo@1").pretraining is not None
    assert collect(runs / "transfers" / "random-0").transfers[0].arms[0].values("mean_iou")
    with pytest.raises(ValueError, match="is no folder"):
        collect(runs / "nowhere")


def test_the_same_files_make_the_same_page(study: Path, text: str) -> None:
    assert render(collect(study)) == text
