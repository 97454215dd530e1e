"""Heads: what they read as a target, what they predict, and that they can learn eight samples by heart."""

from types import SimpleNamespace

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from training.encoders import Inputs, Tokens, vit
from training.tasks import AnyTask, Task, TaskSpec, build, classify, segment

INPUTS = Inputs(layer="s2", bands=("B02", "B03", "B04"))
SEGMENT = segment.Spec(classes=("water", "trees", "built"), codes=(10, 20, 60), channels=8)
CLASSIFY = classify.Spec(classes=("farm", "town"), label="scene")


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
        mean.logits(tokens), mean.head(torch.stack([row.mean(0) for row in tokens.patches]))
    )
    torch.testing.assert_close(cls.logits(tokens), cls.head(tokens.cls))
    with pytest.raises(ValueError, match="no class token"):
        cls.logits(Tokens(None, tokens.patches, 4, 4))


def learn(task: Task, pixels: Tensor, target: Tensor, steps: int, rate: float = 3e-3) -> dict[str, float]:
    torch.manual_seed(0)
    model = encoder()
    optimizer = torch.optim.Adam([*model.parameters(), *task.parameters()], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        task(model(pixels), target).total.backward()
        optimizer.step()
    return task.metric().update(task.predict(model(pixels), (32, 32)), target).scores()


def test_eight_scenes_are_learnt_by_heart():
    generator = torch.Generator().manual_seed(0)
    pixels, target = torch.randn(8, 3, 32, 32, generator=generator), torch.tensor([0, 1] * 4)
    assert learn(build(CLASSIFY, encoder()), pixels, target, steps=25)["accuracy"] == 1


def test_eight_maps_are_learnt_by_heart():
    generator = torch.Generator().manual_seed(0)
    blobs = torch.randint(3, (8, 8, 8), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    pixels = torch.randn(8, 3, 32, 32, generator=generator) * 0.1 + torch.eye(3)[blobs].permute(0, 3, 1, 2)
    blobs[:, :3] = 255
    scores = learn(build(SEGMENT, encoder()), pixels, blobs, steps=60)
    assert scores["mean_iou"] > 0.95


def test_a_task_is_found_by_its_kind_and_comes_back_from_json():
    anything: TypeAdapter[TaskSpec] = TypeAdapter(AnyTask)
    for spec in (SEGMENT, CLASSIFY):
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
