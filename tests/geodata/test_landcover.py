"""Class tables, and maps from rasters and polygons, against rasterio and shapely."""

import json
import re
from pathlib import Path

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import rasterio.features
import rasterio.warp
import shapely
from affine import Affine

from geodata.errors import Corrupt, Missing
from geodata.grid import Grid, project, unproject
from geodata.landcover import (
    ESRI_2020,
    ESRI_NINE,
    ESRI_SERIES,
    GLCNMO_2008,
    NLCD_GROUPS,
    NO_CLASS,
    OSM_LANDUSE,
    STRATA,
    TABLES,
    ClassTable,
    class_table,
    polygons,
    raster,
)
from geodata.source import Address

GRID = Grid(32633, (10.0, 0.0, 330000.0, 0.0, -10.0, 5822040.0), 40, 50)


def from_origin(west, north, width, height):
    return Affine(width, 0.0, west, 0.0, -height, north)


def write_raster(path, codes, transform, crs, **options):
    profile = {"driver": "GTiff", "count": 1, "dtype": codes.dtype, "crs": crs, "transform": transform}
    with rasterio.open(
        path, "w", height=codes.shape[0], width=codes.shape[1], **profile, **options
    ) as target:
        target.write(codes, 1)
    return str(path)


@pytest.fixture
def degrees(tmp_path):
    """A map of one degree in geographic coordinates, pixels of about 100 m by 70 m, around the grid."""
    codes = np.random.default_rng(0).choice([1, 2, 5, 7], (700, 1000)).astype(np.uint8)
    return write_raster(tmp_path / "map.tif", codes, from_origin(12.0, 53.0, 0.001, 0.001), "EPSG:4326")


def write_polygons(path, shapes, words, crs="EPSG:32633"):
    pyogrio.raw.write(
        path,
        geometry=shapely.to_wkb(np.array(shapes, object)),
        field_data=[np.array(words, object)],
        fields=["fclass"],
        geometry_type="Polygon",
        crs=crs,
        driver="GPKG",
        layer="land",
    )
    return str(path)


@pytest.fixture
def wood(tmp_path):
    """A wood with a pond in it, the pond first in the file; and a farm beside, partly under the wood."""
    shapes = [
        shapely.Point(330200, 5821850).buffer(40),
        shapely.box(330050, 5821700, 330350, 5822000),
        shapely.box(330300, 5821650, 330490, 5822030),
    ]
    return write_polygons(tmp_path / "wood.gpkg", shapes, ["water", "forest", "farm"])


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_table_gives_each_stratum_word_a_meaning(table):
    assert set(table.strata.values()) <= set(STRATA)
    assert set(table.strata) <= set(table.codes)
    assert class_table(table.name) is table


def test_the_two_esri_systems_differ_exactly_in_grass_scrub_and_rangeland():
    assert set(ESRI_2020.codes) - set(ESRI_SERIES.codes) == {3, 6}
    assert set(ESRI_SERIES.codes) - set(ESRI_2020.codes) == {11}
    assert set(ESRI_SERIES.codes) == {1, 2, 4, 5, 7, 8, 9, 10, 11}
    assert ESRI_2020.strata[7] == ESRI_SERIES.strata[7] == "urban"


def test_strata_of_codes_equal_a_dictionary():
    codes = np.arange(256, dtype=np.uint8)
    expected = [
        STRATA.index(ESRI_2020.strata[code]) if code in ESRI_2020.strata else -1 for code in range(256)
    ]
    assert ESRI_2020.strata_of(codes).tolist() == expected


@pytest.mark.parametrize(
    ("codes", "strata", "words", "sentence"),
    [
        ({255: "none"}, {}, {}, "outside 0 to 254"),
        ({1: "a"}, {2: "forest"}, {}, "has no name"),
        ({1: "a"}, {1: "swamp"}, {}, "no stratum"),
        ({1: "a"}, {}, {"pond": 3}, "pond"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(codes, strata, words, sentence):
    with pytest.raises(ValueError, match=sentence):
        ClassTable("t", codes, strata, words)


def test_an_unknown_table_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="esri_2020, esri_series, esri_nine, worldcover"):
        class_table("esri")


def test_a_raster_on_a_grid_equals_rasterio_nearest_warp(degrees):
    expected = np.full(GRID.shape, NO_CLASS, np.uint8)
    with rasterio.open(degrees) as source:
        rasterio.warp.reproject(
            rasterio.band(source, 1),
            expected,
            dst_transform=GRID.affine(),
            dst_crs="EPSG:32633",
            dst_nodata=NO_CLASS,
            resampling=rasterio.warp.Resampling.nearest,
            tolerance=0,
        )
    found = raster(degrees, "esri_2020").read(GRID)
    assert found.valid.all()
    assert found.bands == ("class",)
    np.testing.assert_array_equal(found.values[0], expected)


def test_a_raster_at_points_equals_rasterio_sample(degrees):
    rng = np.random.default_rng(1)
    lon, lat = rng.uniform(12.0001, 12.9999, 500), rng.uniform(52.3001, 52.9999, 500)
    with rasterio.open(degrees) as source:
        expected = [int(value[0]) for value in source.sample(zip(lon, lat, strict=True))]
    assert raster(degrees, "esri_2020").at(lon, lat).tolist() == expected


def test_a_raster_reads_the_same_at_points_as_on_a_grid(degrees):
    found = raster(degrees, "esri_2020")
    lon, lat = GRID.lonlat()
    np.testing.assert_array_equal(found.at(lon.ravel(), lat.ravel()), found.read(GRID).values.ravel())


def test_ground_outside_a_raster_or_without_data_has_no_class(tmp_path):
    codes = np.array([[0, 1], [2, 5]], np.int16)
    path = write_raster(
        tmp_path / "m.tif", codes, from_origin(330000, 5822040, 20, 20), "EPSG:32633", nodata=0
    )
    found = raster(path, "esri_2020").read(GRID)
    assert found.values[0, 0, 0] == NO_CLASS
    assert not found.valid[0, 0]
    assert found.values[0, 0, 2] == 1
    assert (found.values[0, 4:] == NO_CLASS).all()
    far = raster(path, "esri_2020").at(np.array([0.0, 12.5]), np.array([0.0, 89.0]))
    assert far.tolist() == [NO_CLASS, NO_CLASS]


def test_a_code_outside_the_table_is_named(tmp_path):
    codes = np.array([[3, 1], [2, 6]], np.uint8)
    path = write_raster(tmp_path / "m.tif", codes, from_origin(330000, 5822040, 200, 200), "EPSG:32633")
    with pytest.raises(ValueError, match="code 3, 6, but table esri_series has only 1, 2, 4"):
        raster(path, "esri_series").read(GRID)


def test_rasters_that_cannot_be_maps_are_refused(tmp_path, degrees):
    with pytest.raises(Missing, match="check the path"):
        raster(str(tmp_path / "none.tif"), "esri_2020")
    with pytest.raises(ValueError, match="no band 2"):
        raster(degrees, "esri_2020", band=2)
    floats = write_raster(
        tmp_path / "f.tif", np.ones((2, 2), np.float32), from_origin(0, 1, 1, 1), "EPSG:4326"
    )
    with pytest.raises(ValueError, match="class codes are integers"):
        raster(floats, "esri_2020")


def test_a_truncated_raster_is_corrupt(tmp_path, degrees):
    content = Path(degrees).read_bytes()
    cut = tmp_path / "cut.tif"
    cut.write_bytes(content[: len(content) // 4])
    with pytest.raises((Corrupt, Missing)):
        raster(str(cut), "esri_2020").at(np.array([12.9]), np.array([52.31]))


def test_polygons_equal_rasterio_features_with_the_smallest_on_top(wood):
    shapes = [
        (shapely.box(330050, 5821700, 330350, 5822000), 3),
        (shapely.box(330300, 5821650, 330490, 5822030), 1),
        (shapely.Point(330200, 5821850).buffer(40), 6),
    ]
    expected = rasterio.features.rasterize(
        shapes, GRID.shape, fill=NO_CLASS, transform=GRID.affine(), dtype="uint8"
    )
    found = polygons(wood, "fclass", "osm_landuse").read(GRID)
    np.testing.assert_array_equal(found.values[0], expected)
    np.testing.assert_array_equal(found.valid, expected != NO_CLASS)
    assert set(np.unique(found.values)) == {1, 3, 6, NO_CLASS}


def test_polygons_at_points_agree_with_polygons_on_a_grid(wood):
    lon, lat = GRID.lonlat()
    found = polygons(wood, "fclass", OSM_LANDUSE)
    np.testing.assert_array_equal(found.at(lon.ravel(), lat.ravel()), found.read(GRID).values.ravel())


def test_polygons_in_degrees_are_drawn_on_a_metric_grid(tmp_path):
    corners = np.array([(330100, 5821800), (330400, 5821800), (330400, 5822000), (330100, 5822000)], float)
    lonlat = np.column_stack(unproject(corners[:, 0], corners[:, 1], 32633))
    path = write_polygons(tmp_path / "d.gpkg", [shapely.Polygon(lonlat)], ["forest"], "EPSG:4326")
    found = polygons(path, "fclass", "osm_landuse", background=1).read(GRID).values[0]
    assert (found[4:24, 10:40] == 3).all()
    assert (found == 3).sum() == 20 * 30
    assert (found == 1).sum() == found.size - 600


def test_a_word_outside_the_table_is_named_unless_ignored(tmp_path):
    shapes = [shapely.box(330000, 5821900, 330100, 5822000), shapely.box(330200, 5821900, 330300, 5822000)]
    path = write_polygons(tmp_path / "w.gpkg", shapes, ["forest", "zoo"])
    with pytest.raises(ValueError, match="'zoo', which table osm_landuse does not know"):
        polygons(path, "fclass", "osm_landuse")
    found = polygons(path, "fclass", "osm_landuse", ignore=["zoo"]).read(GRID)
    assert set(np.unique(found.values)) == {3, NO_CLASS}


def test_vectors_that_cannot_be_maps_are_refused(tmp_path, wood):
    with pytest.raises(Missing, match="check the path"):
        polygons(str(tmp_path / "none.gpkg"), "fclass", "osm_landuse")
    with pytest.raises(Missing, match="layer"):
        polygons(wood, "fclass", "osm_landuse", layer="sea")
    with pytest.raises(ValueError, match="no field 'kind'; it has fclass"):
        polygons(wood, "kind", "osm_landuse")
    with pytest.raises(ValueError, match="background 9"):
        polygons(wood, "fclass", "osm_landuse", background=9)


def test_a_grid_without_any_polygon_has_no_class(wood):
    away = Grid(32633, (10.0, 0.0, 400000.0, 0.0, -10.0, 5822040.0), 4, 4)
    found = polygons(wood, "fclass", "osm_landuse").read(away)
    assert not found.valid.any()
    assert (found.values == NO_CLASS).all()


def test_maps_open_from_addresses(degrees, wood):
    one = Address(call="landcover.raster", options={"path": degrees, "table": "esri_2020"}).open()
    two = Address(
        call="landcover.polygons", options={"path": wood, "field": "fclass", "table": "osm_landuse"}
    ).open()
    assert one.classes is ESRI_2020
    assert two.classes is OSM_LANDUSE
    lon, lat = GRID.centre()
    x, y = project(lon, lat, 32633)
    assert two.at(np.array([lon]), np.array([lat]))[0] == two.read(GRID).values[0, 20, 25]
    assert abs(x - 330250) < 1e-3
    assert abs(y - 5821840) < 1e-3


def test_the_renumbered_nine_are_the_series_in_order():
    assert list(ESRI_NINE.codes.values()) == list(ESRI_SERIES.codes.values())
    assert list(ESRI_NINE.strata.values()) == list(ESRI_SERIES.strata.values())
    assert list(ESRI_NINE.codes) == list(range(1, 10))


@pytest.mark.real
def test_the_world_in_twenty_classes_is_named_as_its_legend_names_it(shared_data):
    legend = json.loads((shared_data / "landcover_glcnmo2008_third_degree" / "legend.json").read_text())
    plain = {code: re.sub(r"[^a-z]", "", name.lower()) for code, name in GLCNMO_2008.codes.items()}
    for code, name in legend["cover"].items():
        wanted = re.sub(r"[^a-z]", "", name.lower().replace("/", " and " if code == "13" else " or "))
        assert plain[int(code)] == wanted
    eight = {
        "Forest": "forest",
        "Cropland": "farmland",
        "Urban": "urban",
        "Snow/ice": "ice",
        "Water": "watershed",
    }
    eight |= {"Wetland": "wetland", "Bare area/Sparse vegetation": "desert"}
    with rasterio.open(shared_data / "landcover_glcnmo2008_third_degree" / "cover.tif") as file:
        codes = file.read(1)
    with rasterio.open(shared_data / "landcover_glcnmo2008_third_degree" / "cover_cls.tif") as file:
        groups = file.read(1)
    for group, name in legend["cover_cls"].items():
        if name in eight:
            members = np.unique(codes[groups == int(group)])
            assert {GLCNMO_2008.strata[int(code)] for code in members} == {eight[name]}


@pytest.mark.real
def test_renumbered_codes_of_real_chips_look_like_their_classes(shared_data):
    """Near infrared over red is high over trees, low over water: by the nine codes, not by the raw ones."""
    root = shared_data / "terramesh_s1_s2_lulc"
    ratios = {}
    for path in sorted((root / "LULC").glob("*.tif")):
        scene = next((root / "S2L2A").glob(f"{path.stem[:12]}*"), None)
        if scene is None:
            continue
        with rasterio.open(path) as file, rasterio.open(scene) as bands:
            codes, red, infrared = file.read(1), bands.read(4).astype(float), bands.read(8).astype(float)
        table = raster(str(path), "esri_nine", nodata=0)
        table.classes.check(np.where(codes == 0, 255, codes), path.name)
        for code in np.unique(codes[codes > 0]):
            here = codes == code
            name = ESRI_NINE.codes[int(code)]
            ratios.setdefault(name, []).append(float(np.median((infrared / np.maximum(red, 1))[here])))
    assert max(ratios["water"]) < min(ratios["trees"])


@pytest.mark.real
def test_groups_of_the_national_map_lie_where_their_park_has_them(shared_data):
    """Zion: forest covers most, then shrub; at its lodge in the canyon there is some development."""
    cover = raster(str(shared_data / "nlcd_zion" / "nlcd.tif"), "nlcd_groups")
    with rasterio.open(cover.path) as file:
        codes = file.read(1)
    counts = {NLCD_GROUPS.codes[int(code)]: int((codes == code).sum()) for code in np.unique(codes)}
    assert sorted(counts, key=counts.get)[-3:] == ["barren", "shrubland", "forest"]
    assert cover.index(["urban"]) is None
