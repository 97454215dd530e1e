"""A pilot: real pieces of the plan, built as shards, and what it counts."""

import itertools
import time
from collections import Counter

import pytest
from ground import make_ground

from geodata import governor, pilot, sampling
from geodata.build import build_shard, opened_landcover, opened_source
from geodata.corpus import load_spec
from geodata.costs import STAGES
from geodata.governor import Limits, lease
from geodata.grid import Grid
from geodata.source import Address, Ask


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A spec on raster files, and its plan of 30 chips."""
    spec = load_spec(make_ground(tmp_path_factory.mktemp("pilot")))
    return spec, sampling.plan(spec, opened_landcover(spec.landcover))


def test_pieces_are_runs_of_neighbours_out_of_different_shards(ground):
    spec, plan = ground
    shards = {shard.name: [chip.chip_id for chip in shard.chips] for shard in plan.shards(spec.shard_rows)}
    for chips in (1, 5, 12, 20):
        found = pilot.pieces(plan, spec, chips)
        assert sum(len(piece.chips) for piece in found) == chips
        assert len({piece.name for piece in found}) == len(found)
        for piece in found:
            ids = [chip.chip_id for chip in piece.chips]
            whole = shards[piece.name]
            assert ids == whole[whole.index(ids[0]) : whole.index(ids[0]) + len(ids)]


def test_a_pilot_larger_than_the_corpus_is_the_corpus(ground):
    spec, plan = ground
    found = pilot.pieces(plan, spec, 10_000)
    assert Counter(chip.chip_id for piece in found for chip in piece.chips) == Counter(
        chip.chip_id for chip in plan.chips
    )


def test_a_pilot_goes_through_the_whole_corpus_and_not_only_its_beginning(ground):
    spec, plan = ground
    names = list(plan.shard_names(spec.shard_rows))
    small = spec.model_copy(update={"shard_rows": 2})
    names = [shard.name for shard in plan.shards(2)]
    chosen = [names.index(piece.name) for piece in pilot.pieces(plan, small, 10)]
    assert chosen == sorted(chosen)
    gaps = [after - before for before, after in itertools.pairwise([0, *chosen, len(names)])]
    assert max(gaps) <= 2 * len(names) / len(chosen) + 1


def test_what_is_observed_is_what_the_shard_holds(ground, tmp_path):
    spec, plan = ground
    piece = plan.shards(spec.shard_rows)[0]
    before = governor.current()
    seen = pilot.observe(piece, spec, tmp_path / "pilot")
    assert governor.current() is before
    record = build_shard(piece, spec, tmp_path / "shard")
    assert seen.chips == record.planned == len(piece.chips)
    assert sum(seen.accepted.values()) == record.rows
    assert seen.rejected == record.rejected
    assert abs(seen.stored - record.bytes) < 200  # the same but for the time of writing
    assert {"search", "decode", "check", "write", "verify"} <= set(seen.seconds) <= set(STAGES)
    assert all(value >= 0 for value in seen.seconds.values())
    assert seen.seconds["decode"] > 0 and seen.seconds["verify"] > 0
    assert seen.requests == {}


class Leased:
    """The files of a spec as a service with a price, whose answers take a hundredth of a second each."""

    limits = Limits(2, 1000.0)

    def __init__(self, source, leases=True):
        self.source, self.sensor, self.leases = source, source.sensor, leases
        self.reads = 0

    def search(self, grid, period):
        return self.source.search(grid, period)

    def read(self, scene, grid):
        self.reads += 1
        if not self.leases:
            time.sleep(0.01)
            return self.source.read(scene, grid)
        with lease("example", self.limits):
            time.sleep(0.01)
            return self.source.read(scene, grid)

    def cost(self, scene_count, grid: Grid):
        return Ask(1.0 + 3 * scene_count, 100.0 + scene_count * grid.height)


@pytest.mark.parametrize("leases", [True, False])
def test_requests_are_those_granted_or_those_the_source_says_where_it_asks_nobody(
    ground, tmp_path, monkeypatch, leases
):
    spec, plan = ground
    service = Leased(opened_source(spec.sensors[0].source), leases)
    monkeypatch.setattr("geodata.build.opened_source", lambda address: service)
    piece = plan.shards(spec.shard_rows)[0]
    seen = pilot.observe(piece, spec, tmp_path)
    if leases:
        assert seen.requests == {"example": service.reads}
        assert seen.allowed == {"example": (2, 1000.0)}
        assert seen.waited["example"] >= 0.01 * service.reads
    else:
        assert seen.requests == {"sentinel2 files": 3 * service.reads}
        assert seen.waited["sentinel2 files"] >= 0.009 * service.reads
    # a search a chip at 100 bytes, and 64 bytes a scene
    assert seen.moved == {"sentinel2": 100.0 * len(piece.chips) + 64.0 * service.reads}
    assert seen.seconds["fetch"] >= 0.009 * service.reads


def test_an_address_that_does_not_open_fails_as_it_would_in_the_corpus(ground, tmp_path):
    spec, plan = ground
    part = spec.sensors[0].model_copy(update={"source": Address(call="sources.nowhere.files")})
    with pytest.raises(ValueError, match="no function"):
        pilot.observe(plan.shards(8)[0], spec.model_copy(update={"sensors": (part,)}), tmp_path)
