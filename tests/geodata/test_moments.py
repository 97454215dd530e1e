"""Sums of pixels against numpy's mean and deviation, and against Python's whole numbers where floats would round."""

from datetime import date

import numpy as np
import pytest

from geodata.moments import Moments, add_moments
from geodata.sample import Layer
from geodata.sensors import LANDCOVER, OPTICAL, SENTINEL1, SENTINEL2, Sensor


def layer(known: Sensor, low: int, high: int, shape: tuple[int, int, int], seed: int = 0) -> Layer:
    times, height, width = shape
    pixels = np.random.default_rng(seed).integers(low, high, (times, len(known.bands), height, width))
    days = tuple(date(2020, 1, 1 + day) for day in range(times))
    return Layer(known, pixels.astype(known.dtype), days, tuple(map(str, days)), "made")


def counted(one: Layer) -> Moments:
    """Band by band in Python's own integers."""
    bands = [one.pixels[:, band].ravel().tolist() for band in range(one.pixels.shape[1])]
    kept = [[value for value in band if value != one.sensor.nodata] for band in bands]
    return Moments(
        tuple(map(len, kept)),
        tuple(map(sum, kept)),
        tuple(sum(value * value for value in band) for band in kept),
    )


@pytest.mark.parametrize(
    ("known", "low", "high", "shape"),
    [
        (SENTINEL2, 0, 4, (3, 16, 16)),  # many pixels without data
        (SENTINEL2, 65_530, 65_536, (5, 96, 64)),  # the largest squares
        (SENTINEL2, 1, 9000, (1, 300, 301)),  # more than a block, and not a whole number of rows
        (SENTINEL1, -32_768, 32_768, (2, 48, 48)),
        (OPTICAL, 0, 256, (1, 70, 30)),
        (LANDCOVER, 250, 256, (1, 9, 7)),
    ],
)
def test_sums_are_those_of_whole_numbers(known, low, high, shape):
    one = layer(known, low, high, shape)
    found = Moments.of(one)
    assert found == counted(one)
    assert all(type(value) is int for value in (*found.count, *found.total, *found.square))


def test_moments_are_numpys_over_valid_pixels_and_add_exactly():
    layers = [layer(SENTINEL2, 0, 4000, (2, 16, 16), seed) for seed in range(3)]
    total = Moments.of(layers[0]) + Moments.of(layers[1]) + Moments.of(layers[2])
    for band in range(10):
        pixels = np.concatenate([one.pixels[:, band].ravel() for one in layers]).astype(np.float64)
        pixels = pixels[pixels != 0]
        assert total.count[band] == pixels.size
        assert np.isclose(total.mean()[band], pixels.mean()) and np.isclose(total.std()[band], pixels.std())
    parts = [{"train": {"s2": Moments.of(one)}} for one in layers]
    assert add_moments(parts) == add_moments(parts[::-1]) == {"train": {"s2": total}}
