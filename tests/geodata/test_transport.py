"""Trying again: how often for which complaint, how long between, and no secret in any word of it."""

import http.server
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import requests

from geodata import governor, transport
from geodata.errors import Corrupt, DataError, Denied, Missing, TooLarge, Transient
from geodata.governor import Governor, Limits
from geodata.transport import Http, Verdict, call, judge_http, pause, redacted

LIMITS = Limits(8, 1e6)


class Complaint(Exception):
    pass


@pytest.fixture
def own(monkeypatch):
    fresh = Governor()
    monkeypatch.setitem(governor._CURRENT, "process", fresh)
    return fresh


@pytest.fixture
def naps(monkeypatch):
    """Pauses between attempts, which are not slept."""
    taken = []
    monkeypatch.setattr(transport.time, "sleep", taken.append)
    return taken


def failing(times, then="answer"):
    """A request that complains so many times first; `.count` is how often it was sent."""

    def request():
        request.count += 1
        if request.count <= times:
            raise Complaint
        return then

    request.count = 0
    return request


def judged(kind, **more):
    return lambda error: Verdict(kind, "it said so", **more) if isinstance(error, Complaint) else None


def send(request, judge, **more):
    return call(request, judge, endpoint="e", limits=LIMITS, **more)


@pytest.mark.parametrize("kind", ["retry", "throttled"])
def test_what_may_pass_is_sent_exactly_as_often_as_stated(own, naps, kind):
    request = failing(99)
    with pytest.raises(Transient, match="6 attempts"):
        send(request, judged(kind))
    assert request.count == 6
    assert len(naps) == 5
    request = failing(99)
    with pytest.raises(Transient):
        send(request, judged(kind), tries=2)
    assert request.count == 2
    request = failing(3)
    assert send(request, judged(kind)) == "answer"
    assert request.count == 4


@pytest.mark.parametrize(("kind", "error"), [("shrink", TooLarge), ("sample", Missing), ("denied", Denied)])
def test_what_cannot_pass_is_sent_once(own, naps, kind, error):
    request = failing(99)
    with pytest.raises(error, match="it said so"):
        send(request, judged(kind))
    assert request.count == 1
    assert not naps


def test_what_is_nobodys_goes_on_as_it_is_and_the_lease_is_given_back(own, naps):
    def bug():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        send(bug, judged("retry"))
    assert own.state()["e"].in_flight == 0
    assert own.state()["e"].granted == 1


def test_no_lease_is_held_during_a_pause(own, monkeypatch):
    held = []
    monkeypatch.setattr(transport.time, "sleep", lambda _: held.append(own.state()["e"].in_flight))
    send(failing(2), judged("retry"))
    assert held == [0, 0]


def test_the_governor_hears_of_throttling_and_of_restriction(own, naps):
    send(failing(1), judged("throttled"))
    assert own.state()["e"].throttled == 1
    wide = Limits(40, 1e6)
    call(failing(1), judged("retry", restricted=True), endpoint="r", limits=wide)
    assert own.state()["r"].limit == 4


def test_a_stated_wait_closes_the_endpoint_to_others(own, naps):
    send(failing(1), judged("throttled", retry_after=0.05))
    assert own.acquire("other", LIMITS) == 0.0
    with pytest.raises(Transient):
        send(failing(9), judged("throttled", retry_after=30.0), tries=1)
    assert own.acquire("e", LIMITS) > 29


def test_pauses_double_within_bounds():
    for attempt in range(1, 40):
        bound = min(0.5 * 2 ** (attempt - 1), transport.LONGEST_PAUSE_S)
        drawn = [pause(attempt) for _ in range(50)]
        assert all(bound / 2 <= one <= bound for one in drawn)
        assert len(set(drawn)) > 40
    assert all(3.0 <= pause(1, 3.0) <= 3.75 for _ in range(50))
    assert pause(1, 1e9) <= 1.25 * transport.LONGEST_PAUSE_S


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, "", "throttled"),
        (403, '{"error": {"errors": [{"reason": "rateLimitExceeded"}]}}', "throttled"),
        (403, '{"error": {"errors": [{"reason": "userRateLimitExceeded"}]}}', "throttled"),
        (403, '{"error": {"message": "Permission denied"}}', "denied"),
        (401, "", "denied"),
        (500, "", "retry"),
        (502, "", "retry"),
        (503, "", "retry"),
        (504, "", "retry"),
        (408, "", "retry"),
        (413, "", "shrink"),
        (400, "Total request size (60000000 bytes) must be less than or equal to 50331648 bytes.", "shrink"),
        (400, '{"error": {"message": "User memory limit exceeded."}}', "shrink"),
        (400, "Computation timed out.", "shrink"),
        (400, "Too many bands in the request", "shrink"),
        (400, "No valid (un-masked) pixels found", "sample"),
        (404, "Image.load: asset is not there", "sample"),
        (410, "", "sample"),
        (400, "Unknown algorithm 'X'", "denied"),
        (402, "", "denied"),
    ],
)
def test_what_a_status_means(status, body, kind):
    assert judge_http(status, body, {}).kind == kind


def test_a_stated_wait_is_a_number_or_a_date():
    assert judge_http(429, "", {"Retry-After": "2.5"}).retry_after == 2.5
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 55 < judge_http(503, "", {"retry-after": later}).retry_after <= 60
    for nonsense in ("soon", "nan", "inf", ""):
        assert judge_http(429, "", {"Retry-After": nonsense}).retry_after is None


def test_the_sentence_of_a_json_error_is_told():
    assert (
        judge_http(400, '{"error": {"message": "Band  B9 is\\nnot there"}}', {}).text
        == "HTTP 400, Band B9 is not there"
    )
    assert judge_http(400, "<html><b>Bad</b> thing</html>", {}).text == "HTTP 400, Bad thing"


def test_the_restricted_mode_of_earth_engine_is_read_from_its_header():
    header = {"X-Earth-Engine-Quota-Status": "parallelism_restricted=true"}
    assert judge_http(429, "", header).restricted
    assert not judge_http(429, "", {"X-Earth-Engine-Quota-Status": "parallelism_restricted=false"}).restricted


SECRET = "s3cr3t-Value_9"


@pytest.mark.parametrize(
    "text",
    [
        f"https://tiles.example/7/1/2.jpg?key={SECRET}",
        f"https://tiles.example/7/1/2.jpg?v=1&API_KEY={SECRET}&z=3",
        f"https://x.example/a?sv=2024&sig={SECRET}%3D&se=1",
        f"https://x.example/a?X-Amz-Signature={SECRET}&X-Amz-Credential={SECRET}",
        f"https://x.example/a?subscription-key={SECRET}",
        f"https%3A%2F%2Fx.example%2Fa%3Ftoken%3D{SECRET}%26z%3D3",
        f"https://someone:{SECRET}@x.example/a",
        f"Authorization: Bearer {SECRET}",
        f"X-Api-Key: {SECRET}",
        f'{{"access_token": "{SECRET}", "expires_in": 3}}',
        f"{{'private_key': '-----BEGIN PRIVATE KEY-----\\n{SECRET}'}}",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
        f"refresh_token={SECRET}",
    ],
)
def test_secrets_are_taken_out(text):
    assert SECRET not in redacted(text)
    assert "***" in redacted(text)


def test_a_secret_within_a_path_is_taken_out_when_it_is_told():
    assert (
        redacted(f"https://x.example/{SECRET}/7/1/2.jpg", [SECRET, ""]) == "https://x.example/***/7/1/2.jpg"
    )
    assert redacted("https://x.example/a%2Fb", ["a/b"]) == "https://x.example/***"


def test_plain_sentences_and_harmless_parameters_stay():
    text = "chip ab-32632-000120 has 3 of 5 dates; https://x.example/search?bbox=1,2&limit=3 said HTTP 404 (keyless)"
    assert redacted(text) == text


# Over the loopback


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answering)
        self.script, self.seen, self.now, self.most = [], [], 0, 0
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_):
        pass


class Answering(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        with server.lock:
            server.now += 1
            server.most = max(server.most, server.now)
            server.seen.append(self.path)
            step = server.script.pop(0) if server.script else (200, b"fine", {})
        time.sleep(0.01)
        with server.lock:
            server.now -= 1
        if step == "close":
            self.connection.close()
            return
        status, body, headers = step
        self.send_response(status)
        for name, value in (
            {"Content-Length": str(len(body)), "Content-Type": "text/plain; charset=x"} | headers
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    one = Server()
    thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield one
    one.shutdown()
    thread.join()
    one.server_close()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(transport, "FIRST_PAUSE_S", 0.005)


@pytest.fixture
def client():
    return Http("local", LIMITS, timeout_s=(2, 2), secrets=[SECRET], max_bytes=1000)


def test_the_fault_script_ends_in_the_answer(own, quick, server, client):
    truncated = (200, b"fi", {"Content-Length": "4"})
    server.script = [(429, b"", {"Retry-After": "0.01"}), (503, b"", {}), truncated, "close", (500, b"", {})]
    answer = client.get(server.url + "/a")
    assert answer.body == b"fine"
    assert answer.mime == "text/plain"
    assert len(server.seen) == 6
    assert own.state()["local"].throttled == 1


def test_every_truncated_body_is_noticed(own, quick, server, client):
    server.script = [(200, b"fi", {"Content-Length": "4"})] * 6
    with pytest.raises(Transient, match="6 attempts"):
        client.get(server.url)
    assert len(server.seen) == 6


@pytest.mark.parametrize(("status", "error"), [(404, Missing), (401, Denied), (403, Denied), (413, TooLarge)])
def test_a_refusal_is_asked_once_and_names_the_address_without_its_key(
    own, quick, server, client, status, error
):
    server.script = [(status, f"no such key={SECRET} {SECRET}".encode(), {})]
    with pytest.raises(error) as raised:
        client.get(f"{server.url}/{SECRET}/a?token={SECRET}")
    assert len(server.seen) == 1
    assert SECRET not in str(raised.value)
    assert "/***/a" in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


def test_a_dead_port_is_transient_and_tells_no_secret(own, quick, client):
    with pytest.raises(Transient) as raised:
        client.get(f"http://127.0.0.1:9/x?key={SECRET}")
    assert SECRET not in str(raised.value)
    assert raised.value.__context__ is None


def test_a_slow_answer_is_given_up_in_time(own, quick, server):
    impatient = Http("local", LIMITS, timeout_s=(1, 0.002), tries=2)
    with pytest.raises(Transient, match="no answer in time"):
        impatient.get(server.url)
    patience = time.monotonic() + 10
    while (
        len(server.seen) < 2 and time.monotonic() < patience
    ):  # it may hear of the second after we gave it up
        time.sleep(0.01)
    assert len(server.seen) == 2


def test_an_answer_beyond_the_bound_is_not_read(own, quick, server, client):
    server.script = [(200, b"x" * 5000, {})]
    with pytest.raises(Corrupt, match="larger than 1000 bytes"):
        client.get(server.url)
    assert len(server.seen) == 1


def test_no_web_address_is_a_matter_for_a_person(own, quick, client):
    for url in ("tiles.example/1", "nosuch://tiles.example"):
        with pytest.raises(Denied):
            client.get(url)


def test_what_is_posted_arrives_and_what_is_no_json_is_corrupt(own, server, client):
    server.script = [(200, b'{"a": 1}', {}), (200, b"<html>", {})]
    assert client.post(server.url, {"q": 1}).json() == {"a": 1}
    with pytest.raises(Corrupt, match="no JSON"):
        client.get(server.url).json()


def test_a_warning_beside_an_answer_lowers_the_limit(own, server):
    wide = Http("wide", Limits(40, 1e6))
    server.script = [(200, b"fine", {"X-Earth-Engine-Quota-Status": "parallelism_restricted=true"})]
    assert wide.get(server.url).body == b"fine"
    assert own.state()["wide"].limit == 4


def test_the_server_never_sees_more_at_once_than_the_limit(own, quick, server):
    shared = Http("shared", Limits(4, 1e6))
    server.script = [(503, b"", {})] * 6 + [(429, b"", {"Retry-After": "0.02"})] * 6
    failures = []

    def work():
        try:
            for _ in range(4):
                assert shared.get(server.url).body == b"fine"
        except (AssertionError, DataError, requests.RequestException) as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(server.seen) == 24 * 4 + 12
    assert 1 <= server.most <= 4
