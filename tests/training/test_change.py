"""Change between two dates: which images make a pair, and that both heads can learn eight pairs by heart."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from training.encoders import Inputs, Tokens, vit
from training.metrics import IGNORE
from training.tasks import Series, Task, build, change

INPUTS = Inputs(layer="hr", bands=("R", "G", "B"))
DECODERS = {"bit": {"decoders": 2}, "siamese_unet": {"channels": (16, 16, 16, 16), "dropout": 0.0}}
SIZE = (32, 32)


def encoder() -> vit.ViT:
    torch.manual_seed(0)
    return vit.build(vit.Spec(inputs=INPUTS, image=32, patch=8, width=32, depth=2, heads=2))


def task(kind: str) -> Task:
    torch.manual_seed(0)
    return build(change.Spec(decoder={"kind": kind, **DECODERS[kind]}), encoder())


def pairs(tokens: Tokens, dates: int = 2) -> Series:
    count = len(tokens.patches) // dates
    return Series(tokens, torch.ones(count, dates, dtype=torch.bool), torch.zeros(count, dates).long())


@pytest.mark.parametrize("kind", DECODERS)
def test_two_equal_dates_give_one_answer_everywhere_they_are_alike(kind):
    """Without a difference there is nothing but biases to decide by: the same logits for every pair."""
    head, model = task(kind).eval(), encoder().eval()
    if kind == "bit":
        torch.nn.init.zeros_(head.head.decoder.places)  # what tells the dates apart
    one, other = torch.randn(2, 1, 3, 32, 32)
    logits = [head.logits(pairs(model(image.repeat(2, 1, 1, 1))), SIZE) for image in (one, other)]
    torch.testing.assert_close(*logits)
    changed = head.logits(pairs(model(torch.cat([one, other]))), SIZE)
    assert not torch.allclose(changed, logits[0])


@pytest.mark.parametrize("kind", DECODERS)
def test_a_pair_is_two_images_that_follow_each_other(kind):
    head, model = task(kind).eval(), encoder().eval()
    images = torch.randn(4, 3, 32, 32)
    both = head.logits(pairs(model(images)), SIZE)
    for number in range(2):
        alone = head.logits(pairs(model(images[2 * number : 2 * number + 2])), SIZE)
        torch.testing.assert_close(both[number : number + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DECODERS)
def test_eight_pairs_are_learnt_by_heart(kind):
    generator = torch.Generator().manual_seed(0)
    changed = torch.rand(8, 4, 4, generator=generator) < 0.4
    changed = changed.repeat_interleave(8, 1).repeat_interleave(8, 2)  # whole patches
    before = torch.randn(8, 3, 32, 32, generator=generator) * 0.1
    after = torch.where(changed[:, None], before + 1, before)
    images, target = torch.stack([before, after], dim=1).flatten(0, 1), changed.long()
    head, model = task(kind), encoder()
    optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        head(pairs(model(images)), target).total.backward()
        optimizer.step()
    head.eval()
    with torch.no_grad():
        scores = head.metric().update(head.predict(pairs(model(images)), SIZE), target).scores()
    assert scores["change_f1"] > 0.95


def mask(values: list[list[int]]) -> Tensor:
    return torch.tensor(values, dtype=torch.uint8)[None, None, None]


def test_codes_become_the_same_changed_or_ignored():
    samples = SimpleNamespace(layers={"mask": mask([[0, 1], [2, IGNORE]])}, labels={})
    assert task("bit").target(samples).tolist() == [[[0, 1], [IGNORE, IGNORE]]]
    painted = build(change.Spec(codes=(0, 254), layer="mask"), encoder())
    samples = SimpleNamespace(layers={"mask": mask([[0, 254]])}, labels={})
    assert painted.target(samples).tolist() == [[[0, 1]]]


def test_what_is_no_pair_is_refused():
    head, model = task("bit"), encoder()
    with pytest.raises(ValueError, match="two dates, not 3"):
        head.logits(pairs(model(torch.randn(3, 3, 32, 32)), dates=3), SIZE)
    with pytest.raises(ValueError, match="two classes"):
        change.Spec(classes=("a", "b", "c"))
    with pytest.raises(ValueError, match="kind"):
        change.Spec(decoder={"kind": "upernet"})
