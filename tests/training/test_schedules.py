"""What momenta, temperatures and decays are at a step, against numpy's linspace and the values published for PerA."""

import numpy as np
import pytest

from training.methods import Progress
from training.schedules import cosine, linear


def test_the_cosine_has_the_momenta_published_for_pera():
    """520 steps an epoch, 200 epochs."""
    for epoch, expected in ((10, 0.992049), (100, 0.996), (150, 0.998828)):
        assert cosine(0.992, 1.0, Progress(epoch * 520, 200 * 520)) == pytest.approx(expected, abs=5e-7)


def test_the_linear_part_is_numpys_linspace_and_then_it_stays():
    found = [linear(0.03, 0.05, Progress(step, 100), within=0.15) for step in range(100)]
    assert found[:15] == pytest.approx(np.linspace(0.03, 0.05, 15).tolist())
    assert found[15:] == [0.05] * 85


def test_a_share_of_less_than_two_steps_is_the_end_value():
    assert linear(0.03, 0.05, Progress(0, 10), within=0.1) == 0.05
