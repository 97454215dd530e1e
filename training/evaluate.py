"""How good a method is: its scores on held-out samples.

A method that predicts (a task on an encoder) is scored by its metric over the whole split; one that only has losses,
by their mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from geodata.errors import Missing
from training import checkpoint as checkpoints
from training.feed import Samples, once
from training.methods import Losses, Method, Progress, build
from training.metrics import Mean, Metric, SemanticChange, TopK
from training.recipe import Recipe, replace
from training.together import Chip, bands, months

__all__ = ["evaluate", "held_out", "losses", "restore"]


def restore(run_dir: Path | str, device: str = "cpu") -> tuple[Recipe, Method]:
    """The recipe of a run and its method as of the newest checkpoint. Raises Missing when there is none.

    A method that is fitted comes back as it was before: it has no checkpoint, and fitting it again takes one pass.
    """
    folder = Path(run_dir)
    found, known = checkpoints.latest(folder / "checkpoints"), folder / "recipe.json"
    recipe = Recipe.parse(known.read_text(encoding="utf-8")) if known.is_file() else None
    if recipe is not None and not recipe.steps:
        torch.manual_seed(recipe.seed)
        return recipe, build(recipe.method).to(device)
    if found is None or recipe is None:
        raise Missing(f"no checkpoint in {folder}; train there first")
    method = build(recipe.method)
    checkpoints.load(found, method, digest=recipe.digest)
    return recipe, method.to(device)


def held_out(recipe: Recipe, split: str, batch: int = 32) -> Iterator[dict[str, Samples]]:
    """Batches of another split of the recipe's streams, every sample once, whatever share of them is trained on; with
    several streams, to the shortest."""
    streams = {
        name: once(replace(stream, split=split, share=1.0), batch) for name, stream in recipe.streams.items()
    }
    for parts in zip(*streams.values(), strict=False):
        yield dict(zip(streams, parts, strict=True))


@torch.no_grad()
def evaluate(
    method: nn.Module, batches: Iterable[Mapping[str, Samples]], device: str = "cpu"
) -> dict[str, float]:
    """Scores of a method over all batches, in evaluation mode; it is left in the mode it was in.

    What a method calls its `scored` says what is one thing to be scored: a sample, a scene of which samples are chips that
    overlap, or a sample and its neighbours in time as well. Raises ValueError when there is no batch.
    """
    if not hasattr(method, "predict"):
        return losses(method, batches, device)
    model = cast(Any, method)
    scored = getattr(method, "scored", "samples")
    metric: Metric = model.metric()
    with _judged(method):
        stream = (samples for batch in _some(batches, device) for samples in batch.values())
        if scored == "scenes":
            for logits, target in bands(_chips(model, stream)):
                metric = metric.update(model.task.decide(logits[None]).cpu(), target[None])
        elif scored == "months":
            change = SemanticChange.empty(model.task.spec.classes)
            for guess, target in months(_maps(model, stream)):
                metric, change = metric.update(guess, target), change.update(guess, target)
            return metric.scores() | change.scores()
        else:
            said = model.logits if isinstance(metric, TopK) else model.predict
            for samples in stream:
                metric = metric.update(said(samples).cpu(), model.target(samples).cpu())
    return metric.scores()


def _chips(model: Any, stream: Iterable[Samples]) -> Iterator[Chip]:
    for samples in stream:
        yield from zip(samples.ids, model.logits(samples), model.target(samples), strict=True)


def _maps(model: Any, stream: Iterable[Samples]) -> Iterator[Chip]:
    for samples in stream:
        yield from zip(samples.ids, model.predict(samples), model.target(samples), strict=True)


@torch.no_grad()
def losses(
    method: nn.Module, batches: Iterable[Mapping[str, Samples]], device: str = "cpu"
) -> dict[str, float]:
    """Mean losses of a method over all batches, in evaluation mode; as `evaluate` otherwise."""
    means: dict[str, Mean] = {}
    with _judged(method):
        for batch in _some(batches, device):
            number = max(len(samples) for samples in batch.values())
            found: Losses = method(batch, Progress(1, 1))
            for name, value in {"loss": found.total, **found.parts}.items():
                means[name] = means.get(name, Mean(name)).update(value.detach().cpu().expand(number))
    return {name: score for mean in means.values() for name, score in mean.scores().items()}


@contextmanager
def _judged(method: nn.Module) -> Iterator[None]:
    was_training = method.training
    method.eval()
    yield
    method.train(was_training)


def _some(batches: Iterable[Mapping[str, Samples]], device: str) -> Iterator[dict[str, Samples]]:
    seen = 0
    for batch in batches:
        seen += 1
        yield {name: samples.to(device) for name, samples in batch.items()}
    if not seen:
        raise ValueError("nothing to evaluate: the batches are empty; choose a split that has samples")
