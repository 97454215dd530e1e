"""Charts of what an encoder knows, from the numbers beside its pictures."""

import pytest
from fake_study import fake_study, save

from geodata.grid import project
from pipelines import looks, report

NUMBERS = {
    "classes": ["forest", "water"],
    "absent": {"attention": "Hierarchy has no class token <here>"},
    "features": {
        "classes": [0, 1, 1, 7],
        "principal": [[0, 1], [2, 3], [4, 1], [1, 1]],
        "shares": [0.5, 0.25],
        "neighbours": [[0, 1], [2, 3], [4, 1], [1, 1]],
        "knn": 0.625,
        "samples": 1200,
    },
    "stages": {"pretrained": [0.5, 0.6, 0.7, 0.8], "untrained": [0.4, 0.4, 0.3, 0.2]},
    "distances": {
        "differences": {"edges": [0, 0.5, 1], "shares": [0.75, 0.25]},
        "features": {"edges": [-1, 0, 1], "shares": [0.5, 0.5]},
    },
}

REGIONS = {
    "side": 4,
    "count": 8,
    "visits": [[0.0, 0.0, 90.0, 66.5, 59], [-90.0, -66.5, 0.0, 0.0, 2]],
    "shown": [
        {"region": 6, "where": "0 to 90° east", "visits": 59, "tiles": 2, "cells": 2048, "used": 7, "nmi": 0.4567,
         "shuffled": 0.001, "elsewhere": None}
    ],
    "all": {"nmi": 0.4567, "shuffled": 0.001, "elsewhere": None},
}  # fmt: skip


def test_every_number_becomes_a_chart_with_a_caption():
    charts, captions = zip(*looks.drawn(NUMBERS), strict=True)
    assert len(charts) == 5
    assert "62.5 % of 1,200 are named rightly" in captions[0]
    assert "carry 75 %" in captions[1]
    for name in ("water", "forest", "class 7"):
        assert f">{name}<" in charts[0] and f">{name}<" in charts[1]
    assert all(f">stage {number}<" in charts[2] for number in range(1, 5))
    assert looks.drawn({}) == []


def test_points_are_grouped_by_class_the_commonest_first():
    groups = looks.grouped([[0, 0], [1, 1], [2, 2]], ["b", "a", "b"])
    assert list(groups.items()) == [("b", [[0, 0], [2, 2]]), ("a", [[1, 1]])]


@pytest.mark.slow
def test_the_page_shows_what_the_run_left_and_says_what_it_could_not(tmp_path):
    folder = fake_study(tmp_path)
    before = report.render(report.collect(folder))
    assert "What it knows" not in before
    save(tmp_path / "encoders" / "mae.demo@1" / "pictures" / "looks.json", NUMBERS)
    page = report.render(report.collect(folder))
    assert "What it knows" in page
    assert page.count("<svg") == before.count("<svg") + 5
    assert "No attention: Hierarchy has no class token &lt;here&gt;." in page


def test_regions_are_drawn_where_they_lie_and_told_in_numbers(tmp_path):
    chart, caption = looks.visits(REGIONS)
    assert caption.startswith("2 of 16 regions were seen") and caption.endswith("2 to 59.")
    assert ">1 to 2<" in chart and ">30 and more<" in chart
    folder = fake_study(tmp_path)
    save(tmp_path / "encoders" / "mae.demo@1" / "pictures" / "looks.json", {"regions": REGIONS})
    page = report.render(report.collect(folder))
    assert "What its prototypes map" in page and "7 of 8" in page and "0.457" in page
    assert "Regions seen" in page


def test_the_outline_of_a_region_follows_its_meridians():
    xs, ys = looks.outline(0, 0, 90, 60)
    assert len(xs) == len(ys) == 4 * looks.EDGE
    corners = list(zip(xs, ys, strict=True))[:: looks.EDGE]
    assert corners == [pytest.approx(project(*at, 8857)) for at in ((0, 0), (90, 0), (90, 60), (0, 60))]
    assert (xs[0], ys[0]) == (0, 0) and max(ys) == max(ys[2 * looks.EDGE :])
    east = xs[looks.EDGE : 2 * looks.EDGE]
    assert east == sorted(east, reverse=True) and len(set(east)) == looks.EDGE  # narrower towards the pole


def test_a_corpus_of_one_split_names_nobody():
    caption = looks.drawn({"features": NUMBERS["features"] | {"knn": None}})[0][1]
    assert "1,200 samples" in caption and "Asked" not in caption
