"""Asking services over the network: the only place that tries again.

A source says what to send and what its service's complaints mean; here it is sent under a lease of the governor,
again after a pause where that may help, and never more often than stated. What comes out is an answer or one of the
errors of `errors`, in one sentence without secrets: an address with a key in it must not reach a log or a manifest.
"""

from __future__ import annotations

import email.utils
import json
import logging
import math
import random
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import requests

from geodata.errors import Corrupt, DataError, Denied, Missing, TooLarge, Transient
from geodata.governor import Limits, lease, restricted

log = logging.getLogger(__name__)

T = TypeVar("T")
Kind = Literal["retry", "throttled", "shrink", "sample", "denied"]
"""What a complaint means: may pass; too many requests; too much in one request; this sample has no data; nobody may."""

TRIES = 6
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
AGENT = "swath (imagery curation)"
_AGAIN = (408, 425)
_RATE = ("ratelimitexceeded", "rate limit exceeded", "quotaexceeded", "quota exceeded", "too many requests")
_SIZE = (
    "total request size",
    "user memory limit",
    "memory limit exceeded",
    "computation timed out",
    "too many bands",
    "request payload size exceeds",
    "pixel grid dimensions",
)
_EMPTY = ("no images", "empty collection", "no valid (un-masked) pixels", "not found", "does not exist")
_RESTRICTED = "parallelism_restricted=true"


@dataclass(frozen=True)
class Verdict:
    """What an exception means, in a few words that people may read; seconds to wait where the service said so."""

    kind: Kind
    text: str
    retry_after: float | None = None
    restricted: bool = False


def call(
    request: Callable[[], T],
    judge: Callable[[Exception], Verdict | None],
    *,
    endpoint: str,
    limits: Limits,
    tries: int = TRIES,
    secrets: Iterable[str] = (),
) -> T:
    """The answer to a request, sent up to `tries` times, each time under a lease of `endpoint`.

    `judge` says what an exception means; None is for what is not the service's, which goes on as it is. Raises
    Transient when the last attempt failed, TooLarge, Missing or Denied at once; messages never hold `secrets`.
    """
    secrets = tuple(secrets)
    for attempt in range(1, tries + 1):
        with lease(endpoint, limits) as held:
            try:
                return request()
            except Exception as error:  # every one is judged, and raised again when it is nobody's
                verdict = judge(error)
                if verdict is None:
                    raise
                held.outcome = _outcome(verdict)
                held.retry_after = verdict.retry_after
        # outside the handler, so that no error raised here carries the service's own text along
        text = redacted(verdict.text, secrets)
        if verdict.kind in _FINAL:
            raise _FINAL[verdict.kind](f"{redacted(endpoint, secrets)} answers {text}")
        if attempt < tries:
            wait = pause(attempt, verdict.retry_after)
            log.info("%s: %s; attempt %d of %d, again in %.1f s", endpoint, text, attempt, tries, wait)
            time.sleep(wait)
    raise Transient(
        f"{redacted(endpoint, secrets)} did not answer in {tries} attempts: {text}; try again later"
    )


_FINAL: Mapping[str, type[DataError]] = {"shrink": TooLarge, "sample": Missing, "denied": Denied}


def pause(attempt: int, retry_after: float | None = None) -> float:
    """Seconds before the next attempt after the first, second ...: doubling up to a bound, at random within its half.

    Where the service said how long, that long and up to a quarter more; the governor holds the endpoint anyway.
    """
    if retry_after is not None:
        return min(retry_after, LONGEST_PAUSE_S) * random.uniform(1.0, 1.25)
    return min(FIRST_PAUSE_S * 2 ** (attempt - 1), LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)


def _outcome(verdict: Verdict) -> Literal["throttled", "restricted", "failed"]:
    if verdict.kind == "throttled":
        return "throttled"
    return "restricted" if verdict.restricted else "failed"


def judge_http(status: int, body: str, headers: Mapping[str, str]) -> Verdict:
    """What a status that is no success means; `body` decides where the status alone does not."""
    told = _told(body)
    text = f"HTTP {status}" + (f", {told}" if told else "")
    lower = {name.lower(): value for name, value in headers.items()}
    wait = _retry_after(lower.get("retry-after"))
    few = any(_RESTRICTED in value.lower().replace(" ", "") for value in lower.values())
    return Verdict(_kind(status, body.lower()), text, wait, few)


def _kind(status: int, body: str) -> Kind:
    if status == 429 or (status == 403 and any(word in body for word in _RATE)):
        return "throttled"
    if status >= 500 or status in _AGAIN:
        return "retry"
    if status == 413 or (status == 400 and any(word in body for word in _SIZE)):
        return "shrink"
    if status in (404, 410) or (status == 400 and any(word in body for word in _EMPTY)):
        return "sample"
    return "denied"


def judge_connection(error: Exception) -> Verdict | None:
    """What an exception of sockets or of `requests` means: all of them may pass, but for an address that is none."""
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
        return Verdict("denied", f"the address is no web address ({error})")
    if isinstance(error, requests.exceptions.MissingSchema):
        return Verdict("denied", f"the address lacks https:// ({error})")
    if isinstance(error, TimeoutError | requests.exceptions.Timeout):
        return Verdict("retry", "no answer in time")
    if isinstance(error, ConnectionError | requests.exceptions.RequestException):
        return Verdict("retry", f"the connection failed ({type(error).__name__})")
    return None


@dataclass(frozen=True)
class Answer:
    """What a service sent: the whole body, and the headers in lower case."""

    body: bytes
    headers: Mapping[str, str]

    @property
    def mime(self) -> str:
        """The media type without parameters, as in 'image/png'; empty when none was stated."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def json(self) -> Any:
        """The body parsed. Raises Corrupt when it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            start = redacted(self.body[:80].decode("utf-8", "replace"))
            raise Corrupt(f"the answer is no JSON ({error}): {start!r}") from None


class Refused(Exception):
    """An answer whose status is no success, until it is judged."""

    def __init__(self, status: int, body: str, headers: Mapping[str, str]) -> None:
        super().__init__(f"HTTP {status}")
        self.status, self.body, self.headers = status, body, headers


class Http:
    """Requests to one service: leased, bounded in time and size, complete or not at all, tried again where that helps.

    `secrets` are literal texts (a key from the environment) that no message may contain, beside what `redacted`
    knows by name. Threads may share one; each has a connection of its own.
    """

    def __init__(
        self,
        endpoint: str,
        limits: Limits,
        *,
        agent: str = AGENT,
        timeout_s: tuple[float, float] = (10.0, 60.0),
        max_bytes: int = 256 * 2**20,
        tries: int = TRIES,
        secrets: Iterable[str] = (),
        judge: Callable[[int, str, Mapping[str, str]], Verdict] = judge_http,
    ) -> None:
        self.endpoint, self.limits, self.tries = endpoint, limits, tries
        self._agent, self._timeout_s, self._max_bytes = agent, timeout_s, max_bytes
        self._secrets = tuple(secret for secret in secrets if secret)
        self._judge_status = judge
        self._local = threading.local()

    def get(
        self, url: str, *, params: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """The answer to GET. Raises Transient, Missing, TooLarge, Denied or Corrupt (larger than `max_bytes`)."""
        return self._call("GET", url, params, headers, None)

    def post(self, url: str, body: object, *, headers: Mapping[str, str] | None = None) -> Answer:
        """The answer to POST of a JSON body. Raises as `get`."""
        return self._call("POST", url, None, headers, body)

    def _call(
        self,
        method: str,
        url: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        body: object,
    ) -> Answer:
        def once() -> Answer:
            options: dict[str, Any] = {"params": params, "headers": headers, "timeout": self._timeout_s}
            if method == "POST":
                options["json"] = body
            with self._session().request(method, url, stream=True, **options) as response:
                return self._whole(response)

        try:
            return call(
                once,
                self._judge,
                endpoint=self.endpoint,
                limits=self.limits,
                tries=self.tries,
                secrets=self._secrets,
            )
        except DataError as error:
            where = redacted(url.partition("?")[0], self._secrets)
            told = type(error)(f"{error} ({method} {where})")
        raise told  # outside the handler: one error, one sentence

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.headers["User-Agent"] = self._agent
        return session

    def _whole(self, response: requests.Response) -> Answer:
        headers = {name.lower(): value for name, value in response.headers.items()}
        parts, size = [], 0
        for part in response.iter_content(1 << 16):
            parts.append(part)
            size += len(part)
            if size > self._max_bytes:
                raise Corrupt(
                    f"the answer is larger than {self._max_bytes} bytes, so it is not read to its end"
                )
        body = b"".join(parts)
        stated = headers.get("content-length", "")
        if stated.isdigit() and "content-encoding" not in headers and len(body) != int(stated):
            raise requests.exceptions.ChunkedEncodingError(f"{len(body)} of {stated} bytes came")
        if not response.ok:
            raise Refused(response.status_code, body[:65536].decode("utf-8", "replace"), headers)
        if any(_RESTRICTED in value.lower().replace(" ", "") for value in headers.values()):
            restricted()
        return Answer(body, headers)

    def _judge(self, error: Exception) -> Verdict | None:
        if isinstance(error, Refused):
            return self._judge_status(error.status, error.body, error.headers)
        return judge_connection(error)


_NAMES = r"[\w.-]*(?:key|token|secret|password|passwd|signature|credential|assertion|authorization)|sig|pwd|auth|jwt"
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL)
_PAIR = re.compile(rf"(?i)((?:(?<!\w)|(?<=%26)|(?<=%3F))(?:{_NAMES})(?:=|%3D))(?:(?!%26)[^&\s\"'<>)\]}}])+")
_QUOTED = re.compile(rf"(?i)([\"'](?:{_NAMES})[\"']\s*:\s*)([\"'])(?:\\.|(?!\2).)*\2")
_HEADER = re.compile(r"(?i)([\w-]*(?:api|access|subscription)[_-]?key\s*:\s*)[^\s\"',;]+")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
_USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s@]+@")
_HIDDEN = "***"


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """A text without keys, tokens, signatures and passwords in addresses, headers and JSON, nor any of `secrets`."""
    for secret in secrets:
        for form in {secret, urllib.parse.quote(secret, safe="")} - {""}:
            text = text.replace(form, _HIDDEN)
    text = _PEM.sub(_HIDDEN, text)
    text = _QUOTED.sub(rf"\1\2{_HIDDEN}\2", text)
    text = _PAIR.sub(rf"\1{_HIDDEN}", text)
    text = _HEADER.sub(rf"\1{_HIDDEN}", text)
    text = _BEARER.sub(rf"\1 {_HIDDEN}", text)
    return _USER.sub(rf"\1{_HIDDEN}@", text)


def _told(body: str) -> str:
    """The service's own sentence: the message of a JSON error, or the first words of a body that is text."""
    try:
        values = json.loads(body)
    except ValueError:
        values = None
    if isinstance(values, dict):
        error = values.get("error", values)
        message = error.get("message") if isinstance(error, dict) else error
        message = message or values.get("detail") or values.get("description")
        if isinstance(message, str):
            return " ".join(message.split())[:300]
    plain = re.sub(r"<[^>]*>", " ", body)
    return " ".join(plain.split())[:200]


def _retry_after(text: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date; None when it is neither."""
    if not text:
        return None
    try:
        seconds = float(text)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
