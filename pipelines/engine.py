"""What a run would take, in words: budgets of a recipe on GPUs, and where its steps spend their time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training import budget, profile
from training.parallel import best_device
from training.recipe import load

__all__ = ["planned", "profiled"]

Row = tuple[str, ...]
GB = 1e9


def planned(
    name: str, overrides: Sequence[str], gpus: int, memory: str
) -> tuple[list[str], list[Row], str | None]:
    """Sentences, a table (what, GB on each GPU) and what to change when the recipe does not fit (None when it does).

    Raises ValueError for a recipe, a batch or a memory that cannot be.
    """
    recipe, room = load(name, overrides), budget.bytes_of(memory)
    found = budget.estimate(recipe, gpus, room)
    held = ("parameters", "gradients", "optimizer", "activations", "gathered")
    rows: list[Row] = [(what, f"{getattr(found, what) / GB:.2f}") for what in held]
    rows += [("in all", f"{found.total / GB:.2f}"), ("room", f"{found.room / GB:.2f}")]
    kind = recipe.parallel.kind if gpus > 1 else "single"
    lines = [
        f"{recipe.name}: {found.trainable:,} trainable parameters, batch {recipe.batch} in {recipe.accumulate} parts on "
        f"{gpus} x {memory}, {recipe.precision}, {kind}, activations {recipe.activations}",
        f"a step takes about {found.seconds:.3g} s ({found.samples_per_second:,.0f} samples/s), the whole run "
        f"{found.seconds * recipe.steps / 86400:.3g} days: assumed {budget.UTILISATION:.0%} of an H200's peak and "
        f"{budget.LINK / GB:.0f} GB/s between GPUs",
    ]
    return lines, rows, budget.advice(recipe, gpus, room)


def profiled(
    name: str, overrides: Sequence[str], folder: Path, steps: int, *, gpu: bool
) -> tuple[list[Row], list[str]]:
    """A table (stage, milliseconds a step, share) and the files written."""
    recipe = load(name, overrides)
    device = best_device() if gpu else "cpu"
    found = profile.profiled(recipe, folder, steps=steps, device=device)
    rows: list[Row] = [*found.rows(), ("step", f"{1000 * found.step:.1f}", "100%")]
    return rows, [str(folder / "profile.json"), str(folder / "trace.json")]
