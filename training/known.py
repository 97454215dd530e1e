"""What a corpus says of its own samples: names to hold features against where there is no task.

The class of a sample where it has one, else the commonest land cover on it where a map is stored, else the stratum for
which it was chosen: every corpus has one of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from geodata.manifest import Corpus, open_corpus
from geodata.shards import read_group
from training.feed import Samples, once
from training.metrics import IGNORE
from training.probe import Labelled
from training.reading import Crew, Row, Source
from training.recipe import Recipe, Stream, replace

__all__ = ["COVER", "Ground", "covered", "examples", "ground", "named"]

COVER = "lc"
CLASS = "class"
MOST = 2000  # samples that are read of the training split, and of the others together


@dataclass(frozen=True)
class Ground:
    """Samples with their names: `train` to learn them from, `test` to ask; each is read as often as it is asked for.

    A corpus of one split has nothing to learn from: `train` is None, and all are in `test`.
    """

    stream: Stream
    classes: tuple[str, ...]
    train: Callable[[], Labelled] | None
    test: Callable[[], Labelled]


def ground(recipe: Recipe, layer: str, most: int = MOST) -> Ground:
    """The samples of the recipe's first stream that brings a layer, all, or an even share of about `most`."""
    streams = recipe.streams.values()
    stream = next((one for one in streams if layer in one.layers), next(iter(streams)))
    corpus = open_corpus(stream.corpus)
    classes, label = _labels(corpus, stream)
    splits = [split for split, count in corpus.counts().get("split", {}).items() if count]
    held = [split for split in splits if split != "train"]
    if "train" not in splits or not held:
        held, splits = splits, []

    def read(chosen: list[str]) -> Iterator[tuple[Samples, Tensor]]:
        whole = covered(stream, corpus)
        size = sum(corpus.counts()["split"][split] for split in chosen)
        for split in chosen:
            part = replace(whole, split=split, share=min(1.0, most / size))
            for samples in once(part, 32):
                yield samples, label(samples)

    return Ground(stream, classes, partial(read, ["train"]) if splits else None, partial(read, held))


def examples(stream: Stream, split: str, count: int) -> Iterator[Samples]:
    """Single samples of a split, or of the stream's own where that is empty, spread evenly over it.

    Neighbours in a shard are neighbours on the ground.
    """
    there = open_corpus(stream.corpus).counts().get("split", {})
    source = Source(replace(stream, split=split if there.get(split) else stream.split, share=1.0))
    places = [(part, row) for part, rows in enumerate(source.rows) for row in rows.tolist()]
    with Crew(0) as crew:
        for number in range(min(count, len(places))):
            part, row = places[int(len(places) * (number + 0.5) / min(count, len(places)))]
            yield source.batch([Row(source.read(part), row)], crew)


def covered(stream: Stream, corpus: Corpus) -> Stream:
    """The same stream with its corpus's land cover, where that stores one."""
    stored = COVER in {sensor.prefix for sensor in corpus.meta().sensors}
    return replace(stream, layers=tuple(dict.fromkeys((*stream.layers, *([COVER] if stored else [])))))


def named(corpus: Corpus) -> dict[int, str]:
    """What the codes of a corpus's land cover mean, as far as its plan says, of those that occur."""
    told: Mapping[str, str] = corpus.plan.get("classes") or {}
    counted = [values for name, values in corpus.counts().items() if name.startswith(f"{COVER}_")]
    codes = sorted({int(code) for values in counted for code in values} - {IGNORE})
    return {code: str(told.get(str(code), f"class {code}")) for code in codes}


def _labels(corpus: Corpus, stream: Stream) -> tuple[tuple[str, ...], Callable[[Samples], Tensor]]:
    """Names of classes, and what gives samples theirs: one (B,) or a map (B, H, W), 255 for none."""
    meta = corpus.meta()
    if CLASS in meta.labels:
        return corpus.classes.get(CLASS, ()), _by_class
    if COVER in covered(stream, corpus).layers:
        names = named(corpus)
        table = torch.full((IGNORE + 1,), IGNORE)
        table[list(names)] = torch.arange(len(names))
        return tuple(names.values()), lambda samples: table[samples.layers[COVER][:, 0, 0].long()]
    strata = sorted(corpus.counts().get("stratum", {}))
    return tuple(strata), partial(_by_stratum, _strata(corpus), strata)


def _by_class(samples: Samples) -> Tensor:
    codes = samples.labels[CLASS]
    return torch.where(codes < 0, IGNORE, codes)


def _by_stratum(known: Callable[[str], str], strata: list[str], samples: Samples) -> Tensor:
    return torch.tensor([strata.index(known(one)) for one in samples.ids])


def _strata(corpus: Corpus) -> Callable[[str], str]:
    """sample id -> its stratum, read when first asked for."""
    held: dict[str, str] = {}

    def stratum(sample: str) -> str:
        for unit in corpus.units() if not held else ():
            table = read_group(
                unit.path, unit.row_group, ["sample_id", "stratum"], [], unit.footer_sha256
            ).table
            held.update(zip(table["sample_id"].to_pylist(), table["stratum"].to_pylist(), strict=True))
        return held[sample]

    return stratum
