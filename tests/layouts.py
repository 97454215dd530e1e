"""Two images of every data set, in the layout it was published in, with labels that are known."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from affine import Affine
from PIL import Image

from geodata import benchmarks
from geodata.benchmarks import IGNORED, bigearthnet, fmow_s2, isaid, oscd

WRITERS = {}
"""By name of data set: a function that writes it to a folder, and gives the labels by a part of the sample's id."""
RNG = np.random.default_rng(5)
S2_NAMES = (*(f"B{n:02d}" for n in range(1, 9)), "B8A", "B09", "B10", "B11", "B12")


def writes(*names):
    def keep(function):
        WRITERS.update(dict.fromkeys(names, function))
        return function

    return keep


def dataset_of(name):
    """The data set of a benchmark: the longest module its name begins with."""
    return max((one for one in benchmarks.modules() if name.startswith(one)), key=len)


def saved(path, pixels, **options):
    """A picture, from (H, W) or (H, W, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)


def tif(path, pixels, epsg=32633):
    """A GeoTIFF from (C, H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    place = {"crs": f"EPSG:{epsg}", "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000)}
    with rasterio.open(
        path, "w", "GTiff", width, height, count, dtype=pixels.dtype.name, **(place if epsg else {})
    ) as file:
        file.write(pixels)


def rgb(height, width=None):
    """A picture that packs quickly."""
    rows, columns = np.arange(height)[:, None, None], np.arange(width or height)[None, :, None]
    return ((rows + 2 * columns + 60 * np.arange(3)) % 256).astype(np.uint8)


def table(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def class_folders(root, names, side, suffix=".jpg"):
    for folder, name in names:
        saved(root / folder / f"{name}{suffix}", rgb(side))


def every_class(root, benchmark):
    """Empty class folders hold no picture, so `check` wants one file in each: a note, which is none."""
    for name in benchmark.classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "note.txt").write_text("no picture")


@writes("aid")
def aid(root, benchmark):
    every_class(root, benchmark)
    class_folders(root, [("Airport", "airport_1"), ("StorageTanks", "storagetanks_360")], 600)
    return {"airport_1": "Airport", "storagetanks_360": "StorageTanks"}


@writes("ucmerced")
def ucmerced(root, benchmark):
    root = root / "UCMerced_LandUse" / "Images"
    every_class(root, benchmark)
    saved(root / "river" / "river99.tif", rgb(247, 256))  # some are a few pixels short
    saved(root / "agricultural" / "agricultural00.tif", rgb(256))
    return {"river99": "river", "agricultural00": "agricultural"}


@writes("resisc45")
def resisc45(root, benchmark):
    every_class(root, benchmark)
    class_folders(root, [("sea_ice", "sea_ice_700"), ("airplane", "airplane_001")], 256)
    return {"sea_ice_700": "sea_ice", "airplane_001": "airplane"}


def in_domain(root, names):
    for split in ("train", "val", "test"):
        (root / f"eurosat-{split}.txt").write_text("\n".join(names) if split == "train" else "")


@writes("eurosat_rgb")
def eurosat_rgb(root, benchmark):
    every_class(root, benchmark)
    class_folders(root, [("SeaLake", "SeaLake_3000"), ("Forest", "Forest_1")], 64)
    in_domain(root, ["SeaLake_3000.jpg", "Forest_1.jpg"])
    return {"sealake_3000": "SeaLake", "forest_1": "Forest"}


@writes("eurosat_ms")
def eurosat_ms(root, benchmark):
    every_class(root, benchmark)
    for name in ("SeaLake_3000", "Forest_1"):  # value = place among the published bands
        pixels = np.arange(13, dtype=np.uint16)[:, None, None] * np.ones((1, 64, 64), np.uint16)
        tif(root / name.partition("_")[0] / f"{name}.tif", pixels)
    in_domain(root, ["SeaLake_3000.jpg", "Forest_1.jpg"])
    return {"sealake_3000": "SeaLake", "forest_1": "Forest"}


@writes("eurosat_rgb_500")
def eurosat_rgb_500(root, benchmark):
    every_class(root, benchmark)
    class_folders(root, [("River", "River_7"), ("Highway", "Highway_2")], 64)
    rows = [("River", "River_7", "train"), ("Highway", "Highway_2", "test")]
    table(root / "index.csv", [{"path": f"{a}/{b}.jpg", "label": a, "split": c} for a, b, c in rows])
    return {"river_7": "River", "highway_2": "Highway"}


@writes("million_aid")
def million_aid(root, benchmark):
    every_class(root / "train" / "any", benchmark)
    saved(root / "train/water_area/lake/P0000001.jpg", rgb(300, 200))
    saved(root / "train/agriculture_land/grassland/meadow/P0000002.jpg", rgb(150))
    return {"p0000001": "lake", "p0000002": "meadow"}


@writes("bigearthnet")
def bigearthnet_(root, benchmark):
    second = benchmark.reader.lists == "v2"
    s2 = (
        "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57",
        "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_58",
    )
    s2 = s2 if second else ("S2A_MSIL2A_20170613T101031_61_39", "S2A_MSIL2A_20170613T101031_61_40")
    s1 = ("S1A_IW_GRDH_1SDV_20170613T165043_33UUP_61_39", "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_61_40")
    labels = (["Pastures"], ["Urban fabric", "Marine waters"])
    fine = (["Pastures", "Airports"], ["Continuous urban fabric", "Discontinuous urban fabric", "Estuaries"])
    for optical, radar, names in zip(s2, s1, fine, strict=True):
        start = root / ("BigEarthNet-S2" if second else "BigEarthNet-v1.0")
        folder = start / optical.rsplit("_", 2)[0] / optical if second else start / optical
        for number, band in enumerate(S2_NAMES):
            side = {"B01": 20, "B09": 20}.get(band, 120 if band in ("B02", "B03", "B04", "B08") else 60)
            if band != "B10":
                tif(folder / f"{optical}_{band}.tif", np.full((1, side, side), 100 + number, np.uint16))
        (folder / f"{optical}_labels_metadata.json").write_text(json.dumps({"labels": names}))
        start = root / ("BigEarthNet-S1" if second else "BigEarthNet-S1-v1.0")
        folder = start / radar.rsplit("_", 3)[0] / radar if second else start / radar
        for band, value in (("VV", -11.25), ("VH", -17.5)):
            tif(folder / f"{radar}_{band}.tif", np.full((1, 120, 120), value, np.float32))
    for split, line in zip(("train", "val"), zip(s2, s1, strict=True), strict=True):
        (root / f"{split}.csv").write_text(",".join(line))
    (root / "test.csv").write_text("")
    for name in bigearthnet.SNOWY:
        (root / name).write_text("S2A_of_another_place")
    rows = {"patch_id": s2, "labels": labels, "split": ["train", "validation"], "s1_name": s1}
    pq.write_table(pa.table({name: list(values) for name, values in rows.items()}), root / "metadata.parquet")
    return {s2[0]: labels[0], s2[1]: labels[1]}


@writes("fmow_s2")
def fmow(root, benchmark):
    head = ("category", "location_id", "image_id", "timestamp")
    rows = [("airport", 3, 6, "2016-03-01T00:00:00Z"), ("airport", 3, 100, "2015-10-01T00:00:00Z")]
    for split, name in fmow_s2.LISTS.items():
        mine = [(*rows[0][:1], 7, 1, rows[0][3])] if split == "val" else rows if split == "train" else []
        (root / fmow_s2.FOLDERS[split]).mkdir()
        (root / name).write_text("\n".join([",".join(head), *(",".join(map(str, row)) for row in mine)]))
        for category, place, image, _ in mine:
            folder = root / split / category / f"{category}_{place}"
            tif(
                folder / f"{category}_{place}_{image}.tif",
                RNG.integers(1, 4000, (13, 45, 60)).astype(np.uint16),
            )
    return {"airport_3": "airport", "airport_7": "airport"}


@writes("potsdam")
def potsdam_(root, benchmark):
    end = benchmark.reader.absent.__self__.end
    for tile in ("2_10", "7_13"):
        image = RNG.integers(0, 256, (4, 520, 600)).astype(np.uint8)
        colours = [(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)]
        label = np.zeros((3, 520, 600), np.uint8)
        for number, colour in enumerate(colours):
            label[:, :, number * 100 : (number + 1) * 100] = np.array(colour)[:, None, None]
        label[0, 0, 0] = 252  # as in one published mask
        tif(root / f"4_Ortho_RGBIR/top_potsdam_{tile}_RGBIR.tif", image, epsg=None)
        tif(root / f"5_Labels/top_potsdam_{tile}{end}", label, epsg=None)
    whole = np.repeat([0, 1, 2, 3, 4, IGNORED], 100)[None].repeat(520, 0)
    return {"-r00000-c00000": whole[:512, :512], "-r00008-c00088": whole[8:, 88:]}


@writes("loveda")
def loveda_(root, benchmark):
    codes = np.arange(8).repeat(128)[None].repeat(1024, 0)
    for split in ("Train", "Val"):
        for scene in ("Urban", "Rural"):
            (root / split / scene / "images_png").mkdir(parents=True)
            (root / split / scene / "masks_png").mkdir()
    for place in ("Train/Urban", "Val/Rural"):
        saved(root / place / "images_png/0.png", np.zeros((1024, 1024, 3)))
        saved(root / place / "masks_png/0.png", codes)
    wanted = np.array([255, 0, 1, 2, 3, 4, 5, 6]).repeat(128)[None].repeat(1024, 0)
    return {"urban-0": wanted, "rural-0": wanted}


@writes("isaid")
def isaid_(root, benchmark):
    colours = np.array(list(isaid.COLOURS.values()), np.uint8)
    wanted = {}
    for split, name, size in (("train", "P0000", (700, 900)), ("val", "P0003", (896, 896))):
        codes = np.arange(16).repeat(size[1] // 16 + 1)[: size[1]][None].repeat(size[0], 0)
        saved(root / split / "images" / f"{name}.png", np.zeros((*size, 3)))
        saved(root / split / "Semantic_masks/images" / f"{name}_instance_color_RGB.png", colours[codes])
        for column in (0, 4) if size[1] == 900 else (0,):
            padded = np.pad(codes, ((0, 896 - size[0]), (0, 0)), constant_values=IGNORED)
            wanted[f"{name}-r00000-c{column:05d}"] = padded[:, column : column + 896]
    return wanted


@writes("spacenet1")
def spacenet1(root, benchmark):
    """A building of 100 m by 50 m: ten by five pixels of 10 m, its corner 200 m east and 100 m south of the image's."""
    for number in (1, 2):
        tif(
            root / f"3band/3band_AOI_1_RIO_img{number}.tif",
            RNG.integers(0, 256, (3, 406, 439)).astype(np.uint8),
        )
        x, y = 500_200, 4_999_900
        ring = [[x, y], [x + 100, y], [x + 100, y - 50], [x, y - 50], [x, y]]
        shape = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
        crs = {"type": "name", "properties": {"name": "EPSG:32633"}}
        held = {"type": "FeatureCollection", "crs": crs, "features": [shape] if number == 1 else []}
        (root / "geojson").mkdir(exist_ok=True)
        (root / f"geojson/Geo_AOI_1_RIO_img{number}.geojson").write_text(json.dumps(held))
    whole = np.zeros((406, 439), np.uint8)
    whole[10:15, 20:30] = 1
    return {"img1-r00000-c00000": whole[:384, :384], "img2-r00022-c00055": np.zeros((384, 384))}


@writes("dynamicearthnet")
def dynamicearthnet(root, benchmark):
    cubes = ("1311_3077_13_10N", "2029_3764_13_15N")
    one_hot = np.zeros((7, 64, 64), np.uint8)
    for number in range(7):
        one_hot[number, :, number * 8 : number * 8 + 8] = 255
    rows = []
    for cube, split in zip(cubes, ("train", "val"), strict=True):
        paths = {
            "planet_path": f"/planet/10N/a/{cube}/PF-SR",
            "s1_path": f"/sentinel1/10N/{cube}/S1-2018-02.tif",
            "s2_path": f"/sentinel2/10N/{cube}/S2-2018-02.tif",
            "label_path": f"/labels/{cube}/Labels/Raster/10N-L3H-SR/10N-L3H-SR-2018_02_01.tif",
        }
        rows.append({"split": split, "year_month": "2018-02", **paths})
        tif(root / f"planet/10N/a/{cube}/PF-SR/2018-02-01.tif", np.full((4, 64, 64), 900, np.uint16))
        tif(root / paths["s1_path"][1:], np.full((2, 64, 64), -12.0, np.float32))
        tif(root / paths["s2_path"][1:], np.full((12, 64, 64), 800.0, np.float32))
        tif(root / paths["label_path"][1:], one_hot)
    (root / "split_info").mkdir()
    table(root / "split_info/splits.csv", rows)
    wanted = np.array([0, 1, 2, 3, 4, 5, 255, 255]).repeat(8)[None].repeat(64, 0)
    return dict.fromkeys(cubes, wanted)


def pair(folders, name, side, change, **options):
    for folder in folders[:2]:
        saved(folder / name, rgb(side), **options)
    saved(folders[2] / name, change, **options)


@writes("levir_cd")
def levir_cd(root, benchmark):
    side = benchmark.reader.chip
    change = np.zeros((2 * side, 2 * side))
    change[:100, :300] = 255
    for name in ("train_1.png", "test_2.png"):
        pair([root / one for one in ("A", "B", "label")], name, 2 * side, change)
    wanted = (change > 0).astype(int)
    return {
        "train_1-r00000-c00000": wanted[:side, :side],
        f"test_2-r00000-c{side:05d}": wanted[:side, side : 2 * side],
    }


@writes("levir_cd_samples")
def levir_cd_samples(root, benchmark):
    change = np.zeros((256, 256))
    change[:100, :30] = 255
    for name in ("train_1_0000_0256.png", "test_2_0000_0000.png"):
        pair([root / one for one in ("A", "B", "label")], name, 256, change)
    return {"train_1": change > 0, "test_2": change > 0}


@writes("cdd")
def cdd_(root, benchmark):
    change = np.zeros((256, 256))
    change[64:128, :64] = 255
    for split in ("train", "test"):
        pair(
            [root / "Real/subset" / split / one for one in ("A", "B", "OUT")],
            "00000.jpg",
            256,
            change,
            quality=80,
        )
    return {"train-00000": change > 0, "test-00000": change > 0}


@writes("whu_cd")
def whu(root, benchmark):
    change = np.zeros((1, 300, 512), np.uint8)
    change[:, 256:290, :256] = 255
    for name in ("before/before", "after/after"):
        tif(root / f"{name}.tif", RNG.integers(0, 256, (3, 300, 512)).astype(np.uint8), epsg=None)
    tif(root / "change label/change_label.tif", change, epsg=None)
    padded = np.pad((change[0] > 0).astype(int), ((0, 212), (0, 0)), constant_values=IGNORED)
    return {"-r00256-c00000": padded[256:, :256], "-r00000-c00256": padded[:256, 256:]}


@writes("oscd")
def oscd_(root, benchmark):
    wanted = np.zeros((100, 96), np.uint8)
    wanted[:8, :16] = 1
    for region, split in (("paris", "train"), ("dubai", "test")):
        for number in (1, 2):
            for band in S2_NAMES:
                tif(
                    root / oscd.IMAGES / region / f"imgs_{number}_rect/{band}.tif",
                    np.full((1, 100, 96), 700, np.uint16),
                )
        (root / oscd.IMAGES / region / "dates.txt").write_text("date_1: 20160614\ndate_2: 20180322\n")
        place = root / oscd.LABELS[split] / region / "cm"
        if split == "train":
            saved(place / "cm.png", wanted * 255)
        else:
            tif(place / f"{region}-cm.tif", wanted[None] + 1)
    return {"paris-r00000-c00000": wanted[:96], "dubai-r00004-c00000": wanted[4:]}


@writes("pastis")
def pastis_(root, benchmark):
    codes = np.arange(20, dtype=np.uint8).repeat(7)[:128][None].repeat(128, 0)
    features = []
    for number, fold in ((10000, 1), (10001, 5)):
        days = {"dates-S2": 3, "dates-S1A": 2, "dates-S1D": 1}
        told = {name: {str(n): 20180917 + n for n in range(count)} for name, count in days.items()}
        told |= {"ID_PATCH": number, "Fold": fold}
        ring = [[600_000, 6_600_000], [601_280, 6_600_000], [601_280, 6_601_280], [600_000, 6_600_000]]
        shape = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "properties": told, "geometry": shape})
        arrays = {
            f"DATA_S2/S2_{number}": RNG.integers(-5, 4000, (3, 10, 128, 128)).astype(np.int16),
            f"DATA_S1A/S1A_{number}": np.full((2, 3, 128, 128), -11.5, np.float16),
            f"DATA_S1D/S1D_{number}": np.full((1, 3, 128, 128), -9.5, np.float16),
            f"ANNOTATIONS/TARGET_{number}": np.stack([codes, codes, codes]),
        }
        for name, array in arrays.items():
            (root / name).parent.mkdir(exist_ok=True)
            np.save(root / f"{name}.npy", array)
    (root / "metadata.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    wanted = np.where(codes == 19, IGNORED, codes)
    return {"pastis-10000": wanted, "pastis-10001": wanted}


@writes("modis_sinop")
def modis_sinop(root, benchmark):
    rows = [
        {
            "longitude": -55.0,
            "latitude": -10.0,
            "label": "Forest",
            "dates": ["2013-09-14", "2013-10-16"],
            "ndvi": [0.25, 0.5],
        },
        {"longitude": -56.0, "latitude": -12.0, "label": "Pasture", "dates": ["2013-09-14"], "ndvi": [0.75]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), root / "samples_modis_ndvi.parquet")
    return {"0000": "Forest", "0001": "Pasture"}


@writes("worldcereal_crops")
def worldcereal(root, benchmark):
    rows = []
    for name in ("maize", "millet"):
        row = {
            "lon": 33.5,
            "lat": 4.8,
            "sampling_label": name,
            "start_date": "2016-12-01",
            "ref_id": "a survey",
        }
        for month in range(12):
            row |= {f"OPTICAL-{band}-ts{month}-10m": 900 for band in ("B02", "B03", "B04", "B08")}
            row |= {
                f"OPTICAL-{band}-ts{month}-20m": 65535 for band in ("B05", "B06", "B07", "B8A", "B11", "B12")
            }
            row |= {f"SAR-{band}-ts{month}-20m": 3577 for band in ("VV", "VH")}
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), root / "test_public_extractions.parquet")
    return {"0000": "maize", "0001": "other"}


@writes("kampala_buildings")
def kampala(root, benchmark):
    wanted = np.zeros((256, 256), np.uint8)
    wanted[:9] = 1
    names = {19: ("100-200", "101-200", "101-201"), 20: ("200-400", "203-403"), 21: ("400-800", "406-803")}
    for zoom, tiles in names.items():
        for tile in tiles:
            saved(root / "images" / f"OAM-{tile}-{zoom}.png", rgb(256))
            saved(root / "masks" / f"OAM-{tile}-{zoom}.png", wanted)
    return {names[benchmark.reader.zoom][0]: wanted, names[benchmark.reader.zoom][1]: wanted}


@writes("terramesh_landcover")
def terramesh(root, benchmark):
    codes = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9] * 4, np.uint8)[:32][None].repeat(32, 0)
    for cell in ("38D_378R_2_3", "433D_629L_3_1", "637U_59R_1_3"):
        tif(root / f"S2L2A/{cell}.tif", RNG.integers(1, 4000, (12, 32, 32)).astype(np.int16))
        tif(root / f"S1RTC/{cell}.tif", np.full((2, 32, 32), -12.0))
        tif(root / f"LULC/{cell}.tif", codes[None])
    table_ = np.array([255, 0, 1, 2, 3, 4, 5, 6, 255, 7])
    return {"tanzania": table_[codes], "denmark": table_[codes]}


@writes("slovenia_landcover")
def slovenia(root, benchmark):
    for name in benchmark.contained[:-1]:
        tif(root / name, np.full((13, 101, 101), 0.125, np.float32))
    codes = np.array([0, 1, 2, 3, 4, 8] * 17, np.uint16)[:101][None].repeat(101, 0)
    tif(root / "LULC.tif", codes[None])
    table_ = np.array([255, 0, 1, 2, 3, 0, 0, 0, 4])
    return {"-r00000-c00000": table_[codes[:32, :32]], "-r00064-c00069": table_[codes[64:96, 69:101]]}
