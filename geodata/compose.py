"""From a chip to a sample: pick scenes, read them onto the chip's grids, check, stack.

Sources say what there is; here it is decided what is taken. A chip is judged by its own pixels, never by a scene's
cloud percentage: a scene half under cloud has clear chips. At most one acquisition is kept for each day, because
neighbouring tiles of one overpass are not two observations.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from geodata.chips import Chip
from geodata.errors import Corrupt, Missing
from geodata.grid import Grid
from geodata.landcover import STRATA, LandCover
from geodata.quality import Reason, check
from geodata.sample import Layer, Sample
from geodata.sensors import LANDCOVER
from geodata.source import ImagerySource, Raster, Scene
from geodata.spec import CorpusSpec, SensorSpec

log = logging.getLogger(__name__)

Pinned = Mapping[str, Sequence[str]]
"""Layer prefix -> ids of the scenes it must be made of, oldest first."""

LABELS = ("landcover", "stratum_percent")
"""Labels of a sample whose corpus stores land cover: the code that covers most of the chip (255 where the map says
nothing), and how much of the chip (whole percent) belongs to the stratum it was drawn for."""


@dataclass(frozen=True)
class Rejection:
    """A chip refused: why, in one word and in one sentence."""

    chip_id: str
    reason: Reason
    detail: str = ""


def select(scenes: Sequence[Scene], part: SensorSpec, seed: int, epsg: int | None = None) -> list[Scene]:
    """Scenes in the order in which they are to be tried, by metadata alone.

    'all': by date. 'clearest': by the scene's own `cloud` where every scene tells it, else by date. 'spread': the
    period is cut into as many equal slots as dates are wanted, each with a target day at the same (seeded) place;
    first the scene nearest to each target, then the second nearest of each, and so on. Of one day, scenes in
    zone `epsg` come first.
    """
    by_day = sorted(scenes, key=lambda scene: (scene.date, scene.epsg != epsg, scene.scene_id))
    if part.select == "clearest" and _told(scenes):
        return sorted(by_day, key=lambda scene: _cloud(scene))
    if part.select != "spread" or not scenes:
        return by_day
    first, days = part.period.first, (part.period.last - part.period.first).days
    width, place = days / part.dates, float(np.random.default_rng(seed).random())
    slots: dict[int, list[tuple[float, Scene]]] = {}
    for scene in by_day:
        since = (scene.date - first).days
        slot = min(int(since / width), part.dates - 1)
        slots.setdefault(slot, []).append((abs(since - (slot + place) * width), scene))
    ranked = [
        (rank, slot, scene)
        for slot, members in slots.items()
        for rank, (_, scene) in enumerate(sorted(members, key=lambda member: member[0]))
    ]
    return [scene for _, _, scene in sorted(ranked, key=lambda entry: entry[:2])]


def compose(
    chip: Chip,
    spec: CorpusSpec,
    sources: Mapping[str, ImagerySource],
    landcover: LandCover | None = None,
    pinned: Pinned | None = None,
) -> Sample | Rejection:
    """One chip through all its sensors, or why not. `sources` are by sensor name.

    With `pinned`, exactly those scenes are read and nothing is judged: a sample that was accepted is made again.
    Raises Transient, and with `pinned` also Missing (a scene is gone) and Corrupt.
    """
    layers: dict[str, Layer] = {}
    for part in spec.sensors:
        source = sources[part.sensor]
        prefix = part.picked.prefix
        if pinned is not None:
            if prefix in pinned:
                layers[prefix] = _layer(part, _again(chip, part, source, pinned[prefix]))
            continue
        kept, refusal = _observe(chip, part, source, _seed(spec.seed, chip.chip_id, prefix))
        if refusal is not None:
            return refusal
        if kept:
            layers[prefix] = _layer(part, kept)
    labels: dict[str, int] = {}
    if spec.labels and landcover is not None:
        layers[LANDCOVER.prefix], labels = _covered(chip, spec, landcover)
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
    )


Kept = list[tuple[Scene, Raster]]


def _observe(chip: Chip, part: SensorSpec, source: ImagerySource, seed: int) -> tuple[Kept, Rejection | None]:
    """Up to `dates` acquisitions that pass, oldest first; or the rejection, when too few do."""
    grid = chip.grid.at(part.stored_gsd)
    try:
        scenes = source.search(grid, part.period)
    except (Missing, Corrupt) as error:
        return [], Rejection(chip.chip_id, "corrupt" if isinstance(error, Corrupt) else "missing", str(error))
    ranked_by_pixels = part.select == "clearest" and len(scenes) > part.dates and not _told(scenes)
    kept: Kept = []
    refused: Counter[Reason] = Counter()
    detail = ""
    for scene in select(scenes, part, seed, grid.epsg):
        if len(kept) == part.dates and not ranked_by_pixels:
            break
        if any(scene.date == other.date for other, _ in kept):
            continue
        raster, reason, told = _try(part, source, scene, grid)
        if raster is not None and reason is None:
            kept.append((scene, raster))
        elif reason is not None:
            refused[reason] += 1
            detail = detail or told
    if ranked_by_pixels:
        kept = sorted(kept, key=lambda pair: (_unknown_last(pair[1].share("cloud")), pair[0].date))
    kept = sorted(kept[: part.dates], key=lambda pair: pair[0].date)
    if len(kept) >= part.min_dates:
        return kept, None
    why = ", ".join(f"{reason} {count}" for reason, count in sorted(refused.items()))
    told = (
        f"{part.sensor}: of {len(scenes)} scenes in {part.period}, {len(kept)} pass and {part.min_dates} must"
    )
    told += f" ({why})" if why else ""
    told += f": {detail}" if detail else ""
    word: Reason = "no_scene" if not scenes else "too_few_dates"
    if not kept and refused:
        word = max(sorted(refused), key=lambda known: refused[known])
    return [], Rejection(chip.chip_id, word, told)


def _try(
    part: SensorSpec, source: ImagerySource, scene: Scene, grid: Grid
) -> tuple[Raster | None, Reason | None, str]:
    """One scene on one grid: its raster and None, or why not, with a sentence where the source gave one."""
    wanted = part.picked.band_names
    if scene.assets and any(scene.asset(band) is None for band in wanted):
        absent = next(band for band in wanted if scene.asset(band) is None)
        return None, "missing_band", f"scene {scene.scene_id} has no band {absent}"
    try:
        raster = _picked(source.read(scene, grid), part, grid)
    except Missing as error:
        return None, "missing", str(error)
    except Corrupt as error:
        log.warning("scene %s is left out: %s", scene.scene_id, error)
        return None, "corrupt", str(error)
    return raster, check(scene, raster, max_cloud=part.max_cloud, min_valid=part.min_valid), ""


def _picked(raster: Raster, part: SensorSpec, grid: Grid) -> Raster:
    """The wanted bands of a raster, on the grid that was asked for."""
    if raster.grid != grid:
        raise ValueError(
            f"the source of {part.sensor} answered with {raster.grid}, not the grid asked for, {grid}; mend it"
        )
    wanted = part.picked.band_names
    if raster.bands == wanted:
        return raster
    absent = [band for band in wanted if band not in raster.bands]
    if absent:
        raise Missing(
            f"the source of {part.sensor} delivers no {', '.join(absent)}; take it out of `bands`, or mend the source"
        )
    rows = [raster.bands.index(band) for band in wanted]
    return Raster(raster.values[rows], raster.valid, raster.grid, wanted, raster.resampled, raster.scl)


def _again(chip: Chip, part: SensorSpec, source: ImagerySource, ids: Sequence[str]) -> Kept:
    """The scenes of a recorded sample, read again."""
    grid = chip.grid.at(part.stored_gsd)
    found = {scene.scene_id: scene for scene in source.search(grid, part.period)}
    gone = [scene_id for scene_id in ids if scene_id not in found]
    if gone:
        raise Missing(
            f"sample {chip.chip_id} was made of {part.sensor} scene {gone[0]}, which {part.source.call} no longer "
            f"finds; restore the scene, or curate anew"
        )
    return [(found[scene_id], _picked(source.read(found[scene_id], grid), part, grid)) for scene_id in ids]


def _layer(part: SensorSpec, kept: Kept) -> Layer:
    scenes, rasters = [scene for scene, _ in kept], [raster for _, raster in kept]
    classified = all(raster.scl is not None for raster in rasters)
    sensor = part.picked
    return Layer(
        sensor=sensor,
        pixels=np.stack([raster.values for raster in rasters]),
        dates=tuple(scene.date for scene in scenes),
        item_ids=tuple(scene.scene_id for scene in scenes),
        source=part.source.call,
        cloud=tuple(raster.share("cloud") for raster in rasters),
        nodata=tuple(1.0 - raster.share("valid") for raster in rasters),
        resampled=tuple(raster.resampled for raster in rasters),
        properties={name: tuple(_text(scene.get(name)) for scene in scenes) for name in sensor.per_date},
        scl=np.stack([raster.scl for raster in rasters if raster.scl is not None]) if classified else None,
        gsd=part.stored_gsd,
    )


def _covered(chip: Chip, spec: CorpusSpec, landcover: LandCover) -> tuple[Layer, dict[str, int]]:
    """The land-cover map on the chip's grid, as a layer of one date, and what it says of the chip as a whole."""
    raster = landcover.read(chip.grid)
    codes, counts = np.unique(raster.values[0][raster.valid], return_counts=True)
    strata = landcover.classes.strata_of(codes)
    own = counts[[STRATA[index] == chip.stratum if index >= 0 else False for index in strata]].sum()
    labels = {
        "landcover": int(codes[counts.argmax()]) if codes.size else LANDCOVER.nodata,
        "stratum_percent": round(100 * float(own) / raster.valid.size),
    }
    layer = Layer(
        sensor=LANDCOVER,
        pixels=raster.values[None],
        dates=(spec.sensors[0].period.first,),
        item_ids=(landcover.classes.name,),
        source=spec.landcover.call,
        nodata=(1.0 - raster.share("valid"),),
        gsd=chip.grid.gsd,
    )
    return layer, labels


def _told(scenes: Sequence[Scene]) -> bool:
    return all(isinstance(scene.get("cloud"), int | float) for scene in scenes)


def _cloud(scene: Scene) -> float:
    return float(scene.get("cloud") or 0.0)


def _unknown_last(share: float) -> float:
    return 2.0 if share != share else share


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _seed(*parts: object) -> int:
    """A seed that is the same on any machine for the same corpus seed, chip and layer."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "little")
