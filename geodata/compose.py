"""From a chip to a sample: read scenes onto the chip's grids, judge them, stack them, and prove what was made.

Sources say what there is, `choosing` in which order it is tried; here it is decided what is taken. A chip is judged
by its own pixels, never by a scene's cloud percentage: a scene half under cloud has clear chips. At most one
acquisition is kept for each day, because neighbouring tiles of one overpass are not two observations. Nothing is decided
by luck: a service that does not answer for one scene costs the chip its place until it is asked for again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from geodata import alignment, contamination, likeness
from geodata.chips import Chip
from geodata.choosing import by_orbit, considered, products, select
from geodata.errors import Corrupt, DataError, Missing, Transient
from geodata.grid import Grid
from geodata.landcover import STRATA, LandCover
from geodata.quality import Reason
from geodata.reading import Colours, Kept, Reader, barred, fetched, held, kept, picked
from geodata.sample import Layer, Sample, judged
from geodata.sensors import LANDCOVER
from geodata.source import ImagerySource, Raster, Recalling, Scene
from geodata.spec import CorpusSpec, SensorSpec

Pinned = Mapping[str, Sequence[str]]
"""Layer prefix -> ids of the scenes it must be made of, oldest first."""

LABELS = ("landcover", "stratum_percent")
"""Labels of a sample whose corpus stores land cover: the code that covers most of the chip (255 where the map says
nothing), and how much of the chip (whole percent) belongs to the stratum it was drawn for."""


@dataclass(frozen=True)
class Rejection:
    """A chip refused: why, in one word and in one sentence.

    `considered` are, by layer, digests of what the searches returned until then; `preview` (h, w, 3) shows what was
    refused, where pixels were the reason.
    """

    chip_id: str
    reason: Reason
    detail: str = ""
    considered: Mapping[str, str] = field(default_factory=dict)
    preview: Colours | None = field(default=None, compare=False, repr=False)


class _Refused(Exception):
    """A chip cannot become a sample. Never leaves this module."""

    def __init__(self, reason: Reason, detail: str, preview: Colours | None = None) -> None:
        super().__init__(detail)
        self.reason: Reason = reason
        self.preview = preview


def compose(
    chip: Chip,
    spec: CorpusSpec,
    sources: Mapping[str, ImagerySource],
    landcover: LandCover | None = None,
    pinned: Pinned | None = None,
    known: Sample | None = None,
) -> Sample | Rejection:
    """One chip through all its sensors, or why not. `sources` are by sensor name.

    With `pinned`, exactly those scenes are read and nothing is judged: a sample that was accepted is made again.
    With `known`, the same chip in an earlier version of the corpus, scenes that it holds are taken from there and not
    asked for, and judged like others; those that its layers say were refused are not asked for either. `landcover` is asked where the spec stores labels or wants a `min_share`.
    Raises Denied, and with `pinned` also Transient, Missing (a scene is gone) and Corrupt.
    """
    if pinned is not None:
        layers = {
            part.picked.prefix: _again(chip, spec, part, sources[part.sensor], pinned[part.picked.prefix])
            for part in spec.sensors
            if part.picked.prefix in pinned
        }
        cover = landcover.read(chip.grid) if spec.labels and landcover is not None else None
        matches = [*_benchmarks(chip, spec), *_pictures(spec, layers)]
        return _sample(chip, spec, layers, landcover, cover, matches)
    seen: dict[str, str] = {}
    try:
        cover = _cover(chip, spec, landcover)
        matches = _free(spec, _benchmarks(chip, spec))
        layers = {}
        for part in spec.sensors:
            prefix = part.picked.prefix
            before = known.layers.get(prefix) if known is not None else None
            layer = _observed(chip, spec, part, sources[part.sensor], before, seen)
            if layer is not None:
                layers[prefix] = layer
        matches = [*matches, *_free(spec, _pictures(spec, layers))]
        return _sample(chip, spec, layers, landcover, cover, matches)
    except _Refused as refusal:
        return Rejection(chip.chip_id, refusal.reason, str(refusal), seen, refusal.preview)
    except Transient as error:
        return Rejection(chip.chip_id, "unavailable", str(error), seen)


def _observed(
    chip: Chip,
    spec: CorpusSpec,
    part: SensorSpec,
    source: ImagerySource,
    before: Layer | None,
    seen: dict[str, str],
) -> Layer | None:
    """The layer of one sensor, None where it may be absent and is. Raises _Refused with the reason most scenes have."""
    grid, prefix = part.grid(spec.chip, chip.grid), part.picked.prefix
    try:
        scenes = source.search(grid, part.period)
    except (Missing, Corrupt) as error:
        raise _Refused("corrupt" if isinstance(error, Corrupt) else "missing", str(error)) from error
    seen[prefix] = considered(scenes)
    if part.picked.kind == "radar" and len(products(scenes)) > 1:
        raise _Refused(
            "mixed_product",
            f"{part.source.call} offers {' and '.join(products(scenes))} for one chip, which must not meet in a layer; "
            f"let it search one of them",
        )
    reader = Reader(part, source, grid, held(before, part, grid), barred(before))
    seed = _seed(spec.seed, chip.chip_id, prefix)
    views = list(by_orbit(scenes)) if part.orbit == "one" else [("", list(scenes))]
    best: Kept = []
    for _, members in views:
        best = max(best, kept(select(members, part, seed, grid.epsg, chip.draw), part, reader), key=len)
        if len(best) >= max(part.min_dates, 1):
            break
    if len(best) < part.min_dates:
        raise _too_few(part, scenes, best, reader)
    if not best:
        return None
    layer = _layer(part, best, spec, grid)
    return replace(layer, considered=seen[prefix], refused=dict(reader.refused))


def _too_few(part: SensorSpec, scenes: Sequence[Scene], kept: Kept, reader: Reader) -> _Refused:
    """The refusal of a chip of which fewer acquisitions passed than are wanted."""
    counts = Counter(reader.refused.values())
    why = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))
    told = (
        f"{part.sensor}: of {len(scenes)} scenes in {part.period}, {len(kept)} pass and {part.min_dates} must"
    )
    told += " in one orbit" if part.orbit == "one" else ""
    told += f" ({why})" if why else ""
    told += f": {reader.told}" if reader.told else ""
    word: Reason = "no_scene" if not scenes else "too_few_dates"
    if not kept and counts:
        word = max(sorted(counts), key=lambda reason: counts[reason])
    return _Refused(word, told, reader.previews.get(word, next(iter(reader.previews.values()), None)))


def _again(
    chip: Chip, spec: CorpusSpec, part: SensorSpec, source: ImagerySource, ids: Sequence[str]
) -> Layer:
    """The scenes of a recorded sample, read again. Raises Missing, Corrupt and Transient."""
    grid = part.grid(spec.chip, chip.grid)
    found = {scene.scene_id: scene for scene in source.search(grid, part.period)}
    seen = considered(list(found.values()))
    gone = [scene_id for scene_id in ids if scene_id not in found]
    if gone and isinstance(source, Recalling):
        found |= dict(zip(gone, source.by_ids(gone), strict=True))
    elif gone:
        raise Missing(
            f"sample {chip.chip_id} was made of {part.sensor} scene {gone[0]}, which {part.source.call} no longer "
            f"finds; restore the scene, or curate anew"
        )
    scenes = [found[scene_id] for scene_id in ids]
    kept: Kept = []
    for scene, answer in zip(scenes, fetched(source, scenes, grid), strict=True):
        if isinstance(answer, DataError):
            raise answer
        kept.append((scene, picked(answer, part, grid)))
    return replace(_layer(part, kept, spec, grid), considered=seen)


def _layer(part: SensorSpec, kept: Kept, spec: CorpusSpec, grid: Grid) -> Layer:
    """What was kept of one sensor, stacked, with everything that is known of each date."""
    scenes, rasters = [scene for scene, _ in kept], [raster for _, raster in kept]
    sensor, pixels = part.picked, np.stack([raster.values for raster in rasters])
    properties = {name: tuple(_text(scene.get(name)) for scene in scenes) for name in sensor.per_date}
    layer = Layer(
        sensor=sensor,
        pixels=pixels,
        dates=tuple(scene.date for scene in scenes),
        item_ids=tuple(scene.scene_id for scene in scenes),
        source=part.source.call,
        cloud=tuple(raster.share("cloud") for raster in rasters),
        nodata=tuple(1.0 - raster.share("valid") for raster in rasters),
        resampled=tuple(raster.resampled for raster in rasters),
        properties=properties,
        scl=_stacked([raster.scl for raster in rasters]),
        gsd=grid.gsd,
        license=_together(scenes, "license"),
        attribution=_together(scenes, "attribution"),
        redistribute=all(scene.get("redistribute", True) is True for scene in scenes),
        encoded=tuple(raster.encoded for raster in rasters if raster.encoded is not None)
        if all(raster.encoded is not None for raster in rasters)
        else (),
        phash=likeness.perceptual_of(sensor, pixels[0]),
        hrefs={scene.scene_id: remote for scene in scenes if (remote := _remote(scene))},
    )
    return judged(layer)


def _sample(
    chip: Chip,
    spec: CorpusSpec,
    layers: dict[str, Layer],
    landcover: LandCover | None,
    cover: Raster | None,
    matches: Sequence[contamination.Match],
) -> Sample:
    """The sample of these layers, with its proofs. Raises ValueError when a layer does not lie on the chip."""
    labels: dict[str, int] = {}
    grids = {part.picked.prefix: part.grid(spec.chip, chip.grid) for part in spec.sensors}
    if spec.labels and landcover is not None and cover is not None:
        layers[LANDCOVER.prefix], labels = _covered(chip, spec, landcover, cover)
        grids[LANDCOVER.prefix] = cover.grid
    crooked = alignment.misfit(chip.grid, grids)
    if crooked is not None:
        raise ValueError(f"sample {chip.chip_id} is not aligned: {crooked}; mend the spec or the source")
    return Sample(
        sample_id=chip.chip_id,
        split=chip.split,
        lon=chip.lon,
        lat=chip.lat,
        grid=chip.grid,
        stratum=chip.stratum,
        layers=layers,
        continent=chip.region,
        region_id=chip.region_id,
        cell_id=chip.block_id,
        sampling_weight=chip.weight,
        labels=labels,
        shifts=alignment.shifts(layers),
        contamination=tuple(map(str, matches)),
    )


def _benchmarks(chip: Chip, spec: CorpusSpec) -> list[contamination.Match]:
    rule = spec.contamination
    return contamination.near_ground(chip.grid, rule.benchmarks, rule.buffer_km) if rule.benchmarks else []


def _pictures(spec: CorpusSpec, layers: Mapping[str, Layer]) -> list[contamination.Match]:
    rule = spec.contamination
    hashes = [layer.phash for layer in layers.values() if layer.sensor.kind in ("optical", "multispectral")]
    return contamination.same_pictures(hashes, rule.images, rule.near_bits) if rule.images else []


def _free(spec: CorpusSpec, matches: list[contamination.Match]) -> list[contamination.Match]:
    """The same matches. Raises _Refused where the spec excludes what one of them is near to."""
    match = contamination.excluding(matches) if spec.contamination.action == "exclude" else None
    if match is not None:
        raise _Refused("contaminated", str(match))
    return matches


def _cover(chip: Chip, spec: CorpusSpec, landcover: LandCover | None) -> Raster | None:
    """The land-cover map on the chip's grid, where it is wanted. Raises _Refused for a chip that is too mixed."""
    if landcover is None or not (spec.labels or spec.min_share):
        return None
    cover = landcover.read(chip.grid)
    share = _own_share(chip, landcover, cover)
    if share < spec.min_share:
        raise _Refused(
            "mixed", f"{chip.stratum} covers {share:.0%} of the chip, and {spec.min_share:.0%} must be"
        )
    return cover


def _own_share(chip: Chip, landcover: LandCover, cover: Raster) -> float:
    """Share of the chip's ground that the map gives to the chip's own stratum."""
    codes, counts = np.unique(cover.values[0][cover.valid], return_counts=True)
    strata = landcover.classes.strata_of(codes)
    own = [STRATA[index] == chip.stratum if index >= 0 else False for index in strata]
    return float(counts[np.array(own, bool)].sum()) / cover.valid.size


def _covered(
    chip: Chip, spec: CorpusSpec, landcover: LandCover, cover: Raster
) -> tuple[Layer, dict[str, int]]:
    """The land-cover map as a layer of one date, and what it says of the chip as a whole."""
    codes, counts = np.unique(cover.values[0][cover.valid], return_counts=True)
    labels = {
        "landcover": int(codes[counts.argmax()]) if codes.size else LANDCOVER.nodata,
        "stratum_percent": round(100 * _own_share(chip, landcover, cover)),
    }
    layer = Layer(
        sensor=LANDCOVER,
        pixels=cover.values[None],
        dates=(spec.sensors[0].period.first,),
        item_ids=(landcover.classes.name,),
        source=spec.landcover.call,
        nodata=(1.0 - cover.share("valid"),),
        gsd=chip.grid.gsd,
    )
    return layer, labels


def _together(scenes: Sequence[Scene], name: str) -> str:
    """What all scenes say, each word once."""
    return "; ".join(sorted({str(scene.get(name)) for scene in scenes if scene.get(name)}))


def _remote(scene: Scene) -> dict[str, str]:
    """Addresses of a scene's files, of those that another machine could open."""
    return {band: address for band, address in scene.assets if "://" in address}


def _stacked(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    there = [part for part in parts if part is not None]
    return np.stack(there) if len(there) == len(parts) else None


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _seed(*parts: object) -> int:
    """A seed that is the same on any machine for the same corpus seed, chip and layer."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "little")
