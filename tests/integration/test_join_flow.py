"""`swath join`: several sealed corpora become one artifact, a second call does nothing, what disagrees takes no name."""

import dataclasses

import pytest
from tiny import META, SPEC, sample

from geodata.manifest import Corpus, open_corpus, seal
from geodata.shards import save_record, shard_path, write_shard
from pipelines import artifacts, cli, corpora

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("default"),
]  # the engines warn of themselves


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders of two corpora of one layout, and of one without the label."""
    root, folders = tmp_path_factory.mktemp("parts"), []
    for place, name in enumerate(("north", "south", "unlike")):
        meta = dataclasses.replace(META, labels=()) if name == "unlike" else META
        some = [sample(3 * place), dataclasses.replace(sample(3 * place + 1), split="val")]
        record = write_shard(shard_path(root / name, "s0000"), some, meta)
        save_record(root / name, record)
        seal(Corpus(root / name, name, "1", f"{place}" * 8, SPEC, (record,)))
        folders.append(str(root / name))
    return folders


def test_corpora_are_joined_once_and_verified(parts, home, local_prefect, capsys):
    words = ["join", "both", *parts[:2], "--root", str(home.root)]
    cli.main(words)
    made = artifacts.resolve(home, "both@1", "corpus")
    assert capsys.readouterr().out.strip() == str(made.path)
    assert made.parents == ("corpus:north@1#00000000", "corpus:south@1#11111111")
    corpus = open_corpus(made.path)
    assert corpus.counts()["split"] == {"train": 2, "val": 2} and corpora.verify(corpus) == []
    assert set(corpus.files) == {"spec.json", "environment.json"}
    assert "north@1-s0000" in (made.path / "card.html").read_text()
    cli.main(words)
    assert "is sealed; nothing to do" in capsys.readouterr().err
    cli.main(["verify", "both@1", "--root", str(home.root)])
    assert "4 samples in 2 shards are as they were sealed" in capsys.readouterr().out


def test_corpora_that_disagree_are_refused_before_the_name_is_taken(parts, home, local_prefect, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["join", "odd", *parts[1:], "--root", str(home.root)])
    assert left.value.code == 2
    assert "labels of south@1 and unlike@1 disagree, ['crop'] and none" in capsys.readouterr().err
    assert not home.place("corpus", "odd", "1").exists()
