"""Charts of what an encoder knows, from the numbers beside its pictures."""

from fake_study import fake_study, save

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


def test_the_page_shows_what_the_run_left_and_says_what_it_could_not(tmp_path):
    folder = fake_study(tmp_path)
    before = report.render(report.collect(folder))
    assert "What it knows" not in before
    save(tmp_path / "encoders" / "mae.demo@1" / "pictures" / "looks.json", NUMBERS)
    page = report.render(report.collect(folder))
    assert "What it knows" in page
    assert page.count("<svg") == before.count("<svg") + 5
    assert "No attention: Hierarchy has no class token &lt;here&gt;." in page
