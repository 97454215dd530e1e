"""Files below a folder or in a zip, read one at a time into memory: nothing from elsewhere is ever unpacked to disk.

An archive is looked through before a byte of it is used. One that climbs out of itself, holds links, or would unpack to
far more than it is, is refused whole, in a sentence that names the member: it is no accident, so nothing else in it is
to be trusted either.
"""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol

from pydantic import Field

from geodata.errors import Corrupt, Missing
from geodata.layout import Frozen

MEGABYTE = 2**20
_HIDDEN = ("__MACOSX",)


class Room(Frozen):
    """What may be read: members, megabytes of one file, gigabytes of all, and how much larger than the archive that is.

    Pictures are compressed already, so an archive of them hardly shrinks; 1032 is the most that Deflate can do.
    """

    members: int = Field(default=20_000_000, gt=0)
    file_mb: float = Field(default=256.0, gt=0)
    total_gb: float = Field(default=5_000.0, gt=0)
    ratio: float = Field(default=50.0, gt=1)


class Files(Protocol):
    """Named files, by their path from the top, with forward slashes."""

    def sizes(self) -> dict[str, int]:
        """Bytes of every file, in order of path. Hidden ones are left out."""
        ...

    def read(self, name: str) -> bytes:
        """One file. Raises Missing, or Corrupt when it is damaged or too large."""
        ...


@contextmanager
def opened(root: Path, limits: Room) -> Iterator[Files]:
    """The files of a folder or a zip. Raises Missing when there is neither, Corrupt for a file that is no zip."""
    if root.is_dir():
        yield _Folder(root, limits)
        return
    try:
        with zipfile.ZipFile(root) as archive:
            yield _Zip(root, archive, limits)
    except FileNotFoundError as error:
        raise Missing(f"there is no folder or zip at {root}; check the path") from error
    except zipfile.BadZipFile as error:
        raise Corrupt(
            f"{root} is no readable zip ({error}); fetch it again, or unpack it yourself"
        ) from error


class _Folder:
    def __init__(self, root: Path, limits: Room) -> None:
        self._root, self._limits = root, limits

    def sizes(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for folder, below, names in os.walk(self._root):
            below[:] = sorted(name for name in below if not _hidden(name))
            for name in names:
                path = Path(folder, name)
                if not _hidden(name) and path.is_file():
                    found[path.relative_to(self._root).as_posix()] = path.stat().st_size
        return dict(sorted(found.items()))

    def read(self, name: str) -> bytes:
        if not safe(name):
            raise Missing(f"{name} lies outside of {self._root}; paths go down from there")
        try:
            with (self._root / name).open("rb") as stream:
                return _bounded(stream.read(_most(self._limits) + 1), name, self._limits)
        except (FileNotFoundError, IsADirectoryError) as error:
            raise Missing(f"there is no file {name} in {self._root}") from error


class _Zip:
    def __init__(self, root: Path, archive: zipfile.ZipFile, limits: Room) -> None:
        self._root, self._archive, self._limits = root, archive, limits

    def sizes(self) -> dict[str, int]:
        members = self._archive.infolist()
        problem = _problem(members, self._root.stat().st_size, self._limits)
        if problem:
            raise Corrupt(f"{self._root} {problem}; nothing of it is read")
        files = [one for one in members if not one.is_dir()]
        shown = [one for one in files if not any(_hidden(part) for part in PurePosixPath(one.filename).parts)]
        return {one.filename: one.file_size for one in sorted(shown, key=lambda one: one.filename)}

    def read(self, name: str) -> bytes:
        try:
            with self._archive.open(name) as stream:
                return _bounded(stream.read(_most(self._limits) + 1), name, self._limits)
        except KeyError as error:
            raise Missing(f"there is no file {name} in {self._root}") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise Corrupt(f"{name} in {self._root} does not unpack ({error})") from error


def safe(name: str) -> bool:
    """Whether a path goes down from where it starts, on any system."""
    path = PurePosixPath(name)
    odd = "\\" in name or "\0" in name or ":" in name.partition("/")[0]
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and not odd


def _problem(members: list[zipfile.ZipInfo], size: int, limits: Room) -> str | None:
    """Why an archive of `size` bytes is not to be read; None when it may be."""
    if len(members) > limits.members:
        return f"has {len(members):,} members, more than the {limits.members:,} allowed"
    seen: set[str] = set()
    for one in members:
        if not safe(one.filename):
            return f"has a member that climbs out of it: {one.filename!r}"
        if stat.S_ISLNK(one.external_attr >> 16):
            return f"has a link: {one.filename!r}"
        if one.flag_bits & 1:
            return f"has a member under a password: {one.filename!r}"
        if one.filename in seen:
            return f"has two members of one name: {one.filename!r}"
        seen.add(one.filename)
    total, packed = sum(one.file_size for one in members), sum(one.compress_size for one in members)
    if packed > size:
        return f"has members that overlap: {packed:,} bytes in a file of {size:,}"
    if total > limits.ratio * size + MEGABYTE:
        return f"would unpack to {total:,} bytes, {total / size:,.0f} times its size; {limits.ratio:g} are allowed"
    if total > limits.total_gb * 1e9:
        return f"would unpack to {total / 1e9:,.0f} GB, more than the {limits.total_gb:g} allowed"
    return None


def _bounded(data: bytes, name: str, limits: Room) -> bytes:
    if len(data) > _most(limits):
        raise Corrupt(f"{name} is larger than the {limits.file_mb:g} MB allowed for one file")
    return data


def _most(limits: Room) -> int:
    return int(limits.file_mb * MEGABYTE)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _HIDDEN
