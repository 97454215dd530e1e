"""A small web server for stand-ins of services, with scripted faults and counters: stdlib only, on this machine only.

A stand-in is a module of this folder with a function `routes(...) -> Routes`: which paths are its own, what each
request is called, what it answers, and how its service words a refusal. `serve` mounts any number of them on one
port. Everything that may go wrong on the way is added here, so a stand-in knows no faults:

    def routes(seed: int = 0) -> Routes:
        return Routes("tiles", ("/xyz/",), answer, kind=lambda request: "tile")

    with serve([tiles.routes(), stac.routes()], faults="full") as stub:
        requests.get(f"{stub.url}/xyz/3/4/5.png")
        stub.stats()["requests"]["tiles tile"]

Faults are a name in `PRESETS`, a JSON file, or a list of `Rule`. They strike by what was asked, not by when: whether a
request is struck follows from a hash of it (and the rule), and how often from `times`. The same request therefore
passes when it is tried again, and a run with 24 threads meets the same faults as a run with one.

`GET /stub/stats` answers with the counters, as JSON.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

Fault = Literal[
    "429", "500", "503", "slow", "truncated", "closed", "memory", "size", "404", "401", "403", "restricted"
]
MESSAGES: Mapping[str, str] = MappingProxyType(
    {
        "429": "Too Many Requests: Request was rejected because the request rate or concurrency limit was exceeded.",
        "500": "An internal error has occurred",
        "503": "The service is currently unavailable.",
        "memory": "User memory limit exceeded.",
        "size": "Total request size (50331649 bytes) must be less than or equal to 50331648 bytes.",
        "404": "Not found: the asset does not exist or the caller may not see it.",
        "401": "Request had invalid authentication credentials.",
        "403": "The caller does not have permission",
    }
)
STATUS: Mapping[str, int] = MappingProxyType({"memory": 400, "size": 400})
RESTRICTED = ("x-earth-engine-quota-status", "parallelism_restricted=true")
LOOPBACK = "127.0.0.1"


class Rule(BaseModel):
    """One fault: which requests it strikes, and how often each of them.

    `match` is a regular expression looked for in "NAME KIND METHOD /path" ("ee pixels POST /v1/..."). Of what
    matches, the first `after` requests pass, then at most `count` are struck in all (None: no end); of those, `share`
    (0 to 1) chosen by their hash, each on its first `times` attempts (None: always). `seconds` is how long 'slow'
    waits, and the Retry-After of '429' and '503' where it is not 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fault: Fault
    match: str = ""
    share: float = Field(default=1.0, ge=0.0, le=1.0)
    times: int | None = Field(default=1, ge=1)
    after: int = Field(default=0, ge=0)
    count: int | None = Field(default=None, ge=1)
    seconds: float = Field(default=0.0, ge=0.0)


_FULL = (
    Rule(fault="429", match="pixels|cube|search|item|tile|file", count=12),
    Rule(fault="429", share=0.05, times=2),
    Rule(fault="429", share=0.03, seconds=0.2),
    Rule(fault="503", share=0.05),
    Rule(fault="500", share=0.02),
    Rule(fault="slow", share=0.03, seconds=0.3),
    Rule(fault="truncated", share=0.04),
    Rule(fault="closed", share=0.04),
    Rule(fault="memory", match="^ee cube", share=0.1, times=None),
    Rule(fault="size", match="^ee cube", share=0.1, times=None),
    Rule(fault="404", match="^ee cube", share=0.05, times=None),
)
PRESETS: Mapping[str, tuple[Rule, ...]] = MappingProxyType(
    {
        "none": (),
        "full": _FULL,
        "expired": (Rule(fault="401", after=40, times=None),),
        "restricted": (Rule(fault="restricted", share=0.2, times=None),),
    }
)
"""`full` is every fault that a client must survive without losing a pixel: bursts of 429, 500, 503, slow and broken
answers, and refusals of cubes that go through in parts. What ends a run is a script of its own: `expired`."""


def script(faults: str | Path | Iterable[Rule | Mapping[str, Any]]) -> tuple[Rule, ...]:
    """Rules from a preset's name, a JSON file, or a list. Raises ValueError for anything else."""
    if isinstance(faults, str) and faults in PRESETS:
        return PRESETS[faults]
    try:
        if isinstance(faults, str | Path):
            return tuple(_RULES.validate_json(Path(faults).read_bytes()))
        return tuple(_RULES.validate_python([*faults]))
    except FileNotFoundError as error:
        raise ValueError(
            f"{str(faults)!r} is neither a fault script ({', '.join(PRESETS)}) nor a file; give one of them"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"fault script: {where or 'the list'}: {first['msg']}") from error


_RULES = TypeAdapter(list[Rule])


@dataclass(frozen=True)
class Request:
    """What a client sent. Header names are lower case; `query` holds the last value of each name."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON, None when it is empty. Raises ValueError when it is something else."""
        return json.loads(self.body) if self.body else None

    def digest(self) -> str:
        """The same for the same question, whoever asks and whatever was answered before."""
        wanted = self.headers.get("range", "")
        text = "\n".join(
            [self.method, self.path, *(f"{k}={v}" for k, v in sorted(self.query.items())), wanted]
        )
        return hashlib.sha256(text.encode() + b"\n" + self.body).hexdigest()


@dataclass(frozen=True)
class Response:
    """What a stand-in answers. A 200 with `ranges` is cut to the bytes that a Range header asks for."""

    body: bytes = b""
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    ranges: bool = False

    @classmethod
    def of_json(cls, values: Any, status: int = 200) -> Response:
        """A JSON answer."""
        return cls(json.dumps(values).encode(), status)


def refusal(status: int, message: str) -> Response:
    """A refusal as Google's services word it; others may bring their own as `Routes.refuse`."""
    words = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
    words |= {429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}
    told = {"code": status, "message": message, "status": words.get(status, "INTERNAL")}
    return Response.of_json({"error": told}, status)


@dataclass(frozen=True)
class Routes:
    """One stand-in: its paths (a prefix that ends with '/' stands for all below it), its answers, its words.

    `kind` names a request for counters and fault scripts, as in "pixels" or "tile". `concurrency` is how many
    requests at once the service allows; it answers 429 to those beyond. Exceptions of `answer` become a 500 that
    says what happened.
    """

    name: str
    prefixes: tuple[str, ...]
    answer: Callable[[Request], Response]
    kind: Callable[[Request], str] = lambda request: "request"
    refuse: Callable[[int, str], Response] = refusal
    concurrency: int | None = None

    def owns(self, path: str) -> bool:
        """Whether a path is one of its own."""
        return any(
            path == prefix or (prefix.endswith("/") and path.startswith(prefix)) for prefix in self.prefixes
        )


class Stub:
    """A running server: its address, its counters, and the faults it is to show. Made by `serve`."""

    def __init__(self, routes: Sequence[Routes], rules: Sequence[Rule], port: int, host: str) -> None:
        self._routes = tuple(routes)
        self._lock = threading.Lock()
        self._rules: tuple[Rule, ...] = tuple(rules)
        self._forget()
        self._server = _Server((host, port), _Exchange)
        self._server.stub = self
        self.port = int(self._server.server_address[1])
        self.url = f"http://{host}:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="stub", daemon=True
        )
        self._thread.start()

    def show(self, faults: str | Path | Iterable[Rule | Mapping[str, Any]]) -> None:
        """Follow another fault script from now on, and count from zero."""
        rules = script(faults)
        with self._lock:
            self._rules = rules
            self._forget()

    def stats(self) -> dict[str, Any]:
        """Counters since the start or the last `show`: `requests` and `errors` (answers that were the stand-in's own
        refusals) by "NAME kind", `faults` by fault, `peak` and `now` (requests at the same time) by NAME, `bytes` sent."""
        with self._lock:
            return {
                "requests": dict(self._requests),
                "errors": dict(self._errors),
                "faults": dict(self._faults),
                "peak": dict(self._peak),
                "now": {name: number for name, number in self._now.items() if number},
                "bytes": self._bytes,
            }

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(self) -> None:
        """Serve until the process is told to stop."""
        self._thread.join()

    def _forget(self) -> None:
        self._requests: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._peak: dict[str, int] = {}
        self._now: Counter[str] = Counter()
        self._bytes = 0
        self._matched: Counter[int] = Counter()
        self._struck: Counter[int] = Counter()
        self._attempts: Counter[tuple[int, str]] = Counter()

    def _answer(self, request: Request) -> tuple[Response, Rule | None]:
        """What to send, and the fault to show while sending it."""
        if request.path == "/stub/stats":
            return Response.of_json(self.stats()), None
        routes = next((one for one in self._routes if one.owns(request.path)), None)
        if routes is None:
            here = ", ".join(prefix for one in self._routes for prefix in one.prefixes)
            return refusal(404, f"nothing is served at {request.path}; served are {here}"), None
        kind = f"{routes.name} {routes.kind(request)}"
        with self._lock:
            self._requests[kind] += 1
            self._now[routes.name] += 1
            now = self._now[routes.name]
            self._peak[routes.name] = max(self._peak.get(routes.name, 0), now)
            rule = self._strikes(f"{kind} {request.method} {request.path}", request)
        try:
            return self._reply(routes, request, kind, now, rule)
        finally:
            with self._lock:
                self._now[routes.name] -= 1

    def _reply(
        self, routes: Routes, request: Request, kind: str, now: int, rule: Rule | None
    ) -> tuple[Response, Rule | None]:
        if rule is not None and rule.fault == "slow":
            time.sleep(rule.seconds)
        if rule is not None and rule.fault in MESSAGES:
            response = routes.refuse(STATUS.get(rule.fault) or int(rule.fault), MESSAGES[rule.fault])
            waits = {"Retry-After": f"{rule.seconds:g}"} if rule.seconds else {}
            return _with(response, waits), rule
        if routes.concurrency is not None and now > routes.concurrency:
            self._count(self._errors, kind)
            return routes.refuse(429, MESSAGES["429"]), None
        try:
            response = routes.answer(request)
        except Exception as error:  # a client must see a fault of the stand-in, not a broken connection
            response = routes.refuse(500, f"the stand-in failed: {type(error).__name__}: {error}")
        if response.status >= 400:
            self._count(self._errors, kind)
        if rule is not None and rule.fault == "restricted":
            response = _with(response, dict([RESTRICTED]))
        return response, rule

    def _count(self, counter: Counter[str], key: str) -> None:
        with self._lock:
            counter[key] += 1

    def _sent(self, size: int) -> None:
        with self._lock:
            self._bytes += size

    def _strikes(self, text: str, request: Request) -> Rule | None:
        """The first rule that strikes this request now; the lock is held."""
        digest = request.digest()
        for number, rule in enumerate(self._rules):
            if not re.search(rule.match, text):
                continue
            self._matched[number] += 1
            if self._matched[number] <= rule.after:
                continue
            if rule.share < 1.0 and _chance(digest, number) >= rule.share:
                continue
            if rule.count is not None and self._struck[number] >= rule.count:
                continue
            if rule.times is not None and self._attempts[number, digest] >= rule.times:
                continue
            self._attempts[number, digest] += 1
            self._struck[number] += 1
            self._faults[rule.fault] += 1
            return rule
        return None


@contextmanager
def serve(
    routes: Sequence[Routes],
    *,
    faults: str | Path | Iterable[Rule | Mapping[str, Any]] = "none",
    port: int = 0,
    host: str = LOOPBACK,
) -> Iterator[Stub]:
    """Serve stand-ins until the block ends. Port 0 takes a free one; other machines reach it only with another `host`.

    Raises ValueError for a fault script that is none, or a port that is taken.
    """
    rules = script(faults)
    try:
        stub = Stub(routes, rules, port, host)
    except OSError as error:
        raise ValueError(f"port {port} of {host} cannot be served ({error}); choose another") from error
    try:
        yield stub
    finally:
        stub.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    stub: Stub

    def handle_error(self, *_: Any) -> None:
        """A client that went away is its own affair."""


class _Exchange(BaseHTTPRequestHandler):
    """One connection: reads requests, sends answers, shows the faults that happen on the wire."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def _exchange(self) -> None:
        address = urllib.parse.urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        request = Request(
            self.command,
            urllib.parse.unquote(address.path),
            dict(urllib.parse.parse_qsl(address.query, keep_blank_values=True)),
            {name.lower(): value for name, value in self.headers.items()},
            self.rfile.read(length) if length else b"",
        )
        response, rule = self.server.stub._answer(request)
        response = _cut(request, response)
        fault = rule.fault if rule is not None else None
        if fault == "closed":
            self._hang_up()
            return
        self._send(response, half=fault == "truncated")

    do_GET = do_POST = do_HEAD = _exchange  # noqa: N815 - names that http.server asks for

    def _send(self, response: Response, *, half: bool) -> None:
        self.send_response(response.status, HTTPStatus(response.status).phrase)
        told = {"Content-Type": response.content_type, "Content-Length": str(len(response.body))}
        for name, value in {
            **told,
            **response.headers,
        }.items():  # the answer to HEAD may state its own length
            self.send_header(name, value)
        self.end_headers()
        body = b"" if self.command == "HEAD" else response.body
        if half:
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)
        self.wfile.flush()
        self.server.stub._sent(len(body))

    def _hang_up(self) -> None:
        """Reset the connection, as a proxy that dies would."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, *_: Any) -> None:
        """Counters say it better than lines."""


def _with(response: Response, headers: Mapping[str, str]) -> Response:
    return Response(
        response.body,
        response.status,
        response.content_type,
        {**response.headers, **headers},
        response.ranges,
    )


def _chance(digest: str, number: int) -> float:
    """A number from 0 up to 1 that follows from a request and the place of a rule."""
    return int(hashlib.sha256(f"{number} {digest}".encode()).hexdigest()[:13], 16) / 16**13


def _cut(request: Request, response: Response) -> Response:
    """The bytes that a Range header asks for, as 206, of an answer that allows it."""
    if not response.ranges or response.status != 200:
        return response
    size = len(response.body)
    plain = _with(response, {"Accept-Ranges": "bytes"})
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if not found or found.groups() == ("", ""):
        return plain
    first, last = found.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        return Response(b"", 416, response.content_type, {"Content-Range": f"bytes */{size}"})
    told = {**plain.headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
    return Response(response.body[start:stop], 206, response.content_type, told)
