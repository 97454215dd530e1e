"""The table of refused chips: every refusal, in words, in a file that other tools open."""

import os

import pandas
import pytest
from ground import make_ground

from geodata.build import build_shard, opened_landcover
from geodata.corpus import load_spec
from geodata.errors import Corrupt
from geodata.letters import FILE, read_letters, write_letters
from geodata.sampling import plan
from geodata.shards import record_path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("letters")
    settings = {"quotas": {"fixed": {"forest": 90, "urban": 90}}, "split": {"block_m": 1440.0}}
    spec = load_spec(str(make_ground(folder / "ground", **settings)))
    chips = plan(spec, opened_landcover(spec.landcover))
    records = [build_shard(shard, spec, folder / "c") for shard in chips.shards(spec.shard_rows)]
    return folder / "c", chips, records


def test_every_refusal_is_a_row_with_stratum_reason_and_sentence(made):
    root, chips, records = made
    refused = {reject.chip_id: (record, reject) for record in records for reject in record.rejects}
    assert refused
    assert write_letters(root, records, chips) == len(refused)
    table = pandas.read_parquet(root / FILE)
    assert set(table["chip_id"]) == set(refused)
    strata = {chip.chip_id: (chip.stratum, chip.region) for chip in chips.chips}
    for row in table.itertuples():
        record, reject = refused[row.chip_id]
        assert (row.shard, row.reason, row.detail) == (record.name, reject.reason, reject.detail)
        assert (row.stratum, row.region) == strata[row.chip_id]
        assert row.tries == 1
        assert row.time.timestamp() == int(record_path(root, record.name).stat().st_mtime)


def test_tries_of_an_earlier_version_are_taken_over(made):
    root, chips, records = made
    first = next(reject.chip_id for record in records for reject in record.rejects)
    write_letters(root, records, chips, {first: 4, "elsewhere": 9})
    assert {letter["tries"] for letter in read_letters(root) if letter["chip_id"] == first} == {4}
    assert {letter["tries"] for letter in read_letters(root) if letter["chip_id"] != first} == {1}


def test_a_corpus_without_the_table_has_no_letters_and_a_broken_one_is_named(made, tmp_path):
    root, chips, records = made
    assert read_letters(tmp_path) == []
    write_letters(root, records, chips)
    data = bytearray((root / FILE).read_bytes())
    data[20] ^= 255
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(Corrupt, match=FILE):
        read_letters(tmp_path)
    os.truncate(tmp_path / FILE, 100)
    with pytest.raises(Corrupt, match=FILE):
        read_letters(tmp_path)
