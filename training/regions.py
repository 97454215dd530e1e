"""Where on Earth: the cell of a coarse grid that a place belongs to, by which geographic context is kept.

Two grids of `side` x `side` cells, numbered row by row from the north-west. `xyz` is that of web maps (side = 2 ** zoom, so 64
is zoom 6, and a tile's cell is its own number shifted), `equal_area` has rows of equal area.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

__all__ = ["NOWHERE", "Law", "bounds", "region"]

Law = Literal["xyz", "equal_area"]

NOWHERE = -1
"""The region of a picture that lies nowhere."""

MERCATOR_LIMIT = 85.0511287798
"""The latitude, in degrees, at which the square of web maps ends."""


def region(lonlat: Tensor, side: int, law: Law = "xyz") -> Tensor:
    """Cells (B,) int64 of places lonlat (B, 2) in degrees east and north: side * row + column; NOWHERE for nan.

    Beyond the poleward limit a place belongs to the outermost row.
    """
    east, north = lonlat.double().unbind(-1)
    column = ((east + 180) / 360 * side).floor() % side
    if law == "xyz":
        radians = torch.deg2rad(north.clamp(-MERCATOR_LIMIT, MERCATOR_LIMIT))
        height = torch.asinh(radians.tan()) / math.pi  # 1 in the north to -1 in the south
    else:
        height = torch.deg2rad(north).sin()
    row = ((1 - height) / 2 * side).floor().clamp(0, side - 1)
    cell = side * row + column
    return torch.where(cell.isnan(), NOWHERE, cell).long()


def bounds(region: int, side: int, law: Law = "xyz") -> tuple[float, float, float, float]:
    """West, south, east and north of a cell in degrees, the outermost rows to the poles."""
    row, column = divmod(region, side)

    def latitude(edge: int) -> float:
        if edge in (0, side):
            return 90.0 if edge == 0 else -90.0
        height = 1 - 2 * edge / side
        radians = math.atan(math.sinh(height * math.pi)) if law == "xyz" else math.asin(height)
        return math.degrees(radians)

    west = 360 * column / side - 180
    return west, latitude(row + 1), west + 360 / side, latitude(row)
