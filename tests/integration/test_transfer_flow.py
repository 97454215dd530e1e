"""Transfer through the flow: arms, shares and seeds side by side, resumed run by run."""

import json
import signal

import pytest
from ground import swath, wait_for

from pipelines import artifacts, report, trials
from pipelines import transfer as flows

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("default"),
]  # the engines warn of themselves
STEPS = ("steps=3", "batch=4", "log_every=1", "checkpoint_every=3")


def test_every_start_share_and_seed_is_scored_and_summed_up(pretrained, curated, home, monkeypatch, capsys):
    encoders, labels = (pretrained, trials.RANDOM), (0.5, 1.0)

    def run() -> str:
        return flows.transfer(
            "finetune.segment_smoke", encoders, STEPS, str(home.root), curated, 2, labels=labels
        )

    address = run()
    made = artifacts.resolve(home, address, "transfer")
    scores = flows.read_scores(made)
    ours = [cell for cell in scores["cells"] if cell["kind"] == "ours"]
    arms = [f"pretrained ({pretrained})", "random"]
    assert [(cell["share"], cell["arm"]) for cell in ours] == [
        (share, arm) for share in labels for arm in arms
    ]
    baselines = {(cell["share"], cell["arm"]) for cell in scores["cells"] if cell["kind"] == "baseline"}
    assert baselines == {(share, arm) for share in labels for arm in ("majority class", "random forest")}
    runs = sorted((made.path / "runs").iterdir())
    assert len(runs) == 8
    for folder in runs:
        for name in ("scores.json", "recipe.json", "metrics.jsonl", "environment.json"):
            assert (folder / name).is_file(), f"{folder.name}/{name}"
    of_random = [
        json.loads((folder / "scores.json").read_text())
        for folder in runs
        if folder.name.startswith("random-seed")
    ]
    values = [row["scores"]["mean_iou"] for row in of_random]
    assert ours[-1]["scores"]["mean_iou"]["values"] == values
    assert ours[-1]["scores"]["mean_iou"]["mean"] == pytest.approx(sum(values) / 2)
    assert all(cell["memory_gb"] > 0.1 and cell["train_seconds"] > 0 for cell in ours)
    assert {parent.split(":")[0] for parent in made.parents} == {"corpus", "encoder"}
    page = report.render(report.collect(made.path))
    assert "random forest" in page and "no paper reports numbers by this protocol" in page

    (made.path / "artifact.json").unlink()
    (runs[0] / "scores.json").unlink()
    kept = {folder: (folder / "scores.json").stat().st_mtime_ns for folder in runs[1:]}
    assert run() == address
    again = flows.read_scores(made)
    assert [cell["scores"] for cell in again["cells"]] == [cell["scores"] for cell in scores["cells"]]
    assert {folder: (folder / "scores.json").stat().st_mtime_ns for folder in runs[1:]} == kept


def test_a_transfer_that_is_told_to_stop_stops_and_goes_on_later(curated, home):
    """Ray drops the exception that Prefect answers SIGTERM with, so a transfer would train to its end all the same."""
    long = ("steps=5000", "batch=4", "log_every=1", "checkpoint_every=5000")
    asked = ("--root", home.root, "--corpus", curated, "--seeds", "1", "--version", "cut")
    transfer = swath("transfer", "random", "finetune.segment_smoke", *long, *asked, background=True)
    runs = home.place("transfer", "finetune.segment_smoke", "cut") / "runs"
    wait_for(lambda: any(runs.glob("*/metrics.jsonl")), 240, transfer)
    transfer.send_signal(signal.SIGTERM)
    _, said = transfer.communicate(timeout=60)
    assert transfer.returncode == 128 + signal.SIGTERM, said
    assert "stopped; the same command goes on from here" in said
