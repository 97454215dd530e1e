"""Objectives: pure functions from tensors to a scalar. An objective knows no model.

Each docstring gives the plain loop it stands for; the tests run the loop. All compute in float32 or wider, also under autocast.
Where a loss compares rows with those of other ranks (`ranks.gathered`), each rank returns the mean over its own rows:
the mean over ranks, which is what data-parallel training descends, is the loss of the global batch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training import ranks
from training.metrics import IGNORE

__all__ = [
    "Losses",
    "batch_nce",
    "binary_cross_entropy",
    "centred_softmax",
    "collapse_signs",
    "contrast",
    "cross_entropy",
    "info_nce",
    "koleo",
    "masked_mse",
    "masked_patch_cross_entropy",
    "patch_shares",
    "prototype_cross_entropy",
    "sinkhorn",
    "soft_cross_entropy",
    "standardise",
    "view_cross_entropy",
]


@dataclass(frozen=True)
class Losses:
    """What one forward pass found: the scalar to descend, and its named parts for the record."""

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def sum(cls, **parts: Tensor) -> Losses:
        """Losses whose total is the plain sum of the named parts, the commonest case."""
        return cls(
            torch.stack(list(parts.values())).sum(), {name: part.detach() for name, part in parts.items()}
        )


def masked_mse(guess: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over hidden patches (MAE, He et al. 2022, sec. 3): both (B, M, V), V values a patch.

        total = 0
        for each image, for each hidden patch:
            total += mean((guess - target) ** 2 over the V values)
        return total / (B * M)

    Only hidden patches are passed, so visible ones cannot count. Computed in float32 whatever comes in.
    """
    return F.mse_loss(guess.float(), target.float())


def standardise(patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Patches (..., V) with each one's own mean and variance removed, the mean and the deviation (..., 1).

        for each patch: (values - mean) / sqrt(variance + 1e-6), variance over V - 1 (MAE, He et al. 2022, sec. 4.1)

    `standardised * deviation + mean` is the patch again.
    """
    patches = patches.float()
    mean = patches.mean(-1, keepdim=True)
    centred = patches - mean
    variance = centred.square().sum(-1, keepdim=True) / (
        patches.shape[-1] - 1
    )  # a third of the time of `var`
    deviation = (variance + 1e-6).sqrt()
    return centred / deviation, mean, deviation


def cross_entropy(logits: Tensor, target: Tensor, ignore: int = IGNORE) -> Tensor:
    """Mean over the counted targets of -log softmax(logits)[target]: logits (B, K, ...), target (B, ...).

        for each position with target != ignore: total += log(sum(exp(logits))) - logits[target]; counted += 1
        return total / max(counted, 1)

    A batch without a counted target gives 0, with zero gradient. More than 255 classes need another `ignore`.
    """
    counted = (target != ignore).sum().clamp(min=1)
    return F.cross_entropy(_wide(logits), target, ignore_index=ignore, reduction="sum") / counted


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the counted targets of the cross-entropy of one yes or no: logits and target of one shape.

        for each entry with target != 255: p = 1 / (1 + exp(-logit)); counted += 1
            total -= log(p) if target == 1 else log(1 - p)
        return total / max(counted, 1)

    A batch without a counted target gives 0, with zero gradient. Computed in float32 whatever comes in.
    """
    counted = target != IGNORE
    wanted = torch.where(counted, target, 0).float()
    losses = F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")
    return (losses * counted).sum() / counted.sum().clamp(min=1)


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy with soft targets: logits and target (..., K); temperatures are the caller's.

        for each row: total -= sum over k of target[k] * log(softmax(logits)[k])
        return total / number of rows

    Target rows are weights of any sum: a row against several teachers is one row against the sum of their targets.
    """
    return -(_wide(target) * F.log_softmax(_wide(logits), dim=-1)).sum(-1).mean()


def centred_softmax(logits: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """A teacher's targets (..., K), without gradient: softmax((logits - centre) / temperature) (DINO, eq. 1 and 4)."""
    return torch.softmax((_wide(logits.detach()) - centre) / temperature, dim=-1)


@torch.no_grad()
def sinkhorn(
    logits: Tensor, temperature: float, rounds: int = 3, *, whole: bool = True, there: Tensor | None = None
) -> Tensor:
    """A teacher's targets (..., B, K), without gradient: every row sums to 1, and columns to nearly equal sums.

        Q = exp(logits / temperature)
        repeat rounds times:
            each column of Q is divided by its sum over the rows          (of all ranks, if whole)
            each row of Q is divided by its sum over the columns
        return Q

    Kept as logarithms, so that no temperature overflows (Sinkhorn-Knopp as in SwAV, Caron et al. 2020, sec. 3.2).
    With `whole`, logits are (B, K) and B may differ between ranks. Rows that are not `there` (..., B) are left out, and 0.
    """
    found, left_out = _wide(logits.detach()) / temperature, None if there is None else ~there[..., None]
    for _ in range(rounds):
        if left_out is not None:
            found = found.masked_fill(left_out, -torch.inf)
        columns = found.logsumexp(-2, keepdim=True)
        if whole:
            columns = ranks.gathered(columns).logsumexp(0, keepdim=True)
        found = found - columns
        found = found - found.logsumexp(-1, keepdim=True)
    return found.exp() if left_out is None else found.exp().masked_fill(left_out, 0.0)


def patch_shares(masks: Tensor) -> Tensor:
    """What each masked patch counts for, (M,) in order of the rows of masks (C, L) bool: 1 / (C * masked in its crop)."""
    shares = 1 / (len(masks) * masks.sum(1, keepdim=True).clamp(min=1))
    return shares.expand(masks.shape)[masks]


def masked_patch_cross_entropy(logits: Tensor, target: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy at the masked patches of C crops (iBOT, Zhou et al. 2022, eq. 2): logits, target (M, K), masks (C, L).

        for each crop: total += mean over its masked patches of -sum over k of target[k] * log(softmax(logits)[k])
        return total / C

    Crops with nothing masked count in C. The M rows are the masked patches, crop by crop.
    """
    rows = -(_wide(target) * F.log_softmax(_wide(logits), dim=-1)).sum(-1)  # (M,)
    return (rows * patch_shares(masks)).sum()


def prototype_cross_entropy(
    directions: Tensor,
    prototypes: Tensor,
    target: Tensor | Callable[[slice], Tensor],
    temperature: float,
    shares: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Soft cross-entropy of prototype logits that are never all there at once: directions (B, D), prototypes (K, D).

        for each row: total += share * -sum over k of target[k] * log(softmax(row @ prototypes.T / temperature)[k])
        return total                                                     (a share is 1 / B unless `shares` (B,) are given)

    `target` is (B, K), or a function that gives the rows of a slice, computed when they are needed and then forgotten.
    Forward and backward together hold logits of `chunk` rows, by default as many as make 128 MiB each; gradients of both
    factors are found along with the value, so no logit is computed twice. Products are in autocast's type, as `target`'s.
    """
    shares = directions.new_full((len(directions),), 1 / len(directions)) if shares is None else shares
    rows = chunk or max(1, 2**25 // len(prototypes))
    device = directions.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else directions.dtype
    found: Tensor = _PrototypeCrossEntropy.apply(
        directions, prototypes, target, temperature, shares.float(), rows, dtype
    )
    return found


class _PrototypeCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        directions: Tensor,
        prototypes: Tensor,
        target: Tensor | Callable[[slice], Tensor],
        temperature: float,
        shares: Tensor,
        chunk: int,
        dtype: torch.dtype,
    ) -> Tensor:
        wanted = ctx.needs_input_grad[:2]
        by_direction = torch.zeros_like(directions, dtype=torch.float32) if wanted[0] else None
        by_prototype = torch.zeros_like(prototypes, dtype=torch.float32) if wanted[1] else None
        total = shares.new_zeros(())
        left, right = directions.to(dtype), prototypes.to(dtype)
        for start in range(0, len(directions), chunk):
            rows = slice(start, start + chunk)
            aim = (target[rows] if isinstance(target, Tensor) else target(rows)).detach().float()
            logits = (left[rows] @ right.T).float() / temperature  # (chunk, K)
            log_odds = F.log_softmax(logits, dim=-1)
            total -= ((aim * log_odds).sum(-1) * shares[rows]).sum()
            if not any(wanted):
                continue
            slope = log_odds.exp_().mul_(aim.sum(-1, keepdim=True)).sub_(aim)  # (chunk, K)
            slope = slope.mul_(shares[rows, None] / temperature).to(dtype)
            if by_direction is not None:
                by_direction[rows] = (slope @ right).float()
            if by_prototype is not None:
                by_prototype += slope.T @ left[rows]
        ctx.save_for_backward(by_direction, by_prototype)
        ctx.types = directions.dtype, prototypes.dtype
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        slopes = [
            None if slope is None else (slope * gradient).to(dtype)
            for slope, dtype in zip(ctx.saved_tensors, ctx.types, strict=True)
        ]
        return (*slopes, None, None, None, None, None)


def view_cross_entropy(
    directions: Tensor, prototypes: Tensor, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Every view against the teacher's other views (DINO, eq. 3): directions (V, B, D), targets (2, B, K) of the first two.

        for each teacher's view q, for each student's view v but q itself:
            total += mean over B of -sum over k of target[q][k] * log(softmax(v @ prototypes.T / temperature)[k])
        return total / (2 * V - 2)

    In two parts that add up to it: what the first two views say, and what the others do (0 when there are none).
    """
    views, batch = directions.shape[:2]
    large = prototype_cross_entropy(
        directions[:2].flatten(0, 1), prototypes, targets.flip(0).flatten(0, 1), temperature
    )
    if views == 2:
        return large, torch.zeros_like(large)
    both, rows = targets.sum(0), torch.arange((views - 2) * batch, device=targets.device) % batch
    small = prototype_cross_entropy(
        directions[2:].flatten(0, 1), prototypes, lambda some: both[rows[some]], temperature
    )
    return large / (views - 1), small * (views - 2) / (2 * views - 2)


@torch.no_grad()
def collapse_signs(targets: Tensor, features: Tensor, centre: Tensor | None) -> dict[str, Tensor]:
    """What a run that collapses shows first: a teacher that always or never decides, features that are all alike.

    `teacher_entropy`: of targets (..., K) in nats, 0 to log K; `spread`: of unit features (B, D), the deviation over B, mean
    over D; `centre`: its length.
    """
    surprise = -(targets * targets.clamp(min=1e-30).log()).sum(-1).mean()
    spread = F.normalize(features.float(), dim=-1).std(0, unbiased=False).mean()
    signs = {"teacher_entropy": surprise, "spread": spread}
    return signs if centre is None else signs | {"centre": centre.norm()}


def koleo(features: Tensor, *, whole: bool = False) -> Tensor:
    """How close the rows (B, D) lie to their nearest neighbours (KoLeo; Sablayrolles et al. 2019, eq. 2).

        x = rows / |row|
        for each i: j = the other row whose cosine with x[i] is greatest
                    total -= log(|x[i] - x[j] + 1e-8| + 1e-8)
        return total / B

    With `whole`, neighbours are looked for in the batches of all ranks. Raises ValueError for a row without another, whose
    loss would be a constant; 0 where no gradient is wanted, as for the last sample of a validation split.
    """
    with _exactly(features):
        rows = F.normalize(_wide(features), dim=-1, eps=1e-8)
        others = ranks.gathered(rows) if whole else rows
        if len(others) < 2 and torch.is_grad_enabled():
            raise ValueError("a row alone has no neighbour: give each device two samples or more")
        if len(others) < 2:
            return rows.new_zeros(())
        first = ranks.rank() * len(rows) if whole else 0
        cosines = rows.detach() @ others.detach().T  # (B, N)
        cosines.diagonal(first).fill_(-2)
        nearest = others[cosines.argmax(dim=1)]
        return -(F.pairwise_distance(rows, nearest, eps=1e-8) + 1e-8).log().mean()


def info_nce(queries: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Contrast with a queue (MoCo, He et al. 2020, eq. 1): unit rows, queries and positives (B, D), negatives (N, D).

    for each query: scores = [query . positive, query . negative for each negative] / temperature
                    total += log(sum(exp(scores))) - scores[0]
    return total / B
    """
    with _exactly(queries):
        queries, positives = _wide(queries), _wide(positives)
        own = (queries * positives).sum(-1) / temperature  # (B,)
        other = (queries @ negatives.to(queries.dtype).T / temperature).logsumexp(-1)  # (B,)
        return (torch.logaddexp(own, other) - own).mean()


def batch_nce(
    queries: Tensor,
    keys: Tensor,
    temperature: float | Tensor,
    *,
    there: Tensor | None = None,
    places: Tensor | None = None,
) -> Tensor:
    """Contrast within the global batch: queries and keys (B, D), of any length; gradients reach both, over all ranks.

    q, k = rows / |row|
    for each i: scores = q[i] . k[j] / temperature for the keys j of all ranks
                total += log(sum(exp(scores))) - scores[its own key]
    return total / B

    Rows that are not `there` (B,) neither ask nor answer, and B counts the others; another row of the same of `places` (B,)
    int64 is no negative.
    """
    with _exactly(queries):
        queries, keys = (F.normalize(_wide(rows), dim=-1) for rows in (queries, keys))
        scores = queries @ ranks.gathered(keys).T / temperature  # (B, N)
        own = torch.arange(len(queries), device=queries.device) + ranks.rank() * len(queries)
        if there is None and places is None:
            return F.cross_entropy(scores, own)
        barred = torch.zeros_like(scores, dtype=torch.bool)
        if there is not None:
            barred |= ranks.gathered(there.to(torch.uint8)) == 0
        if places is not None:
            barred |= places[:, None] == ranks.gathered(places)
        losses = F.cross_entropy(
            scores.masked_fill(barred.scatter(1, own[:, None], False), -torch.inf), own, reduction="none"
        )
        if there is None:
            return losses.mean()
        shares = there.to(losses.dtype)
        return (losses * shares).sum() / ranks.mean(shares.sum()).clamp(min=1e-12)


def contrast(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """MoCo v3's half of a symmetric contrast (Chen et al. 2021, alg. 1): 2 * temperature * `batch_nce`."""
    return 2 * temperature * batch_nce(queries, keys, temperature)


def _exactly(like: Tensor) -> AbstractContextManager[object]:
    """Autocast off, so that float32 products stay float32."""
    return torch.autocast(like.device.type, enabled=False)


def _wide(values: Tensor) -> Tensor:
    """In float32, or as wide as it came."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
