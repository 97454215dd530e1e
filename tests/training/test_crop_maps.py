"""Series: dates that are not there never enter, order does not matter, and eight series are learnt by heart."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from training.augment import PADDING, UNDATED
from training.encoders import Inputs, Tokens, vit
from training.tasks import Series, Task, build, crops

INPUTS = Inputs(layer="s2", bands=("B02", "B03", "B04"))
NAMES = ("wheat", "maize", "fallow")
SIZE = (16, 16)
KINDS = {
    "mean": {"pool": "mean"},
    "attention": {"pool": "attention"},
    "chip": {"of": "chip", "truth": "crop"},
    "chip mean": {"of": "chip", "truth": "crop", "pool": "mean"},
}
DAYS = torch.tensor([[18000, 18090, 18180], [18010, 18200, PADDING]])


def encoder(image: int = 16, patch: int = 4) -> vit.ViT:
    torch.manual_seed(0)
    return vit.build(vit.Spec(inputs=INPUTS, image=image, patch=patch, width=32, depth=2, heads=2))


def task(kind: str = "attention", stirred: bool = True) -> Task:
    torch.manual_seed(0)
    made = build(crops.Spec(classes=NAMES, decoder={"channels": 16}, **KINDS[kind]), encoder())
    if stirred and made.pool is not None:
        for part in (made.pool.of_cell, made.pool.of_day):
            torch.nn.init.normal_(part.weight)
    return made.eval()


def series(tokens: Tokens, days: Tensor) -> Series:
    return Series(tokens, days != PADDING, days)


def images(count: int, dates: int, seed: int = 0) -> Tensor:
    return torch.randn(count * dates, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_what_fills_a_series_up_never_enters(kind):
    made, model, pixels = task(kind), encoder().eval(), images(2, 3)
    before = made.logits(series(model(pixels), DAYS), SIZE)
    other = pixels.clone()
    other[5] = 1e3
    torch.testing.assert_close(made.logits(series(model(other), DAYS), SIZE), before)
    short = series(model(pixels[3:5]), DAYS[1:, :2])
    torch.testing.assert_close(made.logits(short, SIZE), before[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_dates_does_not_matter(kind):
    made, model, pixels = task(kind), encoder().eval(), images(1, 3)
    turned = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        made.logits(series(model(pixels[turned]), DAYS[:1, turned]), SIZE),
        made.logits(series(model(pixels), DAYS[:1]), SIZE),
        rtol=1e-4,
        atol=1e-5,
    )


def test_attention_knows_the_day_and_the_mean_does_not():
    model, pixels = encoder().eval(), images(1, 3)
    later = DAYS[:1] + torch.tensor([0, 30, 60])
    for kind, differs in (("attention", True), ("mean", False)):
        made = task(kind)
        one, two = (made.logits(series(model(pixels), days), SIZE) for days in (DAYS[:1], later))
        assert torch.equal(one, two) is not differs


def test_attention_starts_as_the_mean():
    model, pixels = encoder().eval(), images(2, 3)
    fresh, mean = task("attention", stirred=False), task("mean")
    mean.head.load_state_dict(fresh.head.state_dict())
    tokens = series(model(pixels), DAYS)
    torch.testing.assert_close(fresh.logits(tokens, SIZE), mean.logits(tokens, SIZE))


def test_attention_over_dates_is_this_loop():
    pool = crops.Attended(8, heads=2)
    for part in (pool.of_cell, pool.of_day):
        torch.nn.init.normal_(part.weight)
    cells = torch.randn(2, 3, 5, 8)
    found = pool(cells, DAYS != PADDING, DAYS)
    for sample in range(2):
        there = [date for date in range(3) if DAYS[sample, date] != PADDING]
        for cell in range(5):
            for head, channels in ((0, slice(0, 4)), (1, slice(4, 8))):
                logits = []
                for date in there:
                    seen = pool.norm(cells[sample, date, cell]) @ pool.of_cell.weight[head]
                    turn = 2 * math.pi * DAYS[sample, date].item() / 365.25
                    waves = [math.sin(turn * k) for k in range(1, 5)] + [
                        math.cos(turn * k) for k in range(1, 5)
                    ]
                    logits.append(seen + torch.tensor(waves) @ pool.of_day.weight[head])
                shares = torch.stack(logits).softmax(0)
                wanted = sum(
                    share * cells[sample, date, cell, channels]
                    for share, date in zip(shares, there, strict=True)
                )
                torch.testing.assert_close(found[sample, cell, channels], wanted, rtol=1e-4, atol=1e-5)


def test_a_series_without_any_date_is_nothing_and_has_gradients():
    pool, cells = crops.Attended(8, heads=2), torch.randn(1, 3, 5, 8, requires_grad=True)
    days = torch.full((1, 3), PADDING)
    for found in (pool(cells, days != PADDING, days), crops.averaged(cells, days != PADDING)):
        assert torch.equal(found, torch.zeros(1, 5, 8))
        found.sum().backward()
    learnt = [cells, pool.of_cell.weight, pool.of_day.weight]
    assert all(part.grad.isfinite().all() for part in learnt)


def test_seasons_come_back_each_year_and_an_unknown_day_has_none():
    days = torch.tensor([[18000, 18000 + 4 * 1461, 18000 + 182, UNDATED]])
    first, years_later, half, unknown = crops.seasons(days)[0]
    torch.testing.assert_close(first, years_later, rtol=0, atol=1e-5)
    assert (first - half).abs().max() > 1
    assert torch.equal(unknown, torch.zeros(8))


def truth(of: str) -> Tensor:
    if of == "chip":
        return torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    generator = torch.Generator().manual_seed(3)
    return torch.randint(3, (8, 4, 4), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_eight_series_are_learnt_by_heart(kind):
    """A crop is the season it is green in: one date alone does not tell them apart."""
    made, model = task(kind, stirred=False).train(), encoder()
    target = truth(made.spec.of)
    cells = target if target.ndim == 3 else target[:, None, None].expand(-1, 16, 16)
    green = torch.eye(3)[cells].permute(0, 3, 1, 2)[:, :, None]  # (8, T, 1, 16, 16): the date of each class
    noise = torch.randn(8, 3, 3, 16, 16, generator=torch.Generator().manual_seed(4)) * 0.1
    light = torch.tensor([0.0, 0.5, 1.0])[None, :, None, None, None]  # by which a date is known
    pixels = (green + noise + light).flatten(0, 1)
    days = torch.tensor([18000, 18120, 18240]).expand(8, 3)
    optimizer = torch.optim.Adam([*model.parameters(), *made.parameters()], lr=5e-3)
    for _ in range(50):
        optimizer.zero_grad()
        made(series(model(pixels), days), target).total.backward()
        optimizer.step()
    made.eval()
    with torch.no_grad():
        guess = made.predict(series(model(pixels), days), SIZE)
    inner = torch.zeros(4, 4, dtype=torch.bool)
    inner[1:3, 1:3] = True  # one logit a patch, drawn bilinearly: its edges are soft
    right = (guess == target) if target.ndim == 1 else (guess == target)[:, inner.tile(4, 4)]
    assert right.float().mean() > 0.95


def test_points_are_series_of_one_pixel():
    """A point is a chip of one cell: an encoder with patches of one pixel classifies it."""
    model = encoder(image=1, patch=1)
    made = build(crops.Spec(classes=NAMES, of="chip", truth="crop"), model)
    tokens = model(torch.randn(4 * 3, 3, 1, 1))
    days = torch.tensor([[18000, 18100, PADDING]] * 4)
    assert made.predict(series(tokens, days), (1, 1)).shape == (4,)


def test_targets_are_cells_or_chips():
    samples = SimpleNamespace(
        layers={"mask": torch.full((2, 1, 1, 4, 4), 2, dtype=torch.uint8)},
        labels={"crop": torch.tensor([1, 7], dtype=torch.int32)},
    )
    assert task("mean").target(samples).shape == (2, 4, 4) and task("mean").dense
    assert task("chip").target(samples).tolist() == [1, 255] and not task("chip").dense
    with pytest.raises(ValueError, match="5 heads do not divide 32"):
        build(crops.Spec(classes=NAMES, heads=5), encoder())
