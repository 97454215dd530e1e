"""A new version out of an old one: what is asked for again, what is taken over, and when a service counts as down."""

import contextlib
import datetime
import threading
import time
import zlib

import numpy as np
import pytest

from geodata import build
from geodata.build import Workshop, build_shard, drift, sealed
from geodata.chips import Chip, ShardPlan
from geodata.earlier import Earlier, Where
from geodata.errors import Denied, Missing, Transient
from geodata.governor import Limits
from geodata.grid import chip_grid
from geodata.sensors import SENTINEL2
from geodata.shards import load_record, read_samples, shard_path, verify_shard
from geodata.source import Address, Raster, Scene
from geodata.spec import ChipSpec, CorpusSpec, Everywhere, Quotas, SensorSpec

BANDS = ("B04", "B03", "B02")
SENSOR = SENTINEL2.pick(BANDS)


class Archive:
    """A source of a few scenes. Pixels follow from scene and grid alone; what is asked is written down."""

    sensor = SENSOR

    def __init__(self, *days: int, clouds: dict[int, float] | None = None):
        self.days, self.clouds = list(days), clouds or {}
        self.failing: dict[tuple[float, float], Exception] = {}
        self.searched: list[tuple[float, float]] = []
        self.read_: list[tuple[str, tuple[float, float]]] = []
        self.salt = b""
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def search(self, grid, period):
        self.searched.append(grid.origin)
        bounds = grid.bounds
        return [
            Scene(
                f"S{day}",
                "sentinel2",
                datetime.date(2020, 6, day),
                grid.epsg,
                bounds,
                properties=(("cloud", self.clouds.get(day, 0.0)), ("license", "open")),
            )
            for day in self.days
        ]

    def read(self, scene, grid):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            self.read_.append((scene.scene_id, grid.origin))
            if grid.origin in self.failing:
                time.sleep(0.002)
                raise self.failing[grid.origin]
            seed = zlib.crc32(f"{scene.scene_id}{grid.origin}".encode() + self.salt)
            values = np.random.default_rng(seed).integers(1, 4000, (3, *grid.shape)).astype(np.uint16)
            scl = np.full(grid.shape, 4, np.uint8)
            scl[: round(self.clouds.get(scene.date.day, 0.0) * grid.height)] = 9
            return Raster(values, np.ones(grid.shape, bool), grid, BANDS, scl=scl)
        finally:
            with self.lock:
                self.now -= 1

    def asked(self):
        """Scenes read since the last call."""
        found, self.read_ = [name for name, _ in self.read_], []
        return found


class Service(Archive):
    limits = Limits(4, 1e6)


def spec(version="1", **part):
    settings = {"dates": 2, "period": "2020-06-01/2020-07-01"} | part
    return CorpusSpec(
        name="tiny",
        version=version,
        chip=ChipSpec(gsd=10.0, size=8),
        quotas=Quotas(fixed={"forest": 5, "urban": 5}),
        regions=Everywhere(),
        landcover=Address(call="sources.synthetic.landcover"),
        sensors=(SensorSpec(sensor="sentinel2", source=Address(call="a.b"), bands=BANDS, **settings),),
    )


def shard(count=10):
    chips = []
    for number in range(count):
        grid = chip_grid(10.0 + number / 50, 47.0, 10.0, 8)
        stratum = "forest" if number % 2 else "urban"
        chips.append(Chip(f"c{number}", *grid.centre(), stratum, "europe", grid, "train", "0-0", 5, 1.0))
    return ShardPlan("train-r0-00000", tuple(chips))


def made(root, source, rules=None, **more):
    rules = rules or spec()
    return build_shard(
        shard(more.pop("count", 10)),
        rules,
        root,
        workshop=Workshop(rules, {"sentinel2": source}, None),
        **more,
    )


def hashes(record):
    return {one["sample_id"]: one["layers"]["s2"]["pixel_hash"] for one in record.samples}


def origin(number):
    return shard(40).chips[number].grid.origin


def test_unanswered_chips_end_as_rejects_and_a_retry_asks_for_them_alone(tmp_path):
    source = Archive(1, 2)
    source.failing = {origin(3): Transient("busy"), origin(8): Transient("busy")}
    old = made(tmp_path / "1", source)
    assert [(one.chip_id, one.reason, one.detail) for one in old.rejects] == [
        ("c3", "unavailable", "busy"),
        ("c8", "unavailable", "busy"),
    ]
    before = shard_path(tmp_path / "1", old.name).read_bytes()
    source.failing = {origin(8): Transient("busy still")}
    source.asked(), source.searched.clear()
    only = Where.of(["reason=unavailable", "stratum=forest"])
    rules = spec("2")
    new = made(tmp_path / "2", source, rules, earlier=Earlier(tmp_path / "1", only))
    assert sorted(source.asked()) == ["S1", "S2"]
    assert source.searched == [origin(3)]
    assert [(one.chip_id, one.detail) for one in new.rejects] == [("c8", "busy")]
    assert {name: one for name, one in hashes(new).items() if name != "c3"} == hashes(old)
    assert hashes(new)["c3"] == hashes(made(tmp_path / "fresh", Archive(1, 2)))["c3"]
    assert shard_path(tmp_path / "1", old.name).read_bytes() == before
    verify_shard(shard_path(tmp_path / "2", old.name), new)
    assert sealed(shard(), rules, tmp_path / "2") == new


def test_a_shard_with_nothing_to_retry_is_the_same_file_and_counts_as_sealed(tmp_path):
    source = Archive(1, 2)
    old = made(tmp_path / "1", source)
    source.asked(), source.searched.clear()
    rules, earlier = spec("2"), Earlier(tmp_path / "1", Where.of(["reason=cloudy"]))
    new = made(tmp_path / "2", source, rules, earlier=earlier)
    assert new == old
    assert shard_path(tmp_path / "1", old.name).samefile(shard_path(tmp_path / "2", old.name))
    assert not source.asked()
    assert not source.searched
    assert sealed(shard(), rules, tmp_path / "2", earlier) == old
    with pytest.raises(ValueError, match="belongs to tiny@1"):
        sealed(shard(), rules, tmp_path / "2")


def test_a_refresh_that_finds_nothing_new_only_searches(tmp_path):
    source = Archive(1, 2, 3, clouds={1: 0.9, 2: 0.1, 3: 0.15})
    old = made(tmp_path / "1", source, spec(min_dates=2))
    source.asked(), source.searched.clear()
    new = made(tmp_path / "2", source, spec("2", min_dates=2), earlier=Earlier(tmp_path / "1", same=True))
    assert new == old
    assert len(source.searched) == 10
    assert not source.asked()


def test_a_refresh_reads_new_scenes_alone(tmp_path):
    source = Archive(1, 2, 3, clouds={1: 0.05, 2: 0.1, 3: 0.9})
    old = made(tmp_path / "1", source)
    source.days.append(4)
    source.clouds[4] = 0.01
    source.asked()
    new = made(tmp_path / "2", source, spec("2"), earlier=Earlier(tmp_path / "1", same=True))
    assert source.asked() == ["S4"] * 10
    for sample in read_samples(shard_path(tmp_path / "2", new.name)):
        assert sample.layers["s2"].item_ids == ("S1", "S4")
    fresh = made(tmp_path / "fresh", source, spec("9"))
    assert hashes(fresh) == hashes(new) != hashes(old)
    assert [one["layers"]["s2"]["considered"] for one in new.samples] == [
        one["layers"]["s2"]["considered"] for one in fresh.samples
    ]


def test_scenes_that_were_refused_are_not_read_again_unless_the_rules_have_changed(tmp_path):
    source = Archive(1, 2, clouds={1: 0.5})
    first = spec(select="all", dates=3)
    old = made(tmp_path / "1", source, first, count=4)
    assert old.samples[0]["layers"]["s2"]["refused"] == {"S1": "cloudy"}
    source.days = [1, 2, 5]
    source.asked()
    made(
        tmp_path / "2",
        source,
        spec("2", select="all", dates=3),
        earlier=Earlier(tmp_path / "1", same=True),
        count=4,
    )
    assert source.asked() == ["S5"] * 4
    looser = spec("3", select="all", dates=3, max_cloud=0.8)
    new = made(tmp_path / "3", source, looser, earlier=Earlier(tmp_path / "1"), count=4)
    assert sorted(source.asked()) == ["S1"] * 4 + ["S5"] * 4
    assert hashes(new) == hashes(made(tmp_path / "fresh", source, looser, count=4))


def test_a_refused_chip_is_looked_at_again_only_when_the_search_finds_something_else(tmp_path):
    source = Archive(1, clouds={1: 0.9})
    old = made(tmp_path / "1", source)
    assert old.rejected == {"cloudy": 10}
    source.asked()
    same = made(tmp_path / "2", source, spec("2"), earlier=Earlier(tmp_path / "1", same=True))
    assert (same, source.asked()) == (old, [])
    source.days.append(2)
    new = made(tmp_path / "3", source, spec("3"), earlier=Earlier(tmp_path / "1", same=True))
    assert new.rows == 10
    assert set(source.asked()) == {"S1", "S2"}


def test_unanswered_chips_are_asked_for_at_every_refresh(tmp_path):
    source = Archive(1)
    source.failing = {origin(0): Transient("busy")}
    made(tmp_path / "1", source)
    source.failing = {}
    new = made(tmp_path / "2", source, spec("2"), earlier=Earlier(tmp_path / "1", same=True))
    assert new.rows == 10


def test_another_plan_than_the_earlier_one_is_refused(tmp_path):
    made(tmp_path / "1", Archive(1), count=9)
    with pytest.raises(build.Corrupt, match="its plan is not that of"):
        made(tmp_path / "2", Archive(1), spec("2"), earlier=Earlier(tmp_path / "1", same=True))


@pytest.mark.parametrize(
    ("chips", "failing", "down"), [(10, 2, False), (10, 3, True), (3, 1, False), (3, 2, True)]
)
def test_a_shard_is_not_sealed_when_the_service_is_down_rather_than_some_chips(
    tmp_path, chips, failing, down
):
    source = Archive(1)
    source.failing = {origin(number): Transient("busy") for number in range(failing)}
    if not down:
        assert made(tmp_path, source, count=chips).rejected == {"unavailable": failing}
        return
    with pytest.raises(
        Transient, match=r"shard train-r0-00000 of tiny@1: .* were not answered.* the last: busy"
    ):
        made(tmp_path, source, count=chips)
    assert load_record(tmp_path, "train-r0-00000") is None


def test_a_service_that_lets_nobody_in_ends_the_shard_at_once(tmp_path):
    source = Service(1)
    source.failing = {origin(number): Denied("log in again") for number in range(40)}
    with pytest.raises(Denied, match="shard train-r0-00000 of tiny@1: log in again"):
        made(tmp_path, source, count=40)
    assert len(source.asked()) < 40


def test_chips_of_a_service_are_asked_for_several_at_a_time_with_the_same_result(tmp_path):
    one, many = Archive(1, 2), Service(1, 2)
    barrier, met = threading.Barrier(3), []
    calm = many.read

    def read(scene, grid):
        if not met:
            with contextlib.suppress(threading.BrokenBarrierError):
                met.append(barrier.wait(5))
        return calm(scene, grid)

    many.read = read
    assert made(tmp_path / "one", one) == made(tmp_path / "many", many)
    assert met
    assert one.most == 1
    assert many.most <= 4


def test_drift_is_told_layer_by_layer(tmp_path, monkeypatch):
    source = Archive(1, 2)
    record = made(tmp_path, source)
    rules = spec()
    monkeypatch.setattr(
        build.Workshop, "of", classmethod(lambda cls, one: cls(one, {"sentinel2": source}, None))
    )
    chips = {chip.chip_id: chip for chip in shard().chips}

    def told(number):
        entry = record.samples[number]
        return drift(chips[entry["sample_id"]], rules, entry["layers"])

    assert told(0) == {"s2": "equal"}
    source.failing = {origin(1): Transient("busy"), origin(2): Missing("no file")}
    assert [told(number)["s2"] for number in (1, 2)] == ["unanswered", "gone"]
    source.salt = b"processed anew"
    assert told(0) == {"s2": "changed"}
    source.days = [1]
    assert told(0) == {"s2": "gone"}
    source.failing = {origin(3): Denied("who are you")}
    source.days = [1, 2]
    with pytest.raises(Denied):
        told(3)


def test_conditions_are_pairs_of_known_keys():
    where = Where.of(["reason=cloudy", "stratum=urban"])
    assert str(where) == "reason=cloudy stratum=urban"
    letter = {"reason": "cloudy", "stratum": "urban", "shard": "a", "region": "asia", "chip_id": "x"}
    assert where.chooses(letter)
    assert not where.chooses(letter | {"stratum": "forest"})
    assert Where().chooses(letter)
    for wrong in ("reason", "reason=", "colour=red", "=x"):
        with pytest.raises(ValueError, match="chooses no refused chips"):
            Where.of([wrong])
