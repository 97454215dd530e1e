"""Plans: counts against Python's counters, files that are whole or refused, chips of one point, numbered fields."""

import collections
import itertools
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from geodata.chips import FILE, SUMMARY, Plan, region_id
from geodata.corpus import smoke
from geodata.errors import Corrupt, Missing
from geodata.landcover import ESRI_2020
from geodata.overrides import overridden
from geodata.sampling import more, plan
from geodata.source import Raster


class Checks:
    """Five classes in squares of half a degree."""

    classes = ESRI_2020

    def at(self, lon, lat):
        place = np.floor(lon / 0.5) + 3 * np.floor(lat / 0.5)
        return np.array((7, 5, 4, 2, 1), np.uint8)[np.nan_to_num(place).astype(int) % 5]

    def read(self, grid):
        codes = self.at(*grid.lonlat())[None]
        return Raster(codes, codes[0] != 255, grid, ("class",))


def spec(*texts, kind="utm", count=200):
    given = ["regions.kind=everywhere", f"quotas.count={count}"]
    base = smoke()
    if kind == "tiles":
        base = base.model_copy(update={"sensors": base.sensors[:1]})
        given += ["chip.kind=tiles", "sensors.0.gsd=null"]
    return overridden(base, [*given, *texts])


@pytest.mark.parametrize("kind", ["utm", "tiles"])
def test_counts_are_those_of_a_counter(kind):
    found = plan(spec(kind=kind), Checks())
    chips = list(found.chips)
    for names in (("split",), ("stratum",), ("zoom",), ("region", "stratum"), ("split", "zoom", "stratum")):
        labels = (" ".join(str(getattr(chip, name)) for name in names) for chip in chips)
        assert found.counts(*names) == collections.Counter(labels)
    assert found.counts("cell") == {"everywhere": 200}
    assert found.counts("round") == {"0": 200}
    assert found.points == len(found) == 200


@pytest.mark.parametrize(("kind", "more_texts"), [("utm", ()), ("tiles", ()), ("tiles", ("chip.zooms=all",))])
def test_a_plan_comes_back_from_its_file(tmp_path, kind, more_texts):
    first = plan(
        spec('quotas.fixed={"ice": 3}', "region_layout=equal_area", *more_texts, kind=kind), Checks()
    )
    assert first.shortfalls
    first.write(tmp_path)
    again = Plan.read(tmp_path)
    assert again == first
    assert again.shortfalls == first.shortfalls
    assert again.chips[17] == first.chips[17]
    assert {name: values.dtype for name, values in again.columns.items()} == {
        name: values.dtype for name, values in first.columns.items()
    }
    told = json.loads((tmp_path / SUMMARY).read_text())
    assert told["chips"] == len(first)
    assert told["points"] == first.points
    assert told["shortfalls"] == [vars(short) for short in first.shortfalls]
    assert pq.read_metadata(tmp_path / FILE).num_rows == len(first)
    assert sorted(path.name for path in tmp_path.iterdir()) == [SUMMARY, FILE]


def test_the_same_plan_is_the_same_file_and_another_is_another_plan(tmp_path):
    one = plan(spec(), Checks())
    one.write(tmp_path / "a")
    one.write(tmp_path / "b")
    assert (tmp_path / "a" / FILE).read_bytes() == (tmp_path / "b" / FILE).read_bytes()
    other = plan(spec("seed=1"), Checks())
    assert other != one
    assert Plan.read(tmp_path / "a") != other


def test_a_plan_that_is_not_there_or_not_whole_is_one_sentence(tmp_path):
    with pytest.raises(Missing, match=r"has no plan.parquet"):
        Plan.read(tmp_path)
    plan(spec(), Checks()).write(tmp_path)
    data = (tmp_path / FILE).read_bytes()
    for broken in (data[:-200], data[: len(data) // 2], b"", data[:4] + b"\0" * 400 + data[404:]):
        (tmp_path / FILE).write_bytes(broken)
        with pytest.raises(Corrupt, match="does not read") as caught:
            Plan.read(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_parquet_file_of_something_else_is_no_plan(tmp_path):
    plan(spec(), Checks()).write(tmp_path)
    table = pq.read_table(tmp_path / FILE)
    pq.write_table(table.replace_schema_metadata({}), tmp_path / FILE)
    with pytest.raises(Corrupt, match="does not read"):
        Plan.read(tmp_path)
    pq.write_table(table.drop_columns(["draw"]), tmp_path / FILE)
    with pytest.raises(Corrupt, match="does not read"):
        Plan.read(tmp_path)


def test_lost_points_are_counted_as_a_loop_over_the_chips_counts_them():
    found = plan(spec(), Checks())
    names = [chip.chip_id for chip in found.chips][3:150:4]
    loop = collections.Counter(
        (chip.region, chip.stratum) for chip in found.chips if chip.chip_id in set(names)
    )
    assert found.lost([*names, *names, "other-32633-000001-000001", "2853013a-nonsense", ""]) == loop
    assert found.lost([]) == {}


def test_a_point_of_several_chips_is_lost_with_the_last_of_them():
    wide = spec("chip.zooms=all", kind="tiles", count=60)
    found = plan(wide, Checks())
    assert found.points == 60
    assert len(found) == sum(found.counts("zoom").values()) > 5 * 60
    chips = {}
    for chip in found.chips:
        chips.setdefault((chip.stratum, chip.draw), []).append(chip)
    assert len(chips) == 60
    for group in chips.values():
        assert [chip.zoom for chip in group] == list(range(group[0].zoom, group[0].zoom + len(group)))
        assert all(one.grid.covers(two.grid) for one, two in itertools.pairwise(group))
        assert len({chip.split for chip in group}) == 1
    assert len({chip.chip_id for chip in found.chips}) == len(found)
    group = next(group for (stratum, _), group in chips.items() if stratum == "urban")
    some, every = [chip.chip_id for chip in group[:-1]], [chip.chip_id for chip in group]
    assert found.lost(some) == {}
    assert found.lost(every) == {("everywhere", "urban"): 1}
    assert len(more(found, wide, Checks(), some)) == len(found)
    assert more(found, wide, Checks(), every).points == 61
    assert [chip.chip_id for chip in more(found, wide, Checks(), every).chips][: len(found)] == [
        chip.chip_id for chip in found.chips
    ]


def test_no_two_chips_of_all_zooms_overlap_inside_a_zoom():
    crowded = [
        "regions.kind=area",
        "regions.name=crowd",
        "regions.bounds=[10.0, 42.8, 10.6, 43.4]",
        "chip.zooms=all",
        "chip.gsd_range=[2.0, 10.0]",
        "tries=100",
    ]
    found = plan(spec(*crowded, kind="tiles", count=60), Checks())
    assert found.candidates["crowd"]["taken"] > 10
    by_zoom = {}
    for chip in found.chips:
        by_zoom.setdefault(chip.zoom, []).append(chip.grid.bounds)
    assert len(by_zoom) > 2
    for boxes in by_zoom.values():
        for place, a in enumerate(boxes):
            for b in boxes[:place]:
                assert max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3]) >= -1e-6


def test_tile_chips_of_different_splits_keep_the_guard_on_the_ground():
    texts = [
        "regions.kind=area",
        "regions.name=north",
        "regions.bounds=[10.0, 59.6, 10.8, 60.0]",
        "chip.gsd_range=[1.0, 4.0]",
        "split.block_m=6000.0",
        "split.guard_m=400.0",
        "tries=400",
    ]
    found = plan(spec(*texts, kind="tiles", count=250), Checks())
    assert found.candidates["north"]["guard"] > 50
    scale = 0.5  # cosine of 60 degrees: Mercator metres to ground metres, within a hundredth here
    boxes = np.array([chip.grid.bounds for chip in found.chips]) * scale
    split = np.array([chip.split for chip in found.chips])
    assert len(set(split)) == 3
    x = np.maximum(boxes[:, None, 0] - boxes[None, :, 2], boxes[None, :, 0] - boxes[:, None, 2])
    y = np.maximum(boxes[:, None, 1] - boxes[None, :, 3], boxes[None, :, 1] - boxes[:, None, 3])
    apart = np.hypot(np.maximum(x, 0), np.maximum(y, 0))
    assert apart[split[:, None] != split[None]].min() > 400 * 0.98


def test_shards_of_tile_chips_hold_neighbours_and_every_chip_once():
    found = plan(spec(kind="tiles", count=400), Checks())
    shards = found.shards(40)
    chips = [chip for shard in shards for chip in shard.chips]
    assert sorted(chip.chip_id for chip in chips) == sorted(chip.chip_id for chip in found.chips)

    def spread(order):
        spans = [
            np.ptp([[c.lon, c.lat] for c in order[k : k + 40]], axis=0).prod() for k in range(0, 400, 40)
        ]
        return np.median(spans)

    assert spread(chips) < 0.5 * spread(list(found.chips))


@pytest.mark.parametrize("layout", ["equal_angle", "equal_area"])
def test_fields_are_numbered_from_the_north_west_and_cover_the_earth(layout):
    assert region_id(-180, 90, layout) == 0
    assert region_id(179.999, -90, layout) == 4095
    assert region_id(180, -90, layout) == 4095
    assert region_id(0.01, 0.01, layout) == 31 * 64 + 32
    lat = [90 - 180 * (row + 0.5) / 64 for row in range(64)]
    if layout == "equal_area":
        lat = [float(np.degrees(np.arcsin(1 - 2 * (row + 0.5) / 64))) for row in range(64)]
    assert [region_id(-179.9, at, layout) // 64 for at in lat] == list(range(64))


def test_fields_of_equal_area_hold_equally_many_points_of_the_sphere():
    rng = np.random.default_rng(0)
    lat = np.degrees(np.arcsin(rng.uniform(-1, 1, 6400)))
    rows = collections.Counter(region_id(0.0, at, "equal_area") // 64 for at in lat.tolist())
    assert sum((count - 100) ** 2 / 100 for count in rows.values()) < 103.4  # 99.9 % at 63 degrees of freedom
    skewed = collections.Counter(region_id(0.0, at) // 64 for at in lat.tolist())
    assert sum((count - 100) ** 2 / 100 for count in skewed.values()) > 500


def test_the_field_numbers_of_a_plan_follow_its_layout():
    one, two = (plan(spec(f"region_layout={layout}"), Checks()) for layout in ("equal_angle", "equal_area"))
    assert [c.chip_id for c in one.chips] == [c.chip_id for c in two.chips]
    assert [c.region_id for c in one.chips] == [region_id(c.lon, c.lat) for c in one.chips]
    assert [c.region_id for c in two.chips] == [region_id(c.lon, c.lat, "equal_area") for c in two.chips]


def test_chips_carry_what_dealing_and_tiles_need():
    utm, tiles = plan(spec(), Checks()).chips[0], plan(spec(kind="tiles"), Checks()).chips[0]
    assert utm.zoom == -1
    assert tiles.zoom > 10
    assert len(tiles.chip_id.rsplit("-q", 1)[1]) == tiles.zoom
    assert tiles.grid.epsg == 3857
    assert tiles.draw >= 0
