"""What every imagery source must do, asked of each module in geodata/sources.

A source is found by its address functions: public functions declared to return `ImagerySource`. One that needs no
arguments is called as it is; one that does is given them by a function of the same name in `ARGUMENTS` below.
"""

import datetime
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

import geodata.sources
from geodata.errors import Missing
from geodata.grid import Grid, chip_grid
from geodata.quality import inside_share
from geodata.sensors import SENSORS, sensor
from geodata.source import ImagerySource, Period, Raster, Scene

FOLDER = Path(geodata.sources.__file__).parent
LON, LAT = 16.35, 47.84
YEAR = Period.from_text("2020-01-01/2021-01-01")


def raster_files(folder: Path) -> dict[str, Any]:
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


ARGUMENTS: dict[str, Callable[[Path], dict[str, Any]]] = {"geotiff.files": raster_files}


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
def case(request, tmp_path_factory) -> Case:
    function = FOUND[request.param]
    arguments = ARGUMENTS.get(request.param, lambda _: {})(tmp_path_factory.mktemp("source"))
    needed = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is parameter.empty and name not in arguments
    ]
    assert not needed, f"{request.param} needs {', '.join(needed)}: give them in ARGUMENTS"
    source = function(**arguments)
    grid = chip_grid(
        LON, LAT, source.sensor.gsd, int(640 / source.sensor.gsd) if source.sensor.gsd >= 10 else 192
    )
    return Case(source, grid, source.search(grid, YEAR), lambda: function(**arguments))


def test_there_are_sources_to_hold_to_the_contract():
    assert "geotiff.files" in FOUND


def test_its_sensor_is_one_of_the_projects(case):
    assert case.source.sensor.name in {known.name for known in SENSORS}
    assert set(case.source.sensor.bands) <= set(sensor(case.source.sensor.name).bands)


def test_scenes_come_in_order_within_the_period_and_name_themselves(case):
    assert case.scenes
    assert [(s.date, s.scene_id) for s in case.scenes] == sorted((s.date, s.scene_id) for s in case.scenes)
    assert len({scene.scene_id for scene in case.scenes}) == len(case.scenes)
    assert all(scene.date in YEAR and scene.sensor == case.source.sensor.name for scene in case.scenes)
    assert all(inside_share(scene, case.grid) > 0 for scene in case.scenes)
    hash(case.scenes[0])


def test_searching_again_and_in_another_process_finds_the_same(case):
    assert case.source.search(case.grid, YEAR) == case.scenes
    assert case.again().search(case.grid, YEAR) == case.scenes


def test_a_shorter_period_finds_the_scenes_of_its_dates(case):
    first = case.scenes[0].date
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
