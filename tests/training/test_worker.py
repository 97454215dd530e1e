"""Ray Train around the loop, and small runs side by side, on one local Ray."""

import json
import os
from pathlib import Path

import pytest

from training import export
from training.loop import NonFiniteError, train
from training.recipe import load

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]


@pytest.fixture
def worker(local_ray):
    from training import worker

    return worker


def recipe(corpus, *overrides):
    return load("tiny_method.smoke", [f"streams.scenes.corpus={corpus}", *overrides])


def losses(run):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in found]


def test_a_killed_worker_is_replaced_and_the_losses_do_not_show_it(worker, corpus, tmp_path):
    train(recipe(corpus), tmp_path / "whole")
    sink = _DieOnce(7, tmp_path / "died")
    summary = worker.fit(recipe(corpus), tmp_path / "ray", workers=1, cpus_per_worker=0.5, sink=sink)
    assert (tmp_path / "died").exists()
    assert summary.steps == 12
    assert losses(tmp_path / "ray") == losses(tmp_path / "whole")
    assert export.load_encoder(summary.encoder)
    assert not (tmp_path / "ray" / "ray").exists()
    assert worker.fit(recipe(corpus), tmp_path / "ray") == summary  # at once: it was finished


class _DieOnce:
    """A sink that kills its process at a step, the first time."""

    def __init__(self, step, marker):
        self.step, self.marker = step, marker

    def __call__(self, step, values):
        if step == self.step and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), 9)


def test_two_workers_train_one_model(worker, corpus, tmp_path):
    settings = recipe(corpus, "method.noise=0.0", "steps=4")
    worker.fit(settings, tmp_path / "two", workers=2, cpus_per_worker=0.5)
    train(settings, tmp_path / "one")
    for (_, two), (_, one) in zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True):
        assert two == pytest.approx(one, rel=1e-4)


def test_what_cannot_be_is_refused_before_anything_starts(worker, corpus, tmp_path):
    with pytest.raises(ValueError, match=r"64 workers need 64 CPU, the Ray cluster has 2"):
        worker.fit(recipe(corpus), tmp_path, workers=64)
    with pytest.raises(ValueError, match="8 samples of stream 'scenes' do not divide over 3 ranks"):
        worker.fit(recipe(corpus), tmp_path, workers=(1, 3), cpus_per_worker=0.5)
    with pytest.raises(NonFiniteError, match="loss is nan in step 3"):
        worker.fit(recipe(corpus, "method.explode_at=2"), tmp_path / "nan", cpus_per_worker=0.5)


def test_jobs_run_side_by_side_and_return_their_scores(worker, corpus, tmp_path):
    jobs = [
        worker.Job(recipe(corpus, f"seed={seed}"), tmp_path / str(seed), ("val", "test")) for seed in (0, 1)
    ]
    first, second = worker.run_many(jobs)
    assert first.summary.digest != second.summary.digest
    assert first.scores.keys() == {"val", "test"}
    assert first.scores["val"]["loss"] != second.scores["val"]["loss"]
    with pytest.raises(ValueError, match="holds a run of recipe"):
        worker.run_many([worker.Job(recipe(corpus, "seed=9"), tmp_path / "0")])
