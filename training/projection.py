"""Features on paper: the plane that shows most of their spread, and the one that keeps neighbours together."""

from __future__ import annotations

import torch
from sklearn.manifold import TSNE
from torch import Tensor

__all__ = ["neighbours", "principal"]


def principal(features: Tensor, count: int = 2) -> tuple[Tensor, Tensor]:
    """Features (N, D) on their `count` principal axes (N, count), and the share of variance each axis carries (count,).

    An axis points to where its largest loading is positive, which its mathematics leaves open.
    """
    centred = features.double() - features.double().mean(0)
    left, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    largest = axes.abs().argmax(1, keepdim=True)
    places = left * sizes * axes.gather(1, largest)[:, 0].sign()
    shares = sizes.square() / sizes.square().sum().clamp(min=1e-30)
    return places[:, :count].float(), shares[:count].float()


def neighbours(features: Tensor, perplexity: float = 30.0) -> Tensor:
    """Features (N, D) on a plane (N, 2) where neighbours stay neighbours: t-SNE (van der Maaten and Hinton 2008).

    Of the features' first 50 principal axes, as is usual, and started from the first two, so that nothing is random.
    """
    count = len(features)
    if count < 4:
        raise ValueError(f"{count} samples have no neighbourhoods: give at least 4")
    points = principal(features, 50)[0].numpy()
    made = TSNE(perplexity=min(perplexity, (count - 1) / 3), init="pca", random_state=0).fit_transform(points)
    return torch.from_numpy(made)
