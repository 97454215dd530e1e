"""Deformable attention against bilinear reading written out, and against the numbers of another implementation."""

import math

import pytest
import torch
from golden import hash_weights, hashed
from torch import Tensor

from training.deformable import DeformableAttention, centres, sampled

SIZES = [(8, 6), (4, 3), (2, 2)]
CELLS = sum(height * width for height, width in SIZES)


def read(image: Tensor, x: float, y: float) -> Tensor:
    """Cell values (C,) of an image (h, w, C) at x, y of 0..1, bilinearly; cells outside are 0."""
    height, width, channels = image.shape
    column, row = x * width - 0.5, y * height - 0.5
    total = torch.zeros(channels, dtype=image.dtype)
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            if 0 <= r < height and 0 <= c < width:
                total += (1 - abs(row - r)) * (1 - abs(column - c)) * image[r, c]
    return total


def test_what_is_read_is_bilinear_and_nothing_lies_outside():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, CELLS, 2, 3, generator=generator, dtype=torch.float64)
    where = torch.rand(2, 5, 2, 3, 2, 2, generator=generator, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.rand(2, 5, 2, 3, 2, generator=generator, dtype=torch.float64)
    wanted = torch.zeros(2, 5, 2, 3, dtype=torch.float64)
    for image in range(2):
        for head in range(2):
            first = 0
            for scale, (height, width) in enumerate(SIZES):
                cells = values[image, first : first + height * width, head].unflatten(0, (height, width))
                first += height * width
                for query in range(5):
                    for point in range(2):
                        x, y = where[image, query, head, scale, point].tolist()
                        weight = weights[image, query, head, scale, point]
                        wanted[image, query, head] += weight * read(cells, x, y)
    found = sampled(values, SIZES, where, weights)
    assert found.shape == (2, 5, 6)
    torch.testing.assert_close(found, wanted.flatten(2), rtol=0, atol=1e-12)


def test_another_implementations_numbers_come_out():
    """transformers 4.57.6, DeformableDetrMultiscaleDeformableAttention, weights hashed from our names, float64."""
    attention = DeformableAttention(16, scales=3, heads=4, points=2).double()
    hash_weights(attention)
    queries, cells = hashed(3, 2 * 7 * 16).reshape(2, 7, 16), hashed(5, 2 * CELLS * 16).reshape(2, CELLS, 16)
    places = centres([(7, 1)], queries.device).double()
    found = attention(queries, places, cells, SIZES)
    assert found.sum().item() == pytest.approx(-10.636923155225494, rel=1e-9)
    assert found.square().sum().item() == pytest.approx(9.04188630788847, rel=1e-9)
    assert found[0, 0, 0].item() == pytest.approx(-0.21787292606575998, rel=1e-9)
    assert found[1, 6, 15].item() == pytest.approx(-0.11092982003624748, rel=1e-9)


def test_a_cells_own_place_reads_that_cell():
    values = torch.randn(1, CELLS, 1, 4, dtype=torch.float64)
    first = 0
    for scale, size in enumerate(SIZES):
        count = size[0] * size[1]
        places = centres([size], values.device).double()
        where = places[None, :, None, None, None].expand(1, count, 1, 3, 1, 2)
        weights = torch.zeros(1, count, 1, 3, 1, dtype=torch.float64)
        weights[:, :, :, scale] = 1
        found = sampled(values, SIZES, where, weights)
        torch.testing.assert_close(found, values[:, first : first + count, 0], rtol=0, atol=1e-5)
        first += count


def test_it_starts_by_looking_around_in_all_directions():
    attention = DeformableAttention(8, scales=2, heads=8, points=3)
    steps = attention.offsets.bias.detach().unflatten(0, (8, 2, 3, 2))
    right, corner, down = steps[0, 0], steps[1, 1], steps[2, 0]
    torch.testing.assert_close(right, torch.tensor([[1.0, 0], [2, 0], [3, 0]]))
    torch.testing.assert_close(corner, torch.tensor([[1.0, 1], [2, 2], [3, 3]]))
    torch.testing.assert_close(down, torch.tensor([[0.0, 1], [0, 2], [0, 3]]), atol=1e-6, rtol=0)


def test_gradients_reach_where_it_looks():
    attention = DeformableAttention(8, scales=1, heads=2)
    cells, queries = torch.randn(1, 16, 8), torch.randn(1, 16, 8)
    attention(queries, centres([(4, 4)], cells.device), cells, [(4, 4)]).square().sum().backward()
    assert attention.offsets.weight.grad.abs().sum() > 0
    assert attention.weights.weight.grad.abs().sum() > 0


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="3 heads do not divide 8"):
        DeformableAttention(16, scales=1, heads=3, ratio=0.5)
