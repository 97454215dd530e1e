"""Offsets and decibels: against loops of plain Python, and against an Earth whose numbers are known."""

import datetime
import math

import numpy as np
import pytest

from geodata.grid import chip_grid
from geodata.radiometry import (
    baseline_number,
    carries_offset,
    dark,
    flags,
    harmonise,
    offset_remover,
    to_centi_db,
)
from geodata.sensors import sensor
from geodata.source import Period
from geodata.sources import synthetic

TEN = sensor("sentinel2")
REMOVED = {"baseline": "05.10", "offset_applied_by": "source"}
LEFT_IN = {"baseline": "05.10", "offset_applied_by": "none"}
YEAR = Period.from_text("2020-04-01/2020-10-01")


def test_the_offset_comes_off_like_in_a_loop_and_no_measured_number_becomes_no_data():
    given = [0, 1, 999, 1000, 1001, 1002, 5000, 65535]
    expected = [max(number - 1000, 1) if number > 0 else 0 for number in given]
    found = harmonise(np.array(given, np.uint16))
    assert found.dtype == np.uint16
    assert found.tolist() == expected
    assert harmonise(np.array([-5, 3000], np.int16)).tolist() == [0, 2000]


@pytest.mark.parametrize(
    ("text", "number"),
    [("N0400", 4.0), ("0400", 4.0), ("04.00", 4.0), (5.1, 5.1), ("N9999", 99.99), ("4", None), (None, None), ("", None)],
)  # fmt: skip
def test_baselines_are_read_in_all_their_spellings(text, number):
    assert baseline_number(text) == number


@pytest.mark.parametrize(
    ("told", "remover"),
    [
        ({"baseline": "03.01"}, "none"),
        ({"baseline": "N0400"}, "us"),
        ({"baseline": "05.10", "removed": True}, "source"),
        ({"baseline": "05.10", "removed": False}, "us"),
        ({"baseline": "02.14", "removed": False}, "none"),
        ({"baseline": "05.10", "add_offset": 0.0}, "none"),
        ({"baseline": "02.14", "add_offset": -1000}, "us"),
    ],
)
def test_metadata_say_who_takes_the_offset_off(told, remover):
    assert offset_remover("S2A", **told) == remover


def test_metadata_that_do_not_say_are_refused_by_the_scenes_name():
    with pytest.raises(ValueError, match="S2A has baseline None"):
        offset_remover("S2A")
    with pytest.raises(ValueError, match=r"S2A says that -999 is to be added .* 0 and -1000 are known"):
        offset_remover("S2A", "0400", add_offset=-999)


def test_what_a_date_claims_follows_from_who_took_it_off():
    assert carries_offset(LEFT_IN)
    assert not carries_offset(REMOVED)
    assert not carries_offset({"baseline": "02.14", "offset_applied_by": "none"})
    assert not carries_offset({"baseline": "N9999", "offset_applied_by": "none"})
    assert not carries_offset({})


@pytest.mark.parametrize("unit", ["dB", "power"])
def test_decibels_are_masked_before_the_logarithm_and_cut_off_like_in_a_loop(unit):
    rng = np.random.default_rng(0)
    given = [*rng.uniform(-45, 15, 50), 0.0, -32768.0, math.nan, math.inf, -math.inf, 1e-9, -0.5]
    if unit == "power":
        given = [10 ** (value / 10) for value in given[:50]] + given[50:]

    def one(value: float) -> int:
        if not math.isfinite(value) or value in (0.0, -32768.0) or (unit == "power" and value < 0):
            return -32768
        level = 10 * math.log10(value) if unit == "power" else value
        return round(100 * min(max(level, -35.0), 10.0))

    found = to_centi_db(np.array(given), unit)
    assert found.dtype == np.int16
    assert found.tolist() == [one(value) for value in given]
    assert to_centi_db(np.array([-10.0, -11.0]), "dB", np.array([True, False])).tolist() == [-32768, -1100]


def test_stored_decibels_are_within_half_a_hundredth():
    level = np.random.default_rng(1).uniform(-35, 10, 10_000).astype(np.float32)
    assert np.abs(to_centi_db(level, "dB") / 100 - level).max() <= 0.005 + 1e-4


def series(*levels: tuple[int, int, int], noise: int = 30) -> np.ndarray:
    """Dates (T, 10, 40, 40) whose B02, B11 and B12 lie about the given numbers; other bands are bright."""
    rng = np.random.default_rng(3)
    pixels = np.full((len(levels), 10, 40, 40), 3000, np.uint16)
    for date, level in zip(pixels, levels, strict=True):
        for band, number in zip(("B02", "B11", "B12"), level, strict=True):
            date[TEN.band_names.index(band)] = number + rng.integers(0, noise, (40, 40))
    return pixels


def told(pixels: np.ndarray, *properties: dict[str, str]) -> list[str]:
    known = properties * len(pixels) if len(properties) == 1 else properties
    return [flag.split(":")[-1].strip() for flag in flags(TEN, pixels, known)[1]]


def test_the_darkest_band_counts_its_own_valid_pixels_only():
    pixels = series((500, 2000, 1500))[0]
    pixels[:, :30] = 0
    blue = pixels[TEN.band_names.index("B02")]
    assert dark(TEN, pixels) == np.percentile(blue[blue > 0], 1)
    assert math.isnan(dark(TEN, np.zeros_like(pixels)))
    assert math.isnan(dark(TEN.pick(("B08",)), pixels[6:7]))


def test_one_date_is_held_against_its_own_claim():
    assert told(series((400, 900, 700)), REMOVED) == [""]
    assert told(series((1400, 1900, 1700)), REMOVED) == ["offset not removed, or bright ground"]
    assert told(series((400, 900, 700)), LEFT_IN) == ["no offset, though baseline 05.10 has one"]
    assert told(series((1400, 1900, 1700)), LEFT_IN) == [""]
    assert told(harmonise(series((400, 2900, 1700))), REMOVED) == ["offset removed twice"]


def test_a_series_of_both_conventions_shows_its_step_even_over_bright_ground():
    sand = [(1000, 2600, 2400)] * 4
    sand[2] = (2000, 3600, 3400)
    found = told(series(*sand), REMOVED)
    assert found[2] == "offset not removed"
    assert set(found[:2] + found[3:]) == {"offset not removed, or bright ground"}
    haze = [(400, 900, 700)] * 3 + [(1400, 1000, 750)]
    assert told(series(*haze), REMOVED) == [""] * 4


def test_two_dates_have_no_step_because_nobody_could_say_which_is_wrong():
    assert (
        told(series((400, 900, 700), (1300, 1900, 1700)), REMOVED)[1]
        == "offset not removed, or bright ground"
    )


def test_top_of_atmosphere_is_judged_by_cirrus_alone():
    whole = sensor("sentinel2_l1c")
    pixels = np.full((1, 13, 20, 20), 1500, np.uint16)
    pixels[:, whole.band_names.index("B10")] = 12
    assert flags(whole, pixels, [REMOVED]) == ((12.0,), ("",))
    assert flags(whole, pixels + 1000, [REMOVED])[1] == (
        "dark pixels 1012: offset not removed, or bright ground",
    )


@pytest.mark.parametrize("place", [(16.35, 47.84), (-60.2, -3.1), (23.0, 12.5)])
def test_on_an_earth_of_known_numbers_each_mistake_is_flagged_and_the_truth_is_not(place):
    source = synthetic.sentinel2()
    grid = chip_grid(*place, 10.0, 64)
    scenes = sorted(source.search(grid, YEAR), key=lambda scene: (scene.get("cloud"), scene.date))
    rasters = [raster for scene in scenes[:8] if (raster := source.read(scene, grid)).share("cloud") < 0.1]
    assert rasters and scenes[0].date > datetime.date(2020, 1, 1)
    truth = np.stack([raster.values for raster in rasters])
    offset = truth + np.uint16(1000)
    assert told(truth, REMOVED) == [""] * len(truth)
    assert "" not in told(offset, REMOVED)
    assert "" not in told(truth, LEFT_IN)
    assert "" not in told(harmonise(truth), REMOVED)
    assert told(harmonise(offset), REMOVED) == [""] * len(truth)
