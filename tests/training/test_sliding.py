"""Sliding windows against a loop over pixels."""

import pytest
import torch
import torch.nn.functional as F

from training.sliding import offsets, sliding


@pytest.mark.parametrize(
    ("length", "size", "stride", "expected"),
    [
        (10, 4, 3, [0, 3, 6]),
        (11, 4, 3, [0, 3, 6, 7]),  # the last is flush with the end
        (12, 4, 4, [0, 4, 8]),
        (4, 4, 2, [0]),
        (3, 4, 2, [0]),
        (5, 4, 4, [0, 1]),
    ],
)
def test_windows_begin_every_stride_and_end_flush(length, size, stride, expected):
    assert offsets(length, size, stride) == expected


def edges(images: torch.Tensor) -> torch.Tensor:
    """Two classes whose logits depend on where a window ends."""
    return F.conv2d(images, torch.ones(2, 3, 3, 3) * torch.tensor([1.0, -0.5]).view(2, 1, 1, 1), padding=1)


@pytest.mark.parametrize(
    ("height", "width", "size", "stride"),
    [(9, 13, 5, 3), (8, 8, 4, 4), (3, 10, 4, 2), (3, 2, 8, 5), (7, 5, 5, 1)],
)
def test_logits_are_the_mean_over_every_window_that_covers_a_pixel(height, width, size, stride):
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    tops = [*range(0, max(height - size, 0), stride), max(height - size, 0)]
    lefts = [*range(0, max(width - size, 0), stride), max(width - size, 0)]
    expected = torch.zeros(2, 2, height, width)
    for row in range(height):
        for column in range(width):
            found = [
                edges(images[:, :, top : top + size, left : left + size])[:, :, row - top, column - left]
                for top in tops
                for left in lefts
                if top <= row < top + size and left <= column < left + size
            ]
            expected[:, :, row, column] = sum(found) / len(found)
    torch.testing.assert_close(sliding(edges, images, size, stride, classes=2), expected)


def test_one_window_over_everything_is_the_function_itself():
    images = torch.randn(1, 3, 6, 6)
    assert torch.equal(sliding(edges, images, 6, 6, classes=2), edges(images))


def test_what_looks_at_single_pixels_does_not_notice_the_windows():
    images = torch.randn(1, 3, 20, 17)

    def pointwise(part: torch.Tensor) -> torch.Tensor:
        return torch.stack([part.sum(1), part.prod(1)], 1)

    torch.testing.assert_close(sliding(pointwise, images, 8, 5, classes=2), pointwise(images))


@pytest.mark.parametrize("stride", [0, 6])
def test_windows_that_leave_gaps_are_refused(stride):
    with pytest.raises(ValueError, match="leave gaps or never move"):
        offsets(20, 5, stride)
