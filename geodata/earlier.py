"""What an earlier version of a corpus hands to the next: shards as they are, samples, and pixels of single scenes.

Asking a service again for what lies on the disk is slow, costs quota, and may give other pixels. So a new version is
built from the old one: a shard in which nothing is to be done is the same file (linked), a chip that is looked at
again keeps the scenes it has, and only the rest is asked for. The old version is read and never touched.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geodata.chips import ShardPlan
from geodata.compose import Rejection
from geodata.files import replacing
from geodata.sample import Sample
from geodata.shards import Reject, ShardRecord, load_record, read_samples, save_record, shard_path

CHOSEN_BY = ("reason", "stratum", "region", "shard", "chip_id")
"""By what refused chips may be chosen: columns of the table of dead letters."""


@dataclass(frozen=True)
class Where:
    """Conditions on refused chips, all of which must hold: pairs of a key of `CHOSEN_BY` and a value."""

    pairs: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, texts: Sequence[str]) -> Where:
        """From 'reason=unavailable' and the like. Raises ValueError for another form or an unknown key."""
        pairs = []
        for text in texts:
            key, equals, value = text.partition("=")
            if not equals or key not in CHOSEN_BY or not value:
                raise ValueError(
                    f"{text!r} chooses no refused chips; write KEY=VALUE with a key of {', '.join(CHOSEN_BY)}"
                )
            pairs.append((key, value))
        return cls(tuple(pairs))

    def chooses(self, letter: Mapping[str, object]) -> bool:
        """Whether a refused chip is meant, by its row in the table of dead letters."""
        return all(letter[key] == value for key, value in self.pairs)

    def __str__(self) -> str:
        return " ".join("=".join(pair) for pair in self.pairs)


@dataclass(frozen=True)
class Earlier:
    """The version before: its folder, and what is done about its chips.

    With `where`, the refused chips it chooses are tried again and everything else is carried over. Without, every
    chip is looked at again; `same` says that the rules by which scenes are chosen have not changed, so that a chip
    for which the search finds what it found before needs no further look, and a scene that was refused no second.
    """

    root: Path
    where: Where | None = None
    same: bool = False

    def record(self, name: str) -> ShardRecord | None:
        """The record of a shard of that version; None for a shard that is new."""
        return load_record(self.root, name)

    def samples(self, record: ShardRecord) -> dict[str, Sample]:
        """Its samples by id, with what the record knows of their making."""
        told = {str(one["sample_id"]): one["layers"] for one in record.samples}
        read = read_samples(shard_path(self.root, record.name), footer_sha256=record.footer_sha256)
        return {one.sample_id: with_facts(one, told[one.sample_id], record.hrefs) for one in read}

    def held(self, sample: Sample | None) -> Sample | None:
        """What a new look at a chip may take from its sample: what was refused by other rules may pass now."""
        if sample is None or self.same:
            return sample
        layers = {prefix: replace(layer, refused={}) for prefix, layer in sample.layers.items()}
        return replace(sample, layers=layers)

    def carried(self, record: ShardRecord, root: Path) -> ShardRecord:
        """A shard and its record taken over into another corpus, unchanged: the same file where the disk allows."""
        source, target = shard_path(self.root, record.name), shard_path(root, record.name)
        with replacing(target) as temporary:
            temporary.unlink(missing_ok=True)
            try:
                os.link(source, temporary)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                    raise
                shutil.copyfile(source, temporary)
        save_record(root, record)
        return record


def chosen_for_retry(plan: ShardPlan, record: ShardRecord, where: Where) -> set[str]:
    """Ids of the refused chips of a shard that `where` means."""
    chips = {chip.chip_id: chip for chip in plan.chips}

    def letter(reject: Reject) -> dict[str, str]:
        chip = chips[reject.chip_id]
        known = {"reason": reject.reason, "stratum": chip.stratum, "region": chip.region}
        return known | {"shard": record.name, "chip_id": reject.chip_id}

    return {reject.chip_id for reject in record.rejects if where.chooses(letter(reject))}


def refusals(record: ShardRecord) -> dict[str, Rejection]:
    """The refusals of a record by chip."""
    return {
        reject.chip_id: Rejection(reject.chip_id, reject.reason, reject.detail, reject.considered)  # type: ignore[arg-type]
        for reject in record.rejects
    }


def with_facts(
    sample: Sample, told: Mapping[str, Mapping[str, Any]], hrefs: Mapping[str, Mapping[str, str]]
) -> Sample:
    """A sample whose layers know what the search returned, what was refused and why, and the scenes' addresses."""
    layers = {
        prefix: replace(
            layer,
            considered=told[prefix]["considered"],
            refused=told[prefix]["refused"],
            hrefs={name: hrefs[name] for name in layer.item_ids if name in hrefs},
        )
        for prefix, layer in sample.layers.items()
    }
    return replace(sample, layers=layers)
