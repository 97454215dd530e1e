"""The data card of a corpus: what it holds, what was refused, what was checked, on one page without network or script.

Made from the manifest, the plan and what lies beside them; no pixel is read, so the card of millions costs seconds.
Counts were kept when the shards were written (`geodata.census`) and only add up here. A corpus has this page and no
other: a study's report tells the corpus in a section of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from markupsafe import Markup

from geodata import census, exports, ledger
from geodata.chips import Plan
from geodata.continents import NAMES
from geodata.errors import DataError
from geodata.files import write_atomic
from geodata.ledger import Line
from geodata.manifest import Corpus, open_corpus
from geodata.pictures import load_rejects
from geodata.sensors import Sensor, sensor
from geodata.transport import redacted
from pipelines import charts
from pipelines.evidence import (
    MOST_POINTS,
    Json,
    classes_of,
    curation_of,
    facts_of_spec,
    pictures_of,
    plan_of,
    read_json,
)
from pipelines.page import Album, Curation, Picture, colours_of, count, environment, map_of, size, words
from pipelines.progress import say

__all__ = ["Card", "collect", "export", "render", "write"]

FILE = "card.html"
MOST_DOTS = 1500  # on the map; above, density
MOST_SHARDS = 200  # whose records are opened for what only they know: scenes, duplicates
MOST_SCENES = 300
REJECTS_SHOWN = 6  # pictures of one reason
REJECT_FILES = 60  # opened to find them
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
HALVES = {"N": "northern hemisphere", "S": "southern hemisphere"}
LAYERS = {"s2": "Sentinel-2", "s1": "Sentinel-1", "hr": "optical", "lc": "land cover"}
TENTHS = tuple(f"{10 * place}–{10 * place + 10}" for place in range(10))


@dataclass(frozen=True)
class Histogram:
    """Upright bars: amounts of each group by key, the keys in order."""

    title: str
    groups: Mapping[str, Mapping[str, int]]
    keys: tuple[str, ...]
    x: str
    y: str
    caption: str


@dataclass(frozen=True)
class BandLine:
    """Statistics of one band over one split; `mean` and `std` in the sensor's unit, None where no pixel is valid."""

    layer: str
    band: str
    valid: int
    mean: float | None
    std: float | None
    unit: str


@dataclass(frozen=True)
class Shifts:
    """What was measured between two images: how often, median shift and the share beyond half a pixel; pixels."""

    pair: str
    measured: int
    median: float
    beyond: float
    right: float
    down: float


@dataclass(frozen=True)
class Terms:
    """Under which licence a layer of how many samples stands, and whether it may be passed on."""

    layer: str
    licence: str
    attribution: str
    free: bool
    samples: int


@dataclass(frozen=True)
class Duplicates:
    """Images of a layer whose pixels (or original bytes) occur more than once, and how many repeat an earlier one."""

    layer: str
    images: int
    repeated: int


@dataclass(frozen=True)
class Requests:
    """What one service was asked while the corpus was made: requests, refusals for being too many, most at once."""

    service: str
    granted: int
    throttled: int
    peak: int


@dataclass(frozen=True)
class Card:
    """Everything the page says. A part that is empty is left out of the page."""

    title: str
    sentence: str
    corpus: Corpus
    made: str = ""
    plan: Plan | None = None
    near: Curation | None = None  # where all chips lie in one zone: the ground itself, chip by chip
    facts: tuple[tuple[str, str], ...] = ()
    lines: tuple[Line, ...] = ()
    shortfalls: tuple[tuple[str, str], ...] = ()
    classes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    class_unit: str = ""
    histograms: tuple[Histogram, ...] = ()
    same: tuple[tuple[str, str], ...] = ()
    bands: tuple[BandLine, ...] = ()
    band_split: str = ""
    rejects: tuple[tuple[str, str, str], ...] = ()
    rejected: tuple[Picture, ...] = ()
    pictures: tuple[Picture, ...] = ()
    shifts: tuple[Shifts, ...] = ()
    flags: tuple[tuple[str, str, int], ...] = ()
    recorded: tuple[tuple[str, str, str], ...] = ()
    duplicates: tuple[Duplicates, ...] = ()
    compared: bool = False
    contamination: tuple[tuple[str, int], ...] = ()
    terms: tuple[Terms, ...] = ()
    scenes: tuple[tuple[str, str, int], ...] = ()
    scene_count: int = 0
    environment: tuple[tuple[str, str], ...] = ()
    requests: tuple[Requests, ...] = ()
    exported: tuple[tuple[str, str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def barred(self) -> int:
        """Layers of samples that may not be passed on."""
        return sum(one.samples for one in self.terms if not one.free)


def write(root: Path, to: Path | None = None) -> Path:
    """Build `card.html` of the corpus at `root`, beside it or in the folder of an export; where it is. Raises DataError."""
    path = (Path(to) if to else Path(root)) / FILE
    write_atomic(path, render(collect(Path(root), to)).encode())
    return path


def export(
    corpus: Corpus, to: Path | None, form: str = "all", *, skip_restricted: bool = False, url: str = ""
) -> list[Path]:
    """Export a corpus, and its card beside that; the files. An export that leaves samples out has no card, which would
    tell of them and may show them. Raises ValueError for what may not be passed on, and for a format there is not.
    """
    formats = exports.FORMATS if form == "all" else (form,)
    exports.known(formats)
    selection = exports.select(corpus, to or corpus.root, skip_restricted=skip_restricted, url=url)
    files = list(exports.write(selection, formats).values())
    for provider, number in selection.left_out.items():
        say(f"left out: {count(number, 'sample')} of {provider}, which may not be passed on")
    return files if selection.left_out else [*files, write(corpus.root, selection.folder)]


def collect(root: Path, to: Path | None = None) -> Card:
    """Everything the card says, from the folder of a sealed corpus, and what was exported to `to` (or that folder).

    Raises Missing or Corrupt when the corpus is not sealed.
    """
    corpus = open_corpus(root)
    notes: list[str] = []
    counts = corpus.counts()
    plan = plan_of(corpus, notes)
    sensors = sensors_of(corpus, notes)
    classes, unit = classes_of(corpus, (), notes)
    split = "train" if "train" in corpus.moments else next(iter(corpus.moments), "")
    few = len(corpus.records) <= MOST_SHARDS
    scenes = scenes_of(corpus, sensors) if few else ()
    return Card(
        title=f"{corpus.name}@{corpus.version}",
        sentence=sentence(corpus, counts, sensors),
        corpus=corpus,
        made=str((read_json(corpus.root / "environment.json", notes) or {}).get("started", ""))[:10],
        plan=plan,
        near=curation_of(corpus, []) if plan and one_zone(plan) else None,
        facts=facts_of(corpus, counts, sensors),
        lines=tuple(ledger.lines(plan, counts)) if plan else (),
        shortfalls=tuple(
            (f"{words(short.stratum)} in {words(short.region)}", f"{short.found:,} of {short.wanted:,}")
            for short in (plan.shortfalls if plan else ())
        ),
        classes=classes,
        class_unit=unit,
        histograms=tuple(histograms_of(counts, sensors)),
        same=tuple(same_of(counts, sensors)),
        bands=tuple(bands_of(corpus, split, sensors)),
        band_split=split,
        rejects=tuple((one.chip_id, one.reason, one.detail) for one in islice(corpus.rejects(), 100)),
        rejected=tuple(rejected_of(corpus.root, notes)),
        pictures=pictures_of(corpus.root, notes),
        shifts=tuple(shifts_of(counts)),
        flags=flags_of(counts, sensors),
        recorded=recorded_of(counts, sensors),
        duplicates=tuple(duplicates_of(corpus, sensors)) if few else (),
        compared=compared(corpus.spec),
        contamination=tuple(sorted(counts.get("contamination", {}).items(), key=lambda item: -item[1])),
        terms=tuple(terms_of(counts)),
        scenes=scenes[:MOST_SCENES],
        scene_count=len(scenes),
        environment=environment_of(read_json(corpus.root / "environment.json", notes) or {}),
        requests=requests_of(read_json(corpus.root / "stage.json", notes) or {}),
        exported=exports_of(Path(to) if to else corpus.root),
        notes=tuple(notes),
    )


def render(card: Card) -> str:
    """The card as one HTML document."""
    template = environment_with_words().get_template("card.html.j2")
    album = Album()
    return template.render(page=card, charts=Plates(card), album=album, most_dots=MOST_DOTS)


def environment_with_words() -> Any:
    """The page's own environment, with the few words that only a card needs."""
    made = environment()
    made.filters |= {"layer": layer_name, "figures": figures}
    return made


class Plates:
    """The charts of a card, drawn when the template asks."""

    def __init__(self, card: Card) -> None:
        self.card = card

    def map(self) -> Markup | None:
        """The planned chips on the Earth, as dots while they are few, else by density."""
        plan = self.card.plan
        if plan is None or not len(plan):
            return None
        title = f"Map of {len(plan):,} planned chips"
        southmost = float(plan.columns["lat"].min())
        edge, coasts = ledger.frame(-60.0 if southmost > -60 else -90.0), ledger.outlines()
        if len(plan) > MOST_DOTS:
            counted, (west, _, east, north) = ledger.density(plan)
            side = (east - west) / len(counted[0])
            areas = [
                (charts.corners(west + column * side, north - (row + 1) * side, side), int(number))
                for row, numbers in enumerate(counted.tolist())
                for column, number in enumerate(numbers)
                if number
            ]
            return charts.globe(title, edge, coasts, areas=areas)
        xs, ys = ledger.flat(plan.columns["lon"], plan.columns["lat"])
        splits = [chip.split for chip in plan.chips]
        colours = colours_of(splits)
        dots = {
            split: (
                [float(x) for x, own in zip(xs, splits, strict=True) if own == split],
                [float(y) for y, own in zip(ys, splits, strict=True) if own == split],
            )
            for split in colours
        }
        return charts.globe(title, edge, coasts, dots=dots, colours=colours)

    def ground(self) -> Markup | None:
        """The chips at their true size, where all lie in one zone."""
        return map_of(self.card.near) if self.card.near and self.card.near.points else None

    def asked(self, by: str) -> Markup | None:
        """Quotas beside what was accepted, added up by 'stratum' or 'region'."""
        lines = [line for line in self.card.lines if line.accepted is not None]
        if by == "region":
            lines = [line for line in lines if line.region in NAMES]
        rows: dict[str, tuple[int, int]] = {}
        for line in lines:
            wanted, found = rows.get(words(getattr(line, by)), (0, 0))
            rows[words(getattr(line, by))] = (wanted + line.asked, found + (line.accepted or 0))
        if not rows:
            return None
        return charts.asked(f"Asked for and accepted by {by}", rows, x="samples")

    def classes(self) -> Markup | None:
        """How much of each class every split holds."""
        if not self.card.classes:
            return None
        splits = colours_of(split for amounts in self.card.classes.values() for split in amounts)
        ordered = dict(sorted(self.card.classes.items(), key=lambda item: -sum(item[1].values())))
        return charts.counts("Class histogram by split", ordered, splits, x=self.card.class_unit)

    def histogram(self, one: Histogram) -> Markup:
        """One of the histograms."""
        return charts.columns(one.title, one.groups, one.keys, x=one.x, y=one.y)


def one_zone(plan: Plan) -> bool:
    """Whether the chips are few and lie in one metric zone, so that a map of the Earth would show a single dot."""
    return 0 < len(plan) <= MOST_POINTS and len({chip.grid.epsg for chip in plan.chips}) == 1


def compared(spec: Json) -> bool:
    """Whether the spec names a benchmark, or a folder of images, to hold the samples against."""
    asked = spec.get("contamination") or {}
    return bool(asked.get("benchmarks") or asked.get("images"))


def sensors_of(corpus: Corpus, notes: list[str]) -> tuple[Sensor, ...]:
    """The layers of a corpus, from the footer of a shard; where shards are elsewhere, with a note, from the spec."""
    try:
        return corpus.meta().sensors
    except DataError as error:
        notes.append(f"{error}; what the layers are is told by the spec.")
    parts = corpus.spec.get("sensors") or ()
    return tuple(sensor(part["sensor"]).pick(tuple(part.get("bands") or ())) for part in parts)


def sentence(corpus: Corpus, counts: Mapping[str, Mapping[str, int]], sensors: Sequence[Sensor]) -> str:
    """The corpus in one sentence."""
    seen = [LAYERS.get(one.prefix, one.name) for one in sensors if one.kind != "map"]
    through = f", each through {', '.join(seen[:-1]) + ' and ' if seen[1:] else ''}{seen[-1]}" if seen else ""
    years = sorted(
        {year for name, part in counts.items() if name.startswith("year_") for year in part} - {"unknown"}
    )
    when = "" if not years else f", {years[0]}" if years[0] == years[-1] else f", {years[0]} to {years[-1]}"
    return f"{count(corpus.rows, 'sample')} of ground{through}{when}: {count(len(corpus.records), 'shard')}, {size(corpus.bytes)}."


def facts_of(
    corpus: Corpus, counts: Mapping[str, Mapping[str, int]], sensors: Sequence[Sensor]
) -> tuple[tuple[str, str], ...]:
    """The few lines a reader wants first: the spec's, the splits, and a GSD that is the same everywhere."""
    facts = list(facts_of_spec(corpus.spec))
    splits = counts.get("split", {})
    if splits:
        facts.append(
            (
                "splits",
                ", ".join(f"{name} {splits[name]:,}" for name in ("train", "val", "test") if name in splits),
            )
        )
    facts.append(("fingerprint", corpus.fingerprint[:16]))
    return tuple(facts)


def histograms_of(counts: Mapping[str, Mapping[str, int]], sensors: Sequence[Sensor]) -> Iterable[Histogram]:
    """Season, year, cloud, length of series and GSD; a histogram of one bar tells nothing and is left out."""
    seen = [one.prefix for one in sensors if one.kind != "map"]
    for prefix in seen:
        months = counts.get(f"month_{prefix}", {})
        halves = {
            name: {MONTHS[int(key[1:]) - 1]: number for key, number in months.items() if key[0] == letter}
            for letter, name in HALVES.items()
        }
        halves = {name: amounts for name, amounts in halves.items() if amounts}
        if sum(len(amounts) for amounts in halves.values()) > 1:
            unknown = months.get("unknown", 0)
            yield Histogram(
                f"Season of {layer_name(prefix)} images",
                halves,
                MONTHS,
                "month",
                "images",
                f"{layer_name(prefix).capitalize()} images by month and hemisphere{_without(unknown, 'date')}.",
            )
    yield from _together(
        counts, seen, "year", "Year of images", "year", "images", "Images by year{}.", "date"
    )
    yield from _clouds(counts, seen)
    yield from _together(
        counts,
        seen,
        "dates",
        "Length of series",
        "images in a series",
        "samples",
        "Samples by the images each layer has of them.",
        "",
    )
    gsd = counts.get("gsd", {})
    if len(gsd) > 1:
        keys = tuple(sorted(gsd, key=lambda key: float(key.split("–")[0])))
        yield Histogram(
            "GSD of chips",
            {"samples": gsd},
            keys,
            "metres a pixel",
            "samples",
            "Samples by ground sample distance.",
        )


def same_of(counts: Mapping[str, Mapping[str, int]], sensors: Sequence[Sensor]) -> Iterable[tuple[str, str]]:
    """What is the same everywhere, and therefore no histogram: (what, the one value)."""
    for one in sensors:
        layer = layer_name(one.prefix)
        for name, what in (
            ("month", "month"),
            ("year", "year"),
            ("dates", "images in a series"),
            ("cloud", "cloud"),
        ):
            found = counts.get(f"{name}_{one.prefix}", {})
            if one.kind == "map" or len(found) != 1 or (name == "cloud" and one.kind != "multispectral"):
                continue
            (key,) = found
            if name == "month" and key != "unknown":
                key = f"{MONTHS[int(key[1:]) - 1]}, {HALVES[key[0]]}"
            if name == "cloud" and key != "unknown":
                key = f"{TENTHS[int(key)]} % of the chip"
            yield f"{layer}, {what}", key
    if len(counts.get("gsd", {})) == 1:
        yield "GSD of chips", f"{next(iter(counts['gsd']))} m"


def _clouds(counts: Mapping[str, Mapping[str, int]], seen: Sequence[str]) -> Iterable[Histogram]:
    groups, unknown = {}, 0
    for prefix in seen:
        told = {
            TENTHS[int(key)]: number
            for key, number in counts.get(f"cloud_{prefix}", {}).items()
            if key != "unknown"
        }
        if told:
            groups[layer_name(prefix)] = told
            unknown += counts[f"cloud_{prefix}"].get("unknown", 0)
    if len({key for amounts in groups.values() for key in amounts}) > 1:
        caption = f"Images by the share of their own chip under cloud{_without(unknown, 'word about it')}."
        yield Histogram("Cloud over chips", groups, TENTHS, "% of the chip", "images", caption)


def _together(
    counts: Mapping[str, Mapping[str, int]],
    seen: Sequence[str],
    name: str,
    title: str,
    x: str,
    y: str,
    caption: str,
    what: str,
) -> Iterable[Histogram]:
    """One histogram with a group for each layer, over whole numbers."""
    groups, unknown = {}, 0
    for prefix in seen:
        told = {key: number for key, number in counts.get(f"{name}_{prefix}", {}).items() if key != "unknown"}
        unknown += counts.get(f"{name}_{prefix}", {}).get("unknown", 0)
        if told:
            groups[layer_name(prefix)] = told
    found = {int(key) for amounts in groups.values() for key in amounts}
    if len(found) > 1:
        keys = tuple(str(number) for number in range(min(found), max(found) + 1))
        yield Histogram(title, groups, keys, x, y, caption.format(_without(unknown, what)))


def _without(number: int, what: str) -> str:
    return f"; {number:,} without a {what} are left out" if number else ""


def bands_of(corpus: Corpus, split: str, sensors: Sequence[Sensor]) -> Iterable[BandLine]:
    """Mean, standard deviation and valid pixels of every band of every measured layer."""
    if not split:
        return
    moments = corpus.stats(split)
    for known in sensors:
        if known.kind == "map" or known.prefix not in moments:
            continue
        sums = moments[known.prefix]
        for band, number, mean, std in zip(
            known.band_names, sums.count, sums.mean(), sums.std(), strict=True
        ):
            yield BandLine(
                layer_name(known.prefix),
                band,
                number,
                mean * known.scale if number else None,
                std * known.scale if number else None,
                known.unit,
            )


def rejected_of(root: Path, notes: list[str]) -> Iterable[Picture]:
    """A few pictures of what was refused, of each reason, from files spread evenly over the shards."""
    files = sorted((root / "rejects").glob("*.png"))
    shown: Counter[str] = Counter()
    for path in files[:: 1 + len(files) // REJECT_FILES]:
        try:
            found = load_rejects(path)
        except DataError as error:
            notes.append(str(error))
            continue
        for told, content in found:
            reason = str(told["reason"])
            if shown[reason] < REJECTS_SHOWN:
                shown[reason] += 1
                caption = str(told["detail"])
                yield Picture(
                    content, f"reject {reason}", f"Refused chip {told['chip']}, {words(reason)}", caption
                )


def shifts_of(counts: Mapping[str, Mapping[str, int]]) -> Iterable[Shifts]:
    """What was measured between each pair of layers."""
    half = round(0.5 / census.SHIFT_BIN)
    for name in sorted(counts):
        if not name.startswith("shift_"):
            continue
        pair, histogram = name.removeprefix("shift_"), counts[name]
        total = sum(histogram.values())
        beyond = sum(number for key, number in histogram.items() if int(key) >= half)
        yield Shifts(
            pair_name(pair),
            total,
            census.median(histogram),
            beyond / total,
            census.median(counts.get(f"right_{pair}", {})),
            census.median(counts.get(f"down_{pair}", {})),
        )


def flags_of(
    counts: Mapping[str, Mapping[str, int]], sensors: Sequence[Sensor]
) -> tuple[tuple[str, str, int], ...]:
    """(layer, what a check found odd, images), the commonest first."""
    found = [
        (layer_name(one.prefix), flag, number)
        for one in sensors
        for flag, number in counts.get(f"flag_{one.prefix}", {}).items()
    ]
    return tuple(sorted(found, key=lambda entry: -entry[2]))


def recorded_of(
    counts: Mapping[str, Mapping[str, int]], sensors: Sequence[Sensor]
) -> tuple[tuple[str, str, str], ...]:
    """(layer, what is recorded of its images, values with their numbers) of everything that has few values."""
    out = []
    for one in sensors:
        for name in (*census.FEW, "resampled"):
            told = counts.get(f"{name}_{one.prefix}", {})
            if told and set(told) != {"unknown"}:
                shown = sorted(told.items(), key=lambda item: -item[1])
                text = ", ".join(f"{value} {number:,}" for value, number in shown[:8])
                more = f" and {len(shown) - 8} more" if shown[8:] else ""
                out.append((layer_name(one.prefix), words(name), text + more))
    return tuple(out)


def duplicates_of(corpus: Corpus, sensors: Sequence[Sensor]) -> Iterable[Duplicates]:
    """How many samples repeat the exact pixels of another, layer by layer; maps repeat themselves by nature."""
    seen: dict[str, Counter[str]] = {one.prefix: Counter() for one in sensors if one.kind != "map"}
    for sample in corpus.samples():
        for prefix, layer in sample["layers"].items():
            if prefix in seen:
                seen[prefix][layer["pixel_hash"]] += 1
    for prefix, hashes in seen.items():
        if hashes:
            yield Duplicates(layer_name(prefix), hashes.total(), hashes.total() - len(hashes))


def terms_of(counts: Mapping[str, Mapping[str, int]]) -> Iterable[Terms]:
    """Licences and attributions, the most frequent first."""
    told = sorted(counts.get("licence", {}).items(), key=lambda item: -item[1])
    for key, number in told:
        prefix, licence, attribution, free = json.loads(key)
        yield Terms(layer_name(prefix), licence, attribution, free, number)


def scenes_of(corpus: Corpus, sensors: Sequence[Sensor]) -> tuple[tuple[str, str, int], ...]:
    """(layer, scene, samples it is in) of every scene the corpus is pinned to."""
    maps = {one.prefix for one in sensors if one.kind == "map"}
    uses = Counter(
        (prefix, scene)
        for sample in corpus.samples()
        for prefix, layer in sample["layers"].items()
        if prefix not in maps
        for scene in layer["item_ids"]
    )
    return tuple((layer_name(prefix), scene, number) for (prefix, scene), number in sorted(uses.items()))


def environment_of(values: Json) -> tuple[tuple[str, str], ...]:
    """Where and with what the corpus was made."""
    names = ("python", "platform", "cpus", "commit", "command", "started")
    told = [(name, redacted(str(values[name]))) for name in names if values.get(name)]
    return tuple(told + [(name, str(version)) for name, version in (values.get("packages") or {}).items()])


def requests_of(stage: Json) -> tuple[Requests, ...]:
    """What the governor counted of each service while the corpus was made, as far as it was kept."""
    found = stage.get("requests") or {}
    return tuple(
        Requests(str(endpoint), *(int(numbers.get(name) or 0) for name in ("granted", "throttled", "peak")))
        for endpoint, numbers in sorted(found.items())
    )


def exports_of(root: Path) -> tuple[tuple[str, str, str], ...]:
    """(what, path, size) of the exports that lie in a folder."""
    known = (
        ("GeoParquet index, a row a sample", "index.parquet"),
        ("STAC collection", "stac/collection.json"),
        ("STAC items as stac-geoparquet", "stac/items.parquet"),
        ("Croissant", "croissant.json"),
    )
    return tuple(
        (what, name, size((root / name).stat().st_size)) for what, name in known if (root / name).exists()
    )


def pair_name(pair: str) -> str:
    """What was measured against what, as readers say it: layers, dates of one layer, or bands of one."""
    layer, _, bands = pair.partition(" ")
    if bands:
        return f"{layer_name(layer)}, {bands.replace('-', ' to ')}"
    one, _, other = layer.partition("-")
    return f"{layer_name(one)}, date to date" if one == other else f"{layer_name(one)} to {layer_name(other)}"


def layer_name(prefix: str) -> str:
    """A layer as readers call it."""
    return LAYERS.get(prefix, prefix)


def figures(value: float | None) -> str:
    """A number to four figures; a dash where there is none."""
    return "–" if value is None or value != value else f"{value:#.4g}".rstrip(".")
