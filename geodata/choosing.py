"""Which scenes are tried for a chip, and in which order: by metadata alone, before anything is read.

Everything here is a pure function of what a search returned, of the spec and of a seed, so that the same scenes are
chosen on any machine. What a search returned is not stable in time; its digest is kept with every layer to tell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import date

import numpy as np

from geodata.source import Scene
from geodata.spec import SensorSpec


def considered(scenes: Sequence[Scene]) -> str:
    """A digest of what a search returned: the ids of all scenes, in whatever order."""
    return hashlib.sha256("\n".join(sorted(scene.scene_id for scene in scenes)).encode()).hexdigest()[:32]


def select(
    scenes: Sequence[Scene], part: SensorSpec, seed: int, epsg: int | None = None, draw: int = 0
) -> list[Scene]:
    """Scenes in the order in which they are to be tried.

    'all': by date. 'clearest': by the scene's own `cloud` where every scene tells it, else by date. 'spread': the
    period is cut into as many equal slots as dates are wanted, each with a target day at the same (seeded) place;
    first the scene nearest to each target, then the second nearest of each, and so on. 'rotate': by provider and id,
    beginning with the one whose turn it is at this `draw`. Of one day, scenes in zone `epsg` come first; scenes without a
    date come last.
    """
    if part.select == "rotate":
        dealt = sorted(scenes, key=lambda scene: (str(scene.get("provider") or ""), scene.scene_id))
        turn = draw % len(dealt) if dealt else 0
        return dealt[turn:] + dealt[:turn]
    by_day = sorted(scenes, key=lambda scene: (*day_of(scene), scene.epsg != epsg, scene.scene_id))
    if part.select == "clearest" and told(scenes):
        return sorted(by_day, key=_cloud)
    if part.select != "spread" or not scenes:
        return by_day
    first, days = part.period.first, (part.period.last - part.period.first).days
    width, place = days / part.dates, float(np.random.default_rng(seed).random())
    slots: dict[int, list[tuple[float, Scene]]] = {}
    for scene in by_day:
        if scene.date is not None:
            slot = min(int((scene.date - first).days / width), part.dates - 1)
            slots.setdefault(slot, []).append(
                (abs((scene.date - first).days - (slot + place) * width), scene)
            )
    ranked = [
        (rank, slot, scene)
        for slot, members in slots.items()
        for rank, (_, scene) in enumerate(sorted(members, key=lambda member: member[0]))
    ]
    spread = [scene for _, _, scene in sorted(ranked, key=lambda entry: entry[:2])]
    return spread + [scene for scene in by_day if scene.date is None]


def by_orbit(scenes: Sequence[Scene]) -> Iterator[tuple[str, list[Scene]]]:
    """Scenes by relative orbit and pass: that with most days first; of equals, that with the lower number.

    Yields what the orbit is called, and its scenes; one orbit is one view of the ground.
    """
    orbits: dict[tuple[int, str], list[Scene]] = {}
    for scene in scenes:
        number = scene.get("relative_orbit")
        known = int(number) if isinstance(number, int | float | str) and str(number).isdigit() else -1
        orbits.setdefault((known, str(scene.get("orbit_pass") or "")), []).append(scene)
    for (number, side), members in sorted(
        orbits.items(), key=lambda entry: (-len({scene.date for scene in entry[1]}), entry[0])
    ):
        name = f"orbit {number}" if number >= 0 else "unknown orbit"
        yield (f"{name} {side}".strip(), members)


def products(scenes: Sequence[Scene]) -> list[str]:
    """The radar products among scenes; more than one must not meet in a layer (sigma0 and gamma0 differ by decibels)."""
    return sorted({str(scene.get("product") or "unknown product") for scene in scenes})


def told(scenes: Sequence[Scene]) -> bool:
    """Whether every scene tells its own share of cloud."""
    return all(isinstance(scene.get("cloud"), int | float) for scene in scenes)


def day_of(scene: Scene) -> tuple[bool, date]:
    """By what scenes are put in order of date; those without one come last."""
    return scene.date is None, scene.date or date.max


def _cloud(scene: Scene) -> float:
    value = scene.get("cloud")
    return float(value) if isinstance(value, int | float) else 0.0
