"""What encoders know as they are: neighbours and lines at each stage, without training. No paper prints numbers by them.

GeRSP draws accuracies by stage of RESISC-45 (figure 6), whole maps flattened; here maps are averaged.
"""

from __future__ import annotations

from geodata.benchmarks import Benchmark, find
from training import probing
from training.encoders import AnyEncoder, hierarchy
from training.protocols.samples import small
from training.protocols.settings import classified, labelled
from training.recipe import Recipe
from training.views import Viewing

__all__ = [
    "aid_tr20_knn",
    "eurosat_rgb_500_knn",
    "eurosat_rgb_500_stages",
    "eurosat_rgb_tr20_knn",
    "resisc45_tr20_knn",
    "resisc45_tr20_stages",
    "ucmerced_tr50_knn",
]


def _asked(
    data: Benchmark,
    by: probing.Neighbours | probing.Stages,
    encoder: AnyEncoder | None = None,
    side: int | None = 224,
) -> Recipe:
    """Pictures of `side` pixels, by default under a ResNet-50; an encoder that is named takes its place."""
    return Recipe(
        method=probing.Spec(
            task=classified(data),
            encoder=encoder or hierarchy.resnet50(),
            by=by,
            views=Viewing(side=side, turns="none"),
        ),
        streams=labelled(data),
        batch=50,
        steps=0,
    )


def eurosat_rgb_500_knn() -> Recipe:
    """20 neighbours among 3,500 pictures."""
    data = find("eurosat_rgb_500")
    return _asked(data, probing.Neighbours(), small(data, 64), None)


def eurosat_rgb_500_stages() -> Recipe:
    """A line at each quarter of the depth."""
    data = find("eurosat_rgb_500")
    return _asked(data, probing.Stages(), small(data, 64), None)


def eurosat_rgb_tr20_knn() -> Recipe:
    """20 neighbours among a fifth of the pictures."""
    return _asked(find("eurosat_rgb_tr20_0"), probing.Neighbours(), side=64)


def resisc45_tr20_knn() -> Recipe:
    """20 neighbours among a fifth of the pictures."""
    return _asked(find("resisc45_tr20_0"), probing.Neighbours())


def resisc45_tr20_stages() -> Recipe:
    """A line at each stage."""
    return _asked(find("resisc45_tr20_0"), probing.Stages())


def aid_tr20_knn() -> Recipe:
    """20 neighbours among a fifth of the pictures."""
    return _asked(find("aid_tr20_0"), probing.Neighbours())


def ucmerced_tr50_knn() -> Recipe:
    """20 neighbours among half of the pictures."""
    return _asked(find("ucmerced_tr50_0"), probing.Neighbours())
