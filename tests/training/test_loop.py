"""The loop: what it writes, and that interruptions leave no trace in the numbers."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from two_ranks import launched

from training import checkpoint, export, feed
from training.__main__ import main
from training.loop import NonFiniteError, train
from training.recipe import Recipe, load

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def recipe(corpus, *overrides):
    return load("tiny_method.smoke", [f"streams.scenes.corpus={corpus}", *overrides])


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run):
    return [(line["step"], line["loss"], line["pixels"], line["gradient_norm"]) for line in lines(run)]


def command(*words, launcher=("-m", "training"), **environment):
    given = os.environ | {"PYTHONPATH": f"{ROOT}:{HERE}", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *launcher, *words],
        env=given | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_run_leaves_its_record_and_is_not_repeated(corpus, tmp_path):
    told = []
    settings = recipe(corpus)
    summary = train(settings, tmp_path, sink=lambda step, values: told.append((step, values["loss"])))
    assert summary.steps == 12
    assert [step for step, *_ in losses(tmp_path)] == list(range(1, 13))
    assert told == [(step, loss) for step, loss, *_ in losses(tmp_path)]
    assert losses(tmp_path)[-1][1] < losses(tmp_path)[0][1] * 1.5
    assert {"lr", "samples_per_second", "data_wait"} <= lines(tmp_path)[0].keys()
    written = Recipe.parse((tmp_path / "recipe.json").read_text())
    assert written.digest == summary.digest
    assert len(written.method.encoder.inputs.mean) == 2
    assert json.loads((tmp_path / "environment.json").read_text())["packages"]["torch"]
    assert export.load_encoder(summary.encoder).spec == written.method.encoder
    before = (tmp_path / "metrics.jsonl").stat().st_mtime_ns
    assert train(settings, tmp_path) == summary
    assert (tmp_path / "metrics.jsonl").stat().st_mtime_ns == before


def test_the_same_recipe_gives_the_same_losses_and_another_seed_others(corpus, tmp_path):
    for name in ("a", "b"):
        train(recipe(corpus), tmp_path / name)
    train(recipe(corpus, "seed=1"), tmp_path / "c")
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert losses(tmp_path / "a") != losses(tmp_path / "c")


@pytest.mark.parametrize("failing", [0, 3, 6, 11])
def test_a_run_that_stopped_goes_on_bit_for_bit(corpus, tmp_path, failing):
    train(recipe(corpus), tmp_path / "whole")

    def stop(step, values):
        if step == failing + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe(corpus), tmp_path / "cut", sink=stop)
    train(recipe(corpus), tmp_path / "cut")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.integration
def test_a_run_killed_in_the_middle_of_a_step_goes_on_bit_for_bit(corpus, tmp_path):
    step = 7
    train(recipe(corpus), tmp_path / "whole")
    words = (
        "pretrain",
        "tiny_method.smoke",
        f"streams.scenes.corpus={corpus}",
        "--run-dir",
        str(tmp_path / "cut"),
    )
    words += ("--device", "cpu")
    killed = command(*words, DIE_AT=str(step))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(lines(tmp_path / "cut")) == step
    train(recipe(corpus), tmp_path / "cut")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.drill
def test_a_run_killed_at_random_moments_goes_on_bit_for_bit(corpus, tmp_path):
    settings = ("steps=400", "checkpoint_every=7", f"streams.scenes.corpus={corpus}")
    train(load("tiny_method.smoke", settings), tmp_path / "whole")
    words = [sys.executable, "-m", "training", "pretrain", "tiny_method.smoke", *settings]
    words += ["--run-dir", str(tmp_path / "cut"), "--device", "cpu"]
    given = os.environ | {"PYTHONPATH": f"{ROOT}:{HERE}", "OMP_NUM_THREADS": "1"}
    metrics, rng = tmp_path / "cut" / "metrics.jsonl", random.Random(0)
    for target in (9, 60, 61, 150, 280):
        process = subprocess.Popen(words, env=given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (
            metrics.exists() and len(metrics.read_bytes().split(b"\n")) > target
        ):
            time.sleep(0.002)
        time.sleep(rng.random() / 50)
        assert process.poll() is None, "it ended before it was killed"
        process.kill()
        process.wait()
    train(load("tiny_method.smoke", settings), tmp_path / "cut")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_a_torn_last_line_is_forgotten(corpus, tmp_path):
    settings = recipe(corpus)
    train(settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "cut", on_checkpoint=_interrupt)
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 5, "lo')
    train(settings, tmp_path / "cut")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def _interrupt(path):
    raise KeyboardInterrupt


def test_a_run_folder_of_another_recipe_is_refused(corpus, tmp_path):
    train(recipe(corpus), tmp_path)
    with pytest.raises(ValueError, match=r"holds a run of recipe .*new run folder"):
        train(recipe(corpus, "seed=5"), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(recipe(corpus), tmp_path / "cut", on_checkpoint=_interrupt)
    with pytest.raises(ValueError, match=r"holds a run of recipe"):
        train(recipe(corpus, "steps=20"), tmp_path / "cut")
    with pytest.raises(ValueError, match="holds a run at step 4"):
        train(recipe(corpus), tmp_path / "cut", resume=False)


def test_a_loss_that_is_not_finite_stops_before_anything_moves(corpus, tmp_path):
    settings = recipe(corpus, "method.explode_at=5", "checkpoint_every=5")
    with pytest.raises(NonFiniteError, match=r"loss is nan in step 6 \(.*gradient_norm nan"):
        train(settings, tmp_path)
    assert len(lines(tmp_path)) == 5
    assert checkpoint.latest(tmp_path / "checkpoints").step == 5


def test_accumulated_steps_take_the_same_samples_and_nearly_the_same_path(corpus, tmp_path):
    train(recipe(corpus, "method.noise=0.0"), tmp_path / "one")
    train(recipe(corpus, "method.noise=0.0", "accumulate=4"), tmp_path / "four")
    for (_, one, *_), (_, four, *_) in zip(losses(tmp_path / "one"), losses(tmp_path / "four"), strict=True):
        assert one == pytest.approx(four, rel=1e-4)


def test_half_precision_is_near_full_precision(corpus, tmp_path):
    train(recipe(corpus), tmp_path / "full")
    train(recipe(corpus, "precision=bf16"), tmp_path / "half")
    full, half = losses(tmp_path / "full"), losses(tmp_path / "half")
    assert full != half
    assert [loss for _, loss, *_ in half] == pytest.approx([loss for _, loss, *_ in full], rel=0.05)


@contextmanager
def watching():
    """The sample ids of every batch that any feed hands out meanwhile."""
    seen, original = [], feed.Feed.__iter__

    def watched(self):
        for batch in original(self):
            seen.append(batch["scenes"].ids)
            yield batch

    feed.Feed.__iter__ = watched
    try:
        yield seen
    finally:
        feed.Feed.__iter__ = original


WORKER = """
import json, sys
import test_loop
from training import loop, parallel
from training.recipe import load

def interrupt(path):
    if int(path.name.split("-")[1]) == int(sys.argv[3]):
        raise SystemExit

with parallel.joined("cpu") as place, test_loop.watching() as seen:
    try:
        loop.train(load("tiny_method.smoke", sys.argv[4:]), sys.argv[1], device="cpu", rank=place.rank,
                   world=place.world, on_checkpoint=interrupt)
    finally:
        open(f"{sys.argv[2]}-{place.rank}.json", "w").write(json.dumps(seen))
"""


def ranks(tmp_path, tag, stop, *settings):
    launched(WORKER, tmp_path, str(tmp_path / "run"), str(tmp_path / tag), str(stop), *settings)
    return [json.loads((tmp_path / f"{tag}-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_resumed_as_one_see_every_sample_once_and_take_the_path_of_one(corpus, tmp_path, kind):
    # 6 steps of 8 are one epoch of 48
    settings = ("steps=6", "checkpoint_every=3", "method.noise=0.0", f"parallel.kind={kind}")
    settings += (f"streams.scenes.corpus={corpus}",)
    two = ranks(tmp_path, "two", 3, *settings)
    assert checkpoint.latest(tmp_path / "run" / "checkpoints").step == 3
    with watching() as one:
        train(load("tiny_method.smoke", settings), tmp_path / "run")
    used = Counter(name for rank in two for ids in rank[:3] for name in ids)
    used.update(name for ids in one[:3] for name in ids)
    assert len(used) == 48
    assert set(used.values()) == {1}
    train(load("tiny_method.smoke", settings), tmp_path / "alone")
    left, right = losses(tmp_path / "run"), losses(tmp_path / "alone")
    assert [step for step, *_ in left] == [1, 2, 3, 4, 5, 6]
    for (_, ours, _, norm), (_, theirs, _, other) in zip(left, right, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
        assert norm == pytest.approx(other, rel=1e-3)


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "training")
COMMAND = """
import sys
from training.__main__ import main
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["fsdp", "ddp"])
def test_two_ranks_killed_in_the_middle_of_a_step_go_on_bit_for_bit(corpus, tmp_path, kind):
    words = ("pretrain", "tiny_method.smoke", f"streams.scenes.corpus={corpus}", f"parallel.kind={kind}")
    words += ("--device", "cpu", "--run-dir")
    killed = command(*words, str(tmp_path / "cut"), launcher=TORCHRUN, DIE_AT="7")
    assert killed.returncode != 0
    assert "Signal 9 (SIGKILL)" in killed.stderr
    assert len(lines(tmp_path / "cut")) == 7
    for name in ("cut", "whole"):
        launched(COMMAND, tmp_path, *words, str(tmp_path / name))
    assert len(losses(tmp_path / "whole")) == 12
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.integration
def test_one_process_resumed_as_two_sharded_ranks_takes_the_path_of_one(corpus, tmp_path):
    settings = ("steps=6", "checkpoint_every=3", "method.noise=0.0", "parallel.kind=fsdp")
    settings += (f"streams.scenes.corpus={corpus}",)
    with pytest.raises(KeyboardInterrupt):
        train(load("tiny_method.smoke", settings), tmp_path / "run", on_checkpoint=_interrupt)
    ranks(tmp_path, "two", 99, *settings)
    train(load("tiny_method.smoke", settings), tmp_path / "alone")
    left, right = losses(tmp_path / "run"), losses(tmp_path / "alone")
    assert [step for step, *_ in left] == [1, 2, 3, 4, 5, 6]
    assert [loss for _, loss, *_ in left] == pytest.approx([loss for _, loss, *_ in right], rel=1e-4)


def test_the_command_refuses_in_one_sentence(tmp_path, capsys):
    run = str(tmp_path / "run")
    assert main(["pretrain", "tiny_method.smoke", "stepz=1", "--run-dir", run]) == 2
    assert capsys.readouterr().err.startswith("swath: there is no setting 'stepz'; valid here:")
    assert main(["pretrain", "--run-dir", run, "--device", "cpu", "tiny_method.smoke", "steps=1"]) == 2
    assert capsys.readouterr().err.startswith("swath: no sealed corpus at runs/corpora/tiny@1")
    assert main(["evaluate", "--run-dir", run]) == 2
    assert capsys.readouterr().err.startswith("swath: no checkpoint in")
    assert not (tmp_path / "run").exists()


def test_the_command_trains_and_scores(corpus, tmp_path, capsys):
    words = ["--run-dir", str(tmp_path), "--device", "cpu"]
    assert main(["pretrain", "tiny_method.smoke", *words, f"streams.scenes.corpus={corpus}"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 12
    assert main(["evaluate", *words, "--split", "test"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores.keys() == {"loss", "pixels"}
    assert json.loads((tmp_path / "scores-test.json").read_text()) == scores


def test_single_refuses_company(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"parallel.kind=single runs in one process, not 2"):
        train(recipe(corpus, "parallel.kind=single"), tmp_path, rank=0, world=2)


def test_the_rate_follows_the_schedule(corpus, tmp_path):
    train(recipe(corpus), tmp_path)
    rates = [line["lr"] for line in lines(tmp_path)]
    full = 0.1 * 8 / 256
    assert rates[:3] == pytest.approx([full / 3, full * 2 / 3, full])
    assert rates[3:] == pytest.approx([full * (1 + math.cos(math.pi * k / 9)) / 2 for k in range(9)])
