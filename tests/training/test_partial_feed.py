"""Samples that lack a sensor, on their way through the feed to a step of SkySense."""

import pytest
import tiny as tiles
import torch
from sights import tiny

from geodata.errors import Missing
from training.augment import PADDING
from training.feed import Feed, once
from training.methods import Progress, skysense
from training.recipe import Stream, replace

LAYERS = ("hr", "s2", "s1")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Whole tiles, and one that was only photographed."""
    root = tmp_path_factory.mktemp("corpora") / "tiny@1"
    some = [tiles.sample(number, dated=number != 2) for number in range(4)]
    tiles.sealed(root, {"s0000": some[:2], "s0001": some[2:]})
    return str(root)


def test_what_a_sample_lacks_is_a_series_without_dates(corpus):
    whole = next(once(Stream(corpus=corpus, layers=LAYERS, partial=True), 4))
    assert whole.layers["s2"].shape == (4, 2, 10, 6, 6) and whole.layers["s1"].shape == (4, 1, 2, 6, 6)
    assert (whole.dates["s2"][2] == PADDING).all() and (whole.dates["s2"][3] != PADDING).all()
    assert (whole.layers["s2"][2].int() == 0).all() and (whole.layers["s1"][2] == -32768).all()
    full = next(once(Stream(corpus=corpus, layers=("hr",)), 4))
    assert torch.equal(whole.layers["hr"], full.layers["hr"])


def test_where_nothing_is_there_images_have_no_pixels(corpus):
    found = list(once(Stream(corpus=corpus, layers=LAYERS, partial=True), 1))
    assert found[2].layers["s1"].shape == (1, 1, 2, 0, 0) and found[2].dates["s1"].tolist() == [[PADDING]]


def test_a_stream_that_is_not_partial_refuses_it(corpus):
    with pytest.raises(Missing, match=r"has no s2 pixels.*partial=true"):
        list(once(Stream(corpus=corpus, layers=LAYERS), 4))


def test_a_partial_corpus_trains(corpus):
    spec = tiny()
    places = replace(spec.views.places, window=4, count=0)
    method = skysense.build(replace(spec, views=replace(spec.views, places=places)))
    feed = Feed({"scenes": Stream(corpus=corpus, layers=LAYERS, partial=True)}, {"scenes": 2}, 0, threads=0)
    for _, batch in zip(range(2), feed, strict=False):
        value = method(batch, Progress(0, 10))
        value.total.backward()
        assert value.total.isfinite()
        method.after_step(Progress(1, 10))
