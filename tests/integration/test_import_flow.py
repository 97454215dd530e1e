"""A folder of pictures through the flow: classes and splits by its paths, copies dropped, sealed once."""

import numpy as np
import pytest
from shelf import picture

from geodata.manifest import open_corpus
from pipelines import artifacts, cli, corpora, imports

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("default"),
]  # the engines warn of themselves


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four classes in two splits; one picture is there twice, one is cut short."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(11)
    for split in ("train", "val"):
        for name in ("port", "strip", "lake", "field"):
            (root / split / name).mkdir(parents=True)
            for number in range(3):
                (root / split / name / f"{number}.jpg").write_bytes(picture(rng, 32, 32))
    (root / "train" / "port" / "again.jpg").write_bytes((root / "train" / "port" / "0.jpg").read_bytes())
    (root / "train" / "lake" / "cut.jpg").write_bytes(picture(rng, 32, 32)[:300])
    return root


def test_a_folder_becomes_a_sealed_corpus_and_a_second_call_does_nothing(
    folder, home, local_prefect, local_ray, capsys
):
    changes = (f"root={folder}", "split.kind=folder", "license=CC0-1.0", "shard_rows=8")
    address = imports.take_in("things", changes, str(home.root))
    corpus = open_corpus(artifacts.resolve(home, address, "corpus").path)
    assert (corpus.planned, corpus.rows) == (26, 24)
    assert corpus.rejected == {"corrupt": 1, "duplicate": 1}
    assert corpus.classes == {"class": ("field", "lake", "port", "strip")}
    assert corpus.counts()["split"] == {"train": 12, "val": 12}
    assert corpus.plan["kind"] == "pictures" and corpus.spec["license"] == "CC0-1.0"
    assert set(corpus.files) == {"spec.json", "environment.json", "plan.json", "plan.parquet"}
    assert corpora.verify(corpus) == []
    (repeated,) = [one for one in corpus.rejects() if one.reason == "duplicate"]
    assert "the same pixels as things-" in repeated.detail
    assert (corpus.root / "stage.json").is_file()
    capsys.readouterr()
    cli.main(["import", "things", str(folder), *changes[1:], "--root", str(home.root)])
    assert "is sealed; nothing to do" in capsys.readouterr().err


def test_settings_other_than_the_sealed_ones_are_refused_before_anything_runs(folder, home, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["import", "nothing", str(folder), "--root", str(home.root)])
    assert left.value.code == 2
    assert "license" in capsys.readouterr().err
