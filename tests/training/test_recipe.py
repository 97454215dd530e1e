"""Recipes: names, overrides, files, digests."""

import json
import re

import pytest
import tiny_method

from training.recipe import Cosine, Ddp, Fsdp, Poly, Recipe, Stream, fill_inputs, load, replace

STATS = {"s2": (("B02", "B03", "B04"), (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))}


def test_a_name_is_the_address_of_a_function():
    recipe = load("tiny_method.smoke")
    assert recipe == tiny_method.smoke().model_copy(update={"name": "tiny_method.smoke"})
    assert load("mae.smoke").name == "mae.smoke"


def test_overrides_are_yaml_values_applied_in_order():
    recipe = load(
        "tiny_method.smoke",
        ["steps=50", "optim.lr_per_256=1e-4", "method.noise=1", "streams.scenes.layers=[s2, lc]", "steps=60"],
    )
    assert (recipe.steps, recipe.optim.lr_per_256, recipe.method.noise) == (60, 1e-4, 1.0)
    assert recipe.streams["scenes"].layers == ("s2", "lc")
    assert recipe.optim.clip == 1.0


def test_a_changed_kind_starts_from_its_own_defaults():
    changed = load("tiny_method.smoke", ["schedule.kind=poly", "parallel={kind: fsdp, reshard: false}"])
    assert changed.schedule == Poly()
    assert changed.parallel == Fsdp(reshard=False)
    assert load("tiny_method.smoke", ["schedule.kind=cosine"]).schedule == Cosine(warmup=0.25)


def test_a_stream_can_be_added_by_override():
    recipe = load("tiny_method.smoke", ["streams.more={corpus: c, layers: [hr], weight: 3}"])
    assert recipe.shares() == {"scenes": 2, "more": 6}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("step=5", r"no setting 'step'; valid here: .*batch.*steps"),
        (
            "optim.lr=1",
            r"no setting 'optim.lr'; valid here: batch_power, betas, clip, decay, eps, kind, layer_decay, "
            r"lr_per_256, weight_decay, weight_decay_end",
        ),
        ("streams.scenes.layer=[s2]", r"no setting 'streams.scenes.layer'; valid here: corpus, layers"),
        ("schedule.flor=1", r"no setting 'schedule.flor'; valid here: floor, inclusive, kind, warmup"),
        ("parallel={kind: fsdp, shard: 1}", r"no setting 'parallel.shard'; valid here: kind, reshard"),
        ("method.nois=1", r"no setting 'method.nois'; valid here: encoder, explode_at, noise"),
        ("method.encoder.widht=1", r"no setting 'method.encoder.widht'; valid here: inputs, kind, width"),
        ("steps=1.5", r"steps=1.5 is refused"),
        ("steps=abc", r"steps='abc' is refused"),
        ("compile=1", r"compile=1 is refused"),
        (
            "method.encoder.width=true",
            r"method.encoder.width=True is true or false; it must be a whole number",
        ),
        ("streams.scenes.corpus=7", r"streams.scenes.corpus=7 is refused"),
        ("steps=0", r"steps=0 is refused: .*greater"),
        ("precision=fp16", r"precision='fp16' is refused: .*'fp32' or 'bf16'"),
        ("schedule.kind=linear", r"schedule: .*'cosine', 'poly', 'restarts', 'steps'"),
        ("steps.a=1", r"steps reaches inside 12"),
        ("steps", r"'steps' is no override; write key=value"),
        ("accumulate=3", r"accumulate=3 does not divide"),
    ],
)
def test_a_wrong_override_is_one_sentence_with_what_is_valid(override, said):
    with pytest.raises(ValueError, match=said) as caught:
        load("tiny_method.smoke", [override])
    assert "\n" not in str(caught.value)


def test_a_wrong_setting_of_a_nested_spec_is_named_by_its_whole_path():
    with pytest.raises(ValueError, match=r"no setting 'method.encoder.widht'; valid here: .*width"):
        load("finetune.segment_smoke", ["method.encoder.widht=3"])
    with pytest.raises(ValueError, match=r"method.encoder.width"):
        load("finetune.segment_smoke", ["method.encoder.width=wide"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tiny_method.nothing", "no recipe 'nothing'; it has other, smoke"),
        ("no_method.smoke", r"no method 'no_method' in training.methods \(.*mae"),
        ("smoke", "write METHOD.RECIPE"),
        ("absent.yaml", "no recipe file absent.yaml"),
    ],
)
def test_an_unknown_name_lists_what_there_is(name, said):
    with pytest.raises(ValueError, match=said):
        load(name)


def test_a_file_stands_for_a_recipe(tmp_path):
    partial = tmp_path / "mine.yaml"
    partial.write_text("name: tiny_method.smoke\noptim: {lr_per_256: 1e-4}\n")
    assert load(str(partial), ["steps=3"]) == load("tiny_method.smoke", ["optim.lr_per_256=1e-4", "steps=3"])
    whole = tmp_path / "whole.json"
    recipe = replace(
        load("tiny_method.other"), streams={"b": Stream(corpus="c", layers=("s2",))}, name="tiny_method.other"
    )
    whole.write_text(recipe.dump())
    assert load(str(whole)) == recipe
    (tmp_path / "bad.json").write_text(json.dumps({"name": "tiny_method.smoke", "stepz": 1}))
    with pytest.raises(ValueError, match="no setting 'stepz'"):
        load(str(tmp_path / "bad.json"))


@pytest.mark.parametrize("name", ["tiny_method.smoke", "mae.smoke", "mae.vit_g12x4", "finetune.smoke"])
def test_what_dump_wrote_parse_reads(name):
    recipe = load(name)
    again = Recipe.parse(recipe.dump())
    assert again == recipe
    assert type(again.method) is type(recipe.method)


def test_the_digest_changes_with_what_decides_the_numbers_and_with_nothing_else():
    base = load("tiny_method.smoke")
    assert re.fullmatch("[0-9a-f]{64}", base.digest)
    for same in (
        "log_every=3",
        "checkpoint_every=2",
        "keep=9",
        "parallel.kind=fsdp",
        "streams.scenes.corpus=/x/tiny@1",
    ):
        assert load("tiny_method.smoke", [same]).digest == base.digest, same
    for other in ("steps=13", "seed=1", "method.noise=0.2", "batch=16", "streams.scenes.corpus=runs/tiny@2"):
        assert load("tiny_method.smoke", [other]).digest != base.digest, other
    assert base.parallel == Ddp()


def test_empty_inputs_are_filled_and_given_ones_are_kept():
    filled = fill_inputs(tiny_method.smoke(), STATS)
    assert filled.method.encoder.inputs.mean == (3.0, 1.0)  # B04, B02
    assert filled.method.encoder.inputs.std == (6.0, 4.0)
    assert fill_inputs(filled, {}) == filled


def test_inputs_the_corpus_lacks_are_refused():
    with pytest.raises(ValueError, match="reads layer 's2', but the streams bring hr"):
        fill_inputs(tiny_method.smoke(), {"hr": (("R",), (0.0,), (1.0,))})
    with pytest.raises(ValueError, match="reads band B04 of 's2', but the corpus has B02"):
        fill_inputs(tiny_method.smoke(), {"s2": (("B02",), (0.0,), (1.0,))})
