"""Scenes in raster files, against rasterio's own windows and warps."""

import datetime
import functools
import http.server
import os
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp
from affine import Affine

from geodata.errors import Corrupt, Missing, Transient
from geodata.grid import Grid, chip_grid
from geodata.sensors import sensor
from geodata.source import Address, Period, at_home
from geodata.sources import cog
from geodata.sources.geotiff import files
from geodata.sources.naming import Pattern, band_of, listed

EPSG, LEFT, TOP, SIDE = 32633, 600000.0, 5300040.0, 1920
YEAR = Period.from_text("2020-01-01/2021-01-01")
L2A = sensor("sentinel2_l2a")
CHIP = Grid(EPSG, (10.0, 0.0, LEFT + 120, 0.0, -10.0, TOP - 240), 64, 64)


def write(path: Path, pixels: np.ndarray, gsd: float, *, left=LEFT, top=TOP, epsg=EPSG, **profile) -> Path:
    """A raster file of (C, H, W) or (H, W) pixels."""
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {"driver": "GTiff", "tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    with rasterio.open(
        path,
        "w",
        **(settings if path.suffix == ".tif" else {}) | profile,
        count=len(pixels),
        height=pixels.shape[1],
        width=pixels.shape[2],
        dtype=pixels.dtype,
        crs=f"EPSG:{epsg}",
        transform=profile.get("transform", Affine(gsd, 0, left, 0, -gsd, top)),
    ) as file:
        file.write(pixels)
    return path


def band_pixels(name: str, seed: int = 0) -> np.ndarray:
    """A checkerboard at the band's own GSD whose fields all differ."""
    side = int(SIDE // L2A.band(name).gsd)
    rows, cols = np.mgrid[:side, :side]
    place = L2A.band_names.index(name)
    checks = np.where((rows + cols) % 2, 3000, 1200) + rows * 7 + cols * 3 + place * 101 + seed
    return checks.astype(np.uint16)


@functools.cache
def oracle(name: str, seed: int = 0) -> np.ndarray:
    """The whole band at 10 m by plain repetition."""
    ratio = int(L2A.band(name).gsd // 10)
    return np.kron(band_pixels(name, seed), np.ones((ratio, ratio), np.uint16))


def write_scene(folder: Path, day: str = "20200604T101031", seed: int = 0, bands=L2A.band_names) -> Path:
    for name in bands:
        write(folder / f"T33TXN_{day}_{name}.tif", band_pixels(name, seed), L2A.band(name).gsd)
    return folder


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    folder = write_scene(tmp_path_factory.mktemp("archive"))
    return write_scene(folder, "20200809T101031", seed=5)


@pytest.fixture(autouse=True)
def _fresh():
    cog.forget()


def opened(folder: Path, **options):
    return files(str(folder), "sentinel2_l2a", **options)


def test_a_checkerboard_comes_back_exactly_from_10_20_and_60_m(archive):
    source = opened(archive)
    scene = source.search(CHIP, YEAR)[0]
    raster = source.read(scene, CHIP)
    assert (raster.resampled, raster.bands) == (False, L2A.band_names)
    for place, name in enumerate(raster.bands):
        assert np.array_equal(raster.values[place], oracle(name)[24 : 24 + 64, 12 : 12 + 64]), name
    assert raster.share("valid") == 1.0


@pytest.mark.parametrize("name", ["B02", "B05", "B01"])
def test_a_chip_at_a_bands_own_gsd_is_rasterios_window(archive, name):
    gsd = L2A.band(name).gsd
    grid = Grid(EPSG, (gsd, 0.0, LEFT + 240, 0.0, -gsd, TOP - 120), 8, 8)
    source = opened(archive, bands=[name])
    scene = source.search(grid, YEAR)[0]
    with rasterio.open(scene.asset(name)) as file:
        window = rasterio.windows.from_bounds(*grid.bounds, transform=file.transform)
        plain = file.read(1, window=window)
    raster = source.read(scene, grid)
    assert np.array_equal(raster.values[0], plain)
    assert not raster.resampled


def test_windows_within_one_block_and_across_several_are_rasterios_kept_or_not(archive, monkeypatch):
    path = str(archive / "T33TXN_20200604T101031_B02.tif")
    windows = [
        (0, 0, 64, 64),
        (10, 70, 20, 30),
        (60, 60, 9, 9),
        (1, 63, 190, 2),
        (0, 0, 192, 192),
        (150, 3, 5, 189),
    ]
    with rasterio.open(path) as file:
        for room in (cog.BYTES, 64 * 64 * 2 * 4, 0):
            monkeypatch.setattr(cog, "BYTES", room)
            cog.forget()
            for row, col, height, width in [*windows, *reversed(windows)]:
                pixels, absent = cog.read(path, 1, row, col, height, width)
                plain = file.read(1, window=((row, row + height), (col, col + width)))
                assert np.array_equal(pixels, plain) and absent is None


@pytest.mark.parametrize(
    "profile", [{"tiled": False}, {"tiled": False, "blockysize": 1}, {"interleave": "pixel"}]
)
def test_files_in_strips_and_with_bands_side_by_side_are_rasterios_windows(tmp_path, profile, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 200, (3, 150, 130), np.uint8)
    path = str(write(tmp_path / "a.tif", pixels, 10.0, nodata=7, **profile))
    monkeypatch.setattr(cog, "STRIP", 130 * 40)
    for index, row, col, height, width in [(1, 3, 5, 90, 9), (3, 140, 100, 10, 30), (2, 0, 0, 150, 130)]:
        found, absent = cog.read(path, index, row, col, height, width)
        part = pixels[index - 1, row : row + height, col : col + width]
        assert np.array_equal(found, part)
        assert np.array_equal(absent, part == 7)


def test_a_chip_off_the_lattice_is_warped_once_and_says_so(archive):
    grid = CHIP.crop(0, 0, 40, 40)
    moved = Grid(EPSG, (10.0, 0.0, grid.origin[0] + 3.0, 0.0, -10.0, grid.origin[1] - 4.0), 40, 40)
    raster = opened(archive).read(opened(archive).search(moved, YEAR)[0], moved)
    assert raster.resampled
    for name in ("B02", "B05", "B01"):
        expected = np.zeros(moved.shape, np.uint16)
        gsd = L2A.band(name).gsd
        rasterio.warp.reproject(
            band_pixels(name),
            expected,
            src_transform=Affine(gsd, 0, LEFT, 0, -gsd, TOP),
            src_crs=f"EPSG:{EPSG}",
            dst_transform=moved.affine(),
            dst_crs=f"EPSG:{EPSG}",
            src_nodata=0,
            dst_nodata=0,
            resampling=rasterio.warp.Resampling.bilinear,
        )
        found = raster.values[L2A.band_names.index(name)].astype(int)
        assert np.abs(found - expected).max() <= 1, name


def test_a_chip_of_another_zone_equals_rasterios_reproject(archive):
    lon, lat = CHIP.centre()
    grid = chip_grid(lon, lat, 10.0, 48, epsg=32632)
    source = opened(archive, bands=["B02", "B8A"])
    raster = source.read(source.search(grid, YEAR)[0], grid)
    assert raster.resampled
    for place, name in enumerate(raster.bands):
        expected = np.zeros(grid.shape, np.uint16)
        gsd = L2A.band(name).gsd
        rasterio.warp.reproject(
            band_pixels(name),
            expected,
            src_transform=Affine(gsd, 0, LEFT, 0, -gsd, TOP),
            src_crs=f"EPSG:{EPSG}",
            dst_transform=grid.affine(),
            dst_crs="EPSG:32632",
            src_nodata=0,
            dst_nodata=0,
            resampling=rasterio.warp.Resampling.bilinear,
        )
        # GDAL approximates the projection to an eighth of a pixel, anew for each window it is given
        assert np.abs(raster.values[place].astype(int) - expected).max() < 0.125 * 2000


def test_gdal_is_told_what_the_module_says(archive, monkeypatch):
    seen: list[dict[str, object]] = []
    monkeypatch.setattr(
        cog.rasterio, "open", lambda path: seen.append(rasterio.env.getenv()) or rasterio.DatasetReader(path)
    )
    cog.header(str(next(archive.glob("*.tif"))))
    assert {name: str(seen[0][name]) for name in cog.LOCAL} == cog.LOCAL
    assert not (set(cog.REMOTE) - set(cog.LOCAL)) & set(seen[0])


def test_search_is_by_date_within_the_period_and_by_footprint(archive):
    source = opened(archive)
    assert [scene.date for scene in source.search(CHIP, YEAR)] == [
        datetime.date(2020, 6, 4),
        datetime.date(2020, 8, 9),
    ]
    assert source.search(CHIP, Period.from_text("2020-07-01/2020-08-09")) == []
    far = CHIP.crop(0, 1000, 64, 64)
    assert source.search(far, YEAR) == []
    lon, lat = CHIP.centre()
    assert len(source.search(chip_grid(lon, lat, 10.0, 16, epsg=32632), YEAR)) == 2


def test_a_scene_whose_date_nobody_tells_has_none_in_any_period(tmp_path):
    pixels = np.ones((1, 8, 8), np.uint16)
    for name in ("a", "b-20200604"):
        write(tmp_path / f"{name}.tif", pixels, 60.0)
    options = {"bands": ("B02",), "layout": ("B02",)}
    with pytest.raises(ValueError, match="no scene has one; add either, or date='unknown'"):
        files(str(tmp_path), "sentinel2", "{place}.tif", **options)
    undated = files(str(tmp_path), "sentinel2", "{place}.tif", date="unknown", **options)
    long_ago = Period.from_text("1990-01-01/1991-01-01")
    assert [scene.date for scene in undated.search(CHIP, long_ago)] == [None, None]
    dated = files(str(tmp_path), "sentinel2", "{place}-{date:%Y%m%d}.tif", date="unknown", **options)
    assert [str(scene.date) for scene in dated.search(CHIP, YEAR)] == ["2020-06-04"]


def test_a_chip_half_outside_is_invalid_there_and_one_outside_is_missing(archive):
    source = opened(archive)
    half = Grid(EPSG, (10.0, 0.0, LEFT - 300, 0.0, -10.0, TOP), 60, 60)
    scene = source.search(half, YEAR)[0]
    raster = source.read(scene, half)
    assert not raster.valid[:, :30].any()
    assert raster.valid[:, 30:].all()
    assert (raster.values[:, :, :30] == 0).all()
    with pytest.raises(Missing, match="has no pixel on the chip"):
        source.read(scene, CHIP.crop(0, 5000, 64, 64))


def test_a_missing_band_is_missing_by_name(tmp_path):
    source = opened(write_scene(tmp_path, bands=("B02", "B03")))
    scene = source.search(CHIP, YEAR)[0]
    with pytest.raises(Missing, match=r"T33TXN_20200604T101031 has no band B01; add its file, or list"):
        source.read(scene, CHIP)
    assert opened(tmp_path, bands=["B03", "B02"]).read(scene, CHIP).bands == ("B03", "B02")


def test_a_truncated_geotiff_is_corrupt_when_its_pixels_are_read(tmp_path):
    path = write_scene(tmp_path, bands=("B02",)) / "T33TXN_20200604T101031_B02.tif"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = opened(tmp_path, bands=["B02"])
    with pytest.raises(Corrupt, match=r"B02\.tif is damaged or cut short \(.+\); fetch the file again"):
        source.read(source.search(CHIP, YEAR)[0], CHIP.crop(80, 80, 64, 64))


def test_a_file_that_is_no_raster_is_corrupt_at_search(tmp_path):
    (tmp_path / "T33TXN_20200604T101031_B02.tif").write_bytes(b"II*\0 and then nothing of the kind")
    with pytest.raises(Corrupt, match="damaged or cut short"):
        opened(tmp_path, bands=["B02"]).search(CHIP, YEAR)


def jpeg2000(path: Path, pixels: np.ndarray, gsd: float) -> Path:
    return write(path, pixels, gsd, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_truncated_jpeg2000_is_corrupt_and_never_zeros(tmp_path, share):
    noise = np.random.default_rng(0).integers(1, 4000, (192, 192)).astype(np.uint16)
    path = jpeg2000(tmp_path / "T33TXN_20200604T101031_B02.jp2", noise, 10.0)
    source = opened(tmp_path, bands=["B02"])
    scene = source.search(CHIP, YEAR)[0]
    assert np.array_equal(source.read(scene, CHIP).values[0], noise[24:88, 12:76])
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(Corrupt, match="damaged or cut short"):
        source.read(scene, CHIP)


def test_a_member_of_a_zip_reads_like_the_file(archive, tmp_path):
    wheel = tmp_path / "scene-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as out:
        for path in sorted(archive.glob("*.tif")):
            out.write(path, f"scene/data/{path.name}")
    plain = opened(archive)
    expected = plain.read(plain.search(CHIP, YEAR)[0], CHIP).values
    for root in (wheel, f"{wheel}/scene/data", f"/vsizip/{{{wheel}}}/scene/data"):
        source = opened(root)
        assert np.array_equal(source.read(source.search(CHIP, YEAR)[0], CHIP).values, expected)
    with pytest.raises(Missing, match="has nothing under 'scene/dada'"):
        opened(f"/vsizip/{{{wheel}}}/scene/dada")
    wheel.write_bytes(wheel.read_bytes()[:500])
    with pytest.raises(Corrupt, match="no readable zip"):
        opened(f"/vsizip/{{{wheel}}}/scene/data")
    with pytest.raises(Missing, match="does not exist; fetch the file first"):
        opened(f"/vsizip/{{{tmp_path / 'absent.whl'}}}/scene/data")


def test_a_stacked_file_names_its_bands_or_is_told_them(tmp_path):
    order = ("B08", "B02", "B03")
    pixels = np.stack([np.full((64, 64), 100 * place, np.uint16) for place in (1, 2, 3)])
    write(tmp_path / "place.tif", pixels, 10.0)
    grid = Grid(EPSG, (10.0, 0.0, LEFT, 0.0, -10.0, TOP), 64, 64)

    def values(**options) -> list[int]:
        source = files(
            str(tmp_path), "sentinel2", "{place}.tif", bands=["B02", "B08"], date="2020-05-01", **options
        )
        return source.read(source.search(grid, YEAR)[0], grid).values[:, 0, 0].tolist()

    assert values(layout=order) == [200, 100]
    with pytest.raises(Corrupt, match="has 3 bands where 10 are expected"):
        values()
    with rasterio.open(tmp_path / "place.tif", "r+") as file:
        file.descriptions = order
    assert values() == [200, 100]


@pytest.mark.parametrize(
    ("unit", "given", "kept"),
    [
        ("dB", [-12.34, 0.004, 0.0, np.nan, -32768.0, -500.0], [-1234, 0, -32768, -32768, -32768, -3500]),
        ("power", [0.1, 1.0, 0.0, np.nan, -32768.0, 10.0], [-1000, 0, -32768, -32768, -32768, 1000]),
    ],
)
def test_radar_is_masked_first_and_then_hundredths_of_a_decibel(tmp_path, unit, given, kept):
    pixels = np.resize(np.array(given, np.float32), (2, 6, 6))
    write(tmp_path / "20200604.tif", pixels, 10.0, tiled=False, blockxsize=None, blockysize=None)
    source = files(str(tmp_path), "sentinel1", "{date:%Y%m%d}.tif", unit=unit, properties={"product": "GRD"})
    grid = Grid(EPSG, (10.0, 0.0, LEFT, 0.0, -10.0, TOP), 6, 6)
    scene = source.search(grid, YEAR)[0]
    raster = source.read(scene, grid)
    assert raster.values.dtype == np.int16
    assert raster.values[0, 0].tolist() == kept
    assert raster.valid[0].tolist() == [value != -32768 for value in kept]
    assert scene.get("product") == "GRD"


def test_reflectance_becomes_dn_and_never_the_code_for_none(tmp_path):
    pixels = np.array([[0.1234, 0.00001, -0.02], [9.0, np.nan, 0.5]], np.float32)
    write(tmp_path / "20200604_B02.tif", pixels, 10.0, tiled=False, blockxsize=None, blockysize=None)
    source = files(str(tmp_path), "sentinel2", "{date:%Y%m%d}_{band}.tif", bands=["B02"], unit="reflectance")
    grid = Grid(EPSG, (10.0, 0.0, LEFT, 0.0, -10.0, TOP), 2, 3)
    raster = source.read(source.search(grid, YEAR)[0], grid)
    assert raster.values[0].tolist() == [[1234, 1, 1], [65535, 0, 5000]]


def test_the_offset_is_removed_by_baseline_and_the_date_says_by_whom(tmp_path):
    dns = np.array([[0, 1, 999, 1000], [1001, 1500, 11000, 65535]], np.uint16)
    for name in ("20200604_N0301", "20200704_N0400"):
        write(tmp_path / f"{name}_B02.tif", dns, 10.0, tiled=False, blockxsize=None, blockysize=None)
    options = {"pattern": "{date:%Y%m%d}_N{baseline}_{band}.tif", "bands": ["B02"]}
    grid = Grid(EPSG, (10.0, 0.0, LEFT, 0.0, -10.0, TOP), 2, 4)
    removed = [[0, 1, 1, 1], [1, 500, 10000, 64535]]
    for offset, applied, last in (
        ("baseline", ["none", "us"], removed),
        ("none", ["none", "none"], dns.tolist()),
        ("remove", ["us", "us"], removed),
    ):
        source = files(str(tmp_path), "sentinel2", offset=offset, **options)
        scenes = source.search(grid, YEAR)
        assert [scene.get("offset_applied_by") for scene in scenes] == applied
        assert [scene.get("baseline") for scene in scenes] == ["0301", "0400"]
        assert source.read(scenes[1], grid).values[0].tolist() == last
    options["pattern"] = "{date:%Y%m%d}_{level}_{band}.tif"
    with pytest.raises(ValueError, match="whether its DNs carry the offset is unknown"):
        files(str(tmp_path), "sentinel2", offset="baseline", **options)


def test_a_mask_file_becomes_scene_classification(tmp_path):
    write_scene(tmp_path, bands=("B02",))
    mask = np.zeros((SIDE // 10, SIDE // 10), np.uint8)
    mask[:40] = 1
    write(tmp_path / "T33TXN_20200604T101031_cloud.tif", mask, 10.0)
    source = opened(tmp_path, bands=["B02"], classification="cloud", codes={"0": 7, "1": 9})
    raster = source.read(source.search(CHIP, YEAR)[0], CHIP)
    assert raster.scl is not None
    assert raster.share("cloud") == pytest.approx(16 / 64)
    assert set(np.unique(raster.scl)) == {7, 9}


def test_products_that_repeat_bands_give_each_at_its_own_size(tmp_path):
    for gsd in (10, 20, 60):
        for name in ("B02", "B05", "B01"):
            if gsd >= L2A.band(name).gsd:
                pixels = np.full((SIDE // gsd, SIDE // gsd), gsd, np.uint16)
                write(tmp_path / f"IMG/R{gsd}m/T33TXN_20200604T101031_{name}_{gsd}m.tif", pixels, float(gsd))
        scl = np.full((SIDE // gsd, SIDE // gsd), 4, np.uint8)
        if gsd > 10:
            write(tmp_path / f"IMG/R{gsd}m/T33TXN_20200604T101031_SCL_{gsd}m.tif", scl, float(gsd))
    pattern = "R{gsd}m/{tile}_{date:%Y%m%dT%H%M%S}_{band}_{gsd}m.tif"
    source = opened(tmp_path, pattern=pattern, bands=["B01", "B02", "B05"], classification="SCL")
    (scene,) = source.search(CHIP, YEAR)
    raster = source.read(scene, CHIP)
    assert raster.values[:, 0, 0].tolist() == [60, 10, 20]
    assert raster.share("cloud") == 0.0
    assert scene.asset("scl").endswith("SCL_20m.tif")


def test_a_photograph_with_alpha_is_invalid_where_it_is_transparent(tmp_path):
    pixels = np.full((4, 16, 16), 90, np.uint8)
    pixels[3, :4] = 0
    pixels[3, 4:] = 255
    write(tmp_path / "20200604.tif", pixels, 0.3125, photometric="RGB", alpha="yes")
    source = files(str(tmp_path), "optical", "{date:%Y%m%d}.tif", layout=["R", "G", "B", "A"])
    grid = Grid(EPSG, (0.3125, 0.0, LEFT, 0.0, -0.3125, TOP), 16, 16)
    raster = source.read(source.search(grid, YEAR)[0], grid)
    assert raster.share("valid") == 0.75
    assert (raster.values[:, :4] == 0).all()


@pytest.fixture
def decodes(monkeypatch) -> list[tuple[object, ...]]:
    """Every block that GDAL is asked to decode."""
    seen: list[tuple[object, ...]] = []
    decode = cog._Held.decode

    def counted(held, index, window):
        seen.append((held.key, index, window))
        return decode(held, index, window)

    monkeypatch.setattr(cog._Held, "decode", counted)
    return seen


def test_open_files_and_kept_blocks_are_bounded(archive, monkeypatch, decodes):
    monkeypatch.setattr(cog, "FILES", 5)
    source = opened(archive)
    for scene in source.search(CHIP, YEAR):
        source.read(scene, CHIP)
    assert len(cog._kept().idle) == 5
    monkeypatch.setattr(cog, "BYTES", 100_000)
    source.read(source.search(CHIP, YEAR)[0], CHIP.crop(64, 64, 64, 64))
    assert 0 < cog._kept().bytes <= 100_000
    kept = [array for block in cog._kept().blocks.values() for array in block if array is not None]
    assert cog._kept().bytes == sum(array.nbytes for array in kept)


def test_a_block_is_decoded_once_however_many_chips_touch_it_and_needs_no_open_file(
    archive, monkeypatch, decodes
):
    monkeypatch.setattr(cog, "FILES", 2)
    source = opened(archive)
    for step in range(0, 60, 6):
        for scene in source.search(CHIP, YEAR):
            source.read(scene, CHIP.crop(step, step, 48, 48))
    assert len(decodes) == len(set(decodes)) > 24
    assert len(cog._kept().idle) == 2


def test_threads_that_want_the_same_blocks_at_once_decode_each_once(archive, decodes, monkeypatch):
    slow = cog._Held.decode

    def slower(held, index, window):
        time.sleep(0.002)
        return slow(held, index, window)

    monkeypatch.setattr(cog._Held, "decode", slower)
    source = opened(archive)
    scene = source.search(CHIP, YEAR)[0]
    with ThreadPoolExecutor(6) as pool:
        cubes = list(
            pool.map(lambda step: source.read(scene, CHIP.crop(step, 0, 60, 60)).values, range(0, 24, 4))
        )
    for step, cube in zip(range(0, 24, 4), cubes, strict=True):
        assert np.array_equal(cube[1], oracle("B02")[24 + step : 84 + step, 12:72])
    assert len(decodes) == len(set(decodes)) > 12


def test_what_was_not_used_for_longest_leaves_first(archive, monkeypatch, decodes):
    path, other = (str(archive / f"T33TXN_20200604T101031_{name}.tif") for name in ("B02", "B03"))
    monkeypatch.setattr(cog, "BYTES", 4 * 64 * 64 * 2)
    for col in (0, 64, 128):
        cog.read(path, 1, 0, col, 64, 64)
    cog.read(other, 1, 0, 0, 64, 64)
    cog.read(path, 1, 0, 0, 64, 64)
    cog.read(other, 1, 64, 0, 64, 64)  # the fifth: (path, 64) leaves
    before = len(decodes)
    for col in (0, 128):
        cog.read(path, 1, 0, col, 64, 64)
    assert len(decodes) == before
    cog.read(path, 1, 0, 64, 64, 64)
    assert len(decodes) == before + 1


def test_a_replaced_file_is_read_anew(tmp_path):
    path = write(tmp_path / "a.tif", np.full((64, 64), 3, np.uint8), 10.0)
    assert cog.read(str(path), 1, 0, 0, 2, 2)[0].max() == 3
    write(path, np.full((64, 64), 5, np.uint8), 10.0)
    os.utime(path, ns=(1, 1))
    assert cog.read(str(path), 1, 0, 0, 2, 2)[0].min() == 5


def test_threads_and_forked_children_read_the_same_pixels(archive):
    source = opened(archive)
    scene = source.search(CHIP, YEAR)[0]
    expected = source.read(scene, CHIP).values
    found: list[bool] = []

    def read() -> None:
        found.append(all(np.array_equal(source.read(scene, CHIP).values, expected) for _ in range(5)))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(source.read(scene, CHIP).values, expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class _Server(http.server.SimpleHTTPRequestHandler):
    """Serves files; `busy/` answers 503."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/busy/"):
            self.send_error(503)
        else:
            super().do_GET()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(archive):
    asked: list[str] = []
    handler = functools.partial(type("Handler", (_Server,), {"asked": asked}), directory=str(archive))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_addresses_are_read_like_files_and_fail_by_kind(archive, web, monkeypatch):
    monkeypatch.setitem(cog.REMOTE, "GDAL_HTTP_RETRY_DELAY", "0.01")
    url, asked = web
    name = "T33TXN_20200604T101031_B02.tif"
    source = files([f"{url}/{name}"], "sentinel2_l2a", bands=["B02"])
    raster = source.read(source.search(CHIP, YEAR)[0], CHIP)
    assert np.array_equal(raster.values[0], oracle("B02")[24:88, 12:76])
    gone = files([f"{url}/gone/{name}"], "sentinel2_l2a", bands=["B02"])
    with pytest.raises(Missing, match="is not there"):
        gone.search(CHIP, YEAR)
    busy = files([f"{url}/busy/{name}"], "sentinel2_l2a", bands=["B02"])
    with pytest.raises(Transient, match="after 3 retries"):
        busy.search(CHIP, YEAR)
    assert sum(path.startswith("/busy/") for path in asked) >= 4
    with pytest.raises(ValueError, match="cannot be listed over HTTP; give the list"):
        files(url, "sentinel2_l2a")


@pytest.mark.parametrize(
    ("pattern", "name", "scene", "band", "day"),
    [
        ("{tile}_{date:%Y%m%dT%H%M%S}_{band}.*", "x/T33UUU_20170216T102101_B8A.jp2", "x/T33UUU_20170216T102101", "B8A", "2017-02-16"),
        ("{scene}/{band}.tif", "a/b/S2B_1/B02.tif", "S2B_1", "B02", None),
        ("{date:%Y%j}/{band}_*.tif", "2020032/B4_v1.tif", "2020032/_v1", "B4", "2020-02-01"),
        ("{place}.tif", "38D_378R_2_3.tif", "38D_378R_2_3", None, None),
    ],
)  # fmt: skip
def test_patterns_tell_scene_band_and_date(pattern, name, scene, band, day):
    made = Pattern.of(pattern)
    match = made.match(name)
    assert match is not None
    assert (made.scene_id(match), match.groupdict().get("band")) == (scene, band)
    assert str(made.day(match)) == str(day)


def test_band_names_are_understood_as_archives_write_them():
    names = {"B2": "B02", "b02": "B02", "02": "B02", "8A": "B8A", "B8a_20m": "B8A", "band_11": "B11"}
    assert {token: band_of(token, L2A) for token in names} == names
    assert band_of("vv", sensor("sentinel1")) == "VV"
    assert [band_of(token, L2A) for token in ("TCI", "B10", "thumbnail", "")] == [None] * 4


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"pattern": "{band}.tif"}, "no {date:...} and no date is given"),
        ({"pattern": "{date:%Y%b}_{band}.tif"}, "%b in pattern"),
        ({"pattern": "{my band}.tif"}, "is no field"),
        ({"unit": "dB"}, "unit 'dB' is for radar"),
        ({"bands": ["B99"]}, "has no band 'B99'"),
        ({"layout": {"B99": "nir"}}, "has no band 'B99'"),
        ({"date": "soon"}, "soon"),
    ],
)
def test_options_that_do_not_fit_are_refused(archive, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        opened(archive, **options)


def test_names_that_do_not_fit_are_missing_and_twins_refused(archive, tmp_path):
    with pytest.raises(
        Missing, match=r"none of 24 files under .* is named \{date:%Y\}\.tif \(one is called T33TXN"
    ):
        opened(archive, pattern="{date:%Y}.tif")
    with pytest.raises(Missing, match="does not exist; check the path"):
        opened(tmp_path / "nowhere")
    write_scene(tmp_path, bands=("B02",))
    (tmp_path / "T33TXN_20200604T101031_B2.tif").write_bytes(b"")
    with pytest.raises(ValueError, match="has two files for B02"):
        opened(tmp_path)


def test_an_address_opens_the_source(archive):
    address = Address(call="sources.geotiff.files", options={"root": str(archive), "sensor": "sentinel2_l2a"})
    assert len(address.open().search(CHIP, YEAR)) == 2
    with pytest.raises(ValueError, match="does not take options"):
        Address(call="sources.geotiff.files", options={"folder": str(archive)}).open()


def test_a_listing_is_sorted_and_names_are_relative(archive):
    names = [name for name, _ in listed(str(archive))]
    assert names == sorted(names)
    assert all("/" not in name for name in names)


def test_a_tilde_stands_for_home_also_inside_an_archive_name(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert at_home("~/a/b.tif") == f"{tmp_path}/a/b.tif"
    assert at_home("/vsizip/{~/c.whl}/in/~/d") == f"/vsizip/{{{tmp_path}/c.whl}}/in/~/d"
    assert at_home("/data/~x") == "/data/~x"
