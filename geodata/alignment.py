"""Whether the layers of a sample lie on the same ground: asserted on their grids, and measured in their pixels.

Grids can be equal and pixels still lie elsewhere: a half-pixel convention, a wrong orbit file, a band resampled from
the wrong corner. So the shift between two layers is measured by correlating their gradients in the frequency domain,
squared, so that an edge counts whichever side is brighter (radar and optics seldom agree on that). Half of each
frequency's amplitude is taken out: all of it (phase correlation proper) drowns 64 pixels of radar in speckle, none of it
lets one bright field decide. A shift is a finding and refuses nothing; where there is no texture there is no shift.

On 134 chips of 640 m of the synthetic Earth, shifted by 0 to 3 pixels: dates of Sentinel-2 are found to 0.05
pixels or better (median; 86 % of chips tell), pictures against Sentinel-2 to 0.08 (91 %), a mean of three radar dates
against Sentinel-2 to 0.2 (55 %, of which 8 % are off by more than half a pixel); at 1,280 m the last is 0.15 (80 %, none).
Bias stays below 0.05 pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio.transform
from numpy.typing import NDArray

from geodata.grid import Grid, project, unproject, whole
from geodata.sample import Layer, Shift
from geodata.source import SCL_BAD

Image = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

REACH = 8
"""Pixels to each side within which a shift is looked for."""
CONFIDENT = 0.4
"""A peak below this is no measurement (see `measure`); of unrelated chips of 64 pixels about one in a hundred passes."""
LEAST_SEEN = 0.5
"""Share of the pixels that both images must show."""
_BLUR = 1.0
"""Standard deviation, in pixels, of the smoothing before gradients are taken."""
_WHITEN = 0.5
_NEIGHBOURS = 3
"""Pixels around the peak that belong to it."""
_FINE = 4
"""Steps to a pixel in which the peak is looked for before a parabola is laid through the highest."""
_CLEAR = 0.9
"""Share of a date without cloud from which it is measured."""


def misfit(grid: Grid, others: Mapping[str, Grid]) -> str | None:
    """What is wrong with the grids of a sample's layers, in a sentence; None when they are aligned.

    Each must have the chip's CRS, its corner and its extent, and pixels in whole ratio to the chip's; and the centres of
    its first and last pixel, taken to longitude and latitude and back onto the chip, must lie where these ratios say.
    """
    for name, other in others.items():
        if other.epsg != grid.epsg:
            return f"{name} is in EPSG:{other.epsg}, the chip in EPSG:{grid.epsg}"
        if whole(max(other.gsd / grid.gsd, grid.gsd / other.gsd)) is None:
            return f"{name} has pixels of {other.gsd:g} m, in no whole ratio to the chip's {grid.gsd:g} m"
        if not grid.aligned(other):
            return f"{name} covers {other.bounds}, the chip {grid.bounds}"
        away = _round_trip(grid, other)
        if away > 1e-3 * min(grid.gsd, other.gsd):
            return f"{name}: corner pixels come back from longitude and latitude {away:g} m away"
    return None


def _round_trip(grid: Grid, other: Grid) -> float:
    """The farthest that a corner pixel's centre comes back from where `other` puts it, in metres of the chip."""
    ratio = other.gsd / grid.gsd
    away = 0.0
    for row, col in ((0, 0), (other.height - 1, other.width - 1)):
        x, y = rasterio.transform.xy(other.affine(), row, col)
        x, y = project(*unproject(x, y, other.epsg), grid.epsg)
        on_chip = rasterio.transform.rowcol(grid.affine(), x, y, op=float)
        wanted = ((row + 0.5) * ratio, (col + 0.5) * ratio)
        away = max(away, *(abs(a - b) * grid.gsd for a, b in zip(on_chip, wanted, strict=True)))
    return away


def measure(first: Image, second: Image, seen: Mask | None = None) -> tuple[float, float, float]:
    """How far right and down (pixels) the content of `second` (H, W) lies from that of `first`, and how sure that is.

    The third value, the peak, is 0 where another place of the correlation is as high as its peak and 1 where nothing
    else is: below `CONFIDENT` the shift means nothing. `seen` are the pixels that both show; where they are too few,
    or nothing is there to be seen in one of the images, all three are nan and 0.
    """
    nothing = (float("nan"), float("nan"), 0.0)
    seen = np.ones(first.shape, bool) if seen is None else seen
    if first.shape != second.shape:
        raise ValueError(f"images of {first.shape} and {second.shape} pixels are not on one grid; warp one")
    if seen.mean() < LEAST_SEEN or min(first.shape) < 4 * REACH:
        return nothing
    spectra = [np.fft.fft2(_edges(image, seen)) for image in (first, second)]
    cross = spectra[1] * spectra[0].conj()
    strength = np.abs(cross)
    if not strength.max() > 0:
        return nothing
    cross = cross / np.maximum(strength, 1e-12 * strength.max()) ** _WHITEN
    surface = np.fft.ifft2(cross).real
    row, col = _highest(surface, REACH)
    best = surface[row, col]
    around = np.arange(-_NEIGHBOURS, _NEIGHBOURS + 1)
    rest = surface.copy()
    rest[np.ix_((row + around) % surface.shape[0], (col + around) % surface.shape[1])] = -np.inf
    peak = 1.0 - max(float(rest.max()), 0.0) / float(best) if best > 0 else 0.0
    down, right = _refined(cross, row, col)
    return right, down, max(peak, 0.0)


def _edges(image: Image, seen: Mask) -> NDArray[np.complex128]:
    """The squared gradient as complex numbers (H, W): its angle is twice the edge's, so the sign of an edge is gone."""
    filled = image if seen.all() else np.where(seen, image, np.median(image[seen]))
    down, right = np.gradient(_blurred(filled.astype(np.float64)))
    gradient = right + 1j * down
    squared = gradient * gradient / np.maximum(np.abs(gradient), 1e-12)
    if not seen.all():
        squared[~_inner(seen)] = 0
    window = _window(image.shape)
    weight = window if seen.all() else window * seen
    return window * (squared - (squared * weight).sum() / weight.sum())


@functools.lru_cache(maxsize=16)
def _window(shape: tuple[int, int]) -> Image:
    """Hann's window (H, W), nowhere 0."""
    height, width = shape
    return np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[1:-1]


def _blurred(image: Image) -> Image:
    """A Gaussian of `_BLUR` pixels, mirrored at the border."""
    reach = int(4 * _BLUR)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / _BLUR) ** 2)
    wide = np.pad(image, reach, mode="reflect")
    height, width = image.shape
    wide = sum(weight * wide[at : at + height] for at, weight in enumerate(kernel / kernel.sum()))
    return sum(weight * wide[:, at : at + width] for at, weight in enumerate(kernel / kernel.sum()))


def _inner(seen: Mask) -> Mask:
    """Pixels whose gradient, after the blur, saw little that was filled in (two pixels of margin)."""
    wide = np.pad(seen, 2, constant_values=True)
    height, width = seen.shape
    wide = functools.reduce(np.logical_and, (wide[at : at + height] for at in range(5)))
    return functools.reduce(np.logical_and, (wide[:, at : at + width] for at in range(5)))


def _highest(surface: Image, reach: int) -> tuple[int, int]:
    """Row and column of the highest place within reach of no shift; they wrap around."""
    height, width = surface.shape
    steps = np.arange(-reach, reach + 1)
    near = surface[np.ix_(steps % height, steps % width)]
    row, col = np.unravel_index(near.argmax(), near.shape)
    return int(steps[row]) % height, int(steps[col]) % width


def _refined(cross: NDArray[np.complex128], row: int, col: int) -> tuple[float, float]:
    """The peak to a fraction of a pixel, signed: the same correlation on a fine lattice around (row, col), then a parabola.

    The lattice is a matrix product with the frequencies (Guizar-Sicairos et al. 2008), so nothing is interpolated.
    """
    signed = [
        place - size if place > size // 2 else place
        for place, size in zip((row, col), cross.shape, strict=True)
    ]
    steps = np.arange(-_FINE, _FINE + 1) / _FINE
    rows, cols = (
        np.exp(2j * np.pi * np.outer(place + steps, np.fft.fftfreq(size)))
        for place, size in zip(signed, cross.shape, strict=True)
    )
    fine = (rows @ cross @ cols.T).real
    top = np.unravel_index(fine.argmax(), fine.shape)
    found = []
    for axis, place in enumerate(top):
        line = fine[:, top[1]] if axis == 0 else fine[top[0]]
        found.append(signed[axis] + (place - _FINE + _vertex(line, int(place))) / _FINE)
    return found[0], found[1]


def _vertex(line: Image, place: int) -> float:
    """Where a parabola through three neighbouring values is highest, in steps from the middle one."""
    if not 0 < place < len(line) - 1:
        return 0.0
    before, here, after = line[place - 1 : place + 2]
    bend = before - 2 * here + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0


@dataclass(frozen=True)
class Seen:
    """One image of the ground (H, W), and where it was seen."""

    image: Image
    seen: Mask
    gsd: float

    def at(self, gsd: float) -> Seen:
        """The same ground on pixels a whole number of times larger, averaged."""
        step = whole(gsd / self.gsd) or 1
        height, width = (size // step * step for size in self.image.shape)

        def blocks(image: NDArray[Any]) -> NDArray[Any]:
            return image[:height, :width].reshape(height // step, step, width // step, step)

        whole_seen = np.asarray(blocks(self.seen).all(axis=(1, 3)))
        return Seen(blocks(self.image).mean(axis=(1, 3)), whole_seen, gsd)


def shifts(layers: Mapping[str, Layer]) -> tuple[Shift, ...]:
    """The shifts that can be measured between the layers of a sample, and between dates of Sentinel-2.

    "s2-s1": near infrared against VV; "hr-s2": the brightness of both on Sentinel-2's pixels; "s2-s2 DAY/DAY": near
    infrared of the clearest date against each other clear one; "s2 B08-B8A": a 10 m against a 20 m band of
    the clearest date, which tells how 20 m pixels were brought to 10 m. Pairs without a confident peak are left out.
    """
    found = []
    for pair, first, second in _pairs(layers):
        gsd = max(first.gsd, second.gsd)
        one, other = first.at(gsd), second.at(gsd)
        right, down, peak = measure(one.image, other.image, one.seen & other.seen)
        if peak >= CONFIDENT:
            found.append(Shift(pair, right, down, gsd, peak))
    return tuple(found)


def _pairs(layers: Mapping[str, Layer]) -> Iterator[tuple[str, Seen, Seen]]:
    """What is compared: a name and two views."""
    s2, s1, hr = (layers.get(prefix) for prefix in ("s2", "s1", "hr"))
    best = _clearest(s2) if s2 is not None else None
    if s2 is not None and best is not None:
        yield from _within(s2, best)
        infrared = _view(s2, ("B08", "B8A", "B04"), best)
        if s1 is not None and infrared is not None and (radar := _radar(s1)) is not None:
            yield "s2-s1", infrared, radar
        colours, picture = _view(s2, ("B04", "B03", "B02"), best, together=True), None
        if hr is not None:
            picture = _view(hr, hr.sensor.band_names, 0, together=True)
        if colours is not None and picture is not None:
            yield "hr-s2", picture, colours


def _within(s2: Layer, best: int) -> Iterator[tuple[str, Seen, Seen]]:
    """Sentinel-2 against itself: another band, other dates."""
    names = s2.sensor.band_names
    if "B08" not in names:
        return
    reference = _view(s2, ("B08",), best)
    assert reference is not None, "B08 is there"
    if "B8A" in names and s2.gsd <= 10.0:
        coarse = _view(s2, ("B8A",), best)
        assert coarse is not None, "B8A is there"
        yield "s2 B08-B8A", reference, coarse
    for date, cloud in enumerate(s2.cloud):
        if date != best and not cloud > 1 - _CLEAR:
            other = _view(s2, ("B08",), date)
            assert other is not None, "B08 is there"
            yield f"s2-s2 {s2.dates[best]}/{s2.dates[date]}", reference, other


def _clearest(s2: Layer) -> int | None:
    """The date with the least cloud and nodata, the earliest of equals; None when even that is cloudy."""
    worth = [
        (0.0 if cloud != cloud else cloud) + (0.0 if lacking != lacking else lacking)
        for cloud, lacking in zip(s2.cloud, s2.nodata, strict=True)
    ]
    best = int(np.argmin(worth))
    return best if worth[best] <= LEAST_SEEN else None


def _view(layer: Layer, names: tuple[str, ...], date: int, *, together: bool = False) -> Seen | None:
    """The first of the named bands that the layer has, or the mean of all of them; None when it lacks them."""
    places = [layer.sensor.band_names.index(name) for name in names if name in layer.sensor.band_names]
    if not places or (together and len(places) < len(names)):
        return None
    chosen = layer.pixels[date, places if together else places[:1]]
    there = chosen != layer.sensor.nodata
    seen = np.asarray(there.any(axis=0) if layer.sensor.kind == "optical" else there.all(axis=0))
    if layer.scl is not None:
        seen = seen & ~np.isin(layer.scl[date], SCL_BAD)
    return Seen(chosen.mean(axis=0, dtype=np.float64), seen, layer.gsd)


def _radar(s1: Layer) -> Seen | None:
    """Mean VV of the relative orbit with most dates, in decibels: speckle averages out, the look direction stays."""
    if "VV" not in s1.sensor.band_names:
        return None
    orbits = s1.properties.get("relative_orbit") or (None,) * len(s1.dates)
    most = max(sorted(set(orbits), key=str), key=orbits.count)
    chosen = [date for date, orbit in enumerate(orbits) if orbit == most]
    level = s1.pixels[chosen, s1.sensor.band_names.index("VV")]
    seen = level != s1.sensor.nodata
    count = seen.sum(axis=0)
    total = np.where(seen, level, 0).sum(axis=0, dtype=np.float64)
    return Seen(total / np.maximum(count, 1), np.asarray(count > 0), s1.gsd)
