"""One corpus of several: what was curated archive by archive, or sensor by sensor, becomes one that training reads.

Nothing is decoded or written again. The shards of a joined corpus are those of its parts, under names that say whose
they were, and so are ids, pixel hashes and rejects; statistics are sums and only add up. A shard is one file with two
names where the file system allows it, so joining costs no room and a part may be deleted afterwards.

What one stream cannot read is refused before anything is made: chips of other sizes, layers of other bands or grids,
labels that mean other things, an id that two parts share.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from geodata.build import created_by
from geodata.errors import Corrupt
from geodata.files import replacing
from geodata.manifest import Corpus, open_corpus, twice
from geodata.shards import ShardRecord, save_record, shard_path
from geodata.spec import Frozen, digest

__all__ = ["JoinSpec", "JoinedPart", "agreed", "joined", "load"]


class JoinedPart(Frozen):
    """A sealed corpus that is joined with others: where it lies, what it is called and which one it is."""

    root: str
    corpus: str
    fingerprint: str

    def open(self) -> Corpus:
        """The corpus. Raises Missing, and Corrupt when another lies there now."""
        found = open_corpus(self.root)
        if found.fingerprint != self.fingerprint:
            raise Corrupt(
                f"{self.root} holds {found.name}@{found.version} with fingerprint {found.fingerprint[:12]}, not "
                f"{self.corpus} with {self.fingerprint[:12]}; join under another version"
            )
        return found


class JoinSpec(Frozen):
    """A corpus made of others, in the order given. Raises ValueError for fewer than two and for two of one name."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    version: str = Field(default="1", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    parts: tuple[JoinedPart, ...]

    @model_validator(mode="after")
    def _several(self) -> JoinSpec:
        names = [part.corpus for part in self.parts]
        if len(names) < 2:
            raise ValueError(f"{', '.join(names) or 'nothing'} is no join: name two corpora or more")
        again = next((name for name in names if names.count(name) > 1), None)
        if again is not None:
            raise ValueError(f"{again} is named twice; name each corpus once")
        return self

    @property
    def address(self) -> str:
        """name@version."""
        return f"{self.name}@{self.version}"

    @property
    def parents(self) -> tuple[str, ...]:
        """The parts, as artifacts name what they come from."""
        return tuple(f"corpus:{part.corpus}#{part.fingerprint}" for part in self.parts)

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of the parts' names and fingerprints; where they lie is no part of it."""
        parts = [[part.corpus, part.fingerprint] for part in self.parts]
        return digest({"name": self.name, "version": self.version, "parts": parts})


def load(name: str, corpora: Sequence[Corpus], version: str = "1") -> JoinSpec:
    """The join of sealed corpora under a name. Raises ValueError."""
    parts = tuple(
        JoinedPart(root=str(one.root), corpus=f"{one.name}@{one.version}", fingerprint=one.fingerprint)
        for one in corpora
    )
    return JoinSpec(name=name, version=version, parts=parts)


def agreed(corpora: Sequence[Corpus]) -> None:
    """Raise ValueError, naming two corpora and what differs, unless one stream can read them all.

    Chips and layers must be of one kind, labels must mean the same, and no sample id may occur twice. Records are read
    one at a time; no shard is opened but the first of each corpus.
    """
    first, *others = ((corpus, _facts(corpus)) for corpus in corpora)
    for corpus, facts in others:
        for what in [*first[1], *(name for name in facts if name not in first[1])]:
            mine, theirs = first[1].get(what), facts.get(what)
            if mine != theirs:
                raise ValueError(
                    f"{what} of {_address(first[0])} and {_address(corpus)} disagree, {_said(mine)} and "
                    f"{_said(theirs)}: curate them alike, or keep them in streams of their own"
                )
    again = twice((_hashes(corpus) for corpus in corpora), lambda: _ids(corpora))
    if again is not None:
        whose = [_address(corpus) for corpus in corpora if again in set(_ids([corpus]))]
        raise ValueError(f"sample {again} is in {' and in '.join(whose)}: leave one of them out")


def joined(spec: JoinSpec, root: Path) -> Corpus:
    """Link the parts' shards into the folder `root`, with their records: the corpus that is to be sealed there.

    What is there already is linked again, so an interrupted join is begun anew. Raises ValueError where the parts
    disagree, Missing and Corrupt for a shard that is not as it was sealed.
    """
    corpora = [part.open() for part in spec.parts]
    agreed(corpora)
    records = tuple(_linked(corpus, one.name, root) for corpus in corpora for one in corpus.records)
    return Corpus(
        root=root,
        name=spec.name,
        version=spec.version,
        fingerprint=spec.fingerprint,
        spec=json.loads(spec.model_dump_json()) | _common(corpora[0]),
        records=records,
        plan={"joined": [_told(corpus) for corpus in corpora], **_codes(corpora[0])},
        created_by=created_by(),
        classes=corpora[0].classes,
    )


def _linked(corpus: Corpus, name: str, root: Path) -> ShardRecord:
    """One shard under a name that says whose it was, its footer checked, and its record."""
    record, new = corpus.record(name), f"{_address(corpus)}-{name}"
    file, _ = corpus.open(record)
    file.close()
    with replacing(shard_path(root, new)) as temporary:
        try:
            os.link(corpus.shard_path(record), temporary)
        except OSError:  # another file system, or one without links
            shutil.copyfile(corpus.shard_path(record), temporary)
    renamed = replace(record, name=new)
    save_record(root, renamed)
    return renamed


def _facts(corpus: Corpus) -> dict[str, object]:
    """What must be the same of corpora that are joined, by the word for it."""
    meta, chip = corpus.meta(), corpus.spec.get("chip") or {}
    stored = {part["sensor"]: part.get("gsd") for part in corpus.spec.get("sensors") or ()}
    facts: dict[str, object] = {
        "chips": {name: chip[name] for name in ("kind", "size", "gsd", "tile", "gsd_range") if name in chip}
    }
    for one in sorted(meta.sensors, key=lambda sensor: sensor.prefix):
        facts[f"layer {one.prefix}"] = {
            "sensor": one.name,
            "bands": list(one.band_names),
            "dtype": one.dtype,
            "unit": one.unit,
            "gsd": stored.get(one.name) or one.gsd,
        }
    facts["labels"] = sorted(meta.labels)
    facts["classes"] = {name: list(values) for name, values in corpus.classes.items()}
    if "landcover" in meta.labels:
        facts["land-cover codes"] = dict(corpus.plan.get("classes") or {})
    return facts


def _common(corpus: Corpus) -> dict[str, Any]:
    """The fields of a part's spec that hold for the join."""
    sensors = [
        {name: part[name] for name in ("sensor", "gsd", "bands") if name in part}
        for part in corpus.spec.get("sensors") or ()
    ]
    chip = {name: value for name, value in (corpus.spec.get("chip") or {}).items() if name != "epsg"}
    return ({"chip": chip} if chip else {}) | ({"sensors": sensors} if sensors else {})


def _codes(corpus: Corpus) -> dict[str, Any]:
    classes = corpus.plan.get("classes")
    return {"classes": classes} if classes and "landcover" in corpus.meta().labels else {}


def _told(corpus: Corpus) -> dict[str, Any]:
    return {
        "corpus": _address(corpus),
        "fingerprint": corpus.fingerprint,
        "shards": len(corpus.records),
        "rows": corpus.rows,
        "splits": corpus.counts().get("split", {}),
    }


def _said(fact: object) -> str:
    if isinstance(fact, Mapping):
        return ", ".join(f"{name} {value}" for name, value in fact.items()) or "none"
    return "none" if fact is None or fact == [] else str(fact)


def _address(corpus: Corpus) -> str:
    return f"{corpus.name}@{corpus.version}"


def _ids(corpora: Sequence[Corpus]) -> Iterator[str]:
    return (str(one["sample_id"]) for corpus in corpora for one in corpus.samples())


def _hashes(corpus: Corpus) -> NDArray[np.int64]:
    return np.fromiter(map(hash, _ids([corpus])), np.int64)
