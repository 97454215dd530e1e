"""Planes of features, against scikit-learn's."""

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness

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


@pytest.mark.slow
def test_neighbours_stay_neighbours_and_nothing_is_random():
    rows, _ = digits(300)
    plane = projection.neighbours(rows.float())
    assert plane.shape == (300, 2)
    assert trustworthiness(rows, plane, n_neighbors=10) > 0.95
    assert trustworthiness(rows, projection.principal(rows)[0], n_neighbors=10) < 0.9
    assert torch.equal(plane, projection.neighbours(rows.float()))
    assert projection.neighbours(rows[:5].float()).isfinite().all()


def test_three_samples_have_no_neighbourhoods():
    with pytest.raises(ValueError, match="3 samples have no neighbourhoods"):
        projection.neighbours(torch.rand(3, 4))
