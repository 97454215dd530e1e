import pytest

from pipelines import artifacts
from pipelines.artifacts import Artifact
from pipelines.settings import Home


@pytest.fixture
def home(tmp_path):
    return Home.at(tmp_path)


def made(home, name="tiny", version="1", kind="corpus", fingerprint="a" * 64):
    return Artifact(name, version, kind, home.place(kind, name, version), fingerprint)


def test_an_artifact_counts_only_once_its_record_is_written(home):
    wanted = made(home)
    artifacts.claim(wanted)
    assert artifacts.standing(wanted) is None
    assert artifacts.listing(home) == []
    artifacts.seal(wanted)
    assert wanted.sealed
    assert artifacts.standing(wanted) == wanted
    assert artifacts.listing(home) == [wanted]


def test_a_name_made_of_other_settings_is_refused_with_both_remedies(home):
    artifacts.seal(made(home))
    with pytest.raises(
        ValueError, match=r"tiny@1 was made of other settings.*bump the version, or pass --reuse"
    ):
        artifacts.standing(made(home, fingerprint="b" * 64))


def test_reuse_takes_the_old_one_as_it_is(home):
    old = artifacts.seal(made(home))
    assert artifacts.standing(made(home, fingerprint="b" * 64), reuse=True) == old


def test_a_name_begun_with_other_settings_is_refused_before_they_mix(home):
    artifacts.claim(made(home))
    with pytest.raises(ValueError, match=r"was begun of other settings.*or delete"):
        artifacts.standing(made(home, fingerprint="b" * 64), reuse=True)


def test_a_name_without_version_means_the_newest_and_ten_is_newer_than_nine(home):
    for version in ("9", "10", "2"):
        artifacts.seal(made(home, version=version))
    assert artifacts.resolve(home, "tiny").version == "10"
    assert artifacts.resolve(home, "tiny@2").version == "2"


def test_what_does_not_exist_is_answered_with_what_does(home):
    artifacts.seal(made(home))
    with pytest.raises(ValueError, match=r"no sealed artifact is called 'big'.*there is tiny@1"):
        artifacts.resolve(home, "big")


def test_a_name_of_two_kinds_asks_which(home):
    artifacts.seal(made(home))
    artifacts.seal(made(home, kind="study"))
    with pytest.raises(ValueError, match="corpus and of a study"):
        artifacts.resolve(home, "tiny")
    assert artifacts.resolve(home, "tiny", "study").kind == "study"


def test_a_home_that_was_moved_still_finds_its_artifacts(home, tmp_path):
    artifacts.seal(made(home))
    (tmp_path / "corpora").rename(tmp_path / "elsewhere")
    (tmp_path / "new").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "new" / "corpora")
    moved = Home.at(tmp_path / "new")
    assert artifacts.resolve(moved, "tiny").path == moved.place("corpus", "tiny", "1")


def test_a_damaged_record_is_named(home):
    wanted = artifacts.seal(made(home))
    (wanted.path / "artifact.json").write_text("{")
    with pytest.raises(ValueError, match=r"artifact.json does not parse"):
        artifacts.standing(wanted)


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a@b"])
def test_a_name_that_is_no_folder_name_is_refused(home, name):
    with pytest.raises(ValueError, match="cannot be the name"):
        made(home, name=name)


def test_the_digest_depends_on_values_and_not_on_the_order_of_keys():
    assert artifacts.digest({"a": 1, "b": 2}) == artifacts.digest({"b": 2, "a": 1})
    assert artifacts.digest({"a": 1}) != artifacts.digest({"a": 2})
