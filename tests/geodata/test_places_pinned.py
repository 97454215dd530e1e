"""The chips of published corpora stay where they are: ids of the plan, by digest, as they were when they were published.

A digest that moves here moves every chip of a corpus that somebody may have built, so it is changed by no refactoring.
"""

import hashlib

import pytest

from geodata.corpus import demo, load_spec, smoke, with_landcover
from geodata.overrides import overridden
from geodata.sampling import more, plan


def digest(found):
    ids = [found.chip_id(place) for place in range(len(found))]
    return len(ids), hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


def test_smoke_has_the_chips_it_was_published_with():
    spec = smoke()
    land = spec.landcover.open()
    first = plan(spec, land)
    assert digest(first) == (96, "f2056081589984e0")
    assert spec.place_id == "2853013a"
    assert first.chips[0].chip_id == "2853013a-32634-008745-105039"
    assert digest(more(first, spec, land, [chip.chip_id for chip in first.chips[3:40:7]])) == (
        102,
        "9fea7843733ee4df",
    )


def test_fixed_quotas_on_continents_have_the_chips_they_had():
    spec = overridden(smoke(), ['quotas.fixed={"desert": 10, "ice": 4}', "quotas.count=60"])
    assert digest(plan(spec, spec.landcover.open())) == (74, "f8701e4becea9b9e")


def test_the_demo_has_the_chips_it_was_published_with(demo_wheel):
    spec = demo(str(demo_wheel))
    found = plan(spec, spec.landcover.open())
    assert digest(found) == (624, "3f37308dff799fed")
    splits = hashlib.sha256("\n".join(chip.split for chip in found.chips).encode()).hexdigest()
    assert splits[:16] == "2149063ce6186409"
    assert found.chips[0].weight == 0.8128331283312833


@pytest.mark.slow
@pytest.mark.real
def test_rsrsd_5m_has_the_same_chips_on_the_coarse_map_of_the_world(shared_data):
    """Draws from cells depend on which cells a map and the outlines of continents give, so these are pinned with them."""
    texts = ["quotas.count=2000", 'quotas.fixed={"desert": 20, "ice": 20, "grassland": 20}']
    path = shared_data / "landcover_glcnmo2008_third_degree" / "cover.tif"
    spec = with_landcover(load_spec("rsrsd_5m", texts), path)
    found = plan(spec, spec.landcover.open())
    assert spec.place_id == "e1e4554d"
    assert digest(found) == (2060, "deeeeb541f1d7c84")
