"""Four archives of co-located images, unpacked, curated to one kind of chip and joined, against their own files.

What is checked is what `tests/claims/skysense_samples.py` trains on: every pixel and date of each archive against rasterio or
h5py alone, and that the joined corpus reaches a step of SkySense with what most places lack masked.
"""

import datetime
import importlib.util
import math
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
import torch
from test_curate_samples import warped

from geodata import joining, manifest
from geodata.build import build_shard, opened_landcover
from geodata.manifest import Corpus
from geodata.sample import Sample
from geodata.sampling import plan
from geodata.shards import read_samples
from geodata.spec import CorpusSpec, Quotas
from training.augment import PADDING, UNDATED
from training.encoders.fusion import day_of_year
from training.feed import Feed, once, statistics
from training.methods import Progress, skysense
from training.recipe import Stream, fill_inputs, load, replace

pytestmark = [pytest.mark.real, pytest.mark.slow]
EACH = 2  # chips of each stratum


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The claim's script, which lies in no package."""
    path = Path(__file__).parents[1] / "claims" / "skysense_samples.py"
    spec = importlib.util.spec_from_file_location("skysense_samples", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def curated(spec: CorpusSpec, root: Path) -> Corpus:
    """A few chips of an archive, sealed."""
    few = Quotas(fixed=dict.fromkeys(spec.quotas.fixed, EACH))
    spec = CorpusSpec.model_validate({**dict(spec), "quotas": few})
    shards = plan(spec, opened_landcover(spec.landcover)).shards(64)
    records = tuple(build_shard(shard, spec, root) for shard in shards)
    told = {"chip": spec.chip.model_dump(), "sensors": [part.model_dump() for part in spec.sensors]}
    return manifest.seal(Corpus(root, spec.name, spec.version, spec.fingerprint, told, records))


@pytest.fixture(scope="module")
def corpora(script, shared_data, tmp_path_factory) -> dict[str, Corpus]:
    """Archive -> its corpus."""
    root = tmp_path_factory.mktemp("samples")
    specs = script.specs(shared_data, root / "unpacked", 60)
    return {spec.name: curated(spec, root / spec.name) for spec in specs}


@pytest.fixture(scope="module")
def samples(corpora) -> dict[str, list[Sample]]:
    return {
        name: [one for record in corpus.records for one in read_samples(corpus.shard_path(record))]
        for name, corpus in corpora.items()
    }


@pytest.fixture(scope="module")
def joined(corpora, tmp_path_factory) -> Corpus:
    root = tmp_path_factory.mktemp("joined") / "samples@1"
    return manifest.seal(joining.joined(joining.load("samples", list(corpora.values())), root))


def assert_near(found: np.ndarray, expected: np.ndarray, contrast: float) -> None:
    """Equal but for rounding and for the eighth of a pixel to which GDAL approximates a projection."""
    difference = np.abs(found.astype(float) - expected)
    assert np.isfinite(expected).all()
    assert np.median(difference) <= 0.02 * contrast + 0.5 and difference.max() <= 0.25 * contrast + 1


@pytest.mark.parametrize("place", ["tanzania", "chile", "denmark"])
def test_terramesh_is_what_rasterio_warps_without_its_offset_and_has_no_date(
    script, samples, shared_data, place
):
    stem, offset = script.TERRAMESH[place]
    folder, removed = shared_data / "terramesh_s1_s2_lulc", 1000 if offset == "remove" else 0
    assert samples[f"terramesh_{place}"]
    for one in samples[f"terramesh_{place}"]:
        s2, s1 = one.layers["s2"], one.layers["s1"]
        assert s2.dates == s1.dates == (None,) and "hr" not in one.layers
        for band, name in enumerate(script.BANDS):
            raw = warped(folder / "S2L2A" / f"{stem}.tif", script.L2A.index(name) + 1, one.grid)
            assert_near(s2.pixels[0, band], np.maximum(raw - removed, 1), float(np.ptp(raw)))
        for band in range(2):
            raw = 100 * warped(folder / "S1RTC" / f"{stem}.tif", band + 1, one.grid)
            assert_near(s1.pixels[0, band], raw, float(np.ptp(raw)))


def test_ssl4eo_has_its_two_dates_of_both_sensors(samples, shared_data, script):
    folder = shared_data / "ssl4eo_s12_0000200"
    for one in samples["ssl4eo_punjab"]:
        s2, s1 = one.layers["s2"], one.layers["s1"]
        assert s2.dates == (datetime.date(2020, 6, 4), datetime.date(2020, 8, 13))
        assert s1.dates == (datetime.date(2020, 6, 7), datetime.date(2020, 9, 3))
        for date, scene in enumerate(s2.item_ids):
            for name in ("B02", "B05", "B12"):
                path = next(folder.glob(f"s2a/{scene}/{name.replace('B0', 'B')}.tif"))
                raw = warped(path, 1, one.grid)
                assert_near(s2.pixels[date, script.BANDS.index(name)], raw, float(np.ptp(raw)))


def test_worldcereals_cube_is_its_own_numbers_and_radar_in_decibels(script, samples, shared_data):
    """By the coordinates in the file; two months have no Sentinel-2, one has holes of a few pixels."""
    path = shared_data / "worldcereal_s1_s2" / "worldcereal_preprocessed_inputs.nc"
    months = [datetime.date(2020 + month // 13, (month - 1) % 12 + 1, 1) for month in range(11, 23)]
    with h5py.File(path) as file:
        x, y = file["x"][:], file["y"][:]
        for one in samples["worldcereal_belgium"]:
            s2, s1 = one.layers["s2"], one.layers["s1"]
            assert s1.dates == tuple(months)
            assert set(months) - set(s2.dates) == {datetime.date(2020, 12, 1), datetime.date(2021, 1, 1)}
            cols, rows = (
                np.array([np.flatnonzero(axis == value)[0] for value in centre])
                for axis, centre in zip((x, y), one.grid.xy(), strict=True)
            )
            window = np.ix_(rows, cols)
            for place, day in enumerate(s2.dates):
                for band, name in enumerate(script.BANDS):
                    raw = file[f"S2-L2A-{name}"][months.index(day)][window].astype(np.uint16)
                    assert np.array_equal(s2.pixels[place, band], raw)
            for place in range(12):
                for band, name in enumerate(("VV", "VH")):
                    raw = file[f"S1-SIGMA0-{name}"][place][window].astype(np.uint16)
                    power = np.vectorize(lambda number: 10 ** ((20 * math.log10(number) - 83) / 10))(raw)
                    assert np.abs(s1.pixels[place, band] - 1000 * np.log10(power)).max() <= 0.51
            assert -2500 < s1.pixels.mean() < -800


def test_treesatai_is_a_leap_year_of_its_own_pixels_to_the_last_day(script, samples, shared_data):
    folder = shared_data / "treesatai_ts_sample"
    (one,) = samples["treesatai_saxony"]
    with h5py.File(next(folder.glob("*.h5"))) as file:
        optical, names = file["sen-2-data"][:], [name.decode() for name in file["sen-2-products"][:].ravel()]
        power = np.concatenate([file["sen-1-asc-data"][:], file["sen-1-des-data"][:]])
        radar = [
            name.decode() for part in ("asc", "des") for name in file[f"sen-1-{part}-products"][:].ravel()
        ]
    s2, s1 = one.layers["s2"], one.layers["s1"]
    assert [f"{day:%Y%m%d}" for day in s2.dates] == [name.split("_")[2][:8] for name in names]
    order = [script.TREESAT_BANDS.index(name) for name in script.BANDS]
    assert np.array_equal(s2.pixels, optical[:, order]) and len(s2.dates) == 146
    days = {name.split("_")[4][:8] for name in radar}
    assert {f"{day:%Y%m%d}" for day in s1.dates} == days and len(s1.dates) == len(days) == 121
    assert s1.dates[-1] == datetime.date(2020, 12, 31)
    for place, (day, scene) in enumerate(zip(s1.dates, s1.item_ids, strict=True)):
        (row,) = [number for number, name in enumerate(radar) if scene in name]
        assert f"_{day:%Y%m%d}T" in radar[row]
        expected = np.clip(1000 * np.log10(power[row]), -3500, 1000)
        assert np.abs(s1.pixels[place] - expected).max() <= 0.51
    hr = one.layers["hr"]
    assert hr.pixels.shape == (1, 3, 192, 192) and hr.dates == (None,)
    grid = one.grid.at(0.3125)
    there = hr.pixels[0].any(0)
    assert 0.9 < there.mean() < 1.0 and there[:, 10:].all()  # the picture begins 2.6 m east of the lattice
    for band, number in enumerate((4, 2, 3)):
        raw = warped(next(folder.glob("*.tif")), number, grid)
        assert_near(hr.pixels[0, band][:, 10:], raw[:, 10:], float(np.nanmax(raw) - np.nanmin(raw)))


def test_a_batch_of_the_joined_corpus_masks_what_places_lack_and_trains(script, joined, samples):
    names = [one.sample_id for some in samples.values() for one in some]
    stream = Stream(corpus=str(joined.root), layers=("hr", "s2", "s1"), partial=True)
    splits = [replace(stream, split=split) for split in joined.counts()["split"]]
    assert sorted(one for each in splits for batch in once(each, 8) for one in batch.ids) == sorted(names)
    saxony = samples["treesatai_saxony"][0].sample_id
    recipe = load("skysense.tiny", ["method.encoder.s2.inputs.bands=[" + ",".join(script.BANDS) + "]"])
    recipe = fill_inputs(recipe, statistics({"scenes": stream}))
    method = skysense.build(recipe.method)
    feed = Feed({"scenes": stream}, {"scenes": 4}, 0, threads=0)
    for batch in feed:
        if saxony in batch["scenes"].ids:
            break
    some = batch["scenes"]
    row = some.ids.index(saxony)
    held = {name: (days != PADDING).any(1) for name, days in some.dates.items()}
    assert held["hr"].tolist() == [one == saxony for one in some.ids] and held["s2"].all()
    assert (some.dates["hr"][row] == UNDATED).all() and not some.layers["hr"][~held["hr"]].any()
    lengths = {one.sample_id: len(one.layers["s2"].dates) for each in samples.values() for one in each}
    assert (some.dates["s2"] != PADDING).sum(1).tolist() == [lengths[one] for one in some.ids]
    last = some.dates["s1"][row][some.dates["s1"][row] != PADDING][-1]
    assert int(last) == (datetime.date(2020, 12, 31) - datetime.date(1970, 1, 1)).days
    assert int(day_of_year(last)) == 364  # the 366th day, of a table of 365
    losses = method(batch, Progress(0, 10))
    losses.total.backward()
    assert losses.total.isfinite()
    sights = method.sights(some)
    assert sights.large.present["hr"][:, 0].tolist() == held["hr"].tolist() * 2
    assert torch.equal(sights.large.images["hr"][: len(some)][~held["hr"]].abs().sum(), torch.tensor(0.0))
