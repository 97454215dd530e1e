"""Pretraining through the flow, in Ray Train workers."""

import json

import pytest

from pipelines import artifacts, cli, report
from pipelines import pretrain as flows
from training.encoders import spatiotemporal
from training.methods import skysense

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("default"),
]  # the engines warn of themselves


def test_a_run_leaves_its_encoder_recipe_metrics_and_environment(pretrained, home):
    made = artifacts.resolve(home, pretrained, "encoder")
    for name in ("recipe.json", "metrics.jsonl", "environment.json", "done.json", "stage.json"):
        assert (made.path / name).is_file(), name
    assert (made.path / "encoder" / "config.json").is_file()
    assert made.parents[0].startswith("corpus:tiny@1#")
    steps = [json.loads(line)["step"] for line in (made.path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 4, 6]


def test_the_report_of_a_run_alone_shows_what_the_encoder_knows(pretrained, home):
    made = artifacts.resolve(home, pretrained, "encoder")
    page = report.write(made.path).read_text()
    for words in (
        "Pretraining loss",
        "What it learned to fill in",
        "Where it looks",
        "Features on their principal",
    ):
        assert words in page
    assert "No regions: ViT keeps no prototypes of regions." in page


def test_prototypes_of_a_run_are_mapped_beside_its_land_cover(curated, home):
    """SkySense on Sentinel-2 alone, for the tiny corpus has no other sensor."""
    encoder = spatiotemporal.tiny().only(("s2", "fusion", "places"))
    spec = {
        "name": "skysense.smoke",
        "method": {
            **json.loads(skysense.smoke().method.model_dump_json()),
            "encoder": json.loads(encoder.model_dump_json()),
            "alignment": None,
        },
        "streams": {"scenes": {"corpus": curated, "layers": ["s2"]}},
        "batch": 4,
        "steps": 2,
        "log_every": 1,
        "checkpoint_every": 2,
    }
    recipe = home.root / "skysense.one.json"
    recipe.write_text(json.dumps(spec))
    made = artifacts.resolve(home, flows.pretrain(str(recipe), (), str(home.root), curated), "encoder")
    index = json.loads((made.path / "pictures" / "index.json").read_text())
    assert [entry["kind"] for entry in index] == ["regions"]
    assert (made.path / "pictures" / index[0]["file"]).is_file()
    assert {name for name, _ in index[0]["legend"]} <= {"trees", "crops", "built"}
    assert "What its prototypes map" in report.write(made.path).read_text()


def test_the_tracker_holds_the_same_losses_as_the_record(pretrained, home):
    from mlflow.tracking import MlflowClient

    path = artifacts.resolve(home, pretrained, "encoder").path
    stage = json.loads((path / "stage.json").read_text())
    client = MlflowClient(tracking_uri=home.tracking)
    history = [(point.step, point.value) for point in client.get_metric_history(stage["mlflow_run"], "loss")]
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert history == [(row["step"], row["loss"]) for row in rows]
    tags = client.get_run(stage["mlflow_run"]).data.tags
    assert tags["prefect.flow_run_id"] == stage["prefect_run"]
    assert tags["data.manifest"].endswith("tiny@1/manifest.json")


def test_a_second_call_finds_the_encoder_sealed(pretrained, curated, home, monkeypatch, capsys):
    from ground import STEPS

    monkeypatch.setattr(flows, "pretrain", None)
    cli.main(["pretrain", "mae.smoke", *STEPS, "--corpus", curated, "--root", str(home.root)])
    assert "is sealed; nothing to do" in capsys.readouterr().err


def test_other_settings_under_the_same_name_are_refused(pretrained, curated, home, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["pretrain", "mae.smoke", "steps=7", "--corpus", curated, "--root", str(home.root)])
    assert ended.value.code == 2
    assert "bump the version" in capsys.readouterr().err


def test_a_corpus_that_is_not_there_is_said_before_anything_starts(home, curated, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["pretrain", "mae.smoke", "--corpus", "absent@3", "--root", str(home.root)])
    assert ended.value.code == 2
    assert "no sealed corpus is called 'absent@3'" in capsys.readouterr().err
