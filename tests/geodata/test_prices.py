"""What is assumed of a chip that nobody has measured, against counts made by hand."""

import math
import socket

import pytest

from geodata import prices
from geodata.corpus import rsrsd_5m, skysense_sequences, smoke
from geodata.overrides import overridden
from geodata.source import Address


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """No account, no key, and no way out of the process."""
    for name in ("EARTHENGINE_PROJECT", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)

    def refuse(*_, **__):
        raise AssertionError("something was contacted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def part(call, **changes):
    """Sentinel-2 of `smoke` from another source, without clouds being looked for."""
    given = smoke().sensors[1]
    address = Address(call=call, options=changes.pop("options", {}))
    return given.model_copy(update={"source": address, "max_cloud": 1.0, **changes})


def only(given):
    return smoke().model_copy(update={"sensors": (given,), "labels": False})


def test_what_is_computed_or_read_from_disk_asks_nobody():
    found = prices.assumed(smoke())
    assert found.load.requests == {}
    assert found.endpoints == {}
    assert found.load.eecu_s.high == 0


def test_a_source_that_knows_its_price_is_asked_for_it_without_a_word_to_its_service():
    found = prices.assumed(only(part("sources.stac.earth_search", dates=6)))
    source = Address(call="sources.stac.earth_search").open()
    ask = source.cost(6, prices.example_grid(smoke()))
    assert found.load.requests["image files"].middle == ask.requests
    assert found.load.moved["sentinel2"].middle == ask.bytes


def test_earth_engine_without_an_account_is_priced_as_its_limits_are():
    found = prices.assumed(only(part("sources.earth_engine.sentinel2", dates=6)))
    # 6 dates x 10 bands x 64 x 64 x (2 bytes + 1 of mask) = 737,280 bytes: one search, one request
    assert found.load.requests["Earth Engine"] == prices.Range.exactly(2.0)
    assert found.load.moved["sentinel2"].middle == 737_280
    # 245,760 values at 1.3 to 6.4 EECU-seconds a million
    assert found.load.eecu_s.low == pytest.approx(0.24576 * 1.3)
    assert found.load.eecu_s.high == pytest.approx(0.24576 * 6.4)
    assert any("EARTHENGINE_PROJECT" in note for note in found.notes)
    assert (found.endpoints["Earth Engine"].concurrency, found.endpoints["Earth Engine"].per_second) == (
        40,
        100.0,
    )


def test_an_address_may_say_what_its_account_is_allowed():
    options = {"concurrency": 7, "per_second": 9.0}
    found = prices.assumed(only(part("sources.earth_engine.sentinel2", options=options)))
    assert (found.endpoints["Earth Engine"].concurrency, found.endpoints["Earth Engine"].per_second) == (
        7,
        9.0,
    )


def test_a_picture_of_512_is_four_tiles_of_one_provider_in_turn():
    found = prices.assumed(rsrsd_5m())
    assert found.load.requests == {"map tiles": prices.Range.exactly(4.0)}
    assert found.parts[0].kept == prices.Range.exactly(1.0)
    both = [
        {"name": "a", "connections": 3, "per_second": 1.5},
        {"name": "b", "connections": 3, "per_second": 1.5},
    ]
    spec = overridden(rsrsd_5m(), [])
    given = spec.sensors[0].model_copy(
        update={"source": Address(call="sources.webtiles.tiles", options={"providers": both})}
    )
    found = prices.assumed(spec.model_copy(update={"sensors": (given,)}))
    assert (found.endpoints["map tiles"].concurrency, found.endpoints["map tiles"].per_second) == (6, 3.0)


def test_zooms_make_several_chips_of_a_point():
    assert prices.chips_a_point(rsrsd_5m()) == 1
    every = overridden(rsrsd_5m(), ["chip.zooms=all"])
    assert prices.chips_a_point(every) == 1 + math.floor(math.log2(10 / 0.3))
    assert prices.chips_a_point(smoke()) == 1


def test_no_more_scenes_are_read_than_the_archive_can_have():
    sensors = {part.sensor: part for part in prices.assumed(skysense_sequences()).parts}
    assert sensors["sentinel2"].read == prices.Range(64.0, 96.0, 366 / prices.REVISIT_DAYS)
    assert sensors["sentinel1"].read == prices.Range.exactly(32.0)
    assert sensors["optical"].kept == prices.Range(0.0, 0.5, 1.0)
    assert sensors["optical"].read == prices.TRIED_DATES  # which of several is clearest, their pixels tell


def test_which_addresses_mean_asking_a_service():
    assert prices.remote("sources.earth_engine.landcover")
    assert not prices.remote("sources.synthetic.landcover")
    assert not prices.remote("landcover.raster")
    assert prices.service_of("my_company.planet.basemap") is prices.ELSEWHERE
    assert prices.service_of("sources.geotiff.files") is None
