"""Pixels of many images on one grid, in as few requests to Earth Engine as its limits allow.

One request holds as many images as fit under 48 MB, 1,024 bands and 32,768 pixels a side, by the documented count with a
margin. One that the service finds too large all the same is cut in time, then in space, and never sent again as it was;
one that misses something is cut until the image that is missing stands alone.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geodata.errors import Corrupt, DataError, Missing, TooLarge, Transient
from geodata.grid import Grid
from geodata.sources.earth_engine_account import Account, Unreadable

Fields = tuple[tuple[str, str], ...]
"""Names and dtypes of the bands that come for one image, as in ("B2", "<u2")."""
Answer = NDArray[Any] | DataError
"""A structured array (H, W) with those fields, or why there is none."""

MOST_BYTES, MOST_BANDS, MOST_PIXELS = 50_331_648, 1024, 32_768
"""What one request may have: uncompressed bytes (values and a byte each for their masks), bands, pixels a side."""
_HEADER_CHARACTERS = 200 * MOST_BANDS  # numpy trusts 10,000, which the names of 300 bands exceed
MARGIN = 1.2
"""Requests are planned this much smaller: the service counts some pixels more than once."""
LEAST_PIXELS = 16
"""A piece below this side is not cut out: what is refused then is not refused for its size."""


@dataclass(frozen=True)
class Query:
    """How the images of one kind are asked for: what comes, and the expression for one asset."""

    account: Account
    fields: Fields
    image: Callable[[Any, str], Any]

    def pixels(self, assets: Sequence[str], grid: Grid) -> list[NDArray[Any]]:
        """One structured array (H, W) an asset, all in one request."""
        a, b, c, d, e, f = grid.transform
        place = {"scaleX": a, "shearX": b, "translateX": c, "shearY": d, "scaleY": e, "translateY": f}
        where = {
            "dimensions": {"width": grid.width, "height": grid.height},
            "affineTransform": place,
            "crsCode": f"EPSG:{grid.epsg}",
        }

        def asked(ee: Any) -> list[NDArray[Any]]:
            cube = ee.ImageCollection.fromImages([self.image(ee, asset) for asset in assets]).toBands()
            request = {"expression": cube, "fileFormat": "NPY", "grid": where, "workloadTag": "swath"}
            return self._decoded(ee.data.computePixels(request), len(assets), grid)

        return self.account.ask(asked)

    def _decoded(self, data: bytes, count: int, grid: Grid) -> list[NDArray[Any]]:
        try:
            answer = np.load(io.BytesIO(data), max_header_size=_HEADER_CHARACTERS)
        except (ValueError, EOFError) as error:
            raise Unreadable(f"an answer of {len(data)} bytes that is no array") from error
        wanted = {f"{number}_{name}": np.dtype(kind) for number in range(count) for name, kind in self.fields}
        given = {name: answer.dtype[name] for name in answer.dtype.names or ()}
        if answer.shape != grid.shape or given != wanted:
            raise Corrupt(
                f"{self.account.endpoint} answers with {answer.shape} pixels of {len(given)} bands "
                f"({', '.join(map(str, sorted(set(given.values()), key=str)))}) where {grid.shape} of {len(wanted)} were asked"
            )
        kinds = np.dtype(list(self.fields))
        parts = [np.empty(grid.shape, kinds) for _ in range(count)]
        for number, part in enumerate(parts):
            for name, _ in self.fields:
                part[name] = answer[f"{number}_{name}"]
        return parts


def many(query: Query, assets: Sequence[str], grid: Grid) -> list[Answer]:
    """Pixels (H, W) of each asset, or why it has none, in as few requests as the limits allow."""
    together, side = plan(query.fields, grid)
    if side < max(grid.shape):
        return _in_tiles(query, assets, grid, side)
    parts = math.ceil(len(assets) / together)
    cuts = [round(len(assets) * number / max(1, parts)) for number in range(parts + 1)]
    return [
        found
        for start, stop in itertools.pairwise(cuts)
        for found in _together(query, assets[start:stop], grid)
    ]


def _together(query: Query, assets: Sequence[str], grid: Grid) -> list[Answer]:
    """The same in one request, and in halves when that is refused: of the assets first, then of the ground."""
    try:
        return [*query.pixels(assets, grid)]
    except (TooLarge, Missing) as error:
        if len(assets) > 1:
            middle = len(assets) // 2
            return [*_together(query, assets[:middle], grid), *_together(query, assets[middle:], grid)]
        if isinstance(error, Missing):
            return [error]
        side = math.ceil(max(grid.shape) / 2)
        if side < LEAST_PIXELS:
            return [Missing(f"{assets[0]} is refused at {grid.height} x {grid.width} pixels: {error}")]
        return _in_tiles(query, assets, grid, side)
    except (Corrupt, Transient) as error:
        return [error] * len(assets)


def _in_tiles(query: Query, assets: Sequence[str], grid: Grid, side: int) -> list[Answer]:
    """The same in pieces of at most `side` pixels; an asset that lacks one piece lacks all."""
    wholes: list[Answer] = [np.empty(grid.shape, np.dtype(list(query.fields))) for _ in assets]
    for piece in grid.tiles(side):
        row, col, height, width = grid.window(piece)
        for number, found in enumerate(many(query, assets, piece)):
            one = wholes[number]
            if isinstance(found, DataError) or isinstance(one, DataError):
                wholes[number] = one if isinstance(one, DataError) else found
            else:
                one[row : row + height, col : col + width] = found
    return wholes


def itemsize(fields: Fields) -> int:
    """Bytes that a pixel moves: its values; with a byte for each value's mask, what the service counts."""
    return sum(np.dtype(kind).itemsize for _, kind in fields)


def plan(fields: Fields, grid: Grid) -> tuple[int, int]:
    """How many images on this grid fit into one request, and pixels a side where not even one does."""
    pixel = itemsize(fields) + len(fields)
    room = int(MOST_BYTES / MARGIN)
    together = min(MOST_BANDS // len(fields), room // (pixel * grid.height * grid.width))
    most = min(MOST_PIXELS, math.isqrt(room // pixel)) if together < 1 else MOST_PIXELS
    longest = max(grid.shape)
    return max(1, together), math.ceil(longest / math.ceil(longest / most))
