"""Planes of features, against scikit-learn's."""

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness

from training import projection


def digits(count):
    rows, classes = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    return rows[:count] / 16, classes[:count]


def test_principal_axes_are_scikit_learns_up_to_direction():
    rows, _ = digits(300)
    places, shares = projection.principal(rows, 3)
    peer = PCA(3, svd_solver="full").fit(rows)
    expected = torch.from_numpy(peer.transform(rows)).float()
    sign = (places * expected).sum(0).sign()
    torch.testing.assert_close(places, expected * sign, atol=1e-4, rtol=0)
    torch.testing.assert_close(shares, torch.from_numpy(peer.explained_variance_ratio_).float())
    assert torch.equal(places, projection.principal(rows, 3)[0])


def test_affinities_have_the_perplexity_asked_for():
    rows, _ = digits(80)
    alike = projection._affinities(torch.cdist(rows, rows).square().double(), 12.0)
    assert alike.sum().item() == pytest.approx(1.0)
    torch.testing.assert_close(alike, alike.T)
    far = torch.full((50, 50), 1.0).double()  # all equally far: every other point is a neighbour
    even = projection._affinities(far.fill_diagonal_(0), 49.0)
    torch.testing.assert_close(even, (1 - torch.eye(50).double()) / (50 * 49), atol=1e-6, rtol=0)


def test_neighbours_stay_neighbours_as_well_as_in_scikit_learns_exact_tsne():
    rows, _ = digits(200)
    plane = projection.neighbours(rows, perplexity=20, steps=400)
    peer = TSNE(perplexity=20, method="exact", init="pca", max_iter=400).fit(rows)
    ours = trustworthiness(rows, plane, n_neighbors=10)
    theirs = trustworthiness(rows, peer.embedding_, n_neighbors=10)
    assert ours > theirs - 0.01 > 0.93
    assert divergence(rows, plane) < peer.kl_divergence_ + 0.05
    assert torch.equal(plane, projection.neighbours(rows, perplexity=20, steps=400))


def divergence(rows, plane):
    """Kullback and Leibler's, of the neighbourhoods on the plane from those of the features."""
    alike = projection._affinities(torch.cdist(rows, rows).square().double(), 20.0)
    near = 1 / (1 + torch.cdist(plane, plane).square().double())
    near.fill_diagonal_(0)
    near /= near.sum()
    off = ~torch.eye(len(rows), dtype=torch.bool)
    return float((alike[off] * (alike[off] / near[off]).log()).sum())


def test_three_samples_have_no_neighbourhoods():
    with pytest.raises(ValueError, match="3 samples have no neighbourhoods"):
        projection.neighbours(torch.rand(3, 4))
