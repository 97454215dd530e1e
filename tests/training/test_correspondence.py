"""Views of one place: the same ground for every sensor, and partners of cells that are exactly where they should be."""

from dataclasses import replace

import pytest
import torch
from sights import DAYS, SIDE, samples, tiny
from torch import Tensor

from training import augment, correspondence, multiview, series
from training.augment import PADDING, UNDATED, View
from training.correspondence import TilePlaces
from training.encoders import Inputs
from training.series import Gains

EVERY_WAY = torch.tensor([[bit >> place & 1 for bit in range(8)] for place in range(3)]).bool()
UNLIKE = Inputs(layer="s2", bands=("a", "b"), mean=(1000.0, 2000.0), std=(100.0, 400.0))


def lying(boxes: Tensor, ways: Tensor) -> View:
    return View(boxes, *ways)


def test_a_view_beside_itself_is_itself():
    view = lying(torch.tensor([[3.0, 5.0, 20.0, 20.0]]).expand(8, 4), EVERY_WAY)
    found = correspondence.partners(view, view, 16)
    maps = torch.randn(8, 3, 5, 16, 16)
    assert found.there.all()
    assert (correspondence.sampled(maps, found.points) - maps).abs().max() < 1e-6


@pytest.mark.parametrize(("way", "dimension"), [(0, -1), (1, -2)])
def test_beside_its_mirror_image_a_view_is_mirrored(way, dimension):
    ways = torch.zeros(3, 1, dtype=torch.bool)
    other = ways.clone()
    other[way] = True
    box = torch.tensor([[3.0, 5.0, 20.0, 20.0]])
    found = correspondence.partners(lying(box, ways), lying(box, other), 16)
    maps = torch.randn(1, 3, 16, 16)
    assert (correspondence.sampled(maps, found.points) - maps.flip(dimension)).abs().max() < 1e-6


def test_partners_show_the_same_pixel_of_the_tile_whichever_way_both_lie():
    tile = torch.arange(SIDE * SIDE, dtype=torch.float32).view(1, 1, SIDE, SIDE)  # every pixel has its number
    generator = torch.Generator().manual_seed(0)
    count = 64
    corner = torch.randint(0, 8, (2, count, 2), generator=generator).float()
    views = [
        lying(torch.cat([corner[number], torch.full((count, 2), 16.0)], 1), ways)
        for number, ways in enumerate((EVERY_WAY.repeat_interleave(8, 1), EVERY_WAY.repeat(1, 8)))
    ]
    mine, theirs = (augment.render(tile, view, 16) for view in views)  # copies of pixels: a box has 16
    found = correspondence.partners(*views, 16)
    seen = correspondence.sampled(theirs, found.points)[:, 0]
    inside = torch.tensor(
        [[theirs[view].eq(number).any() for number in mine[view].flatten()] for view in range(count)]
    )
    assert torch.equal(found.there.flatten(1), inside)
    assert ((seen - mine[:, 0]) * found.there).abs().max() < 0.02  # of numbers up to 4095


def test_centres_are_where_the_pixels_of_a_view_come_from():
    rows, columns = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    ramp = torch.stack([columns, rows])[None]
    view = lying(torch.tensor([[10.0, 4.0, 23.0, 23.0]]).expand(8, 4), EVERY_WAY)
    shown = augment.render(ramp, view, 16).permute(0, 2, 3, 1)
    inner = slice(2, -2)  # at the edge a filter leans inwards
    torch.testing.assert_close(
        shown[:, inner, inner], correspondence.centres(view, 16)[:, inner, inner], rtol=0, atol=0.05
    )


def test_pairs_lie_in_their_window_and_have_enough_in_common():
    places = TilePlaces(common=0.25)
    generator = torch.Generator().manual_seed(1)
    view, corner = correspondence.draw_pairs(300, 64, places, 16, generator)
    top, left, tall, wide = view.boxes.unbind(1)
    assert torch.equal(tall, wide) and (tall >= 16).all() and (tall <= 32).all()
    for start, first in ((top, corner[:, 0]), (left, corner[:, 1])):
        assert (start >= first.repeat(2)).all() and (start + tall <= first.repeat(2) + 32).all()
    assert (corner >= 0).all() and (corner + 32 <= 64).all() and len(corner.unique(dim=0)) > 200
    found = correspondence.partners(view, correspondence.both_ways(view), 16)
    assert found.there.float().mean((1, 2)).min() >= 0.25
    assert (tall.square() / 32**2).mean() == pytest.approx(0.625, abs=0.03)  # areas are even from 0.25 to 1
    for flips in (view.across, view.down, view.turn):
        assert flips.float().mean() == pytest.approx(0.5, abs=0.08)


def test_where_no_pair_has_enough_in_common_both_show_the_same():
    places = TilePlaces(large=(0.05, 0.05), common=1.0)
    view, _ = correspondence.draw_pairs(50, 64, places, 16, torch.Generator().manual_seed(2))
    found = correspondence.partners(view, correspondence.both_ways(view), 16)
    assert found.there.all()


def test_small_views_lie_in_the_window_between_fine_pixels():
    generator = torch.Generator().manual_seed(3)
    corner = torch.tensor([[4.0, 20.0], [0.0, 32.0]])
    view = correspondence.draw_locals(corner, 64, TilePlaces(count=50), 4, generator)
    boxes = view.boxes.view(50, 2, 4)
    assert torch.equal(boxes * 4, (boxes * 4).round())
    assert (boxes[..., :2] >= corner).all() and (boxes[..., :2] + boxes[..., 2:] <= corner + 32).all()
    assert (boxes[..., 2].square() / 32**2).mean() == pytest.approx(0.15, abs=0.02)


def test_every_sensor_shows_the_same_ground():
    """Tiles whose every sensor shows one smooth ramp: high resolution, averaged over cells, is the others' pixels."""
    spec, batch = tiny(), samples(3, ramps=True)
    views = spec.views.model_copy(update={"gains": Gains(gain=0, offset=0, drop=0, decibels=0, speckle=0)})
    found = multiview.sights(batch, spec.encoder.reads, views, None, fixed=True)
    fine, coarse = found.large.images["hr"], found.large.images["s2"]
    averaged = torch.nn.functional.avg_pool2d(fine[:, 0], 32)[:, 0]  # (2B, n, n)
    assert torch.corrcoef(torch.stack([averaged.flatten(), coarse[:, 0, 0].flatten()]))[0, 1] > 0.999
    for drawn in range(3):
        torch.manual_seed(drawn)
        seen = multiview.sights(batch, spec.encoder.reads, views, None, fixed=False)
        where = correspondence.centres(seen.large_at, 4).sum(-1).flatten(1)  # the ramp is x + y
        for name in ("s2", "s1"):
            shown = seen.large.images[name][:, 0, 0].flatten(1)
            for one, other in zip(where, shown, strict=True):
                assert torch.corrcoef(torch.stack([one, other]))[0, 1] > 0.998, name


def test_dates_are_drawn_in_order_and_without_need_never_twice():
    known = torch.full((3, 30), PADDING, dtype=torch.int32)
    known[0] = torch.arange(30).flip(0)
    known[1, 5:8] = torch.tensor([9, 7, 8])
    batch = replace(samples(3), dates={"s2": known})
    seen = set()
    for seed in range(60):
        torch.manual_seed(seed)
        index = series.drawn_dates(batch, "s2", 20)
        days = known.gather(1, index)
        assert (days.diff(dim=1) >= 0).all()
        assert len(index[0].unique()) == 20 and set(days[1].tolist()) <= {7, 8, 9}
        seen |= set(index[0].tolist())
    assert seen == set(range(30))
    spread = known.gather(1, series.spread_dates(batch, "s2", 5))
    assert spread[0].tolist() == [3, 9, 15, 21, 27] and spread[1].tolist() == [7, 7, 8, 9, 9]
    days, held = series.days(batch, "s2", index)
    assert held.tolist() == [True, True, False] and (days[2] == UNDATED).all()


def test_both_views_have_the_same_dates_a_few_days_apart():
    spec, batch = tiny(s2_dates=6), samples(4)
    torch.manual_seed(4)
    found = multiview.sights(batch, spec.encoder.reads, spec.views, None, fixed=False)
    one, other = found.large.days["s2"].chunk(2)
    apart = one - other
    assert (apart.abs() <= 14).all() and (apart != 0).any()
    held = batch.dates["s2"].long()
    nearest = (one[:, :, None] - held[:, None]).abs().amin(-1)
    assert (nearest <= 7).all()
    first, second = found.large.days["hr"].chunk(2)
    assert torch.equal(first, second) and (first == DAYS["hr"]).all()


def test_gains_are_those_of_a_view_and_shared_by_its_dates():
    torch.manual_seed(5)
    images = torch.randn(500, 3, 2, 2, 2)
    base = images * torch.tensor(UNLIKE.std).view(2, 1, 1) + torch.tensor(UNLIKE.mean).view(2, 1, 1)
    changed = Gains(gain=0.1, offset=0.0, drop=0.0).optical(images, UNLIKE)
    value = changed * torch.tensor(UNLIKE.std).view(2, 1, 1) + torch.tensor(UNLIKE.mean).view(2, 1, 1)
    factor = value / base
    assert torch.allclose(factor, factor[:, :1, :, :1, :1].expand_as(factor), atol=1e-3)
    drawn = factor[:, 0, :, 0, 0]
    assert (
        drawn.amin() >= 0.899
        and drawn.amax() <= 1.101
        and drawn.std() == pytest.approx(0.2 / 12**0.5, rel=0.1)
    )
    lost = (Gains(drop=0.5).optical(images, UNLIKE) == 0).all((1, 3, 4))  # (B, S)
    assert lost.sum(1).amax() == 1 and lost.any(1).float().mean() == pytest.approx(0.5, abs=0.07)


def test_speckle_of_four_looks_keeps_the_mean_power():
    inputs = Inputs(layer="s1", bands=("VV", "VH"), mean=(-1200.0, -1900.0), std=(400.0, 500.0))
    torch.manual_seed(6)
    images = torch.zeros(200, 2, 2, 16, 16)
    found = (
        Gains(decibels=0.0, speckle=1.0).radar(images, inputs) * torch.tensor(inputs.std).view(2, 1, 1) / 100
    )
    assert torch.equal(found[:, 0], found[:, 1])
    power = 10 ** (found[:, 0] / 10)
    assert power.mean() == pytest.approx(1.0, abs=0.01) and power.var() == pytest.approx(1 / 4, rel=0.03)
    moved = Gains(speckle=0.0).radar(images, inputs) * torch.tensor(inputs.std).view(2, 1, 1) / 100
    assert moved.abs().amax() <= 1.0001 and moved[:, 0, :, 0, 0].std() == pytest.approx(2 / 12**0.5, rel=0.1)
    assert torch.equal(moved, moved[:, :1, :, :1, :1].expand_as(moved))


def test_a_place_without_a_sensor_is_marked_and_shows_its_mean():
    spec, batch = tiny(), samples(3, without={"s1": [1], "hr": [0, 2]})
    torch.manual_seed(7)
    found = multiview.sights(batch, spec.encoder.reads, spec.views, None, fixed=False)
    assert found.large.present["s1"].any(1).tolist() == [True, False, True] * 2
    assert found.large.present["hr"][:, 0].tolist() == [False, True, False] * 2
    assert (found.large.days["s1"][1] == UNDATED).all()
    assert not found.large.images["hr"][[0, 2, 3, 5]].any() and found.large.images["hr"][1].any()
    assert not found.small[[0, 2]].any() and found.small[1].any()


def test_a_batch_without_any_image_of_a_sensor_has_views_all_the_same():
    spec, batch = tiny(), samples(2, without={"s1": [0, 1], "hr": [0, 1]})
    empty = {
        "s1": torch.zeros(2, 1, 2, 0, 0, dtype=torch.int16),
        "hr": torch.zeros(2, 1, 3, 0, 0, dtype=torch.uint8),
    }
    found = multiview.sights(
        replace(batch, layers=batch.layers | empty), spec.encoder.reads, spec.views, None, fixed=False
    )
    assert found.large.images["hr"].shape == (4, 1, 3, 128, 128)
    assert found.large.images["s1"].shape[2:] == (2, 4, 4) and not found.large.present["s1"].any()


def test_tiles_that_do_not_nest_are_refused():
    spec, batch = tiny(), samples(2)
    odd = batch.layers | {"hr": batch.layers["hr"][..., :100, :100]}
    with pytest.raises(ValueError, match="do not nest"):
        multiview.sights(replace(batch, layers=odd), spec.encoder.reads, spec.views, None, fixed=True)


def test_high_resolution_alone_is_cut_where_all_sensors_are():
    spec, batch = tiny(), samples(2)
    found = []
    for sensors in (("hr", "s2", "s1"), ("hr",)):
        torch.manual_seed(9)
        reads = {name: spec.encoder.reads[name] for name in sensors}
        found.append(multiview.sights(batch, reads, spec.views, None, fixed=True))
    assert torch.equal(found[0].large_at.boxes, found[1].large_at.boxes)
    assert torch.equal(found[0].large.images["hr"], found[1].large.images["hr"])
