"""Maps of prototypes against loops and hand-made tables; which regions are drawn, and what a report finds of them."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import BANDS, sample
from PIL import Image
from sights import samples, tiny
from torch import nn

from geodata import sensors
from geodata.manifest import Corpus, seal
from geodata.sample import FileMeta
from geodata.shards import save_record, shard_path, write_shard
from training import known, looks, pictures, prototypes, regional, series
from training.encoders import Inputs, sentinel
from training.encoders import spatiotemporal as st
from training.encoders.fusion import FusionSpec
from training.prototypes import Prototypes
from training.recipe import Stream
from training.recipe import replace as changed

PLACES = {0: (-100.0, 40.0), 1: (12.0, 52.0), 2: (-60.0, -20.0)}  # of 2 x 2 regions three have samples
CODES = {"0": "water", "1": "trees"}


@pytest.fixture(scope="module")
def lands(tmp_path_factory):
    """Nine chips of 16 x 16 cells in three regions, half of them with two classes of land cover."""
    root = tmp_path_factory.mktemp("lands") / "lands@1"
    chips = []
    for number in range(9):
        lon, lat = PLACES[number % 3]
        chips.append(replace(sample(number), lon=lon, lat=lat, labels={}))
    meta = FileMeta((sensors.SENTINEL2.pick(BANDS), sensors.LANDCOVER), (), "lands@1")
    record = write_shard(shard_path(root, "s0"), chips, meta)
    save_record(root, record)
    seal(Corpus(root, "lands", "1", "f" * 12, {}, (record,), plan={"classes": CODES}))
    return Stream(corpus=str(root), layers=("s2", "lc"))


@pytest.fixture
def encoder():
    """Sentinel-2 alone, and four prototypes for each quarter of the Earth, of which two were visited."""
    torch.manual_seed(0)
    inputs = Inputs(layer="s2", bands=BANDS, mean=(2500.0,) * 4, std=(1500.0,) * 4)
    spec = st.Spec(
        s2=changed(sentinel.tiny(), inputs=inputs, depth=1, width=48),
        fusion=FusionSpec(width=32, depth=1, heads=4),
        places=prototypes.Spec(side=2, count=4),
        channels=64,
        inputs=inputs,
    )
    made = st.build(spec)
    made.places.visits[:2] = torch.tensor([3, 7])
    return made


def test_a_cell_attends_most_to_the_prototype_that_a_loop_finds():
    torch.manual_seed(0)
    places = Prototypes(prototypes.Spec(side=2, count=5), 6)
    cells, region = torch.randn(3, 7, 6), torch.tensor([2, 0, 2])
    found = regional.attended(places, cells, region)
    for place in range(3):
        for cell in range(7):
            weights = [float(cells[place, cell] @ one) for one in places.held[region[place]]]
            assert found[place, cell] == weights.index(max(weights))
    places.held.mul_(1e6)  # so long that a cell reads nothing else
    nearest = torch.stack([places.held[one][names] for one, names in zip(region, found, strict=True)])
    torch.testing.assert_close(places(cells, region), nearest)


def test_the_middle_of_a_tile_is_seen_as_it_lies():
    spec, some = tiny().encoder, samples(2)
    encoder = st.build(spec)
    seen = regional.central(encoder, some, most=8)
    index = series.spread_dates(some, "s2", 8)
    whole = series.series(some, spec.s2.inputs, index)  # (2, 8, 10, 64, 64)
    torch.testing.assert_close(seen.images["s2"], whole[..., 28:36, 28:36], atol=1e-4, rtol=1e-4)
    assert seen.images["hr"].shape == (2, 1, 3, 256, 256)
    assert seen.region.tolist() == encoder.places.region(some.lonlat).tolist()


def test_the_middle_of_a_small_tile_is_whole_patches():
    some = replace(samples(1), layers={"s2": torch.zeros(1, 1, 10, 6, 6)})
    assert [regional.centre(some, most) for most in (2, 4, 32)] == [(2, 2), (1, 4), (1, 4)]
    assert regional.cover(torch.arange(36).view(1, 6, 6), some)[0, :, 0].tolist() == [7, 13, 19, 25]


def test_land_cover_is_that_at_the_centres_of_cells():
    some = samples(1)
    codes = torch.arange(192 * 192).view(1, 192, 192)  # three pixels a cell
    found = regional.cover(codes, some, most=4)
    expected = [
        [(30 + row) * 3 * 192 + 192 + (30 + column) * 3 + 1 for column in range(4)] for row in range(4)
    ]
    assert found[0].tolist() == expected
    with pytest.raises(ValueError, match="does not lie on 64 x 64 cells"):
        regional.cover(torch.zeros(1, 100, 100), some)


def test_agreement_is_that_of_a_table_worked_by_hand():
    one = torch.tensor([0, 0, 1, 1])
    assert regional.agreement(torch.tensor([3, 3, 0, 0]), one) == pytest.approx(1)
    assert regional.agreement(torch.tensor([0, 1, 0, 1]), one) == pytest.approx(0)
    # Three prototypes 2, 1, 1 of four cells: H = 1.5 bits, H' = 1, I = 1; so 2 / 2.5. What has no land cover is left out.
    maps, codes = torch.tensor([0, 0, 1, 2, 9]), torch.tensor([0, 0, 1, 1, 255])
    assert regional.agreement(maps, codes) == pytest.approx(0.8)
    assert regional.agreement(maps, torch.full((5,), 2)) is None


def test_regions_come_by_visits_and_one_never_seen_is_not_drawn(lands, encoder):
    found = regional.tiles(lands, encoder.places)
    assert list(found) == [1, 0]
    assert all(len(some) == regional.EACH for some in found.values())
    varied = [code.unique().numel() for some in found.values() for code in some.layers["lc"]]
    assert max(varied) == 2  # the tile with two classes is preferred
    encoder.places.visits.zero_()
    with pytest.raises(ValueError, match="no region was visited"):
        regional.charted(encoder, lands)


def test_looks_hold_a_picture_for_each_region_and_its_numbers(lands, encoder, tmp_path):
    method = nn.Module()
    method.encoder = encoder
    ground = known.ground(SimpleNamespace(streams={"scenes": lands}), "s2")
    looks.look(method, ("regions", "features"), tmp_path, [], ground, {"trees": (0, 99, 0)})
    numbers = json.loads((tmp_path / "looks.json").read_text())
    assert numbers["absent"] == {}
    assert numbers["features"]["knn"] is None and numbers["features"]["samples"] == 9
    index = json.loads((tmp_path / "index.json").read_text())
    assert [entry["file"] for entry in index] == ["region-1.png", "region-0.png"]
    assert ["trees", "#006300"] in index[0]["legend"]
    shown = numbers["regions"]["shown"]
    assert [(row["region"], row["visits"], row["cells"]) for row in shown] == [(1, 7, 512), (0, 3, 512)]
    assert numbers["regions"]["visits"] == [[-180, 0, 0, 90, 3], [0, 0, 180, 90, 7]]
    charted = regional.charted(encoder, lands)
    for one, row in zip(charted, shown, strict=True):
        maps = torch.stack([tile.prototypes for tile in one.tiles])
        assert row["used"] == len(set(maps.flatten().tolist()))
        with Image.open(tmp_path / f"region-{one.region}.png") as opened:
            page = opened.convert("RGB")
        assert page.size == (3 * 256 + 2 * 4, 2 * 256 + 4)
        for number, tile in enumerate(one.tiles):
            for row_, column in ((0, 0), (3, 9), (15, 4)):
                at = 16 * column + 8, 260 * number + 16 * row_ + 8
                assert page.getpixel((260 + at[0], at[1])) == pictures.colour(
                    int(tile.prototypes[row_, column])
                )
                if tile.cover[row_, column] == 1:
                    assert page.getpixel((520 + at[0], at[1])) == (0, 99, 0)


def test_without_prototypes_or_land_cover_it_is_said(lands, encoder, tmp_path):
    method = nn.Module()
    method.encoder = st.part(encoder, ("s2",))
    ground = known.ground(SimpleNamespace(streams={"scenes": lands}), "s2")
    looks.look(method, ("regions",), tmp_path, [], ground)
    absent = json.loads((tmp_path / "looks.json").read_text())["absent"]
    assert absent == {"regions": "Sentinel keeps no prototypes of regions"}
    bare = regional.charted(encoder, changed(lands, layers=("s2",)))
    assert bare[0].tiles[0].cover is None
    assert regional.summary(bare, encoder.places)["all"] == {"nmi": None, "shuffled": None, "elsewhere": None}
    pictures.regional_maps(bare, tmp_path, [])
    with Image.open(tmp_path / "region-1.png") as page:
        assert page.width == 2 * 256 + 4
