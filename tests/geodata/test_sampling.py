"""Quotas against fractions, draws against distributions, distances and splits against brute force."""

import pickle
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import shapely
from shapely import box

from geodata.chips import region_id
from geodata.continents import NAMES, continent_of
from geodata.corpus import demo, smoke
from geodata.grid import Grid, project, utm_epsg
from geodata.landcover import ESRI_2020
from geodata.overrides import overridden
from geodata.published import RSRSD_SHARES, RSRSD_WEIGHTS
from geodata.quotas import apportion
from geodata.sampling import OUTCOMES, Plan, more, plan, quotas, uniform
from geodata.sites import BOXES
from geodata.source import Raster

SPLITS = ("train", "val", "test")


class Stripes:
    """A map whose class depends on longitude and latitude by a formula: stripes, and one code over all else."""

    classes = ESRI_2020

    def __init__(self, codes=(7, 5, 4, 2, 1), width=0.5):
        self.codes, self.width = np.array(codes, np.uint8), width

    def at(self, lon, lat):
        place = np.floor(lon / self.width) + 3 * np.floor(lat / self.width)
        return self.codes[np.nan_to_num(place).astype(int) % len(self.codes)]

    def read(self, grid):
        lon, lat = grid.lonlat()
        codes = self.at(lon, lat)[None]
        return Raster(codes, codes[0] != 255, grid, ("class",))


def everywhere(count=200, **changes):
    texts = [
        "regions.kind=everywhere",
        f"quotas.count={count}",
        *(f"{key}={value}" for key, value in changes.items()),
    ]
    return overridden(smoke(), texts)


def small(fixed=None, **changes):
    """A metric area of 9.6 x 9.6 km, chips of 640 m, 120 m apart."""
    fixed = fixed or '{"urban": 60, "forest": 60}'
    texts = [f"quotas.fixed={fixed}", "regions.bounds=[330000.0, 5812440.0, 339600.0, 5822040.0]"]
    return overridden(
        demo(), [*texts, *(f"{key.replace('__', '.')}={value}" for key, value in changes.items())]
    )


FINE = Stripes((7, 2, 255), 0.004)


def ids(found, **where):
    return [
        chip.chip_id
        for chip in found.chips
        if all(getattr(chip, key) == value for key, value in where.items())
    ]


@pytest.mark.parametrize("total", [0, 1, 7, 96, 1000, 4_682_059])
def test_apportioned_parts_are_the_largest_remainders_in_fractions(total):
    weights = {"a": 0.6, "b": 0.1, "c": 0.1, "d": 0.15, "e": 0.05}
    exact = {key: Fraction(str(weight)) * total for key, weight in weights.items()}
    expected = {key: int(value) for key, value in exact.items()}
    for _ in range(total - sum(expected.values())):
        key = max(exact, key=lambda key: exact[key] - expected[key])
        expected[key] += 1
    assert apportion(total, weights) == expected
    assert sum(expected.values()) == total


def test_rsrsd_quotas_are_the_published_ones_and_exact_in_both_directions():
    spec = overridden(smoke(), ["quotas.count=4682059"])
    table = quotas(spec)
    continents = {region: sum(strata.values()) for region, strata in table.items()}
    strata = {name: sum(table[region][name] for region in table) for name in RSRSD_SHARES}
    assert sum(continents.values()) == sum(strata.values()) == 4_682_059
    assert strata == {
        "urban": 2_809_235,
        "farmland": 468_206,
        "wetland": 468_206,
        "forest": 468_206,
        "watershed": 468_206,
    }
    for region, weight in RSRSD_WEIGHTS.items():
        assert abs(continents[region] - (1_040_458 if weight == 2 else 520_229)) <= 1
        assert abs(table[region]["urban"] - (624_275 if weight == 2 else 312_137)) <= 1


def test_fixed_quotas_on_continents_are_a_region_of_their_own():
    spec = overridden(smoke(), ['quotas.fixed={"desert": 10, "ice": 10}'])
    assert quotas(spec)["anywhere"] == {"desert": 10, "ice": 10}
    assert spec.quotas.total == 116


def test_a_candidate_is_a_function_of_key_and_number_alone():
    whole = uniform(12345, 0, 1000)
    np.testing.assert_array_equal(uniform(12345, 617, 100), whole[617:717])
    np.testing.assert_array_equal(np.concatenate([uniform(12345, k, 1) for k in range(20)]), whole[:20])
    assert whole.min() >= 0
    assert whole.max() < 1
    assert not np.array_equal(uniform(12346, 0, 1000), whole)


def test_points_are_even_by_area():
    """Kolmogorov-Smirnov on the sine of latitude, chi-square on longitude; the map has the same strata everywhere."""
    found = plan(everywhere(3000, tries=50), Stripes(width=0.05))
    lon = np.array([chip.lon for chip in found.chips])
    sine = np.sort(np.sin(np.radians([chip.lat for chip in found.chips])))
    low, high = np.sin(np.radians([-80, 84]))
    even = (sine - low) / (high - low)
    distance = np.abs(even - (np.arange(3000) + 0.5) / 3000).max()
    assert distance < 1.95 / np.sqrt(3000)
    counts = np.histogram(lon, 24, (-180, 180))[0]
    assert ((counts - 125) ** 2 / 125).sum() < 49.7  # 99.9 % of chi-square with 23 degrees of freedom


def test_quotas_are_met_exactly_and_every_candidate_is_accounted_for():
    spec = everywhere(250)
    found = plan(spec, Stripes())
    assert found.counts("stratum") == {
        "urban": 150,
        "farmland": 25,
        "wetland": 25,
        "forest": 25,
        "watershed": 25,
    }
    assert found.shortfalls == ()
    tally = found.candidates["everywhere"]
    assert set(tally) == set(OUTCOMES)
    assert tally["chip"] == 250
    assert sum(tally.values()) == found.columns["draw"].max() + 1


def test_a_chip_has_its_stratum_at_its_centre_and_its_corner_on_the_lattice():
    land = Stripes(width=0.01)
    for chip in plan(everywhere(100), land).chips:
        lon, lat = chip.grid.centre()
        assert (chip.lon, chip.lat) == pytest.approx((lon, lat), abs=1e-9)
        code = land.at(np.array([chip.lon]), np.array([chip.lat]))[0]
        assert ESRI_2020.strata[code] == chip.stratum
        assert chip.grid.on_lattice(60.0)
        assert chip.grid.epsg == utm_epsg(chip.lon, chip.lat)
        assert chip.grid.shape == (64, 64)
        assert chip.region_id == region_id(lon, lat)


def test_the_same_spec_gives_the_same_plan_and_another_seed_another():
    assert plan(everywhere(), Stripes()) == plan(everywhere(), Stripes())
    assert ids(plan(everywhere(), Stripes())) != ids(plan(everywhere(seed=1), Stripes()))


@pytest.mark.parametrize("batch", [1, 7, 100, 4096])
def test_the_plan_does_not_depend_on_the_batch(batch):
    spec = everywhere(40)
    assert plan(spec, Stripes(), batch=batch) == plan(spec, Stripes())


@pytest.mark.slow
@pytest.mark.parametrize("batch", [13, 500])
def test_the_plan_of_a_crowded_area_does_not_depend_on_the_batch(batch):
    spec = small('{"urban": 100, "forest": 4000}', tries=3)
    assert plan(spec, FINE, batch=batch) == plan(spec, FINE)
    assert plan(spec, FINE).shortfalls


@pytest.mark.parametrize("workers", [2, 8])
def test_many_workers_plan_what_one_does(workers):
    spec = overridden(smoke(), ["quotas.count=90", 'quotas.fixed={"desert": 12}'])
    found = plan(spec, Stripes((7, 5, 4, 2, 1, 8)))
    assert len(found.regions) == 7
    assert plan(spec, Stripes((7, 5, 4, 2, 1, 8)), workers=workers) == found
    assert more(found, spec, Stripes(), ids(found)[:5], workers=workers) == more(
        found, spec, Stripes(), ids(found)[:5]
    )


@pytest.mark.parametrize("make", [everywhere, None])
def test_a_small_plan_begins_the_large_one_in_every_stratum(make):
    if make:
        one, two = (plan(make(count), Stripes()) for count in (1000, 2000))
    else:
        one, two = (plan(small(f'{{"urban": {n}, "forest": {n}}}'), FINE) for n in (50, 100))
    for stratum in one.counts("stratum"):
        first, second = ids(one, stratum=stratum), ids(two, stratum=stratum)
        assert len(first) < len(second)
        assert second[: len(first)] == first
    assert set(ids(one)) < set(ids(two))


def test_ids_are_unique():
    found = plan(small('{"urban": 400, "forest": 400}'), FINE)
    assert len(set(ids(found))) == len(found)


def test_what_a_map_does_not_hold_is_an_honest_shortfall():
    spec = overridden(everywhere(50, tries=10), ['quotas.fixed={"ice": 5}'])
    found = plan(spec, Stripes())
    (short,) = found.shortfalls
    assert (short.region, short.stratum, short.wanted, short.found) == ("everywhere", "ice", 5, 0)
    assert short.candidates == 1 << 16
    assert found.counts("stratum")["urban"] == 30
    assert "ice" not in found.counts("stratum")


def test_a_plan_without_any_chip_is_refused_with_the_reasons():
    with pytest.raises(ValueError, match="has no chip: of its candidates 121 zone edge, 65415 no class"):
        plan(everywhere(5), Stripes((255,)))


def test_weights_are_the_share_of_ground_over_the_share_of_chips():
    """Stripes of equal width: every stratum has a fifth of the ground, whatever its quota."""
    found = plan(everywhere(2000), Stripes(width=0.05))
    weights = {chip.stratum: chip.weight for chip in found.chips}
    assert np.mean([chip.weight for chip in found.chips]) == pytest.approx(1)
    assert weights["urban"] == pytest.approx(0.2 / 0.6, rel=0.1)
    assert weights["forest"] == pytest.approx(0.2 / 0.1, rel=0.1)


def gaps(found):
    """Distance between footprints, and between centres, of every pair in one zone: two nested loops, by numpy."""
    bounds = np.array([chip.grid.bounds for chip in found.chips])
    x = np.maximum(bounds[:, None, 0] - bounds[None, :, 2], bounds[None, :, 0] - bounds[:, None, 2])
    y = np.maximum(bounds[:, None, 1] - bounds[None, :, 3], bounds[None, :, 1] - bounds[:, None, 3])
    apart = np.hypot(np.maximum(x, 0), np.maximum(y, 0))
    centres = (bounds[:, :2] + bounds[:, 2:]) / 2
    return apart, np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1))


@pytest.mark.parametrize("spacing", [120.0, 200.0, 640.0])
def test_no_two_chips_are_nearer_than_the_spacing(spacing):
    found = plan(small(chip__spacing_m=spacing, tries=200), FINE)
    _, centres = gaps(found)
    np.fill_diagonal(centres, np.inf)
    assert centres.min() >= spacing


def test_spacing_holds_across_the_edge_of_two_zones():
    changes = {"chip.spacing_m": 20000, "tries": 300}
    area = [
        "regions.kind=area",
        "regions.name=edge",
        "regions.bounds=[5.0, 50.0, 7.0, 51.0]",
        "quotas.count=100",
    ]
    spec = overridden(smoke(), [*area, *(f"{key}={value}" for key, value in changes.items())])
    found = plan(spec, Stripes(width=0.02))
    assert {chip.grid.epsg for chip in found.chips} == {32631, 32632}
    assert found.candidates["edge"]["zone edge"] > 0
    places = np.array([project(chip.lon, chip.lat, 32631) for chip in found.chips])
    distances = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    np.fill_diagonal(distances, np.inf)
    assert distances.min() > 20000 * 0.998


@pytest.mark.parametrize("guard", [0.0, 120.0, 600.0])
@pytest.mark.parametrize("assign", ["balanced", "hash"])
def test_chips_of_different_splits_keep_the_guard_between_them(guard, assign):
    found = plan(small(split__guard_m=guard, split__assign=assign), FINE)
    apart, _ = gaps(found)
    split = np.array([chip.split for chip in found.chips])
    assert len(set(split)) == 3
    across = apart[split[:, None] != split[None]]
    assert across.min() >= guard
    assert found.candidates["havelland"]["guard"] > 0
    if not guard:
        bounds = [box(*chip.grid.bounds) for chip in found.chips]
        pairs = [(a, b) for a in range(40) for b in range(a) if split[a] != split[b]]
        assert all(bounds[a].intersection(bounds[b]).area == 0 for a, b in pairs)


def test_no_split_leaks_into_another_across_zones_on_the_sphere():
    texts = [
        "regions.kind=area",
        "regions.name=edge",
        "regions.bounds=[5.9, 50.0, 6.1, 50.1]",
        "quotas.count=600",
    ]
    texts += ["split.block_m=2500.0", "split.guard_m=300.0", "tries=400", "chip.spacing_m=180"]
    found = plan(overridden(smoke(), texts), Stripes(width=0.003))
    assert {chip.grid.epsg for chip in found.chips} == {32631, 32632}
    assert set(found.counts("split")) == set(SPLITS)
    shapes = {name: [] for name in SPLITS}
    for chip in found.chips:
        corners = np.array(chip.grid.footprint().exterior.coords)
        x, y = project(corners[:, 0], corners[:, 1], 32631)
        shapes[chip.split].append((x.min(), y.min(), x.max(), y.max()))
    merged = {name: shapely.union_all([box(*bounds) for bounds in parts]) for name, parts in shapes.items()}
    for one, two in (("train", "test"), ("train", "val"), ("val", "test")):
        assert merged[one].distance(merged[two]) > 300 * 0.95


def test_growth_moves_no_chip_into_another_split():
    one, two = (plan(everywhere(count), Stripes()) for count in (100, 200))
    before = {chip.chip_id: (chip.split, chip.block_id) for chip in one.chips}
    after = {chip.chip_id: (chip.split, chip.block_id) for chip in two.chips}
    assert before.items() <= after.items()


def test_hashed_blocks_follow_the_fractions():
    counts = plan(everywhere(2000), Stripes()).counts("split")
    assert counts["train"] / 2000 == pytest.approx(0.7, abs=0.04)
    assert counts["val"] / 2000 == pytest.approx(0.15, abs=0.03)


def test_balanced_blocks_follow_the_fractions_exactly_and_hold_every_class():
    found = plan(small('{"urban": 150, "forest": 150}', split__guard_m=0), FINE)
    blocks = {name: {chip.block_id for chip in found.chips if chip.split == name} for name in SPLITS}
    assert {name: len(members) for name, members in blocks.items()} == {"train": 17, "val": 4, "test": 4}
    assert len(found.counts("split", "stratum")) == 6


def test_a_round_replaces_rejected_chips_and_moves_nothing():
    spec = everywhere(100)
    first = plan(spec, Stripes())
    rejected = ids(first)[5:100:10]
    second = more(first, spec, Stripes(), rejected)
    assert ids(second)[:100] == ids(first)
    assert len(second) == 110
    assert second.rounds == 2
    lost = [chip.stratum for chip in first.chips if chip.chip_id in rejected]
    assert sorted(chip.stratum for chip in second.chips[100:]) == sorted(lost)
    assert more(second, spec, Stripes(), rejected) == second
    again = more(second, spec, Stripes(), [*rejected, second.chips[104].chip_id])
    assert len(again) == 111
    names = [shard.name for shard in second.shards(16)]
    assert [shard for shard in second.shards(16) if "-r0-" in shard.name] == list(first.shards(16))
    assert any("-r1-" in name for name in names)


def test_replacements_are_what_a_larger_plan_would_have_taken_next():
    first = plan(small('{"urban": 50, "forest": 50}'), FINE)
    second = more(first, small('{"urban": 50, "forest": 50}'), FINE, ids(first, stratum="urban")[:20])
    larger = plan(small('{"urban": 70, "forest": 50}'), FINE)
    assert ids(second, stratum="urban") == ids(larger, stratum="urban")


def test_rounds_continue_from_a_plan_read_from_its_file(tmp_path):
    spec = everywhere(100)
    first = plan(spec, Stripes())
    first.write(tmp_path)
    kept = Plan.read(tmp_path)
    assert kept == first
    assert kept.chips[17] == first.chips[17]
    assert more(kept, spec, Stripes(), ids(first)[:9]) == more(first, spec, Stripes(), ids(first)[:9])


def test_an_exhausted_stratum_is_not_refilled_silently():
    spec = small('{"urban": 5000}', tries=5)
    first = plan(spec, FINE)
    second = more(first, spec, FINE, ids(first)[:10])
    assert second.shortfalls[0].wanted == 5010
    assert second.shortfalls[0].found == len(second) < 5010


def test_shards_hold_every_chip_once_and_neighbours_together():
    found = plan(everywhere(500), Stripes())
    shards = found.shards(64)
    chips = [chip for shard in shards for chip in shard.chips]
    assert sorted(chip.chip_id for chip in chips) == sorted(ids(found))
    assert all(1 <= len(shard.chips) <= 64 for shard in shards)
    assert all(len({chip.split for chip in shard.chips}) == 1 for shard in shards)
    assert len({shard.name for shard in shards}) == len(shards)
    assert shards[0].name == "train-r0-00000"
    assert list(pickle.loads(pickle.dumps(shards))) == list(shards)

    def jumps(order):
        return sum(one.grid.epsg != two.grid.epsg for one, two in pairwise(order))

    assert jumps(chips) < 0.5 * jumps(list(found.chips))
    with pytest.raises(ValueError, match="at least one row"):
        found.shards(0)


@pytest.fixture
def boxes(monkeypatch):
    """Six continents that are rectangles, all land."""
    lands = {
        "africa": (-15, -30, 40, 30),
        "asia": (60, 10, 140, 70),
        "europe": (-10, 36, 50, 70),
        "north_america": (-120, 20, -70, 60),
        "oceania": (115, -38, 150, -12),
        "south_america": (-75, -40, -40, 5),
    }

    def codes(lon, lat, reach_km=0.0, outlines="coarse"):
        found = np.full(np.shape(lon), -1, np.int8)
        for name, (west, south, east, north) in lands.items():
            found[(lon >= west) & (lon <= east) & (lat >= south) & (lat <= north)] = NAMES.index(name)
        return found

    monkeypatch.setattr("geodata.continents.codes", codes)
    return lands


def test_continents_and_strata_are_filled_exactly_and_chips_lie_in_their_continent(boxes):
    spec = overridden(smoke(), ["quotas.count=360", 'quotas.fixed={"desert": 30}'])
    found = plan(spec, Stripes((7, 5, 4, 2, 1, 8)))
    assert not found.shortfalls
    assert len(found) == 390
    for region, strata in quotas(spec).items():
        if region != "anywhere":
            mine = [
                chip.stratum for chip in found.chips if chip.region == region and chip.stratum != "desert"
            ]
            assert {name: mine.count(name) for name in strata} == strata
    deserts = [chip for chip in found.chips if chip.stratum == "desert"]
    assert len({chip.region for chip in deserts}) > 2
    assert len({chip.weight for chip in deserts}) == 1
    for chip in found.chips:
        west, south, east, north = boxes[chip.region]
        assert west <= chip.lon <= east
        assert south <= chip.lat <= north


def test_a_region_draws_the_same_chips_whoever_else_is_in_the_plan(boxes):
    spec = overridden(smoke(), ["quotas.count=90"])
    alone = overridden(smoke(), ["quotas.count=20", 'regions.weights={"europe": 1.0}'])
    whole = plan(spec, Stripes())
    for stratum in RSRSD_SHARES:
        one, two = ids(whole, region="europe", stratum=stratum), ids(plan(alone, Stripes()), stratum=stratum)
        assert one == two[: len(one)] if len(one) < len(two) else one[: len(two)] == two


def test_the_box_of_a_continent_holds_all_of_it():
    lon, lat = (
        values.ravel() for values in np.meshgrid(np.arange(-179.75, 180, 0.5), np.arange(-59.75, 84, 0.5))
    )
    names = continent_of(lon, lat)
    for name, (west, south, east, north) in BOXES.items():
        mine = np.asarray(names) == name
        assert mine.any()
        assert ((lon[mine] - west) % 360 <= east - west).all()
        assert ((lat[mine] >= south) & (lat[mine] <= north)).all()


def test_region_numbers_run_from_the_north_west():
    assert region_id(-180, 90) == 0
    assert region_id(179.99, -89.99) == 4095
    assert region_id(0.01, 0.01) == 31 * 64 + 32


def test_a_chip_grid_is_a_plain_grid():
    chip = plan(small(), FINE).chips[0]
    assert isinstance(chip.grid, Grid)
    assert chip.grid.at(20.0).shape == (32, 32)
    assert chip.chip_id.endswith(f"{chip.grid.origin[0] / 60:06.0f}-{chip.grid.origin[1] / 60:06.0f}")
