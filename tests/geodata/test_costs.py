"""The arithmetic of a forecast, against cases worked out by hand and published values."""

import itertools
import math

import numpy as np
import pytest

from geodata import costs
from geodata.costs import Cluster, Endpoint, Load, Observation, Range

EXACT = Range.exactly


def load(**changes):
    """A chip that takes 3.6 CPU seconds, 2 requests and a megabyte, of which 500 kB stay."""
    values = {
        "accepted": EXACT(1.0),
        "seconds": {"decode": EXACT(3.0), "check": EXACT(0.6), "fetch": EXACT(100.0)},
        "requests": {"tiles": EXACT(2.0)},
        "moved": {"optical": EXACT(1e6)},
        "stored": EXACT(5e5),
    }
    return Load(**(values | changes))


CLUSTER = Cluster(
    nodes=2,
    vcpus=5,
    dollars_per_node_hour=3.0,
    efficiency=0.5,
    network_gb_s=0.001,
    storage_dollars_per_gb_month=0.02,
    months=3.0,
    transfer_dollars_per_gb=0.1,
)


def test_a_forecast_is_the_arithmetic_on_its_docstring():
    # 36,000 chips x 3.6 s / 0.5 / 3600 s = 72 CPU hours, on 10 CPUs 7.2 h; fetch is waiting, not CPU
    # 36 GB / (2 nodes x 0.001 GB/s) = 18,000 s = 5 h
    # 72,000 requests: by rate / 5 = 14,400 s = 4 h, by concurrency x 2 s / 4 = 36,000 s = 10 h
    found = costs.forecast(36_000, 1, load(), {"tiles": Endpoint(4, 5.0, EXACT(2.0))}, CLUSTER)
    assert costs.total(found.cpu_hours) == EXACT(72.0)
    assert found.cpu_hours["decode"] == EXACT(60.0)
    assert found.hours_by == {"cpu": EXACT(7.2), "network": EXACT(5.0), "tiles": EXACT(10.0)}
    assert (found.hours, found.days) == (EXACT(10.0), EXACT(10.0 / 24))
    assert found.requests == {"tiles": EXACT(72_000.0)}
    assert (found.moved, found.stored) == (EXACT(36e9), EXACT(18e9))
    # CPU needs 7.2 of 10 h on 2 nodes, so both are kept: 10 h x 2 x $3; 18 GB x 3 months x $0.02; 36 GB x $0.1
    assert found.dollars_by["nodes"] == EXACT(60.0)
    assert found.dollars_by["storage"].middle == pytest.approx(1.08)
    assert found.dollars_by["transfer"].middle == pytest.approx(3.6)
    assert found.dollars.middle == pytest.approx(64.68)


def test_a_slow_service_keeps_no_more_nodes_than_have_work():
    slow = {
        "tiles": Endpoint(1, 1.0, EXACT(3.6))
    }  # 72,000 requests take 72 h; CPU 7.2 h of 2 nodes is a fifth of one
    found = costs.forecast(36_000, 1, load(), slow, CLUSTER)
    assert found.hours == EXACT(72.0)
    assert found.dollars_by["nodes"] == EXACT(72.0 * 3.0)


def test_an_endpoint_that_nobody_describes_takes_no_time_but_its_requests_count():
    found = costs.forecast(10, 1, load(), {}, CLUSTER)
    assert "tiles" not in found.hours_by
    assert costs.spending(found)["requests"] == EXACT(20.0)


@pytest.mark.parametrize(("rounds", "share"), [(1, 0.25), (2, 0.5), (3, 0.9), (4, 0.0), (3, 1.0)])
def test_chips_tried_are_those_of_a_loop_over_the_rounds(rounds, share):
    missing, tried = 1000.0, 0.0
    for _ in range(rounds):
        tried += missing
        missing *= 1 - share
    found, samples = costs.tried_chips(1000, rounds, EXACT(share))
    assert found.middle == pytest.approx(tried)
    assert samples.middle == pytest.approx(1000 - missing)


def test_a_low_share_of_accepted_chips_means_more_tried_and_fewer_samples():
    tried, samples = costs.tried_chips(100, 2, Range(0.5, 0.8, 1.0))
    assert (tried.low, tried.high) == (100.0, 150.0)
    assert (samples.low, samples.high) == (75.0, 100.0)


@pytest.mark.parametrize(("accepted", "tried"), [(8, 10), (0, 10), (50, 100), (1, 1), (999, 1000)])
def test_the_ends_of_wilsons_interval_lie_z_standard_errors_of_their_own_from_the_share(accepted, tried):
    found = costs.wilson(accepted, tried, z=1.96)
    assert found.middle == accepted / tried
    for end in (found.low, found.high):
        if 0 < end < 1:
            own_error = math.sqrt(end * (1 - end) / tried)
            assert abs(found.middle - end) == pytest.approx(1.96 * own_error, rel=1e-9)
    assert (found.low > 0) == (accepted > 0)
    assert (found.high < 1) == (accepted < tried)


def test_wilsons_interval_holds_the_truth_about_nineteen_times_in_twenty():
    rng = np.random.default_rng(0)
    drawn = rng.binomial(40, 0.7, 2000)
    held = sum(found.low <= 0.7 <= found.high for found in (costs.wilson(int(count), 40) for count in drawn))
    assert 0.93 <= held / 2000 <= 0.97


def test_a_rate_is_sums_over_sums_and_its_range_the_bootstrap_over_all_resamples():
    amounts, chips = [2.0, 9.0, 4.0], [1, 3, 4]
    found = costs.rate(amounts, chips)
    assert found.middle == 15.0 / 8.0
    every = [
        sum(amounts[k] for k in chosen) / sum(chips[k] for k in chosen)
        for chosen in itertools.product(range(3), repeat=3)
    ]
    assert found.low == pytest.approx(np.quantile(every, 0.025), abs=0.1)
    assert found.high == pytest.approx(np.quantile(every, 0.975), abs=0.1)
    assert costs.rate(amounts, chips) == found


def test_two_pieces_tell_no_spread_so_a_stated_factor_stands_in():
    assert costs.rate([2.0, 4.0], [1, 2]) == Range(1.0, 2.0, 4.0)
    with pytest.raises(ValueError, match="no rate"):
        costs.rate([], [])


def test_pieces_in_which_nothing_was_counted_still_add_their_amounts():
    found = costs.rate([6.0, 0.0, 3.0], [3, 0, 0])
    assert found.middle == 3.0
    assert 2.0 <= found.low <= found.high


def observed(**changes):
    values = {
        "tried": {"forest": 3, "urban": 1},
        "accepted": {"forest": 2},
        "rejected": {"cloudy": 2},
        "seconds": {"decode": 8.0, "fetch": 40.0},
        "stored": 1000.0,
        "requests": {"tiles": 16.0},
        "moved": {"optical": 4e6},
    }
    return Observation(**(values | changes))


def test_a_load_is_fitted_per_chip_tried_and_bytes_per_chip_accepted():
    found = costs.fitted([observed(), observed(), observed()], load(eecu_s=EXACT(7.0)))
    assert found.seconds == {"decode": EXACT(2.0), "fetch": EXACT(10.0)}
    assert found.requests == {"tiles": EXACT(4.0)}
    assert found.moved == {"optical": EXACT(1e6)}
    assert found.stored == EXACT(500.0)
    assert found.accepted.middle == 0.5
    assert found.eecu_s == EXACT(7.0)


def test_with_nothing_accepted_the_bytes_stored_stay_assumed():
    found = costs.fitted([observed(accepted={})], load())
    assert found.stored == load().stored
    assert found.accepted.low == 0.0


def test_earth_engine_compute_in_months_of_each_tier():
    found = costs.forecast(1_000_000, 1, load(eecu_s=EXACT(3.6)), {}, CLUSTER)
    assert found.eecu_hours == EXACT(1000.0)
    months = found.eecu_months()
    assert [months[tier].middle for tier in ("community", "contributor", "partner")] == [
        pytest.approx(1000 / 150),
        1.0,
        0.01,
    ]


def test_ranges_add_and_multiply_end_by_end_and_refuse_to_run_backwards():
    assert Range(1, 2, 3) + Range(0, 1, 10) == Range(1, 3, 13)
    assert Range(1, 2, 3) * Range(2, 2, 4) == Range(2, 4, 12)
    assert Range(1, 2, 3) * 2 == Range(2, 4, 6)
    assert costs.longest([Range(1, 5, 6), Range(2, 3, 9)]) == Range(2, 5, 9)
    for bad in ((3, 2, 4), (-1, 0, 1), (0, math.nan, 1)):
        with pytest.raises(ValueError, match="ascends"):
            Range(*bad)


def test_a_budget_is_read_and_held_against_the_high_end():
    budget = costs.budget_of("requests=1e6, days=30,dollars=500")
    assert budget == {"requests": 1e6, "days": 30.0, "dollars": 500.0}
    found = costs.forecast(36_000, 1, load(requests={"tiles": Range(1, 2, 40)}), {}, CLUSTER)
    assert costs.over(found, budget) == {"requests": (Range(36_000, 72_000, 1_440_000), 1e6)}
    assert costs.over(found, {"requests": 1_440_000}) == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("euros=5", "not 'euros'"),
        ("days=soon", "not 'soon'"),
        ("days=-1", "not below zero"),
        ("", "limits chips"),
    ],
)
def test_a_budget_that_cannot_be_read_is_refused_in_a_sentence(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        costs.budget_of(text)


def test_a_cluster_without_machines_is_refused():
    with pytest.raises(ValueError, match="no cluster"):
        Cluster(nodes=0)
    with pytest.raises(ValueError, match="no cluster"):
        Cluster(efficiency=1.5)
