"""One process or many: joining them, replicating or sharding the model, precision, accumulation.

The loop is the same everywhere. What differs is here: with DDP each process holds a replica, with FSDP2 a shard, and
one process holds the model itself. CPU processes talk through gloo, GPUs through NCCL.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from training.methods import Losses, Method
from training.recipe import Ddp, Fsdp, Recipe, Single

__all__ = [
    "Place",
    "accumulating",
    "autocast",
    "barrier",
    "blocks",
    "forgetful",
    "joined",
    "mean_over_ranks",
    "wrap",
]


@dataclass(frozen=True)
class Place:
    """Where this process stands: `rank` of `world`, computing on `device`."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"


def best_device() -> str:
    """cuda where there is a GPU, else cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def joined(device: str | None = None) -> Iterator[Place]:
    """The place torchrun gives this process (RANK, WORLD_SIZE, LOCAL_RANK), or the only one; leaves the group after."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    kind = device or best_device()
    if world == 1:
        yield Place(device=kind)
        return
    if kind == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(local)
        kind = f"cuda:{local}"
    dist.init_process_group("nccl" if kind.startswith("cuda") else "gloo")
    try:
        yield Place(dist.get_rank(), dist.get_world_size(), kind)
    finally:
        dist.destroy_process_group()


def wrap(method: Method, recipe: Recipe, place: Place) -> nn.Module:
    """What the loop calls in place of `method`: the same parameters, with gradients averaged over all ranks.

    Layers keep, or compute again, what their backward pass needs, as the recipe's `activations` say. Raises ValueError when
    `single` is given company.
    """
    if recipe.activations != "keep":
        for block in blocks(method):
            forgetful(block, selective=recipe.activations == "selective")
    module = _joined_up(method, recipe, place)
    if recipe.compile:
        module.compile()
    return module


def _joined_up(method: Method, recipe: Recipe, place: Place) -> nn.Module:
    settings = recipe.parallel
    if place.world == 1:
        return method
    if isinstance(settings, Single):
        raise ValueError(
            f"parallel.kind=single runs in one process, not {place.world}; set parallel.kind=ddp or one worker"
        )
    if isinstance(settings, Ddp):
        kept = [name for name, _ in method.named_buffers() if not _counts(method, name)]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(method, kept)
        return DistributedDataParallel(method, find_unused_parameters=settings.find_unused)
    return _sharded(method, settings, recipe.precision, place)


def _counts(method: Method, name: str) -> bool:
    """Whether a buffer is a batch statistic, which each rank takes of its own samples and rank 0's are to hold for all.

    Others (queues, centres, prototypes) are alike on all ranks by what their owners do; sending gigabytes of them ahead of
    every forward pass would change nothing.
    """
    return isinstance(method.get_submodule(name.rpartition(".")[0]), nn.modules.batchnorm._BatchNorm)


def _sharded(method: Method, settings: Fsdp, precision: str, place: Place) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if Losses not in pytree.SUPPORTED_NODES:
        pytree.register_pytree_node(Losses, lambda given: ([given.total], given.parts), _again)
    mesh = init_device_mesh(torch.device(place.device).type, (place.world,))
    travel = torch.bfloat16 if precision == "bf16" else None  # gathered in halves, gradients summed in wholes
    policy = MixedPrecisionPolicy(param_dtype=travel, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in blocks(method):
        fully_shard(block, mesh=mesh, reshard_after_forward=settings.reshard, mp_policy=policy)
    return cast(nn.Module, fully_shard(method, mesh=mesh, mp_policy=policy))


_PRODUCTS = (
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
)
"""What costs most to compute again: matrix products and attention. Norms and activations are cheap."""


def forgetful(block: nn.Module, *, selective: bool) -> None:
    """Let a layer drop what its backward pass needs and compute it again then: all, or all but the products."""
    context: dict[str, Any] = {}
    if selective:

        def policy(_: Any, operation: Any, *arguments: Any, **named: Any) -> CheckpointPolicy:
            kept = operation in _PRODUCTS
            return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

        context["context_fn"] = partial(create_selective_checkpoint_contexts, policy)
    if "respect_saved_tensors_hooks" in inspect.signature(checkpoint).parameters:  # newer than torch 2.11
        context["respect_saved_tensors_hooks"] = True  # so that what is kept can be counted
    forward = block.forward

    def again(*given: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*given, **named)
        return checkpoint(forward, *given, use_reentrant=False, **context, **named)

    block.forward = again


def _again(leaves: Iterable[Any], parts: dict[str, Tensor]) -> Losses:
    (total,) = leaves
    return Losses(total, parts)


def blocks(module: nn.Module) -> list[nn.Module]:
    """What is gathered, or computed again, one at a time: the members of the outermost stacks, each once."""
    return list({id(block): block for block in _members(module)}.values())


def _members(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            yield from (block for block in child if next(block.parameters(), None) is not None)
        else:
            yield from _members(child)


def autocast(precision: Literal["fp32", "bf16"], device: str) -> AbstractContextManager[object]:
    """The forward pass in bfloat16 where that is safe, or untouched. Parameters stay float32 either way."""
    return torch.autocast(torch.device(device).type, torch.bfloat16) if precision == "bf16" else nullcontext()


@contextmanager
def accumulating(module: nn.Module, *, last: bool) -> Iterator[None]:
    """Around one of several backward passes of a step: gradients travel between ranks only with the last."""
    if isinstance(module, DistributedDataParallel) and not last:
        with module.no_sync():
            yield
        return
    sync = getattr(module, "set_requires_gradient_sync", None)
    if sync is not None:
        sync(last)
    yield


def mean_over_ranks(values: Tensor, world: int) -> Tensor:
    """The element-wise mean over all ranks; every rank must call."""
    if world > 1:
        dist.all_reduce(values)
    return values / world


def barrier(world: int) -> None:
    """Wait until every rank is here."""
    if world > 1:
        dist.barrier()
