"""State that no gradient moves: the averaged teacher, the queue of past keys, the centre of the teacher's outputs.

Each is a module that keeps what it knows in buffers or frozen parameters, so that a checkpoint holds it and a run that
was killed goes on as if it had not been. Each changes in `Method.after_step`, once the optimizer has moved: a step that
was refused leaves no trace, and a step made of several batches counts once.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import ranks

__all__ = ["Centre", "Queue", "Teacher"]


class Teacher(nn.Module):
    """A slow copy of a student: `module` is equal to it at birth, follows it as a moving average, and never learns.

    With `evaluating`, `module` stays in evaluation mode (no drop path); else it takes the method's mode, as a teacher
    needs whose batch norms use the batch's own statistics. Its buffers are its own: they are not averaged. Make it
    after the student's last initialisation.
    """

    def __init__(self, student: nn.Module, *, evaluating: bool = False) -> None:
        super().__init__()
        self.module = copy.deepcopy(student).requires_grad_(False)
        self.evaluating = evaluating
        self.train(self.training)

    def train(self, mode: bool = True) -> Teacher:
        """The mode of the method, except that an evaluating teacher keeps its own."""
        super().train(mode)
        if self.evaluating:
            self.module.eval()
        return self

    @torch.no_grad()
    def follow(self, student: nn.Module, momentum: float) -> None:
        """Move every parameter: teacher = momentum * teacher + (1 - momentum) * student (He et al. 2020, eq. 2).

        Works on sharded parameters where both are sharded alike. Raises ValueError for another network's parameters.
        """
        mine: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = [part.detach() for part in student.parameters()]
        if [part.shape for part in mine] != [part.shape for part in theirs]:
            raise ValueError(
                f"the teacher's {len(mine)} parameters are not shaped as the student's {len(theirs)}: "
                "it follows only the network it was copied from"
            )
        torch._foreach_lerp_(mine, theirs, 1 - momentum)


class Queue(nn.Module):
    """The last `size` keys, rows of unit length (size, width) in float32; at first of random direction.

    The oldest are overwritten where `pointer` stands (MoCo, He et al. 2020, sec. 3.2).
    """

    held: Tensor
    pointer: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        if min(size, width) < 1:
            raise ValueError(f"a queue holds at least one row of one number, not {size} of {width}")
        self.register_buffer("held", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @property
    def rows(self) -> Tensor:
        """A copy (size, width): a backward pass may hold it while `push` writes."""
        return self.held.clone()

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Write the unit rows (B, width) of all ranks, in the order of the ranks, at the pointer and round the end.

        for each key of rank 0, then of rank 1, ...: held[pointer] = key; pointer = (pointer + 1) % size
        """
        keys = ranks.gathered(keys.detach().to(self.held.dtype))
        size, count = len(self.held), len(keys)
        places = (self.pointer + torch.arange(count, device=keys.device)) % size
        self.held[places[-size:]] = keys[-size:]
        self.pointer.copy_((self.pointer + count) % size)


class Centre(nn.Module):
    """The running mean `value` (width,) of a teacher's outputs, float32, from 0 (DINO, Caron et al. 2021, eq. 4).

        absorb, in each forward pass in training: noted += outputs
        settle, in after_step:                    value = momentum * value + (1 - momentum) * mean(noted); noted = nothing

    The mean is over all rows noted since, of all ranks together, however they are shared out; so a step of several
    batches settles as one, and `value` is first new in the next step.
    """

    value: Tensor

    def __init__(self, width: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(width))
        self._noted: Tensor | None = None  # the sum of rows, then their number

    @torch.no_grad()
    def absorb(self, outputs: Tensor, count: int | Tensor = 1) -> None:
        """Note raw teacher outputs (B, width), before centring; in evaluation nothing is noted.

        Each row may stand for the mean of `count` rows: as prototypes are linear, the mean output of many features is
        the output of their mean feature, and the others need not be computed.
        """
        if not self.training:
            return
        found = torch.cat([outputs.sum(0, dtype=torch.float32), self.value.new_tensor([len(outputs)])])
        self._noted = found * count if self._noted is None else self._noted + found * count

    @torch.no_grad()
    def settle(self) -> None:
        """Move the centre by what all ranks have noted; every rank must call. Without anything noted, nothing."""
        if self._noted is None:
            return
        noted, self._noted = ranks.mean(self._noted), None
        moved = (1 - self.momentum) * (noted[-1] > 0)  # rows may all have counted for nothing
        self.value.lerp_(noted[:-1] / noted[-1].clamp(min=1e-12), moved)
