"""A corpus counted: histograms of its samples that add up, so that a card of millions reads no pixel.

Everything is name -> key -> number, counted when a shard is written and summed over shards. Keys are text, because
records are JSON, and few: what can take any value (a GSD of web tiles, a shift) is counted in bins, and a remark with
numbers in it without them.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from geodata.sample import Layer, Sample

__all__ = ["FEW", "SHIFT_BIN", "counts", "median"]

FEW = ("baseline", "offset_applied_by", "cloud_by", "product", "orbit_pass", "provider", "zoom")
"""What sources record of an image and has few values: counted under its own name and the layer's prefix."""

SHIFT_BIN = 0.1
"""Width of the bins of a measured shift, pixels; the bin of key n begins at n times this."""
_FAR = 50  # the last bin holds everything beyond


def counts(samples: Sequence[Sample]) -> dict[str, dict[str, int]]:
    """Named counts of samples, and of their images:

    samples by `split`, `stratum`, `continent`, `cell` (continent and stratum), `gsd` (metres, a bin where it is
    continuous), `licence` (JSON of layer, licence, attribution, whether it may be passed on), `contamination`;
    for each layer `dates_s2` (images in its series), and images by `month_s2` (N or S for the hemisphere, then the
    month), `year_s2`, `cloud_s2` (tenths), `flag_s2`, `resampled_s2`, and whatever of `FEW` it records;
    for each pair of layers `shift_s2-s1`, `right_s2-s1`, `down_s2-s1` (bins of `SHIFT_BIN` pixels);
    and pixels by land-cover code for each split, `lc_train`.
    """
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    found |= {"split": Counter(), "stratum": Counter(), "continent": Counter()}

    def add(name: str, key: str, number: int = 1) -> None:
        found[name][key] += number

    for sample in samples:
        add("split", sample.split)
        add("stratum", sample.stratum)
        add("continent", sample.continent)
        add("cell", f"{sample.continent} {sample.stratum}")
        if sample.grid is not None:
            add("gsd", _gsd(sample.grid.ground_gsd, continuous=sample.grid.epsg == 3857))
        for name in sample.contamination:
            add("contamination", name.partition(" ")[0].rstrip(":"))
        for shift in sample.shifts:
            pair = re.sub(r" \d{4}-.*", "", shift.pair)  # two dates of one layer: whichever they are
            add(f"shift_{pair}", _bin(math.hypot(shift.right, shift.down)))
            add(f"right_{pair}", _bin(shift.right))
            add(f"down_{pair}", _bin(shift.down))
        for prefix, layer in sample.layers.items():
            terms = [prefix, layer.license, layer.attribution, layer.redistribute]
            add("licence", json.dumps(terms, ensure_ascii=False))
            if layer.sensor.kind == "map":
                codes, pixels = np.unique(layer.pixels, return_counts=True)
                for code, number in zip(codes.tolist(), pixels.tolist(), strict=True):
                    add(f"{prefix}_{sample.split}", str(code), number)
            else:
                for name, key in _images(layer, sample.lat):
                    add(f"{name}_{prefix}", key)
    return {name: dict(sorted(values.items())) for name, values in found.items()}


def median(histogram: Mapping[str, int]) -> float:
    """The middle of a histogram of shifts, pixels, to within a bin; nan when it is empty."""
    total, seen = sum(histogram.values()), 0
    for key in sorted(histogram, key=int):
        seen += histogram[key]
        if 2 * seen >= total:
            return (int(key) + 0.5) * SHIFT_BIN
    return math.nan


def _images(layer: Layer, lat: float) -> list[tuple[str, str]]:
    """(name, key) of everything counted of a layer, image by image."""
    half = "S" if lat < 0 else "N"
    out = [("dates", str(len(layer.dates)))]
    for day, cloud, flag, resampled in zip(
        layer.dates, layer.cloud, layer.flags, layer.resampled, strict=True
    ):
        out.append(("month", f"{half}{day.month:02d}" if day and lat == lat else "unknown"))
        out.append(("year", str(day.year) if day else "unknown"))
        out.append(("cloud", str(min(9, int(cloud * 10))) if cloud == cloud else "unknown"))
        out.append(("resampled", "yes" if resampled else "no"))
        if flag:
            out.append(("flag", re.sub(r"-?\d+(\.\d+)?", "…", flag)))
    for name in FEW:
        out += [(name, value or "unknown") for value in layer.properties.get(name, ())]
    return out


def _gsd(gsd: float, *, continuous: bool) -> str:
    """A GSD as it is, or its bin of half an octave, metres."""
    if not continuous:
        return f"{gsd:g}"
    place = math.floor(2 * math.log2(gsd) + 1e-9)
    return f"{2 ** (place / 2):.2g}–{2 ** ((place + 1) / 2):.2g}"


def _bin(pixels: float) -> str:
    return str(max(-_FAR, min(_FAR, math.floor(pixels / SHIFT_BIN + 1e-9))))
