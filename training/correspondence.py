"""Views of one place across sensors, and which cell of one view shows the same ground as which point of another.

A place is a tile seen by several sensors whose images cover the same square, however fine each is. Its geometry is
counted in cells, the pixels of the coarsest; a view keeps its box, flips and turn, so where any of its cells lies on the
tile is known exactly and nothing has to be matched by looks (SkySense, sec. 3.2: "spatially aligned").

Letters: B places, V views, n cells a side of a view, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor

from training.augment import View, central_views
from training.methods import Crop

__all__ = [
    "Partners",
    "TilePlaces",
    "both_ways",
    "centres",
    "draw_locals",
    "draw_pairs",
    "fixed_locals",
    "fixed_pairs",
    "moved",
    "partners",
    "repeated",
    "sampled",
    "scaled",
]

TRIES = 24
"""ViewPairs of boxes that are drawn for a place, of which the first with enough ground in common is taken."""


class TilePlaces(BaseModel):
    """Where the views of a place lie: two of all sensors within a window of the tile, and small ones of one sensor.

    Views are square; shares are of the window's area. A pair has at least the share `common` of either view's cells in
    common.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: int = Field(32, gt=0)  # cells a side
    large: Crop = (0.25, 1.0)
    small: Crop = (0.05, 0.25)
    count: int = Field(6, ge=0)  # small views
    common: float = Field(1 / 8, ge=0, le=1)
    flips: float = Field(0.5, ge=0, le=1)  # each way; from above there is no up
    turns: float = Field(0.5, ge=0, le=1)

    def within(self, side: int) -> int:
        """The side of the window in a tile of `side` cells."""
        return min(self.window, side)


@dataclass(frozen=True)
class Partners:
    """For each cell of N views the point of another view that shows its centre: `points` (N, n, n, 2) as
    `torch.nn.functional.grid_sample` counts (x, y from -1 to 1 between the edges), and whether it is `there` (N, n, n)."""

    points: Tensor
    there: Tensor


def draw_pairs(
    count: int, side: int, places: TilePlaces, cells: int, generator: Generator | None = None
) -> tuple[View, Tensor]:
    """Two views (2 * count) of each tile of `side` cells, and the corners (count, 2) of the windows they lie in: top, left.

    View 0 of every place comes first, then view 1; `cells` a side is what views are rendered to. Of `TRIES` pairs the
    first with enough in common is taken; when none has, both views get the box of the first. On the host.
    """
    window = places.within(side)
    corner = (torch.rand(count, 2, generator=generator) * (side - window + 1)).floor()  # (B, 2)
    boxes, flips = _boxes(TRIES * 2 * count, window, places.large, places, generator)
    boxes[:, :2] += corner.repeat(TRIES * 2, 1)
    tries = boxes.view(TRIES, 2, count, 4), flips.view(3, TRIES, 2, count)
    mine, other = (
        View(box.reshape(-1, 4), *(flip.reshape(3, -1)))
        for box, flip in ((tries[0][:, view], tries[1][:, :, view]) for view in range(2))
    )
    shares = torch.stack(
        [partners(one, two, cells).there.float().mean((1, 2)) for one, two in ((mine, other), (other, mine))]
    )
    fits = (shares.amin(0) >= places.common).view(TRIES, count)
    first = fits.int().argmax(0)  # (B,), 0 where none fits
    place = torch.arange(count)
    chosen, turned = tries[0][first, :, place], tries[1][:, first, :, place]  # (B, 2, 4), (B, 3, 2)
    chosen[:, 1] = torch.where(fits.any(0)[:, None], chosen[:, 1], chosen[:, 0])
    across, down, turn = turned.permute(1, 2, 0).reshape(3, -1)
    return View(chosen.transpose(0, 1).reshape(-1, 4), across, down, turn), corner


def draw_locals(
    corner: Tensor, side: int, places: TilePlaces, finer: int, generator: Generator | None = None
) -> View:
    """`places.count` small views of each place, (count * B), in its window at `corner` (B, 2): round by round.

    In cells; boxes end between pixels of a sensor that is `finer` times as fine.
    """
    count = places.count * len(corner)
    boxes, (across, down, turn) = _boxes(count, places.within(side) * finer, places.small, places, generator)
    boxes = boxes / finer
    boxes[:, :2] += corner.repeat(places.count, 1)
    return View(boxes, across, down, turn)


def fixed_pairs(count: int, side: int, places: TilePlaces) -> tuple[View, Tensor]:
    """The views of evaluation: central squares of the central window, as it lies; the larger share first."""
    window = places.within(side)
    start = (side - window) // 2
    return _squares(count, window, places.large[::-1], start, 1), torch.full((count, 2), float(start))


def fixed_locals(count: int, side: int, places: TilePlaces, finer: int) -> View:
    """The small views of evaluation: central squares, their areas spread over the shares that are drawn otherwise."""
    window = places.within(side)
    least, most = places.small
    step = (most - least) / max(1, places.count - 1)
    shares = [least + step * number for number in range(places.count)]
    return _squares(count, window, shares, (side - window) // 2, finer)


def moved(view: View, device: torch.device) -> View:
    """The same views on a device."""
    return View(*(None if part is None else part.to(device, non_blocking=True) for part in _parts(view)))  # type: ignore[arg-type]


def scaled(view: View, finer: int) -> View:
    """The same views in pixels `finer` times as small."""
    return View(view.boxes * finer, view.across, view.down, view.turn)


def both_ways(view: View) -> View:
    """ViewPairs (2B) with their members exchanged: what each view is compared with."""
    return View(*(None if part is None else torch.cat(part.chunk(2)[::-1]) for part in _parts(view)))  # type: ignore[arg-type]


def repeated(view: View, rounds: int, parts: int = 1) -> View:
    """Each of the equal `parts` of views so many times in a row."""

    def many(values: Tensor | None) -> Tensor | None:
        if values is None:
            return None
        return torch.cat([part.repeat(rounds, *[1] * (part.ndim - 1)) for part in values.chunk(parts)])

    return View(*map(many, _parts(view)))  # type: ignore[arg-type]


def centres(view: View, cells: int) -> Tensor:
    """Where on the tile the centres of a view's cells lie: (N, n, n, 2), x and y in cells of the tile."""
    place = (torch.arange(cells, device=view.boxes.device) + 0.5) / cells
    down, across = torch.meshgrid(place, place, indexing="ij")  # (n, n)
    across = torch.where(_wide(view.across), 1 - across, across)  # (N, n, n), as before the flips
    down = torch.where(_wide(view.down), 1 - down, down)
    if view.turn is not None:
        across, down = (
            torch.where(_wide(view.turn), down, across),
            torch.where(_wide(view.turn), across, down),
        )
    top, left, height, width = (_wide(side) for side in view.boxes.unbind(1))
    return torch.stack([left + across * width, top + down * height], -1)


def partners(mine: View, theirs: View, cells: int) -> Partners:
    """For each of the `cells` x `cells` cells of N views, the point of the N other views with the same ground.

    for each view, for each cell s: (x, y) = its centre on the tile
        there[s] = (x, y) lies in the other's box
        points[s] = where in the other view, as it is flipped and turned, (x, y) is seen
    """
    x, y = centres(mine, cells).unbind(-1)  # (N, n, n)
    top, left, height, width = (_wide(side) for side in theirs.boxes.unbind(1))
    across, down = (x - left) / width, (y - top) / height
    there = (across >= 0) & (across <= 1) & (down >= 0) & (down <= 1)
    if theirs.turn is not None:
        across, down = (
            torch.where(_wide(theirs.turn), down, across),
            torch.where(_wide(theirs.turn), across, down),
        )
    down = torch.where(_wide(theirs.down), 1 - down, down)
    across = torch.where(_wide(theirs.across), 1 - across, across)
    return Partners(torch.stack([2 * across - 1, 2 * down - 1], -1), there)


def sampled(maps: Tensor, points: Tensor) -> Tensor:
    """What maps (N, ..., h, w) hold at points (N, n, m, 2), between cells bilinearly: (N, ..., n, m).

    In float32 or wider, for points are finer than half precision.
    """
    with torch.autocast(maps.device.type, enabled=False):
        flat = maps.flatten(1, -3).to(torch.promote_types(maps.dtype, torch.float32))  # (N, D, h, w)
        found = F.grid_sample(
            flat, points.to(flat.dtype), mode="bilinear", padding_mode="border", align_corners=False
        )
    return found.unflatten(1, maps.shape[1:-2])


def _boxes(
    count: int, window: int, shares: Crop, places: TilePlaces, generator: Generator | None
) -> tuple[Tensor, Tensor]:
    """Square boxes (count, 4) in a window of so many units, its shares of area drawn evenly, and flips and turns (3, count)."""
    share = shares[0] + torch.rand(count, generator=generator) * (shares[1] - shares[0])
    side = (window * share.sqrt()).round().clamp(min=1)
    corner = (torch.rand(2, count, generator=generator) * (window - side + 1)).floor()
    odds = torch.tensor([places.flips, places.flips, places.turns])[:, None]
    return torch.stack([*corner, side, side], 1), torch.rand(3, count, generator=generator) < odds


def _squares(count: int, window: int, shares: Sequence[float], start: int, finer: int) -> View:
    boxes = [central_views(count, window * finer, window * finer, share).boxes / finer for share in shares]
    whole = torch.cat([*boxes, torch.zeros(0, 4)]) + torch.tensor([start, start, 0, 0])
    never = torch.zeros(len(whole), dtype=torch.bool)
    return View(whole, never, never, never)


def _parts(view: View) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    return view.boxes, view.across, view.down, view.turn


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None]
