"""What a run leaves on disk: checkpoints to go on from, the encoder alone, and where it all came from.

A checkpoint is a folder that appears whole (`step-000120/`: state.pt, then meta.json, synced, then renamed) or not at
all. State is kept by parameter name and unsharded, so a run goes on with another number of processes. It carries the
digest of its recipe and is refused by any other. An exported encoder is safetensors plus config.json: its spec with
the statistics its inputs need, and its provenance; no pickle anywhere.
"""

from __future__ import annotations

import errno
import importlib
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from geodata.errors import Corrupt, DataError, Missing
from geodata.shards import file_sha256, sync, write_atomic
from training import weights
from training.encoders import Encoder

__all__ = [
    "Checkpoint",
    "environment",
    "export_encoder",
    "latest",
    "load",
    "load_encoder",
    "save",
    "write_json",
]

log = logging.getLogger(__name__)
FORMAT = 1
_NAME = re.compile(r"step-(\d{6,})")
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk: where it is, its step, its recipe's digest, and how far each stream was read."""

    path: Path
    step: int
    digest: str
    position: Mapping[str, int]
    sha256: str
    losses: Mapping[str, float]


def save(
    folder: Path,
    step: int,
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    digest: str,
    position: Mapping[str, int],
    losses: Mapping[str, float],
    keep: int,
    writer: bool = True,
) -> Path:
    """Write `folder/step-NNNNNN` and remove all but the newest `keep`. Every rank calls, `writer` (rank 0) writes.

    Raises OSError in one sentence when the disk is full; nothing half-written stays behind.
    """
    if writer:
        _sweep(folder)
    model, state = get_state_dict(method, optimizer, options=_WHOLE)
    path = folder / f"step-{step:06d}"
    if not writer:
        return path
    with _appearing(path) as temporary:
        with _room(path):
            torch.save({"model": model, "optimizer": state}, temporary / "state.pt")
        meta = {
            "format": FORMAT,
            "step": step,
            "digest": digest,
            "position": dict(position),
            "losses": dict(losses),
            "bytes": (temporary / "state.pt").stat().st_size,
            "sha256": file_sha256(temporary / "state.pt"),
        }
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
    for old in _complete(folder)[:-keep]:
        shutil.rmtree(old.path)
    return path


def latest(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint; one without its meta or with a state of another length does not count."""
    found = _complete(folder)
    return found[-1] if found else None


def load(
    checkpoint: Checkpoint, method: nn.Module, optimizer: torch.optim.Optimizer | None = None, *, digest: str
) -> None:
    """Put a checkpoint's state into a method and, where one is given, its optimizer.

    Raises ValueError for a checkpoint of another recipe, Corrupt for one whose bytes changed.
    """
    if checkpoint.digest != digest:
        raise ValueError(
            f"checkpoint {checkpoint.path} is of recipe {checkpoint.digest[:12]}, this run's is {digest[:12]}: a run "
            "goes on only with the settings it began with; give a new run folder, or undo the changed settings"
        )
    path = checkpoint.path / "state.pt"
    if file_sha256(path) != checkpoint.sha256:
        raise Corrupt(
            f"checkpoint {path} does not match its sha256; delete {checkpoint.path.name} to go on from the one before"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    if optimizer is None:
        method.load_state_dict(state["model"])
        return
    set_state_dict(
        method,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=_WHOLE,
    )


def export_encoder(
    encoder: Encoder, path: Path, provenance: Mapping[str, Any], *, writer: bool = True
) -> Path:
    """The encoder alone at `path`: model.safetensors, config.json and a model card. Every rank calls, `writer` writes.

    `load_encoder` builds it again from its `spec`, so it needs no other file. Tensors carry timm's names, and where timm
    can build the network its `create_model("local-dir:...")` reads the same folder.
    """
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    tensors = cast(dict[str, torch.Tensor], get_model_state_dict(encoder, options=_WHOLE))
    if not writer:
        return path
    spec = cast(BaseModel, encoder.spec)
    config = {
        **(weights.for_timm(encoder) or {}),
        "format": FORMAT,
        "spec_class": f"{type(spec).__module__}.{type(spec).__qualname__}",
        "spec": spec.model_dump(mode="json"),
        "provenance": dict(provenance),
    }
    if path.exists():
        shutil.rmtree(path)
    with _appearing(path) as temporary:
        with _room(path):
            save_file(weights.timm_names(tensors), temporary / "model.safetensors")
        (temporary / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        (temporary / "README.md").write_text(weights.card(encoder, provenance), encoding="utf-8")
    return path


def load_encoder(path: Path | str) -> Encoder:
    """An exported encoder, on the CPU, with its weights; `.spec` says what it reads.

    Raises Missing when there is none, Corrupt when its files do not fit together.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        raise Missing(f"no exported encoder at {path}: there is no config.json; pretrain to the end first")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        spec = _spec_class(config["spec_class"]).model_validate(config["spec"])
        encoder = importlib.import_module(type(spec).__module__).build(spec)
        encoder.load_state_dict(weights.adapted(weights.read(path), encoder))
    except (KeyError, ValueError, RuntimeError, OSError, DataError) as error:
        text = " ".join(str(error).split())[:300]
        raise Corrupt(f"the encoder at {path} does not load ({text}); export it again") from error
    return cast(Encoder, encoder)


def environment() -> dict[str, Any]:
    """Versions, commit and machine, for the record of a run."""
    names = ("swath", "torch", "numpy", "pyarrow", "pydantic", "timm", "ray", "safetensors")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in names},
        "commit": _commit(),
        "machine": {"system": platform.platform(), "cpus": os.cpu_count(), "device": device},
        "command": sys.argv,
    }


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
            whole = meta["format"] == FORMAT and (path / "state.pt").stat().st_size == meta["bytes"]
            checkpoint = Checkpoint(
                path, meta["step"], meta["digest"], meta["position"], meta["sha256"], meta["losses"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            whole = False
        if whole:
            found.append(checkpoint)
        else:
            log.warning("checkpoint %s is not complete and is passed over", path)
    return sorted(found, key=lambda checkpoint: checkpoint.step)


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when all went well and is deleted when not."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    with _room(path):
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
def _room(path: Path) -> Iterator[None]:
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


def _spec_class(address: str) -> type[BaseModel]:
    module, _, name = address.rpartition(".")
    found = getattr(importlib.import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise ValueError(f"{address} is not an encoder's spec")
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source tree this package runs from; None for an installed one."""
    folder = Path(__file__).resolve().parent
    try:
        asked = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() or None if asked.returncode == 0 else None
