"""Heads that self-distillation and contrast put on an encoder, and throw away afterwards.

`PrototypeHead` scores features against learned directions; `Projector` is the plain chain of layers of MoCo.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.norms import GlobalBatchNorm

__all__ = ["Projector", "PrototypeHead"]


class PrototypeHead(nn.Module):
    """Features (..., width) to logits (..., prototypes): cosines with directions, each times a scale (DINO, app. C).

    `layers` linear layers with GELU between end in `bottleneck` numbers of unit length, which `last_layer` compares with
    its prototypes: row k is weight_g[k] * weight_v[k] / |weight_v[k]|, no bias. The scale g starts at 1 and is
    "trained" or "frozen". The rows are computed anew in every call and kept nowhere, so that a copied, sharded or
    compiled head is a head. Linear layers start normal with deviation 0.02, truncated, and no bias; prototypes as torch's own.
    """

    def __init__(
        self,
        width: int,
        prototypes: int,
        hidden: int = 2048,
        bottleneck: int = 384,
        layers: int = 3,
        scale: Literal["trained", "frozen"] = "trained",
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"a head has at least one layer before its prototypes, not {layers}")
        self.mlp = _chain([width, *[hidden] * (layers - 1), bottleneck])
        self.last_layer = _Prototypes(bottleneck, prototypes, learned_scale=scale == "trained")

    def forward(self, features: Tensor) -> Tensor:
        """Logits (..., prototypes)."""
        return F.linear(self.directions(features), self.prototypes())

    def directions(self, features: Tensor) -> Tensor:
        """The bottleneck (..., bottleneck), of unit length."""
        reduced = self.mlp(features)
        return F.normalize(reduced, dim=-1, eps=1e-12 if reduced.dtype == torch.float32 else 1e-6)

    def prototypes(self) -> Tensor:
        """The rows (prototypes, bottleneck) that directions are compared with, in float32: take them once a step."""
        return self.last_layer()


class _Prototypes(nn.Module):
    def __init__(self, width: int, count: int, *, learned_scale: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(count, 1), requires_grad=learned_scale)
        self.weight_v = nn.Parameter(nn.Linear(width, count, bias=False).weight.detach())

    def forward(self) -> Tensor:
        return self.weight_g * self.weight_v / self.weight_v.norm(dim=1, keepdim=True)


def _chain(widths: list[int]) -> nn.Sequential:
    chain = nn.Sequential()
    for wide, narrow in pairwise(widths):
        layer = nn.Linear(wide, narrow)
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
        chain.extend([layer, nn.GELU()])
    return chain[:-1]


class Projector(nn.Sequential):
    """MoCo's heads: (B, width) to (B, out) through `layers` linear layers with ReLU between; its last output is bare.

    One layer is MoCo's own, two MoCo v2's. With `norm` "batch" a batch norm over all ranks' rows takes the place of every
    bias, and the last one has no scale or shift: MoCo v3's projector (three) and predictor (two). Layers start as
    torch's own.
    """

    def __init__(
        self, width: int, hidden: int, out: int, layers: int = 2, norm: Literal["none", "batch"] = "none"
    ) -> None:
        if layers < 1:
            raise ValueError(f"a projector has at least one layer, not {layers}")
        found: list[nn.Module] = []
        widths = [width, *[hidden] * (layers - 1), out]
        for number, (wide, narrow) in enumerate(pairwise(widths), 1):
            last = number == layers
            found.append(nn.Linear(wide, narrow, bias=norm == "none"))
            if norm == "batch":
                found.append(GlobalBatchNorm(narrow, affine=not last))
            if not last:
                found.append(nn.ReLU(inplace=True))
        super().__init__(*found)
