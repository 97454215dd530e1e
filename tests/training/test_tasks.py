"""Heads: what they read as a target, what they predict, and that they can learn eight samples by heart."""

from types import SimpleNamespace

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from training.encoders import Inputs, Tokens, vit
from training.metrics import IGNORE
from training.objectives import binary_cross_entropy
from training.tasks import AnyTask, Series, Task, TaskSpec, build, classify, multilabel, segment

INPUTS = Inputs(layer="s2", bands=("B02", "B03", "B04"))
SEGMENT = segment.Spec(
    classes=("water", "trees", "built"), codes=(10, 20, 60), decoder={"kind": "growing", "channels": 8}
)
CLASSIFY = classify.Spec(classes=("farm", "town"), label="scene")
SEVERAL = multilabel.Spec(classes=("farm", "town", "lake"), codes=(0, 2, 62))
SIZE = (32, 32)


def encoder(patch: int = 8, width: int = 32) -> vit.ViT:
    torch.manual_seed(0)
    return vit.build(vit.Spec(inputs=INPUTS, image=32, patch=patch, width=width, depth=2, heads=2))


def features(batch: int = 2, side: int = 4, width: int = 32) -> Tokens:
    generator = torch.Generator().manual_seed(0)
    return Tokens(
        torch.randn(batch, width, generator=generator),
        torch.randn(batch, side * side, width, generator=generator),
        side,
        side,
    )


def samples(
    layers: dict[str, Tensor] | None = None, labels: dict[str, Tensor] | None = None
) -> SimpleNamespace:
    return SimpleNamespace(layers=layers or {}, labels=labels or {})


@pytest.mark.parametrize("patch", [4, 8, 16])
def test_a_segmentation_comes_at_the_resolution_of_the_image(patch):
    task = build(SEGMENT, encoder(patch))
    tokens = features(side=32 // patch)
    assert task.logits(tokens, (32, 32)).shape == (2, 3, 32, 32)
    assert task.predict(tokens, (32, 32)).shape == (2, 32, 32)
    assert task.predict(tokens, (64, 64)).shape == (2, 64, 64)


def test_each_patch_of_a_segmentation_comes_from_its_own_token():
    task, tokens = build(SEGMENT, encoder()), features()
    before = task.logits(tokens, (32, 32))
    tokens.patches[:, 6] += 1  # row 1, column 2
    changed = (task.logits(tokens, (32, 32)) != before).any(1)[0].nonzero()
    assert changed.min(0).values.tolist() == [8, 16]
    assert changed.max(0).values.tolist() == [15, 23]


def test_codes_become_classes_and_all_others_are_ignored():
    task = build(SEGMENT, encoder())
    codes = torch.tensor([[10, 20], [60, 255]], dtype=torch.uint8)
    stray = torch.tensor([[0, 1], [30, 10]], dtype=torch.uint8)
    layer = torch.stack([codes, stray])[:, None, None]  # (B, T, C, H, W)
    target = task.target(samples({"lc": layer}))
    assert target.tolist() == [[[0, 1], [2, 255]], [[255, 255], [255, 0]]]
    assert target.dtype == torch.int64


def test_labels_become_targets():
    task = build(CLASSIFY, encoder())
    assert (
        task.target(samples(labels={"scene": torch.tensor([1, 0], dtype=torch.int32)})).dtype == torch.int64
    )


def test_a_missing_target_is_refused_by_name():
    with pytest.raises(ValueError, match="not 'lc'"):
        build(SEGMENT, encoder()).target(samples({"s2": torch.zeros(1, 1, 3, 2, 2)}))
    with pytest.raises(ValueError, match="not 'scene'"):
        build(CLASSIFY, encoder()).target(samples(labels={"other": torch.zeros(1)}))


def test_a_classification_pools_patches_or_takes_the_class_token():
    tokens = features()
    mean = build(CLASSIFY, encoder())
    cls = build(CLASSIFY.model_copy(update={"pool": "cls"}), encoder())
    torch.testing.assert_close(
        mean.logits(tokens, SIZE), mean.head.linear(torch.stack([row.mean(0) for row in tokens.patches]))
    )
    torch.testing.assert_close(cls.logits(tokens, SIZE), cls.head.linear(tokens.cls))
    with pytest.raises(ValueError, match="no class token"):
        cls.logits(Tokens(None, tokens.patches, 4, 4), SIZE)


def test_features_are_standardised_over_the_batch_where_asked():
    task, tokens = build(CLASSIFY.model_copy(update={"batch_norm": True}), encoder()), features(batch=5)
    pooled = tokens.patches.mean(1)
    scaled = (pooled - pooled.mean(0)) / (pooled.var(0, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(task.logits(tokens, SIZE), task.head.linear(scaled))
    assert not dict(task.head.norm.named_parameters())


def test_bits_become_targets_and_a_negative_label_says_nothing():
    task = build(SEVERAL, encoder())
    stored = torch.tensor([0b101, 1 << 62, 0b010, -1])  # bit 1 is no class here
    target = task.target(samples(labels={"classes": stored}))
    assert target.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 0], [IGNORE] * 3]
    with pytest.raises(ValueError, match="code 63 is none of them"):
        multilabel.Spec(classes=("a",), codes=(63,))
    with pytest.raises(ValueError, match="not 'classes'"):
        task.target(samples(labels={"class": stored}))


def test_binary_cross_entropy_is_the_loop_in_its_docstring():
    logits, target = torch.randn(4, 3), torch.tensor([[1, 0, 1], [0, IGNORE, 1], [0, 0, 0], [IGNORE] * 3])
    total, counted = torch.zeros(()), 0
    for logit, wanted in zip(logits.flatten(), target.flatten().tolist(), strict=True):
        if wanted != IGNORE:
            p = 1 / (1 + (-logit).exp())
            total -= p.log() if wanted else (1 - p).log()
            counted += 1
    torch.testing.assert_close(binary_cross_entropy(logits, target), total / counted)


def test_several_classes_are_ranked_by_their_probability():
    task, tokens = build(SEVERAL, encoder()), features()
    logits = task.logits(tokens, SIZE)
    torch.testing.assert_close(task.predict(tokens, SIZE), 1 / (1 + (-logits).exp()))


def test_an_auxiliary_head_adds_its_weighed_loss_and_is_not_asked():
    spec = SEGMENT.model_copy(update={"auxiliary": 0.4})
    torch.manual_seed(0)
    task, tokens, target = build(spec, encoder()).eval(), features(), torch.randint(3, (2, 32, 32))
    losses = task(tokens, target)
    aside = torch.nn.functional.interpolate(task.auxiliary(tokens), SIZE, mode="bilinear")
    torch.testing.assert_close(
        losses.parts["auxiliary"], 0.4 * torch.nn.functional.cross_entropy(aside, target)
    )
    plain = torch.nn.functional.cross_entropy(task.logits(tokens, SIZE), target)
    torch.testing.assert_close(losses.total, losses.parts["auxiliary"] + plain)
    assert not hasattr(build(SEGMENT, encoder()), "auxiliary")


def test_a_series_that_does_not_fit_its_images_is_refused():
    tokens = features(batch=6)
    assert Series(tokens, torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3)).by_date(
        tokens.patches
    ).shape[:2] == (2, 3)
    with pytest.raises(ValueError, match="6 encoded images are no series"):
        Series(tokens, torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, 2))


def learn(task: Task, pixels: Tensor, target: Tensor, steps: int, rate: float = 3e-3) -> dict[str, float]:
    torch.manual_seed(0)
    model = encoder()
    optimizer = torch.optim.Adam([*model.parameters(), *task.parameters()], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        task(model(pixels), target).total.backward()
        optimizer.step()
    task.eval()
    with torch.no_grad():
        return task.metric().update(task.predict(model(pixels), SIZE), target).scores()


def test_eight_scenes_are_learnt_by_heart():
    generator = torch.Generator().manual_seed(0)
    pixels, target = torch.randn(8, 3, 32, 32, generator=generator), torch.tensor([0, 1] * 4)
    for spec in (CLASSIFY, CLASSIFY.model_copy(update={"batch_norm": True})):
        assert learn(build(spec, encoder()), pixels, target, steps=25)["accuracy"] == 1


def test_eight_scenes_of_several_classes_are_learnt_by_heart():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(8, 3, 32, 32, generator=generator)
    target = torch.tensor([[number >> bit & 1 for bit in range(3)] for number in range(8)])
    scores = learn(build(SEVERAL, encoder()), pixels, target, steps=40)
    assert scores["map_macro"] == scores["map_micro"] == 1


DECODERS = {
    "growing": {"channels": 8},
    "upernet": {"channels": 16},
    "fcn": {"channels": 16},
    "psanet": {"channels": 16, "mask": 15, "shrink": 1},
    "deeplabv3plus": {"channels": 16, "dropout": 0.0},
    "pyramid": {"channels": 16},
}


@pytest.mark.parametrize("kind", DECODERS)
def test_eight_maps_are_learnt_by_heart(kind):
    generator = torch.Generator().manual_seed(0)
    blobs = torch.randint(3, (8, 4, 4), generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
    pixels = torch.randn(8, 3, 32, 32, generator=generator) * 0.1 + torch.eye(3)[blobs].permute(0, 3, 1, 2)
    blobs[:, :3] = IGNORE
    edges = kind in ("fcn", "psanet")  # one logit a patch, drawn bilinearly: its edges are soft
    if edges:
        inner = torch.zeros(8, 8, dtype=torch.bool)
        inner[2:6, 2:6] = True
        blobs = torch.where(inner.tile(4, 4), blobs, IGNORE)
    spec = segment.Spec(
        classes=SEGMENT.classes, decoder={"kind": kind, **DECODERS[kind]}, auxiliary=0.4 * edges
    )
    torch.manual_seed(0)
    scores = learn(build(spec, encoder()), pixels, blobs, steps=60 if kind == "growing" else 30)
    assert scores["mean_iou"] > 0.95


def test_a_task_is_found_by_its_kind_and_comes_back_from_json():
    anything: TypeAdapter[TaskSpec] = TypeAdapter(AnyTask)
    for spec in (SEGMENT, CLASSIFY, SEVERAL):
        assert anything.validate_json(anything.dump_json(spec)) == spec
    with pytest.raises(ValueError, match=r"no training\.tasks\.guess"):
        anything.validate_python({"kind": "guess"})


@pytest.mark.parametrize(
    ("codes", "sentence"), [((1, 2), "as many"), ((1, 2, 2), "distinct"), ((1, 2, 255), "0..254")]
)
def test_codes_that_do_not_fit_the_classes_are_refused(codes, sentence):
    with pytest.raises(ValueError, match=sentence):
        segment.Spec(classes=("a", "b", "c"), codes=codes)


def test_a_patch_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match="power of two"):
        build(SEGMENT, vit.build(vit.Spec(inputs=INPUTS, image=28, patch=14, width=32, depth=1, heads=2)))
