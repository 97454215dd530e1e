"""`swath prepare`: what is missing is listed, what is there becomes a sealed corpus, a part of it is called a part."""

import pytest
from layouts import WRITERS

from geodata import benchmarks
from geodata.manifest import open_corpus
from pipelines import artifacts, cli, corpora

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("default"),
]  # the engines warn of themselves


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("eurosat")
    WRITERS["eurosat_rgb_500"](root, benchmarks.find("eurosat_rgb_500"))
    return root


def test_a_benchmark_becomes_a_sealed_corpus_and_a_second_call_does_nothing(
    folder, home, local_prefect, local_ray, capsys
):
    words = ["prepare", "eurosat_rgb_500", "shard_rows=1", "--root", str(folder), "--out", str(home.root)]
    cli.main(words)
    told = capsys.readouterr()
    assert "only a part of EuroSAT RGB" in told.err and "train has 1 of 3,500" in told.err
    made = artifacts.resolve(home, "eurosat_rgb_500@1", "corpus")
    assert told.out.strip() == str(made.path)
    corpus = open_corpus(made.path)
    assert (corpus.planned, corpus.rows, corpus.rejected, len(corpus.records)) == (2, 2, {}, 2)
    assert corpus.counts()["split"] == {"test": 1, "train": 1}
    assert corpus.plan["benchmark"]["metric"] == "oa" and corpus.plan["partial"][0] == "train has 1 of 3,500"
    assert corpus.classes == {"class": benchmarks.find("eurosat_rgb_500").classes}
    assert set(corpus.files) == {"spec.json", "environment.json", "plan.json", "plan.parquet"}
    assert corpora.verify(corpus) == []
    cli.main(words)
    assert "is sealed; nothing to do" in capsys.readouterr().err


def test_a_folder_that_lacks_something_is_told_what_and_nothing_is_made(folder, home, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["prepare", "eurosat_rgb_indomain", "--root", str(folder), "--out", str(home.root)])
    assert left.value.code == 1
    told = capsys.readouterr()
    assert "there is no eurosat-train.txt, the list of train" in told.out.splitlines()
    assert "listed above" in told.err
    assert not home.place("corpus", "eurosat_rgb_indomain", "1").exists()


def test_a_data_set_divided_in_several_ways_asks_which(folder, home, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["prepare", "eurosat_rgb", "--root", str(folder), "--out", str(home.root)])
    assert left.value.code == 2
    assert "eurosat_rgb_tr20_0" in capsys.readouterr().err
