"""The report's charts: matplotlib draws them once, the page's own colours show them, by day and by night.

Every chart leaves here as inline SVG whose inks are CSS variables (`--ink`, `--grid`, `--c1` ...), so one drawing
reads on a light and on a dark page and its text stays text: it can be searched, copied and read aloud. matplotlib
knows no variables; it is given placeholder colours that no palette would choose, and they are exchanged afterwards.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image

__all__ = [
    "Backdrop",
    "Dot",
    "Series",
    "Spread",
    "Square",
    "asked",
    "bars",
    "columns",
    "corners",
    "counts",
    "curves",
    "globe",
    "ground",
    "strip",
    "world",
]

INK, GRID, FAINT = "#010203", "#010204", "#010205"
COLOURS = tuple(f"#0102{number:02x}" for number in range(0x10, 0x17))  # six hues, then the grey of baselines
BASELINE = 7
VARIABLES = {INK: "var(--ink)", GRID: "var(--grid)", FAINT: "var(--soft)"} | {
    colour: f"var(--c{number})" for number, colour in enumerate(COLOURS, start=1)
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "swath",
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.transparent": True,
}
WIDTH = 4.4  # inches of 72 px: near the size shown, so that 10 px stays legible beside others and on a phone


@dataclass(frozen=True)
class Series:
    """One line: its `points` are (step, value); series of one `group` share a colour and one legend entry."""

    group: str
    points: tuple[tuple[float, float], ...]
    colour: int = 1


@dataclass(frozen=True)
class Spread:
    """The values of one arm, one a seed."""

    name: str
    values: tuple[float, ...]
    colour: int = 1


@dataclass(frozen=True)
class Square:
    """A chip's ground in projected metres, and the split that colours it; not `kept` when it was rejected."""

    bounds: tuple[float, float, float, float]
    split: str
    kept: bool = True


@dataclass(frozen=True)
class Dot:
    """A chip seen from far: longitude, latitude and split."""

    lon: float
    lat: float
    split: str
    kept: bool = True


@dataclass(frozen=True)
class Backdrop:
    """A picture to lie under the chips, and the ground it covers (xmin, ymin, xmax, ymax)."""

    picture: bytes
    bounds: tuple[float, float, float, float]


def curves(
    title: str, series: Sequence[Series], *, x: str, y: str, log: bool = False, noisy: bool = True
) -> Markup:
    """Lines over steps. A long noisy one is drawn faint under its running mean."""
    with chart(title, height=2.7) as (axes, done):
        shown: set[str] = set()
        for line in series:
            xs, ys = zip(*line.points, strict=True)
            colour = COLOURS[line.colour - 1]
            label = brief(line.group) if line.group not in shown else None
            shown.add(line.group)
            if noisy and len(xs) > 60:
                axes.plot(xs, ys, color=colour, linewidth=0.7, alpha=0.25)
                ys = smooth(ys)
            marker = "o" if len(xs) < 12 else None
            axes.plot(
                xs, ys, color=colour, linewidth=1.6, alpha=0.9, marker=marker, markersize=3.5, label=label
            )
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.margins(x=0.02)
        if len(shown) > 1:
            legend_above(axes, len(shown))
    return done[0]


def counts(
    title: str, groups: Mapping[str, Mapping[str, float]], colours: Mapping[str, int], *, x: str
) -> Markup:
    """Stacked horizontal bars: one bar a class, one segment a split (the keys of `colours`)."""
    groups = {brief(name): amounts for name, amounts in groups.items()}
    names = list(groups)
    with chart(title, height=0.8 + 0.27 * len(names)) as (axes, done):
        left = dict.fromkeys(names, 0.0)
        for split, colour in colours.items():
            widths = [groups[name].get(split, 0) for name in names]
            starts = [left[name] for name in names]
            axes.barh(names, widths, left=starts, height=0.66, color=COLOURS[colour - 1], label=split)
            left |= {name: left[name] + width for name, width in zip(names, widths, strict=True)}
        rows_downwards(axes, x)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        legend_above(axes, len(colours))
    return done[0]


def bars(title: str, rows: Mapping[str, Sequence[Spread]], *, x: str) -> Markup:
    """Per row (a class) one mean and spread for each arm; a value that does not exist leaves no mark."""
    arms = list(dict.fromkeys((arm.name, arm.colour) for spreads in rows.values() for arm in spreads))
    step = 0.72 / max(len(arms), 1)
    with chart(title, height=0.8 + (0.1 + 0.16 * len(arms)) * len(rows)) as (axes, done):
        for index, (name, colour) in enumerate(arms):
            offset = (index - (len(arms) - 1) / 2) * step
            for row, spreads in enumerate(rows.values()):
                values = next((arm.values for arm in spreads if arm.name == name), ())
                if values:
                    mean = math.fsum(values) / len(values)
                    place = row + offset
                    axes.barh([place], [mean], height=step * 0.86, color=COLOURS[colour - 1])
                    axes.plot([min(values), max(values)], [place, place], color=INK, linewidth=1.1)
            axes.barh([0], [0], color=COLOURS[colour - 1], label=brief(name))
        axes.set_yticks(range(len(rows)), [brief(row) for row in rows])
        rows_downwards(axes, x)
        axes.set_xlim(left=0)
        legend_above(axes, len(arms))
    return done[0]


def strip(title: str, arms: Sequence[Spread], *, x: str) -> Markup:
    """Every seed as a dot, the mean as a bar: the comparison without a summary in between."""
    with chart(title, height=0.65 + 0.36 * len(arms)) as (axes, done):
        for row, arm in enumerate(arms):
            colour = COLOURS[arm.colour - 1]
            mean = math.fsum(arm.values) / len(arm.values)
            axes.plot([mean, mean], [row - 0.3, row + 0.3], color=colour, linewidth=2.2)
            axes.plot(arm.values, [row] * len(arm.values), "o", color=colour, markersize=7, alpha=0.75)
        axes.set_yticks(range(len(arms)), [brief(arm.name) for arm in arms])
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.set_xlabel(x)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.margins(x=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    return done[0]


def ground(
    title: str,
    squares: Sequence[Square],
    colours: Mapping[str, int],
    *,
    epsg: int,
    backdrop: Backdrop | None = None,
    seams: Sequence[tuple[float, float, float, float]] = (),
) -> Markup:
    """Chips of one projected zone at their true size, over a land-cover picture; `seams` are the guarded strips."""
    west, south, east, north = extent(
        [square.bounds for square in squares] + ([backdrop.bounds] if backdrop else [])
    )
    shape = min(max((north - south) / (east - west), 0.35), 1.3)
    with chart(title, width=WIDTH * 1.35, height=0.9 + WIDTH * 1.15 * shape) as (axes, done):
        axes.grid(visible=False)
        crowd = covered(squares) / ((east - west) * (north - south))
        if backdrop is not None:
            lay(axes, backdrop)
        for xmin, ymin, xmax, ymax in seams:
            axes.add_patch(
                Rectangle(
                    (xmin, ymin), xmax - xmin, ymax - ymin, facecolor=INK, alpha=0.22, linewidth=0, zorder=1
                )
            )
        for split, colour in colours.items():
            for square in (square for square in squares if square.split == split):
                axes.add_patch(chip_patch(square, COLOURS[colour - 1], crowd))
            axes.plot([], [], "s", color=COLOURS[colour - 1], markersize=8, label=split)
        if any(not square.kept for square in squares):
            axes.plot(
                [], [], "s", markerfacecolor="none", markeredgecolor=INK, markersize=8, label="rejected"
            )
        margin = 0.02 * max(east - west, north - south)
        axes.set_xlim(west - margin, east + margin)
        axes.set_ylim(south - margin, north + margin)
        axes.set_aspect("equal")
        kilometres = FuncFormatter(lambda metres, _: f"{metres / 1000:,.0f}")
        axes.xaxis.set_major_formatter(kilometres)
        axes.yaxis.set_major_formatter(kilometres)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(f"easting in EPSG:{epsg}, km")
        axes.set_ylabel("northing, km")
        legend_above(axes, len(colours) + 1)
    return done[0]


def world(
    title: str,
    dots: Sequence[Dot],
    colours: Mapping[str, int],
    *,
    backdrop: Backdrop | None = None,
) -> Markup:
    """Chips as dots by longitude and latitude, over a land-cover map of the Earth where there is one."""
    with chart(title, width=WIDTH * 1.35, height=WIDTH * 0.8) as (axes, done):
        if backdrop is not None:
            lay(axes, backdrop)
        for split, colour in colours.items():
            for kept in (True, False):
                chosen = [dot for dot in dots if dot.split == split and dot.kept is kept]
                face = COLOURS[colour - 1] if kept else "none"
                axes.scatter(
                    [dot.lon for dot in chosen],
                    [dot.lat for dot in chosen],
                    s=16,
                    facecolor=face,
                    edgecolor=COLOURS[colour - 1],
                    linewidth=0.8,
                    alpha=0.85,
                    label=split if kept else None,
                    zorder=3,
                )
        if backdrop is not None:
            axes.set_xlim(-180, 180)
            axes.set_ylim(-62, 84)
        axes.set_xlabel("longitude, degrees east")
        axes.set_ylabel("latitude, degrees north")
        legend_above(axes, len(colours))
    return done[0]


Outline = tuple[Sequence[float], Sequence[float]]
"""x and y of a closed line."""

LEVELS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
"""Edges of the classes of density: each about three times the one before."""


def globe(
    title: str,
    edge: Outline,
    coasts: Sequence[Outline],
    *,
    dots: Mapping[str, Outline] | None = None,
    colours: Mapping[str, int] | None = None,
    areas: Sequence[tuple[Outline, int]] = (),
) -> Markup:
    """The Earth on a map of true areas, with something on it: dots coloured by their group, and areas that are the
    darker the more they hold, by threes. All in metres of the map.
    """
    width, height = (max(line) - min(line) for line in edge)
    with chart(title, width=WIDTH * 1.9, height=WIDTH * 1.9 * height / width + 0.35) as (axes, done):
        axes.add_patch(PathPatch(polygon([edge]), facecolor="none", edgecolor=GRID, linewidth=1.0))
        axes.add_patch(PathPatch(polygon(coasts), facecolor=GRID, edgecolor="none"))
        most = max((number for _, number in areas), default=0)
        used = [level for level in LEVELS if level <= most]
        for place, level in enumerate(used):
            above = used[place + 1] if place + 1 < len(used) else math.inf
            held = [outline for outline, number in areas if level <= number < above]
            strength = 0.2 + 0.65 * place / max(len(used) - 1, 1)
            axes.add_patch(
                PathPatch(
                    polygon(held),
                    facecolor=COLOURS[0],
                    edgecolor="none",
                    alpha=strength,
                    label=f"{level:,} and more" if above == math.inf else f"{level:,} to {above - 1:,}",
                )
            )
        axes.add_patch(PathPatch(polygon(coasts), facecolor="none", edgecolor=FAINT, linewidth=0.4))
        for group, (xs, ys) in (dots or {}).items():
            colour = COLOURS[(colours or {}).get(group, 1) - 1]
            axes.scatter(
                xs, ys, s=14, facecolor=colour, edgecolor="none", alpha=0.85, label=brief(group), zorder=3
            )
        axes.set_xlim(min(edge[0]), max(edge[0]))
        axes.set_ylim(min(edge[1]), max(edge[1]))
        axes.margins(0)
        axes.set_aspect("equal")
        axes.set_axis_off()
        handles, _ = axes.get_legend_handles_labels()
        if handles:
            axes.legend(
                loc="upper center",
                bbox_to_anchor=(0.5, 0.02),
                ncols=6,
                handlelength=1.0,
                fontsize=10.5,
                columnspacing=1.4,
            )
    return done[0]


def asked(title: str, rows: Mapping[str, tuple[int, int]], *, x: str) -> Markup:
    """Per row what there is as a bar, and what was asked for as a mark across it."""
    names = [brief(name) for name in rows]
    with chart(title, height=0.75 + 0.27 * len(names)) as (axes, done):
        axes.barh(
            names, [found for _, found in rows.values()], height=0.6, color=COLOURS[0], label="accepted"
        )
        for place, (wanted, _) in enumerate(rows.values()):
            axes.plot(
                [wanted, wanted],
                [place - 0.42, place + 0.42],
                color=COLOURS[1],
                linewidth=2.2,
                solid_capstyle="butt",
                label="asked for" if place == 0 else None,
            )
        rows_downwards(axes, x)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlim(left=0)
        legend_above(axes, 2)
    return done[0]


def columns(
    title: str, groups: Mapping[str, Mapping[str, int]], keys: Sequence[str], *, x: str, y: str
) -> Markup:
    """Upright bars over `keys`, which stand in this order; those of several groups beside each other."""
    step = 0.8 / max(len(groups), 1)
    with chart(title, height=2.5) as (axes, done):
        for place, (group, amounts) in enumerate(groups.items()):
            offset = (place - (len(groups) - 1) / 2) * step
            axes.bar(
                [index + offset for index in range(len(keys))],
                [amounts.get(key, 0) for key in keys],
                width=step * 0.9,
                color=COLOURS[place % 6],
                label=brief(group),
            )
        every = -(-len(keys) // 14)
        shown = range(0, len(keys), every)
        long = max((len(key) for key in keys), default=0) * len(shown) > 45
        axes.set_xticks(list(shown), [keys[place] for place in shown], rotation=40 if long else 0)
        axes.set_xlim(-0.6, max(len(keys) - 0.4, 3.6))
        axes.grid(visible=False, axis="x")
        axes.tick_params(axis="x", length=0)
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if len(groups) > 1:
            legend_above(axes, len(groups))
    return done[0]


def polygon(rings: Sequence[Outline]) -> Path:
    """Closed lines as one path."""
    points: list[tuple[float, float]] = []
    moves: list[Any] = []
    for xs, ys in rings:
        points += [*zip(xs, ys, strict=True), (xs[0], ys[0])]
        moves += [Path.MOVETO, *([Path.LINETO] * (len(xs) - 1)), Path.CLOSEPOLY]
    return Path(points or [(0.0, 0.0)], moves or [Path.MOVETO])


def corners(left: float, bottom: float, side: float) -> Outline:
    """The outline of a square, a little smaller than it, so that neighbours stay apart."""
    gap = side * 0.06
    west, east, south, north = left + gap, left + side - gap, bottom + gap, bottom + side - gap
    return (west, east, east, west), (south, south, north, north)


@contextmanager
def chart(title: str, *, height: float, width: float = WIDTH) -> Iterator[tuple[Axes, list[Markup]]]:
    """Axes in the house style; when the block ends the list holds the finished SVG, described by `title`."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        done: list[Markup] = []
        yield figure.add_subplot(), done
        text = io.StringIO()
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None, "Creator": None})
        done.append(inline(text.getvalue(), title))


def inline(svg: str, title: str) -> Markup:
    """A standalone SVG as an element of the page: no prologue, ids of its own, inks exchanged for variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    key = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    svg = re.sub(r'\bid="', f'id="{key}-', svg)
    svg = svg.replace('href="#', f'href="#{key}-').replace("url(#", f"url(#{key}-")
    for placeholder, variable in VARIABLES.items():
        svg = svg.replace(placeholder, variable)
    box = re.search(r'viewBox="[^"]*"', svg)
    body = svg[svg.index(">") + 1 :]
    name = html.escape(title, quote=True)
    return Markup(f'<svg class="chart" role="img" aria-label="{name}" {box.group() if box else ""}>{body}')


def smooth(values: Sequence[float], share: float = 0.04) -> tuple[float, ...]:
    """The mean of a centred window of about `share` of the series: for the eye only, the raw line stays visible."""
    half = max(1, round(len(values) * share / 2))
    windows = (values[max(0, index - half) : index + half + 1] for index in range(len(values)))
    return tuple(math.fsum(window) / len(window) for window in windows)


def brief(name: str, most: int = 26) -> str:
    """A name short enough to stand beside a chart; the page's tables have it whole."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def extent(boxes: Sequence[tuple[float, float, float, float]]) -> tuple[float, float, float, float]:
    """The box around boxes."""
    west, south, east, north = zip(*boxes, strict=True)
    return min(west), min(south), max(east), max(north)


def lay(axes: Axes, backdrop: Backdrop) -> None:
    """The picture on the ground it covers, under everything."""
    xmin, ymin, xmax, ymax = backdrop.bounds
    image = Image.open(io.BytesIO(backdrop.picture)).convert("RGBA")
    axes.imshow(image, extent=(xmin, xmax, ymin, ymax), interpolation="none", aspect="auto", zorder=0)


def covered(squares: Sequence[Square]) -> float:
    """The ground of all squares together, overlaps counted as often as they overlap."""
    return math.fsum(
        (xmax - xmin) * (ymax - ymin) for xmin, ymin, xmax, ymax in (one.bounds for one in squares)
    )


def chip_patch(square: Square, colour: str, crowd: float) -> Rectangle:
    """A chip as drawn on the map: tinted when kept, thinner where chips pile up; a dotted outline when rejected."""
    xmin, ymin, xmax, ymax = square.bounds
    tint = min(0.4, 0.25 / max(crowd, 0.1))
    return Rectangle(
        (xmin, ymin),
        xmax - xmin,
        ymax - ymin,
        facecolor=(colour, tint) if square.kept else "none",
        edgecolor=colour if square.kept else INK,
        linewidth=min(1.4, 0.6 / max(crowd, 0.1) + 0.3) if square.kept else 1.0,
        linestyle="-" if square.kept else ":",
        zorder=2,
    )


def rows_downwards(axes: Axes, x: str) -> None:
    """Named rows read from the top, and only the scale of values is ruled."""
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(x)


def legend_above(axes: Axes, entries: int) -> None:
    """The legend above the axes, left, where it hides nothing."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=min(entries, 4),
        borderpad=0.2,
        handlelength=1.2,
        columnspacing=1.4,
    )
