"""Files that are there whole or not at all, and that tell when a byte of them has changed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from geodata.errors import Corrupt

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DIGEST = b'{"digest": "'


def write_atomic(path: Path, data: bytes) -> None:
    """Bytes to a file that is there whole or not at all: temporary name, fsync, rename, fsync of the folder.

    Raises OSError in one sentence when the disk is full; nothing half-written stays behind.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when all went well and is deleted when not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OSError(
            error.errno, f"no room left to write {path}; nothing was kept of it, free space and run again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file or the entries of a folder are on disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def stamped(values: Mapping[str, Any]) -> bytes:
    """JSON of an object that begins with the SHA-256 of its own bytes, read with zeros in that place."""
    text = json.dumps({"digest": "0" * 64, **values}, separators=(",", ": ")).encode()
    return text.replace(b"0" * 64, hashlib.sha256(text).hexdigest().encode(), 1)


def unstamped(data: bytes, path: Path) -> dict[str, Any]:
    """The inverse of `stamped`. Raises Corrupt, naming the file, when a single byte is not as it was written."""
    start, end = len(_DIGEST), len(_DIGEST) + 64
    if not data.startswith(_DIGEST):
        raise Corrupt(
            f"{path} does not begin as it was written, or another release wrote it; delete it and run the command that made it again"
        )
    blank = data[:start] + b"0" * 64 + data[end:]
    if hashlib.sha256(blank).hexdigest().encode() != data[start:end]:
        raise Corrupt(
            f"{path} is not as it was written: its digest does not match; delete it and run the command that made it again"
        )
    try:
        values = json.loads(data)
        values.pop("digest")
        return dict(values)
    except ValueError as error:
        raise Corrupt(
            f"{path} does not parse ({error}); delete it and run the command that made it again"
        ) from error
