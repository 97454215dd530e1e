"""Features on paper: the plane that shows most of their spread, and the one that keeps neighbours together."""

from __future__ import annotations

import math

import torch
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


def neighbours(features: Tensor, perplexity: float = 30.0, steps: int = 750) -> Tensor:
    """Features (N, D) on a plane (N, 2) where neighbours stay neighbours: t-SNE (van der Maaten and Hinton 2008).

    Exact, so meant for some thousand samples at most; started from the principal plane, so nothing is random. The
    features' first 50 principal axes are looked at, as is usual.
    """
    count = len(features)
    if count < 4:
        raise ValueError(f"{count} samples have no neighbourhoods: give at least 4")
    points = principal(features, 50)[0].double()
    alike = _affinities(torch.cdist(points, points).square(), min(perplexity, (count - 1) / 3))
    plane = points[:, :2] / points[:, 0].std().clamp(min=1e-12) * 1e-4
    moving, gains = torch.zeros_like(plane), torch.ones_like(plane)
    early = min(250, steps // 3)
    for step in range(steps):
        weights = 1 / (1 + torch.cdist(plane, plane).square())
        weights.fill_diagonal_(0)
        pull = (12.0 if step < early else 1.0) * alike - weights / weights.sum().clamp(min=1e-300)
        force = pull * weights
        slope = 4 * (force.sum(1, keepdim=True) * plane - force @ plane)
        gains = torch.where(slope * moving < 0, gains + 0.2, gains * 0.8).clamp(min=0.01)
        moving = (0.5 if step < early else 0.8) * moving - max(count / 48, 50.0) * gains * slope
        plane = plane + moving
    return (plane - plane.mean(0)).float()


def _affinities(distances: Tensor, perplexity: float) -> Tensor:
    """Symmetric probabilities (N, N) of being neighbours, from squared distances: a Gaussian around each point.

    Its width is sought by bisection, so that the entropy of its neighbours is the logarithm of the perplexity.
    """
    count = len(distances)
    far = distances.clone().fill_diagonal_(math.inf)
    far = far - far.min(1, keepdim=True).values
    low, high = torch.zeros(count, 1).double(), torch.full((count, 1), math.inf).double()
    precision = 1 / far.masked_fill(far.isinf(), 0).mean(1, keepdim=True).clamp(min=1e-12)
    for _ in range(64):
        chances = torch.softmax(-precision * far, 1)
        entropy = -(chances * chances.clamp(min=1e-300).log()).sum(1, keepdim=True)
        broad = entropy > math.log(perplexity)
        low, high = torch.where(broad, precision, low), torch.where(broad, high, precision)
        precision = torch.where(high.isinf(), precision * 2, (low + high) / 2)
    return (chances + chances.T) / (2 * count)
