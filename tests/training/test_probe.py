"""Probes against scikit-learn, a plain loop, and encoders that say something known."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from training import probe
from training.encoders import Inputs, hierarchy, vit
from training.feed import Samples
from training.memory import Teacher

RGB = Inputs(layer="hr", bands=("R", "G", "B"), mean=(100.0, 110.0, 120.0), std=(50.0, 60.0, 70.0))


def pictures(count, side, seed=0):
    shape = (count, 1, 3, side, side)
    pixels = torch.randint(1, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Samples(
        [str(number) for number in range(count)],
        {"hr": pixels},
        {"hr": torch.zeros(count, 1, dtype=torch.int32)},
        {"class": torch.arange(count) % 3 - 1},
        torch.zeros(count, 2),
        torch.zeros(count),
        {"hr": RGB.bands},
    )


def digits():
    """1797 real handwritten digits of 8 x 8 pixels, two thirds to learn from."""
    rows, classes = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    return (rows[:1200] / 16, classes[:1200].long()), (rows[1200:] / 16, classes[1200:].long())


def test_the_linear_probe_is_scikit_learns_logistic_regression():
    (rows, classes), (asked, truth) = digits()
    weight, bias = probe.fit(rows, classes, decay=1e-2)
    peer = LogisticRegression(C=1 / (1e-2 * len(rows)), tol=1e-8, max_iter=5000).fit(rows, classes)
    torch.testing.assert_close(weight, torch.from_numpy(peer.coef_), atol=2e-4, rtol=0)
    ours, theirs = asked @ weight.T + bias, torch.from_numpy(peer.decision_function(asked))
    centred = [part - part.mean(1, keepdim=True) for part in (ours, theirs)]
    torch.testing.assert_close(*centred, atol=1e-3, rtol=0)
    assert torch.equal(ours.argmax(1), torch.from_numpy(peer.predict(asked)))
    assert (ours.argmax(1) == truth).float().mean() > 0.85
    with pytest.raises(ValueError, match="decay must be positive"):
        probe.fit(rows, classes, decay=0.0)


def test_where_the_linear_probe_ends_nothing_pulls():
    (rows, classes), _ = digits()
    weight, bias = (part.requires_grad_() for part in probe.fit(rows[:300], classes[:300], decay=1e-3))
    F.cross_entropy(F.linear(rows[:300], weight, bias), classes[:300]).backward()
    assert (weight.grad + 1e-3 * weight).abs().max() < 1e-5
    assert bias.grad.abs().max() < 1e-5


def test_the_linear_probe_does_not_care_about_the_scale_of_a_feature():
    train, test = digits()
    scale = torch.logspace(-3, 3, 64)
    plain = probe.linear(train, test)
    assert probe.linear((train[0] * scale + 5, train[1]), (test[0] * scale + 5, test[1])) == plain > 0.9


def test_neighbours_vote_as_in_the_loop():
    (rows, classes), (asked, truth) = digits()
    rows, classes, asked, truth = rows[:200], classes[:200], asked[:60], truth[:60]
    right = 0
    for one, name in zip(asked, truth.tolist(), strict=True):
        near = sorted(
            (
                (F.cosine_similarity(one, row, dim=0).item(), n)
                for row, n in zip(rows, classes.tolist(), strict=True)
            ),
            reverse=True,
        )
        votes = [0.0] * 10
        for cosine, vote in near[:5]:
            votes[vote] += 2.718281828 ** (cosine / 0.5)
        right += votes.index(max(votes)) == name
    assert probe.knn((rows, classes), (asked, truth), k=5, temperature=0.5) == right / 60
    assert 0.7 < right / 60 < 1


def test_few_samples_all_vote():
    rows = torch.eye(3)
    assert probe.knn((rows, torch.arange(3)), (rows, torch.arange(3))) == 1.0


def test_features_are_the_class_token_or_the_mean_of_the_patches_of_labelled_samples():
    samples = pictures(7, 37)
    encoder = vit.build(
        vit.Spec(inputs=RGB, image=32, patch=8, width=16, depth=3, heads=2, drop_path=0.5)
    ).train()
    found, classes = probe.features(encoder, probe.labelled([samples]))
    assert encoder.training
    assert classes.tolist() == [0, 1, 0, 1]  # codes -1, 0, 1, ... of which -1 is no label
    images = (
        samples.layers["hr"][:, 0, :, 2:34, 2:34].float() - torch.tensor(RGB.mean).view(3, 1, 1)
    ) / torch.tensor(RGB.std).view(3, 1, 1)
    tokens = encoder.eval()(images)
    torch.testing.assert_close(found, tokens.cls[[1, 2, 4, 5]])
    body = hierarchy.build(hierarchy.Spec(inputs=RGB, name="resnet10t")).eval()
    found, _ = probe.features(body, probe.labelled([pictures(4, 64)]))
    assert found.shape == (2, 512)


def test_stages_are_quarters_of_the_depth_or_the_maps_of_the_encoder():
    samples = pictures(5, 32)
    encoder = vit.build(vit.Spec(inputs=RGB, image=32, patch=8, width=16, depth=8, heads=2)).eval()
    parts, _ = probe.staged(encoder, probe.labelled([samples]), grid=2)
    assert [part.shape for part in parts] == [(3, 16 * 4)] * 4
    tokens = encoder.with_class(encoder.embed(probe.viewed(encoder, samples)))
    for stage, expected in enumerate(parts):
        tokens = encoder.blocks[2 * stage + 1](encoder.blocks[2 * stage](tokens))
        grid = tokens[[1, 2, 4], 1:].reshape(3, 2, 2, 2, 2, 16).mean((2, 4))  # (B, rows, columns, D)
        torch.testing.assert_close(
            expected, grid.permute(0, 3, 1, 2).flatten(1).detach(), atol=1e-5, rtol=1e-4
        )
    third, _ = probe.features(encoder, probe.labelled([samples]), stage=2)
    torch.testing.assert_close(third, parts[2].unflatten(1, (16, 4)).mean(2), atol=1e-5, rtol=1e-4)
    body = hierarchy.build(hierarchy.Spec(inputs=RGB, name="resnet10t"))
    assert [part.shape[1] for part in probe.staged(body, probe.labelled([pictures(3, 64)]))[0]] == [
        64,
        128,
        256,
        512,
    ]


def test_a_map_of_labels_counts_as_its_commonest_class():
    samples = pictures(3, 8)
    maps = torch.full((3, 4, 4), 255)
    maps[0, :2], maps[0, 2] = 7, 2
    maps[1, 0, 0] = 4
    encoder = vit.build(vit.Spec(inputs=RGB, image=8, patch=8, width=16, depth=1, heads=2))
    assert probe.features(encoder, [(samples, maps)])[1].tolist() == [7, 4]
    with pytest.raises(ValueError, match="no sample has a label"):
        probe.features(encoder, [(samples, maps[2:].expand(3, 4, 4))])


def test_the_two_networks_of_a_method_are_found():
    class Distilled(nn.Module):
        def __init__(self):
            super().__init__()
            self.student = nn.ModuleDict(
                {"encoder": vit.build(vit.Spec(inputs=RGB, image=8, patch=8, width=16, depth=1, heads=2))}
            )
            self.teacher = Teacher(self.student)

    method = Distilled()
    student, teacher = probe.networks(method)
    assert student is method.student["encoder"] and teacher is method.teacher.module["encoder"]
    assert probe.networks(method.student) is None
