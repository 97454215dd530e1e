"""One governor for all processes of a cluster: the limit holds between them, and the actor may die."""

import contextlib
import time

import pytest

from geodata import governor as counting
from geodata.governor import Limits
from pipelines import governor

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


@pytest.fixture
def ray(local_ray):
    import ray

    before = counting.current()
    yield ray
    counting.use(before)


def test_processes_together_never_hold_more_leases_than_allowed(ray, tmp_path):
    log = tmp_path / "log"

    @ray.remote(num_cpus=0.5)
    def work():
        import threading
        import time

        from geodata.governor import Limits, lease
        from pipelines.governor import govern

        govern()

        def ask():
            for _ in range(10):
                with lease("shared", Limits(3, 1e6)):
                    with log.open("a") as stream:
                        stream.write("+")
                    time.sleep(0.005)
                    with log.open("a") as stream:
                        stream.write("-")

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    ray.get([work.remote() for _ in range(3)])
    held = [log.read_text()[:end].count("+") - log.read_text()[:end].count("-") for end in range(181)]
    assert len(log.read_text()) == 2 * 3 * 3 * 10
    assert 1 < max(held) <= 3
    seen = governor.state()["shared"]
    assert (seen["granted"], seen["in_flight"]) == (90, 0)
    assert seen["peak"] == max(held)


def test_nobody_makes_an_actor_who_asks_for_no_lease_and_one_that_died_is_made_again(ray):
    with contextlib.suppress(ValueError):
        ray.kill(ray.get_actor(governor.NAME, governor.NAMESPACE))
    end = time.monotonic() + 20
    while governor.state() and time.monotonic() < end:
        time.sleep(0.1)
    governor.govern()
    first = counting.current()
    governor.govern()
    assert counting.current() is first
    assert governor.state() == {}
    with counting.lease("alone", Limits(1, 1e6)):
        assert governor.state()["alone"]["in_flight"] == 1
        ray.kill(ray.get_actor(governor.NAME, governor.NAMESPACE))
    with counting.lease("alone", Limits(1, 1e6)):
        assert governor.state()["alone"]["in_flight"] == 1
    end = time.monotonic() + 20
    while governor.state()["alone"]["in_flight"] and time.monotonic() < end:
        time.sleep(0.05)  # the release does not wait for the actor
    assert governor.state()["alone"]["in_flight"] == 0
