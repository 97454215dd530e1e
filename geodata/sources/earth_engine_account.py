"""Who asks Earth Engine, and how: the account, its credentials, the client, and what its complaints mean.

Credentials are, in this order: the service account key (a file, or its JSON) in EARTHENGINE_SERVICE_ACCOUNT or
GOOGLE_APPLICATION_CREDENTIALS, the token that `earthengine authenticate` has stored, application default credentials.
A stand-in on this machine gets none of the stored ones. The client keeps one account for a whole process; it is opened
when the first request is made, and what is passed between processes are only names and numbers.

The client's own retries are off, its transport is ours: it hides the status of an answer, waits without asking the
governor, and only warns when a project is restricted.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict, TypeVar

import requests
import requests.adapters

from geodata import governor, transport
from geodata.errors import DataError, Denied, Missing
from geodata.governor import Limits
from geodata.transport import Verdict

T = TypeVar("T")

HIGH_VOLUME = "https://earthengine-highvolume.googleapis.com"
_EMPTY = ("did not match any bands", "has no band", "is required and may not be null")


class AccountOptions(TypedDict, total=False):
    """Options that all addresses here share; `Account` says what they mean."""

    project: str
    url: str
    concurrency: int
    per_second: float
    deadline_s: float


@dataclass(frozen=True)
class Account:
    """Who asks, and where.

    `project` is the Cloud project that is registered for Earth Engine and charged (EARTHENGINE_PROJECT or
    GOOGLE_CLOUD_PROJECT when left out), `url` the service (EARTHENGINE_URL, else the
    high-volume address; https://earthengine.googleapis.com is the standard one, with a quota of its own).
    `concurrency` and `per_second` are what the project is allowed, `deadline_s` how long one answer may take.
    Raises ValueError without a project, or without the client.
    """

    project: str = ""
    url: str = ""
    concurrency: int = 40
    per_second: float = 100.0
    deadline_s: float = 300.0

    def __post_init__(self) -> None:
        if importlib.util.find_spec("ee") is None:
            raise ValueError('Earth Engine needs its client; run: pip install "swath[ee]"')
        known = os.environ.get("EARTHENGINE_PROJECT") or os.environ.get("GOOGLE_CLOUD_PROJECT")
        object.__setattr__(self, "project", self.project or known or "")
        object.__setattr__(
            self, "url", (self.url or os.environ.get("EARTHENGINE_URL") or HIGH_VOLUME).rstrip("/")
        )
        if not self.project:
            raise ValueError(
                "Earth Engine charges every request to a Cloud project and none is named; give project=, or set "
                "EARTHENGINE_PROJECT"
            )
        if urllib.parse.urlsplit(self.url).scheme != "https" and not self.local:
            raise ValueError(f"credentials are sent over https only, not to {self.url!r}; write https://")
        _ = self.limits

    @property
    def limits(self) -> Limits:
        """Requests at once and in a second. Raises ValueError when they allow none."""
        return Limits(self.concurrency, self.per_second)

    @property
    def local(self) -> bool:
        """Whether the service is a stand-in on this machine."""
        return urllib.parse.urlsplit(self.url).hostname in ("127.0.0.1", "localhost", "::1")

    @property
    def endpoint(self) -> str:
        """What quotas are counted for: a project at an address."""
        return f"{urllib.parse.urlsplit(self.url).netloc}/projects/{self.project}"

    def ask(self, request: Callable[[Any], T]) -> T:
        """What `request`, given the client, returns; tried again where that may help.

        Raises Transient, Missing, TooLarge, or Denied with what a person can do.
        """
        client = _client(self)
        return self._told(lambda: request(client))

    def _told(self, request: Callable[[], T]) -> T:
        try:
            return transport.call(request, judge, endpoint=self.endpoint, limits=self.limits)
        except Denied as error:
            told = f"{error}; check that the project is registered for Earth Engine and the credentials are valid"
        raise Denied(told)


_LOCK = threading.Lock()
_HELD: dict[str, Account] = {}


def disconnect() -> None:
    """Forget this process's account, so that another may be used; only while no request is under way."""
    with _LOCK:
        if _HELD:
            import ee

            ee.Reset()
            _HELD.clear()


def _client(account: Account) -> Any:
    """The client, opened for this account. Raises Denied, Transient, or ValueError when it is open for another."""
    import ee

    held = _HELD.get("account")
    if held is None:
        with _LOCK:
            held = _HELD.get("account")
            if held is None:
                _open(ee, account)
                held = _HELD["account"] = account
    if (held.project, held.url) != (account.project, account.url):
        raise ValueError(
            f"a process speaks to one Earth Engine project, and this one to {held.endpoint}, not {account.endpoint}; "
            "give all addresses of a corpus the same project and url"
        )
    return ee


def _open(ee: Any, account: Account) -> None:
    ee.data.setMaxRetries(0)  # trying again is for `transport` alone
    wire = _Wire(account)
    credentials = _credentials(ee, account)

    def start() -> None:
        # the client also asks another host, without a deadline, which assets are deprecated: ours are named here
        listed = getattr(ee.deprecation, "_FetchDataCatalogStac", None)
        ee.deprecation._FetchDataCatalogStac = dict
        try:
            ee.Initialize(credentials, url=account.url, project=account.project, http_transport=wire)
        finally:
            ee.deprecation._FetchDataCatalogStac = listed

    try:
        account._told(start)
    except DataError as error:
        ee.Reset()
        if not isinstance(error, Missing):
            raise
        raise Denied(f"{account.url} is no Earth Engine service: {error}; correct url=") from error


def _credentials(ee: Any, account: Account) -> Any:
    from google.auth.credentials import AnonymousCredentials

    for name in ("EARTHENGINE_SERVICE_ACCOUNT", "GOOGLE_APPLICATION_CREDENTIALS"):
        key = _key(name)
        if key is not None:
            try:
                return ee.ServiceAccountCredentials(key["client_email"], key_data=json.dumps(key))
            except (KeyError, ValueError) as error:
                kind = type(error).__name__
            raise Denied(f"the service account key in {name} is not usable ({kind}); make a new one")
    if account.local:
        return AnonymousCredentials()
    try:
        return ee.data.get_persistent_credentials()
    except ee.EEException:
        pass
    raise Denied(
        "there are no credentials for Earth Engine; run `earthengine authenticate`, or name a service account's key "
        "file in EARTHENGINE_SERVICE_ACCOUNT"
    )


def _key(name: str) -> dict[str, Any] | None:
    """The service account key that an environment variable names or holds; None when it holds something else."""
    text = os.environ.get(name, "").strip()
    try:
        if text and not text.startswith("{"):
            with open(text, encoding="utf-8") as file:
                text = file.read()
        values = json.loads(text or "null")
    except (OSError, ValueError):
        values = ""
    if isinstance(values, dict) and values.get("type") == "service_account":
        return values
    if name == "EARTHENGINE_SERVICE_ACCOUNT" and values is not None:
        raise Denied(
            f"{name} names no service account key; give the path of its JSON file, or the JSON itself"
        )
    return None


class _Wire:
    """Sends what the client asks: with a deadline, whole answers only, and word of a restricted quota passed on."""

    def __init__(self, account: Account) -> None:
        self._timeout_s = (10.0, account.deadline_s)
        self._session = requests.Session()
        pool = requests.adapters.HTTPAdapter(pool_connections=4, pool_maxsize=account.concurrency)
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, pool)

    def request(
        self,
        uri: str,
        method: str = "GET",
        body: Any = None,
        headers: dict[str, str] | None = None,
        **_: Any,
    ) -> tuple[Any, bytes]:
        """As httplib2 answers: headers with the status among them, and the body."""
        import httplib2

        response = self._session.request(method, uri, data=body, headers=headers, timeout=self._timeout_s)
        content = response.content
        told = {name.lower(): value for name, value in response.headers.items()}
        stated = told.get("content-length", "")
        if stated.isdigit() and "content-encoding" not in told and len(content) != int(stated):
            raise ConnectionError(f"{len(content)} of {stated} bytes came")
        if "parallelism_restricted=true" in told.pop("x-earth-engine-quota-status", ""):
            governor.restricted()
        return httplib2.Response({**told, "status": str(response.status_code)}), content


class Unreadable(Exception):
    """Bytes that came whole and mean nothing: a proxy's page, a stream that broke off."""


def judge(error: Exception) -> Verdict | None:
    """What an exception of the client means; None when it is none of the service's.

    The client hides the status behind its own exception, and lets those of sockets and of credentials through.
    """
    import ee
    import google.auth.exceptions
    import googleapiclient.errors

    for cause in (error, error.__context__):
        response = getattr(cause, "resp", None)
        if response is not None:
            body = bytes(getattr(cause, "content", b"")).decode("utf-8", "replace")
            return _judge(int(response.status), body, {name: str(value) for name, value in response.items()})
    if isinstance(error, Unreadable):
        return Verdict("retry", str(error))
    if isinstance(error, google.auth.exceptions.TransportError):
        return Verdict("retry", "the credentials could not be renewed: no connection")
    if isinstance(error, google.auth.exceptions.GoogleAuthError):
        again = bool(getattr(error, "retryable", False))
        return Verdict(
            "retry" if again else "denied", f"the credentials are refused ({type(error).__name__})"
        )
    if isinstance(error, googleapiclient.errors.Error):
        return Verdict("sample", "there is no description of the service there")
    if isinstance(error, ee.EEException):
        return Verdict("denied", str(error))
    return transport.judge_connection(error)


def _judge(status: int, body: str, headers: Mapping[str, str]) -> Verdict:
    verdict = transport.judge_http(status, body, headers)
    text = verdict.text.lower()
    if status == 400 and any(word in text for word in _EMPTY):
        return replace(verdict, kind="sample")
    if verdict.kind == "sample" and re.search(r"\bproject\b", text) and "asset" not in text:
        return replace(verdict, kind="denied")
    return verdict
