"""What a report says, as values, and how it becomes one HTML file.

`Page` holds numbers, words and picture bytes and knows nothing of where they lay; `render` turns it into a single
file that needs no network, no script and no neighbour. Keeping the two apart lets a test build a page from nothing
and lets `report.collect` be about files only.
"""

from __future__ import annotations

import base64
import io
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from pipelines import charts, looks
from pipelines.charts import Backdrop, Dot, Series, Spread, Square
from pipelines.scoreboard import Board

__all__ = [
    "Arm",
    "Comparison",
    "Curation",
    "Licence",
    "Page",
    "Picture",
    "Point",
    "Pretraining",
    "Provenance",
    "Run",
    "Stage",
    "Transfer",
    "compare",
    "environment",
    "readable",
    "render",
]

PICTURE_BYTES = 2_500_000  # of all pictures together; base64 adds a third, and the page stays under 4 MB
LARGE_PICTURE = 48_000  # bytes from which a picture is stored as WebP
SPLITS = {"train": 1, "val": 2, "test": 3}  # split -> colour; any other split takes the next colours
STUDENT_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


@dataclass(frozen=True)
class Picture:
    """An image file's bytes (PNG, JPEG or WebP) and the words that go with it."""

    content: bytes = field(repr=False)
    kind: str  # chip, reconstruction, prediction, landcover or another word
    alt: str
    caption: str = ""
    legend: tuple[tuple[str, str], ...] = ()  # (class, CSS colour)
    bounds: tuple[float, float, float, float] | None = (
        None  # of a landcover picture, in the chips' projection
    )


@dataclass(frozen=True)
class Point:
    """Where one planned chip lies; `bounds` are metres of `epsg`."""

    lon: float
    lat: float
    split: str
    stratum: str
    kept: bool = True
    epsg: int | None = None
    bounds: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Curation:
    """A corpus in numbers: planned = accepted + the rejected of every reason, shard by shard."""

    name: str
    planned: int
    accepted: int
    rejected: Mapping[str, int]
    shards: tuple[Mapping[str, Any], ...] = ()
    size_bytes: int = 0
    points: tuple[Point, ...] = ()
    classes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # class -> split -> amount
    class_unit: str = "chips"
    guard_m: float | None = None
    seams: tuple[tuple[float, float, float, float], ...] = ()
    shortfalls: tuple[tuple[str, str], ...] = ()
    rejects: tuple[tuple[str, str, str], ...] = ()  # chip, reason, detail
    facts: tuple[tuple[str, str], ...] = ()
    pictures: tuple[Picture, ...] = ()

    @property
    def balanced(self) -> bool:
        """Whether every planned chip is accounted for."""
        return self.planned == self.accepted + sum(self.rejected.values())


@dataclass(frozen=True)
class Run:
    """One training run: its curves by quantity, as (step, value)."""

    name: str
    arm: str
    seed: int | None
    curves: Mapping[str, tuple[tuple[float, float], ...]]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    facts: tuple[tuple[str, str], ...] = ()
    finished: bool = True
    pictures: tuple[Picture, ...] = ()
    looks: Mapping[str, Any] = field(default_factory=dict)  # numbers about what the encoder knows


@dataclass(frozen=True)
class Pretraining:
    """The runs that made the encoders."""

    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Arm:
    """One way to begin (pretrained, random, a baseline): its scores by seed."""

    name: str
    scores: Mapping[int | None, Mapping[str, float]]
    colour: int = charts.BASELINE

    @property
    def seeded(self) -> bool:
        """Whether it depends on a seed, and there is one score for each."""
        return None not in self.scores

    def values(self, metric: str) -> tuple[float, ...]:
        """The finite scores of a metric, in the order of seeds."""
        found = (
            scores.get(metric) for _, scores in sorted(self.scores.items(), key=lambda item: str(item[0]))
        )
        return tuple(value for value in found if value is not None and math.isfinite(value))


@dataclass(frozen=True)
class Comparison:
    """What the seeds say about one arm against another, in words that claim no more than they do."""

    verdict: str  # supported, contradicted, undecided
    sentence: str
    reason: str


@dataclass(frozen=True)
class Transfer:
    """Scores of every arm on a downstream task, under one setting (fine-tuned, probe, a label fraction)."""

    task: str
    setting: str
    metric: str
    arms: tuple[Arm, ...]
    runs: tuple[Run, ...] = ()
    comparison: Comparison | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """The means any arm has, the one compared first."""
        names = dict.fromkeys((self.metric, "accuracy", "mean_accuracy", "mean_f1"))
        return tuple(name for name in names if any(arm.values(name) for arm in self.arms))


@dataclass(frozen=True)
class Stage:
    """A step of the study: how long it took, whether it was reused, and where its trackers know it."""

    name: str
    seconds: float | None
    state: str = ""
    trackers: tuple[tuple[str, str, str], ...] = ()  # system, run id, link or ""


@dataclass(frozen=True)
class Licence:
    """Whose data this is and on what terms."""

    what: str
    licence: str
    attribution: str
    url: str = ""


@dataclass(frozen=True)
class Provenance:
    """Everything needed to do it again."""

    names: tuple[tuple[str, str, str], ...] = ()  # what, name@version, fingerprint
    documents: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    scenes: tuple[tuple[str, str, int], ...] = ()  # layer, scene id, samples made from it
    licences: tuple[Licence, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    commands: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()

    @property
    def seconds(self) -> float:
        """The whole time: what the study itself took, or its stages together where some were made before it."""
        whole = math.fsum(stage.seconds or 0.0 for stage in self.stages if stage.name == "study")
        return max(whole, math.fsum(stage.seconds or 0.0 for stage in self.stages if stage.name != "study"))


@dataclass(frozen=True)
class Page:
    """A whole report; a part that is None has not happened yet, and the page says so."""

    title: str
    sentence: str
    made: str = ""
    curation: Curation | None = None
    pretraining: Pretraining | None = None
    transfers: tuple[Transfer, ...] = ()
    boards: tuple[Board, ...] = ()
    provenance: Provenance = Provenance()
    notes: tuple[str, ...] = ()  # what could not be read, and why


def compare(one: Arm, other: Arm, metric: str) -> Comparison:
    """Whether `one` scores above `other`: paired by seed, supported when the 95 % t interval leaves out zero."""
    seeds = [
        seed
        for seed in one.scores
        if seed in other.scores
        and all(math.isfinite(arm.scores[seed].get(metric, math.nan)) for arm in (one, other))
    ]
    label = words(metric)
    sentence = "; ".join(f"{arm.name} {spread(arm.values(metric))}" for arm in (one, other))
    sentence = f"{sentence} {label} ({count(len(seeds), 'seed')}, mean ± standard deviation)"
    if len(seeds) < 2:
        return Comparison(
            "undecided", sentence, "Fewer than two seeds ran in both arms: a spread needs more."
        )
    gains = [one.scores[seed][metric] - other.scores[seed][metric] for seed in seeds]
    mean, error = statistics.fmean(gains), statistics.stdev(gains) / math.sqrt(len(gains))
    freedom = len(gains) - 1
    reach = STUDENT_95.get(freedom, 1.96 + 2.7 / freedom) * error
    better = sum(gain > 0 for gain in gains)
    facts = (
        f"Paired by seed the difference is {mean:+.3f} (95 % interval {mean - reach:+.3f} to {mean + reach:+.3f}), "
        f"{one.name} ahead with {better} of {len(gains)} seeds."
    )
    if mean - reach > 0:
        return Comparison("supported", sentence, f"{facts} The interval leaves out zero.")
    if mean + reach < 0:
        return Comparison("contradicted", sentence, f"{facts} The interval lies below zero.")
    return Comparison("undecided", sentence, f"{facts} The interval includes zero: these seeds cannot tell.")


def render(page: Page) -> str:
    """The page as one HTML document; every word from a recipe, a manifest or a file name is escaped."""
    template = environment().get_template("report.html.j2")
    return template.render(page=page, charts=Drawings(page), album=Album(), verdicts=VERDICTS)


def environment() -> Environment:
    """Where templates are, and the words they write numbers with."""
    made = Environment(
        loader=PackageLoader("pipelines"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "thousands": thousands,
        "bytes": size,
        "seconds": duration,
        "words": words,
        "spread": spread,
        "score": score,
        "count": count,
        "json": document,
        "link": link,
        "legend": legend_of,
    }
    return made


VERDICTS = {
    "supported": "Supported: pretraining helps here.",
    "contradicted": "Not supported: pretraining hurts here.",
    "undecided": "Not shown: no difference beyond the spread between seeds.",
}


class Drawings:
    """The charts of a page, drawn when the template asks."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def map(self, curation: Curation) -> Markup:
        """The chips where they lie."""
        return map_of(curation)

    def classes(self, curation: Curation) -> Markup:
        """How much of each class every split holds."""
        splits = colours_of(split for amounts in curation.classes.values() for split in amounts)
        ordered = dict(sorted(curation.classes.items(), key=lambda item: -sum(item[1].values())))
        return charts.counts("Class histogram by split", ordered, splits, x=curation.class_unit)

    def curve(
        self, title: str, runs: Sequence[Run], quantity: str, y: str, *, log: bool = False, noisy: bool = True
    ) -> Markup | None:
        """One quantity of every run over its steps, coloured by arm; None when no run has it."""
        arms = list(dict.fromkeys(run.arm for run in runs))
        series = [
            Series(run.arm, run.curves[quantity], arms.index(run.arm) % 6 + 1)
            for run in runs
            if run.curves.get(quantity)
        ]
        log = log and all(value > 0 for line in series for _, value in line.points)
        return charts.curves(title, series, x="optimizer step", y=y, log=log, noisy=noisy) if series else None

    def looks(self, run: Run) -> list[looks.Drawing]:
        """What the encoder of a run knows, chart by chart."""
        return looks.drawn(run.looks)

    def regions(self, run: Run) -> list[tuple[Markup, str]]:
        """How often each region of its geographic context was seen; nothing where it has none."""
        return [looks.visits(run.looks["regions"])] if run.looks.get("regions") else []

    def seeds(self, transfer: Transfer) -> Markup | None:
        """Every seed of every arm on one axis."""
        arms = [
            spread_of(arm, transfer.metric)
            for arm in transfer.arms
            if arm.seeded and arm.values(transfer.metric)
        ]
        title = f"{words(transfer.metric)} of every seed, {transfer.setting}"
        return charts.strip(title, arms, x=words(transfer.metric)) if arms else None

    def per_class(self, transfer: Transfer) -> Markup | None:
        """IoU class by class, arm beside arm."""
        arms = [arm for arm in transfer.arms if arm.seeded]
        keys = dict.fromkeys(key for arm in arms for scores in arm.scores.values() for key in scores)
        names = [key.removeprefix("iou/") for key in keys if key.startswith("iou/")]
        rows = {name: [spread_of(arm, f"iou/{name}") for arm in arms] for name in names}
        rows = {name: arms for name, arms in rows.items() if any(arm.values for arm in arms)}
        title = f"IoU by class, {transfer.setting}"
        return charts.bars(title, rows, x="IoU (bar: mean, line: lowest to highest seed)") if rows else None


def map_of(curation: Curation) -> Markup:
    """The chips where they lie: those of one projected zone at true size, of several as dots on the Earth."""
    splits = colours_of(point.split for point in curation.points)
    title = f"Map of {len(curation.points)} chips by split"
    zones = {point.epsg for point in curation.points}
    picture = next((one for one in curation.pictures if one.kind == "landcover" and one.bounds), None)
    cover = Backdrop(picture.content, picture.bounds) if picture and picture.bounds else None
    if len(zones) == 1 and all(point.bounds for point in curation.points):
        squares = [Square(one.bounds, one.split, one.kept) for one in curation.points if one.bounds]
        epsg = next(iter(zones)) or 0
        return charts.ground(title, squares, splits, epsg=epsg, backdrop=cover, seams=curation.seams)
    dots = [Dot(point.lon, point.lat, point.split, point.kept) for point in curation.points]
    return charts.world(title, dots, splits, backdrop=cover)


class Album:
    """Pictures as data URIs, within one budget for the whole page, dealt evenly over the groups that ask."""

    def __init__(self) -> None:
        self.left = PICTURE_BYTES
        self.omitted = 0

    def take(
        self, pictures: Iterable[Picture], kind: str, limit: int = 24
    ) -> list[tuple[Picture, str, int, int]]:
        """(picture, data URI, width, height) of the pictures of a kind, as many as fit."""
        chosen = [picture for picture in pictures if picture.kind == kind]
        taken = []
        for picture in chosen[:limit]:
            content, mime, (width, height) = packed(picture.content)
            if len(content) > self.left:
                break
            self.left -= len(content)
            uri = f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"
            taken.append((picture, uri, width, height))
        self.omitted += len(chosen) - len(taken)
        return taken


def legend_of(pictures: Iterable[Picture]) -> list[tuple[str, str]]:
    """The classes of all these pictures with their colours, each once."""
    return list(dict.fromkeys(entry for picture in pictures for entry in picture.legend))


def readable(content: bytes) -> bool:
    """Whether these bytes are a whole image."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def packed(content: bytes) -> tuple[bytes, str, tuple[int, int]]:
    """An image as it is stored in the page: as it came, or as WebP when large and smaller that way."""
    with Image.open(io.BytesIO(content)) as image:
        mime, shape = Image.MIME.get(image.format or "PNG", "image/png"), image.size
        if len(content) > LARGE_PICTURE:
            smaller = io.BytesIO()
            image.convert("RGBA" if image.mode in ("P", "RGBA", "LA") else "RGB").save(
                smaller, "WEBP", quality=86
            )
            if smaller.tell() < len(content):
                return smaller.getvalue(), "image/webp", shape
    return content, mime, shape


def colours_of(splits: Iterable[str]) -> dict[str, int]:
    """A colour for each split present: the usual three keep theirs on every page."""
    present = set(splits)
    known = {split: colour for split, colour in SPLITS.items() if split in present}
    others = sorted(present - set(SPLITS))
    return known | {split: 4 + index % 4 for index, split in enumerate(others)}


def spread_of(arm: Arm, metric: str) -> Spread:
    """An arm's values of a metric, as the charts take them."""
    return Spread(arm.name, arm.values(metric), arm.colour)


def spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation of scores, or the one score there is."""
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"


def score(value: float | None) -> str:
    """A score with three digits; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def thousands(value: float) -> str:
    """12,345."""
    return f"{value:,.0f}"


def count(number: int, noun: str) -> str:
    """1 seed, 3 seeds."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def size(value: float) -> str:
    """Bytes in the decimal unit that keeps one to three digits before the point."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def duration(value: float | None) -> str:
    """Seconds as people say them."""
    if value is None:
        return "–"
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def words(name: str) -> str:
    """`mean_iou` as a reader writes it."""
    text = name.replace("_", " ").replace("/", ": ")
    return " ".join({"iou": "IoU", "f1": "F1"}.get(word, word) for word in text.split(" "))


def document(value: object) -> str:
    """JSON to read: indented, keys as they came."""
    plain = {one.name: getattr(value, one.name) for one in fields(value)} if is_dataclass(value) else value
    return json.dumps(plain, indent=2, ensure_ascii=False, default=str)


def link(url: str) -> str:
    """The address if it is one a browser may follow from a document, else nothing."""
    return url if url.startswith(("https://", "http://")) else ""
