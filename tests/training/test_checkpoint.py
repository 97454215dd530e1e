"""Checkpoints: whole or absent, refused when foreign or damaged; exported encoders."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_method
import torch

from geodata.errors import Corrupt, Missing
from training import checkpoint, export, optim
from training.recipe import fill_inputs

STATS = {"s2": (("B02", "B04"), (0.0, 0.0), (1.0, 1.0))}
HERE = Path(__file__).parent


def made(seed=0):
    recipe = fill_inputs(tiny_method.smoke(), STATS)
    torch.manual_seed(seed)
    method = tiny_method.build(recipe.method)
    return method, optim.build(method, recipe.optim)


def moved(method, optimizer, steps=2):
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss = method.head(method.encoder(torch.randn(2, 2, 4, 4))).square().mean()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 1e-2
        optimizer.step()


def saved(folder, step, method, optimizer, **changes):
    given = {
        "digest": "d" * 64,
        "position": {"scenes": 8 * step},
        "losses": {"loss": 0.5},
    } | changes
    keep, best = given.pop("keep", 2), given.pop("best", None)
    with checkpoint.Saver(folder, keep=keep, best=best) as saver:
        saver.save(step, method, optimizer, **given)
        return saver.wait()


def test_what_was_saved_comes_back_and_goes_on_alike(tmp_path):
    method, optimizer = made()
    moved(method, optimizer)
    saved(tmp_path, 2, method, optimizer)
    other, its = made(seed=1)
    found = checkpoint.latest(tmp_path)
    assert (found.step, dict(found.position), dict(found.losses)) == (2, {"scenes": 16}, {"loss": 0.5})
    checkpoint.load(found, other, its, digest="d" * 64)
    for _ in range(2):
        for name, value in method.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
        moved(method, optimizer)
        moved(other, its)
    assert [group["scale"] for group in its.param_groups] == [
        group["scale"] for group in optimizer.param_groups
    ]


def test_the_newest_are_kept_and_the_rest_removed(tmp_path):
    method, optimizer = made()
    moved(method, optimizer)
    for step in (1, 2, 3, 10):
        saved(tmp_path, step, method, optimizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000003", "step-000010"]


def test_incomplete_checkpoints_do_not_count_and_leftovers_are_swept(tmp_path):
    method, optimizer = made()
    moved(method, optimizer)
    assert checkpoint.latest(tmp_path / "none") is None
    for step in (1, 2, 3):
        saved(tmp_path, step, method, optimizer, keep=9)
    (tmp_path / "step-000003" / "meta.json").unlink()
    with next((tmp_path / "step-000002").glob("*.safetensors")).open("r+b") as stream:
        stream.truncate(100)
    (tmp_path / ".tmp-step-000004").mkdir()
    assert checkpoint.latest(tmp_path).step == 1
    saved(tmp_path, 5, method, optimizer)
    assert not list(tmp_path.glob(".tmp*"))


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    method, optimizer = made()
    saved(tmp_path, 1, method, optimizer)
    with pytest.raises(
        ValueError, match=r"is of recipe dddddddddddd, this run's is eeeeeeeeeeee: .*new run folder"
    ):
        checkpoint.load(checkpoint.latest(tmp_path), method, optimizer, digest="e" * 64)


def test_a_flipped_byte_in_a_checkpoint_is_corrupt(tmp_path):
    method, optimizer = made()
    saved(tmp_path, 1, method, optimizer)
    state = next((tmp_path / "step-000001").glob("*.safetensors"))
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)
    with pytest.raises(Corrupt, match=r"does not match its sha256; delete step-000001"):
        checkpoint.load(checkpoint.latest(tmp_path), method, optimizer, digest="d" * 64)


FULL = """
import resource, sys, torch
import test_checkpoint as t
from pathlib import Path
folder = Path(sys.argv[1])
method, optimizer = t.made()
method.encoder.ballast = torch.nn.Parameter(torch.zeros(100_000))
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
for write in (
    lambda: t.saved(folder, 7, method, optimizer),
    lambda: t.export.export_encoder(method.encoder, folder / "encoder", {}),
    lambda: t.checkpoint.write_text(folder / "text", "x" * 100_000),
):
    try:
        write()
    except OSError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    environment = os.environ | {"PYTHONPATH": f"{HERE}:{HERE.parents[1]}"}
    ran = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = ran.stdout.splitlines()
    assert len(said) == 3, ran.stdout + ran.stderr
    assert all("no room left to write" in line for line in said)
    assert list(tmp_path.iterdir()) == []


def test_an_exported_encoder_is_built_from_its_own_folder(tmp_path):
    method, optimizer = made()
    moved(method, optimizer)
    export.export_encoder(method.encoder, tmp_path / "encoder", {"recipe": "tiny_method.smoke"})
    assert sorted(path.name for path in (tmp_path / "encoder").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    loaded = export.load_encoder(tmp_path / "encoder")
    images = torch.randn(1, 2, 4, 4)
    assert torch.equal(loaded(images), method.encoder(images))
    assert loaded.spec == method.encoder.spec
    assert json.loads((tmp_path / "encoder" / "config.json").read_text())["provenance"]["recipe"]
    export.export_encoder(made(seed=3)[0].encoder, tmp_path / "encoder", {})  # replaces


def test_a_missing_or_damaged_encoder_is_named(tmp_path):
    with pytest.raises(Missing, match="no exported encoder at"):
        export.load_encoder(tmp_path)
    export.export_encoder(made()[0].encoder, tmp_path / "encoder", {})
    weights = tmp_path / "encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(Corrupt, match=r"does not load .*export it again"):
        export.load_encoder(tmp_path / "encoder")


def test_the_environment_says_versions_and_machine():
    found = checkpoint.environment()
    assert found["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert found["cpus"] == os.cpu_count() and found["device"]
    json.dumps(found)
