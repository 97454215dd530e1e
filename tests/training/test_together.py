"""Chips of a scene put together equal sliding over the scene; months of a place come in order."""

import pytest
import torch

from geodata.benchmarks import tile_id
from training.sliding import offsets, sliding
from training.together import bands, months


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Conv2d(3, 4, 5, padding=2)  # says other things at a window's border than inside a scene


@torch.no_grad()
def test_chips_put_together_are_what_sliding_over_the_scene_says():
    model = network()
    scenes = {name: torch.rand(1, 3, high, wide) for name, high, wide in (("a", 70, 50), ("b", 32, 40))}
    targets = {name: torch.randint(4, image.shape[-2:]) for name, image in scenes.items()}

    def chips():
        for name, image in scenes.items():
            height, width = image.shape[-2:]
            for row in offsets(height, 32, 24):
                for column in offsets(width, 32, 24):
                    part = (slice(row, row + 32), slice(column, column + 32))
                    logits = model(image[..., part[0], part[1]])[0]
                    yield tile_id("set", name, row, column), logits, targets[name][part]

    rows = list(bands(chips()))
    height = {name: image.shape[-2] for name, image in scenes.items()}
    logits, target = (
        torch.cat(parts, dim)
        for parts, dim in (([one[0][..., :40] for one in rows], 1), ([one[1][..., :40] for one in rows], 0))
    )
    assert len(rows) > 2 and max(one.shape[0] for _, one in rows) <= 32 + 24
    for name, first in (("a", 0), ("b", height["a"])):
        whole = sliding(model, scenes[name], 32, 24, 4)[0]
        torch.testing.assert_close(logits[:, first : first + height[name]], whole[..., :40])
        assert torch.equal(target[first : first + height[name]], targets[name][:, :40])


def test_a_chip_that_is_missing_leaves_pixels_that_no_score_counts():
    chip = torch.ones(2, 8, 8), torch.zeros(8, 8, dtype=torch.int64)
    names = [tile_id("set", "a", row, column) for row in (0, 8) for column in (0, 8)]
    rows = list(bands((name, *chip) for name in names if name != names[0]))
    target = torch.cat([one[1] for one in rows])
    assert target.shape == (16, 16)
    assert (target[:8, :8] == 255).all() and (target == 255).sum() == 64


def test_chips_out_of_order_are_refused():
    chip = torch.ones(2, 8, 8), torch.zeros(8, 8, dtype=torch.int64)
    up = [tile_id("set", "a", 8, 0), tile_id("set", "a", 0, 0)]
    with pytest.raises(ValueError, match="lies above chips that came before"):
        list(bands((name, *chip) for name in up))
    apart = [tile_id("set", name, 0, 0) for name in "aba"]
    with pytest.raises(ValueError, match="scene set-a come apart"):
        list(bands((name, *chip) for name in apart))
    with pytest.raises(ValueError, match="does not say where it was cut"):
        list(bands([("picture", *chip)]))


def test_months_of_a_place_come_in_order_and_places_apart():
    def one(name, value):
        return name, torch.full((2, 2), value), torch.full((2, 2), value)

    given = [one("x-2018-02", 1), one("x-2018-01", 0), one("x-2018-10", 2), one("y-2018-01", 7)]
    found = [guess[:, 0, 0].tolist() for guess, _ in months(given)]
    assert found == [[0, 1, 2], [7]]
    with pytest.raises(ValueError, match="does not end in a month"):
        list(months([one("x", 0)]))
