"""Four archives, four layouts, one code: plan, compose, build shards and read them back, against rasterio.

TerraMesh stacks bands in one file and lies off every lattice; SSL4EO-S12 has a file a band, in degrees, two dates of
two sensors; a Major-TOM cell has native 10, 20 and 60 m bands and a mask; eo-learn's series is float reflectance on
pixels that are not square. Nothing here but options differs between them.
"""

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.warp

from geodata.build import build_shard, opened_landcover
from geodata.chips import ShardPlan
from geodata.grid import Grid
from geodata.landcover import ClassTable, LandCover, raster
from geodata.sample import Sample
from geodata.sampling import plan
from geodata.sensors import sensor
from geodata.shards import read_samples, shard_path, verify_shard
from geodata.source import Address, Period
from geodata.spec import Area, ChipSpec, CorpusSpec, Quotas, SensorSpec, SplitSpec

pytestmark = pytest.mark.real

TERRAMESH = ClassTable(
    "terramesh",
    {
        1: "water",
        2: "trees",
        3: "flooded vegetation",
        4: "crops",
        5: "built",
        6: "bare ground",
        7: "snow or ice",
        8: "clouds",
        9: "rangeland",
    },
    {
        1: "watershed",
        2: "forest",
        3: "wetland",
        4: "farmland",
        5: "urban",
        6: "desert",
        7: "ice",
        8: "cloud",
        9: "grassland",
    },
)
GLOBE = ClassTable(
    "glcnmo_groups",
    dict(enumerate(["forest", "other", "cropland", "wetland", "bare", "urban", "snow", "water"], 1)),
    dict(enumerate(["forest", "shrub", "farmland", "wetland", "desert", "urban", "ice", "watershed"], 1)),
)


def terramesh_cover(path: str) -> LandCover:
    """Land use beside a TerraMesh scene."""
    return raster(path, TERRAMESH, nodata=0)


def globe_cover(path: str) -> LandCover:
    """The 1/3-degree map of the globe."""
    return raster(path, GLOBE, nodata=0)


def from_files(
    name: str, period: str, root: Path | list[str], options: dict[str, Any], **checks: Any
) -> SensorSpec:
    """A sensor of raster files."""
    where = root if isinstance(root, list) else str(root)
    address = Address(call="sources.geotiff.files", options={"root": where, "sensor": name} | options)
    return SensorSpec(sensor=name, source=address, period=Period.from_text(period), **checks)


def corpus(
    name: str, area: Area, cover: Address, sensors: tuple[SensorSpec, ...], **quotas: int
) -> CorpusSpec:
    """A small corpus of chips of 480 m."""
    return CorpusSpec(
        name=name,
        chip=ChipSpec(gsd=10.0, size=48),
        quotas=Quotas(fixed=quotas),
        regions=area,
        landcover=cover,
        labels=True,
        sensors=sensors,
        split=SplitSpec(block_m=480.0, fractions={"train": 1.0}),
    )


def curate(spec: CorpusSpec, root: Path, shards: list[ShardPlan] | None = None) -> list[Sample]:
    """The whole way, and back: every sample of every shard."""
    samples: list[Sample] = []
    planned = shards or list(plan(spec, opened_landcover(spec.landcover)).shards(16))
    assert planned
    for shard in planned:
        record = build_shard(shard, spec, root)
        assert record.planned == len(shard.chips) == record.rows + len(record.rejects)
        verify_shard(shard_path(root, shard.name), record)
        samples += read_samples(shard_path(root, shard.name))
    return samples


def area_of(path: Path, name: str, inset: float = 0.0) -> Area:
    """The ground of a raster file, less a margin in its own units."""
    with rasterio.open(path) as file:
        left, bottom, right, top = file.bounds
        return Area(
            name=name,
            bounds=(left + inset, bottom + inset, right - inset, top - inset),
            epsg=file.crs.to_epsg(),
        )


def warped(path: Path, band: int, grid: Grid) -> np.ndarray:
    """A band on a grid by rasterio alone, from the whole file."""
    with rasterio.open(path) as file:
        out = np.full(grid.shape, np.nan)
        rasterio.warp.reproject(
            file.read(band).astype(float),
            out,
            src_transform=file.transform,
            src_crs=file.crs,
            dst_transform=grid.affine(),
            dst_crs=f"EPSG:{grid.epsg}",
            dst_nodata=np.nan,
            resampling=rasterio.warp.Resampling.bilinear,
        )
    return out


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for rounding and for the eighth of a pixel to which GDAL approximates a projection."""
    difference = np.abs(found.astype(float) - expected)
    assert np.isfinite(expected).all()
    assert np.median(difference) <= 0.01 * expected.std() + 0.5
    assert difference.max() <= 0.125 * np.ptp(expected)


@pytest.mark.parametrize(
    ("place", "stratum", "offset"),
    [
        ("38D_378R_2_3", "farmland", "none"),
        ("433D_629L_3_1", "urban", "remove"),
        ("637U_59R_1_3", "farmland", "none"),
    ],
)
def test_terramesh(shared_data, tmp_path, place, stratum, offset):
    folder = shared_data / "terramesh_s1_s2_lulc"
    files = {name: folder / name / f"{place}.tif" for name in ("S2L2A", "S1RTC", "LULC")}
    options = {"pattern": "{place}.tif", "date": "2020-01-01"}
    day = "2020-01-01/2020-01-02"
    radar = options | {"unit": "dB", "properties": {"product": "RTC"}}
    spec = corpus(
        "terramesh",
        area_of(files["S2L2A"], place, inset=20.0),
        Address(call=f"{__name__}.terramesh_cover", options={"path": str(files["LULC"])}),
        (
            from_files("sentinel2_l2a", day, [str(files["S2L2A"])], options | {"offset": offset}),
            from_files("sentinel1", day, [str(files["S1RTC"])], radar),
        ),
        **{stratum: 4},
    )
    samples = curate(spec, tmp_path)
    assert samples
    for sample in samples:
        s2, s1, lc = (sample.layers[prefix] for prefix in ("s2", "s1", "lc"))
        assert s2.resampled == s1.resampled == (True,)
        assert s2.properties["offset_applied_by"] == ("us" if offset == "remove" else "none",)
        assert s1.properties["product"] == ("RTC",)
        removed = 1000 if offset == "remove" else 0
        for band in range(12):
            assert_close(
                s2.pixels[0, band], np.maximum(warped(files["S2L2A"], band + 1, sample.grid) - removed, 1)
            )
        for band in range(2):
            assert_close(s1.pixels[0, band], warped(files["S1RTC"], band + 1, sample.grid) * 100)
        with rasterio.open(files["LULC"]) as file:
            x, y = sample.grid.xy()
            expected = [next(file.sample([(x[col], y[row])]))[0] for row, col in ((0, 0), (20, 31), (47, 47))]
        assert lc.pixels[0, 0][[0, 20, 47], [0, 31, 47]].tolist() == expected
        assert TERRAMESH.strata[int(lc.pixels[0, 0, 24, 24])] == stratum


def test_ssl4eo_s12(shared_data, tmp_path):
    folder = shared_data / "ssl4eo_s12_0000200"
    period = "2020-06-01/2020-10-01"
    radar = {
        "pattern": "{platform}_IW_{product}_1SDV_{date:%Y%m%dT%H%M%S}_{stop}_{orbit}_{take}_{unique}/{band}.tif",
        "unit": "dB",
    }
    spec = corpus(
        "ssl4eo",
        area_of(next(folder.glob("s2a/*/20200604*/B2.tif")), "punjab", inset=0.004),
        Address(
            call=f"{__name__}.globe_cover",
            options={"path": str(shared_data / "landcover_glcnmo2008_third_degree" / "cover_cls.tif")},
        ),
        (
            from_files(
                "sentinel2_l2a",
                period,
                folder / "s2a",
                {"pattern": "{date:%Y%m%dT%H%M%S}_{generated}_{tile}/{band}.tif"},
                dates=2,
                min_dates=2,
            ),
            from_files("sentinel1", period, folder / "s1", radar, dates=2, min_dates=2),
        ),
        farmland=3,
    )
    samples = curate(spec, tmp_path)
    assert len(samples) == 3
    for sample in samples:
        s2, s1 = sample.layers["s2"], sample.layers["s1"]
        assert s2.dates == (datetime.date(2020, 6, 4), datetime.date(2020, 8, 13))
        assert s1.dates == (datetime.date(2020, 6, 7), datetime.date(2020, 9, 3))
        assert s2.resampled == s1.resampled == (True, True)
        assert s1.properties["product"] == ("GRDH", "GRDH")
        for date, item in enumerate(s2.item_ids):
            for band, name in ((1, "B2"), (7, "B8"), (8, "B8A"), (0, "B1")):
                assert_close(
                    s2.pixels[date, band], warped(next(folder.glob(f"s2a/{item}/{name}.tif")), 1, sample.grid)
                )
        for date, item in enumerate(s1.item_ids):
            path = next(folder.glob(f"s1/{item}/VH.tif"))
            assert_close(s1.pixels[date, 1], warped(path, 1, sample.grid) * 100)


MAJORTOM = "{mission}_MSIL2A_{date:%Y%m%dT%H%M%S}_{baseline}_{orbit}_{tile}_{made}/{band}.tif"


def majortom(shared_data: Path) -> tuple[Path, CorpusSpec]:
    scene = next((shared_data / "majortom_s2l2a_199U_1099R").glob("*/*/*/B02.tif")).parent
    options = {
        "pattern": MAJORTOM,
        "classification": "cloud_mask",
        "codes": {"0": 7, "1": 9, "2": 10, "3": 3},
    }
    part = from_files("sentinel2_l2a", "2020-01-01/2021-01-01", scene.parent, options)
    cover = Address(
        call=f"{__name__}.globe_cover",
        options={"path": str(shared_data / "landcover_glcnmo2008_third_degree" / "cover_cls.tif")},
    )
    return scene, corpus(
        "majortom", area_of(scene / "B02.tif", "mekong", inset=60.0), cover, (part,), forest=6
    )


def test_a_majortom_cell_off_the_60_m_lattice_is_warped(shared_data, tmp_path):
    scene, spec = majortom(shared_data)
    samples = curate(spec, tmp_path)
    assert len(samples) == 6
    for sample in samples:
        layer = sample.layers["s2"]
        assert (layer.resampled, layer.cloud) == ((True,), (0.0,))
        assert layer.properties["baseline"] == ("N9999",)
        for band, name in ((1, "B02"), (4, "B05"), (0, "B01")):
            assert_close(layer.pixels[0, band], warped(scene / f"{name}.tif", 1, sample.grid))


def test_chips_on_a_majortom_cells_own_lattice_are_its_pixels_exactly(shared_data, tmp_path):
    scene, spec = majortom(shared_data)
    with rasterio.open(scene / "B01.tif") as file:
        left, top = file.transform.c, file.transform.f
    (shard,) = plan(spec, opened_landcover(spec.landcover)).shards(16)
    moved = [
        replace(
            chip, grid=Grid(32648, (10.0, 0.0, left + 600 * number, 0.0, -10.0, top - 480 * number), 48, 48)
        )
        for number, chip in enumerate(shard.chips)
    ]
    samples = curate(spec, tmp_path, [replace(shard, chips=tuple(moved))])
    assert len(samples) == 6
    for sample in samples:
        layer = sample.layers["s2"]
        assert layer.resampled == (False,)
        for band, known in enumerate(sensor("sentinel2_l2a").bands):
            with rasterio.open(scene / f"{known.name}.tif") as file:
                window = rasterio.windows.from_bounds(*sample.grid.bounds, transform=file.transform)
                plain = file.read(1, window=window.round_lengths().round_offsets())
            ratio = int(known.gsd // 10)
            assert np.array_equal(layer.pixels[0, band], np.kron(plain, np.ones((ratio, ratio), np.uint16)))


def test_eolearn_slovenia(shared_data, tmp_path):
    folder = shared_data / "eolearn_slovenia_s2"
    first = folder / "S2L1C_20150711.tif"
    area = area_of(first, "slovenia")
    part = from_files(
        "sentinel2_l1c",
        "2015-07-01/2015-10-01",
        folder,
        {"pattern": "S2L1C_{date:%Y%m%d}.tif", "unit": "reflectance"},
        dates=5,
        min_dates=5,
        select="all",
    )
    cover = Address(
        call=f"{__name__}.globe_cover",
        options={"path": str(shared_data / "landcover_glcnmo2008_third_degree" / "cover_cls.tif")},
    )
    samples = curate(corpus("slovenia", area, cover, (part,), forest=2), tmp_path)
    assert samples
    for sample in samples:
        layer = sample.layers["s2"]
        assert [str(day) for day in layer.dates] == [
            "2015-07-11",
            "2015-07-31",
            "2015-08-20",
            "2015-08-30",
            "2015-09-09",
        ]
        assert layer.resampled == (True,) * 5
        for band in (0, 3, 12):
            assert_close(layer.pixels[0, band], warped(first, band + 1, sample.grid) * 10_000)
