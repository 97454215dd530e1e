"""The endless order of a stream's samples: f(seed, epoch), the same on every rank, and resumed from one number.

Row groups are permuted each epoch and rows are permuted inside a window of several row groups, so what has to be open
at once is bounded by the window and never grows with the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray

__all__ = ["Order", "Place"]

WINDOW = 4  # row groups that are shuffled together

Place = tuple[int, int]
"""Number of a row group among those of the stream, and a row of it."""


class Order:
    """The order of the samples in `parts`, which are the rows of each row group that belong to the stream."""

    def __init__(self, parts: Sequence[NDArray[np.int64]], seed: Sequence[int]) -> None:
        self.parts, self.seed = parts, list(seed)
        self.size = sum(len(rows) for rows in parts)

    def windows(self, epoch: int) -> Iterator[list[Place]]:
        """One epoch in order, a window at a time."""
        order = np.random.default_rng([*self.seed, epoch]).permutation(len(self.parts))
        for first in range(0, len(order), WINDOW):
            inside = order[first : first + WINDOW].tolist()
            places = [(number, row) for number in inside for row in self.parts[number].tolist()]
            shuffled = np.random.default_rng([*self.seed, epoch, first]).permutation(len(places))
            yield [places[number] for number in shuffled]

    def slots(self, start: int, share: int, slot: slice) -> Iterator[list[Place]]:
        """The same for ever, from the `start`-th sample, only those in this rank's slot of each `share` samples."""
        epoch, done = divmod(start, self.size)
        first = start - done
        for number in count(epoch):
            for window in self.windows(number):
                taken = range(max(first, start), first + len(window))
                kept = [window[at - first] for at in taken if slot.start <= (at - start) % share < slot.stop]
                first += len(window)
                if kept:
                    yield kept
