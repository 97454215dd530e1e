"""Pictures from servers of web map tiles that you have the right to use: `{z}/{x}/{y}` or quadkeys, 256 or 512 pixels.

No server is named here, and none is asked until its terms are acknowledged by name: most basemaps may be looked at but
not stored, and which is which only their contract says. So a provider states its licence, who accepted it and when;
that goes with every row, and rows may be handed on only when the provider says so. Requests are slow by default, carry
the project's own name, and stop the run when they are refused.

A chip on the lattice of the tiles keeps their original bytes and is not resampled; any other is warped once from the
tiles under it. The zoom follows from the chip's GSD on the ground, so that one corpus does not mix GSDs by latitude.
Nobody says when such a picture was taken: scenes have no date.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rasterio.warp import transform_bounds

from geodata import webmercator
from geodata.codec import Encoded, decoded
from geodata.errors import Corrupt, DataError, Denied, Missing
from geodata.governor import Limits
from geodata.grid import Bounds, Grid
from geodata.sensors import OPTICAL, Sensor
from geodata.source import Ask, ImagerySource, Period, Raster, Scene, Value, warp
from geodata.transport import Http, Verdict, judge_http, redacted

Pictures = NDArray[np.uint8]

MOST_TILES = 1024
"""Tiles of one chip beyond which the zoom cannot be what was meant."""
_MARGIN = 3
"""Pixels around a chip that its warp may reach."""
_WORLD: Bounds = (
    -webmercator.HALF_M,
    -webmercator.HALF_M,
    webmercator.HALF_M,
    webmercator.HALF_M,
)
_FIELDS = ("z", "x", "y", "quadkey", "key")
_SIGNS = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}
_TILE_BYTES = {256: 18e3, 512: 60e3}
"""A JPEG tile of land, on average."""


class Acknowledged(BaseModel):
    """That somebody has read the terms and may store these tiles: who, under what licence or contract, and when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    who: str = Field(min_length=1)
    what: str = Field(min_length=1)
    date: date


class Provider(BaseModel):
    """A server of tiles. `template` has {z}, {x} and {y} or {quadkey}, and {key} for the key in variable `key_env`.

    `tile` is the side of a tile in pixels; a tile of 512 pixels covers the ground of one of 256 at the same zoom.
    `placeholders` are SHA-256 of pictures that stand for "no imagery". `redistribute` says that rows may be handed on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[\w .()-]+$")
    template: str
    license: str = Field(min_length=1)
    attribution: str = Field(min_length=1)
    license_ack: Acknowledged
    redistribute: bool = False
    key_env: str = ""
    tile: Literal[256, 512] = 256
    min_zoom: int = Field(default=0, ge=0, le=26)
    max_zoom: int = Field(default=19, ge=0, le=26)
    placeholders: tuple[str, ...] = ()
    per_second: float = Field(default=2.0, gt=0)
    connections: int = Field(default=2, ge=1)

    def checked(self) -> Provider:
        """Itself. Raises ValueError when the address cannot work or gives the key away."""
        fields = set(re.findall(r"\{([^{}]*)\}", self.template))
        whole = {"x", "y", "z"} <= fields or "quadkey" in fields
        if not self.template.startswith(("http://", "https://")) or not whole or fields - {*_FIELDS}:
            raise ValueError(
                f"provider {self.name}: a template is an http(s) address with {{z}}, {{x}} and {{y}} or {{quadkey}}, and "
                f"{{key}} where there is one, not {redacted(self.template)!r}; mend it"
            )
        bare = self.template.replace("{key}", "")
        if redacted(bare) != bare:
            raise ValueError(
                f"provider {self.name}: the template holds a key in plain text, which would be written into the "
                f"manifest; write {{key}} there and name an environment variable in `key_env`"
            )
        if ("key" in fields) != bool(self.key_env):
            lacks = "`key_env` names no variable" if "key" in fields else "the template has no {key}"
            raise ValueError(f"provider {self.name}: {lacks}; a key needs both or neither")
        return self


def tiles(providers: Sequence[Mapping[str, Any]], *, gsd: float = OPTICAL.gsd) -> ImagerySource:
    """Red, green and blue from servers of web tiles; each provider is a scene of every chip whose zoom it has.

    `providers` are fields of `Provider`; keys come from the environment. `gsd` is what the sensor is taken to have where
    a chip does not say (metres). Raises ValueError for a provider that is not described in full or whose licence nobody
    acknowledged, Denied when a key is not in the environment.
    """
    known = [_provider(values) for values in providers]
    names = [one.name for one in known]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"providers are called {names}; name at least one in `providers`, each by a name of its own"
        )
    servers = {one.name: _Server.of(one) for one in known}
    return TileSource(replace(OPTICAL, gsd=gsd), servers)


def _provider(values: Mapping[str, Any]) -> Provider:
    name = str(values.get("name", "without a name"))
    if not values.get("license_ack"):
        raise ValueError(
            f"provider {name}: nobody has acknowledged its licence; read its terms and state "
            f"license_ack={{who, what, date}}, or choose imagery that may be stored"
        )
    try:
        return Provider.model_validate(values).checked()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "provider"
        raise ValueError(f"provider {name}: {where}: {first['msg'].lower()}; mend it") from None


@dataclass(frozen=True)
class _Server:
    """A provider, its key and how it is asked."""

    provider: Provider
    key: str = field(repr=False)
    http: Http = field(repr=False)

    @classmethod
    def of(cls, provider: Provider) -> _Server:
        key = os.environ.get(provider.key_env, "") if provider.key_env else ""
        if provider.key_env and not key:
            raise Denied(
                f"provider {provider.name} needs a key in the environment variable {provider.key_env}, which is not "
                f"set; export it"
            )
        host = urllib.parse.urlsplit(provider.template).hostname or provider.name
        limits = Limits(provider.connections, provider.per_second)
        http = Http(f"{provider.name} ({host})", limits, max_bytes=16 * 2**20, secrets=[key], judge=_judge)
        return cls(provider, key, http)

    def fetch(self, zoom: int, x: int, y: int) -> bytes:
        """The file of one tile. Raises Missing, Transient, Denied or Corrupt, in words without the key."""
        template = self.provider.template
        values = {"z": str(zoom), "x": str(x), "y": str(y), "key": urllib.parse.quote(self.key, safe="")}
        if "{quadkey}" in template:
            values["quadkey"] = webmercator.quadkey(zoom, x, y)
        url = re.sub(r"\{(\w+)\}", lambda found: values[found[1]], template)
        body = self.http.get(url).body
        if not body:
            raise Missing(f"{self.provider.name} has no picture of tile {zoom}/{x}/{y}; choose another place")
        return body


def _judge(status: int, body: str, headers: Mapping[str, str]) -> Verdict:
    """As for any service, but that a refusal is one: 403 ends the run whatever it says."""
    verdict = judge_http(status, body, headers)
    return replace(verdict, kind="denied") if status == 403 else verdict


@dataclass(frozen=True)
class _Need:
    """The tiles under a chip: the zoom, the first column and row, how many; and where the chip lies in them.

    `inside` is the chip's first row and column among the mosaic's pixels, None when it must be warped.
    """

    zoom: int
    x: int
    y: int
    rows: int
    columns: int
    inside: tuple[int, int] | None

    @classmethod
    def of(cls, grid: Grid, size: int) -> _Need:
        """For tiles of `size` pixels. Raises Missing beyond the square world, ValueError for a chip of too many tiles."""
        exact = _on_pixels(grid, size)
        if exact is not None:
            zoom, top, left = exact
            x, y = left // size, top // size
            rows = -(-(top + grid.height) // size) - y
            columns = -(-(left + grid.width) // size) - x
            need = cls(zoom, x, y, rows, columns, (top - y * size, left - x * size))
        else:
            zoom = zoom_of(grid, size)
            pixel = 2.0 * webmercator.HALF_M / (size * 2**zoom)
            west, south, east, north = transform_bounds(
                f"EPSG:{grid.epsg}", f"EPSG:{webmercator.EPSG}", *grid.bounds
            )
            margin = _MARGIN * pixel
            x, y, rows, columns = webmercator.window(
                (west - margin, south - margin, east + margin, north + margin), zoom
            )
            need = cls(zoom, x, y, rows, columns, None)
        if need.y < 0 or need.y + need.rows > 2**zoom or need.columns < 1:
            raise Missing(f"chip {grid.bounds} of EPSG:{grid.epsg} reaches beyond the map of web tiles")
        if need.rows * need.columns > MOST_TILES:
            raise ValueError(
                f"a chip of {grid.height} x {grid.width} pixels of {grid.gsd:g} m lies on {need.rows} x {need.columns} "
                f"tiles, more than {MOST_TILES}; cut smaller chips"
            )
        return need


def zoom_of(grid: Grid, size: int = webmercator.TILE) -> int:
    """The zoom whose GSD on the ground is nearest to a grid's, for tiles of `size` pixels."""
    _, lat = grid.centre()
    gsd = grid.gsd
    if grid.epsg == webmercator.EPSG:
        gsd *= float(np.cos(np.radians(lat)))
    return int(webmercator.zoom_for(gsd, lat, size))


def _on_pixels(grid: Grid, size: int) -> tuple[int, int, int] | None:
    """(zoom, row, column) of a grid's first pixel when its pixels are those of a zoom; None for any other."""
    zoom = zoom_of(grid, size)
    pixel = 2.0 * webmercator.HALF_M / (size * 2**zoom)
    if grid.epsg != webmercator.EPSG or abs(grid.gsd / pixel - 1) > 1e-9:
        return None
    left = (grid.origin[0] + webmercator.HALF_M) / pixel
    top = (webmercator.HALF_M - grid.origin[1]) / pixel
    if max(abs(left - round(left)), abs(top - round(top))) > 1e-3:
        return None
    return zoom, round(top), round(left)


@dataclass(eq=False)
class TileSource:
    """Implements `ImagerySource` and `Priced` over servers of tiles; made by `tiles`."""

    sensor: Sensor
    servers: Mapping[str, _Server]

    @property
    def limits(self) -> Limits:
        """See `Served`: of the most patient provider."""
        return max((one.http.limits for one in self.servers.values()), key=lambda limits: limits.concurrency)

    def search(self, grid: Grid, period: Period) -> list[Scene]:
        """The providers that have the zoom of this grid, by name; the period is not known and not asked for."""
        scenes = []
        for name in sorted(self.servers):
            provider = self.servers[name].provider
            zoom = zoom_of(grid, provider.tile)
            if provider.min_zoom <= zoom <= provider.max_zoom:
                scenes.append(self._scene(provider, zoom))
        return scenes

    def by_ids(self, scene_ids: Sequence[str]) -> list[Scene]:
        """The scenes of these ids. Raises Missing for a provider that is no longer described."""
        scenes = []
        for scene_id in scene_ids:
            name, _, zoom = scene_id.rpartition("/z")
            if name not in self.servers or not zoom.isdigit():
                raise Missing(f"no provider here is that of scene {scene_id}; add it to `providers` again")
            scenes.append(self._scene(self.servers[name].provider, int(zoom)))
        return scenes

    def read(self, scene: Scene, grid: Grid) -> Raster:
        """The provider's pictures on exactly this grid, with their original files where they are the whole chip.

        Raises Missing where there are none, Denied when the provider refuses (which ends the run), Transient, and
        Corrupt when a tile is no picture of the stated size.
        """
        server = self.servers.get(str(scene.get("provider")))
        if server is None:
            raise Missing(f"no provider here is that of scene {scene.scene_id}; add it to `providers` again")
        size = server.provider.tile
        need = _Need.of(grid, size)
        files = self._fetched(server, need)
        kinds = [_kind(file, scene.scene_id) for file in files]
        pixels = _stitched(files, kinds, need, size, scene.scene_id)
        if need.inside is None:
            return self._warped(pixels, need, size, grid)
        top, left = need.inside
        values = pixels[:, top : top + grid.height, left : left + grid.width]
        encoded = None
        if values.shape == pixels.shape and len(set(kinds)) == 1:
            rows = [files[row * need.columns : (row + 1) * need.columns] for row in range(need.rows)]
            encoded = Encoded(kinds[0], tuple(tuple(row) for row in rows))
        values = np.ascontiguousarray(values)
        return Raster(values, values.max(axis=0) > 0, grid, self.sensor.band_names, encoded=encoded)

    def cost(self, scene_count: int, grid: Grid) -> Ask:
        """See `Priced`: one request a tile."""
        asks = []
        for server in self.servers.values():
            need = _Need.of(grid, server.provider.tile)
            count = need.rows * need.columns * scene_count
            asks.append(Ask(count, count * _TILE_BYTES[server.provider.tile]))
        return Ask(sum(ask.requests for ask in asks) / len(asks), sum(ask.bytes for ask in asks) / len(asks))

    def _scene(self, provider: Provider, zoom: int) -> Scene:
        ack = provider.license_ack
        properties: dict[str, Value] = {
            "provider": provider.name,
            "zoom": zoom,
            "fetched": datetime.now(UTC).date().isoformat(),
            "license": f"{provider.license} (acknowledged by {ack.who} on {ack.date}: {ack.what})",
            "attribution": provider.attribution,
            "redistribute": provider.redistribute,
            "placeholders": " ".join(provider.placeholders),
        }
        return Scene(
            f"{provider.name}/z{zoom}",
            self.sensor.name,
            None,
            webmercator.EPSG,
            _WORLD,
            properties=tuple(properties.items()),
        )

    def _fetched(self, server: _Server, need: _Need) -> list[bytes]:
        """The tiles' files, row by row: one, and when that is allowed as many at once as the provider allows."""
        count = 2**need.zoom
        places = [
            (need.zoom, (need.x + column) % count, need.y + row)
            for row, column in product(range(need.rows), range(need.columns))
        ]
        files = [server.fetch(*places[0])]
        if server.provider.connections == 1 or len(places) < 3:
            return files + [server.fetch(*place) for place in places[1:]]
        with ThreadPoolExecutor(min(server.provider.connections, len(places) - 1)) as pool:
            waiting = [pool.submit(server.fetch, *place) for place in places[1:]]
            try:
                return files + [one.result() for one in waiting]
            except DataError:
                pool.shutdown(cancel_futures=True)
                raise

    def _warped(self, pixels: Pictures, need: _Need, size: int, grid: Grid) -> Raster:
        mosaic = webmercator.grid_of(need.zoom, need.x, need.y, 1, size)
        there = pixels.max(axis=0) > 0
        seen = np.where(there, np.maximum(pixels, 1), 0).astype(np.uint8)  # black is a colour, 0 is no data
        values = warp(
            seen,
            mosaic.affine(),
            webmercator.EPSG,
            grid,
            nodata=self.sensor.nodata,
            categorical=False,
        )
        return Raster(values, values.max(axis=0) > 0, grid, self.sensor.band_names, resampled=True)


def _kind(file: bytes, scene_id: str) -> str:
    """The media type by a file's first bytes: what servers say of it is often wrong."""
    for sign, kind in _SIGNS.items():
        if file.startswith(sign):
            return kind
    raise Corrupt(
        f"{scene_id} answers {redacted(file[:60].decode('latin-1'))!r}, which is no JPEG, PNG or WebP; check the template"
    )


def _stitched(
    files: Sequence[bytes], kinds: Sequence[str], need: _Need, size: int, scene_id: str
) -> Pictures:
    out = np.empty((3, need.rows * size, need.columns * size), np.uint8)
    for number, (file, kind) in enumerate(zip(files, kinds, strict=True)):
        pixels = decoded(Encoded(kind, ((file,),)))
        if pixels.shape != (3, size, size):
            raise Corrupt(
                f"{scene_id} answers with tiles of {pixels.shape[2]} x {pixels.shape[1]} pixels where {size} x {size} are "
                f"stated; mend `tile`"
            )
        row, column = divmod(number, need.columns)
        out[:, row * size : (row + 1) * size, column * size : (column + 1) * size] = pixels
    return out
