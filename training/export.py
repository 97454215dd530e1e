"""An encoder by itself: safetensors, its spec as JSON, and a model card, in a folder that needs no other file.

What pretraining is for. The folder says what pixels the encoder reads and with which statistics, where it came from, and
opens in timm where timm can build the network.
"""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import BaseModel
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from geodata.errors import Corrupt, DataError, Missing
from training import weights
from training.checkpoint import appearing, room
from training.encoders import Encoder

__all__ = ["export_encoder", "load_encoder"]

FORMAT = 1
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def export_encoder(
    encoder: Encoder, path: Path, provenance: Mapping[str, Any], *, writer: bool = True
) -> Path:
    """The encoder alone at `path`: model.safetensors, config.json and a model card. Every rank calls, `writer` writes.

    `load_encoder` builds it again from its `spec`, so it needs no other file. Tensors carry timm's names, and where timm
    can build the network its `create_model("local-dir:...")` reads the same folder.
    """
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
    with appearing(path) as temporary:
        with room(path):
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


def _spec_class(address: str) -> type[BaseModel]:
    module, _, name = address.rpartition(".")
    found = getattr(importlib.import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise ValueError(f"{address} is not an encoder's spec")
    return found
