"""The server that stand-ins are mounted on: routes, ranges, counters, and faults that strike by what is asked."""

import http.client
import itertools
import json
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from geodata.stubs.server import PRESETS, Response, Routes, Rule, script, serve

PAYLOAD = bytes(range(256)) * 8


def answer(request):
    if request.path == "/one/fails":
        raise RuntimeError("no such thing")
    if request.path == "/one/slow":
        time.sleep(0.05)
    return Response(PAYLOAD, content_type="image/png", ranges=True)


ONE = Routes("one", ("/one/", "/exact"), answer, kind=lambda request: request.path.rpartition("/")[2][:4])


@pytest.fixture(scope="module")
def running():
    with serve([ONE]) as stub:
        yield stub


@pytest.fixture
def stub(running):
    running.show("none")
    return running


def statuses(url, paths):
    """Status of each GET, 0 for a connection that broke; by urllib, which tries nothing again."""
    found = []
    for path in paths:
        try:
            with urllib.request.urlopen(f"{url}{path}", timeout=5) as response:
                found.append(response.status if len(response.read()) == len(PAYLOAD) else 0)
        except urllib.error.HTTPError as error:
            with error:
                found.append(error.code)
        except OSError:
            found.append(0)
        except http.client.IncompleteRead:
            found.append(-1)
    return found


def test_paths_belong_to_who_names_them(stub):
    assert statuses(stub.url, ["/one/a", "/exact", "/exact/below", "/other", "/one/fails"]) == [
        200,
        200,
        404,
        404,
        500,
    ]
    told = requests.get(f"{stub.url}/other", timeout=5).json()["error"]["message"]
    assert "/one/" in told
    assert "no such thing" in requests.get(f"{stub.url}/one/fails", timeout=5).text


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ("bytes=0-15", slice(0, 16)),
        ("bytes=2000-", slice(2000, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=2040-9999", slice(2040, None)),
    ],
)
def test_a_range_is_what_python_slices(stub, wanted, part):
    response = requests.get(f"{stub.url}/one/a", headers={"Range": wanted}, timeout=5)
    assert response.status_code == 206 and response.content == PAYLOAD[part]
    first, last = response.headers["Content-Range"].removeprefix("bytes ").split("/")[0].split("-")
    assert PAYLOAD[int(first) : int(last) + 1] == response.content


def test_a_range_beyond_the_end_and_a_head_without_body(stub):
    beyond = requests.get(f"{stub.url}/one/a", headers={"Range": "bytes=9000-"}, timeout=5)
    assert beyond.status_code == 416
    head = requests.head(f"{stub.url}/one/a", timeout=5)
    assert head.headers["Content-Length"] == str(len(PAYLOAD)) and head.content == b""


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ("429", 429),
        ("500", 500),
        ("503", 503),
        ("404", 404),
        ("401", 401),
        ("403", 403),
        ("memory", 400),
        ("size", 400),
        ("closed", 0),
        ("truncated", -1),
    ],
)
def test_each_fault_shows_once_and_the_same_request_then_passes(stub, fault, seen):
    stub.show([{"fault": fault, "match": "one/a"}])
    assert statuses(stub.url, ["/one/a", "/one/a", "/one/b"]) == [seen, 200, 200]
    assert stub.stats()["faults"] == {fault: 1}


def test_a_fault_may_say_how_long_to_wait_and_be_slow(stub):
    stub.show([Rule(fault="503", seconds=1.5), Rule(fault="slow", match="one/s", seconds=0.2)])
    assert requests.get(f"{stub.url}/one/a", timeout=5).headers["Retry-After"] == "1.5"
    statuses(stub.url, ["/one/s"])
    started = time.monotonic()
    assert statuses(stub.url, ["/one/s"]) == [200]
    assert time.monotonic() - started >= 0.2


def test_a_burst_begins_and_ends_by_count(stub):
    stub.show([Rule(fault="429", after=2, count=3, times=None)])
    assert statuses(stub.url, ["/one/a"] * 8) == [200, 200, 429, 429, 429, 200, 200, 200]


def test_who_is_struck_follows_from_the_request_not_from_when_it_comes(stub):
    rules = [Rule(fault="503", share=0.3), Rule(fault="404", share=0.2, times=None)]
    paths = [f"/one/{number}" for number in range(60)]
    stub.show(rules)
    first = dict(zip(paths, statuses(stub.url, paths), strict=True))
    stub.show(rules)
    with ThreadPoolExecutor(8) as pool:
        again = list(pool.map(lambda path: statuses(stub.url, [path])[0], reversed(paths)))
    assert dict(zip(reversed(paths), again, strict=True)) == first
    shares = Counter(first.values())
    assert 8 <= shares[503] <= 28 and 2 <= shares[404] <= 20


def test_requests_are_counted_by_kind_and_at_the_same_time(stub):
    started = threading.Barrier(6)

    def slow(_):
        started.wait()
        return statuses(stub.url, ["/one/slow"])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(slow, range(6)))
    statuses(stub.url, ["/one/abc", "/one/fails"])
    stats = requests.get(f"{stub.url}/stub/stats", timeout=5).json()
    assert stats["requests"] == {"one slow": 6, "one abc": 1, "one fail": 1}
    assert stats["errors"] == {"one fail": 1} and 2 <= stats["peak"]["one"] <= 6 and stats["now"] == {}
    assert stats["bytes"] >= 7 * len(PAYLOAD)


def test_a_service_with_a_limit_refuses_what_is_beyond_it():
    narrow = Routes("one", ("/one/",), answer, concurrency=2)
    with serve([narrow]) as stub, ThreadPoolExecutor(8) as pool:
        seen = list(itertools.chain(*pool.map(lambda _: statuses(stub.url, ["/one/slow"]), range(8))))
    assert set(seen) == {200, 429}


def test_a_script_is_a_name_a_file_or_a_list(tmp_path):
    path = tmp_path / "faults.json"
    path.write_text(json.dumps([{"fault": "429", "count": 3}]))
    assert script(path) == script(str(path)) == script([Rule(fault="429", count=3)])
    assert script("full") == PRESETS["full"] and {rule.fault for rule in script("full")} >= {
        "429",
        "503",
        "memory",
    }
    with pytest.raises(ValueError, match="neither a fault script"):
        script("everything")
    path.write_text('[{"fault": "418"}]')
    with pytest.raises(ValueError, match=r"fault script: 0.fault"):
        script(path)
    with (
        serve([ONE]) as stub,
        pytest.raises(ValueError, match="choose another"),
        serve([ONE], port=stub.port),
    ):
        pass
