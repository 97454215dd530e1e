"""A study that never ran: every file a report reads, small and in the real layout."""

import io
import json
import math
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from geodata.manifest import Corpus, seal
from geodata.sampling import Plan, Shortfall
from geodata.shards import Reject, ShardRecord, save_record
from geodata.spec import ChipSpec

COLOURS = {
    "built": "#b5655a",
    "farmland": "#d9c27e",
    "grassland": "#a3c26a",
    "forest": "#3f7d4e",
    "scrub": "#7c9a3c",
    "wetland": "#6fa8a0",
    "water": "#4a86b8",
}
WEST, NORTH, GSD, SIZE = 366000, 5820000, 10.0, 64


def fake_study(root: Path) -> Path:
    """A curated, pretrained and transferred study under `root`; returns the study's folder."""
    draw = random.Random(7)
    fake_corpus(root / "corpora" / "demo@1", draw)
    fake_run(root / "encoders" / "mae.demo@1", draw, steps=300, loss=(0.9, 0.21))
    save(
        root / "encoders" / "mae.demo@1" / "pictures" / "index.json",
        [
            {
                "file": f"reconstruction-{n}.png",
                "kind": "reconstruction",
                "alt": "A chip masked, reconstructed and whole",
                "caption": f"Chip demo-{n:03d}: masked · reconstructed · original (bands B04, B03, B02).",
            }
            for n in range(4)
        ],
    )
    for n in range(4):
        picture(
            root / "encoders" / "mae.demo@1" / "pictures" / f"reconstruction-{n}.png", draw, panels=3, scale=3
        )
    transfers = []
    for arm, level in (("pretrained", 0.44), ("random initialisation", 0.395)):
        for seed in range(3):
            folder = root / "transfers" / f"{arm.split(' ', maxsplit=1)[0]}-{seed}"
            fake_run(folder, draw, steps=120, loss=(1.8, 0.7), validation=level, seed=seed)
            iou = {f"iou/{name}": max(0.0, level + draw.gauss(0.0, 0.16)) for name in COLOURS}
            iou["iou/scrub"] = math.nan
            known = [value for value in iou.values() if math.isfinite(value)]
            mean = level + draw.gauss(0, 0.006)
            scores = {"mean_iou": mean, "accuracy": mean + 0.25, "mean_f1": mean + 0.1} | iou
            save(folder / "scores.json", {"split": "test", "scores": scores, "classes": len(known)})
            if seed == 0:
                for n in range(2):
                    picture(folder / "pictures" / f"prediction-{n}.png", draw, panels=3, scale=3)
            run = f"../../transfers/{folder.name}"
            transfers.append({"arm": arm, "seed": seed, "setting": "fine-tuned", "run": run})
    study = {
        "name": "demo",
        "title": "Demo: land use west of Berlin from Sentinel-2",
        "created": "2026-02-03T10:15:00+00:00",
        "task": "land-use segmentation",
        "metric": "mean_iou",
        "corpus": "../../corpora/demo@1",
        "pretraining": [{"run": "../../encoders/mae.demo@1", "seed": 0}],
        "transfers": transfers,
        "baselines": [
            {"arm": "majority class", "scores": {"mean_iou": 0.09, "accuracy": 0.41, "mean_f1": 0.1}}
        ],
        "stages": [
            {
                "name": "curate",
                "seconds": 21.4,
                "state": "built",
                "prefect_run": "0f1e2d3c-aaaa",
                "mlflow_run": "77af01",
            },
            {"name": "pretrain", "seconds": 118.0, "state": "built", "mlflow_run": "9b1c22"},
            {
                "name": "transfer",
                "seconds": 96.5,
                "state": "reused",
                "prefect_run": "5ac0-bbbb",
                "prefect_url": "http://127.0.0.1:4200/runs/flow-run/5ac0",
            },
        ],
        "artifacts": [{"kind": "encoder", "name": "mae.demo@1", "fingerprint": "b1946ac92492d2347c62"}],
        "commands": ["make demo", "swath study demo", "swath report runs/studies/demo"],
        "licences": [
            {
                "what": "Sentinel-2 L1C",
                "licence": "Copernicus Sentinel data terms",
                "attribution": "Contains modified Copernicus Sentinel data 2017",
                "url": "https://sentinels.copernicus.eu/documents/247904/690755/Sentinel_Data_Legal_Notice",
            },
            {
                "what": "land-use polygons",
                "licence": "ODbL 1.0",
                "attribution": "© OpenStreetMap contributors",
                "url": "https://opendatacommons.org/licenses/odbl/1-0/",
            },
        ],
    }
    return save(root / "studies" / "demo" / "study.json", study).parent


def fake_corpus(root: Path, draw: random.Random) -> None:
    """A sealed manifest, a plan and pictures; the shards themselves are not there, and not needed."""
    rows: list[dict[str, int]] = []
    for row in range(12):
        for column in range(23):
            left, top = WEST // 60 + 2 + column * 11, NORTH // 60 - 2 - row * 11
            block_row, block_col = row // 4, column // 4
            if row % 4 == 3 or column % 4 == 3 or draw.random() < 0.25:
                continue
            split = (0, 0, 1, 0, 2)[(block_col * 2 + block_row) % 5]
            rows.append(
                {"left": left, "top": top, "block_row": block_row, "block_col": block_col, "split": split}
                | {"stratum": draw.randrange(1, 5), "draw": len(rows)}
            )
    plan = Plan(
        place_id="0a1b2c3d",
        chip=ChipSpec(gsd=GSD, size=SIZE),
        region_layout="equal_angle",
        regions=("havelland",),
        quotas={"havelland": {"forest": len(rows) + 3}},
        columns={
            name: np.array([row.get(name, 0) for row in rows], np.int64)
            for name in (
                "round",
                "cell",
                "region",
                "stratum",
                "left",
                "top",
                "split",
                "block_row",
                "block_col",
                "draw",
            )
        }
        | {
            "epsg": np.full(len(rows), 32633),
            "zoom": np.full(len(rows), -1),
            "lon": np.full(len(rows), 13.0),
            "lat": np.full(len(rows), 52.5),
        },
        candidates={"havelland": {"guard": 40, "chip": len(rows)}},
        shares={"havelland": {"forest": 1.0}},
        shortfalls=(Shortfall("havelland", "wetland", 12, 9, 9000),),
    )
    chips = list(plan.chips)
    rejects = {
        chip.chip_id: Reject(chip.chip_id, draw.choice(["cloudy", "nodata", "outside"]), "31 % of the pixels")
        for chip in chips
        if draw.random() < 0.1
    }
    records = []
    for start in range(0, len(chips), 32):
        part = chips[start : start + 32]
        refused = tuple(rejects[chip.chip_id] for chip in part if chip.chip_id in rejects)
        kept = [chip for chip in part if chip.chip_id not in rejects]
        counts: dict[str, dict[str, int]] = {"split": {}}
        for chip in kept:
            pixels = counts.setdefault(f"lc_{chip.split}", {})
            for code, share in enumerate((400, 1800, 500, 1200, 40, 90, 150)):
                pixels[str(code)] = pixels.get(str(code), 0) + draw.randrange(share)
        records.append(
            ShardRecord(
                name=f"demo-{start // 32:05d}",
                planned=len(part),
                rows=len(kept),
                bytes=2_400_000 + start,
                footer_sha256="cd" * 32,
                file_sha256="ab" * 32,
                row_groups=(len(kept),),
                rejects=refused,
                counts=counts,
                samples=tuple(
                    {
                        "sample_id": chip.chip_id,
                        "layers": {"s2": {"item_ids": ["S2A_MSIL1C_20170216T102101"], "pixel_hash": "00"}},
                    }
                    for chip in kept
                ),
            )
        )
    for record in records:
        save_record(root, record)
    spec = {
        "name": "demo",
        "version": "1",
        "seed": 1,
        "chip": {"gsd": GSD, "size": SIZE},
        "sensors": [{"sensor": "sentinel2_l1c", "dates": 1}],
        "split": {"block_m": 2640.0, "guard_m": 660.0},
        "regions": {
            "kind": "area",
            "name": "havelland",
            "bounds": [WEST, NORTH - 7920, WEST + 15840, NORTH],
            "epsg": 32633,
        },
        "landcover": {"call": "landcover.polygons", "options": {"table": "osm_landuse"}},
    }
    seal(Corpus(root, "demo", "1", "5d41402abc4b2a76b9719d911017c592", spec, tuple(records)))
    plan.write(root)
    entries = []
    for n in range(12):
        picture(root / "pictures" / f"chip-{n:02d}.png", draw, panels=2)
        entries.append(
            {
                "file": f"chip-{n:02d}.png",
                "kind": "chip",
                "alt": f"Chip {n}: true colour and labels",
                "caption": f"{chips[n].stratum} · {chips[n].split} · 2017-02-16",
                "legend": list(COLOURS.items()),
            }
        )
    picture(root / "pictures" / "landcover.png", draw, panels=1, width=384, height=192)
    entries.append(
        {
            "file": "landcover.png",
            "kind": "landcover",
            "alt": "Rasterised land use",
            "caption": "OpenStreetMap land use",
            "bounds": [WEST, NORTH - 7920, WEST + 15840, NORTH],
            "legend": list(COLOURS.items()),
        }
    )
    save(root / "pictures" / "index.json", entries)


def fake_run(
    folder: Path,
    draw: random.Random,
    *,
    steps: int,
    loss: tuple[float, float],
    validation: float | None = None,
    seed: int = 0,
) -> None:
    """A finished training run."""
    rows = []
    for step in range(1, steps + 1):
        share = step / steps
        value = loss[1] + (loss[0] - loss[1]) * math.exp(-5 * share) + draw.gauss(0, 0.02)
        rows.append(
            {
                "step": step,
                "loss": value,
                "lr": 1e-3 * min(1, share * 10) * (1 + math.cos(math.pi * share)) / 2,
                "samples_per_second": 220 + draw.gauss(0, 12),
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    if validation is not None:
        shares = [(step, step / steps) for step in range(20, steps + 1, 20)]
        scores = [
            {
                "step": step,
                "validation/mean_iou": validation * (1 - math.exp(-4 * share)) + draw.gauss(0, 0.01),
            }
            for step, share in shares
        ]
        (folder / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scores))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save(
        folder / "recipe.json",
        {"name": "mae.demo", "seed": seed, "steps": steps, "batch": 32, "optim": {"lr": 1e-3}},
    )
    save(
        folder / "environment.json",
        {
            "python": "3.11.2",
            "platform": "Linux x86_64",
            "commit": "0a1b2c3",
            "packages": {"torch": "2.14.1", "ray": "2.60.0", "prefect": "3.8.8"},
        },
    )
    save(folder / "done.json", {"seconds": 100.0 + steps, "parameters": 1_234_567})


def picture(
    path: Path, draw: random.Random, *, panels: int, width: int = SIZE, height: int = SIZE, scale: int = 1
) -> None:
    """Fields in land-use colours, `panels` beside each other."""
    image = Image.new("RGB", (panels * width, height), "#7d9a55")
    pencil = ImageDraw.Draw(image)
    for _ in range(panels * width * height // 300):
        x, y = draw.randrange(panels * width), draw.randrange(height)
        box = (x, y, x + draw.randrange(8, 40), y + draw.randrange(8, 30))
        pencil.rectangle(box, fill=draw.choice(list(COLOURS.values())))
    if path.stem == "landcover":
        image = Image.blend(image, Image.new("RGB", image.size, "white"), 0.4)
    encoded = io.BytesIO()
    image.resize((panels * width * scale, height * scale), Image.Resampling.NEAREST).save(encoded, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded.getvalue())


def save(path: Path, value: object) -> Path:
    """A JSON file, its folder made as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path
