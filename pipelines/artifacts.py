"""What is already made: artifacts called `name@version`, each sealed by a record that is written last.

The fingerprint says of what an artifact was made (its resolved settings and its parents' fingerprints). It never
appears in a path: people read names, and the fingerprint only reports drift. A name that would now be made of other
things is refused, because a corpus costs days and a silent rebuild or a silent reuse are both wrong; `--reuse` is
how a person says that the old one will do.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geodata.files import write_atomic
from pipelines.settings import FOLDERS, Home

__all__ = ["Artifact", "claim", "digest", "find", "listing", "resolve", "seal", "standing"]

RECORD, CLAIM = "artifact.json", "claim.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Artifact:
    """Something made and kept: what it is called, where it lies, of what it was made, and from which others."""

    name: str
    version: str
    kind: str
    path: Path
    fingerprint: str
    parents: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in FOLDERS:
            raise ValueError(f"{self.kind!r} is no kind of artifact; there are {', '.join(FOLDERS)}")
        for what, text in (("name", self.name), ("version", self.version)):
            if not NAME.fullmatch(text):
                raise ValueError(
                    f"{text!r} cannot be the {what} of an artifact; use letters, digits, dot, dash, underscore"
                )

    @property
    def address(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"

    @property
    def parent(self) -> str:
        """How a child names it: kind, address and fingerprint."""
        return f"{self.kind}:{self.address}#{self.fingerprint}"

    @property
    def sealed(self) -> bool:
        """Whether its record exists: nothing is missing, and nothing will be added."""
        return (self.path / RECORD).is_file()

    def to_json(self) -> str:
        """The record."""
        return json.dumps(asdict(self) | {"path": str(self.path)}, indent=1, sort_keys=True)


def digest(*parts: object) -> str:
    """sha256 of values as canonical JSON, in hexadecimal: the fingerprint of what is made of them."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def load(path: Path) -> Artifact | None:
    """The artifact sealed in a folder, or None. Raises ValueError when its record does not parse."""
    try:
        values: dict[str, Any] = json.loads((path / RECORD).read_bytes())
        return Artifact(**values | {"path": path, "parents": tuple(values["parents"])})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"record {path / RECORD} does not parse ({error}); delete it and run the stage again"
        ) from error


def standing(wanted: Artifact, *, reuse: bool = False) -> Artifact | None:
    """The sealed artifact of that name, or None when it is still to be made.

    Raises ValueError when the name is taken, sealed or begun, by something made of other things; `reuse` accepts a
    sealed one as it is.
    """
    found = load(wanted.path)
    begun = _read(wanted.path / CLAIM).get("fingerprint")
    if found is not None and (reuse or found.fingerprint == wanted.fingerprint):
        return found
    other = found.fingerprint if found is not None else begun
    if other is not None and other != wanted.fingerprint:
        remedy = "pass --reuse to take it as it is" if found is not None else f"delete {wanted.path}"
        raise ValueError(
            f"{wanted.kind} {wanted.address} was {'made' if found else 'begun'} of other settings "
            f"(fingerprint {other[:12]}, now {wanted.fingerprint[:12]}); bump the version, or {remedy}"
        )
    return None


def claim(wanted: Artifact) -> None:
    """Take the name before the work starts, so that a resumed run cannot mix two recipes in one folder."""
    write_atomic(wanted.path / CLAIM, wanted.to_json().encode())


def seal(made: Artifact) -> Artifact:
    """Write the record, last of all. After this the artifact counts, and the claim is not needed."""
    write_atomic(made.path / RECORD, made.to_json().encode())
    (made.path / CLAIM).unlink(missing_ok=True)
    return made


def find(home: Home, text: str, kind: str | None = None) -> list[Artifact]:
    """Sealed artifacts called `name@version`, or `name` in every version, newest version last."""
    name, _, version = text.partition("@")
    return [
        artifact
        for artifact in listing(home)
        if artifact.name == name and version in ("", artifact.version) and kind in (None, artifact.kind)
    ]


def resolve(home: Home, text: str, kind: str | None = None) -> Artifact:
    """The one sealed artifact that a name means; without a version, the newest. Raises ValueError, naming what exists."""
    found = find(home, text, kind)
    kinds = sorted({artifact.kind for artifact in found})
    if len(kinds) > 1:
        raise ValueError(f"{text!r} is the name of a {' and of a '.join(kinds)}; say which kind is meant")
    if found:
        return found[-1]
    known = (
        ", ".join(artifact.address for artifact in listing(home) if kind in (None, artifact.kind))
        or "nothing"
    )
    raise ValueError(f"no sealed {kind or 'artifact'} is called {text!r} under {home.root}; there is {known}")


def listing(home: Home) -> list[Artifact]:
    """Every sealed artifact of a home: by kind, name, then version (numbers count as numbers)."""
    found = [load(path) for folder in FOLDERS.values() for path in sorted((home.root / folder).glob("*@*"))]
    order = list(FOLDERS)
    return sorted(
        (artifact for artifact in found if artifact is not None),
        key=lambda a: (
            order.index(a.kind),
            a.name,
            [(not p.isdigit(), int(p) if p.isdigit() else p) for p in re.split(r"(\d+)", a.version) if p],
        ),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def slug(*words: str) -> str:
    """A key as Prefect wants it: lower case, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")


def save_stage(made: Artifact, values: Mapping[str, object]) -> None:
    """Leave beside an artifact how it was made: seconds, state, and the runs at Prefect and MLflow."""
    write_atomic(made.path / "stage.json", json.dumps(dict(values), indent=1).encode())


def read_stage(made: Artifact) -> dict[str, Any]:
    """What `save_stage` left; empty when it was nothing."""
    return _read(made.path / "stage.json")
