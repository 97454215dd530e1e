"""Will a recipe fit, and how long is a step: bytes for each GPU and seconds, before a GPU is asked for anything.

The method is built and run forward on fake tensors, which have shapes and types but no memory. What autograd would keep
is summed; what parameters, gradients and AdamW's moments take is arithmetic. Where a recipe does not fit, the same is done
for its variants, cheapest change first, and the first that fits is the advice.

Stated, not measured: utilisation, link speed, and a reserve for the allocator and the libraries' own buffers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from geodata.sensors import SENSORS
from training import meter, parallel
from training.encoders import Encoder, Inputs
from training.feed import Samples
from training.methods import Method, Progress, build
from training.recipe import Fsdp, Recipe, fill_inputs, replace

__all__ = ["Budget", "advice", "bytes_of", "counts", "estimate", "example"]

RESERVE = 0.08
"""Share of a GPU's memory left to the allocator and to libraries."""
UTILISATION = 0.4
LINK = 200e9
"""Bytes a second between GPUs of one node, each way."""


@dataclass(frozen=True)
class Budget:
    """What one GPU holds, bytes, and how long a step takes there, seconds. `room` is what it has, less a reserve."""

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    gathered: float
    room: float
    seconds: float
    samples_per_second: float
    trainable: int

    @property
    def total(self) -> float:
        """Bytes on one GPU."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.gathered

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return self.total <= self.room


def estimate(recipe: Recipe, gpus: int, memory: float, peak: float | None = None) -> Budget:
    """The budget of a recipe on `gpus` devices of `memory` bytes; `peak` FLOP/s of one, an H200's when None.

    Raises ValueError when the batch does not divide over the GPUs.
    """
    shares = {name: share // recipe.accumulate for name, share in recipe.shares().items()}
    if any(share % gpus for share in shares.values()):
        raise ValueError(
            f"batch={recipe.batch} in {recipe.accumulate} parts does not divide over {gpus} GPUs; change batch, accumulate "
            "or --gpus"
        )
    local = {name: share // gpus for name, share in shares.items()}
    one = _traced(recipe, local)
    sharded = isinstance(recipe.parallel, Fsdp) and gpus > 1
    parts = gpus if sharded else 1
    again = 4 / 3 if recipe.activations == "recompute" else 1.0
    rate = (peak or meter.PEAKS["H200"][recipe.precision]) * UTILISATION
    travel = one.weights * (3 if sharded else 2) * (2 if recipe.precision == "bf16" and sharded else 4)
    seconds = recipe.accumulate * one.flops * again / rate + (travel / LINK if gpus > 1 else 0.0)
    return Budget(
        parameters=4 * one.weights / parts,
        gradients=4 * one.trainable / parts,
        optimizer=8 * one.trainable / parts,
        activations=one.kept,
        gathered=2 * one.largest * (2 if recipe.precision == "bf16" else 4) if sharded else 0.0,
        room=memory * (1 - RESERVE),
        seconds=seconds,
        samples_per_second=recipe.batch / seconds,
        trainable=one.trainable,
    )


def advice(recipe: Recipe, gpus: int, memory: float) -> str | None:
    """What to change so that the recipe fits, cheapest first; None when it fits as it is."""
    if estimate(recipe, gpus, memory).fits:
        return None
    for words, variant in _variants(recipe, gpus):
        try:
            if estimate(variant, gpus, memory).fits:
                return words
        except ValueError:
            continue
    held = estimate(replace(recipe, parallel=Fsdp(), activations="recompute"), gpus, memory)
    fewest = math.ceil(gpus * (held.parameters + held.gradients + held.optimizer) / (0.5 * held.room))
    return f"no change of the recipe is enough: take about {max(fewest, 2 * gpus)} GPUs with parallel.kind=fsdp, or larger ones"


def counts(recipe: Recipe) -> dict[str, int]:
    """Parameters of each part of a recipe's method, from the meta device; `encoder` is the one that is kept.

    A part that holds an encoder is counted as that and what stands beside it, and so is what is kept where it is made of
    encoders itself. `trainable` are those that learn, `all` those that there are: a teacher's, or a frozen encoder's, only
    follow or stay.
    """
    with torch.device("meta"):
        method = build(fill_inputs(recipe, _Neutral()).method)
    encoders = [name for name, module in method.named_modules() if isinstance(module, Encoder)]
    found = {"encoder": _size(method.encoder)} | _inside(method.encoder)
    learning = whole = 0
    for name, parameter in method.named_parameters():
        held = next((one for one in encoders if one.partition(".")[0] == name.partition(".")[0]), "")
        part = ".".join(name.split(".")[: 1 + held.count(".")])
        if part != "encoder":
            found[part] = found.get(part, 0) + parameter.numel()
        learning += parameter.numel() * parameter.requires_grad
        whole += parameter.numel()
    return found | {"trainable": learning, "all": whole}


def _inside(encoder: Encoder) -> dict[str, int]:
    """Parameters, and numbers that are kept but not learned, of the parts of an encoder that is made of encoders."""
    parts = dict(encoder.named_children())
    if not any(isinstance(part, Encoder) for part in parts.values()):
        return {}
    sizes = {f"encoder.{name}": _size(part) for name, part in parts.items()}
    kept = {f"encoder.{name}": sum(map(torch.numel, part.buffers())) for name, part in parts.items()}
    return {name: size for name, size in sizes.items() if size} | {
        f"{name} (kept)": kept[name] for name, size in sizes.items() if not size and kept[name]
    }


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def bytes_of(text: str) -> float:
    """Bytes of '80GB', '141 GB' or '24GiB'. Raises ValueError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(GB|GiB|TB|MB)\s*", text)
    if found is None:
        raise ValueError(f"memory is written as in 80GB or 24GiB, not {text!r}")
    return float(found.group(1)) * {"GB": 1e9, "GiB": 2.0**30, "TB": 1e12, "MB": 1e6}[found.group(2)]


def _variants(recipe: Recipe, gpus: int) -> Iterator[tuple[str, Recipe]]:
    """Changes that cost little before those that cost much."""
    so_far: list[str] = []
    changed = recipe
    steps: list[tuple[str, dict[str, Any]]] = []
    if recipe.precision != "bf16":
        steps.append(("precision=bf16", {"precision": "bf16"}))
    if gpus > 1 and not isinstance(recipe.parallel, Fsdp):
        steps.append(("parallel.kind=fsdp", {"parallel": Fsdp()}))
    if recipe.activations == "keep":
        steps.append(("activations=selective", {"activations": "selective"}))
    if recipe.activations != "recompute":
        steps.append(("activations=recompute", {"activations": "recompute"}))
    for factor in (2, 4, 8, 16, 32, 64):
        steps.append((f"accumulate={recipe.accumulate * factor}", {"accumulate": recipe.accumulate * factor}))
    for words, change in steps:
        key = words.partition("=")[0]
        so_far = [word for word in so_far if not word.startswith(f"{key}=")] + [words]
        try:
            changed = replace(changed, **change)
        except ValueError:
            continue
        yield " ".join(so_far), changed


@dataclass(frozen=True)
class _Trace:
    weights: int
    trainable: int
    largest: int
    kept: float
    flops: float


def _traced(recipe: Recipe, batch: Mapping[str, int]) -> _Trace:
    """Sizes of the method, what autograd keeps of one forward pass, and the operations of forward and backward."""
    recipe = fill_inputs(recipe, _Neutral())
    with torch.device("meta"):  # some starts, as of a truncated normal, look at what they drew
        method = build(recipe.method)
    with FakeTensorMode(allow_non_fake_inputs=True):
        method.to_empty(device="cpu")
        module = parallel.wrap(method, replace(recipe, compile=False), parallel.Place())
        held: dict[int, tuple[Any, int]] = {}
        own = {tensor.untyped_storage()._cdata for tensor in (*method.parameters(), *method.buffers())}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                held[storage._cdata] = storage, storage.nbytes()
            return tensor

        with (
            meter.step_flops() as flops,
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            parallel.autocast(recipe.precision, "cpu"),
        ):
            module(example(recipe, method, batch), Progress(0, recipe.steps))
        sizes = [sum(p.numel() for p in block.parameters()) for block in parallel.blocks(method)]
        return _Trace(
            weights=sum(parameter.numel() for parameter in method.parameters()),
            trainable=sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad),
            largest=max(sizes, default=0),
            kept=float(sum(size for _, size in held.values())),
            flops=float(flops[0]),
        )


def example(recipe: Recipe, method: Method, batch: Mapping[str, int]) -> dict[str, Samples]:
    """Blank samples of the shape that a recipe's streams bring: chips as large as the encoder's image, one date."""
    inputs = list(_inputs(recipe.method))
    side = int(getattr(method.encoder.spec, "image", 224))
    return {name: _blank(stream.layers, batch[name], side, inputs) for name, stream in recipe.streams.items()}


def _blank(layers: tuple[str, ...], count: int, side: int, inputs: list[Inputs]) -> Samples:
    pixels, bands, nodata = {}, {}, {}
    for layer in layers:
        known = next(sensor for sensor in SENSORS if sensor.prefix == layer)
        named = [one.bands for one in inputs if one.layer == layer]
        bands[layer] = named[0] if named else known.band_names
        dtype = {"uint8": torch.uint8, "uint16": torch.uint16, "int16": torch.int16}[known.dtype]
        pixels[layer] = torch.ones(count, 1, len(bands[layer]), side, side, dtype=dtype)
        nodata[layer] = known.nodata
    return Samples(
        ids=[str(number) for number in range(count)],
        layers=pixels,
        dates={layer: torch.zeros(count, 1, dtype=torch.int32) for layer in layers},
        labels={},
        lonlat=torch.zeros(count, 2),
        region=torch.zeros(count, dtype=torch.int64),
        bands=bands,
        nodata=nodata,
    )


def _inputs(model: BaseModel) -> Iterator[Inputs]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, Inputs):
            yield value
        elif isinstance(value, BaseModel):
            yield from _inputs(value)


class _Neutral(dict[str, Any]):
    """Statistics that change nothing, for any layer: sizes do not depend on them."""

    def __contains__(self, layer: object) -> bool:
        return True

    def __getitem__(self, layer: str) -> Any:
        bands = tuple(
            dict.fromkeys(band.name for sensor in SENSORS if sensor.prefix == layer for band in sensor.bands)
        )
        return bands, (0.0,) * len(bands), (1.0,) * len(bands)
