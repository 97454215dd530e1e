"""What a chip is taken to cost where nobody has measured it: numbers that are stated, and marked as assumed.

Sources that know their own price (`Priced`) are asked for it, which contacts nobody; for one that cannot be opened here,
because its key or its account is elsewhere, the price of its kind stands in. Each assumption is one sentence in
`Assumed.notes`, so that a forecast can say what it rests on. A pilot replaces nearly all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from geodata import webmercator
from geodata.costs import NOTHING, Endpoint, Load, Range
from geodata.errors import DataError
from geodata.grid import Grid, chip_grid
from geodata.layout import ChipSpec, TileSpec
from geodata.sensors import LANDCOVER
from geodata.source import Ask, Priced
from geodata.spec import CorpusSpec, SensorSpec

ACCEPTED = Range(0.5, 0.8, 1.0)
"""Share of the chips that pass."""

CPU_S = {"search": Range(0.001, 0.003, 0.02)}
"""CPU seconds of a search, of one chip through one sensor."""
CPU_S_PER_MB = {
    "decode": Range(0.005, 0.1, 0.4),
    "check": Range(0.01, 0.03, 0.1),
    "write": Range(0.01, 0.02, 0.05),
    "verify": Range(0.002, 0.01, 0.02),
}
"""CPU seconds for a megabyte of pixels. Decoding depends most on whether neighbours share the blocks of the files that
are decoded: 0.4 where none does, 0.01 where many do, and as little for what comes without files."""

EECU_S_PER_MILLION = Range(1.3, 3.2, 6.4)
"""EECU-seconds for a million values, which is 1 to 5 for a picture of 512 x 512 in three bands."""

TRIED_DATES = Range(1.0, 1.5, 3.0)
"""Scenes read for each date kept, where clouds are looked for."""
REVISIT_DAYS = 2.5
"""Days between acquisitions, at best."""

PACKED = {
    "multispectral": Range(0.46, 0.57, 0.68),
    "radar": Range(0.60, 0.68, 0.75),
    "optical": Range(0.50, 0.70, 0.90),
    "map": Range(0.01, 0.05, 0.20),
}
"""Stored bytes for a byte of pixels, by kind of sensor: bytes split and zstd 1."""
AS_SERVED = Range(0.05, 0.09, 0.17)
"""The same where the original JPEG files are kept: quality 85 to 95."""
ROW_BYTES = 2_000.0
"""What a layer's columns take besides its pixels."""


@dataclass(frozen=True)
class Service:
    """A kind of source: what its endpoint is taken to allow, and what else is particular to it.

    `leases`: it asks the governor before every request, so that a pilot counts them. `eecu`: its requests use Earth
    Engine compute. `as_served`: its original files are kept.
    """

    name: str
    endpoint: Endpoint
    note: str
    leases: bool = True
    eecu: bool = False
    as_served: bool = False


SERVICES: Mapping[str, Service] = {
    "earth_engine": Service(
        "Earth Engine",
        Endpoint(40, 100.0, Range(0.5, 2.0, 8.0)),
        "Earth Engine allows a project 40 requests at once and 100 a second, and answers one in 0.5-8 s",
        eecu=True,
    ),
    "webtiles": Service(
        "map tiles",
        Endpoint(2, 2.0, Range(0.1, 0.3, 1.0)),
        "a tile server is asked for 2 tiles a second on 2 connections, unless its provider says otherwise",
        as_served=True,
    ),
    "stac": Service(
        "image files",
        Endpoint(64, 1_000.0, Range(0.03, 0.1, 0.4)),
        "a bucket of image files is read by 64 requests at once, each answered in 0.03-0.4 s",
        leases=False,
    ),
}
HERE = ("synthetic", "geotiff")
"""Sources without a service: files, and pictures that are computed."""
ELSEWHERE = Service(
    "service",
    Endpoint(8, 50.0, Range(0.1, 0.5, 2.0)),
    "a service that is not known here allows 8 requests at once and 50 a second, and answers one in 0.1-2 s",
)


def service_of(call: str) -> Service | None:
    """What is known of the source at an address, by its module; None for sources without a service."""
    module = call.rpartition(".")[0].rpartition(".")[2]
    return None if module in HERE else SERVICES.get(module, ELSEWHERE)


def remote(call: str) -> bool:
    """Whether opening and asking the source or map at an address means asking a service."""
    return call.rpartition(".")[0].rpartition(".")[2] in SERVICES


@dataclass(frozen=True)
class Part:
    """What one sensor contributes to a chip: dates kept and scenes read, its pictures and pixels."""

    sensor: str
    call: str
    side: int
    bands: int
    kept: Range
    read: Range
    requests: Range
    moved: Range
    stored: Range
    service: Service | None
    note: str = ""


@dataclass(frozen=True)
class Assumed:
    """The load of a chip as far as it can be told beforehand, the endpoints, and the sentences it all rests on."""

    parts: tuple[Part, ...]
    load: Load
    endpoints: Mapping[str, Endpoint]
    notes: tuple[str, ...] = field(default=())


def chips_a_point(spec: CorpusSpec) -> int:
    """Chips at each point: one, or one for each zoom of the range."""
    if not isinstance(spec.chip, TileSpec) or spec.chip.zooms == "nearest":
        return 1
    finest, coarsest = spec.chip.gsd_range
    return 1 + int(math.log2(coarsest / finest))


def example_grid(spec: CorpusSpec) -> Grid:
    """A chip as the spec's are, anywhere: prices depend on its size, not on its place."""
    if isinstance(spec.chip, TileSpec):
        zoom = int(webmercator.zoom_for(math.sqrt(math.prod(spec.chip.gsd_range)), 0.0, spec.chip.tile))
        return spec.chip.grid(webmercator.EPSG, zoom, 0, 0)
    return chip_grid(9.0, 45.0, spec.chip.gsd, spec.chip.size, lattice=spec.chip.lattice)


def assumed(spec: CorpusSpec) -> Assumed:
    """What a chip of a corpus is taken to cost. Opens the sources that can be opened, and contacts nobody."""
    grid = example_grid(spec)
    parts = tuple(_part(spec.chip, part, grid) for part in spec.sensors)
    requests: dict[str, Range] = {}
    endpoints: dict[str, Endpoint] = {}
    moved: dict[str, Range] = {}
    for part, given in zip(parts, spec.sensors, strict=True):
        moved[part.sensor] = part.moved
        if part.service is not None:
            name = part.service.name
            requests[name] = requests.get(name, NOTHING) + part.requests
            endpoints[name] = _endpoint(part.service, given)
    megabytes = [_megabytes(given, part, part.read) for part, given in zip(parts, spec.sensors, strict=True)]
    stored_mb = [_megabytes(given, part, part.kept) for part, given in zip(parts, spec.sensors, strict=True)]
    read_mb, kept_mb = sum(megabytes, NOTHING), sum(stored_mb, NOTHING)
    seconds = {"search": CPU_S["search"] * float(len(parts))}
    seconds |= {stage: CPU_S_PER_MB[stage] * read_mb for stage in ("decode", "check")}
    seconds |= {stage: CPU_S_PER_MB[stage] * kept_mb for stage in ("write", "verify")}
    stored = sum((part.stored for part in parts), NOTHING)
    if spec.labels:
        side = spec.chip.size
        stored += PACKED[LANDCOVER.kind] * float(side * side) + Range.exactly(ROW_BYTES)
    load = Load(
        accepted=ACCEPTED,
        seconds=seconds,
        requests=requests,
        moved=moved,
        stored=stored,
        eecu_s=sum((EECU_S_PER_MILLION * _millions(part) for part in parts if _computed(part)), NOTHING),
    )
    return Assumed(parts, load, endpoints, tuple(_notes(parts)))


def _notes(parts: Sequence[Part]) -> list[str]:
    notes = [
        f"{_share(ACCEPTED)} of the chips pass",
        "CPU takes "
        + ", ".join(
            f"{one.low:g}-{one.high:g} s a megabyte to {stage}" for stage, one in CPU_S_PER_MB.items()
        ),
    ]
    if any(part.read != part.kept for part in parts):
        notes.append(
            f"{TRIED_DATES.low:g}-{TRIED_DATES.high:g} scenes are read for each date kept, where clouds are looked for"
        )
    notes += [part.note for part in parts if part.note]
    notes += [part.service.note for part in parts if part.service is not None]
    if any(_computed(part) for part in parts):
        low, high = EECU_S_PER_MILLION.low, EECU_S_PER_MILLION.high
        notes.append(
            f"Earth Engine computes a million values in {low:g}-{high:g} EECU-seconds, which it tells nobody"
        )
    return list(dict.fromkeys(notes))


def _share(value: Range) -> str:
    return f"{100 * value.low:.0f}-{100 * value.high:.0f}%"


def _part(chip: ChipSpec | TileSpec, given: SensorSpec, ground: Grid) -> Part:
    side, bands = given.side(chip), len(given.picked.bands)
    kept = Range(given.min_dates, (given.min_dates + given.dates) / 2, given.dates)
    read = _scenes_read(given)
    service = service_of(given.source.call)
    grid = given.grid(chip, ground)
    note, asks = "", [_typical(service, given, scenes, side) for scenes in (read.low, read.middle, read.high)]
    try:
        source = given.source.open() if service is not None else None
    except (ValueError, DataError) as error:
        note = f"{given.sensor} is priced as {service.name if service else 'files'} usually are: {error}"
        source = None
    if isinstance(source, Priced):
        asks = [source.cost(math.ceil(scenes), grid) for scenes in (read.low, read.middle, read.high)]
    pixels = float(side * side * bands * given.picked.numpy_dtype.itemsize)
    packed = AS_SERVED if service is not None and service.as_served else PACKED[given.picked.kind]
    return Part(
        sensor=given.sensor,
        call=given.source.call,
        side=side,
        bands=bands,
        kept=kept,
        read=read,
        requests=_ascending([ask.requests for ask in asks]),
        moved=_ascending([ask.bytes for ask in asks]),
        stored=kept * packed * pixels + Range.exactly(ROW_BYTES),
        service=service,
        note=note,
    )


def _scenes_read(given: SensorSpec) -> Range:
    """Scenes whose pixels are read to keep so many dates; no more than the archive can have."""
    if given.max_cloud >= 1.0 or (given.picked.kind != "multispectral" and given.select != "clearest"):
        return Range.exactly(float(given.dates))
    period = given.period
    there = max(float(given.dates), (period.last - period.first).days / REVISIT_DAYS)
    wanted = TRIED_DATES * float(given.dates)
    return Range(*(min(there, end) for end in (wanted.low, wanted.middle, wanted.high)))


def _typical(service: Service | None, given: SensorSpec, scenes: float, side: int) -> Ask:
    """The price of a kind of source that cannot be asked itself."""
    if service is None:
        return Ask(0.0, 0.0)
    values = scenes * len(given.picked.bands) * side * side
    if service.as_served:
        tiles = scenes * math.ceil(side / webmercator.TILE) ** 2
        return Ask(tiles, tiles * 25e3)
    size = values * (given.picked.numpy_dtype.itemsize + 1)
    if service.leases:
        return Ask(1.0 + math.ceil(size / 38e6), size)
    windows = scenes * len(given.picked.bands)
    return Ask(1.0 + 2.5 * windows, windows * 0.8e6)


def _endpoint(service: Service, given: SensorSpec) -> Endpoint:
    """What the service allows; the address may say that this account is allowed something else."""
    options = given.source.options
    providers = options.get("providers", ())
    allowed = [options, *(one for one in providers if isinstance(one, Mapping))]
    at_once = sum(int(one.get("concurrency", one.get("connections", 0))) for one in allowed)
    a_second = sum(float(one.get("per_second", 0.0)) for one in allowed)
    servers = max(1, len(providers))
    return Endpoint(
        at_once or service.endpoint.concurrency * servers,
        a_second or service.endpoint.per_second * servers,
        service.endpoint.answer_s,
    )


def _megabytes(given: SensorSpec, part: Part, dates: Range) -> Range:
    return dates * (part.side * part.side * part.bands * given.picked.numpy_dtype.itemsize / 1e6)


def _millions(part: Part) -> Range:
    return part.read * (part.side * part.side * part.bands / 1e6)


def _computed(part: Part) -> bool:
    return part.service is not None and part.service.eecu


def _ascending(values: Sequence[float]) -> Range:
    low, middle, high = values
    return Range(low, max(low, middle), max(low, middle, high))
