"""Scores over seeds, names that stand for protocols, and starts that are the encoders asked for."""

import json
import math
import statistics

import pytest

from geodata.files import write_atomic
from pipelines import transfer, trials
from pipelines.settings import Home
from training import recipe as recipes

COSTS = {"train_seconds": 2.0, "score_seconds": 1.0, "memory_gb": 0.5}


def trial(folder, arm, seed, share=1.0, **scores):
    place = folder / f"{arm}-{seed}-{share}"
    place.mkdir()
    (place / "scores.json").write_text(json.dumps({"scores": scores, **COSTS}))
    return trials.Trial(arm, seed, None, place, share)


def test_a_cell_is_the_mean_and_the_sample_spread_over_seeds_in_the_order_of_the_arms(tmp_path):
    values = {"pretrained": (0.41, 0.44, 0.47), "random": (0.30, 0.36, 0.33)}
    runs = [trial(tmp_path, arm, s, mean_iou=v) for arm, many in values.items() for s, v in enumerate(many)]
    found = transfer.cells(runs)
    assert [cell["arm"] for cell in found] == list(values)
    for cell, many in zip(found, values.values(), strict=True):
        score = cell["scores"]["mean_iou"]
        assert score["mean"] == pytest.approx(sum(many) / 3)
        assert score["spread"] == pytest.approx(statistics.stdev(many))
        assert score["values"] == list(many)
        assert cell["seeds"] == 3 and cell["memory_gb"] == 0.5


def test_runs_that_are_not_through_are_left_out(tmp_path):
    runs = [trial(tmp_path, "random", seed, accuracy=0.5 + seed / 10) for seed in range(3)]
    (runs[1].folder / "scores.json").unlink()
    (found,) = transfer.cells(runs)
    assert found["seeds"] == 2 and found["scores"]["accuracy"]["values"] == [0.5, 0.7]


def test_shares_of_the_labels_are_cells_of_their_own(tmp_path):
    runs = [trial(tmp_path, "random", s, share, accuracy=share) for share in (0.1, 1.0) for s in range(2)]
    found = transfer.cells(runs)
    assert [(cell["share"], cell["scores"]["accuracy"]["mean"]) for cell in found] == [(0.1, 0.1), (1.0, 1.0)]
    rows = transfer.table({"cells": found})
    assert [row["labels"] for row in rows] == ["0.1", "1"]


def test_a_score_that_does_not_exist_is_left_out_and_never_zero(tmp_path):
    runs = [
        trial(tmp_path, "random", 0, mean_iou=0.5, **{"iou/ice": math.nan}),
        trial(tmp_path, "random", 1, mean_iou=0.7, **{"iou/ice": 0.2}),
    ]
    (found,) = transfer.cells(runs)
    assert found["scores"]["iou/ice"]["mean"] == pytest.approx(0.2)
    assert found["scores"]["iou/ice"]["spread"] is None
    assert transfer.table({"cells": [found]}) == [{"from": "random", "mean_iou": "0.6000 ± 0.1414"}]


def test_a_single_seed_has_no_spread(tmp_path):
    rows = transfer.table({"cells": transfer.cells([trial(tmp_path, "random", 0, accuracy=0.25)])})
    assert rows == [{"from": "random", "accuracy": "0.2500"}]


def test_the_arms_are_called_as_the_report_groups_them():
    assert trials._arm("random") == "random"
    assert trials._arm("mae.demo@1") == "pretrained (mae.demo@1)"
    assert trials._arm("/somewhere/encoder") == "pretrained (encoder)"


def test_a_benchmark_stands_for_its_protocols_and_a_protocol_for_itself():
    all_four = tuple(f"eurosat_rgb_500_{way}" for way in ("finetune", "probe", "knn", "stages"))
    assert trials.protocols(["eurosat_rgb_500"]) == all_four
    assert trials.protocols([all_four[1], "eurosat_rgb_500"]) == tuple(all_four[at] for at in (1, 0, 2, 3))
    assert trials.protocols(["finetune.segment_smoke"]) == ("finetune.segment_smoke",)
    with pytest.raises(
        ValueError, match=r"'eurosatt' is neither a protocol nor a benchmark; benchmarks are .*aid"
    ):
        trials.protocols(["eurosatt"])


def test_shares_are_read_once_each_and_refused_outside_0_to_1():
    assert trials.shares("0.01,0.1,1,0.1") == (0.01, 0.1, 1.0)
    for text in ("0", "1.5", "a", "0.1,-1"):
        with pytest.raises(ValueError, match="--labels takes shares above 0"):
            trials.shares(text)


def test_a_benchmark_that_is_not_prepared_says_how(tmp_path):
    home = Home.at(tmp_path)
    with pytest.raises(ValueError, match=r"run `swath prepare eurosat_rgb_500 --root DIR`"):
        trials.comparison("eurosat_rgb_500_probe", ["random"], home)


def exported(folder, layer="hr", kind="vit", width=8):
    inputs = {"layer": layer, "bands": ["R", "G", "B"], "mean": [1.0] * 3, "std": [2.0] * 3}
    spec = {"kind": kind, "inputs": inputs, "width": width}
    write_atomic(folder / "config.json", json.dumps({"spec": spec}).encode())
    return folder


def test_random_is_the_network_of_the_first_encoder_without_its_statistics(tmp_path):
    first, second = exported(tmp_path / "a", width=8), exported(tmp_path / "b", width=16)
    sources = {"random": None, "a": first, "b": second}
    (change,) = trials._start("random", sources)
    network = json.loads(change.removeprefix("method.encoder="))
    assert network["width"] == 8
    assert network["inputs"] == {"layer": "hr", "bands": ["R", "G", "B"], "mean": [], "std": []}
    assert trials._start("b", sources) == (f"method.init={second}", "method.encoder=null")
    assert trials._start("random", {"random": None}) == ()


def test_an_encoder_of_other_images_is_refused_before_anything_starts(tmp_path):
    network = trials._network(exported(tmp_path / "a", layer="s2"))
    plain = recipes.load("eurosat_rgb_500_probe").method
    trials._reads("a", network, plain, ("s2", "mask"))
    with pytest.raises(ValueError, match="encoder a reads layer 's2', the protocol feeds hr, mask"):
        trials._reads("a", network, plain, ("hr", "mask"))
    part = {"inputs": {"layer": "s2"}}
    whole = {"inputs": {"layer": "hr"}, "hr": {"inputs": {"layer": "hr"}}, "s2": part, "s1": None}
    fused = recipes.load("skysense_bigearthnet_mm").method  # has no use for the encoder of fine images
    trials._reads("a", whole, fused, ("s2", "s1"))
    planet = recipes.load("skysense_dynamicearthnet_mm").method  # lets it read Planet instead
    trials._reads("a", whole, planet, ("ps", "s2", "s1"))
    with pytest.raises(ValueError, match="reads layer 's2', the protocol feeds ps, s1"):
        trials._reads("a", whole, planet, ("ps", "s1"))


def test_divisions_of_one_benchmark_are_told_from_names_that_merely_end_in_numbers():
    assert trials._alike("aid_tr20_0", "aid_tr20_2")
    assert trials._alike("pastis_run1", "pastis_run5")
    assert not trials._alike("aid_tr20_0", "aid_tr20_7")
    assert not trials._alike("levir_cd_256", "levir_cd_257")
    assert not trials._alike("levir_cd_256", "levir_cd_512")  # other protocols
