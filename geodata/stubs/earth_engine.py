"""A stand-in for Earth Engine's REST interface, which shows the synthetic Earth to the real client.

It serves the discovery document and the list of algorithms from the client's own test data, evaluates the expression
graphs that `sources.earth_engine` sends (`expressions`), and renders pixels on exactly the grid that is asked for. It keeps
the service's limits: 48 MB, 1,024 bands, 32,768 pixels a side, 40 requests at once.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import secrets
import threading
import time
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from geodata.grid import Grid, unproject
from geodata.stubs.archive import Frame, Unanswerable, archive
from geodata.stubs.expressions import Feature, Held, Interpreter, epsg_of
from geodata.stubs.server import Request, Response, Routes, refusal

MOST_BYTES, MOST_BANDS, MOST_PIXELS, MOST_REQUESTS = 50_331_648, 1024, 32_768, 40
TOKEN_PATH = "/oauth/token"
PROJECT = "stub-project"
"""Any project will do; this is the one that the command prints."""


def routes(seed: int = 0, *, signed: bool = False, concurrency: int | None = MOST_REQUESTS) -> Routes:
    """The stand-in for a world of that seed. With `signed`, only who holds a token from `TOKEN_PATH` is answered.

    Raises ValueError when the client, whose documents it serves, is not installed.
    """
    service = _Service(seed, signed)
    prefixes = ("/v1/", "/$discovery/", TOKEN_PATH)
    return Routes("ee", prefixes, service.answer, _kind, concurrency=concurrency)


def example(url: str) -> list[str]:
    """What to type to build the smallest corpus from here; the address is not part of the corpus."""
    source = "sources.earth_engine"
    changes = {
        "landcover.call": f"{source}.landcover",
        "sensors.1.source.call": f"{source}.sentinel2",
        "sensors.2.source.call": f"{source}.sentinel1",
    }
    return [
        f"export EARTHENGINE_URL={url} EARTHENGINE_PROJECT={PROJECT}",
        "swath curate smoke version=ee quotas.count=24 "
        + " ".join(f"{key}={call}" for key, call in changes.items()),
    ]


def _documents() -> tuple[bytes, bytes]:
    """The discovery document, as version v1, and the list of algorithms."""
    found = importlib.util.find_spec("ee")
    folder = Path((found.submodule_search_locations or [""])[0]) / "tests" if found else Path()
    try:
        discovery = (folder / "cloud_api_discovery_document.json").read_text(encoding="utf-8")
        algorithms = (folder / "algorithms.json").read_bytes()
    except OSError as error:
        raise ValueError(
            'the stand-in for Earth Engine serves documents of its client; run: pip install "swath[ee]"'
        ) from error
    return discovery.replace("v1alpha", "v1").encode(), algorithms


def _kind(request: Request) -> str:
    """Name of a request; one for pixels of several images is a cube."""
    if request.path.endswith(":computePixels"):
        return "cube" if request.body.count(b'"Image.load"') > 1 else "pixels"
    kinds = {":computeFeatures": "search", "value:compute": "value", "/algorithms": "algorithms"}
    known = [kind for end, kind in kinds.items() if request.path.endswith(end)]
    return known[0] if known else "token" if request.path == TOKEN_PATH else "discovery"


class _Service:
    def __init__(self, seed: int, signed: bool) -> None:
        self._archive, self._signed = archive(seed), signed
        self._discovery, self._algorithms = _documents()
        self._tokens: set[str] = set()
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Response:
        """See `Routes`."""
        if request.path == TOKEN_PATH:
            return self._token(request)
        if request.path.startswith("/$discovery/"):
            return Response(self._discovery)
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._signed and given not in self._tokens:
            return refusal(401, "Request is missing required authentication credential.")
        if request.path.endswith("/algorithms"):
            return Response(self._algorithms)
        try:
            return self._computed(request)
        except Unanswerable as error:
            return refusal(error.status, str(error))

    def _computed(self, request: Request) -> Response:
        asked = request.json() or {}
        if "expression" not in asked:
            raise Unanswerable(404, f"the stand-in does not answer {request.method} {request.path}")
        graph = Interpreter(self._archive, asked["expression"])
        if request.path.endswith(":computePixels"):
            return _pixels(graph.value(), asked)
        if request.path.endswith(":computeFeatures"):
            return _table(graph.value(), asked)
        return Response.of_json({"result": graph.value()})

    def _token(self, request: Request) -> Response:
        """A token for the signed claims of a service account; by whom they are signed is not checked."""
        try:
            form = urllib.parse.parse_qs(request.body.decode())
            head, claims, signature = form["assertion"][0].split(".")
            told = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
            good = head and signature and "earthengine" in told["scope"] and told["exp"] > time.time()
        except (KeyError, ValueError):
            good = False
        if not good:
            return Response.of_json({"error": "invalid_grant", "error_description": "Invalid JWT."}, 400)
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._tokens.add(token)
        return Response.of_json({"access_token": token, "expires_in": 3600, "token_type": "Bearer"})


def _pixels(value: Any, asked: Mapping[str, Any]) -> Response:
    """An image on the grid that was asked for, as a NumPy file; masked pixels are 0."""
    if not isinstance(value, Frame):
        raise Unanswerable(400, f"Expected an image, not {type(value).__name__}.")
    if asked.get("fileFormat") != "NPY":
        raise Unanswerable(400, f"the stand-in writes NPY, not {asked.get('fileFormat')!r}")
    grid, dtype = _grid(asked["grid"]), np.dtype([(band.name, band.dtype) for band in value.bands])
    counted = grid.height * grid.width * (dtype.itemsize + len(value.bands))
    if max(grid.shape) > MOST_PIXELS:
        size = f"{grid.width}x{grid.height}"
        raise Unanswerable(
            400, f"Pixel grid dimensions ({size}) must be less than or equal to {MOST_PIXELS}."
        )
    if len(value.bands) > MOST_BANDS:
        raise Unanswerable(400, f"Too many bands: {len(value.bands)}; the limit is {MOST_BANDS}.")
    if counted > MOST_BYTES:
        told = f"Total request size ({counted} bytes) must be less than or equal to {MOST_BYTES} bytes."
        raise Unanswerable(400, told)
    out = np.zeros(grid.shape, dtype)
    for band in value.bands:
        values, valid = band.look(grid)
        out[band.name] = np.where(valid, values, 0)
    file = io.BytesIO()
    np.save(file, out)
    return Response(file.getvalue(), content_type="application/octet-stream")


def _grid(asked: Mapping[str, Any]) -> Grid:
    place, size = asked["affineTransform"], asked["dimensions"]
    names = ("scaleX", "shearX", "translateX", "shearY", "scaleY", "translateY")
    a, b, c, d, e, f = (float(place.get(name, 0.0)) for name in names)
    try:
        return Grid(epsg_of(asked["crsCode"]), (a, b, c, d, e, f), int(size["height"]), int(size["width"]))
    except ValueError as error:
        raise Unanswerable(400, str(error)) from error


def _table(value: Any, asked: Mapping[str, Any]) -> Response:
    """A page of features as GeoJSON in degrees."""
    if not isinstance(value, Held):
        raise Unanswerable(400, f"Expected a collection of features, not {type(value).__name__}.")
    first, size = int(asked.get("pageToken") or 0), int(asked.get("pageSize") or 1000)
    rows = [_geojson(row) for row in value.items[first : first + size]]
    page: dict[str, Any] = {"type": "FeatureCollection", "features": rows}
    if first + size < len(value.items):
        page["nextPageToken"] = str(first + size)
    return Response.of_json(page)


def _geojson(row: Feature) -> dict[str, Any]:
    outline = None
    if row.area is not None:
        west, south, east, north = row.area.bounds
        lon, lat = unproject(
            np.array([west, east, east, west, west]),
            np.array([south, south, north, north, south]),
            row.area.epsg,
        )
        ring = [[float(x), float(y)] for x, y in zip(lon, lat, strict=True)]
        outline = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": outline, "properties": dict(row.told)}
