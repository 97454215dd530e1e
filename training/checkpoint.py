"""Checkpoints to go on from, and where a run came from.

A checkpoint is a folder that appears whole (`step-000120/`: one safetensors file of each rank's shards, then meta.json,
synced, then renamed) or not at all. torch's distributed checkpoint writes and reads it, so that a run goes on with
another number of processes and no rank ever holds what it has no room for; no pickle anywhere. It carries the digest of
its recipe and is refused by any other.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)

from geodata.errors import Corrupt
from geodata.files import file_sha256, sync, write_atomic
from geodata.provenance import provenance

__all__ = [
    "Checkpoint",
    "Saver",
    "appearing",
    "environment",
    "latest",
    "load",
    "room",
    "write_json",
    "write_text",
]

log = logging.getLogger(__name__)
FORMAT = 2
_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk: where it is, its step, its recipe's digest, and how far each stream was read."""

    path: Path
    step: int
    digest: str
    position: Mapping[str, int]
    files: Mapping[str, str]
    losses: Mapping[str, float]


class Saver:
    """Writes checkpoints while training goes on: state is copied to host memory, then a thread does the rest.

    Every rank has one and calls it alike; each writes its own shards. A folder appears whole, in its place, once every
    shard is on disk. Beyond the newest `keep`, the one with the least loss `best` is kept, if that is given. Use it as a
    context: leaving waits for what is being written, and is where a failure of the thread is raised at the latest.
    """

    def __init__(
        self, folder: Path, *, keep: int, best: str | None = None, rank: int = 0, world: int = 1
    ) -> None:
        self.folder, self.keep, self.best, self.rank, self.world = folder, keep, best, rank, world
        self._group: Any = None  # the thread's own, beside training's
        if world > 1:
            self._group = dist.new_group(backend="gloo")
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Path] | None = None
        if rank == 0:
            _sweep(folder)

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._pool.shutdown(wait=kind is None or self.world == 1)

    def save(
        self,
        step: int,
        method: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        digest: str,
        position: Mapping[str, int],
        losses: Mapping[str, float],
    ) -> None:
        """Begin to write `folder/step-NNNNNN`, after the one before is there. Raises what writing that one raised."""
        self.wait()
        state = _state(method, optimizer)
        copied = {name: _copied(value) for name, value in state.items()}
        meta = {"step": step, "digest": digest, "position": dict(position), "losses": dict(losses)}
        self._writing = self._pool.submit(self._write, copied, meta)

    def wait(self) -> Path | None:
        """Until nothing is being written: the folder that was, or None. Raises OSError in one sentence when the disk is
        full; nothing half-written stays behind."""
        writing, self._writing = self._writing, None
        return None if writing is None else writing.result()

    def _write(self, state: dict[str, Any], meta: dict[str, Any]) -> Path:
        path = self.folder / f"step-{meta['step']:06d}"
        if self.rank:  # rank 0 makes the folder and publishes it; the others only add their shards
            self._store(state, _temporary(path))
            return path
        with appearing(path) as temporary:
            self._store(state, temporary)
            files = {file.name: file_sha256(file) for file in sorted(temporary.iterdir())}
            sizes = {file.name: file.stat().st_size for file in temporary.iterdir()}
            whole = {"format": FORMAT, **meta, "files": files, "bytes": sizes}
            (temporary / "meta.json").write_text(json.dumps(whole, indent=1), encoding="utf-8")
        self._prune()
        return path

    def _store(self, state: dict[str, Any], folder: Path) -> None:
        """This rank's shards as a safetensors file; that of a single process needs no one else's word."""
        with room(folder):
            if self._group is None:
                whole = {name: value.contiguous() for name, value in state.items()}
                save_file(whole, folder / "shard-00001.safetensors")
                return
            dist.barrier(self._group)
            writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
            dcp.save(state, storage_writer=writer, process_group=self._group)

    def _prune(self) -> None:
        found = _complete(self.folder)
        kept = {checkpoint.path for checkpoint in found[-self.keep :]}
        told = [
            checkpoint for checkpoint in found if self.best is not None and self.best in checkpoint.losses
        ]
        if told:
            least = min(told, key=lambda checkpoint: checkpoint.losses[str(self.best)])
            kept.add(least.path)
            write_json(
                self.folder / "best.json",
                {"step": least.step, "loss": self.best, "value": least.losses[str(self.best)]},
            )
        for old in found:
            if old.path not in kept:
                shutil.rmtree(old.path)


def latest(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint; one without its meta or with a file of another length does not count."""
    found = _complete(folder)
    return found[-1] if found else None


def load(
    checkpoint: Checkpoint, method: nn.Module, optimizer: torch.optim.Optimizer | None = None, *, digest: str
) -> None:
    """Put a checkpoint's state into a method and, where one is given, its optimizer; every rank calls.

    The number of ranks may be another than that which wrote it: each reads the rows it now holds. Raises ValueError for
    a checkpoint of another recipe, Corrupt, on all ranks, for one whose bytes changed.
    """
    if checkpoint.digest != digest:
        raise ValueError(
            f"checkpoint {checkpoint.path} is of recipe {checkpoint.digest[:12]}, this run's is {digest[:12]}: a run "
            "goes on only with the settings it began with; give a new run folder, or undo the changed settings"
        )
    _check(checkpoint)
    state = _state(method, optimizer)
    alone = not (dist.is_available() and dist.is_initialized())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it should be, alone
        dcp.load(state, storage_reader=dcp.HuggingFaceStorageReader(str(checkpoint.path)), no_dist=alone)
    if optimizer is None:
        set_model_state_dict(method, {name.removeprefix("model."): value for name, value in state.items()})
        return
    model, moments = _both(method, optimizer)
    moments |= {
        name.removeprefix("optimizer."): value
        for name, value in state.items()
        if name.startswith("optimizer.")
    }
    model |= {
        name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")
    }
    set_state_dict(method, optimizer, model_state_dict=model, optim_state_dict=moments, options=_FLAT)


_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def _both(method: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    model, moments = get_state_dict(method, optimizer, options=_FLAT)
    return cast(dict[str, Any], model), cast(dict[str, Any], moments)


def _state(method: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """This rank's tensors by name. Rates and the like are no state: they follow from the recipe and the step."""
    moments: dict[str, Any] = {}
    if optimizer is None:
        model = cast(dict[str, Any], get_model_state_dict(method))
    else:
        model, moments = _both(method, optimizer)
    found = {f"model.{name}": value for name, value in model.items()}
    found |= {
        f"optimizer.{name}": value for name, value in moments.items() if isinstance(value, torch.Tensor)
    }
    return found


def _copied(value: torch.Tensor) -> torch.Tensor:
    """On the host, its own memory, sharded as it was."""
    return value.detach().clone() if value.device.type == "cpu" else value.detach().cpu()


def _check(checkpoint: Checkpoint) -> None:
    """Raise Corrupt, on all ranks alike, when a file changed. Ranks share the reading."""
    alone = not (dist.is_available() and dist.is_initialized())
    rank, world = (0, 1) if alone else (dist.get_rank(), dist.get_world_size())
    mine = list(checkpoint.files.items())[rank::world]
    changed = [name for name, digest in mine if file_sha256(checkpoint.path / name) != digest]
    if not alone:
        told: list[list[str]] = [[] for _ in range(world)]
        dist.all_gather_object(told, changed)
        changed = [name for names in told for name in names]
    if changed:
        raise Corrupt(
            f"checkpoint {checkpoint.path / changed[0]} does not match its sha256; delete {checkpoint.path.name} to go on "
            "from the one before"
        )


def environment() -> dict[str, Any]:
    """Versions, commit, machine and device, for the record of a run."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return provenance() | {"device": device}


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """A JSON file that is there whole or not at all."""
    write_text(path, json.dumps(values, indent=1))


def write_text(path: Path, text: str) -> None:
    """A text file that is there whole or not at all."""
    write_atomic(path, text.encode("utf-8"))


def _complete(folder: Path) -> list[Checkpoint]:
    found = []
    for path in sorted(folder.glob("step-*")) if folder.is_dir() else []:
        if not _NAME.fullmatch(path.name):
            continue
        try:
            meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
            whole = meta["format"] == FORMAT and all(
                (path / name).stat().st_size == size for name, size in meta["bytes"].items()
            )
            checkpoint = Checkpoint(
                path, meta["step"], meta["digest"], meta["position"], meta["files"], meta["losses"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            whole = False
        if whole:
            found.append(checkpoint)
        else:
            log.warning("checkpoint %s is not complete and is passed over", path)
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def _temporary(path: Path) -> Path:
    return path.with_name(f".tmp-{path.name}")


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when all went well and is deleted when not."""
    temporary = _temporary(path)
    with room(path):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            for file in temporary.iterdir():
                sync(file)
            sync(temporary)
            if path.exists():
                shutil.rmtree(path)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def room(path: Path) -> Iterator[None]:
    """Turns every way of saying that the disk is full into one sentence."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if "no room left to write" in str(error):
            raise  # said already, further in
        said = isinstance(error, OSError) and error.errno in full
        if said or re.search(r"No space left|unexpected pos|file write failed|File too large", str(error)):
            raise OSError(
                errno.ENOSPC,
                f"no room left to write {path}; nothing was kept of it, free space and run again",
            ) from error
        raise


def _sweep(folder: Path) -> None:
    for rest in folder.glob(".tmp-step-*"):
        shutil.rmtree(rest, ignore_errors=True)
