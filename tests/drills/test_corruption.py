"""200 flipped bytes and 50 cut files anywhere in a sealed corpus: all found by `verify`, none served by a reader."""

from pathlib import Path

import numpy as np
import pytest
from shelf import META, Damage, damages, sample

from geodata import manifest, shards
from geodata.errors import DataError
from geodata.manifest import Corpus, open_corpus
from geodata.shards import Reject
from pipelines import corpora
from training.feed import once
from training.recipe import Stream

pytestmark = pytest.mark.drill
FLIPS, CUTS = 200, 50


def corpus_of(root: Path) -> Corpus:
    """Thirty samples with series, radar, land cover and aerial pictures in three shards."""
    records = []
    for first in range(0, 30, 10):
        samples = [sample(number, dates=2, photo=True) for number in range(first, first + 10)]
        refused = [Reject(f"r{first}", "cloudy", "80 % of the chip")]
        record = shards.write_shard(shards.shard_path(root, f"part-{first:02d}"), samples, META, refused)
        shards.save_record(root, record)
        records.append(record)
    return manifest.seal(Corpus(root, "tiny", "1", "0123abcd", {"name": "tiny"}, tuple(records)))


def found(root: Path) -> list[str]:
    """What `swath verify` lists, or how it fails."""
    try:
        return corpora.verify(open_corpus(root))
    except DataError as error:
        return [str(error)]


def rows(root: Path) -> str:
    """Every value that a reader gets, row by row."""
    corpus = open_corpus(root)
    return repr(
        [
            row
            for unit in corpus.units()
            for row in shards.read_table(unit.path, unit.row_group, None, unit.footer_sha256).to_pylist()
        ]
    )


def batches(root: Path) -> list[bytes]:
    """Every byte that training gets."""
    stream = Stream(corpus=str(root), layers=("s2", "s1", "lc", "hr"))
    out = []
    for batch in once(stream, 7):
        tensors = [
            batch.lonlat,
            batch.region,
            *batch.layers.values(),
            *batch.dates.values(),
            *batch.labels.values(),
        ]
        out += [repr(batch.ids).encode(), *(np.ascontiguousarray(one.numpy()).tobytes() for one in tensors)]
    return out


def told(root: Path) -> str:
    """What the manifest and the records say."""
    corpus = open_corpus(root)
    return repr((corpus, [corpus.record(one.name) for one in corpus.records]))


def outcome(read, root: Path, whole: object) -> str:
    """'refused', 'whole' (the damage touched nothing that was read) or 'wrong'."""
    try:
        return "whole" if read(root) == whole else "wrong"
    except DataError:
        return "refused"


def test_every_damage_is_found_and_no_reader_serves_it(tmp_path):
    corpus_of(tmp_path)
    readers = {read: read(tmp_path) for read in (rows, batches, told)}
    assert found(tmp_path) == []
    seed = int(np.random.SeedSequence().entropy % 10**6)
    print(f"damages of seed {seed}")
    missed: list[Damage] = []
    served: list[tuple[str, Damage]] = []
    tally: dict[str, int] = {}
    for damage in damages(tmp_path, FLIPS, CUTS, seed):
        with damage:
            if not found(tmp_path):
                missed.append(damage)
            for read, whole in readers.items():
                end = outcome(read, tmp_path, whole)
                key = f"{read.__name__} {end}"
                tally[key] = tally.get(key, 0) + 1
                if end == "wrong":
                    served.append((read.__name__, damage))
    print(f"{FLIPS + CUTS - len(missed)} of {FLIPS + CUTS} found by verify; readers: {tally}")
    assert not missed
    assert not served
    assert found(tmp_path) == []
