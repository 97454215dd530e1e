"""What an encoder knows as it is: its features of labelled samples, and what neighbours or a line make of them.

Plain functions of tensors, for reports, claims and benchmarks. Nothing is drawn at random, so the same features give
the same scores. `batches` are pairs of samples and their labels, (B,) class indices or a map (B, H, W), of which the
commonest class counts; 255 is no label, and such samples are left out.

Letters: B batch, N samples, D width, K classes, S stages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import augment
from training.encoders import Encoder
from training.feed import Samples
from training.memory import Teacher
from training.metrics import IGNORE

__all__ = [
    "Known",
    "Labelled",
    "features",
    "fit",
    "knn",
    "labelled",
    "line",
    "linear",
    "networks",
    "pooled",
    "stage_maps",
    "staged",
    "viewed",
    "votes",
]

STAGES = 4  # of an encoder that has none of its own: quarters of its depth

Labelled = Iterable[tuple[Samples, Tensor]]
"""Batches of samples, each with its labels."""

Known = tuple[Tensor, Tensor]
"""Features (N, D) and their classes (N,) int64."""


def labelled(batches: Iterable[Samples], label: str = "class") -> Iterator[tuple[Samples, Tensor]]:
    """Batches with the label of one name; a label that is missing counts as none."""
    for samples in batches:
        codes = samples.labels[label]
        yield samples, torch.where(codes < 0, IGNORE, codes)


def features(
    encoder: Encoder,
    batches: Labelled,
    stage: int | None = None,
    *,
    grid: int = 1,
    shown: Callable[[Encoder, Samples], Any] | None = None,
) -> Known:
    """What an encoder says of every sample: the class token, or the mean of the patches where it has none.

    With `stage`, from 0, the map of that stage instead (`staged`). What it is shown of samples are their `viewed` images,
    or what `shown` makes of them. On the encoder's device; what comes back is on the host. Raises ValueError when no
    sample has a label.
    """
    if stage is not None:
        found, classes = staged(encoder, batches, grid=grid)
        return found[stage], classes
    rows, classes = _over(encoder, batches, lambda images: [pooled(encoder, images)], shown)
    return rows[0], classes


def staged(encoder: Encoder, batches: Labelled, *, grid: int = 1) -> tuple[list[Tensor], Tensor]:
    """Features (N, D_s * grid * grid) of each stage, shallow to deep, and classes (N,).

    A map is averaged over a grid of `grid` x `grid` equal parts and flattened: 1 is its mean, the side of the map is
    the whole map, flattened as in figure 6 of GeRSP.
    """

    def parts(images: Tensor) -> list[Tensor]:
        return [F.adaptive_avg_pool2d(one, grid).flatten(1) for one in stage_maps(encoder, images)]

    return _over(encoder, batches, parts)


def pooled(encoder: Encoder, images: Tensor) -> Tensor:
    """One feature (B, D) of each normalised image: the class token, else the mean of the patches."""
    tokens = encoder(images)
    return tokens.patches.mean(1) if tokens.cls is None else tokens.cls


def stage_maps(encoder: Encoder, images: Tensor) -> list[Tensor]:
    """Maps (B, D_s, h, w) of the stages of an encoder, shallow to deep: its own, or after each quarter of its layers."""
    if encoder.channels:
        return list(encoder(images).maps)
    layers, seen = list(encoder.blocks.children()), []
    wanted = [max(1, round(len(layers) * (stage + 1) / STAGES)) - 1 for stage in range(STAGES)]
    hooks = [layers[one].register_forward_hook(lambda _, __, out: seen.append(out)) for one in wanted]
    try:
        tokens = encoder(images)
    finally:
        for hook in hooks:
            hook.remove()
    count = tokens.height * tokens.width  # a class token comes first
    return [out[:, -count:].transpose(1, 2).unflatten(2, (tokens.height, tokens.width)) for out in seen]


def viewed(encoder: Encoder, samples: Samples) -> Tensor:
    """Normalised first dates (B, C, H, W) of samples, cut at the centre to whole patches."""
    images = augment.prepare(samples, encoder.spec.inputs)
    height, width = (side // encoder.patch * encoder.patch for side in images.shape[-2:])
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return images[..., top : top + height, left : left + width]


def votes(train: Known, asked: Tensor, k: int = 20, temperature: float = 0.07) -> Tensor:
    """What the `k` nearest training samples say of each row `asked` (n, D): votes (n, K).

    Nearness is the cosine; a neighbour votes with exp(cosine / temperature) (Wu et al. 2018, sec. 3.4; DINO, app. F).
    With fewer training samples, all vote.
    """
    rows, classes = F.normalize(train[0].float(), dim=1), train[1]
    asked = F.normalize(asked.float(), dim=1)
    found = asked.new_zeros(len(asked), int(classes.max()) + 1)
    for some, mine in zip(asked.split(1024), found.split(1024), strict=True):
        near, which = (some @ rows.T).topk(min(k, len(rows)), dim=1)  # (b, k)
        mine.scatter_add_(1, classes[which], (near / temperature).exp())
    return found


def knn(train: Known, test: Known, k: int = 20, temperature: float = 0.07) -> float:
    """The share of test samples that the `votes` of the training ones name rightly."""
    guess = votes(train, test[0], k, temperature).argmax(1)
    return float((guess == test[1]).double().mean())


def linear(train: Known, test: Known, decay: float = 1e-3) -> float:
    """The share of test samples that the `line` of the training ones names rightly."""
    guess = line(train, decay)(test[0]).argmax(1)
    return float((guess == test[1]).float().mean())


def line(train: Known, decay: float = 1e-3) -> Callable[[Tensor], Tensor]:
    """From features (n, D) to logits (n, K): `fit`, on features standardised by the training ones."""
    rows, classes = train
    deviation, mean = torch.std_mean(rows.float(), dim=0, correction=0)
    scale = deviation.clamp(min=1e-6)
    weight, bias = fit((rows.float() - mean) / scale, classes, decay)
    return lambda asked: (asked.float() - mean) / scale @ weight.T + bias


def fit(rows: Tensor, classes: Tensor, decay: float, steps: int = 500) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression of `classes` (N,) on `rows` (N, D): weight (K, D) and bias (K,).

    The least mean cross-entropy + decay / 2 * |weight|^2, by L-BFGS from zero; scikit-learn's C is 1 / (decay * N).
    """
    if decay <= 0:
        raise ValueError(
            f"decay must be positive, not {decay}: without it separable classes have no best line"
        )
    count = int(classes.max()) + 1
    weight = rows.new_zeros(count, rows.shape[1], requires_grad=True)
    bias = rows.new_zeros(count, requires_grad=True)
    search = torch.optim.LBFGS(
        [weight, bias],
        max_iter=steps,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        search.zero_grad()
        value = F.cross_entropy(F.linear(rows, weight, bias), classes) + decay / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        search.step(objective)
    return weight.detach(), bias.detach()


def networks(method: nn.Module) -> tuple[Encoder, Encoder] | None:
    """The student's and the teacher's encoder of a method; None when no teacher follows one."""
    taught = {
        id(part): part
        for teacher in method.modules()
        if isinstance(teacher, Teacher)
        for part in teacher.module.modules()
        if isinstance(part, Encoder)
    }
    own = [part for part in method.modules() if isinstance(part, Encoder) and id(part) not in taught]
    return (own[0], next(iter(taught.values()))) if own and taught else None


@torch.no_grad()
def _over(
    encoder: Encoder,
    batches: Labelled,
    look: Callable[[Tensor], list[Tensor]],
    shown: Callable[[Encoder, Samples], Any] | None = None,
) -> tuple[list[Tensor], Tensor]:
    """What `look` makes of the images of every labelled sample, in evaluation mode, and the classes (N,)."""
    shown = shown or viewed
    device = next(encoder.parameters()).device
    rows: list[list[Tensor]] = []
    classes = []
    with judged(encoder):
        for samples, labels in batches:
            names = _named(labels.cpu())
            known = names != IGNORE
            found = look(shown(encoder, samples.to(device)))
            rows.append([part.float().cpu()[known] for part in found])
            classes.append(names[known].long())
    if not classes or not sum(len(part) for part in classes):
        raise ValueError("nothing to probe: no sample has a label; choose a labelled split")
    return [torch.cat(parts) for parts in zip(*rows, strict=True)], torch.cat(classes)


def _named(labels: Tensor) -> Tensor:
    """One class (B,) a sample; of a map, the one that most of its labelled pixels have, 255 where there are none."""
    if labels.ndim == 1:
        return labels
    if labels.ndim != 3:
        raise ValueError(f"a probe names one class a sample, not labels of shape {tuple(labels.shape)}")
    counts = torch.stack([F.one_hot(one.flatten().long(), IGNORE + 1).sum(0) for one in labels])
    most, names = counts[:, :IGNORE].max(1)
    return torch.where(most > 0, names, IGNORE)


@contextmanager
def judged(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, and then the mode it was in."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
