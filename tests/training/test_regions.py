"""Regions of the Earth against published cells, web-map tiles, and areas."""

import math

import pytest
import torch

from training.regions import NOWHERE, bounds, region

PLACES = {  # (latitude, longitude): cell of the web map's grid, of the grid of equal areas
    (0, 0): (2080, 2080),
    (39.9042, 116.4074): (1588, 756),
    (37.7749, -122.4194): (1546, 778),
    (-1.2921, 36.8219): (2086, 2086),
    (-33.8688, 151.2093): (2490, 3194),
    (78.22, 15.65): (546, 34),
    (10, 180): (1920, 1664),
    (-90, 0): (4064, 4064),
}
LONLAT = torch.tensor([(east, north) for north, east in PLACES], dtype=torch.float64)


@pytest.mark.parametrize(("law", "number"), [("xyz", 0), ("equal_area", 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_places_lie_where_they_should(law, number, dtype):
    assert region(LONLAT.to(dtype), 64, law).tolist() == [cells[number] for cells in PLACES.values()]


def test_the_grid_of_web_maps_is_that_of_their_tiles():
    generator = torch.Generator().manual_seed(0)
    lonlat = (torch.rand(500, 2, generator=generator, dtype=torch.float64) - 0.5) * torch.tensor([360, 170.0])
    for zoom in (3, 6):
        for (east, north), found in zip(lonlat.tolist(), region(lonlat, 2**zoom).tolist(), strict=True):
            radians = math.radians(north)
            x = int((east + 180) / 360 * 2**zoom)
            y = int(  # OpenStreetMap, "Slippy map tilenames"
                (1 - math.log(math.tan(radians) + 1 / math.cos(radians)) / math.pi) / 2 * 2**zoom
            )
            assert found == y * 2**zoom + x
    deep = region(lonlat, 2**14)
    x, y = deep % 2**14, deep // 2**14
    assert torch.equal(region(lonlat, 64), 64 * (y >> 8) + (x >> 8))


def test_rows_of_equal_area_have_equal_area():
    generator = torch.Generator().manual_seed(0)
    north = torch.rad2deg(torch.asin(2 * torch.rand(200_000, generator=generator, dtype=torch.float64) - 1))
    rows = region(torch.stack([torch.zeros_like(north), north], 1), 64, "equal_area") // 64
    shares = torch.bincount(rows, minlength=64) / len(north)  # of places strewn evenly over a sphere
    torch.testing.assert_close(64 * shares, torch.ones(64), rtol=0, atol=0.08)


def test_the_date_line_joins_and_a_picture_of_nowhere_has_no_region():
    east = torch.tensor([[180.0, 10], [-180.0, 10], [179.999, 10], [torch.nan, 10], [3, torch.nan]])
    found = region(east, 64)
    assert found[0] == found[1] == 1920 and found[2] == 1920 + 63
    assert found[3:].tolist() == [NOWHERE, NOWHERE]
    assert region(torch.tensor([[0.0, 90], [0, -90]]), 64).tolist() == [32, 63 * 64 + 32]


@pytest.mark.parametrize("law", ["xyz", "equal_area"])
def test_the_bounds_of_a_cell_hold_its_places_and_no_others(law):
    for cell in range(64):
        west, south, east, north = bounds(cell, 8, law)
        inside = [
            (west + 1e-6, south + 1e-6),
            (east - 1e-6, north - 1e-6),
            ((west + east) / 2, (south + north) / 2),
        ]
        assert region(torch.tensor(inside, dtype=torch.float64), 8, law).tolist() == [cell] * 3
    assert bounds(0, 8, law)[0] == -180 and bounds(0, 8, law)[3] == 90
    assert bounds(63, 8, law)[1:3] == (-90, 180)
