"""A stand-in for servers of web map tiles: pictures of the synthetic Earth in EPSG:3857, by z/x/y and by quadkey.

It behaves as such servers do: past the zoom that the imagery has, tiles are enlarged from coarser ones; past the last
zoom, and over ground that nobody photographed, comes a picture that says so; without a key comes 401, with a
wrong one 403. A tile is cut from the camera's own pixels in the UTM zone of its middle, which neighbours share, so there
are no seams within a zone.
"""

from __future__ import annotations

import functools
import hashlib
import io
import math
import re
from datetime import date

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rasterio.warp import transform_bounds

from geodata import webmercator
from geodata.earth import camera
from geodata.grid import Grid, utm_epsg
from geodata.source import warp
from geodata.stubs.server import Request, Response, Routes, refusal

DAY = date(2020, 6, 20)
"""When all of its pictures were taken, though it does not say so."""
QUALITY = 85
_LADDER = tuple(10.0 / 2**step for step in range(6))
"""GSDs the camera renders at, 10 to 0.3125 m."""
_BAND_DEGREES = 8.0  # of latitude, within which all tiles of a zoom are rendered at one GSD
_COARSEST_M = 20.0  # on the ground; beyond it the camera sees nothing
_MARGIN = 4
_CELL_ZOOM = 12  # places without imagery are tiles of this zoom
_FORMATS = {"png": "PNG", "jpg": "JPEG"}
_PATHS = (
    r"/tiles/(?P<z>\d+)/(?P<x>\d+)/(?P<y>\d+)(?P<twice>@2x)?\.(?P<ext>png|jpg)",
    r"/quad/(?P<quadkey>[0-3]+)\.(?P<ext>png|jpg)",
)


def routes(
    seed: int = 0,
    *,
    key: str = "",
    native_zoom: int = 19,
    last_zoom: int = 21,
    empty: float = 0.0,
    concurrency: int | None = None,
) -> Routes:
    """The stand-in, for `server.serve`: URL/tiles/{z}/{x}/{y}.png (or .jpg, or @2x.png) and URL/quad/{quadkey}.jpg.

    With a `key`, it must be sent as ?key=. `empty` is the share (0 to 1) of places without imagery.
    """
    stand_in = _Tiles(seed, key, native_zoom, last_zoom, empty)
    return Routes("tiles", ("/tiles/", "/quad/"), stand_in.answer, lambda _: "tile", concurrency=concurrency)


class _Tiles:
    def __init__(self, seed: int, key: str, native_zoom: int, last_zoom: int, empty: float) -> None:
        self._seed, self._key, self._empty = seed, key, empty
        self._native_zoom, self._last_zoom = native_zoom, last_zoom
        self._picture = functools.lru_cache(maxsize=256)(self._made)

    def answer(self, request: Request) -> Response:
        found = next((match for path in _PATHS if (match := re.fullmatch(path, request.path))), None)
        if found is None:
            return refusal(404, f"no tile at {request.path}")
        if self._key and "key" not in request.query:
            return refusal(401, "No API key was sent.")
        if self._key and request.query["key"] != self._key:
            return refusal(403, "The API key is not valid.")
        values = found.groupdict()
        if values.get("quadkey"):
            zoom, x, y = _of_quadkey(values["quadkey"])
        else:
            zoom, x, y = (int(values[name]) for name in ("z", "x", "y"))
        if zoom not in webmercator.ZOOMS or not (0 <= x < 2**zoom and 0 <= y < 2**zoom):
            return refusal(404, f"zoom {zoom} has no tile {x}, {y}")
        size = 512 if values.get("twice") else 256
        pixels = self._picture(zoom, x, y, size)
        if pixels is None:
            return refusal(404, "no tile so coarse, or so near a pole")
        file = io.BytesIO()
        Image.fromarray(np.moveaxis(pixels, 0, -1)).save(file, _FORMATS[values["ext"]], quality=QUALITY)
        return Response(file.getvalue(), 200, "image/jpeg" if values["ext"] == "jpg" else "image/png")

    def _made(self, zoom: int, x: int, y: int, size: int) -> NDArray[np.uint8] | None:
        """Pixels (3, size, size), or None where there is no such tile."""
        if zoom > self._last_zoom or self._is_empty(zoom, x, y):
            return placeholder(size)
        if zoom > self._native_zoom:
            return self._enlarged(zoom, x, y, size)
        return rendered(webmercator.grid_of(zoom, x, y, 1, size), self._seed)

    def _enlarged(self, zoom: int, x: int, y: int, size: int) -> NDArray[np.uint8] | None:
        """The part of a coarser tile that holds this one, bilinear, as servers do."""
        steps = zoom - self._native_zoom
        whole = self._picture(self._native_zoom, x >> steps, y >> steps, size)
        if whole is None:
            return None
        side = size >> steps
        left, top = (x % (1 << steps)) * side, (y % (1 << steps)) * side
        picture = Image.fromarray(np.moveaxis(whole, 0, -1))
        box = (left, top, left + side, top + side)
        return np.moveaxis(np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box)), -1, 0)

    def _is_empty(self, zoom: int, x: int, y: int) -> bool:
        steps = zoom - _CELL_ZOOM
        if steps < 0 or not self._empty:
            return False
        digest = hashlib.sha256(f"{self._seed} {x >> steps} {y >> steps}".encode()).digest()
        return int.from_bytes(digest[:4], "little") < self._empty * 2**32


def rendered(grid: Grid, seed: int = 0) -> NDArray[np.uint8] | None:
    """The Earth (3, H, W) on a grid in EPSG:3857; None where it is coarser than the camera, or beyond UTM's latitudes."""
    lon, lat = grid.centre()
    middle = min((math.floor(lat / _BAND_DEGREES) + 0.5) * _BAND_DEGREES, 83.9)
    if not -80.0 <= lat <= 84.0 or grid.gsd * math.cos(math.radians(lat)) > _COARSEST_M:
        return None
    finest = grid.gsd * math.cos(math.radians(middle))
    gsd = next((step for step in _LADDER if step <= finest), _LADDER[-1])
    epsg = utm_epsg(lon, lat)
    west, south, east, north = transform_bounds(f"EPSG:{grid.epsg}", f"EPSG:{epsg}", *grid.bounds)
    left, top = math.floor(west / gsd) - _MARGIN, math.ceil(north / gsd) + _MARGIN
    width, height = math.ceil(east / gsd) + _MARGIN - left, top - math.floor(south / gsd) + _MARGIN
    native = Grid(epsg, (gsd, 0.0, left * gsd, 0.0, -gsd, top * gsd), height, width)
    return warp(
        camera.optical(native, DAY, seed), native.affine(), epsg, grid, nodata=0, categorical=False
    ).astype(np.uint8)


def placeholder(size: int = 256) -> NDArray[np.uint8]:
    """The picture (3, size, size) that stands for no imagery: grey, with a few darker bars."""
    pixels = np.full((3, size, size), 204, np.uint8)
    for row in range(size // 4, 3 * size // 4, size // 8):
        pixels[:, row : row + size // 32, size // 4 : 3 * size // 4] = 170
    return pixels


def _of_quadkey(text: str) -> tuple[int, int, int]:
    digits = [int(digit) for digit in text]
    x = sum((digit & 1) << place for place, digit in enumerate(reversed(digits)))
    y = sum((digit >> 1) << place for place, digit in enumerate(reversed(digits)))
    return len(digits), x, y
