"""SkySense on real places: four archives, curated each as it is, joined to one corpus, and a short pretraining on it.

TerraMesh (three places, one date each), SSL4EO-S12 (two dates), TreeSatAI-TS (an aerial picture and a year of Sentinel-2
and Sentinel-1 over 60 m) and a WorldCereal cube (a year by months) share no layout, no date and no unit. Everything but the
unpacking of two of them is what a user's commands do: curate, join, verify, pretrain, report. --out is a root of runs: what
is sealed there is not made again, and `swath` finds it.

A place is 60 m, six pixels of Sentinel-2, because that is all TreeSatAI has; `--metres 320` leaves TreeSatAI out.
Neither Sentinel-2's band 8A (WorldCereal has none) nor a date is invented: TerraMesh tells no dates, nor does the aerial
picture, and such images are undated for the model as well.

    python tests/claims/skysense_samples.py ../shared/data --out runs [--metres 60] [--steps 160] [--batch 16]
"""

import argparse
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import rasterio
import torch
import torch.nn.functional as F
from affine import Affine
from rasterio.warp import transform_bounds
from torch import Tensor

from geodata import manifest, sampling
from geodata.build import build_shard, opened_landcover
from geodata.manifest import Corpus, open_corpus
from geodata.shards import read_table
from geodata.source import Address, Period
from geodata.spec import Area, ChipSpec, CorpusSpec, Quotas, SensorSpec, SplitSpec
from pipelines import artifacts, corpora
from pipelines.settings import Home, environment
from training import evaluate, looks, loop, multiview, probe
from training.feed import once
from training.methods import skysense
from training.recipe import Recipe, replace

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")
"""Of Sentinel-2, what all archives have."""
L2A = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
TREESAT_BANDS = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")
TERRAMESH = {
    "tanzania": ("38D_378R_2_3", "none"),
    "chile": ("433D_629L_3_1", "remove"),
    "denmark": ("637U_59R_1_3", "none"),
}
"""Place: its file, and whether Sentinel-2's 1,000 are still in it."""
STRATA = ("urban", "farmland", "forest", "grassland", "shrub", "desert", "wetland", "watershed")
EVER = "1990-01-01/2100-01-01"
RADAR_NONE = -32768.0

# ---- archives that no raster library can place: unpacked, pixel by pixel, with what their documents say


def unpacked_treesat(folder: Path, out: Path) -> Path:
    """TreeSatAI's series as GeoTIFFs, one an acquisition, called as their products are.

    The HDF5 says neither where its 6 x 6 pixels lie nor in which bands: they are put on the lattice of Sentinel-2 that is
    nearest to the aerial picture of the same 60 m, and so may lie up to 5 m off. Radar is linear power.
    """
    picture = next(folder.glob("*.tif"))
    with rasterio.open(picture) as file:
        corner = Affine(
            10, 0, math.floor(file.bounds.left / 10) * 10, 0, -10, round(file.bounds.top / 10) * 10
        )
    with h5py.File(picture.with_suffix(".h5")) as file:
        for part, group, names in (
            ("sen-2", "s2", TREESAT_BANDS),
            ("sen-1-asc", "s1", ("VV", "VH")),
            ("sen-1-des", "s1", ("VV", "VH")),
        ):
            products = [name.decode() for name in file[f"{part}-products"][:].ravel()]
            for product, pixels in zip(products, file[f"{part}-data"][:], strict=True):
                values = np.rint(pixels).astype(np.uint16) if group == "s2" else pixels
                written(out / group / f"{product}.tif", values, corner, 32632, names)
    return picture


def unpacked_worldcereal(path: Path, out: Path) -> None:
    """The months of WorldCereal's cube as GeoTIFFs.

    NetCDF 4 is HDF5. Its numbers are unsigned whatever their dtype says, 65535 is no data, and radar is stored as
    10 ** ((dB + 83) / 20).
    """
    with h5py.File(path) as file:
        x, y = file["x"][:], file["y"][:]
        corner = Affine(10, 0, x[0] - 5, 0, -10, y[0] + 5)
        days = np.datetime64("1990-01-01") + file["t"][:].astype("timedelta64[D]")
        cube = {name: file[name][:].view(np.uint16) for name in file if name.startswith(("S2-", "S1-"))}
    for month, day in enumerate(days):
        name = f"{str(day).replace('-', '')}.tif"
        s2 = np.stack([cube[f"S2-L2A-{band}"][month] for band in BANDS])
        written(out / "s2" / name, s2, corner, 32631, BANDS, nodata=65535)
        s1 = np.stack([cube[f"S1-SIGMA0-{band}"][month] for band in ("VV", "VH")])
        none = (s1 == 0) | (s1 == 65535)
        decibels = 20 * np.log10(np.where(none, 1, s1)) - 83
        written(
            out / "s1" / name,
            np.where(none, RADAR_NONE, decibels).astype(np.float32),
            corner,
            32631,
            ("VV", "VH"),
            nodata=RADAR_NONE,
        )


def written(
    path: Path,
    pixels: np.ndarray,
    transform: Affine,
    epsg: int,
    bands: Iterable[str],
    nodata: float | None = None,
) -> None:
    """Bands (C, H, W) as a GeoTIFF that names them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": count, "dtype": pixels.dtype}
    with rasterio.open(path, "w", **profile, crs=f"EPSG:{epsg}", transform=transform, nodata=nodata) as file:
        file.write(pixels)
        file.descriptions = tuple(bands)


# ---- what a curation is told of each archive


def specs(data: Path, unpacked: Path, metres: int) -> list[CorpusSpec]:
    """One corpus an archive, a TerraMesh place each; all of the same layers."""
    picture = unpacked_treesat(data / "treesatai_ts_sample", unpacked / "treesatai")
    unpacked_worldcereal(
        data / "worldcereal_s1_s2" / "worldcereal_preprocessed_inputs.nc", unpacked / "worldcereal"
    )
    found = [
        *terramesh(data, picture, metres),
        ssl4eo(data, picture, metres),
        worldcereal(data, unpacked, picture, metres),
    ]
    return found if metres > 60 else [*found, treesatai(data, unpacked, picture)]


def terramesh(data: Path, picture: Path, metres: int) -> Iterable[CorpusSpec]:
    folder = data / "terramesh_s1_s2_lulc"
    for place, (stem, offset) in TERRAMESH.items():
        files = {name: folder / name / f"{stem}.tif" for name in ("S2L2A", "S1RTC", "LULC")}
        common = {"pattern": "{place}.tif", "date": "unknown"}
        yield spec(
            f"terramesh_{place}",
            metres,
            area_of(files["S2L2A"], place, margin=30),
            Address(
                call="landcover.raster",
                options={"path": str(files["LULC"]), "table": "esri_nine", "nodata": 0},
            ),
            (
                aerial(picture),
                series(
                    "sentinel2", [str(files["S2L2A"])], common | {"layout": list(L2A), "offset": offset}, 1
                ),
                series(
                    "sentinel1",
                    [str(files["S1RTC"])],
                    common | {"unit": "dB", "layout": ["VV", "VH"], "properties": {"product": "gamma0_rtc"}},
                    1,
                ),
            ),
            60,
        )


def ssl4eo(data: Path, picture: Path, metres: int) -> CorpusSpec:
    folder = data / "ssl4eo_s12_0000200"
    s2 = {"pattern": "{date:%Y%m%dT%H%M%S}_{generated}_{tile}/{band}.tif"}
    s1 = {
        "pattern": "{platform}_IW_{product}_1SDV_{date:%Y%m%dT%H%M%S}_{stop}_{orbit}_{take}_{unique}/{band}.tif",
        "unit": "dB",
    }
    area = area_of(next(folder.glob("s2a/*/20200604*/B2.tif")), "punjab", margin=120, epsg=32643)
    sensors = (
        aerial(picture),
        series("sentinel2", str(folder / "s2a"), s2, 2),
        series("sentinel1", str(folder / "s1"), s1, 2),
    )
    return spec("ssl4eo_punjab", metres, area, globe(data), sensors, 200)


def worldcereal(data: Path, unpacked: Path, picture: Path, metres: int) -> CorpusSpec:
    folder = unpacked / "worldcereal"
    months = {"pattern": "{date:%Y%m%d}.tif"}
    area = area_of(next((folder / "s2").glob("*.tif")), "belgium")
    sensors = (
        aerial(picture),
        series("sentinel2", str(folder / "s2"), months, 12),
        series(
            "sentinel1", str(folder / "s1"), months | {"unit": "dB", "properties": {"product": "sigma0"}}, 12
        ),
    )
    return spec("worldcereal_belgium", metres, area, globe(data), sensors, 200)


def treesatai(data: Path, unpacked: Path, picture: Path) -> CorpusSpec:
    folder = unpacked / "treesatai"
    s2 = {"pattern": "{mission}_MSIL2A_{date:%Y%m%dT%H%M%S}_{baseline}_{orbit}_{tile}_{made}.tif"}
    s1 = {
        "pattern": "{platform}_IW_{product}_1SDV_{date:%Y%m%dT%H%M%S}_{stop}_{orbit}_{take}_{unique}.tif",
        "unit": "power",
    }
    area = area_of(next((folder / "s2").glob("*.tif")), "lower saxony")
    sensors = (
        aerial(picture, min_valid=0.9, min_dates=1),
        series("sentinel2", str(folder / "s2"), s2, 366),
        series("sentinel1", str(folder / "s1"), s1, 366),
    )
    return spec("treesatai_saxony", 60, area, globe(data), sensors, 1, split=SplitSpec(block_m=60.0))


def spec(
    name: str,
    metres: int,
    area: Area,
    cover: Address,
    sensors: tuple[SensorSpec, ...],
    each: int,
    *,
    split: SplitSpec | None = None,
) -> CorpusSpec:
    """Chips of the archive's ground, up to `each` of every stratum; a quarter of its blocks for validation."""
    return CorpusSpec(
        name=name,
        version=f"{metres}m",
        chip=ChipSpec(gsd=10.0, size=metres // 10, lattice=20.0),
        quotas=Quotas(fixed=dict.fromkeys(STRATA, each)),
        regions=area,
        landcover=cover,
        sensors=sensors,
        split=split or blocks(area, metres),
        tries=100,
    )


def blocks(area: Area, metres: int) -> SplitSpec:
    """Squares of ground, sixteen at least where chips are small; no view of one split touches the other's."""
    side = min(area.bounds[2] - area.bounds[0], area.bounds[3] - area.bounds[1])
    block = min(480.0, side // 4) if metres == 60 else (2.0 if side > 2000 else 1.0) * metres
    return SplitSpec(
        block_m=block,
        guard_m=60.0 if metres == 60 else 0.0,
        fractions={"train": 0.75, "val": 0.25},
        assign="balanced",
    )


def series(sensor: str, root: str | list[str], options: Mapping[str, Any], dates: int) -> SensorSpec:
    """All the dates there are, clouds and all."""
    bands = BANDS if sensor == "sentinel2" else ()
    told = {"root": root, "sensor": sensor, "bands": list(bands)} | options
    return SensorSpec(
        sensor=sensor,
        source=Address(call="sources.geotiff.files", options=told),
        bands=bands,
        period=Period.from_text(EVER),
        dates=dates,
        select="all",
        max_cloud=1.0,
    )


def aerial(picture: Path, min_valid: float = 1.0, min_dates: int = 0) -> SensorSpec:
    """The one high-resolution picture there is, of TreeSatAI's place; elsewhere a search finds none.

    Its bands are near infrared, green, blue and red: the first is brightest over trees, crowns are green and shadows blue
    in this order and in no other. Nobody tells its date.
    """
    told = {"root": [str(picture)], "sensor": "optical", "pattern": "{place}.tif", "date": "unknown"}
    return SensorSpec(
        sensor="optical",
        source=Address(call="sources.geotiff.files", options=told | {"layout": ["", "G", "B", "R"]}),
        gsd=0.3125,
        period=Period.from_text(EVER),
        min_dates=min_dates,
        min_valid=min_valid,
    )


def globe(data: Path) -> Address:
    """Land cover of 1/3 degree: one stratum for the whole of a small archive."""
    path = data / "landcover_glcnmo2008_third_degree" / "cover.tif"
    return Address(call="landcover.raster", options={"path": str(path), "table": "glcnmo_2008", "nodata": 0})


def area_of(path: Path, name: str, margin: float = 0.0, epsg: int | None = None) -> Area:
    """The ground of a raster file less a margin in metres, in its own zone or in another CRS's."""
    with rasterio.open(path) as file:
        own = file.crs.to_epsg()
        left, bottom, right, top = (
            file.bounds if epsg is None else transform_bounds(file.crs, f"EPSG:{epsg}", *file.bounds)
        )
    bounds = left + margin, bottom + margin, right - margin, top - margin
    return Area(name=name, bounds=bounds, epsg=epsg or own)


# ---- a run


def recipe(out: Path, metres: int, steps: int, batch: int) -> Path:
    """What differs from `skysense.tiny`: nine bands; views of 4 cells, for a place has 6, and no small ones; few dates; and
    what suits a run of a few hundred steps."""
    encoder: dict[str, Any] = {"s2": {"inputs": {"bands": list(BANDS)}}, "hr": {"image": 128}}
    views = {"cells": 4, "local": 128, "s2_dates": 6, "s1_dates": 4, "places": {"count": 0}}
    layers = ["hr", "s2", "s1"]
    if metres > 60:  # nobody has a picture
        encoder |= {"hr": None, "inputs": {"layer": "s2", "bands": list(BANDS), "mean": [], "std": []}}
        layers = layers[1:]
    teaching = {"momentum": 0.97, "warming": 0.3}
    told = {
        "name": "skysense.tiny",
        "method": {"encoder": encoder, "views": views, "teaching": teaching, "still": 0.0},
        "streams": {"scenes": {"corpus": f"samples@{metres}m", "layers": layers, "partial": True}},
        "batch": batch,
        "steps": steps,
        "optim": {"lr_per_256": 6e-4, "batch_power": 0.0},
        "log_every": 5,
        "validate_every": max(1, steps // 4),
        "checkpoint_every": max(1, steps // 10),
    }
    path = out / f"skysense_samples_{metres}m.json"
    path.write_text(json.dumps(told, indent=1))
    return path


def curated(home: Home, spec: CorpusSpec) -> Path:
    """The sealed corpus of an archive, built in this process: two shards each want no engine."""
    artifact = corpora.wanted(spec, home)
    if corpora.sealed(artifact) is None:
        chips = sampling.plan(spec, opened_landcover(spec.landcover))
        records = tuple(build_shard(shard, spec, artifact.path) for shard in chips.shards(spec.shard_rows))
        chips.write(artifact.path)
        resolved = json.loads(spec.model_dump_json())
        summary = chips.summary() | {"chips_planned": len(chips), "rounds": chips.rounds}
        made = Corpus(artifact.path, spec.name, spec.version, spec.fingerprint, resolved, records, summary)
        manifest.seal(made)
        artifacts.seal(artifact)
    return artifact.path


def joined(home: Home, specs: Iterable[CorpusSpec], metres: int) -> Corpus:
    """Every archive curated, and the corpus that is joined of them, checked byte by byte."""
    from pipelines import join

    parts = [str(curated(home, spec)) for spec in specs]
    join.join("samples", parts, str(home.root), f"{metres}m")
    corpus = open_corpus(home.place("corpus", "samples", f"{metres}m"))
    wrong = corpora.verify(corpus)
    assert not wrong, wrong
    return corpus


def trained(home: Home, recipe: Path) -> Path:
    """The folder of the run of a recipe's file, in this process, and its page."""
    from pipelines import pretrain, report

    wanted = pretrain.request(str(recipe), (), home)
    folder = wanted.artifact.path
    if artifacts.standing(wanted.artifact) is None:
        artifacts.claim(wanted.artifact)
        loop.train(wanted.recipe, folder)
        looks.draw(folder)
        artifacts.seal(wanted.artifact)
    report.write(folder)
    return folder


# ---- what was learnt


@torch.no_grad()
def looked_at(method: skysense.SkySense, recipe: Recipe, split: str) -> dict[str, Any]:
    """Of every place of a split: its id, its mean fused cell, and each sensor's row in the space of alignment.

    By Sentinel-2 and Sentinel-1, which all places have; the picture that one of them has is not looked at.
    """
    method.eval()
    reads = {name: inputs for name, inputs in method.spec.encoder.reads.items() if name != "hr"}
    found: dict[str, list[Tensor]] = {}
    ids: list[str] = []
    stream = replace(recipe.streams["scenes"], split=split, layers=tuple(reads))
    for batch in once(stream, 32):
        region = None if method.encoder.places is None else method.encoder.places.region(batch.lonlat)
        seen = multiview.sights(batch, reads, method.spec.views, region, fixed=True).large
        first = slice(0, len(batch))  # the larger of the two central views
        found.setdefault("fused", []).append(method.teacher.module(seen)["fused"][first].mean((1, 2)))
        mine = method.student(seen)
        for name in reads:
            rows = F.normalize(method.projections[name](mine[name].mean((1, 2))), dim=-1)
            found.setdefault(name, []).append(rows[first])
        ids += batch.ids
    return {name: torch.cat(parts) for name, parts in found.items()} | {"ids": ids}


def known(corpus: Corpus) -> dict[str, tuple[str, str]]:
    """Sample id -> the archive it came from, and its stratum."""
    archives = {}
    for part in corpus.spec["parts"]:
        spec_ = CorpusSpec.model_validate_json(json.dumps(open_corpus(part["root"]).spec))
        archives[spec_.place_id] = spec_.name
    found = {}
    for unit in corpus.units():
        table = read_table(unit.path, unit.row_group, ["sample_id", "stratum"], unit.footer_sha256)
        for name, stratum in zip(
            *(table[column].to_pylist() for column in ("sample_id", "stratum")), strict=True
        ):
            found[name] = archives[name.split("-")[0]], stratum
    return found


def judged(
    method: skysense.SkySense, recipe: Recipe, names: Mapping[str, tuple[str, str]]
) -> dict[str, float]:
    """Recalls between Sentinel-2 and Sentinel-1 on places not trained on, and what neighbours say of fused features."""
    train, held = (looked_at(method, recipe, split) for split in ("train", "val"))
    found: dict[str, float] = {}
    likeness, order = held["s2"] @ held["s1"].T, torch.arange(len(held["ids"]))
    found["recall s2 to s1"] = float((likeness.argmax(1) == order).float().mean())
    found["recall s1 to s2"] = float((likeness.argmax(0) == order).float().mean())
    found["chance of recall"] = 1 / len(order)
    inside = [names[one][0] for one in held["ids"]]
    same = torch.tensor([[one == other for other in inside] for one in inside])
    near = likeness.masked_fill(~same, -2.0).argmax(1)
    found["recall within the archive"] = float((near == order).float().mean())
    found["chance within the archive"] = float((1 / same.sum(1)).mean())
    classes = sorted({told[0] for told in names.values()})
    labels = [torch.tensor([classes.index(names[one][0]) for one in part["ids"]]) for part in (train, held)]
    found["archive by neighbours"] = probe.knn((train["fused"], labels[0]), (held["fused"], labels[1]))
    found["commonest archive"] = float((labels[1] == labels[0].mode().values).float().mean())
    return found | within_archives(train, held, names)


def within_archives(
    train: Mapping[str, Any], held: Mapping[str, Any], names: Mapping[str, tuple[str, str]]
) -> dict[str, float]:
    """Strata named by neighbours of the same archive, of archives that have several: what an archive's look cannot tell."""
    right = common = count = 0.0
    for archive in sorted({told[0] for told in names.values()}):
        rows = [
            [place for place, one in enumerate(part["ids"]) if names[one][0] == archive]
            for part in (train, held)
        ]
        strata = sorted(
            {
                names[part["ids"][row]][1]
                for part, some in zip((train, held), rows, strict=True)
                for row in some
            }
        )
        if len(strata) < 2 or not rows[1]:
            continue
        labels = [
            torch.tensor([strata.index(names[part["ids"][row]][1]) for row in some])
            for part, some in zip((train, held), rows, strict=True)
        ]
        share = probe.knn((train["fused"][rows[0]], labels[0]), (held["fused"][rows[1]], labels[1]))
        right, count = right + share * len(rows[1]), count + len(rows[1])
        common += float((labels[1] == labels[0].mode().values).sum())
    return {
        "stratum by neighbours within the archive": right / count,
        "commonest stratum within the archive": common / count,
    }


def told(corpus: Corpus, names: Mapping[str, tuple[str, str]]) -> None:
    """What each archive gave."""
    print(
        "| archive | train | val | refused | strata | dates of s2 | dates of s1 | hr |\n" + "|---" * 8 + "|"
    )
    for part in corpus.spec["parts"]:
        one = open_corpus(part["root"])
        counts = one.counts()
        strata = Counter(stratum for archive, stratum in names.values() if archive == one.name)
        dates = [" ".join(sorted(counts.get(f"dates_{name}", {"none": 0}))) for name in ("s2", "s1")]
        seen = sum("hr" in sample["layers"] for sample in one.samples())
        splits = [counts["split"].get(name, 0) for name in ("train", "val")]
        cells = [one.name, *splits, sum(one.rejected.values()), dict(strata), *dates, seen]
        print("| " + " | ".join(map(str, cells)) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--metres", type=int, choices=(60, 320), default=60)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--batch", type=int, default=16)
    given = parser.parse_args()
    home = Home.at(given.out)
    folder = home.root / "specs"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = specs(given.data.resolve(), home.root / "unpacked", given.metres)
    environment(home)
    corpus = joined(home, wanted, given.metres)
    names = known(corpus)
    told(corpus, names)
    folder = trained(home, recipe(folder, given.metres, given.steps, given.batch))
    done, method = evaluate.restore(folder)
    assert isinstance(method, skysense.SkySense) and isinstance(done.method, skysense.Spec)
    torch.manual_seed(done.seed)
    arms = {"untrained": skysense.build(done.method), "pretrained": method}
    scores = {arm: judged(one, done, names) for arm, one in arms.items()}
    print("\n| | " + " | ".join(scores) + " |\n" + "|---" * (len(scores) + 1) + "|")
    for name in scores["pretrained"]:
        print(f"| {name} | " + " | ".join(f"{one[name]:.3f}" for one in scores.values()) + " |")
    (folder / "samples.json").write_text(json.dumps(scores, indent=1))


if __name__ == "__main__":
    os.nice(5)
    torch.set_num_threads(1)
    main()
