"""What a study left on disk, read into the values of a page: corpora, runs, pictures.

Reading is forgiving where writing is not. What is absent is None or empty; what does not parse is left out and said in
`notes`, which the page shows at its end.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geodata.errors import DataError
from geodata.landcover import class_table
from geodata.manifest import Corpus, open_corpus
from geodata.sampling import Chip, Plan
from pipelines.page import Curation, Picture, Point, Run, count, duration, readable, words

__all__ = [
    "LABELLED",
    "Json",
    "corpus_of",
    "curation_of",
    "finite",
    "pictures_of",
    "plan_of",
    "read_json",
    "run_of",
    "scores_of",
]

LABELLED = "labelled pixels"
MOST_POINTS = 4000  # on the map; of a larger plan, every k-th chip
KINDS = {
    "recon": "reconstruction",
    "tript": "reconstruction",
    "pred": "prediction",
    "chip": "chip",
    "land": "landcover",
    "attention": "attention",
}

Json = Mapping[str, Any]
Box = tuple[float, float, float, float]


def corpus_of(study: Json, root: Path, notes: list[str]) -> Corpus | None:
    """The study's sealed corpus; None, with a note, when it cannot be opened."""
    if not study.get("corpus"):
        return None
    try:
        return open_corpus(root / study["corpus"])
    except DataError as error:
        notes.append(str(error))
        return None


def curation_of(corpus: Corpus, notes: list[str]) -> Curation:
    """The corpus in numbers, from its manifest and its plan."""
    plan = plan_of(corpus, notes)
    rejects = tuple((one.chip_id, one.reason, one.detail) for one in corpus.rejects())
    refused = {chip_id for chip_id, _, _ in rejects}
    chips = plan.chips[:: 1 + len(plan) // MOST_POINTS] if plan else ()
    points = tuple(point_of(chip, refused) for chip in chips)
    classes, unit = classes_of(corpus, points, notes)
    guard = (corpus.spec.get("split") or {}).get("guard_m")
    return Curation(
        name=f"{corpus.name}@{corpus.version}",
        planned=corpus.planned,
        accepted=corpus.rows,
        rejected=corpus.rejected,
        shards=tuple(
            {
                "name": record.name,
                "planned": record.planned,
                "accepted": record.rows,
                "rejected": record.planned - record.rows,
                "bytes": record.bytes,
                "sha256": record.file_sha256,
            }
            for record in corpus.records
        ),
        size_bytes=corpus.bytes,
        points=points,
        classes=classes,
        class_unit=unit,
        guard_m=guard,
        seams=seams_of(corpus.spec, points),
        shortfalls=tuple(
            (f"{short.stratum} in {short.region}", f"{short.found:,} of {short.wanted:,}")
            for short in (plan.shortfalls if plan else ())
        ),
        rejects=rejects,
        facts=facts_of_spec(corpus.spec),
        pictures=pictures_of(corpus.root, notes),
    )


def plan_of(corpus: Corpus, notes: list[str]) -> Plan | None:
    """The plan beside the manifest; None, with a note, when it is not there or does not read."""
    try:
        return Plan.read(corpus.root)
    except DataError as error:
        notes.append(f"{error}; the map is missing here.")
        return None


def point_of(chip: Chip, refused: set[str]) -> Point:
    """A chip of the plan as a point of the map."""
    return Point(
        lon=chip.lon,
        lat=chip.lat,
        split=chip.split,
        stratum=chip.stratum,
        kept=chip.chip_id not in refused,
        epsg=chip.grid.epsg,
        bounds=chip.grid.bounds,
    )


def seams_of(spec: Json, points: Sequence[Point]) -> tuple[Box, ...]:
    """The guarded strips of a metric area: where blocks of two splits meet, half the guard on either side.

    Empty for other regions, whose blocks are too many to draw, and where the chips do not bear out the blocks.
    """
    area, split = spec.get("regions") or {}, spec.get("split") or {}
    guard, block = split.get("guard_m"), split.get("block_m")
    if not guard or not block or area.get("kind") != "area" or area.get("epsg", 4326) == 4326:
        return ()
    xmin, ymin, xmax, ymax = area["bounds"]
    columns, rows = max(1, int((xmax - xmin) / block)), max(1, int((ymax - ymin) / block))
    splits: dict[tuple[int, int], set[str]] = {}
    for (west, south, east, north), name in ((one.bounds, one.split) for one in points if one.bounds):
        column = min(columns - 1, int(((west + east) / 2 - xmin) / block))
        row = min(rows - 1, int(((south + north) / 2 - ymin) / block))
        splits.setdefault((column, row), set()).add(name)
    if any(len(names) > 1 for names in splits.values()):
        return ()
    strips = []
    for (column, row), names in splits.items():
        x, y = xmin + column * block, ymin + row * block
        right = xmax if column == columns - 1 else x + block
        top = ymax if row == rows - 1 else y + block
        if splits.get((column + 1, row), names) != names:
            strips.append((right - guard / 2, y, right + guard / 2, top))
        if splits.get((column, row + 1), names) != names:
            strips.append((x, top - guard / 2, right, top + guard / 2))
    return tuple(strips)


def classes_of(
    corpus: Corpus, points: Sequence[Point], notes: list[str]
) -> tuple[dict[str, dict[str, int]], str]:
    """class -> split -> labelled pixels where the corpus stores land cover, else chips by stratum; and the unit."""
    groups = {name: amounts for name, amounts in corpus.counts().items() if name.startswith("lc_")}
    classes: dict[str, dict[str, int]] = {}
    names = class_names(corpus, notes) if groups else {}
    for group, amounts in groups.items():
        for code, amount in amounts.items():
            if code != "255":
                split = group.removeprefix("lc_")
                classes.setdefault(names.get(int(code), f"class {code}"), {})[split] = amount
    if classes:
        return classes, LABELLED
    for (stratum, split), amount in Counter(
        (point.stratum, point.split) for point in points if point.kept
    ).items():
        classes.setdefault(stratum, {})[split] = amount
    return classes, "accepted chips"


def class_names(corpus: Corpus, notes: list[str]) -> Mapping[int, str]:
    """What the codes of the corpus's map mean: as the plan says, else by its table; else nothing, with a note."""
    if corpus.plan.get("classes"):
        return {int(code): str(name) for code, name in corpus.plan["classes"].items()}
    options = (corpus.spec.get("landcover") or {}).get("options") or {}
    try:
        return class_table(str(options.get("table"))).codes
    except ValueError as error:
        notes.append(f"The land-cover classes of {corpus.name} have no names here: {error}")
        return {}


def facts_of_spec(spec: Json) -> tuple[tuple[str, str], ...]:
    """The few lines of a corpus spec a reader wants first; the whole of it is under provenance."""
    chip, split = spec.get("chip") or {}, spec.get("split") or {}
    facts = []
    if chip.get("size") and chip.get("gsd"):
        facts.append(("chip", f"{chip['size']} × {chip['size']} pixels at {chip['gsd']:g} m"))
    for sensor in spec.get("sensors") or ():
        name = str(sensor.get("sensor") or sensor.get("name") or "sensor")
        dates = sensor.get("dates")
        facts.append(
            (words(name), f"{count(dates, 'date')} a chip" if isinstance(dates, int) else "recorded")
        )
    if split.get("block_m"):
        facts.append(("split by blocks of", f"{split['block_m']:,g} m"))
    if split.get("guard_m"):
        facts.append(("guard between splits", f"{split['guard_m']:,g} m"))
    if isinstance(spec.get("seed"), int):
        facts.append(("seed", str(spec["seed"])))
    return tuple(facts)


def run_of(entry: Json, root: Path, notes: list[str]) -> Run:
    """One training run from its folder: curves, recipe, environment and pictures, as far as they exist."""
    folder = root / entry["run"]
    recipe = read_json(folder / "recipe.json", notes) or {}
    rows = read_lines(folder / "metrics.jsonl", notes)
    curves = curves_of([*rows, *read_lines(folder / "validation.jsonl", notes)])
    done = read_json(folder / "done.json", notes)
    seed = entry.get("seed", recipe.get("seed"))
    name = str(entry.get("name") or recipe.get("name") or folder.name)
    return Run(
        name=name if seed is None else f"{name}, seed {seed}",
        arm=str(entry.get("arm") or name),
        seed=seed,
        curves=curves,
        recipe=recipe,
        environment=read_json(folder / "environment.json", notes) or {},
        facts=facts_of_run(recipe, curves, done or {}),
        finished=done is not None,
        pictures=pictures_of(folder, notes),
        looks=read_json(folder / "pictures" / "looks.json", notes) or {},
    )


def curves_of(rows: Sequence[Json]) -> dict[str, tuple[tuple[float, float], ...]]:
    """Quantity -> (step, value), under the names of metrics.jsonl."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "step" and finite(value) and finite(row.get("step")):
                curves.setdefault(name, []).append((row["step"], value))
    return {name: tuple(points) for name, points in curves.items()}


def facts_of_run(
    recipe: Json, curves: Mapping[str, Sequence[tuple[float, float]]], done: Json
) -> tuple[tuple[str, str], ...]:
    """The few lines of a run a reader wants first."""
    facts = [(name, f"{recipe[name]:,}") for name in ("steps", "batch") if isinstance(recipe.get(name), int)]
    for name in ("parameters", "samples"):
        if isinstance(done.get(name), int):
            facts.append((name, f"{done[name]:,}"))
    if curves.get("loss"):
        points = [value for _, value in curves["loss"]]
        facts.append(("loss, first to last", f"{points[0]:.3g} to {points[-1]:.3g}"))
    if curves.get("samples_per_second"):
        ordered = sorted(value for _, value in curves["samples_per_second"])
        facts.append(("throughput, median", f"{ordered[len(ordered) // 2]:,.0f} samples/s"))
    if finite(done.get("seconds")):
        facts.append(("time", duration(done["seconds"])))
    return tuple(facts)


def scores_of(values: Json) -> dict[str, float]:
    """The flat scores of a metric: `mean_iou`, `iou/forest` ...; nan and null, the scores that do not exist, left out."""
    scores = values.get("scores", values)
    return {name: float(value) for name, value in scores.items() if finite(value)}


def pictures_of(folder: Path, notes: list[str]) -> tuple[Picture, ...]:
    """The pictures of a corpus or run: as `pictures/index.json` lists them, else every PNG there by its name."""
    index = read_json(folder / "pictures" / "index.json", notes)
    listed = isinstance(index, list)
    entries: list[Json] = (
        index if listed else [{"file": one.name} for one in sorted((folder / "pictures").glob("*.png"))]
    )
    pictures = []
    for entry in entries:
        path = folder / "pictures" / entry["file"]
        content = path.read_bytes() if path.is_file() else b""
        if not readable(content):
            notes.append(f"The picture {path.name} of {folder.name} is not there whole and is left out.")
            continue
        kind = entry.get("kind") or next(
            (kind for key, kind in KINDS.items() if path.name.startswith(key)), "chip"
        )
        pictures.append(
            Picture(
                content=content,
                kind=kind,
                alt=str(entry.get("alt") or entry.get("caption") or f"{kind} {path.stem}"),
                caption=str(entry.get("caption", "")),
                legend=tuple((str(name), str(colour)) for name, colour in entry.get("legend", ())),
                bounds=tuple(entry["bounds"]) if entry.get("bounds") else None,
            )
        )
    return tuple(pictures)


def read_json(path: Path, notes: list[str]) -> Any:
    """A JSON file's value; None when it is absent, and a note when it does not parse."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        notes.append(
            f"{path.parent.name}/{path.name} does not parse ({error}); what it says is missing here."
        )
        return None


def read_lines(path: Path, notes: list[str]) -> list[Json]:
    """The rows of a JSON-lines file; a last line cut short by a kill is expected and left out."""
    lines = path.read_text().splitlines() if path.is_file() else []
    rows: list[Json] = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                notes.append(
                    f"{path.parent.name}/{path.name}, line {number}, does not parse and is left out."
                )
    return rows


def finite(value: object) -> bool:
    """Whether a value is a number that can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
