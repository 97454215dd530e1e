"""Counts against loops, sums of parts against the whole, the map against geodesy, quotas against a plan's own chips."""

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pyproj
import pytest
import shapely
from tiny import sample

from geodata import census, continents, ledger
from geodata.chips import Plan, Shortfall
from geodata.errors import Corrupt
from geodata.grid import Grid
from geodata.landcover import STRATA
from geodata.pictures import REJECTS_A_SHARD, load_rejects, save_rejects
from geodata.preview import SIDE, preview
from geodata.sample import Sample, Shift
from geodata.sensors import SENTINEL1, SENTINEL2
from geodata.source import Raster
from geodata.spec import ChipSpec


def added(parts: list[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    total: dict[str, Counter[str]] = {}
    for part in parts:
        for name, values in part.items():
            total.setdefault(name, Counter()).update(values)
    return {name: dict(values) for name, values in total.items()}


def test_counts_of_parts_add_up_to_the_counts_of_the_whole() -> None:
    samples = [
        sample(number, split="val" if number % 3 else "train", barred=number % 2 == 0)
        for number in range(1, 9)
    ]
    whole = census.counts(samples)
    assert added([census.counts(samples[:3]), census.counts(samples[3:])]) == whole
    assert json.loads(json.dumps(whole)) == whole


def test_images_are_counted_by_month_hemisphere_cloud_and_length_of_series() -> None:
    north, south = sample(1), replace(sample(2), lat=-33.0)
    found = census.counts([north, south])
    assert found["month_s2"] == {"N02": 1, "N07": 1, "S02": 1, "S07": 1}
    assert found["year_s2"] == {"2020": 4}
    assert found["cloud_s2"] == {"2": 2, "7": 2}
    assert found["cloud_s1"] == {"unknown": 2}
    assert found["dates_s2"] == {"2": 2}
    assert found["product_s1"] == {"gamma0_rtc": 2}
    assert found["month_hr"] == {"N05": 1, "S05": 1}
    codes = np.concatenate([one.layers["lc"].pixels.ravel() for one in (north, south)])
    assert found["lc_train"] == {str(code): int((codes == code).sum()) for code in np.unique(codes)}


def test_an_image_without_a_day_is_counted_as_unknown() -> None:
    found = census.counts([sample(1, dated=False)])
    assert found["month_hr"] == {"unknown": 1}
    assert found["year_hr"] == {"unknown": 1}


def test_licences_are_told_apart_by_layer_words_and_permission() -> None:
    found = census.counts([sample(1), sample(2, barred=True), sample(3)])["licence"]
    told = {tuple(json.loads(key)): number for key, number in found.items()}
    assert told[("hr", "CC0-1.0", "", True)] == 2
    assert told[("hr", "proprietary", "Acme Maps", False)] == 1
    assert told[("s2", "CC-BY-SA-3.0-IGO", "Contains modified Copernicus Sentinel data", True)] == 3


def test_remarks_are_counted_without_the_numbers_in_them() -> None:
    one = sample(1)
    layer = replace(one.layers["s2"], flags=("dark pixels 1180: offset not removed", ""))
    other = replace(one.layers["s2"], flags=("dark pixels 1203.5: offset not removed", ""))
    found = census.counts([replace(one, layers={"s2": part}) for part in (layer, other)])
    assert found["flag_s2"] == {"dark pixels …: offset not removed": 2}


def test_the_median_of_a_histogram_is_the_median_to_within_a_bin() -> None:
    rng = np.random.default_rng(0)
    shifts = rng.normal(0.2, 0.4, (501, 2))
    one = sample(1)
    samples = [
        replace(one, shifts=(Shift("s2-s1", right, down, 10.0, 0.4),)) for right, down in shifts.tolist()
    ]
    found = census.counts(samples)
    length = np.hypot(*shifts.T)
    assert census.median(found["shift_s2-s1"]) == pytest.approx(np.median(length), abs=0.051)
    assert census.median(found["right_s2-s1"]) == pytest.approx(np.median(shifts[:, 0]), abs=0.051)
    beyond = sum(number for key, number in found["shift_s2-s1"].items() if int(key) >= 5)
    assert beyond == (length >= 0.5).sum()
    assert math.isnan(census.median({}))


def test_dates_of_one_layer_are_counted_together_and_its_bands_apart() -> None:
    pairs = ("s2-s2 2020-01-05/2020-03-01", "s2-s2 2020-01-05/2020-04-01", "s2 B08-B8A", "s2-s1")
    made = replace(sample(1), shifts=tuple(Shift(pair, 0.0, 0.0, 10.0, 0.5) for pair in pairs))
    found = {name: values for name, values in census.counts([made]).items() if name.startswith("shift_")}
    assert found == {"shift_s2-s2": {"0": 2}, "shift_s2 B08-B8A": {"0": 1}, "shift_s2-s1": {"0": 1}}


def test_gsds_that_can_be_anything_are_counted_in_bins_that_hold_them() -> None:
    rng = np.random.default_rng(1)
    for gsd in rng.uniform(0.3, 10.0, 50):
        grid = Grid(3857, (gsd, 0.0, 0.0, 0.0, -gsd, 0.0), 4, 4)
        one = Sample("a", "train", 0.0, 0.0, grid, "urban", {})
        ((key, number),) = census.counts([one])["gsd"].items()
        low, high = (float(part) for part in key.split("–"))
        assert number == 1
        assert low * 0.97 <= gsd <= high * 1.03
        assert 1.3 < high / low < 1.6


# The ledger


def plan() -> Plan:
    """Two continents and a quota over all: 4 urban in Europe, 2 in Asia, 3 desert wherever, one of them short."""
    cells = [0, 0, 0, 0, 1, 1, 2, 2]
    strata = [STRATA.index(name) for name in ("urban",) * 6 + ("desert",) * 2]
    size = len(cells)
    columns = {
        "round": np.zeros(size), "cell": cells, "region": [0, 0, 0, 0, 1, 1, 1, 0], "stratum": strata,
        "epsg": [32633] * size, "zoom": [-1] * size, "left": np.arange(size) * 11 + 6000, "top": [97000] * size,
        "lon": [13.0, 14.0, 15.0, 16.0, 100.0, 101.0, 102.0, 10.0], "lat": [52.0, 51.0, 50.0, -50.0, 30.0, 31.0, 32.0, 45.0],
        "split": np.zeros(size), "block_row": np.zeros(size), "block_col": np.zeros(size), "draw": np.arange(size),
    }  # fmt: skip
    return Plan(
        place_id="0a1b2c3d",
        chip=ChipSpec(gsd=10.0, size=64),
        region_layout="equal_angle",
        regions=("europe", "asia", "anywhere"),
        quotas={"europe": {"urban": 4}, "asia": {"urban": 2}, "anywhere": {"desert": 3}},
        columns={
            name: np.array(values, np.int64 if name not in ("lon", "lat") else float)
            for name, values in columns.items()
        },
        candidates={},
        shares={"europe": {"urban": 0.1}, "asia": {"urban": 0.2}, "anywhere": {"desert": 0.7}},
        shortfalls=(Shortfall("anywhere", "desert", 3, 2, 900),),
    )


def test_quotas_stand_beside_what_was_planned_and_accepted() -> None:
    counts = {"cell": {"europe urban": 3, "asia urban": 2, "asia desert": 1, "europe desert": 1}}
    found = {(one.region, one.stratum): one for one in ledger.lines(plan(), counts)}
    assert [(one.asked, one.planned, one.accepted) for one in found.values()] == [
        (4, 4, 3),
        (2, 2, 2),
        (3, 2, 2),
    ]
    weights = {(chip.stratum, place): chip.weight for place, chip in enumerate(plan().chips)}
    assert found["europe", "urban"].weight == weights["urban", 0]
    assert found["asia", "urban"].weight == weights["urban", 4]
    assert found["anywhere", "desert"].weight == weights["desert", 6]


def test_a_quota_without_any_chip_is_a_line_too() -> None:
    made = replace(plan(), quotas={**plan().quotas, "africa": {"ice": 5}})
    (line,) = [one for one in ledger.lines(made, {"cell": {}}) if one.region == "africa"]
    assert (line.asked, line.planned) == (5, 0)
    assert math.isnan(line.weight)


def test_the_map_has_true_areas() -> None:
    """A square of ten degrees has the area that geodesics on the ellipsoid give it, wherever it lies."""
    geod = pyproj.Geod(ellps="WGS84")
    for south in (0, 40, 70):
        ring = shapely.segmentize(shapely.box(20, south, 30, south + 10), 0.05)
        lon, lat = shapely.get_coordinates(ring).T
        x, y = ledger.flat(lon, lat)
        ours = shapely.Polygon(np.column_stack([x, y])).area
        assert ours == pytest.approx(abs(geod.polygon_area_perimeter(lon, lat)[0]), rel=1e-3)


def test_density_counts_every_chip_once_and_where_it_is() -> None:
    counted, (west, south, east, north) = ledger.density(plan())
    assert counted.sum() == len(plan())
    side = (east - west) / counted.shape[1]
    x, y = ledger.flat([13.0], [52.0])
    assert counted[int((north - y[0]) / ((north - south) / counted.shape[0])), int((x[0] - west) / side)] > 0


def test_coasts_lie_inside_the_edge_of_the_map() -> None:
    edge = shapely.Polygon(np.column_stack(ledger.frame(-90.0))).buffer(5000.0)
    rings = ledger.outlines()
    assert len(rings) == sum(len(continents.polygons(name).geoms) for name in continents.NAMES)
    assert all(edge.contains(shapely.LineString(np.column_stack(ring))) for ring in rings)


# Pictures of what was refused

GRID = Grid(32633, (10.0, 0.0, 600000.0, 0.0, -10.0, 5300040.0), 150, 150)


def raster(values: np.ndarray, bands: tuple[str, ...]) -> Raster:
    return Raster(values, (values != 0).all(axis=0), GRID, bands)


def test_a_refused_image_is_small_true_coloured_and_white_where_it_is_cloud_or_empty() -> None:
    pixels = np.full((10, 150, 150), 300, np.uint16)
    pixels[SENTINEL2.band_names.index("B04")] = 1750
    pixels[:, :30] = 9000
    pixels[:, :, :30] = 0
    shown = preview(raster(pixels, SENTINEL2.band_names), SENTINEL2)
    assert max(shown.shape[:2]) <= SIDE
    assert shown[-1, -1].tolist() == [int((value / 8000) ** 0.6 * 255) for value in (1750, 300, 300)]
    assert shown[0, -1].tolist() == [255, 255, 255]
    assert shown[-1, 0].tolist() == [255, 255, 255]


def test_a_refused_radar_image_is_grey_by_decibels() -> None:
    pixels = np.full((2, 150, 150), -1250, np.int16)
    shown = preview(raster(pixels, SENTINEL1.band_names), SENTINEL1)
    assert shown[0, 0].tolist() == [127, 127, 127]


def test_pictures_of_rejects_come_back_with_their_words_a_few_of_each_reason(tmp_path) -> None:
    rng = np.random.default_rng(2)
    pictures = [rng.integers(0, 255, (side, side, 3)).astype(np.uint8) for side in (64, 50, 64, 64)]
    refused = [
        ("a", "cloudy", "31 %", pictures[0]),
        ("b", "nodata", "ß", pictures[1]),
        ("c", "missing", "no pixels were read", None),
        ("d", "cloudy", "32 %", pictures[2]),
        ("e", "cloudy", "33 %", pictures[3]),
    ]
    save_rejects(tmp_path / "x.png", refused)
    back = load_rejects(tmp_path / "x.png")
    assert [(told["chip"], told["reason"], told["detail"]) for told, _ in back] == [
        ("a", "cloudy", "31 %"),
        ("b", "nodata", "ß"),
        ("d", "cloudy", "32 %"),
    ]
    assert REJECTS_A_SHARD == 2
    import io

    from PIL import Image

    for (_, content), picture in zip(back, pictures[:3], strict=True):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), picture)


def test_a_shard_built_again_without_rejects_keeps_no_picture_of_old_ones(tmp_path) -> None:
    save_rejects(tmp_path / "x.png", [("a", "cloudy", "", np.zeros((4, 4, 3), np.uint8))])
    save_rejects(tmp_path / "x.png", [("a", "missing", "", None)])
    assert not (tmp_path / "x.png").exists()


def test_a_broken_picture_of_rejects_is_named(tmp_path) -> None:
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(Corrupt, match=r"x\.png do not read"):
        load_rejects(tmp_path / "x.png")
