"""STAC items, wherever they are kept: behind an API, or in the files of a static catalog; and leave to open their assets.

Three small protocols of the outside world, and no more of them than curation needs: `POST /search` with its paging,
links of catalogs, and the tokens that Azure puts behind addresses. Written on `transport` rather than on a client
library, because those try again by themselves, for minutes and for each process alone.
"""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from geodata.errors import Corrupt, Denied, Missing
from geodata.governor import Limits
from geodata.grid import Bounds
from geodata.source import Period, at_home
from geodata.transport import Http

Json = dict[str, Any]

API_LIMITS = Limits(concurrency=4, per_second=10.0)
"""What is asked of an API at once and in a second; public ones state no numbers and answer 429."""
SAS_LIMITS = Limits(concurrency=2, per_second=5.0)
PAGE = 250
"""Items in an answer; the services allow up to 1,000, and are slow then."""
MOST = 20_000
"""Items of one search beyond which the question was not the one that was meant."""
FRESH_S = 60.0
"""A token with less time than this left is renewed before it is used (seconds)."""


class Items(Protocol):
    """Where items come from."""

    def collection(self) -> Json:
        """What is said of all items together: licence, providers; empty when nothing is."""
        ...

    def search(self, bounds: Bounds, period: Period) -> list[Json]:
        """Items that may meet bounds (degrees) and period, each once, in no order that means anything."""
        ...

    def item(self, item_id: str) -> Json:
        """One item by its id. Raises Missing."""
        ...


@dataclass(frozen=True)
class Api:
    """A collection behind a STAC API. `root` is the address that `/search` is appended to."""

    root: str
    name: str
    http: Http

    @classmethod
    def at(cls, root: str, name: str) -> Api:
        """Raises ValueError when `root` is no web address."""
        host = urllib.parse.urlsplit(root).netloc
        if not root.startswith(("http://", "https://")) or not host:
            raise ValueError(f"a STAC API has an address that begins with https://, not {root!r}; mend `api`")
        return cls(root.rstrip("/"), name, Http(f"{host} (items)", API_LIMITS))

    def collection(self) -> Json:
        """See `Items`. Raises Missing when the API has none of that name."""
        return _feature(self.http.get(f"{self.root}/collections/{self.name}").json(), "Collection", self.root)

    def item(self, item_id: str) -> Json:
        """See `Items`."""
        quoted = urllib.parse.quote(item_id, safe="")
        url = f"{self.root}/collections/{self.name}/items/{quoted}"
        return _feature(self.http.get(url).json(), "Feature", url)

    def search(self, bounds: Bounds, period: Period) -> list[Json]:
        """See `Items`. Follows pages to their end; raises Corrupt when they lead nowhere, ValueError past `MOST`."""
        until = period.last - timedelta(days=1)
        asked: Json = {
            "collections": [self.name],
            "bbox": list(bounds),
            "datetime": f"{period.first}T00:00:00Z/{until}T23:59:59.999999Z",
            "limit": PAGE,
        }
        found: dict[str, Json] = {}
        for page in self._pages(asked):
            for item in page:
                found[str(item["id"])] = item
            if len(found) > MOST:
                raise ValueError(
                    f"{self.root} lists more than {MOST} items of {self.name} in {bounds} and {period}; "
                    f"ask for a shorter period"
                )
        return list(found.values())

    def _pages(self, asked: Json) -> Iterator[list[Json]]:
        url, body, method = f"{self.root}/search", asked, "POST"
        seen = set()
        while url:
            question = f"{method} {url} {json.dumps(body, sort_keys=True)}"
            if question in seen:
                raise Corrupt(f"the pages of {self.root}/search lead back to a page that was read; report it")
            seen.add(question)
            answer = (self.http.post(url, body) if method == "POST" else self.http.get(url)).json()
            features = _feature(answer, "FeatureCollection", url).get("features") or []
            yield [_feature(item, "Feature", url) for item in features]
            link = next((one for one in answer.get("links") or [] if one.get("rel") == "next"), None)
            if link is None or not features:
                return
            method = str(link.get("method", "GET")).upper()
            sent = link.get("body") or {}
            body = {**body, **sent} if link.get("merge") else sent or body
            url = urllib.parse.urljoin(url, str(link["href"]))


class Catalog:
    """A static catalog: a tree of JSON files (or one GeoJSON of items), here or on the web, read once as a whole."""

    def __init__(self, root: str, name: str = "") -> None:
        """`name` keeps the items of one collection. Nothing is read yet."""
        self._root, self._name = at_home(root), name
        host = urllib.parse.urlsplit(root).netloc
        self._http = Http(f"{host} (items)", API_LIMITS) if host else None
        self._lock = threading.Lock()
        self._items: dict[str, Json] = {}
        self._collection: Json | None = None

    def collection(self) -> Json:
        """See `Items`."""
        self._read_all()
        return self._collection or {}

    def item(self, item_id: str) -> Json:
        """See `Items`."""
        self._read_all()
        if item_id not in self._items:
            raise Missing(f"catalog {self._root} has no item {item_id}; it was taken out, or the id is wrong")
        return self._items[item_id]

    def search(self, bounds: Bounds, period: Period) -> list[Json]:
        """See `Items`: all items whose box meets the bounds; dates are left to the caller."""
        self._read_all()
        return [item for item in self._items.values() if _boxes_meet(item.get("bbox"), bounds)]

    def _read_all(self) -> None:
        with self._lock:
            if self._items:
                return
            items: dict[str, Json] = {}
            waiting, seen = [self._root], set()
            while waiting:
                where = waiting.pop()
                if where in seen:
                    continue
                seen.add(where)
                waiting += self._taken(self._json(where), where, items)
                if len(items) > MOST:
                    raise ValueError(f"catalog {self._root} has more than {MOST} items; serve it by an API")
            if not items:
                named = f" of collection {self._name}" if self._name else ""
                raise Missing(f"catalog {self._root} holds no items{named}; check the path and the name")
            self._items = items

    def _taken(self, one: Json, where: str, items: dict[str, Json]) -> list[str]:
        """Take what a file holds, and name the files it leads to."""
        kind = one.get("type")
        if kind == "FeatureCollection":
            for item in one.get("features") or []:
                self._taken(item, where, items)
            return []
        if kind == "Feature":
            if self._name in ("", one.get("collection", "")):
                items[str(one["id"])] = _with_whole_addresses(one, where)
            return []
        if kind == "Collection" and self._name in ("", one.get("id")):
            self._collection = self._collection or one
        links = [link for link in one.get("links") or [] if link.get("rel") in ("child", "item", "items")]
        return [_joined(where, str(link["href"])) for link in links]

    def _json(self, where: str) -> Json:
        if self._http is not None:
            return _feature(self._http.get(where).json(), None, where)
        try:
            return _feature(json.loads(Path(where).read_bytes()), None, where)
        except OSError as error:
            raise Missing(
                f"{where} of the catalog cannot be read ({error.strerror}); check the path"
            ) from error
        except ValueError as error:
            raise Corrupt(f"{where} of the catalog is no JSON ({error}); write it again") from error


def _feature(value: Any, kind: str | None, where: str) -> Json:
    """A JSON object of a type of STAC's, or Corrupt."""
    told = value.get("type") if isinstance(value, dict) else type(value).__name__
    lacks_id = kind in ("Feature", "Collection") and isinstance(value, dict) and not value.get("id")
    if not isinstance(value, dict) or (kind is not None and told != kind) or lacks_id:
        raise Corrupt(
            f"{where} answers with {told!r} where STAC has {kind or 'an object'}; check the address"
        )
    return value


def _with_whole_addresses(item: Json, where: str) -> Json:
    assets = {
        name: {**asset, "href": _joined(where, str(asset["href"]))}
        for name, asset in (item.get("assets") or {}).items()
        if asset.get("href")
    }
    return {**item, "assets": assets}


def _joined(where: str, href: str) -> str:
    """An address in a file of a catalog, which may be relative to that file."""
    if "://" in href or href.startswith("/vsi"):
        return href
    if "://" in where:
        return urllib.parse.urljoin(where, href)
    return os.path.normpath(os.path.join(os.path.dirname(where), href))


def _boxes_meet(box: Any, bounds: Bounds) -> bool:
    if not box:
        return True
    west, south, east, north = box if len(box) == 4 else (box[0], box[1], box[3], box[4])
    across = west < bounds[2] and east > bounds[0]
    if west > east:  # the item crosses the antimeridian
        across = bounds[2] > west or bounds[0] < east
    return bool(across and south < bounds[3] and north > bounds[1])


@dataclass(frozen=True)
class _Token:
    text: str
    until: float


class Signer:
    """Tokens for Azure blob storage: one for each account and container, renewed before it ends.

    Addresses are signed when they are opened and never kept signed. `service` answers GET /{account}/{container}
    with {"token", "msft:expiry"}; `key` is a subscription's, which gets more. Addresses that lie in no storage
    account stay as they are. On the host of the service itself the account is the first part of the path.
    """

    def __init__(self, service: str, key: str = "") -> None:
        self._service = service.rstrip("/")
        self._host = urllib.parse.urlsplit(service).netloc
        self._http = Http(f"{self._host} (tokens)", SAS_LIMITS, secrets=[key])
        self._headers = {"Ocp-Apim-Subscription-Key": key} if key else {}
        self._lock = threading.Lock()
        self._tokens: dict[tuple[str, str], _Token] = {}

    def signed(self, href: str) -> str:
        """The address with a token that lives for at least `FRESH_S`. Raises as `Http.get`."""
        where = self._storage(href)
        if where is None:
            return href
        with self._lock:  # one asks, the others wait for its answer
            token = self._tokens.get(where)
            if token is None or token.until - time.time() < FRESH_S:
                token = self._tokens[where] = self._asked(*where)
        return f"{href}{'&' if '?' in href else '?'}{token.text}"

    def signs(self, href: str) -> bool:
        """Whether an address needs a token."""
        return self._storage(href) is not None

    def forget(self) -> None:
        """Ask for new tokens from now on."""
        with self._lock:
            self._tokens.clear()

    def _storage(self, href: str) -> tuple[str, str] | None:
        parts = urllib.parse.urlsplit(href)
        path = parts.path.strip("/").split("/")
        if parts.netloc.endswith(".blob.core.windows.net"):
            return parts.netloc.partition(".")[0], path[0]
        if parts.netloc == self._host and len(path) > 2:
            return path[0], path[1]
        return None

    def _asked(self, account: str, container: str) -> _Token:
        url = f"{self._service}/{account}/{container}"
        answer = self._http.get(url, headers=self._headers).json()
        try:
            until = datetime.fromisoformat(answer["msft:expiry"]).timestamp()
            return _Token(str(answer["token"]), until)
        except (KeyError, TypeError, ValueError):
            raise Denied(
                f"{url} answers without a token and its 'msft:expiry'; check PC_SDK_SAS_URL"
            ) from None


def text_of(values: Mapping[str, Any], *names: str) -> str | None:
    """The first of these properties that is there, as text."""
    return next((str(values[name]) for name in names if values.get(name) is not None), None)
