"""Pixels as people see them: true colour, radar, classes, a strip of one chip, a sheet of many, points on a map.

Every function takes values and returns PNG bytes or colours (H, W, 3) uint8; `album` alone writes, into the folder
where a report looks. Contrast is stretched between percentiles of a whole layer, so that the dates of a series can be
compared; pixels without data are white.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from geodata.errors import Corrupt
from geodata.files import write_atomic
from geodata.grid import Grid
from geodata.landcover import ClassTable, LandCover
from geodata.sample import Layer, Sample

Colours = NDArray[np.uint8]
RGB = tuple[int, int, int]

EMPTY: RGB = (255, 255, 255)
STRATUM_COLOURS: dict[str, RGB] = {
    "urban": (196, 64, 62),
    "farmland": (240, 200, 90),
    "wetland": (95, 165, 160),
    "forest": (38, 110, 62),
    "watershed": (52, 112, 178),
    "grassland": (156, 196, 96),
    "desert": (214, 178, 140),
    "ice": (214, 232, 244),
    "cloud": (200, 200, 206),
    "shrub": (150, 130, 66),
}
"""Colours of the strata on every map; a class takes that of its stratum."""

SCL_COLOURS: dict[int, RGB] = {
    0: EMPTY,
    1: (220, 40, 40),
    2: (60, 60, 60),
    3: (110, 70, 40),
    4: (60, 150, 60),
    5: (220, 200, 110),
    6: (50, 90, 200),
    7: (150, 150, 150),
    8: (190, 190, 200),
    9: (235, 235, 240),
    10: (160, 210, 230),
    11: (240, 160, 220),
}
"""Sentinel-2 scene classification, near to the colours its users know."""

_STRETCH = (2.0, 98.0)
_RADAR_DB = ((-22.0, 0.0), (-29.0, -7.0), (2.0, 14.0))
"""Ranges (dB) of red = VV, green = VH, blue = VV - VH."""


def true_colour(layer: Layer, date: int = 0) -> Colours:
    """Red, green, blue (H, W, 3) of one date of an optical or Sentinel-2 layer, stretched over all its dates.

    Raises ValueError for a layer without these bands.
    """
    names = layer.sensor.band_names
    wanted = ("R", "G", "B") if layer.sensor.kind == "optical" else ("B04", "B03", "B02")
    if any(name not in names for name in wanted):
        raise ValueError(
            f"{layer.sensor.name} has bands {', '.join(names)}, not {', '.join(wanted)}; use `grey`"
        )
    series = layer.pixels[:, [names.index(name) for name in wanted]]
    there = (series != layer.sensor.nodata).any(axis=1)
    if layer.sensor.dtype == "uint8":
        shown = series[date]
    else:
        seen = series.swapaxes(0, 1)[:, there] if there.any() else np.zeros((3, 1))
        low, high = np.percentile(seen, _STRETCH[0], axis=1), np.percentile(seen, _STRETCH[1], axis=1)
        shown = _scaled(series[date], low[:, None, None], high[:, None, None])
    return _holes(np.moveaxis(shown, 0, -1).astype(np.uint8), there[date])


def grey(layer: Layer, date: int = 0, band: int = 0) -> Colours:
    """One band (H, W, 3) of any layer, stretched over all its dates."""
    series = layer.pixels[:, band]
    there = series != layer.sensor.nodata
    low, high = np.percentile(series[there], _STRETCH) if there.any() else (0.0, 1.0)
    shown = _scaled(series[date], low, high).astype(np.uint8)
    return _holes(np.repeat(shown[..., None], 3, axis=-1), there[date])


def radar(layer: Layer, date: int = 0) -> Colours:
    """VV, VH and their ratio as red, green, blue (H, W, 3), on fixed ranges of dB: water dark, towns bright."""
    names = layer.sensor.band_names
    if "VV" not in names or "VH" not in names:
        return grey(layer, date)
    pixels = layer.pixels[date]
    there = (pixels != layer.sensor.nodata).all(axis=0)
    vv, vh = (pixels[names.index(name)] * layer.sensor.scale for name in ("VV", "VH"))
    bands = [_scaled(part, *limits) for part, limits in zip((vv, vh, vv - vh), _RADAR_DB, strict=True)]
    return _holes(np.stack(bands, axis=-1).astype(np.uint8), there)


def scene_classes(codes: NDArray[np.uint8]) -> Colours:
    """Sentinel-2 scene classification codes (H, W) in colour (H, W, 3)."""
    return _looked_up(codes, SCL_COLOURS)


def classes(codes: NDArray[np.uint8], table: ClassTable) -> Colours:
    """Land-cover codes (H, W) in the colours of their strata (H, W, 3)."""
    return _looked_up(codes, class_colours(table))


def named_colours(table: ClassTable) -> dict[str, RGB]:
    """Name of a class -> colour."""
    return {table.codes[code]: colour for code, colour in class_colours(table).items()}


def class_colours(table: ClassTable) -> dict[int, RGB]:
    """Code -> colour. Classes of one stratum differ in lightness, classes of none are greys."""
    used: dict[str, int] = {}
    out: dict[int, RGB] = {}
    for code in sorted(table.codes):
        stratum = table.strata.get(code, "")
        turn = used[stratum] = used.get(stratum, -1) + 1
        out[code] = faded(STRATUM_COLOURS.get(stratum, (120, 120, 120)), turn)
    return out


def faded(colour: RGB, turn: int) -> RGB:
    """The colour itself at 0, and lighter with each turn."""
    red, green, blue = (int(255 - (255 - part) * 0.75**turn) for part in colour)
    return red, green, blue


def legend(table: ClassTable, codes: Iterable[int]) -> list[tuple[str, str]]:
    """(class name, CSS colour) of the codes that occur, in order of code."""
    colours = class_colours(table)
    present = sorted(set(codes) & set(table.codes))
    return [(table.codes[code], "#{:02x}{:02x}{:02x}".format(*colours[code])) for code in present]


def shown(layer: Layer, date: int = 0, table: ClassTable | None = None) -> Colours:
    """A layer as one looks at its kind: true colour, radar, classes, or its first band in grey."""
    if layer.sensor.kind == "radar":
        return radar(layer, date)
    if layer.sensor.kind == "map":
        return classes(layer.pixels[date, 0], table) if table else grey(layer, date)
    try:
        return true_colour(layer, date)
    except ValueError:
        return grey(layer, date)


def strip(sample: Sample, table: ClassTable | None = None, side: int = 128, dates: int = 1) -> Colours:
    """All layers of a chip side by side at one size, up to `dates` acquisitions of each."""
    order = [prefix for prefix in ("hr", "s2", "s1", "lc") if prefix in sample.layers]
    order += [prefix for prefix in sample.layers if prefix not in order]
    parts: list[Colours] = []
    for prefix in order:
        layer = sample.layers[prefix]
        count = min(dates, len(layer.dates))
        chosen = [round(place) for place in np.linspace(0, len(layer.dates) - 1, count)]
        parts += [resized(shown(layer, date, table), side) for date in chosen]
    gap = np.full((side, 2, 3), 255, np.uint8)
    spaced = [piece for part in parts for piece in (part, gap)][:-1]
    return np.concatenate(spaced, axis=1)


def sheet(pictures: Sequence[tuple[str, Colours]], columns: int = 6) -> Colours:
    """Labelled pictures of one size in rows of `columns`. Raises ValueError when there are none."""
    if not pictures:
        raise ValueError("a sheet needs at least one picture; this corpus has no sample")
    height, width = pictures[0][1].shape[:2]
    line, rows = 14, -(-len(pictures) // columns)
    columns = min(columns, len(pictures))
    page = Image.new("RGB", (columns * (width + 4), rows * (height + line + 4)), EMPTY)
    pen = ImageDraw.Draw(page)
    for place, (label, picture) in enumerate(pictures):
        left, top = place % columns * (width + 4), place // columns * (height + line + 4)
        page.paste(Image.fromarray(picture), (left, top + line))
        pen.text((left + 1, top + 1), label[: width // 6], fill=(40, 40, 40))
    return np.asarray(page)


def backdrop(landcover: LandCover, grid: Grid) -> Colours:
    """The land-cover map on a grid, in colour; pale, so that points show on it."""
    painted = classes(landcover.read(grid).values[0], landcover.classes)
    return (255 - (255 - painted.astype(np.uint16)) * 6 // 10).astype(np.uint8)


def world(landcover: LandCover, width: int = 720) -> Colours:
    """The land-cover map of the whole Earth, (width / 2, width, 3) in equal degrees, pale."""
    step = 360.0 / width
    lon = -180.0 + (np.arange(width) + 0.5) * step
    lat = 90.0 - (np.arange(width // 2) + 0.5) * step
    lons, lats = np.meshgrid(lon, lat)
    codes = landcover.at(lons.ravel(), lats.ravel()).reshape(lons.shape)
    return (255 - (255 - classes(codes, landcover.classes).astype(np.uint16)) * 5 // 10).astype(np.uint8)


def points(
    picture: Colours,
    bounds: tuple[float, float, float, float],
    x: Sequence[float],
    y: Sequence[float],
    colours: Sequence[RGB] = (),
    radius: float = 2.5,
) -> Colours:
    """Dots at x, y on a picture that spans `bounds` (xmin, ymin, xmax, ymax), all in one unit, degrees or metres."""
    page = Image.fromarray(picture)
    pen = ImageDraw.Draw(page)
    xmin, ymin, xmax, ymax = bounds
    for place, (east, north) in enumerate(zip(x, y, strict=True)):
        col = (east - xmin) / (xmax - xmin) * page.width
        row = (ymax - north) / (ymax - ymin) * page.height
        colour = colours[place] if colours else (20, 20, 20)
        pen.ellipse((col - radius, row - radius, col + radius, row + radius), fill=colour, outline=EMPTY)
    return np.asarray(page)


def resized(picture: Colours, side: int) -> Colours:
    """At `side` pixels a side: enlarged pixel by pixel, reduced by averaging."""
    how = Image.Resampling.NEAREST if picture.shape[0] <= side else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture).resize((side, side), how))


def png(picture: Colours) -> bytes:
    """A picture as a PNG file."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(out, "PNG", optimize=True)
    return out.getvalue()


def album(
    folder: Path,
    samples: Iterable[Sample],
    table: ClassTable | None = None,
    cover: tuple[LandCover, Grid] | None = None,
) -> list[Mapping[str, Any]]:
    """Write each sample's strip, and the map under the points, to `folder` with an `index.json` that explains them.

    `cover` is the land-cover map and the grid to show of it (for a corpus that lies in one zone). Returns the index.
    """
    index: list[Mapping[str, Any]] = []
    if cover is not None:
        landcover, grid = cover
        write_atomic(folder / "landcover.png", png(backdrop(landcover, grid)))
        words = legend(landcover.classes, landcover.classes.codes)
        index.append(
            {
                "file": "landcover.png",
                "kind": "landcover",
                "alt": f"Land cover by {landcover.classes.name}",
                "legend": words,
                "bounds": grid.bounds,
            }
        )
    for sample in samples:
        name = f"chip-{sample.sample_id}.png"
        write_atomic(folder / name, png(strip(sample, table)))
        seen = [
            int(code)
            for layer in sample.layers.values()
            if layer.sensor.kind == "map"
            for code in np.unique(layer.pixels)
        ]
        index.append(
            {
                "file": name,
                "kind": "chip",
                "alt": f"{sample.stratum} chip at {sample.lat:.3f}, {sample.lon:.3f}: {', '.join(sample.layers)}",
                "caption": f"{sample.stratum}, {sample.split}, {_dates(sample)}",
                "legend": legend(table, seen) if table else [],
            }
        )
    write_atomic(folder / "index.json", json.dumps(index, indent=1).encode())
    return index


REJECTS_A_SHARD = 2
"""Pictures kept of each reason and shard: a look at what was refused, not an archive of it."""


def save_rejects(path: Path, refused: Iterable[tuple[str, str, str, Colours | None]]) -> None:
    """Keep the first pictures of each reason among (chip id, reason, detail, picture or None) in one PNG.

    They stand side by side, and the file's text entry `swath` says what each shows. Nothing is written, and an
    earlier file is removed, when no chip was refused by its pixels.
    """
    kept: list[tuple[dict[str, Any], Colours]] = []
    seen: dict[str, int] = {}
    for chip_id, reason, detail, picture in refused:
        if picture is not None and seen.get(reason, 0) < REJECTS_A_SHARD:
            seen[reason] = seen.get(reason, 0) + 1
            shape = {"width": picture.shape[1], "height": picture.shape[0]}
            kept.append(({"chip": chip_id, "reason": reason, "detail": detail, **shape}, picture))
    if not kept:
        path.unlink(missing_ok=True)
        return
    height = max(picture.shape[0] for _, picture in kept)
    page = np.full((height, sum(picture.shape[1] for _, picture in kept), 3), 255, np.uint8)
    left = 0
    for _, picture in kept:
        page[: picture.shape[0], left : left + picture.shape[1]] = picture
        left += picture.shape[1]
    words = PngInfo()
    words.add_itxt("swath", json.dumps([told for told, _ in kept], ensure_ascii=False))
    out = io.BytesIO()
    Image.fromarray(page).save(out, "PNG", optimize=True, pnginfo=words)
    write_atomic(path, out.getvalue())


def load_rejects(path: Path) -> list[tuple[Mapping[str, Any], bytes]]:
    """What `save_rejects` kept: (chip, reason and detail; the picture as PNG). Raises Corrupt when it does not read."""
    try:
        with Image.open(path) as page:
            told = json.loads(page.text["swath"])  # type: ignore[attr-defined]
            colours = np.asarray(page.convert("RGB"))
    except (OSError, SyntaxError, KeyError, ValueError, AttributeError) as error:
        raise Corrupt(f"the pictures of rejects in {path} do not read ({error}); delete the file") from error
    out, left = [], 0
    for one in told:
        out.append((one, png(colours[: one["height"], left : left + one["width"]])))
        left += one["width"]
    return out


def _dates(sample: Sample) -> str:
    told = [day for layer in sample.layers.values() if layer.sensor.kind != "map" for day in layer.dates]
    days = sorted({day for day in told if day is not None})
    return "no date" if not days else str(days[0]) if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _scaled(values: NDArray[Any], low: Any, high: Any) -> NDArray[np.float64]:
    """Values between low and high as 0 to 255."""
    spread = np.maximum(np.asarray(high, float) - low, 1e-9)
    return np.clip((values.astype(np.float64) - low) / spread, 0.0, 1.0) * 255.0


def _holes(picture: Colours, there: NDArray[np.bool_]) -> Colours:
    return np.where(there[..., None], picture, np.uint8(255))


def _looked_up(codes: NDArray[np.uint8], colours: Mapping[int, RGB]) -> Colours:
    table = np.full((256, 3), 255, np.uint8)
    for code, colour in colours.items():
        table[code] = colour
    return table[codes]
