"""The scoreboard: published numbers as printed, ours beside them, and what must not be compared."""

import json

import pytest

from pipelines import page, published, report, scoreboard
from training.recipe import load, protocols

ARM, RANDOM = "pretrained (pera@1)", "random"


def cell(kind, arm, values, share=1.0, metric="accuracy", **more):
    scores = {metric: scoreboard.spread(values)}
    costs = {"train_seconds": 61.4, "score_seconds": 2.0, "memory_gb": 1.5} if kind == "ours" else {}
    return {"kind": kind, "share": share, "arm": arm, "seeds": len(values), "scores": scores} | costs | more


def scores(protocol="gersp_eurosat", metric="accuracy", cells=None, partial=(), changed=()):
    return {
        "protocol": protocol,
        "task": "classify",
        "metric": metric,
        "changed": list(changed),
        "data": {
            "name": "eurosat_rgb_tr20_0@1",
            "fingerprint": "0123456789abcdef",
            "split": "test",
            "samples": 21600,
            "partial": list(partial),
        },
        "cells": cells
        or [
            cell("ours", ARM, [0.97, 0.98, 0.975], metric=metric),
            cell("ours", RANDOM, [0.62, 0.60, 0.61], metric=metric),
            cell("baseline", "majority class", [0.11], metric=metric),
            cell("baseline", "random forest", [0.70, 0.71, 0.69], metric=metric),
        ],
    }


def board(tmp_path, *values):
    files = []
    for number, one in enumerate(values):
        path = tmp_path / f"one{number}@1" / "scores.json"
        path.parent.mkdir()
        path.write_text(json.dumps(one))
        files.append(path)
    return scoreboard.boards(files)


# Read off the tables of the papers a second time.
PRINTED = [
    ("bfm_potsdam", "BFM ViT-G12x4", "mean_f1", 92.12, None, 1),
    ("bfm_potsdam", "BFM ViT-L12x4", "accuracy", 88.24, None, 0.05),
    ("bfm_potsdam", "BFM ViT-B12x1", "mean_f1", 79.15, None, 0.01),
    ("bfm_loveda", "BFM ViT-H12x4", "mean_iou", 53.20, None, 1),
    ("gersp_eurosat", "GeRSP", "accuracy", 97.87, 0.15, 1),
    ("gersp_eurosat", "ImageNet, supervised", "accuracy", 97.84, 0.04, 1),
    ("gersp_resisc45", "GeRSP-200", "accuracy", 92.74, 0.09, 1),
    ("gersp_loveda_deeplabv3plus", "GeRSP-200", "mean_iou", 50.56, None, 1),
    ("pera_aid_tr20", "PerA", "accuracy", 97.13, None, 1),
    ("pera_ucm_tr80", "PerA", "accuracy", 100.0, None, 1),
    ("pera_levir_cd", "PerA", "change_f1", 92.34, None, 1),
    ("skysense_aid_tr50", "SkySense", "accuracy", 98.60, None, 1),
    ("skysense_bigearthnet_s2", "SkySense", "map_micro", 88.67, None, 0.1),
    ("skysense_fmow_s2", "SkySense", "top5", 87.27, None, 1),
    ("skysense_dynamicearthnet_s2", "SkySense", "scs", 18.0, None, 1),
    ("skysense_bigearthnet_mm", "SkySense, S2 and S1", "map_micro", 92.21, None, 1),
    ("skysense_dynamicearthnet_mm", "SkySense, Planet, S2 and S1", "mean_iou", 47.7, None, 1),
    (
        "skysense_dynamicearthnet_mm_prototypes",
        "SkySense, Planet, with prototypes",
        "mean_iou",
        47.0,
        None,
        1,
    ),
    ("skysense_pastis_mm", "SkySense, S2 and S1 series", "accuracy", 84.8, None, 1),
    ("skysense_isaid", "SatLas", "mean_iou", 68.71, None, 1),
    ("mtp_eurosat", "ImageNet InternImage-XL", "accuracy", 99.30, None, 1),
    ("mtp_oscd", "MTP ViT-L+RVSA", "change_f1", 55.92, None, 1),
    ("mtp_cdd", "MAE ViT-B+RVSA", "change_f1", 97.80, None, 1),
]


@pytest.mark.parametrize(("protocol", "method", "metric", "value", "spread", "share"), PRINTED)
def test_published_numbers_are_as_printed(protocol, method, metric, value, spread, share):
    found = {
        (one.value, one.spread)
        for one in published.numbers(protocol)
        if (one.method, one.metric, one.share) == (method, metric, share)
    }
    assert (value, spread) in found


def test_every_published_number_belongs_to_a_protocol_that_can_be_run():
    for name, protocol in published.PROTOCOLS.items():
        assert published.numbers(name), f"{name} has no printed score"
        assert any(one.metric == protocol.metric for one in published.numbers(name))
        assert load(name).steps > 0
    own = {name for name in protocols() if name not in published.PROTOCOLS}
    assert own and not any(published.numbers(name) for name in own)
    assert all(0 < one.value <= 100 for name in published.PROTOCOLS for one in published.numbers(name))


def test_ours_stand_beside_the_papers_in_percent_with_seeds_and_data(tmp_path):
    (found,) = board(tmp_path, scores())
    rows = {row.name: row for row in found.rows}
    assert rows[ARM].score == "97.50 ± 0.50" and rows[ARM].seeds == 3
    assert rows[ARM].note == "61 s to train, 2 s to score, 1.5 GB"
    assert rows["GeRSP"].score == "97.87 ± 0.15" and rows["GeRSP"].kind == "paper"
    assert found.data == "eurosat_rgb_tr20_0@1 (0123456789ab)"
    assert found.scored == "ours: test, 21,600 samples; the paper: 80 % of the pictures"
    assert any("the paper trains 5 times, ours 3" in one for one in found.warnings)
    assert any("never compare" in one for one in found.warnings)


def test_an_encoder_that_loses_to_a_baseline_is_said_to(tmp_path):
    (found,) = board(tmp_path, scores())
    assert found.verdicts == (
        "random does not beat random forest, which needs no encoder: 61.00 against 70.00.",
    )
    text = page.render(page.Page(title="t", sentence="s", boards=(found,)))
    assert "does not beat random forest" in text and "97.87 ± 0.15" in text


def test_a_baseline_has_a_score_for_each_seed_and_one_where_none_matters(tmp_path):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(scores()))
    majority, forest = scoreboard.baselines([path], 1.0)
    assert majority == {"arm": "majority class", "scores": [{"accuracy": 0.11}]}
    assert forest["scores"] == [{"accuracy": 0.70}, {"accuracy": 0.71}, {"accuracy": 0.69}]
    assert scoreboard.baselines([path], 0.1) == []
    (transfer,) = report.transfers_of(
        {"transfers": [{"run": "a", "arm": ARM}], "scores": ["scores.json"]}, tmp_path, None, []
    )
    assert [(arm.name, arm.seeded, len(arm.values("accuracy"))) for arm in transfer.arms[1:]] == [
        ("majority class", False, 1),
        ("random forest", True, 3),
    ]


def test_a_part_of_a_benchmark_is_said_plainly(tmp_path):
    (found,) = board(tmp_path, scores(partial=["test has 75 of 21,600"], changed=["steps=60"]))
    assert found.subset.startswith("Run on a part of the benchmark: test has 75 of 21,600.")
    assert any("settings other than the protocol's: steps=60" in one for one in found.warnings)


def test_a_transfer_that_is_not_through_is_said_to_be_so(tmp_path):
    (found,) = board(tmp_path, scores() | {"runs": 6, "missing": 2})
    assert found.subset == "2 of 6 runs are not through yet: means are of the others."
    (found,) = report.collect(tmp_path / "one0@1").boards
    assert "2 of 6 runs" in found.subset and {row.name for row in found.rows} >= {ARM, RANDOM}


def test_protocols_of_one_data_set_that_differ_are_kept_apart(tmp_path):
    both = board(tmp_path, scores(), scores("mtp_eurosat"))
    assert any("mtp_eurosat scores EuroSAT otherwise" in one for one in both[0].warnings)
    assert any("gersp_eurosat scores EuroSAT otherwise" in one for one in both[1].warnings)


def test_shares_of_the_labels_are_boards_of_their_own_with_their_own_numbers(tmp_path):
    cells = [cell("ours", ARM, [0.5], share, "mean_f1") for share in (0.01, 1.0)]
    low, full = board(tmp_path, scores("bfm_potsdam", "mean_f1", cells))
    assert {row.name: row.score for row in low.rows}["BFM ViT-B12x1"] == "79.15"
    assert {row.name: row.score for row in full.rows}["BFM ViT-B12x1"] == "90.87"


def test_a_protocol_of_our_own_has_nothing_to_stand_beside(tmp_path):
    (found,) = board(tmp_path, scores("eurosat_rgb_500_probe"))
    assert found.warnings == ("no paper reports numbers by this protocol",)
    assert {row.kind for row in found.rows} == {"ours", "baseline"}


def test_a_folder_of_transfers_is_one_page_and_files_that_are_no_boards_are_none(tmp_path):
    board(tmp_path, scores(), scores("mtp_eurosat"))
    (tmp_path / "old@1").mkdir()
    (tmp_path / "old@1" / "scores.json").write_text('{"random": {}}')
    (tmp_path / "cut@1").mkdir()
    (tmp_path / "cut@1" / "scores.json").write_text('{"cells": [')
    found = report.collect(tmp_path)
    assert [one.protocol for one in found.boards] == ["gersp_eurosat", "mtp_eurosat"]
    assert "Scoreboard: EuroSAT as in" in report.render(found)


def test_the_headline_of_a_task_is_its_own_where_no_paper_says_another():
    assert scoreboard.headline("bfm_potsdam", "segment") == "mean_f1"
    assert scoreboard.headline("kampala", "segment") == "mean_iou"
    assert scoreboard.headline("pairs", "change") == "change_f1"


def test_settings_that_no_source_states_are_named_by_keys_the_recipe_has(tmp_path):
    for name, protocol in published.PROTOCOLS.items():
        tree = json.loads(load(name).dump())
        for key in protocol.ours:
            value = tree
            for part in key.split("."):
                assert part in value, f"{name} has no setting {key}"
                value = value[part]
            assert value is not None, f"{name} leaves {key} alone"
    (found,) = board(
        tmp_path, scores("pera_levir_cd", "change_f1", [cell("ours", ARM, [0.9], metric="change_f1")])
    )
    said = "settings that no source states and are our choice: optim.weight_decay, method.views.area"
    assert said in found.warnings
    text = page.render(page.Page(title="t", sentence="s", boards=(found,)))
    assert said in text


def test_accuracies_of_the_stages_stand_beside_that_of_the_last(tmp_path):
    many = {f"accuracy_stage_{n}": scoreboard.spread([n / 10]) for n in (1, 2)}
    one = cell("ours", ARM, [0.2])
    one["scores"] |= many
    (found,) = board(tmp_path, scores("eurosat_rgb_500_stages", cells=[one]))
    assert found.rows[0].note.startswith("stages 10.00, 20.00; 61 s to train")
