"""What an encoder knows, as charts: planes of features, how far student and teacher are apart, what each stage holds.

The numbers are those that `training.looks` left beside the run's pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from geodata import ledger
from pipelines import charts
from pipelines.charts import COLOURS, Spread, brief, chart, legend_above

__all__ = ["drawn", "histogram", "scatter", "visits"]

EDGE = 12  # points of each side of a region
MARKS = "o^sDvP"  # when the colours are used up, the same again in another shape

Drawing = tuple[Markup, str]
"""A chart and its caption."""


def drawn(looks: Mapping[str, Any]) -> list[Drawing]:
    """Every chart the numbers allow, in the order a reader wants them."""
    made: list[Drawing] = []
    if looks.get("features"):
        made += features(looks["features"], looks.get("classes", ()))
    if looks.get("stages"):
        made.append(stages(looks["stages"]))
    if looks.get("distances"):
        made += distances(looks["distances"])
    return made


def features(found: Mapping[str, Any], classes: Sequence[str]) -> list[Drawing]:
    """The two planes, a colour a class."""
    names = [classes[code] if code < len(classes) else f"class {code}" for code in found["classes"]]
    carried = sum(found["shares"][:2])
    right = f"{found['samples']:,} samples."
    if found["knn"] is not None:
        right = f"Asked of their nearest training samples, {100 * found['knn']:.1f} % of {found['samples']:,} are named rightly."
    return [
        (
            scatter("Features on a plane that keeps neighbours", grouped(found["neighbours"], names)),
            f"t-SNE of the encoder's features, a dot a test image. {right}",
        ),
        (
            scatter("Features on their principal plane", grouped(found["principal"], names)),
            f"The two directions of greatest spread, which carry {100 * carried:.0f} % of it.",
        ),
    ]


def stages(found: Mapping[str, Sequence[float]]) -> Drawing:
    """Linear probes from the pixels to the end, and those of chance."""
    arms = {"pretrained": 1, "untrained": charts.BASELINE}
    rows = {
        f"stage {number + 1}": [Spread(arm, (found[arm][number],), colour) for arm, colour in arms.items()]
        for number in range(len(found["pretrained"]))
    }
    caption = "Accuracy of a linear probe on the mean features of each stage, the first nearest the pixels."
    return charts.bars("What each stage knows", rows, x="accuracy on test samples"), caption


def distances(found: Mapping[str, Any]) -> list[Drawing]:
    """Student against teacher, and the teacher's features alone."""
    return [
        (
            histogram("Difference of student and teacher", found["differences"], x="absolute difference"),
            "How far each number of the student's feature is from the teacher's, on test images.",
        ),
        (
            histogram("Values of the features", found["features"], x="value"),
            "The numbers the kept encoder describes test images with.",
        ),
    ]


def visits(found: Mapping[str, Any]) -> Drawing:
    """How often each region of the grid has learnt, where it lies."""
    seen, side = found["visits"], found["side"]
    edge = ledger.frame(-60.0 if min(south for _, south, *_ in seen) >= -60 else -90.0)
    areas = [(outline(*bounds), count) for *bounds, count in seen]
    caption = (
        f"{len(seen):,} of {side * side:,} regions were seen, each coloured by the number of steps in which its "
        f"prototypes learnt: {min(count for *_, count in seen):,} to {max(count for *_, count in seen):,}."
    )
    return charts.globe("Regions seen", edge, ledger.outlines(), areas=areas), caption


def outline(west: float, south: float, east: float, north: float) -> charts.Outline:
    """The edge of a cell of meridians and parallels (degrees) on the map, which bends it."""
    around = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    sides = [(first, last, number / EDGE) for first, last in pairwise(around) for number in range(EDGE)]
    xs, ys = ledger.flat(
        [first[0] + (last[0] - first[0]) * part for first, last, part in sides],
        [first[1] + (last[1] - first[1]) * part for first, last, part in sides],
    )
    return xs.tolist(), ys.tolist()


def grouped(points: Sequence[Sequence[float]], names: Sequence[str]) -> dict[str, list[Sequence[float]]]:
    """name -> its points, the commonest first."""
    groups: dict[str, list[Sequence[float]]] = {}
    for point, name in zip(points, names, strict=True):
        groups.setdefault(name, []).append(point)
    return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))


def scatter(title: str, groups: Mapping[str, Sequence[Sequence[float]]]) -> Markup:
    """Dots of several groups on a plane whose directions mean nothing: no numbers, no rules."""
    rows, dots = -(-len(groups) // 4), sum(map(len, groups.values()))
    with chart(title, height=charts.WIDTH * 0.72 + 0.22 * rows) as (axes, done):
        for place, (name, points) in enumerate(groups.items()):
            xs, ys = zip(*points, strict=True)
            axes.plot(
                xs,
                ys,
                MARKS[place // 6 % len(MARKS)],
                color=COLOURS[place % 6],
                markersize=5.2 if dots < 200 else 3.8,
                markeredgewidth=0,
                alpha=0.75,
                label=brief(name, 18),
            )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_aspect("equal", adjustable="datalim")
        legend_above(axes, len(groups))
    return done[0]


def histogram(title: str, bins: Mapping[str, Sequence[float]], *, x: str) -> Markup:
    """Shares of values in even bins."""
    with chart(title, height=2.4) as (axes, done):
        axes.stairs(bins["shares"], bins["edges"], fill=True, color=COLOURS[0], alpha=0.8)
        axes.set_xlabel(x)
        axes.set_ylabel("share of values")
        axes.set_ylim(bottom=0)
        axes.margins(x=0)
    return done[0]
