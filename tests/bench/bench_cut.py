"""What it costs to cut chips out of scenes: ours beside plain rasterio and odc-stac, same chips, same pixels, one run.

The input is invented: cells of 20.48 km, each seen on six dates in twelve Sentinel-2 bands, one file a band and date
(512 px blocks, DEFLATE, predictor 2), smooth texture with noise. A chip is 6 dates x 12 bands x 64 x 64 at 10 m:
72 windows. Every cutter runs in a process of its own, checks all its pixels against slices of whole decoded bands,
and is judged by *CPU* seconds (best of `--repeats`, caches emptied before each), which other people on the machine
do not change much. `limit` decodes every band once and slices: nobody can cut many chips for less.

    make bench                                               with odc-stac, in the environment of peers.txt
    .venv/bin/python tests/bench/bench_cut.py --dense 100
    .venv/bin/python tests/bench/bench_cut.py --memory 5000  resident memory while one process builds so many chips
    .venv/bin/python tests/bench/bench_cut.py --scale        chips a second with one Ray worker and with two
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GDAL_NUM_THREADS", "1")

import numpy as np
import rasterio
import rasterio.warp
from affine import Affine
from numpy.typing import NDArray

EPSG, LEFT, TOP = 32633, 600000.0, 5300040.0
DAYS = ("20200115", "20200315", "20200515", "20200715", "20200915", "20201115")
GSDS = {
    **dict.fromkeys(("B02", "B03", "B04", "B08"), 10),
    **dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 20),
    **dict.fromkeys(("B01", "B09"), 60),
}
BANDS = tuple(sorted(GSDS, key=lambda name: name.replace("8A", "08z")))
SIDE, CHIP = 2048, 64
CELL_M = 20_520.0  # from one cell's corner to the next: a whole number of 60 m
DENSE_AIM, SPARSE_AIM, ODC_AIM = 1.5, 1.1, 0.7
HERE = Path(__file__).resolve()
PEERS_PYTHON = HERE.parents[2] / ".venv-bench" / "bin" / "python"

Cube = NDArray[np.uint16]
Corner = tuple[int, int, int]  # cell, row and column of a chip's corner, in 10 m pixels of the cell


def texture(rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    """(side, side): coarse noise drawn large and made smooth; what fields and forests look like to a compressor."""
    field = rng.standard_normal((side // 8 + 1, side // 8 + 1), np.float32).repeat(8, 0).repeat(8, 1)
    for _ in range(6):
        field = (field + sum(np.roll(field, by, axis) for by in (-1, 1) for axis in (0, 1))) / 5
    return field[:side, :side]


def write_cells(folder: Path, cells: int, side: int = SIDE) -> None:
    """72 files for each cell, `T33C00_20200115_B02.tif` and so on, and one land-cover map below all cells."""
    rng = np.random.default_rng(0)
    for cell in range(cells):
        scene = texture(rng, side) * 900 + 2500
        for day in DAYS:
            for band in BANDS:
                step = GSDS[band] // 10
                pixels = scene[::step, ::step] * rng.uniform(0.6, 1.2)
                pixels += rng.standard_normal(pixels.shape, np.float32) * 25
                write_band(
                    folder / "scenes" / f"T33C{cell:02d}_{day}_{band}.tif",
                    np.clip(pixels, 1, 10_000).astype(np.uint16),
                    GSDS[band],
                    LEFT + cell * CELL_M,
                )
    wide = int((cells - 1) * CELL_M / 60) + side * 10 // 60 + 1
    write_band(folder / "cover.tif", np.full((side * 10 // 60 + 1, wide), 2, np.uint8), 60, LEFT)


def write_band(path: Path, pixels: NDArray[Any], gsd: float, left: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=pixels.shape[0],
        width=pixels.shape[1],
        dtype=pixels.dtype,
        crs=f"EPSG:{EPSG}",
        transform=Affine(gsd, 0, left, 0, -gsd, TOP),
        tiled=True,
        blockxsize=512,
        blockysize=512,
        compress="deflate",
        predictor=2,
        num_threads=2,
    ) as file:
        file.write(pixels, 1)


def spec_of(folder: Path, cells: int, chips: int, side: int = SIDE, rows: int = 64) -> Any:
    """A corpus of `chips` chips at random sites of every cell's scenes; chips may overlap, as in a dense corpus."""
    from geodata.corpus import CorpusSpec

    wide = (cells - 1) * CELL_M + side * 10
    return CorpusSpec.model_validate(
        {
            "name": "cut",
            "chip": {"gsd": 10.0, "size": CHIP, "spacing_m": 120.0},
            "quotas": {"fixed": {"forest": chips}},
            "regions": {
                "kind": "area",
                "name": "cells",
                "bounds": [LEFT, TOP - side * 10, LEFT + wide, TOP],
                "epsg": EPSG,
            },
            "landcover": {
                "call": "landcover.raster",
                "options": {"path": str(folder / "cover.tif"), "table": "esri_2020"},
            },
            "sensors": [
                {
                    "sensor": "sentinel2_l2a",
                    "source": {
                        "call": "sources.geotiff.files",
                        "options": {
                            "root": str(folder / "scenes"),
                            "sensor": "sentinel2_l2a",
                            "pattern": "{tile}_{date:%Y%m%d}_{band}.tif",
                        },
                    },
                    "period": "2020-01-01/2021-01-01",
                    "dates": 6,
                    "min_dates": 6,
                    "select": "all",
                }
            ],
            "shard_rows": rows,
        },
        strict=False,
    )


def planned(folder: Path, cells: int, chips: int, side: int = SIDE) -> tuple[Any, list[Any]]:
    """The spec and its shard plans, in the order in which they are built; chips that leave their cell are left out."""
    from geodata import sampling
    from geodata.chips import ShardPlan

    spec = spec_of(folder, cells, chips, side)
    plan = sampling.plan(spec, spec.landcover.open())
    kept = []
    for shard in plan.shards(spec.shard_rows):
        inside = tuple(chip for chip in shard.chips if whole_chip(corner(chip.grid), side))
        kept += [ShardPlan(shard.name, inside)] if inside else []
    return spec, kept


def corner(grid: Any) -> Corner:
    x, y = grid.origin
    cell = int((x - LEFT) // CELL_M)
    return cell, round((TOP - y) / 10), round((x - LEFT - cell * CELL_M) / 10)


def whole_chip(place: Corner, side: int = SIDE) -> bool:
    return place[1] + CHIP <= side and place[2] + CHIP <= side


# Cutters: corners in, (chips, dates, bands, rows, columns) out


def part(pixels: Cube, step: int, row: int, col: int) -> Cube:
    """The chip out of pixels that begin at the band's (row // step, col // step): each repeated, then cut at 10 m."""
    if step == 1:
        return pixels
    top, left = row % step, col % step
    return pixels.repeat(step, 0).repeat(step, 1)[top : top + CHIP, left : left + CHIP]


def window(step: int, row: int, col: int) -> tuple[int, int, int, int]:
    """Rows and columns of a band that a chip touches: first row, first column, end of both."""
    return row // step, col // step, -(-(row + CHIP) // step), -(-(col + CHIP) // step)


def band_path(folder: Path, cell: int, day: str, band: str) -> str:
    return str(folder / "scenes" / f"T33C{cell:02d}_{day}_{band}.tif")


def limit(folder: Path, corners: Sequence[Corner], out: Cube) -> None:
    for cell in sorted({place[0] for place in corners}):
        mine = [(number, row, col) for number, (home, row, col) in enumerate(corners) if home == cell]
        for t, day in enumerate(DAYS):
            for c, band in enumerate(BANDS):
                with rasterio.open(band_path(folder, cell, day, band)) as file:
                    whole = file.read(1)
                step = GSDS[band] // 10
                for number, row, col in mine:
                    top, left, bottom, right = window(step, row, col)
                    out[number, t, c] = part(whole[top:bottom, left:right], step, row, col)


def plain(folder: Path, corners: Sequence[Corner], out: Cube) -> None:
    for number, (cell, row, col) in enumerate(corners):
        for t, day in enumerate(DAYS):
            for c, band in enumerate(BANDS):
                step = GSDS[band] // 10
                top, left, bottom, right = window(step, row, col)
                with rasterio.open(band_path(folder, cell, day, band)) as file:
                    pixels = file.read(1, window=((top, bottom), (left, right)))
                out[number, t, c] = part(pixels, step, row, col)


def kept_open(folder: Path, corners: Sequence[Corner], out: Cube) -> None:
    files: dict[str, Any] = {}
    for number, (cell, row, col) in enumerate(corners):
        for t, day in enumerate(DAYS):
            for c, band in enumerate(BANDS):
                path = band_path(folder, cell, day, band)
                file = files.get(path) or files.setdefault(path, rasterio.open(path))
                step = GSDS[band] // 10
                top, left, bottom, right = window(step, row, col)
                pixels = file.read(1, window=((top, bottom), (left, right)))
                out[number, t, c] = part(pixels, step, row, col)
    for file in files.values():
        file.close()


def items(folder: Path, cells: Sequence[int]) -> list[Any]:
    import datetime

    import pystac

    found = []
    for cell in cells:
        for day in DAYS:
            when = datetime.datetime.strptime(day, "%Y%m%d").replace(tzinfo=datetime.UTC)
            item = pystac.Item(f"C{cell:02d}-{day}", None, None, when, {"proj:code": f"EPSG:{EPSG}"})
            item.stac_extensions.append("https://stac-extensions.github.io/projection/v2.0.0/schema.json")
            for band in BANDS:
                path = band_path(folder, cell, day, band)
                with rasterio.open(path) as file:
                    fields = {
                        "proj:epsg": EPSG,
                        "proj:code": f"EPSG:{EPSG}",
                        "proj:shape": list(file.shape),
                        "proj:transform": list(file.transform)[:6],
                    }
                    bounds = rasterio.warp.transform_bounds(file.crs, "EPSG:4326", *file.bounds)
                item.add_asset(band, pystac.Asset(path, media_type=pystac.MediaType.COG, extra_fields=fields))
            item.bbox = list(bounds)
            west, south, east, north = bounds
            ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
            item.geometry = {"type": "Polygon", "coordinates": [ring]}
            found.append(item)
    return found


def odc(folder: Path, corners: Sequence[Corner], out: Cube, *, whole: bool, known: dict[int, Any]) -> None:
    """odc.stac.load, nearest, on the chip's own grid, or once on the whole cell. The catalogue is not in the clock."""
    import odc.stac
    from odc.geo.geobox import GeoBox

    def load(cell: int, row: int, col: int, side: int) -> Cube:
        at = Affine(10, 0, LEFT + cell * CELL_M + col * 10, 0, -10, TOP - row * 10)
        box = GeoBox((side, side), at, f"EPSG:{EPSG}")
        data = odc.stac.load(known[cell], bands=list(BANDS), geobox=box, resampling="nearest")
        return np.stack([data[band].values for band in BANDS], axis=1)

    if not whole:
        for number, place in enumerate(corners):
            out[number] = load(*place, CHIP)
        return
    for cell in sorted({place[0] for place in corners}):
        cube = load(cell, 0, 0, SIDE)
        for number, (home, row, col) in enumerate(corners):
            if home == cell:
                out[number] = cube[:, :, row : row + CHIP, col : col + CHIP]


def source_reads(spec: Any, shards: Sequence[Any], out: Cube) -> None:
    """Ours, reading alone: search and read, chip by chip in the order of the plan."""
    from geodata.build import opened_source

    spec_part = spec.sensors[0]
    source, number = opened_source(spec_part.source), 0
    for shard in shards:
        for chip in shard.chips:
            for t, scene in enumerate(source.search(chip.grid, spec_part.period)):
                out[number, t] = source.read(scene, chip.grid).values
            number += 1


def composed(spec: Any, shards: Sequence[Any], out: Cube) -> None:
    """Ours up to samples: read, check, prove."""
    from geodata.build import opened_source
    from geodata.compose import compose

    sources = {spec.sensors[0].sensor: opened_source(spec.sensors[0].source)}
    chips = [chip for shard in shards for chip in shard.chips]
    for number, chip in enumerate(chips):
        out[number] = compose(chip, spec, sources).layers["s2"].pixels


def built(spec: Any, shards: Sequence[Any], out: Cube) -> None:
    """Ours to the end: sealed shards. Reading them back for the comparison is not in the clock."""
    from geodata.build import build_shard

    with tempfile.TemporaryDirectory(prefix="swath-cut-") as name:
        for shard in shards:
            build_shard(shard, spec, Path(name))
        with paused():
            fill_from_shards(Path(name), shards, out)


def fill_from_shards(root: Path, shards: Sequence[Any], out: Cube) -> None:
    from geodata.shards import read_samples, shard_path

    number = 0
    for shard in shards:
        found = {sample.sample_id: sample for sample in read_samples(shard_path(root, shard.name))}
        for chip in shard.chips:
            out[number] = found[chip.chip_id].layers["s2"].pixels
            number += 1


_PAUSED = [0.0]


class paused:  # noqa: N801
    """CPU time that does not count."""

    def __enter__(self) -> None:
        self.began = time.process_time()

    def __exit__(self, *_: object) -> None:
        _PAUSED[0] += time.process_time() - self.began


@dataclass(frozen=True)
class Row:
    """One cutter on one set of chips; `cpu_s` over all chips, `peak_mb` of its whole process."""

    cutter: str
    chips: int
    cpu_s: float
    wall_s: float
    peak_mb: float


OURS = {"swath, reading": source_reads, "swath, composing": composed, "swath, sealed shards": built}
PEERS = ("odc.stac.load, cell once", "odc.stac.load, chip by chip")


def run_one(cutter: str, folder: Path, cells: int, chips: int, repeats: int) -> Row:
    """One cutter, in this process, checked against `expected.npy` of the same chips."""
    expected = np.load(folder / f"expected-{cells}-{chips}.npy", mmap_mode="r")
    corners = [tuple(place) for place in json.loads((folder / f"corners-{cells}-{chips}.json").read_text())]
    out = np.empty(expected.shape, np.uint16)
    work: Callable[[], None]
    forget: Callable[[], None] = lambda: None  # noqa: E731
    if cutter in OURS:
        from geodata.sources import cog

        spec, shards = pickle.loads((folder / f"shards-{cells}-{chips}.pickle").read_bytes())
        work, forget = functools.partial(OURS[cutter], spec, shards, out), cog.forget
    elif cutter in PEERS:
        known = {cell: items(folder, [cell]) for cell in sorted({place[0] for place in corners})}
        work = functools.partial(odc, folder, corners, out, whole=cutter == PEERS[0], known=known)
    else:
        cutters = {"limit": limit, "rasterio, opened per chip": plain, "rasterio, kept open": kept_open}
        work = functools.partial(cutters[cutter], folder, corners, out)
    best, wall = float("inf"), float("inf")
    for _ in range(repeats):
        out[:] = 0
        forget()
        _PAUSED[0] = 0.0
        cpu, began = time.process_time(), time.monotonic()
        work()
        best = min(best, time.process_time() - cpu - _PAUSED[0])
        wall = min(wall, time.monotonic() - began)
        if not np.array_equal(out, expected):
            raise ValueError(f"{cutter} cut other pixels than the bands hold; its speed means nothing")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Row(cutter, len(corners), best, wall, peak)


def in_its_own_process(cutter: str, folder: Path, cells: int, chips: int, repeats: int) -> Row | None:
    python = PEERS_PYTHON if cutter in PEERS else Path(sys.executable)
    if not python.exists():
        print(f"({cutter}: not here; `make bench` installs it in .venv-bench)", file=sys.stderr)
        return None
    done = subprocess.run(
        [str(python), str(HERE), "--one", cutter, str(folder), str(cells), str(chips), str(repeats)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"({cutter} failed: {done.stderr.strip().splitlines()[-1:]})", file=sys.stderr)
        if cutter not in PEERS:
            raise SystemExit(1)
        return None
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def prepared(folder: Path, cells: int, chips: int) -> None:
    """The chips of a plan and their pixels, by slices of whole bands."""
    spec, shards = planned(folder, cells, chips)
    (folder / f"shards-{cells}-{chips}.pickle").write_bytes(pickle.dumps((spec, shards)))
    corners = [corner(chip.grid) for shard in shards for chip in shard.chips]
    out = np.zeros((len(corners), len(DAYS), len(BANDS), CHIP, CHIP), np.uint16)
    limit(folder, corners, out)
    np.save(folder / f"expected-{cells}-{chips}.npy", out)
    (folder / f"corners-{cells}-{chips}.json").write_text(json.dumps(corners))


def compared(
    title: str, folder: Path, cells: int, chips: int, cutters: Sequence[str], repeats: int
) -> dict[str, Row]:
    prepared(folder, cells, chips)
    rows: dict[str, Row] = {}
    for cutter in cutters:
        row = in_its_own_process(cutter, folder, cells, chips, repeats)
        if row is not None:
            rows[cutter] = row
    count = next(iter(rows.values())).chips
    print(f"\n{title}: {count} chips in {cells} cell(s), {count / cells:.1f} chips a scene, all pixels equal")
    print(
        f"{'cutter':30s} {'CPU ms/chip':>12s} {'wall ms/chip':>13s} {'of limit':>9s} {'of plain':>9s} {'peak MB':>8s}"
    )
    base, floor = rows.get("limit"), rows.get("rasterio, opened per chip")
    for row in rows.values():
        of_limit = f"{row.cpu_s / base.cpu_s:.2f}" if base else ""
        of_plain = f"{row.cpu_s / floor.cpu_s:.2f}" if floor else ""
        print(
            f"{row.cutter:30s} {1000 * row.cpu_s / count:12.1f} {1000 * row.wall_s / count:13.1f} "
            f"{of_limit:>9s} {of_plain:>9s} {row.peak_mb:8.0f}"
        )
    return rows


def judged(rows: dict[str, Row], against: str, aim: float) -> str:
    ours = rows["swath, reading"]
    if against not in rows:
        return f"{against}: not measured"
    ratio = ours.cpu_s / rows[against].cpu_s
    return f"reading takes {ratio:.2f} of the CPU of {against} (aim: at most {aim:g}{'' if ratio <= aim else ', MISSED'})"


def resident_mb() -> float:
    """Memory this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def memory(folder: Path, chips: int) -> None:
    """One process builds shards, which are removed at once, and says what it holds five times on the way."""
    from geodata.build import build_shard
    from geodata.shards import shard_path
    from geodata.sources import cog

    spec, shards = planned(folder, 1, chips)
    began, done, step = resident_mb(), 0, max(1, chips // 5)
    print(f"{began:6.0f} MB before the first of {sum(len(shard.chips) for shard in shards)} chips")
    with tempfile.TemporaryDirectory(prefix="swath-cut-") as name:
        for shard in shards:
            build_shard(shard, spec, Path(name))
            shard_path(Path(name), shard.name).unlink()
            if (done + len(shard.chips)) // step > done // step:
                blocks = cog.kept_bytes() / 1e6
                print(
                    f"{resident_mb():6.0f} MB after {done + len(shard.chips)} chips, {blocks:.0f} MB of it decoded "
                    f"blocks (at most {cog.BYTES / 1e6:.0f})"
                )
            done += len(shard.chips)


def scaling(folder: Path) -> None:
    """The same corpora curated by one Ray worker and by two: chips a second between the first shard and the last."""
    files = folder / "spec.json"
    files.write_text(spec_of(folder, 1, 400, rows=16).model_dump_json())
    corpora = {"files": (str(files),), "synthetic": ("smoke", "quotas.count=192", "shard_rows=8", "rounds=1")}
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} before")
    for name, asked in corpora.items():
        pace: dict[int, float] = {}
        for workers in (1, 2):
            with tempfile.TemporaryDirectory(prefix="swath-scale-") as root:
                command = [sys.executable, "-m", "pipelines.cli", "curate", *asked]
                subprocess.run(
                    [*command, "--workers", str(workers), "--root", root],
                    cwd=HERE.parents[2],
                    capture_output=True,
                    check=True,
                )
                lines = next(Path(root).glob("corpora/*/metrics.jsonl")).read_text().splitlines()
            told = [json.loads(line) for line in lines]
            chips = [row["rows"] + row["rejected"] for row in told]
            pace[workers] = (chips[-1] - chips[0]) / (told[-1]["time"] - told[0]["time"])
            print(
                f"{name}: {workers} worker(s) {pace[workers]:.1f} chips a second, {chips[-1]} chips in all, "
                f"load {os.getloadavg()[0]:.1f}"
            )
        print(f"{name}: two workers are {pace[2] / pace[1]:.2f} times as fast as one")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dense", type=int, nargs="*", default=[20, 200], help="chips in one cell")
    parser.add_argument("--sparse", type=int, default=2, help="chips a cell, in three cells")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=int, metavar="CHIPS", help="only say what memory so many chips take")
    parser.add_argument("--scale", action="store_true", help="only compare one Ray worker with two")
    parser.add_argument("--folder", type=Path, help="keep the files here and use those that are there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swath-bench-") as name:
        folder = options.folder or Path(name)
        if not (folder / "cover.tif").exists():
            write_cells(folder, 1 if options.memory or options.scale else 3)
        if options.memory or options.scale:
            memory(folder, options.memory) if options.memory else scaling(folder)
            return 0
        lines = []
        many = ["limit", "rasterio, kept open", *OURS, PEERS[0]]
        for chips in options.dense:
            rows = compared("dense", folder, 1, chips, many, options.repeats)
            lines += [f"dense, {chips} chips a scene: {judged(rows, 'limit', DENSE_AIM)}"]
        few = ["limit", "rasterio, opened per chip", *OURS, PEERS[1]]
        if options.sparse:
            rows = compared("sparse", folder, 3, 3 * options.sparse, few, options.repeats)
            lines += [
                f"sparse: {judged(rows, few[1], SPARSE_AIM)}",
                f"sparse: {judged(rows, PEERS[1], ODC_AIM)}",
            ]
    print()
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        cutter, where, *numbers = sys.argv[2:]
        print(json.dumps(vars(run_one(cutter, Path(where), *map(int, numbers)))))
        sys.exit(0)
    sys.exit(main())
