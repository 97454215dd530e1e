"""MoCo v3 against published numbers, its paper's loop, and its rules."""

import pytest
import torch
import torch.nn.functional as F
from golden import hash_weights, hashed_pictures, stepped

from training.crops import recoloured
from training.encoders import Inputs, learned
from training.methods import Progress, moco
from training.recipe import replace
from training.schedules import Teaching

RGB = Inputs(layer="hr", bands=("R", "G", "B"), mean=(0.0,) * 3, std=(1.0,) * 3)
PARITY = moco.Spec(
    encoder=learned.Spec(
        inputs=RGB, image=64, patch=8, width=48, depth=4, heads=4, positions="sincos_rows_first"
    ),
    crops=replace(recoloured(), count=0),
    hidden=64,
    out=32,
    teaching=Teaching(momentum=0.992, cold=0.04, warm=0.04),
    frozen_patches=False,
)


def published(name: str) -> str:
    return f"student.{name.removeprefix('encoder.')}" if not name.startswith("predictor.") else name


def parity(**changes: object) -> moco.MoCo:
    model = moco.build(replace(PARITY, **changes))
    hash_weights(model, ones=True, named=published)
    model.teacher.follow(model.encoder, 0.0)
    model.teacher_head.follow(model.head, 0.0)
    return model.train()


def test_the_reference_implementations_numbers_come_out():
    """The fixture was made with the temperature that its training loop passes to every loss."""
    model, views = parity(), hashed_pictures(1, 32, 64)
    found = stepped(model, lambda: model.losses(views, 0.04))
    totals = [value.total.item() for value, _, _ in found]
    assert totals[0] == pytest.approx(1.360338, rel=1e-5)
    assert totals[1:] == pytest.approx([0.585819, 0.287071], rel=1e-4)
    assert [norm for _, norm, _ in found] == pytest.approx([12.0723, 8.27273, 5.6083], rel=1e-4)


def test_the_loss_is_the_papers_loop():
    model, views = parity(), hashed_pictures(1, 12, 64)
    with torch.no_grad():
        q = [model.predictor(model.head(model.encoder(view).cls)) for view in views.chunk(2)]
        k = [model.teacher_head.module(model.teacher.module(view).cls) for view in views.chunk(2)]
    total = 0.0
    for mine, other in ((q[0], k[1]), (q[1], k[0])):
        mine, other = F.normalize(mine, dim=1), F.normalize(other, dim=1)
        for row in range(6):
            scores = torch.stack([mine[row] @ other[column] for column in range(6)]) / 0.2
            total += 2 * 0.2 * (scores.logsumexp(0) - scores[row]) / 6
    torch.testing.assert_close(model.losses(views, 0.2).total, total, rtol=1e-5, atol=1e-6)


def test_positions_have_rows_first():
    table = parity().encoder.pos_embed[0]
    rows, columns = torch.arange(8.0).repeat_interleave(8), torch.arange(8.0).repeat(8)
    assert not table[0].any()
    torch.testing.assert_close(table[1:, 0], rows.sin())
    torch.testing.assert_close(table[1:, 24], columns.sin())
    torch.testing.assert_close(table[1:, 13], (rows * 10000 ** (-1 / 12)).cos())


def test_linear_maps_start_xavier_uniform_with_queries_keys_and_values_apart():
    torch.manual_seed(0)
    encoder = moco.build(replace(PARITY, encoder=replace(PARITY.encoder, width=192))).encoder
    for weight, bound in [
        (encoder.blocks[1].attn.qkv.weight, (6 / (192 + 192)) ** 0.5),
        (encoder.blocks[1].mlp.fc1.weight, (6 / (192 + 768)) ** 0.5),
        (encoder.patch_embed.proj.weight, (6 / (3 * 64 + 192)) ** 0.5),
    ]:
        assert weight.abs().max().item() == pytest.approx(bound, rel=1e-2)
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=2e-2)
    assert encoder.cls_token.abs().max() < 1e-5
    assert not encoder.blocks[1].attn.qkv.bias.any()


def test_the_teacher_drops_nothing_but_its_norms_see_the_batch():
    model, views = parity(encoder=replace(PARITY.encoder, drop_path=0.9)), hashed_pictures(1, 12, 64)
    first, again = model.keys(views), model.keys(views)
    assert torch.equal(first[0], again[0])
    torch.testing.assert_close(first[0].mean(0), torch.zeros(32), rtol=0, atol=1e-5)
    assert not torch.equal(model.losses(views, 0.2).total, model.losses(views, 0.2).total)
    model.losses(views, 0.2).total.backward()
    frozen = [*model.teacher.parameters(), *model.teacher_head.parameters()]
    assert all(part.grad is None for part in frozen)


def test_the_teacher_follows_encoder_and_projector():
    model = parity()
    with torch.no_grad():
        model.encoder.cls_token.add_(1.0)
        model.head[0].weight.add_(1.0)
    before = [model.teacher.module.cls_token.clone(), model.teacher_head.module[0].weight.clone()]
    model.after_step(Progress(501, 1000))
    moved = [model.teacher.module.cls_token - before[0], model.teacher_head.module[0].weight - before[1]]
    for change in moved:  # half a cosine from 0.992 to 1 stands at 0.996 in the middle
        torch.testing.assert_close(change, torch.full_like(change, 0.004), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("recipe", "frozen"), [(moco.as_pera_repo, 0), (moco.as_upstream, 590_592)])
def test_the_published_counts(recipe, frozen):
    with torch.device("meta"):
        model = moco.build(recipe().method)
    learning = sum(part.numel() for part in model.parameters() if part.requires_grad)
    whole = sum(part.numel() for part in model.parameters())
    tables = 2 * 785 * 768  # the published count of the whole takes the fixed positions for parameters
    assert learning + frozen == 108_740_608
    if not frozen:
        assert whole + tables == 216_581_632


def test_temperatures_are_the_recipes():
    assert moco.as_upstream().method.teaching.temperature(Progress(0, 9)) == 0.2
    theirs = moco.as_pera_repo()
    warming = [theirs.method.teaching.temperature(Progress(step, theirs.steps)) for step in (0, 15600, 90000)]
    assert warming == pytest.approx([0.03, 0.05, 0.05])
