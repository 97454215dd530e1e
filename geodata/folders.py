"""Folders and zips of pictures: what their paths mean, and which of them become which shard.

Million-AID, TOV and ImageNet come as folders of files, named by class and split, or listed in a table. Files are taken
in the order of a hash of their paths: every shard, and every batch, then has pictures of all classes, and adding a file
moves no other to another split. Planning opens no picture; `intake` does.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import Field, model_validator

from geodata.archive import Files, Room, opened, safe
from geodata.errors import Corrupt
from geodata.files import replacing, write_atomic
from geodata.layout import SPLITS, Frozen, Metres, Split, sums_to_one
from geodata.overrides import overridden, validated
from geodata.source import at_home
from geodata.spec import digest

FILE, SUMMARY = "plan.parquet", "plan.json"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
_SPLITS: Mapping[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class ByFolder(Frozen):
    """The first folder of a path says the split: train, val (valid, validation) or test."""

    kind: Literal["folder"] = "folder"


class ByColumn(Frozen):
    """A column of the index says the split, in the same words."""

    kind: Literal["column"] = "column"
    column: str = "split"


class ByHash(Frozen):
    """A hash of its path gives each file to a split, in these fractions."""

    kind: Literal["hash"] = "hash"
    fractions: dict[Split, Annotated[float, Field(ge=0, le=1)]] = Field(default={"train": 1.0})

    @model_validator(mode="after")
    def _whole(self) -> ByHash:
        sums_to_one("fractions", self.fractions)
        if not self.fractions:
            raise ValueError("fractions name no split; give train, val, test or some of them")
        return self


class FolderSpec(Frozen):
    """A folder or zip of pictures to be taken in: what its paths mean, and under which terms it may be used.

    `labels` come from the folders of a path (below that of the split, where there is one), from the column
    `label_column` of the table `index` (CSV, whose `path_column` holds paths), or from nowhere. `depth` is the number of
    levels of the class tree (Million-AID has three): that many folders, or parts of a label between slashes. `gsd` is in
    metres, where all pictures have the same. `duplicates` refuses pictures of the same bytes ('exact'), or those within
    `near_bits` bits of another's perceptual hash too. `redistribute` says whether the pictures may be passed on.
    """

    kind: Literal["pictures"] = "pictures"
    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str = Field(default="1", min_length=1)
    root: str = Field(min_length=1)
    labels: Literal["folders", "index", "none"] = "folders"
    depth: int = Field(default=1, ge=1, le=8)
    index: str = ""
    path_column: str = "path"
    label_column: str = "label"
    split: ByFolder | ByColumn | ByHash = Field(default=ByHash(), discriminator="kind")
    license: str = Field(min_length=1)
    attribution: str = ""
    redistribute: bool = False
    gsd: Metres | None = None
    shard_rows: int = Field(default=1024, gt=0)
    duplicates: Literal["keep", "exact", "perceptual"] = "exact"
    near_bits: int = Field(default=2, ge=0, le=15)
    seed: int = 0
    limits: Room = Room()

    @model_validator(mode="after")
    def _possible(self) -> FolderSpec:
        if (self.labels == "index" or isinstance(self.split, ByColumn)) and not self.index:
            raise ValueError("labels or splits come from an index, but none is named; set index=FILE.csv")
        return self

    @property
    def address(self) -> str:
        """name@version."""
        return f"{self.name}@{self.version}"

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of what decides the pictures: the place of the folder is not part of it, its content is."""
        values = self.model_dump(mode="json", exclude={"root", "limits"})
        return digest(values)


@dataclass(frozen=True)
class Picture:
    """One file that was planned: its id, its path, its split, and its value of each label."""

    sample_id: str
    path: str
    split: Split
    labels: tuple[int, ...]


@dataclass(frozen=True)
class FolderShard:
    """A range of the pictures of a plan, which become one file."""

    name: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class FolderPlan:
    """Every picture that is to be taken in, in order of id.

    `classes` are the names of each label's values: of `class`, the leaves, and in a tree of `class_1` and so on, its
    upper levels. `skipped` counts the files that are no pictures, by suffix.
    """

    pictures: tuple[Picture, ...]
    classes: Mapping[str, tuple[str, ...]]
    skipped: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.pictures)

    def shard_names(self, rows: int) -> list[str]:
        """Names of the shards of so many pictures each."""
        return [f"pictures-{number:05d}" for number in range(-(-len(self) // rows))]

    def shards(self, rows: int) -> list[FolderShard]:
        """The shards themselves."""
        return [
            FolderShard(name, self.pictures[number * rows : (number + 1) * rows])
            for number, name in enumerate(self.shard_names(rows))
        ]

    def places(self, ids: Collection[str]) -> dict[str, int]:
        """Where in the plan ids stand, those of it."""
        wanted = set(ids)
        return {one.sample_id: place for place, one in enumerate(self.pictures) if one.sample_id in wanted}

    def counts(self) -> dict[str, int]:
        """Pictures by split."""
        return dict(sorted(Counter(one.split for one in self.pictures).items()))

    def summary(self) -> dict[str, Any]:
        """The plan without its pictures."""
        return {
            "kind": "pictures",
            "pictures_planned": len(self),
            "classes": {label: list(names) for label, names in self.classes.items()},
            "skipped": dict(self.skipped),
        }

    def write(self, root: Path) -> None:
        """Keep the plan in the folder of its corpus, so that going on needs no second look at every file."""
        columns = {
            "sample_id": [one.sample_id for one in self.pictures],
            "path": [one.path for one in self.pictures],
            "split": [one.split for one in self.pictures],
        }
        columns |= {
            label: [one.labels[number] for one in self.pictures] for number, label in enumerate(self.classes)
        }
        with replacing(root / FILE) as temporary:
            pq.write_table(pa.table(columns), temporary, compression="zstd")
        write_atomic(root / SUMMARY, json.dumps(self.summary(), indent=1).encode())

    @classmethod
    def read(cls, root: Path) -> FolderPlan:
        """The inverse of `write`. Raises Corrupt."""
        try:
            told = json.loads((root / SUMMARY).read_bytes())
            table = pq.read_table(root / FILE).to_pydict()
            classes = {label: tuple(names) for label, names in told["classes"].items()}
            labels = (
                zip(*(table[label] for label in classes), strict=True)
                if classes
                else [()] * len(table["path"])
            )
            rows = zip(table["sample_id"], table["path"], table["split"], labels, strict=True)
            return cls(tuple(Picture(*row) for row in rows), classes, told["skipped"])
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowInvalid) as error:
            raise Corrupt(
                f"the plan in {root} does not parse ({error}); delete it and import again"
            ) from error


def load(name: str, overrides: Iterable[str] = ()) -> FolderSpec:
    """A spec from a file (.json, .yaml, .yml) or of a name alone, with `a.b=c` overrides. Raises ValueError.

    A relative `root` in a file is relative to that file, as is one in the overrides to where the program runs.
    """
    if not name.endswith((".json", ".yaml", ".yml")):
        return overridden(FolderSpec.model_construct(name=name, root="", license=""), overrides)
    path = Path(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"spec file {path} cannot be read ({error}); check it") from error
    if not isinstance(values, dict):
        raise ValueError(f"spec file {path} holds no keys and values; write the fields of FolderSpec")
    found = overridden(validated(FolderSpec, values), overrides)
    beside = path.resolve().parent / at_home(found.root)
    return found if found.root != values.get("root") else found.model_copy(update={"root": str(beside)})


def plan(spec: FolderSpec) -> FolderPlan:
    """Look through the folder or zip once; no picture is opened.

    Raises Missing when it is not there, Corrupt when it is no archive to be trusted, ValueError when its paths or its
    index do not say what the spec expects of them, or when there is no picture.
    """
    root = Path(at_home(spec.root))
    with opened(root, spec.limits) as files:
        sizes = files.sizes()
        index = _index(files, spec) if spec.index else None
    paths = list(index) if index is not None else [name for name in sizes if _suffix(name) in SUFFIXES]
    skipped = Counter(_suffix(name) or "none" for name in sizes if _suffix(name) not in SUFFIXES)
    if not paths:
        raise ValueError(f"{root} has no pictures ({', '.join(SUFFIXES)}); check the path")
    told = {path: _meaning(path, spec, (index or {}).get(path, {})) for path in paths}
    tree = {
        label: tuple(sorted({names[level] for _, names in told.values()})) for level, label in _levels(spec)
    }
    codes = {label: {name: code for code, name in enumerate(names)} for label, names in tree.items()}
    pictures = [
        Picture(
            _id(spec, path), path, split, tuple(codes[label][names[level]] for level, label in _levels(spec))
        )
        for path, (split, names) in told.items()
    ]
    return FolderPlan(
        tuple(sorted(pictures, key=lambda one: one.sample_id)), tree, dict(sorted(skipped.items()))
    )


def _index(files: Files, spec: FolderSpec) -> dict[str, dict[str, str]]:
    """The rows of the index by path. Raises Missing, ValueError."""
    try:
        rows = list(csv.DictReader(io.StringIO(files.read(spec.index).decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"the index {spec.index} is no CSV in UTF-8 ({error}); write it anew") from error
    wanted = [spec.path_column, *([spec.label_column] if spec.labels == "index" else [])]
    wanted += [spec.split.column] if isinstance(spec.split, ByColumn) else []
    absent = [name for name in wanted if not rows or rows[0].get(name) is None]
    if absent:
        columns = ", ".join(rows[0]) if rows else "nothing"
        raise ValueError(f"the index {spec.index} has no column {absent[0]!r}; it has {columns}")
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        path = row[spec.path_column]
        if not safe(path):
            raise ValueError(f"the index {spec.index} names a path that climbs out of the folder: {path!r}")
        if path in found:
            raise ValueError(f"the index {spec.index} names {path!r} twice; keep one row a picture")
        found[path] = row
    return found


def _meaning(path: str, spec: FolderSpec, row: Mapping[str, str]) -> tuple[Split, tuple[str, ...]]:
    """The split of a path, and the name of its class on each level, which holds those above it. Raises ValueError."""
    folders = list(PurePosixPath(path).parts[:-1])
    if isinstance(spec.split, ByHash):
        split = _by_hash(path, spec.split, spec.seed)
    else:
        if isinstance(spec.split, ByFolder):
            source, word = "its first folder", folders.pop(0) if folders else ""
        else:
            source, word = "its row in the index", row[spec.split.column]
        if word.lower() not in _SPLITS:
            raise ValueError(
                f"{path}: {source} {word!r} names no split ({', '.join(_SPLITS)}); set split otherwise"
            )
        split = _SPLITS[word.lower()]
    if spec.labels == "none":
        return split, ()
    parts = (
        folders if spec.labels == "folders" else [part for part in row[spec.label_column].split("/") if part]
    )
    if not parts:
        source = "folders" if spec.labels == "folders" else f"column {spec.label_column}"
        raise ValueError(f"{path}: no class in its {source}; set labels otherwise")
    return split, tuple("/".join(parts[: level + 1]) for level in range(spec.depth))


def _levels(spec: FolderSpec) -> list[tuple[int, str]]:
    """Place and label of each level of the class tree, the leaves first."""
    if spec.labels == "none":
        return []
    return [(spec.depth - 1, "class"), *((level, f"class_{level + 1}") for level in range(spec.depth - 1))]


def _by_hash(path: str, rule: ByHash, seed: int) -> Split:
    names = [name for name in SPLITS if name in rule.fractions]
    ends = list(accumulate(rule.fractions[name] for name in names))
    share = int.from_bytes(_hash(seed, "split", path)[:8], "big") / 2**64
    return names[min(bisect_right(ends, share), len(names) - 1)]


def _id(spec: FolderSpec, path: str) -> str:
    return f"{spec.name}-{_hash(spec.seed, 'id', path)[:10].hex()}"


def _hash(*parts: object) -> bytes:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).digest()


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
