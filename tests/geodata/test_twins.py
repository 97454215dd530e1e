"""Samples that repeat others: all but the first in the order of the plan go, and growth takes nothing back."""

import numpy as np
import pytest

from geodata.shards import ShardRecord
from geodata.twins import repeated


class Order:
    """A plan of which only the order is asked."""

    def __init__(self, *names):
        self.names = names

    def places(self, ids):
        return {name: place for place, name in enumerate(self.names) if name in ids}


def record(name, samples):
    """A shard of samples: id -> (pixel hash, perceptual hash)."""
    entries = tuple(
        {"sample_id": key, "layers": {"s2": {"pixel_hash": pixels, "phash": phash}}}
        for key, (pixels, phash) in sorted(samples.items())
    )
    rows = len(entries)
    return ShardRecord(name, rows, rows, 1, "", (rows,), samples=entries)


def dropped(shards, plan, kind="exact", bits=6):
    records = [record(name, samples) for name, samples in shards.items()]
    found = repeated(lambda: iter(records), plan, ("s2",), kind, bits)
    return {name: set(details) for name, details in found.items()}


def test_of_the_same_pixels_the_first_in_the_plan_stays_whichever_shard_it_is_in():
    shards = {
        "train-r0-00000": {"a": ("x", 1), "b": ("y", 2)},
        "train-r1-00000": {"c": ("x", 1), "d": ("x", 1), "e": ("z", 3)},
    }
    assert dropped(shards, Order("a", "b", "c", "d", "e")) == {"train-r1-00000": {"c", "d"}}
    assert dropped(shards, Order("d", "c", "b", "a", "e")) == {
        "train-r1-00000": {"c"},
        "train-r0-00000": {"a"},
    }


def test_what_is_dropped_is_told_by_name():
    records = [record("s", {"a": ("x", 0), "b": ("x", 0), "c": ("y", 0b111)})]
    found = repeated(lambda: iter(records), Order("a", "b", "c"), ("s2",), "perceptual", 3)
    assert found == {"s": {"b": "the same pixels as a", "c": "looks like a: 3 of 64 bits differ"}}


def test_samples_of_several_layers_repeat_only_when_all_their_pixels_do_and_the_map_does_not_count():
    def entry(name, s2, s1, lc):
        hashes = {"s2": s2, "s1": s1, "lc": lc}
        return {
            "sample_id": name,
            "layers": {prefix: {"pixel_hash": one, "phash": None} for prefix, one in hashes.items()},
        }

    entries = (entry("a", "x", "u", "1"), entry("b", "x", "v", "1"), entry("c", "x", "u", "2"))
    records = [ShardRecord("s", 3, 3, 1, "", (3,), samples=entries)]
    found = repeated(lambda: iter(records), Order("a", "b", "c"), ("s2", "s1", "lc"), "perceptual", 6)
    assert {name: set(one) for name, one in found.items()} == {"s": {"c"}}


def test_nothing_is_dropped_where_nothing_repeats():
    assert (
        dropped({"s": {"a": ("x", 0), "b": ("y", 2**40 - 1)}, "t": {}}, Order("a", "b"), "perceptual") == {}
    )
    assert dropped({}, Order()) == {}
    alike = {"s": {"a": ("x", 0), "b": ("y", 1)}}
    assert dropped(alike, Order("a", "b"), "exact") == {}


def test_a_picture_goes_only_when_it_is_like_one_that_stays():
    chain = {"s": {"a": ("x", 0b0), "b": ("y", 0b11), "c": ("z", 0b1111)}}
    assert dropped(chain, Order("a", "b", "c"), "perceptual", bits=2) == {"s": {"b"}}
    assert dropped(chain, Order("b", "a", "c"), "perceptual", bits=2) == {"s": {"a", "c"}}


def by_hand(samples, plan, kind, bits):
    """One by one in the order of the plan, each against all that stay."""
    stays = []
    for name in plan.names:
        pixels, phash = samples[name]
        same = any(samples[other][0] == pixels for other in stays)
        near = kind == "perceptual" and any(
            (samples[other][1] ^ phash).bit_count() <= bits for other in stays
        )
        if not same and not near:
            stays.append(name)
    return set(samples) - set(stays)


@pytest.mark.parametrize("kind", ["exact", "perceptual"])
@pytest.mark.parametrize("seed", range(4))
def test_the_loop_by_hand_and_growth_that_takes_nothing_back(kind, seed):
    rng = np.random.default_rng(seed)
    bases = [int(one) for one in rng.integers(0, 2**63, 6)]
    pictures = [bases[n % 6] ^ sum(1 << int(bit) for bit in rng.integers(0, 64, n // 6)) for n in range(24)]
    samples = {}
    for number in range(80):
        shown = int(rng.integers(24))
        pixels = f"picture {shown}" if rng.random() < 0.5 else f"only {number}"
        samples[f"n{number:02d}"] = (pixels, pictures[shown])
    plan = Order(*rng.permutation(list(samples)))
    names = list(samples)
    shards = {f"s{n}": {name: samples[name] for name in names[16 * n : 16 * n + 16]} for n in range(5)}
    found = dropped(shards, plan, kind)
    everything = set().union(*found.values()) if found else set()
    assert everything == by_hand(samples, plan, kind, 6)
    assert everything
    for name, members in found.items():
        assert members <= set(shards[name])
    first = set(plan.names[:40])
    early = {name: {key: one for key, one in part.items() if key in first} for name, part in shards.items()}
    before = dropped(early, plan, kind)
    assert (set().union(*before.values()) if before else set()) == everything & first
    left = {
        name: {key: one for key, one in part.items() if key not in everything or key == min(everything)}
        for name, part in shards.items()
    }
    again = dropped(left, plan, kind)  # killed with one shard left to rewrite: the same end
    assert set().union(*again.values()) == {min(everything)}
