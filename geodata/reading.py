"""Reading scenes of one sensor onto one grid and judging them, scene by scene.

One place knows how a source is asked (several scenes at a time where it can stack them), what is held already from an
earlier version of a corpus, and why a scene was refused.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from geodata.choosing import day_of, told
from geodata.errors import Corrupt, DataError, Missing
from geodata.grid import Grid
from geodata.preview import preview
from geodata.quality import Reason, check
from geodata.sample import Layer
from geodata.source import ImagerySource, Raster, Scene, Stacking
from geodata.spec import SensorSpec

log = logging.getLogger(__name__)

Kept = list[tuple[Scene, Raster]]
Colours = NDArray[np.uint8]


def kept(ranked: Sequence[Scene], part: SensorSpec, reader: Reader) -> Kept:
    """Up to `dates` acquisitions that pass, of different days, oldest first.

    As many scenes are asked for at a time as dates are still wanted, so that a source that can stack them is asked
    once. Where the clearest are wanted and no scene tells its cloud, all are read and their pixels decide.
    """
    optical = part.picked.kind == "multispectral"
    by_pixels = optical and part.select == "clearest" and len(ranked) > part.dates and not told(ranked)
    passed: Kept = []
    left = list(ranked)
    while left and (by_pixels or len(passed) < part.dates):
        days = {scene.date for scene, _ in passed} - {None}
        batch: list[Scene] = []
        later: list[Scene] = []
        for scene in left:
            if scene.date in days:
                continue
            if any(scene.date == other.date for other in batch if other.date is not None):
                later.append(scene)
            elif by_pixels or len(batch) < part.dates - len(passed):
                batch.append(scene)
            else:
                later.append(scene)
        passed += [(scene, raster) for scene, raster in reader.read(batch) if raster is not None]
        left = later
    if by_pixels:
        passed.sort(key=lambda pair: (_unknown_last(pair[1].share("cloud")), day_of(pair[0])))
    return sorted(passed[: part.dates], key=lambda pair: (*day_of(pair[0]), pair[0].scene_id))


@dataclass
class Reader:
    """Reads scenes of one sensor onto one grid and judges them; keeps account, and a picture, of what was refused.

    `held` are scenes that need not be read, `barred` those that were read and refused before.
    """

    part: SensorSpec
    source: ImagerySource
    grid: Grid
    held: Mapping[str, Raster]
    barred: Mapping[str, Reason] = field(default_factory=dict)
    refused: dict[str, Reason] = field(default_factory=dict)
    previews: dict[Reason, Colours] = field(default_factory=dict)
    told: str = ""

    def read(self, scenes: Sequence[Scene]) -> list[tuple[Scene, Raster | None]]:
        """Each scene with its raster, or with None when it was refused. Raises Transient."""
        known = self.held.keys() | self.barred.keys()
        fresh = [scene for scene in scenes if scene.scene_id not in known and not self._lacks_band(scene)]
        answers = dict(
            zip((scene.scene_id for scene in fresh), fetched(self.source, fresh, self.grid), strict=True)
        )
        return [(scene, self._judged(scene, answers)) for scene in scenes]

    def _lacks_band(self, scene: Scene) -> bool:
        absent = [name for name in self.part.picked.band_names if scene.assets and scene.asset(name) is None]
        if absent:
            self._refuse(scene, "missing_band", f"scene {scene.scene_id} has no band {absent[0]}")
        return bool(absent)

    def _judged(self, scene: Scene, answers: Mapping[str, Raster | DataError]) -> Raster | None:
        answer = self.held.get(scene.scene_id, answers.get(scene.scene_id))
        part, raster = self.part, None
        if scene.scene_id in self.barred:
            self._refuse(scene, self.barred[scene.scene_id])
            return None
        if answer is None:
            return None
        try:
            if isinstance(answer, DataError):
                raise answer
            raster = picked(answer, part, self.grid)
            reason = check(scene, raster, part.picked, max_cloud=part.max_cloud, min_valid=part.min_valid)
            if reason is not None:
                self._refuse(scene, reason)
                self.previews.setdefault(reason, preview(raster, part.picked))
        except Missing as error:
            self._refuse(scene, "missing", str(error))
        except Corrupt as error:
            log.warning("scene %s is left out: %s", scene.scene_id, error)
            self._refuse(scene, "corrupt", str(error))
        return None if scene.scene_id in self.refused else raster

    def _refuse(self, scene: Scene, reason: Reason, detail: str = "") -> None:
        self.refused[scene.scene_id] = reason
        self.told = self.told or detail


def fetched(source: ImagerySource, scenes: Sequence[Scene], grid: Grid) -> Sequence[Raster | DataError]:
    """Each scene's raster, or why there is none (Missing, Corrupt). Raises Transient and Denied."""
    answers: list[Raster | DataError] = []
    if len(scenes) > 1 and isinstance(source, Stacking):
        answers = source.stack(scenes, grid)
    else:
        for scene in scenes:
            try:
                answers.append(source.read(scene, grid))
            except (Missing, Corrupt) as error:
                answers.append(error)
    for answer in answers:
        if isinstance(answer, DataError) and not isinstance(answer, Missing | Corrupt):
            raise answer
    return answers


def picked(raster: Raster, part: SensorSpec, grid: Grid) -> Raster:
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
    return replace(raster, values=raster.values[rows], bands=wanted, encoded=None)


def held(before: Layer | None, part: SensorSpec, grid: Grid) -> dict[str, Raster]:
    """The rasters of an earlier layer by scene, where it was made from the same source in the same way."""
    if before is None or before.source != part.source.call or before.sensor != part.picked:
        return {}
    if before.pixels.shape[2:] != grid.shape:
        return {}
    rasters = {}
    for date, scene_id in enumerate(before.item_ids):
        there = before.pixels[date] != before.sensor.nodata
        rasters[scene_id] = Raster(
            values=before.pixels[date],
            valid=np.asarray(there.any(axis=0) if before.sensor.kind == "optical" else there.all(axis=0)),
            grid=grid,
            bands=before.sensor.band_names,
            resampled=before.resampled[date],
            scl=None if before.scl is None else before.scl[date],
            encoded=before.encoded[date] if before.encoded else None,
        )
    return rasters


def barred(before: Layer | None) -> dict[str, Reason]:
    """The scenes that an earlier layer was not made of because of their pixels, which do not change."""
    passing = ("missing", "corrupt", "unavailable")
    found = before.refused if before is not None else {}
    return {name: cast(Reason, reason) for name, reason in found.items() if reason not in passing}


def _unknown_last(share: float) -> float:
    return 2.0 if share != share else share
