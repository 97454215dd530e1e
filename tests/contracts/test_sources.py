"""What every imagery source must do, asked of each module in geodata/sources.

A source is found by its address functions: public functions declared to return `ImagerySource`. One that needs no
arguments is called as it is; one that does is given them by a function of the same name in `ARGUMENTS` below, made from
a folder of its own and the address of the stand-ins, which are running.
"""

import datetime
import importlib
import inspect
import json
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import requests
from affine import Affine

import geodata.sources
import geodata.stubs
from geodata.errors import Missing
from geodata.grid import Grid, chip_grid
from geodata.quality import inside_share
from geodata.sensors import SENSORS, sensor
from geodata.source import ImagerySource, Period, Raster, Scene
from geodata.sources.earth_engine_account import disconnect
from geodata.stubs import server
from geodata.webmercator import grid_of, tile_at

FOLDER, STUBS = (Path(package.__file__ or "").parent for package in (geodata.sources, geodata.stubs))
LON, LAT = 16.35, 47.84
YEAR = Period.from_text("2020-01-01/2021-01-01")


def raster_files(folder: Path, url: str) -> dict[str, Any]:
    """Two dates of a Sentinel-2 scene, 3 840 m a side around the point, each band at its own GSD."""
    known = sensor("sentinel2")
    whole = chip_grid(LON, LAT, 10.0, 384)
    for day in ("20200604", "20200809"):
        for number, band in enumerate(known.bands):
            grid = whole.at(band.gsd)
            rng = np.random.default_rng(int(day) + number)
            path = folder / f"T33TXN_{day}T101031_{band.name}.tif"
            with rasterio.open(
                path,
                "w",
                driver="GTiff",
                count=1,
                height=grid.height,
                width=grid.width,
                dtype="uint16",
                crs=f"EPSG:{grid.epsg}",
                transform=Affine(*grid.transform),
            ) as file:
                file.write(rng.integers(1, 5000, grid.shape).astype(np.uint16), 1)
    return {"root": str(folder), "sensor": "sentinel2"}


def account(folder: Path, url: str) -> dict[str, Any]:
    return {"project": "stub-project", "url": url}


def planetary_computer(folder: Path, url: str) -> dict[str, Any]:
    return {"api": f"{url}/pc", "tokens": f"{url}/token"}


COLOURS = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir", "B11": "swir16"}


def any_api(folder: Path, url: str) -> dict[str, Any]:
    return {
        "api": f"{url}/es",
        "collection": "sentinel-2-l2a",
        "sensor": "sentinel2",
        "assets": COLOURS,
        "classification": "scl",
    }


def static_catalog(folder: Path, url: str) -> dict[str, Any]:
    """What the API lists of four months, as the files of a catalog: a collection, and items below it."""
    asked = {"collections": ["sentinel-2-l2a"], "bbox": [16.3, 47.8, 16.4, 47.9], "limit": 1000}
    asked["datetime"] = "2020-03-01T00:00:00Z/2020-06-30T23:59:59Z"
    found = requests.post(f"{url}/es/search", json=asked, timeout=60).json()["features"]
    (folder / "items").mkdir()
    for item in found:
        (folder / "items" / f"{item['id']}.json").write_text(json.dumps(item))
    links = [{"rel": "item", "href": f"./items/{item['id']}.json"} for item in found]
    about = {"type": "Collection", "id": "sentinel-2-l2a", "license": "CC-BY-4.0", "links": links}
    (folder / "collection.json").write_text(json.dumps(about))
    root = {"type": "Catalog", "id": "root", "links": [{"rel": "child", "href": "collection.json"}]}
    (folder / "catalog.json").write_text(json.dumps(root))
    return {"root": str(folder / "catalog.json"), "sensor": "sentinel2", "assets": COLOURS}


def web_tiles(folder: Path, url: str) -> dict[str, Any]:
    server = {
        "name": "stand-in",
        "template": f"{url}/tiles/{{z}}/{{x}}/{{y}}.jpg",
        "license": "CC0-1.0",
        "attribution": "a synthetic Earth",
        "license_ack": {"who": "a test", "what": "CC0-1.0", "date": "2024-01-01"},
        "per_second": 1000.0,
    }
    return {"providers": [server]}


ARGUMENTS: dict[str, Callable[[Path, str], dict[str, Any]]] = {
    "earth_engine.naip": account,
    "earth_engine.sentinel1": account,
    "earth_engine.sentinel2": account,
    "geotiff.files": raster_files,
    "stac.catalog": static_catalog,
    "stac.earth_search": lambda _, url: {"api": f"{url}/es"},
    "stac.planetary_computer": planetary_computer,
    "stac.search": any_api,
    "webtiles.tiles": web_tiles,
}
GRIDS: dict[str, Grid] = {"webtiles.tiles": grid_of(17, *(int(place) for place in tile_at(LON, LAT, 17)))}
"""Chips of sources whose pixels do not lie on the lattice of UTM."""


def stand_ins() -> list[server.Routes]:
    """Every stand-in there is: modules of geodata.stubs with a function `routes`."""
    found = [importlib.import_module(f"geodata.stubs.{path.stem}") for path in sorted(STUBS.glob("[!_]*.py"))]
    return [module.routes() for module in found if hasattr(module, "routes")]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    disconnect()
    with server.serve(stand_ins()) as stub:
        yield stub.url
    disconnect()


def addresses() -> Iterator[tuple[str, Callable[..., ImagerySource]]]:
    for path in sorted(FOLDER.glob("*.py")):
        module = importlib.import_module(f"geodata.sources.{path.stem}") if path.stem != "__init__" else None
        for name, function in inspect.getmembers(module, inspect.isfunction):
            mine = not name.startswith("_") and function.__module__ == f"geodata.sources.{path.stem}"
            if mine and typing.get_type_hints(function).get("return") is ImagerySource:
                yield f"{path.stem}.{name}", function


FOUND = dict(addresses())


@dataclass
class Case:
    """An opened source, a chip that it covers, and its scenes there."""

    source: ImagerySource
    grid: Grid
    scenes: list[Scene]
    again: Callable[[], ImagerySource]

    def read(self, grid: Grid, scene: Scene | None = None) -> Raster:
        return self.source.read(scene or self.scenes[0], grid)


@pytest.fixture(scope="module", params=sorted(FOUND))
def case(request, tmp_path_factory, url) -> Case:
    function = FOUND[request.param]
    arguments = ARGUMENTS.get(request.param, lambda *_: {})(tmp_path_factory.mktemp("source"), url)
    needed = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind is not parameter.VAR_KEYWORD
        and name not in arguments
    ]
    assert not needed, f"{request.param} needs {', '.join(needed)}: give them in ARGUMENTS"
    source = function(**arguments)
    size = int(640 / source.sensor.gsd) if source.sensor.gsd >= 10 else 192
    grid = GRIDS.get(request.param) or chip_grid(LON, LAT, source.sensor.gsd, size)
    return Case(source, grid, source.search(grid, YEAR), lambda: function(**arguments))


def test_there_are_sources_to_hold_to_the_contract():
    assert "geotiff.files" in FOUND


def test_its_sensor_is_one_of_the_projects(case):
    assert case.source.sensor.name in {known.name for known in SENSORS}
    assert set(case.source.sensor.bands) <= set(sensor(case.source.sensor.name).bands)


def test_scenes_come_in_order_within_the_period_and_name_themselves(case):
    assert case.scenes
    order = [(scene.date or datetime.date.min, scene.scene_id) for scene in case.scenes]
    assert order == sorted(order)
    assert len({scene.scene_id for scene in case.scenes}) == len(case.scenes)
    assert all(scene.date is None or scene.date in YEAR for scene in case.scenes)
    assert all(scene.sensor == case.source.sensor.name for scene in case.scenes)
    assert all(inside_share(scene, case.grid) > 0 for scene in case.scenes)
    hash(case.scenes[0])


def test_searching_again_and_in_another_process_finds_the_same(case):
    assert case.source.search(case.grid, YEAR) == case.scenes
    assert case.again().search(case.grid, YEAR) == case.scenes


def test_a_shorter_period_finds_the_scenes_of_its_dates(case):
    first = case.scenes[0].date
    if first is None:
        pytest.skip("nobody says when its scenes were taken")
    until = Period(YEAR.first, first + datetime.timedelta(days=1))
    assert case.source.search(case.grid, until) == [s for s in case.scenes if s.date == first]
    if first > YEAR.first:
        assert case.source.search(case.grid, Period(YEAR.first, first)) == []


def test_pixels_come_on_exactly_the_grid_in_the_sensors_dtype(case):
    raster = case.read(case.grid)
    known = case.source.sensor
    assert raster.grid == case.grid
    assert raster.bands == known.band_names
    assert raster.values.dtype == known.numpy_dtype
    assert raster.values.shape == (len(known.bands), *case.grid.shape)
    assert raster.scl is None or (raster.scl.shape == case.grid.shape and raster.scl.dtype == np.uint8)
    assert not raster.resampled, "a chip on the 60 m lattice of its own zone needs no resampling"


def test_what_is_invalid_is_nodata_and_what_is_valid_is_not(case):
    raster = case.read(case.grid)
    filled = raster.values != case.source.sensor.nodata
    assert not filled.all(axis=0)[~raster.valid].any()
    assert filled.any(axis=0)[raster.valid].all()


def test_reading_twice_gives_the_same_pixels(case):
    first = case.read(case.grid)
    assert np.array_equal(first.values, case.read(case.grid).values)
    assert np.array_equal(first.values, case.again().read(case.scenes[0], case.grid).values)


def test_overlapping_grids_agree_on_the_pixels_they_share(case):
    step = min(max(1, round(60 / case.grid.gsd)), case.grid.width // 2)
    whole = case.read(case.grid)
    size = case.grid.width - step
    part = case.read(case.grid.crop(step, step, size, size))
    assert np.array_equal(part.values, whole.values[:, step:, step:])
    assert np.array_equal(part.valid, whole.valid[step:, step:])
    if whole.scl is not None:
        assert np.array_equal(part.scl, whole.scl[step:, step:])


def test_what_is_read_may_be_written_to(case):
    raster = case.read(case.grid)
    kept = raster.values.copy()
    raster.values[...] = 1
    assert np.array_equal(case.read(case.grid).values, kept)


def test_dates_differ(case):
    if len(case.scenes) > 1:
        first, last = case.read(case.grid), case.read(case.grid, case.scenes[-1])
        assert not np.array_equal(first.values, last.values)


def test_ground_outside_a_scene_is_missing(case):
    xmin, _, xmax, _ = case.scenes[0].bounds
    if (
        case.scenes[0].epsg != case.grid.epsg
        or xmax - xmin > 1e6
        or case.scenes[0].bounds == case.grid.bounds
    ):
        pytest.skip("its scenes have no edge to step over")
    beyond = case.grid.crop(0, int(2 * (xmax - xmin) / case.grid.gsd), *case.grid.shape)
    assert all(inside_share(scene, beyond) > 0 for scene in case.source.search(beyond, YEAR))
    with pytest.raises(Missing):
        case.read(beyond)


def test_scenes_say_their_licence_and_how_their_numbers_came_about(case):
    for scene in case.scenes:
        known = dict(scene.properties)
        assert isinstance(known["license"], str) and isinstance(known["attribution"], str)
        assert isinstance(known["redistribute"], bool)
        if case.source.sensor.prefix == "s2":
            assert known["offset_applied_by"] in ("source", "us", "none")
            assert known["cloud_by"] in ("scl", "cloud_score_plus", "none")
        if case.source.sensor.prefix == "s1":
            assert known["product"] in ("gamma0_rtc", "sigma0_grd")
