"""How files are named: patterns, listings, and which files make one scene.

Kept apart from reading, because naming is where archives differ and reading is where they do not.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path, PurePosixPath

from geodata.errors import Corrupt, Missing
from geodata.sensors import Sensor

SCL = "scl"
"""The asset name of a scene's classification or cloud mask."""
WHOLE = ""
"""The asset name of a file that holds all bands."""

_SIDECARS = (".aux.xml", ".ovr", ".msk", ".tfw", ".json", ".txt", ".xml", ".gpkg", ".html")
_DIGITS = {"Y": 4, "m": 2, "d": 2, "H": 2, "M": 2, "S": 2, "j": 3}
_CUT = "\0"
"""Stands, in a name, for what differs between the files of one scene."""


@dataclass(frozen=True)
class Named:
    """A scene by the names of its files, in order of pixel size: asset name (band, SCL or WHOLE) -> path."""

    scene_id: str
    day: date | None
    assets: Mapping[str, str]
    properties: Mapping[str, str]


@dataclass(frozen=True)
class Pattern:
    """A pattern, compiled: text, `{name}`, `{date:%Y%m%d}` and `*`. A name that comes again stands for the same text."""

    text: str
    regex: re.Pattern[str]
    fields: tuple[str, ...]
    date_format: str

    @classmethod
    def of(cls, text: str) -> Pattern:
        """Raises ValueError for a pattern of any other form."""
        out, seen, date_format = [], [], "%Y%m%d"
        for piece in re.split(r"(\{[^{}]*\}|\*+)", text):
            if piece.startswith("*"):
                out.append("[^/]*")
                continue
            if not piece.startswith("{"):
                out.append(re.escape(piece))
                continue
            name, _, spec = piece[1:-1].partition(":")
            if not name.isidentifier() or (spec and name != "date"):
                raise ValueError(
                    f"{piece} in pattern {text!r} is no field; write {{name}} or {{date:%Y%m%d}}"
                )
            if name in seen:
                seen.append(name)
                out.append(f"(?P<{name}__{seen.count(name)}>(?P={name}))")
                continue
            seen.append(name)
            date_format = spec or date_format if name == "date" else date_format
            out.append(f"(?P<{name}>{_text_of(name, date_format, text)})")
        return cls(text, re.compile("(?:.*/)?" + "".join(out)), tuple(dict.fromkeys(seen)), date_format)

    def match(self, name: str) -> re.Match[str] | None:
        """A file whose path ends as the pattern says; companion files of GDAL's never do."""
        return None if name.endswith(_SIDECARS) else self.regex.fullmatch(name)

    def scene_id(self, match: re.Match[str]) -> str:
        """`{scene}`, or else the path without extension and without what differs between the files of a scene."""
        if "scene" in self.fields:
            return match["scene"]
        name = match.string
        for group in match.groupdict():
            if group.partition("__")[0] in ("band", "gsd"):
                start, end = match.span(group)
                name = name[:start] + _CUT * (end - start) + name[end:]
        stem = str(PurePosixPath(name).with_suffix("")) if "." in PurePosixPath(name).name else name
        return re.sub(rf"[_.-]*{_CUT}+(m(?![A-Za-z0-9]))?", "", stem).strip("/")

    def day(self, match: re.Match[str]) -> date | None:
        """The date in a name, None when the pattern has none. Raises ValueError for digits that are no date."""
        if "date" not in self.fields:
            return None
        try:
            return datetime.strptime(match["date"], self.date_format).date()
        except ValueError as error:
            raise ValueError(
                f"{match.string}: {match['date']!r} is no date of the form {self.date_format}; mend the pattern"
            ) from error


def _text_of(name: str, date_format: str, pattern: str) -> str:
    if name == "gsd":
        return r"\d+"
    if name != "date":
        return "[^/]+?"
    out = ""
    for piece in re.split(r"(%.)", date_format):
        if piece.startswith("%") and piece[1] not in _DIGITS:
            raise ValueError(f"{piece} in pattern {pattern!r} is not one of %{', %'.join(_DIGITS)}")
        out += rf"\d{{{_DIGITS[piece[1]]}}}" if piece.startswith("%") else re.escape(piece)
    return out


def scenes_of(
    files: Sequence[tuple[str, str]],
    pattern: Pattern,
    known: Sensor,
    tokens: Mapping[str, str],
    classification: str | None,
) -> list[Named]:
    """Files (name, path) by the scene they belong to, in order of scene id.

    `tokens` are the names that bands have in the files; without them, names are understood (`band_of`). A file
    that is no band of the sensor is left alone. Raises ValueError when two files are the same band of a scene, or
    two scenes have one id.
    """
    groups: dict[tuple[date | None, str], _Group] = {}
    for name, path in files:
        match = pattern.match(name)
        asset = None if match is None else _asset(match, pattern, known, tokens, classification)
        if match is None or asset is None:
            continue
        key = pattern.day(match), pattern.scene_id(match)
        taken = {"band", "gsd", "date", "scene"}
        named = {
            name: text for name, text in match.groupdict().items() if not {name, name.split("__")[0]} & taken
        }
        group = groups.setdefault(key, _Group(key[1], known, named))
        group.add(asset, path, float(match["gsd"]) if "gsd" in pattern.fields else None)
    found: dict[str, Named] = {}
    for (day, scene_id), group in groups.items():
        if scene_id in found:
            raise ValueError(
                f"two scenes are called {scene_id!r} by pattern {pattern.text!r}; let {{scene}} tell them apart"
            )
        found[scene_id] = Named(scene_id, day, group.ordered(), group.properties)
    return [found[scene_id] for scene_id in sorted(found)]


def _asset(
    match: re.Match[str],
    pattern: Pattern,
    known: Sensor,
    tokens: Mapping[str, str],
    classification: str | None,
) -> str | None:
    if "band" not in pattern.fields:
        return WHOLE
    if match["band"] == classification:
        return SCL
    return tokens.get(match["band"]) if tokens else band_of(match["band"], known)


@dataclass
class _Group:
    """The files of one scene while they are collected: asset name -> (path, its pixel size in metres if named)."""

    scene_id: str
    sensor: Sensor
    properties: dict[str, str]
    assets: dict[str, tuple[str, float | None]] = field(default_factory=dict)

    def add(self, name: str, path: str, gsd: float | None) -> None:
        """Of one band at several pixel sizes, the band's own is taken, or the finest."""
        other = self.assets.get(name)
        if other is not None and (gsd is None or other[1] is None or gsd == other[1]):
            raise ValueError(
                f"scene {self.scene_id} has two files for {name or 'all bands'}, {other[0]} and {path}; "
                f"make the pattern narrower"
            )
        own = self._own(name)
        if other is None or (gsd != own, gsd or 0.0) < (other[1] != own, other[1] or 0.0):
            self.assets[name] = (path, gsd)

    def ordered(self) -> dict[str, str]:
        names = sorted(self.assets, key=lambda name: (name == SCL, self._own(name), name))
        return {name: self.assets[name][0] for name in names}

    def _own(self, name: str) -> float:
        return {SCL: 20.0, WHOLE: 0.0}.get(name) or (self.sensor.band(name).gsd if name else 0.0)


def band_of(token: str, known: Sensor) -> str | None:
    """The sensor's name for a band that a file calls B2, b02, 02, B8A_20m or vv; None for what is no band."""
    wanted = _bare(re.sub(r"_\d+m$", "", token))
    return next((name for name in known.band_names if _bare(name) == wanted), None)


def _bare(name: str) -> str:
    number = re.fullmatch(r"(?:B|BAND)?_?0*(\d+A?)", name.upper())
    return number.group(1) if number else name.upper()


def listed(root: str | Sequence[str]) -> list[tuple[str, str]]:
    """(name, path to open) of every file in a folder, a zip-shaped file or a folder in one, or of a list; sorted.

    Raises Missing when the root is not there, Corrupt when the archive is damaged, ValueError for a web folder.
    """
    if not isinstance(root, str):
        return sorted((path, path) for path in root)
    if "://" in root:
        raise ValueError(f"{root} cannot be listed over HTTP; give the list of addresses instead of a folder")
    archive, inner = _archive(root)
    if archive is not None:
        return _members(archive, inner)
    folder = Path(root)
    if folder.is_file():
        return [(folder.name, str(folder))]
    if not folder.is_dir():
        raise Missing(f"{root} does not exist; check the path, or fetch the files first")
    walked = (Path(base) / name for base, _, names in os.walk(folder) for name in names)
    return sorted((path.relative_to(folder).as_posix(), str(path)) for path in walked)


def _archive(root: str) -> tuple[str | None, str]:
    """(zip file, folder in it) of '/vsizip/{FILE}/inner', 'FILE/inner' or 'FILE'; (None, '') for anything else."""
    braced = re.fullmatch(r"/vsizip/\{(.+)\}(?:/(.*))?", root)
    if braced:
        return braced.group(1), braced.group(2) or ""
    path = Path(root.removeprefix("/vsizip/"))
    for candidate in (path, *path.parents):
        if candidate.is_file() and zipfile.is_zipfile(candidate):
            inner = path.relative_to(candidate).as_posix()
            return str(candidate), "" if inner == "." else inner
    return None, ""


def _members(archive: str, inner: str) -> list[tuple[str, str]]:
    if not Path(archive).is_file():
        raise Missing(f"{archive} does not exist; fetch the file first, or check the path")
    try:
        with zipfile.ZipFile(archive) as opened:
            names = [name for name in opened.namelist() if not name.endswith("/")]
    except zipfile.BadZipFile as error:
        raise Corrupt(f"{archive} is no readable zip ({error}); fetch the file again") from error
    prefix = f"{inner.strip('/')}/" if inner.strip("/") else ""
    inside = sorted(name for name in names if name.startswith(prefix))
    if not inside:
        raise Missing(f"{archive} has nothing under {inner!r}; check the folder's name inside it")
    return [(name.removeprefix(prefix), f"/vsizip/{{{archive}}}/{name}") for name in inside]
