"""Weights of other people into our encoders and ours into theirs: safetensors and safely read checkpoints, by name.

Four layouts are understood and told apart by their names: an exported encoder of ours, timm's networks, and the official
checkpoints of MAE with their decoder and of PerA with both its networks. Nothing is dropped in silence. What a layout has
beyond an encoder (heads, decoders, a student) is known by name; anything else left over or missing is an error that names
it, because a position table that is quietly not loaded costs more than it shows.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from geodata.errors import Corrupt, Missing
from training.encoders import Encoder, adapter, hierarchy, learned, vit, vitdet

__all__ = ["adapted", "as_pera", "card", "for_timm", "is_file", "read", "timm_names"]

_WRAPPERS = ("model", "state_dict", "teacher", "student", "encoder", "module")
_PREFIXES = ("module.", "_orig_mod.", "backbone.", "encoder.")
_TAUGHT = "teacher.backbone."
_PERA = {
    "student.backbone.": "student.encoder.",
    "student.cls_head.": "student.head.",
    "teacher.backbone.": "teacher.module.encoder.",
    "teacher.cls_head.": "teacher.module.head.",
    "pred_head.mlp0.mlp.": "pixel_head.mlp.",
    "pred_head.": "pixel_head.",
    "s_mask_token": "mask_token",
}
_BEYOND = re.compile(
    r"^(decoder_|mask_token|head\.|head_dist\.|fc_norm\.|fc\.|pre_logits\.|relative_position_index|.*attn_mask$|"
    r".*relative_position_index$|.*relative_coords_table$)"
)


def read(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, of a folder that holds model.safetensors, or of a torch checkpoint.

    Checkpoints are read without executing anything in them. Wrappers (`model`, `state_dict`) and prefixes that trainers
    put in front of every name are taken off. Raises Missing or Corrupt.
    """
    path = Path(path)
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise Missing(
            f"no weights at {path}; give a .safetensors, .pth or .pt file, or a folder with model.safetensors"
        )
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, KeyError, pickle.UnpicklingError) as error:
        text = " ".join(str(error).split())[:200]
        raise Corrupt(
            f"{path} does not load as plain tensors ({text}); fetch it again, or convert it to safetensors where you "
            "trust it"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    tensors = {str(name): value for name, value in dict(found).items() if isinstance(value, Tensor)}
    if not tensors:
        raise Corrupt(f"{path} holds no tensors by name; give the file with the model's state")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def is_file(path: Path | str) -> bool:
    """Whether these are bare weights, which do not say what network they are of."""
    return Path(path).suffix in (".safetensors", ".pth", ".pt", ".bin")


def adapted(weights: Mapping[str, Tensor], encoder: Encoder) -> dict[str, Tensor]:
    """The state of `encoder` made of weights in any layout understood here.

    Heads and decoders are left out, and a student and all heads where a teacher is held as well; positions are
    interpolated to the encoder's grid, a first layer for other channels is refused; an adapter takes a bare ViT's weights
    and keeps its own companion. Raises ValueError that names the first weights that are left over, missing or of another
    shape.
    """
    taught = [name for name in weights if name.startswith(_TAUGHT)]
    if taught:
        return adapted({name.removeprefix(_TAUGHT): weights[name] for name in taught}, encoder)
    if isinstance(encoder, adapter.Adapter) and not any(name.startswith("inner.") for name in weights):
        bare = {name: value for name, value in weights.items() if not name.startswith("norm.")}
        inner = {f"inner.{name}": value for name, value in adapted(bare, encoder.inner).items()}
        return encoder.state_dict() | inner
    given = {name: value for name, value in weights.items() if not _BEYOND.match(name)}
    if isinstance(encoder, hierarchy.Hierarchy):
        if not any(name.startswith("body.") for name in given):
            given = {f"body.{name}": value for name, value in given.items()}
    elif isinstance(encoder, vitdet.ViTDet):
        given = vitdet.from_vit(given, encoder.spec)
    elif isinstance(encoder, vit.ViT) and "pos_embed" in given:
        table, side = given["pos_embed"], encoder.table_side
        if table.ndim != 3:
            raise ValueError(
                f"pos_embed is {tuple(table.shape)}, not (1, 1 + patches, width); these are other weights"
            )
        given["pos_embed"] = vit.interpolated(table, round((table.shape[1] - 1) ** 0.5), (side, side))
    wanted = encoder.state_dict()
    optional = {
        name
        for name in wanted
        if name.endswith("num_batches_tracked")
        or "stage_norms." in name  # of dense heads, which pretraining does not have
        or _BEYOND.match(name.removeprefix("body."))
    }
    missing = sorted(wanted.keys() - given.keys() - optional)
    left_over = sorted(given.keys() - wanted.keys())
    odd = sorted(name for name in given.keys() & wanted.keys() if given[name].shape != wanted[name].shape)
    for what, names in (("lack", missing), ("have also", left_over)):
        if names:
            raise ValueError(
                f"the weights {what} {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}: build the encoder with the "
                "kind, depth and branches that they were made with"
            )
    if odd:
        raise ValueError(
            f"{odd[0]} is {tuple(given[odd[0]].shape)} in the weights and {tuple(wanted[odd[0]].shape)} in the encoder: "
            "make width, patch and bands agree"
        )
    return {name: given.get(name, value) for name, value in wanted.items()}


def for_timm(encoder: Encoder) -> dict[str, Any] | None:
    """What timm's `create_model("local-dir:FOLDER")` needs in config.json; None for what timm cannot build by name.

    That is the plain ViT of one branch and the networks that came from timm. Parallel branches need timm's block given in
    code, which the model card shows.
    """
    spec = encoder.spec
    statistics = {"mean": list(spec.inputs.mean), "std": list(spec.inputs.std)} if spec.inputs.mean else {}
    size = getattr(spec, "image", 224)
    config = {
        "num_classes": 0,
        "pretrained_cfg": {
            "input_size": [len(spec.inputs.bands), size, size],
            "num_classes": 0,
            **statistics,
        },
    }
    if isinstance(spec, hierarchy.Spec):
        return config | {
            "architecture": spec.name,
            "num_features": encoder.width,
            "model_args": spec.timm_arguments,
        }
    if type(spec) not in (vit.Spec, learned.Spec) or not isinstance(spec, vit.Spec):
        return None
    if spec.branches > 1 or spec.norm_eps != 1e-6:  # timm's own epsilon, which its config cannot say
        return None
    arguments: dict[str, Any] = {
        "img_size": spec.image,
        "patch_size": spec.patch,
        "embed_dim": spec.width,
        "depth": spec.depth,
        "num_heads": spec.heads,
        "mlp_ratio": spec.mlp,
        "qkv_bias": spec.has_qkv_bias,
        "in_chans": len(spec.inputs.bands),
    }
    if isinstance(spec, learned.Spec) and spec.layer_scale is not None:
        arguments["init_values"] = spec.layer_scale
    return config | {
        "architecture": "vit_base_patch16_224",
        "num_features": spec.width,
        "model_args": arguments,
    }


def timm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names timm gives them."""
    return {name.removeprefix("body."): value.contiguous() for name, value in state.items()}


def as_pera(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of `training.methods.pera` from that of the official implementation (`model` of its checkpoints).

    They do not hold the centre, which stays the method's own: `method.load_state_dict(method.state_dict() | as_pera(w))`.
    Raises ValueError for a name that has no place.
    """
    found = {}
    for name, value in weights.items():
        old = next((old for old in _PERA if name.startswith(old)), None)
        if old is None:
            raise ValueError(f"{name} is no weight of PerA's checkpoints: give what they hold as `model`")
        found[_PERA[old] + name.removeprefix(old)] = value
    return found


def card(encoder: Encoder, provenance: Mapping[str, Any]) -> str:
    """A model card in Markdown: what the encoder reads, how it was made, how to load it. Facts only, from its spec."""
    spec, count = encoder.spec, sum(parameter.numel() for parameter in encoder.parameters())
    reads = "; ".join(f"layer `{one.layer}`, bands {', '.join(one.bands)}" for one in spec.reads.values())
    lines = [
        "---",
        "library_name: swath",
        "tags: [remote-sensing, satellite-images, feature-extraction]",
        "---",
        "",
        f"# {provenance.get('recipe') or spec.kind}",
        "",
        f"An encoder of {count:,} parameters ({spec.kind}). It reads {reads}, in stored units, from which "
        "`mean` is taken and which `std` divides (both in config.json); pixels without data become 0 after that.",
        "",
        "## Made by",
        "",
        *(f"- {name}: {value}" for name, value in provenance.items()),
        "",
        "## Load",
        "",
        "```python",
        "from training.export import load_encoder",
        'encoder = load_encoder("FOLDER")',
        "```",
        "",
    ]
    if for_timm(encoder) is not None:
        lines += ["With timm alone (1.0.16 or newer):", "", "```python", "import timm"]
        lines += [
            'encoder = timm.create_model("local-dir:FOLDER", pretrained=True, num_classes=0)',
            "```",
            "",
        ]
    elif isinstance(spec, vit.Spec) and type(spec) is vit.Spec:
        lines += ["With timm alone, whose parallel block has the same names:", "", "```python"]
        lines += [
            "from functools import partial",
            "from safetensors.torch import load_file",
            "from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer",
            "encoder = VisionTransformer(",
            f"    img_size={spec.image}, patch_size={spec.patch}, in_chans={len(spec.inputs.bands)}, num_classes=0,",
            f"    embed_dim={spec.width}, depth={spec.depth}, num_heads={spec.heads}, qkv_bias={spec.has_qkv_bias},",
            f"    block_fn=partial(ParallelThingsBlock, num_parallel={spec.branches}),",
            ")",
            'encoder.load_state_dict(load_file("FOLDER/model.safetensors"))',
            "```",
            "",
        ]
    return "\n".join(lines)
