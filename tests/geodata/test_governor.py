"""Leases: never more than the limit, halved once when the service complains, given back when a holder is gone."""

import random
import threading
import time

import pytest

from geodata import governor
from geodata.governor import PATIENCE_S, RESTRICTED_S, Governor, Limits, lease

FAST = Limits(concurrency=8, per_second=1e6)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def one(clock):
    return Governor(clock)


def take(one, count, limits=FAST, name="e"):
    return [one.acquire(name, limits) for _ in range(count)]


def test_as_many_leases_as_the_limit_and_not_one_more(one):
    waits = take(one, 20)
    assert waits.count(0.0) == 8
    assert all(wait > 0 for wait in waits[8:])
    one.release("e", "ok")
    assert one.acquire("e", FAST) == 0.0
    assert one.acquire("e", FAST) > 0
    assert one.state()["e"].peak == 8


def test_endpoints_do_not_share_leases(one):
    take(one, 8)
    assert one.acquire("other", FAST) == 0.0


def test_all_requests_out_at_a_burst_halve_the_limit_once(one):
    take(one, 8)
    for _ in range(8):
        one.release("e", "throttled")
    assert one.state()["e"].limit == 4
    assert one.state()["e"].throttled == 8
    take(one, 4)
    for _ in range(4):
        one.release("e", "throttled")
    assert one.state()["e"].limit == 2
    for _ in range(5):
        assert one.acquire("e", FAST) == 0.0
        one.release("e", "throttled")
    assert one.state()["e"].limit == 1  # and never 0


def test_the_limit_grows_by_one_for_every_limit_answers_up_to_what_is_stated(one):
    take(one, 1)
    one.release("e", "throttled")
    answers = []
    for number in range(1, 100):
        assert one.acquire("e", FAST) == 0.0
        one.release("e", "ok")
        if one.state()["e"].limit > 4 + len(answers):
            answers.append(number)
    assert answers == [4, 4 + 5, 4 + 5 + 6, 4 + 5 + 6 + 7]
    assert one.state()["e"].limit == 8


def test_failures_that_say_nothing_of_load_leave_the_limit(one):
    take(one, 8)
    for _ in range(8):
        one.release("e", "failed")
    assert one.state()["e"].limit == 8


def test_retry_after_closes_the_endpoint_for_everybody_and_only_that_one(one, clock):
    take(one, 2)
    one.release("e", "throttled", retry_after=7.0)
    one.release("e", "throttled", retry_after=3.0)  # a shorter word does not open it sooner
    assert one.acquire("e", FAST) == pytest.approx(7.0)
    clock.now += 6.9
    assert one.acquire("e", FAST) == pytest.approx(0.1)
    assert one.acquire("other", FAST) == 0.0
    clock.now += 0.11
    assert one.acquire("e", FAST) == 0.0


def test_restricted_mode_sets_a_low_ceiling_for_some_time_then_grows_back(one, clock):
    wide = Limits(40, 1e6)
    assert one.acquire("e", wide) == 0.0
    one.release("e", "restricted")
    assert one.state()["e"].limit == 4
    for _ in range(100):
        one.acquire("e", wide)
        one.release("e", "ok")
    assert one.state()["e"].limit == 4
    clock.now += RESTRICTED_S
    assert one.state()["e"].limit == 4
    for _ in range(4):
        one.acquire("e", wide)
        one.release("e", "ok")
    assert one.state()["e"].limit == 5


@pytest.mark.parametrize("rate", [0.25, 1.0, 3.0, 10.0])
def test_no_window_holds_more_grants_than_the_rate_and_no_slot_is_lost(one, clock, rate):
    limits = Limits(1000, rate)
    given = []
    draw = random.Random(1)
    while clock.now < 1060:
        wait = one.acquire("e", limits)
        if wait == 0.0:
            given.append(clock.now)
            one.release("e", "ok")
        clock.now += draw.choice([0.001, wait])
    window = max(1.0, 1 / rate)
    for start in given:
        assert sum(start <= moment < start + window - 1e-6 for moment in given) <= max(1, rate * window)
    assert len(given) >= 0.9 * rate * 60


def test_leases_of_a_silent_holder_are_taken_back_and_a_late_release_takes_nothing(one, clock):
    for _ in range(8):
        assert one.acquire("e", FAST, holder="lost") == 0.0
    clock.now += PATIENCE_S - 1
    assert one.acquire("e", FAST, holder="other") > 0
    clock.now += 2
    for _ in range(8):
        assert one.acquire("e", FAST, holder="other") == 0.0
    one.release("e", "ok", holder="lost")
    assert one.state()["e"].in_flight == 8
    assert one.acquire("e", FAST, holder="other") > 0


def test_a_holder_that_gives_signs_of_life_keeps_its_leases(one, clock):
    assert one.acquire("e", Limits(1, 1e6), holder="slow") == 0.0
    for _ in range(10):
        clock.now += PATIENCE_S / 2
        one.alive("slow")
        assert one.acquire("e", Limits(1, 1e6), holder="other") > 0


def test_limits_that_are_stated_anew_are_followed(one):
    take(one, 8)
    assert one.acquire("e", Limits(4, 1e6)) > 0
    for _ in range(8):
        one.release("e", "ok")
    assert take(one, 9, Limits(4, 1e6)).count(0.0) == 4
    assert take(one, 20, Limits(10, 1e6)).count(0.0) == 6


@pytest.mark.parametrize(("concurrency", "rate"), [(0, 1.0), (1, 0.0), (1, float("nan")), (1, float("inf"))])
def test_limits_that_allow_nothing_are_refused(concurrency, rate):
    with pytest.raises(ValueError, match="at least one request"):
        Limits(concurrency, rate)


@pytest.fixture
def own(monkeypatch):
    """A governor of this test alone."""
    fresh = Governor()
    monkeypatch.setitem(governor._CURRENT, "process", fresh)
    return fresh


def test_twenty_four_threads_with_faults_are_never_above_the_limit(own):
    """The oracle is a counter of its own, as a server would keep one."""
    limits = Limits(5, 1e6)
    lock, seen = threading.Lock(), {"now": 0, "most": 0, "done": 0}

    def work(number):
        draw = random.Random(number)
        for _ in range(15):
            with lease("e", limits) as held:
                with lock:
                    seen["now"] += 1
                    seen["most"] = max(seen["most"], seen["now"])
                time.sleep(0.001)
                if draw.random() < 0.1:
                    held.outcome = "throttled"
                with lock:
                    seen["now"] -= 1
                    seen["done"] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = own.state()["e"]
    assert seen["done"] == state.granted == 24 * 15
    assert 1 <= seen["most"] <= 5
    assert state.peak <= 5
    assert state.in_flight == 0
    assert state.throttled > 0


def test_a_lease_is_given_back_when_the_block_raises(own):
    with pytest.raises(KeyError), lease("e", Limits(1, 1e6)):
        raise KeyError
    assert own.state()["e"].in_flight == 0
    with lease("e", Limits(1, 1e6)):
        assert own.state()["e"].in_flight == 1


def test_an_answered_request_can_still_say_that_it_was_restricted(own):
    with lease("e", Limits(40, 1e6)):
        governor.restricted()
    assert own.state()["e"].limit == 4
    governor.restricted()  # outside a lease it says nothing to nobody


def test_a_governor_without_memory_learns_what_is_held_and_a_lost_grant_is_not_lost_for_good(clock):
    fresh = Governor(clock)
    fresh.alive("a", {"e": (3, 4, FAST)})
    assert take(fresh, 8).count(0.0) == 5
    assert fresh.acquire("e", FAST, holder="a") > 0
    for _ in range(5):
        fresh.release("e", "ok")
    assert fresh.acquire("e", FAST, holder="a") == 0.0  # its answer never arrived: `a` knows of three
    fresh.alive("a", {"e": (3, 3, FAST)})
    assert fresh.state()["e"].in_flight == 3
    fresh.alive("a", {"e": (3, 9, FAST)})
    assert fresh.state()["e"].in_flight == 3
    for _ in range(3):
        fresh.release("e", "ok", holder="a")
    assert fresh.state()["e"].in_flight == 0
