"""Transfer through the flow: arms and seeds side by side, resumed run by run."""

import json

import pytest

from pipelines import artifacts
from pipelines import transfer as flows

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("default"),
]  # the engines warn of themselves
STEPS = ("steps=3", "batch=4", "log_every=1", "checkpoint_every=3")


def test_every_start_and_seed_is_scored_and_summed_up(pretrained, curated, home, monkeypatch, capsys):
    encoders = (pretrained, flows.RANDOM)
    address = flows.transfer("finetune.segment_smoke", encoders, STEPS, str(home.root), curated, 2)
    made = artifacts.resolve(home, address, "transfer")
    scores = flows.read_scores(made)
    assert set(scores) == {f"pretrained ({pretrained})", "random"}
    runs = sorted((made.path / "runs").iterdir())
    assert len(runs) == 4
    for run in runs:
        for name in ("scores.json", "recipe.json", "metrics.jsonl", "environment.json"):
            assert (run / name).is_file(), f"{run.name}/{name}"
    of_random = [json.loads((run / "scores.json").read_text()) for run in runs if "random" in run.name]
    values = [row["scores"]["mean_iou"] for row in of_random]
    assert scores["random"]["mean_iou"]["values"] == values
    assert scores["random"]["mean_iou"]["mean"] == pytest.approx(sum(values) / 2)
    assert {parent.split(":")[0] for parent in made.parents} == {"corpus", "encoder"}

    (made.path / "artifact.json").unlink()
    (runs[0] / "scores.json").unlink()
    kept = {run: (run / "scores.json").stat().st_mtime_ns for run in runs[1:]}
    assert flows.transfer("finetune.segment_smoke", encoders, STEPS, str(home.root), curated, 2) == address
    assert flows.read_scores(made) == scores
    assert {run: (run / "scores.json").stat().st_mtime_ns for run in runs[1:]} == kept
