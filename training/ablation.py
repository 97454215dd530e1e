"""What every method of PerA's tables 8 to 13 is trained with, written once so that only the method differs."""

from __future__ import annotations

from training.methods import MethodSpec
from training.recipe import Cosine, Optimizer, Recipe, Stream

__all__ = ["like_pera"]


def like_pera(method: MethodSpec) -> Recipe:
    """100,000 tiles of 512 pixels (TOV), 200 epochs of 520 steps, and the optimizer of PerA's repository.

    Its rate never goes with the batch, and its decay reaches everything that learns.
    """
    return Recipe(
        method=method,
        streams={"scenes": Stream(corpus="runs/corpora/tov_100k@1", layers=("hr",))},
        batch=192,
        steps=200 * 520,
        optim=Optimizer(
            lr_per_256=1e-3,
            batch_power=0.0,
            weight_decay=0.04,
            weight_decay_end=0.2,
            decay="all",
            betas=(0.9, 0.999),
            eps=2e-5,
            clip=3.0,
        ),
        schedule=Cosine(warmup=0.1, floor=1e-3, inclusive=True),
        precision="bf16",
    )
