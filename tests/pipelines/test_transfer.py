import json
import math
import statistics

import pytest

from pipelines import transfer


def trial(folder, arm, seed, **scores):
    place = folder / f"{arm}-{seed}"
    place.mkdir()
    (place / "scores.json").write_text(json.dumps({"scores": scores}))
    return transfer.Trial(arm, seed, None, place)


def test_the_summary_is_the_mean_and_the_sample_spread_over_seeds_in_the_order_of_the_arms(tmp_path):
    values = {"pretrained": (0.41, 0.44, 0.47), "random": (0.30, 0.36, 0.33)}
    trials = [trial(tmp_path, arm, s, mean_iou=v) for arm, many in values.items() for s, v in enumerate(many)]
    found = transfer.summary(trials)
    assert list(found) == list(values)
    for arm, many in values.items():
        assert found[arm]["mean_iou"]["mean"] == pytest.approx(sum(many) / 3)
        assert found[arm]["mean_iou"]["spread"] == pytest.approx(statistics.stdev(many))
        assert found[arm]["mean_iou"]["values"] == list(many)


def test_a_score_that_does_not_exist_is_left_out_and_never_zero(tmp_path):
    trials = [
        trial(tmp_path, "random", 0, mean_iou=0.5, **{"iou/ice": math.nan}),
        trial(tmp_path, "random", 1, mean_iou=0.7, **{"iou/ice": 0.2}),
    ]
    found = transfer.summary(trials)["random"]
    assert found["iou/ice"]["mean"] == pytest.approx(0.2)
    assert found["iou/ice"]["spread"] is None
    assert transfer.table(transfer.summary(trials)) == [{"from": "random", "mean_iou": "0.6000 ± 0.1414"}]


def test_a_single_seed_has_no_spread(tmp_path):
    rows = transfer.table(transfer.summary([trial(tmp_path, "random", 0, accuracy=0.25)]))
    assert rows == [{"from": "random", "accuracy": "0.2500"}]


def test_the_arms_are_called_as_the_report_groups_them():
    assert transfer._arm("random") == "random"
    assert transfer._arm("mae.demo@1") == "pretrained (mae.demo@1)"
    assert transfer._arm("/somewhere/encoder") == "pretrained (encoder)"
