"""Folders and zips of pictures against Pillow and against what Python's own zip and CSV writers put there."""

import csv
import io
import json
import stat
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shelf import picture

from geodata import archive, folders, manifest
from geodata.archive import Room
from geodata.errors import Corrupt, Missing
from geodata.folders import ByFolder, FolderPlan, FolderSpec, plan
from geodata.intake import UNLABELLED, import_shard
from geodata.manifest import Corpus
from geodata.overrides import overridden, validated
from geodata.shards import read_samples, shard_path

CLASSES = ("air/port", "air/strip", "water/lake")


def files() -> dict[str, bytes]:
    """Path -> bytes: three classes of two levels in two splits, and what else lies about in such a folder."""
    rng = np.random.default_rng(5)
    found = {
        f"{split}/{name}/{number}.{kind.lower()}": picture(rng, 20, 24, kind)
        for split in ("train", "valid")
        for name in CLASSES
        for number, kind in enumerate(("JPEG", "PNG", "WEBP", "TIFF"))
    }
    return found | {"README.txt": b"hello", "train/.DS_Store": b"x", "train/Thumbs.db": b"y"}


def laid_out(root: Path, found: dict[str, bytes]) -> Path:
    for name, data in found.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def zipped(path: Path, found: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in found.items():
            out.writestr(name, data)
    return path


def spec(root: Path, **settings: object) -> FolderSpec:
    values = {"name": "pics", "root": str(root), "license": "CC-BY-4.0", "shard_rows": 10} | settings
    return FolderSpec.model_validate(values)


def imported(chosen: FolderSpec, root: Path) -> Corpus:
    """The corpus of a spec, without an engine."""
    found = plan(chosen)
    root.mkdir(parents=True, exist_ok=True)
    found.write(root)
    records = [import_shard(shard, chosen, found.classes, root) for shard in found.shards(chosen.shard_rows)]
    return manifest.seal(
        Corpus(root, chosen.name, "1", chosen.fingerprint, {}, tuple(records), classes=found.classes)
    )


def samples(corpus: Corpus) -> list:
    return [one for record in corpus.records for one in read_samples(corpus.shard_path(record))]


def test_paths_become_splits_and_a_class_tree_and_pictures_keep_their_bytes(tmp_path):
    told = files()
    chosen = spec(laid_out(tmp_path / "in", told), split={"kind": "folder"}, depth=2, attribution="somebody")
    corpus = imported(chosen, tmp_path / "out")
    assert corpus.classes == {"class": CLASSES, "class_1": ("air", "water")}
    assert corpus.meta().classes == corpus.classes and corpus.meta().labels == ("class", "class_1")
    found = samples(corpus)
    assert [one.sample_id for one in found] == sorted(one.sample_id for one in found) and len(found) == 24
    assert [record.rows for record in corpus.records] == [10, 10, 4]
    for one in found:
        layer = one.layers["hr"]
        (path,) = layer.item_ids
        split, upper, leaf, _ = path.split("/")
        assert one.split == {"train": "train", "valid": "val"}[split] and one.stratum == f"{upper}/{leaf}"
        assert CLASSES[one.labels["class"]] == one.stratum
        assert corpus.classes["class_1"][one.labels["class_1"]] == upper
        assert layer.encoded[0].tiles == ((told[path],),)
        with Image.open(io.BytesIO(told[path])) as image:
            assert np.array_equal(layer.pixels[0], np.asarray(image.convert("RGB")).transpose(2, 0, 1))
        assert (layer.license, layer.attribution, layer.redistribute) == ("CC-BY-4.0", "somebody", False)
        assert one.grid is None and layer.dates == (None,) and layer.phash is not None
    assert Counter(one.split for one in found) == {"train": 12, "val": 12}
    assert plan(chosen).skipped == {".db": 1, ".txt": 1}


def test_a_zip_gives_the_samples_of_the_folder_it_was_made_of(tmp_path):
    told = files()
    one = imported(spec(laid_out(tmp_path / "in", told), split={"kind": "folder"}), tmp_path / "a")
    two = imported(spec(zipped(tmp_path / "in.zip", told), split={"kind": "folder"}), tmp_path / "b")
    assert one.fingerprint == two.fingerprint
    assert [record.file_sha256 for record in one.records] == [record.file_sha256 for record in two.records]


def test_a_shard_that_is_there_is_not_made_again_and_a_strange_one_is_refused(tmp_path):
    chosen = spec(laid_out(tmp_path / "in", files()), split={"kind": "folder"})
    corpus = imported(chosen, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "shards").iterdir()}
    shard_path(tmp_path / "out", corpus.records[1].name).unlink()
    found = FolderPlan.read(tmp_path / "out")
    assert found == plan(chosen)
    again = [import_shard(one, chosen, found.classes, tmp_path / "out") for one in found.shards(10)]
    assert [record.file_sha256 for record in again] == [record.file_sha256 for record in corpus.records]
    after = {path: path.stat().st_mtime_ns for path in before}
    assert [after[path] == before[path] for path in sorted(before)] == [True, False, True]
    with pytest.raises(ValueError, match="made by other settings than pics@1"):
        import_shard(
            found.shards(10)[0],
            chosen.model_copy(update={"license": "none"}),
            found.classes,
            tmp_path / "out",
        )


def test_adding_a_file_moves_no_other_to_another_split(tmp_path):
    told = {f"{number}.png": b"" for number in range(400)}
    chosen = spec(
        laid_out(tmp_path / "in", told),
        labels="none",
        split={"kind": "hash", "fractions": {"train": 0.7, "val": 0.2, "test": 0.1}},
    )
    before = {one.path: (one.sample_id, one.split) for one in plan(chosen).pictures}
    laid_out(tmp_path / "in", {f"more/{number}.png": b"" for number in range(50)})
    after = {one.path: (one.sample_id, one.split) for one in plan(chosen).pictures}
    assert len(after) == 450 and before.items() <= after.items()
    shares = Counter(split for _, split in after.values())
    for name, wanted in (("train", 315), ("val", 90), ("test", 45)):
        assert abs(shares[name] - wanted) < 4 * wanted**0.5


def test_every_file_ends_as_a_row_or_as_a_counted_reject(tmp_path):
    rng = np.random.default_rng(1)
    good = picture(rng, 16, 16)
    told = {
        "a/good.jpg": good,
        "a/cut.jpg": good[: len(good) // 2],
        "a/text.jpg": b"<html>not found</html>",
        "a/empty.png": b"",
        "a/wide.tif": tiff16(),
        "a/named_wrongly.png": picture(rng, 16, 16, "JPEG"),
    }
    corpus = imported(spec(laid_out(tmp_path / "in", told)), tmp_path / "out")
    assert (corpus.planned, corpus.rows, corpus.rejected) == (6, 2, {"corrupt": 4})
    details = {reject.detail.split(":")[0]: reject.detail for reject in corpus.rejects()}
    assert sorted(details) == ["a/cut.jpg", "a/empty.png", "a/text.jpg", "a/wide.tif"]
    assert "no picture that is read" in details["a/text.jpg"] and "mode I;16" in details["a/wide.tif"]
    kept = {one.layers["hr"].item_ids[0]: one.layers["hr"].encoded[0].mime for one in samples(corpus)}
    assert kept == {"a/good.jpg": "image/jpeg", "a/named_wrongly.png": "image/jpeg"}


def tiff16() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(out, "TIFF")
    return out.getvalue()


def test_what_decoding_does_to_a_picture_is_a_flag_of_its_row(tmp_path):
    turned = io.BytesIO()
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(turned, "JPEG", exif=exif)
    clear = Image.new("RGBA", (4, 4), (200, 100, 50, 0))
    out = io.BytesIO()
    clear.save(out, "PNG")
    rng = np.random.default_rng(2)
    told = {
        "a/plain.jpg": picture(rng, 8, 8),
        "a/grey.jpg": picture(rng, 8, 8, "JPEG", "L"),
        "a/palette.png": picture(rng, 8, 8, "PNG", "P"),
        "a/clear.png": out.getvalue(),
        "a/turned.jpg": turned.getvalue(),
    }
    found = {
        one.layers["hr"].item_ids[0]: one.layers["hr"]
        for one in samples(imported(spec(laid_out(tmp_path / "in", told)), tmp_path / "out"))
    }
    assert {path: layer.flags[0] for path, layer in found.items()} == {
        "a/plain.jpg": "",
        "a/grey.jpg": "L to RGB",
        "a/palette.png": "P to RGB",
        "a/clear.png": "RGBA to RGB",
        "a/turned.jpg": "orientation 6 not applied",
    }
    assert found["a/clear.png"].pixels[0, :, 0, 0].tolist() == [200, 100, 50]  # alpha dropped, not blended
    grey = found["a/grey.jpg"].pixels[0]
    assert np.array_equal(grey[0], grey[1]) and np.array_equal(grey[0], grey[2])


def test_a_picture_of_too_many_pixels_is_corrupt_and_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    rng = np.random.default_rng(3)
    told = {f"a/{side}.png": picture(rng, side, side, "PNG") for side in (17, 20, 40)}
    corpus = imported(spec(laid_out(tmp_path / "in", told)), tmp_path / "out")
    assert (corpus.rows, corpus.rejected) == (1, {"corrupt": 2})
    assert all("larger than the 300 pixels allowed" in reject.detail for reject in corpus.rejects())


def written(rows: list[dict[str, str]]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return ("\ufeff" + out.getvalue()).encode()


def test_an_index_says_path_label_and_split_and_what_it_names_in_vain_is_missing(tmp_path):
    rng = np.random.default_rng(4)
    rows = [
        {
            "file": f"deep/{number}.jpg",
            "what": ("land/crop", "water")[number % 2],
            "part": ["Train", "Val", "Test"][number % 3],
        }
        for number in range(6)
    ]
    told = {row["file"]: picture(rng, 8, 8) for row in rows[:-1]} | {"index.csv": written(rows)}
    settings = {
        "labels": "index",
        "index": "index.csv",
        "path_column": "file",
        "label_column": "what",
        "split": {"kind": "column", "column": "part"},
    }
    corpus = imported(spec(laid_out(tmp_path / "in", told), depth=2, **settings), tmp_path / "out")
    assert corpus.classes == {"class": ("land/crop", "water"), "class_1": ("land", "water")}
    assert corpus.counts()["split"] == {"test": 1, "train": 2, "val": 2}
    assert corpus.rejected == {"missing": 1} and "deep/5.jpg" in next(corpus.rejects()).detail
    for change, said in (
        ({"label_column": "which"}, "has no column 'which'; it has file, what, part"),
        ({"index": "other.csv"}, "no file other.csv"),
        ({"split": {"kind": "column", "column": "what"}}, "names no split"),
    ):
        with pytest.raises((ValueError, Missing), match=said):
            plan(spec(tmp_path / "in", **(settings | change)))
    for bad in ("../secret.png", "/etc/passwd", "a\\b.png", "C:/x.png"):
        told["index.csv"] = written([*rows, {"file": bad, "what": "water", "part": "train"}])
        with pytest.raises(ValueError, match="climbs out of the folder"):
            plan(spec(laid_out(tmp_path / "in", told), **settings))
    told["index.csv"] = written([*rows, rows[0]])
    with pytest.raises(ValueError, match="twice"):
        plan(spec(laid_out(tmp_path / "in", told), **settings))


def test_unlabelled_pictures_have_no_label_columns(tmp_path):
    rng = np.random.default_rng(6)
    told = {f"{number}/x.png": picture(rng, 8, 8, "PNG") for number in range(3)}
    corpus = imported(spec(laid_out(tmp_path / "in", told), labels="none", gsd=0.5), tmp_path / "out")
    assert corpus.meta().labels == () and {one.stratum for one in samples(corpus)} == {UNLABELLED}
    assert {one.layers["hr"].gsd for one in samples(corpus)} == {0.5}


def test_what_paths_do_not_say_is_one_sentence(tmp_path):
    rng = np.random.default_rng(7)
    laid_out(tmp_path / "in", {"loose.png": picture(rng, 8, 8, "PNG")})
    with pytest.raises(ValueError, match=r"loose\.png: no class in its folders"):
        plan(spec(tmp_path / "in"))
    with pytest.raises(ValueError, match=r"loose\.png: its first folder '' names no split"):
        plan(spec(tmp_path / "in", split=ByFolder(), labels="none"))
    with pytest.raises(ValueError, match="has no pictures"):
        plan(spec(laid_out(tmp_path / "empty", {"a.txt": b""})))
    with pytest.raises(Missing, match="no folder or zip"):
        plan(spec(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="but none is named; set index="):
        spec(tmp_path, labels="index")
    with pytest.raises(ValueError, match="license: is required"):
        validated(FolderSpec, {"name": "pics", "root": "x"})
    assert overridden(spec(tmp_path), ["split.kind=folder"]).split == ByFolder()


# Archives that are not to be trusted


def member(name: str, data: bytes = b"x", **facts: int) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    for key, value in facts.items():
        setattr(info, key, value)
    return info, data


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([member("../../etc/cron.d/x.png")], "climbs out of it: '../../etc/cron.d/x.png'"),
        ([member("/etc/x.png")], "climbs out of it: '/etc/x.png'"),
        ([member("a/b.png"), member("C:x.png")], "climbs out of it: 'C:x.png'"),
        (
            [member("a.png", b"/etc/passwd", external_attr=(stat.S_IFLNK | 0o777) << 16)],
            "has a link: 'a.png'",
        ),
        (
            [member("a.png", bytes(30_000_000), compress_type=zipfile.ZIP_DEFLATED)],
            "times its size; 50 are allowed",
        ),
        ([member(f"{number}.png") for number in range(6)], "has 6 members, more than the 5 allowed"),
    ],
)
def test_an_archive_not_to_be_trusted_is_refused_whole_and_by_name(tmp_path, members, said):
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as out:
        for info, data in members:
            out.writestr(info, data)
    with pytest.raises(Corrupt, match=r"bad\.zip") as caught:
        plan(spec(path, limits=Room(members=5)))
    assert said in str(caught.value)


def test_a_member_that_lies_about_its_size_or_is_under_a_password_is_refused(tmp_path):
    rng = np.random.default_rng(8)
    path = zipped(tmp_path / "in.zip", {f"a/{number}.png": picture(rng, 8, 8, "PNG") for number in range(3)})
    whole = path.read_bytes()
    at = whole.index(b"PK\x01\x02")
    flagged = whole[: at + 8] + bytes([whole[at + 8] | 1]) + whole[at + 9 :]
    path.write_bytes(flagged)
    with pytest.raises(Corrupt, match="under a password"):
        plan(spec(path))
    overlapping = bytearray(whole)
    overlapping[at + 20 : at + 24] = (10**6).to_bytes(4, "little")  # compressed size in the directory
    path.write_bytes(overlapping)
    with pytest.raises(Corrupt, match="overlap"):
        plan(spec(path))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Corrupt, match="is no readable zip"):
        plan(spec(path))


def test_a_damaged_member_and_one_too_large_are_counted_rejects(tmp_path):
    rng = np.random.default_rng(9)
    told = {f"a/{number}.png": picture(rng, 16, 16, "PNG") for number in range(3)}
    told["a/large.png"] = told["a/0.png"] + rng.bytes(3 * 2**20)
    path = zipped(tmp_path / "in.zip", told)
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"a/1.png") + 60] ^= 0xFF
    path.write_bytes(whole)
    corpus = imported(spec(path, limits=Room(file_mb=1.0)), tmp_path / "out")
    assert (corpus.rows, corpus.rejected) == (2, {"corrupt": 2})
    details = sorted(reject.detail for reject in corpus.rejects())
    assert "a/1.png in " in details[0] and "does not unpack" in details[0]
    assert "larger than the 1 MB allowed" in details[1]


def test_a_folder_is_not_left_by_a_path(tmp_path):
    laid_out(tmp_path / "in", {"a/x.png": b"x"})
    (tmp_path / "secret.png").write_bytes(b"s")
    with archive.opened(tmp_path / "in", Room()) as found:
        assert found.sizes() == {"a/x.png": 1} and found.read("a/x.png") == b"x"
        with pytest.raises(Missing, match="lies outside"):
            found.read("../secret.png")
        with pytest.raises(Missing, match="no file"):
            found.read("a")


def test_the_plan_in_a_corpus_that_was_damaged_is_refused(tmp_path):
    chosen = spec(laid_out(tmp_path / "in", files()))
    plan(chosen).write(tmp_path)
    assert json.loads((tmp_path / folders.SUMMARY).read_text())["pictures_planned"] == 24
    (tmp_path / folders.SUMMARY).write_text("{")
    with pytest.raises(Corrupt, match="does not parse"):
        FolderPlan.read(tmp_path)
