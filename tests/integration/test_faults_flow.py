"""Curation from a service that fails in every way it can: the same corpus, never more requests than allowed."""

import json

import pytest
from ground import make_served

from geodata.letters import read_letters
from geodata.manifest import open_corpus
from geodata.sources.earth_engine_account import disconnect
from geodata.stubs import earth_engine as stand_in
from geodata.stubs.server import serve
from pipelines import cli, corpora
from pipelines.settings import Home

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]
CHIPS, AT_ONCE = 40, 5


@pytest.fixture(scope="module")
def stub():
    with serve([stand_in.routes()]) as running:
        yield running
    disconnect()


@pytest.fixture(scope="module")
def spec(stub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    return make_served(folder, stub.url, count=CHIPS, concurrency=AT_ONCE, shard_rows=8)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home.at(tmp_path_factory.mktemp("served-home"))


@pytest.fixture(scope="module")
def calm(stub, spec, home, local_prefect, local_ray):
    stub.show("none")
    cli.main(["curate", str(spec), "version=calm", "--root", str(home.root)])
    return open_corpus(home.place("corpus", "served", "calm"))


def test_under_the_full_fault_script_the_corpus_is_the_same_and_the_limit_is_kept(calm, stub, spec, home):
    stub.show("full")
    cli.main(["curate", str(spec), "--root", str(home.root)])
    seen = stub.stats()
    corpus = open_corpus(home.place("corpus", "served", "1"))
    assert {"429", "503", "500", "slow", "truncated", "closed"} <= set(seen["faults"])
    assert corpus.rows + sum(corpus.rejected.values()) == corpus.planned == CHIPS
    assert corpus.pixel_hashes() == calm.pixel_hashes()
    assert 1 < seen["peak"]["ee"] <= AT_ONCE
    stage = json.loads((corpus.root / "stage.json").read_text())
    (counted,) = stage["requests"].values()
    assert counted["peak"] <= AT_ONCE
    assert counted["throttled"] == seen["faults"]["429"]
    asked = sum(
        number for kind, number in seen["requests"].items() if kind not in ("ee discovery", "ee algorithms")
    )
    assert asked <= counted["granted"]
    assert corpora.verify(corpus) == []


def test_an_expired_token_ends_the_run_at_once_with_a_remedy_and_the_same_command_goes_on(
    calm, stub, spec, home, capsys
):
    stub.show([{"fault": "401", "after": 60, "times": None}])
    with pytest.raises(SystemExit) as ended:
        cli.main(["curate", str(spec), "version=2", "--root", str(home.root)])
    assert ended.value.code == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("swath: ")]
    assert len(said) == 1
    assert "credentials" in said[0]
    assert "mend that, then run the same command again, sealed shards are kept" in said[0]
    root = home.place("corpus", "served", "2")
    assert not (root / "manifest.json").exists()
    stub.show("none")
    cli.main(["curate", str(spec), "version=2", "--root", str(home.root)])
    assert open_corpus(root).pixel_hashes() == calm.pixel_hashes()


def test_chips_that_were_never_answered_are_dead_letters_and_a_retry_brings_them(
    calm, stub, spec, home, capsys
):
    """A few searches fail on every attempt, so that their chips are unavailable."""
    stub.show([{"fault": "503", "match": "^ee search", "share": 0.02, "times": None}])
    cli.main(["curate", str(spec), "version=3", "--root", str(home.root)])
    corpus = open_corpus(home.place("corpus", "served", "3"))
    assert set(corpus.rejected) == {"unavailable"}
    letters = read_letters(corpus.root)
    assert {letter["tries"] for letter in letters} == {1}
    assert all("6 attempts" in letter["detail"] for letter in letters)
    stub.show("none")
    capsys.readouterr()
    cli.main(["retry", "served@3", "--where", "reason=unavailable", "--root", str(home.root)])
    assert f"{len(letters)} added, 0 removed, 0 changed, {corpus.rows} unchanged" in capsys.readouterr().err
    again = open_corpus(home.place("corpus", "served", "3.1"))
    assert again.pixel_hashes() == calm.pixel_hashes()
    chips = {letter["chip_id"] for letter in letters}
    assert stub.stats()["requests"]["ee search"] == 2 * len(chips)
