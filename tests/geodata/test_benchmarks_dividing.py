"""Who trains and who is scored: the published lists are the rule, fractions lie inside each other, chips cover scenes."""

import csv
import gzip
import hashlib
import importlib.resources
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geodata import benchmarks
from geodata.benchmarks import (
    aid,
    eurosat_rgb,
    fraction,
    origin,
    resisc45,
    spacenet1,
    tile_id,
    ucmerced,
    whu_cd,
)
from geodata.benchmarks.dividing import dealt, drawn, listed, table
from geodata.benchmarks.readers.points import by_place
from geodata.benchmarks.readers.tiles import origins, starts

LISTED = {"aid": aid, "ucmerced": ucmerced, "resisc45": resisc45, "eurosat": eurosat_rgb}
SIZES = {"aid": 10_000, "ucmerced": 2_100, "resisc45": 31_500, "eurosat": 27_000}


@pytest.mark.parametrize("name", LISTED)
def test_a_published_list_is_its_rule_applied_to_the_published_names(name):
    """The rule once more, by hand: of each class, in the order of SHA-256 of seed and name, the first share trains."""
    place = importlib.resources.files("geodata") / "benchmarks" / "splits" / f"{name}.csv.gz"
    rows = list(csv.reader(gzip.decompress(place.read_bytes()).decode().splitlines()))
    head, body = rows[0], rows[1:]
    assert len(body) == len({row[0] for row in body}) == SIZES[name]
    rules = LISTED[name].SHARES
    for column in (min(rules), max(rules)):
        share, seed = rules[column]
        told = {row[0]: row[head.index(column)] for row in body}
        for paths in LISTED[name].names().values():
            inside = sorted(paths, key=lambda path: hashlib.sha256(f"{seed}\0{path}".encode()).hexdigest())
            train = round(share * len(paths))
            assert [told[path] for path in inside] == ["train"] * train + ["test"] * (len(paths) - train)
    again = table(drawn(LISTED[name].names(), rules))
    assert gzip.decompress(again) == gzip.decompress(place.read_bytes())


DEALT = {"whu_cd": (whu_cd, list(whu_cd.places(*whu_cd.SIZE))), "spacenet1": (spacenet1, spacenet1.names())}


@pytest.mark.parametrize("name", DEALT)
def test_a_list_without_classes_deals_out_the_published_counts_in_the_order_of_a_hash(name):
    module, names = DEALT[name]
    place = importlib.resources.files("geodata") / "benchmarks" / "splits" / f"{name}.csv.gz"
    told = dict(csv.reader(gzip.decompress(place.read_bytes()).decode().splitlines()[1:]))
    assert told.keys() == set(names) and Counter(told.values()) == module.COUNTS
    inside = sorted(told, key=lambda one: hashlib.sha256(f"0\0{one}".encode()).hexdigest())
    blocks = [(split, len(list(run))) for split, run in itertools.groupby(told[one] for one in inside)]
    assert blocks == list(module.COUNTS.items())
    again = table({"split": dealt(names, module.COUNTS, seed=0)})
    assert gzip.decompress(again) == gzip.decompress(place.read_bytes())


def test_counts_that_are_not_as_many_as_the_names_are_refused():
    with pytest.raises(ValueError, match="deal out 3, there are 2 names"):
        dealt(["a", "b"], {"train": 2, "test": 1}, seed=0)


@pytest.mark.parametrize("name", [name for name in benchmarks.names() if "_tr" in name])
def test_a_listed_benchmark_says_how_many_its_list_holds(name):
    dataset = name.partition("_")[0]
    column = name.partition("_tr")[2]
    counts = Counter(listed(dataset, f"tr{column}").values())
    assert counts == benchmarks.find(name).splits


def test_draws_of_one_share_differ():
    first, second = (
        {path for path, split in listed("aid", f"tr20_{seed}").items() if split == "train"} for seed in (0, 1)
    )
    assert len(first & second) == pytest.approx(0.2 * 2000, abs=100)


def test_fractions_lie_inside_each_other_and_keep_the_shares_of_classes():
    ids = [f"sample-{number}" for number in range(3000)]
    labels = [0] * 2000 + [1] * 900 + [2] * 100
    parts = [fraction(ids, labels, share, seed=3) for share in (0.01, 0.05, 0.1, 0.5, 1.0)]
    for small, large in itertools.pairwise(parts):
        assert small < large
    by_class = dict(zip(ids, labels, strict=True))
    counts = [Counter(by_class[one] for one in part) for part in parts]
    assert counts == [
        {0: 20, 1: 9, 2: 1},
        {0: 100, 1: 45, 2: 5},
        {0: 200, 1: 90, 2: 10},
        {0: 1000, 1: 450, 2: 50},
        {0: 2000, 1: 900, 2: 100},
    ]


def test_a_fraction_depends_on_seed_and_ids_alone():
    ids = [f"sample-{number}" for number in range(400)]
    one = fraction(ids, None, 0.1, seed=0)
    assert one == fraction(ids[::-1], None, 0.1, seed=0) and len(one) == 40
    assert one != fraction(ids, None, 0.1, seed=1)
    wanted = sorted(ids, key=lambda name: hashlib.sha256(f"0\0{name}".encode()).digest())[:40]
    assert one == set(wanted)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01])
def test_a_fraction_outside_of_0_to_1_is_refused(share):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        fraction(["a"], None, share, 0)


def test_an_id_that_comes_twice_is_refused():
    with pytest.raises(ValueError, match="come twice"):
        fraction(["a", "a"], None, 0.5, 0)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 3000), st.integers(1, 900), st.data())
def test_windows_cover_an_axis_and_the_last_ends_with_it(length, chip, data):
    stride = data.draw(st.integers(1, chip))
    found = starts(length, chip, stride)
    covered = np.zeros(max(length, chip), bool)
    for start in found:
        covered[start : start + chip] = True
    assert covered.all() and len(set(found)) == len(found)
    assert found[0] == 0 and found[-1] == max(0, length - chip)
    # the loop of published tools: step by the stride, and move a window that sticks out back to the border
    walked = {min(start, max(0, length - chip)) for start in range(0, length, stride)}
    assert set(found) <= walked and walked - set(found) <= {max(0, length - chip)}


def test_an_id_says_where_its_chip_was_cut():
    assert origin(tile_id("potsdam", "2_10", 384, 5488)) == ("potsdam-2_10", 384, 5488)
    assert origin(tile_id("isaid", "a-r2-c3", 0, 12_000)) == ("isaid-a-r2-c3", 0, 12_000)
    with pytest.raises(ValueError, match="does not say where it was cut"):
        origin("aid-3fa9c1d2-airport_1")


def test_chips_put_back_where_their_ids_say_make_the_scene():
    scene = np.random.default_rng(1).integers(0, 9, (70, 45))
    back = np.full(scene.shape, -1)
    for row, column in origins(70, 45, 32, 20):
        _, top, left = origin(tile_id("any", "scene", row, column))
        back[top : top + 32, left : left + 32] = scene[row : row + 32, column : column + 32]
    assert np.array_equal(back, scene)


def test_neighbours_are_divided_together():
    assert len({by_place(10.01 + step / 1000, 50.01, 0.1) for step in range(80)}) == 1
    split = Counter(by_place(lon / 10 + 0.05, lat / 10 + 0.05, 0.1) for lon in range(50) for lat in range(50))
    assert split["train"] / 2500 == pytest.approx(0.6, abs=0.04)


def test_a_name_that_is_not_known_is_told_what_is():
    with pytest.raises(ValueError, match="data sets are aid, bigearthnet"):
        benchmarks.find("imagenet")
    with pytest.raises(ValueError, match="one of these ways: aid_tr20_0, aid_tr20_1"):
        benchmarks.find("aid")
    assert benchmarks.find("eurosat_rgb_500").name == "eurosat_rgb_500"


def test_a_part_of_a_data_set_is_said_to_be_one():
    benchmark = benchmarks.find("ucmerced_tr80_0")
    assert benchmark.partial({"train": 1680, "test": 420}) == []
    assert benchmark.partial({"train": 3}) == ["train has 3 of 1,680", "test has 0 of 420"]
    folds = benchmarks.find("pastis_run1")  # how large its folds are is not printed
    assert folds.partial({"train": 1450, "val": 490, "test": 493}) == []
    assert folds.partial({"train": 12}) == ["12 of 2,433 are there"]
