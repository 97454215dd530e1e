"""The whole story on a tiny piece of ground: four stages, one report, and nothing at all the second time."""

import json

import pytest

from pipelines import artifacts, cli
from pipelines import study as flows
from pipelines import trials as scoring

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("default"),
]  # the engines warn of themselves


def test_a_study_makes_what_is_missing_and_then_does_nothing(
    pretrained, curated, spec_path, home, tmp_path, monkeypatch, capsys
):
    recipe = tmp_path / "probe.json"
    small = {"name": "finetune.segment_smoke", "steps": 2, "batch": 4, "log_every": 1, "checkpoint_every": 2}
    recipe.write_text(json.dumps(small))
    mae = tmp_path / "mae.smoke.json"
    mae.write_text(
        json.dumps({"name": "mae.smoke", "steps": 6, "batch": 4, "log_every": 2, "checkpoint_every": 3})
    )
    shown = ("reconstruction", "attention", "features", "stages", "distances")
    plot = flows.Plot(
        "tiny", "A tiny study", str(spec_path), str(mae), str(recipe), "land cover", seeds=2, pictures=shown
    )
    monkeypatch.setattr(flows, "studies", lambda: {"tiny": plot})
    assert flows.finished(plot, home) is None
    cli.main(["study", "tiny", "--root", str(home.root)])
    said = capsys.readouterr()
    assert "corpus tiny@1 is sealed; nothing to do" in said.err
    assert "±" in said.out
    made, scores = flows.finished(plot, home)
    page = (made.path / "report.html").read_text()
    assert "A tiny study" in page and "random forest" in page
    assert "Where it looks" in page and "Asked of their nearest training samples" in page
    assert "No distances: MAE has no teacher." in page
    study = json.loads((made.path / "study.json").read_text())
    assert [entry["arm"] for entry in study["transfers"]].count(scoring.RANDOM) == 2
    assert (made.path / study["corpus"] / "manifest.json").is_file()
    assert [stage["name"] for stage in study["stages"]] == ["curate", "pretrain", "transfer", "study"]
    assert json.loads((artifacts.resolve(home, scores.address).path / "scores.json").read_text())

    monkeypatch.setattr(flows, "study", None)
    before = (made.path / "report.html").stat().st_mtime_ns
    cli.main(["study", "tiny", "--root", str(home.root)])
    said = capsys.readouterr()
    assert "nothing to do" in said.err
    assert "±" in said.out
    assert str(made.path / "report.html") in said.out
    assert (made.path / "report.html").stat().st_mtime_ns == before
