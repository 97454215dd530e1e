"""Perceptual hashes against the imagehash package, and pairs found against all with all."""

import io

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from geodata import likeness
from geodata.grid import chip_grid
from geodata.likeness import distance, near, near_pairs, of_folder, perceptual, perceptual_of
from geodata.sensors import OPTICAL, SENTINEL1, SENTINEL2
from geodata.source import Period
from geodata.sources import synthetic


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Towns, fields and woods of the synthetic Earth at 2.5 m."""
    rng = np.random.default_rng(4)
    source = synthetic.optical(gsd=2.5)
    made: list[Image.Image] = []
    while len(made) < 30:
        grid = chip_grid(rng.uniform(-120, 140), rng.uniform(-35, 60), 2.5, 96, lattice=60.0)
        scene = source.search(grid, Period.from_text("2020-06-01/2020-07-01"))[0]
        values = source.read(scene, grid).values
        if values.std() > 12:
            made.append(Image.fromarray(np.ascontiguousarray(values.transpose(1, 2, 0))))
    return made


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue()))


def hashes_of(pictures: list[Image.Image]) -> np.ndarray:
    return np.array([perceptual(picture) for picture in pictures], np.uint64)


def test_it_is_imagehashs_phash_bit_for_bit(pictures):
    rng = np.random.default_rng(0)
    odd = [
        Image.fromarray(rng.integers(0, 255, (17, 50), np.uint8)),
        pictures[0].convert("RGBA").resize((33, 31)),
    ]
    for picture in [*pictures[:10], *odd]:
        assert perceptual(picture) == int(str(imagehash.phash(picture)), 16)


@pytest.mark.parametrize(
    ("change", "least"),
    [
        (lambda picture: jpeg(picture, 85), 0.97),
        (lambda picture: jpeg(picture, 50), 0.9),
        (lambda picture: ImageEnhance.Brightness(picture).enhance(1.2), 0.95),
        (lambda picture: picture.resize((48, 48)), 0.95),
        (lambda picture: picture.crop((1, 1, 96, 96)), 0.9),
    ],
)
def test_copies_are_within_six_bits(pictures, change, least):
    away = distance(hashes_of(pictures), hashes_of([change(picture) for picture in pictures]))
    assert np.mean(away <= 6) >= least


def test_different_ground_is_not(pictures):
    hashes = hashes_of(pictures)
    left, right = np.triu_indices(len(hashes), 1)
    assert np.mean(distance(hashes[left], hashes[right]) <= 6) <= 1 / 435
    assert np.median(distance(hashes[left], hashes[right])) == pytest.approx(32, abs=3)


def test_layers_are_hashed_whatever_their_units(pictures):
    rgb = np.asarray(pictures[0]).transpose(2, 0, 1)
    assert perceptual_of(OPTICAL, rgb) == perceptual(pictures[0])
    s2 = np.full((10, 96, 96), 4000, np.uint16)
    s2[[2, 1, 0]] = rgb.astype(np.uint16) * 17 + 300
    brighter = np.where(s2 > 0, s2 * 1.3 + 200, 0).astype(np.uint16)
    grey = Image.fromarray(np.asarray(pictures[0]).mean(axis=2).astype(np.uint8))
    there, ours, other = perceptual(grey), perceptual_of(SENTINEL2, s2), perceptual_of(SENTINEL2, brighter)
    assert (ours ^ other).bit_count() <= 4
    assert (ours ^ there).bit_count() <= 10
    radar = np.stack([rgb[0].astype(np.int16) * 10 - 2500, np.full((96, 96), -2000, np.int16)])
    assert perceptual_of(SENTINEL1, radar) == perceptual_of(
        SENTINEL1, radar + np.array([[[150]], [[7]]], np.int16)
    )


def test_where_nothing_is_to_be_seen_there_is_no_hash():
    assert perceptual_of(SENTINEL2, np.zeros((10, 20, 20), np.uint16)) is None
    assert perceptual_of(SENTINEL2, np.full((10, 20, 20), 7, np.uint16)) is None


def brute(hashes: np.ndarray, others: np.ndarray, bits: int) -> list[tuple[int, int]]:
    return [
        (i, j)
        for i, one in enumerate(hashes.tolist())
        for j, other in enumerate(others.tolist())
        if (one ^ other).bit_count() <= bits
    ]


def clustered(count: int, seed: int) -> np.ndarray:
    """Random hashes, half of which are copies of others with up to ten bits turned."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    for place in range(count // 2, count):
        turned = sum(1 << int(bit) for bit in rng.choice(64, rng.integers(0, 11), replace=False))
        hashes[place] = hashes[rng.integers(0, count // 2)] ^ np.uint64(turned)
    return hashes


@pytest.mark.parametrize(
    ("bits", "planned_for"),
    [(0, 10), (0, 10**7), (1, 10), (3, 10**7), (6, 10), (6, 10**7), (10, 10), (15, 10)],
)
def test_pairs_are_those_of_comparing_all_with_all(bits, planned_for, monkeypatch):
    hashes, others = clustered(240, bits), clustered(130, 99)
    others[:40] = hashes[:40] ^ np.uint64(0b1011)
    masks = likeness._masks
    monkeypatch.setattr(likeness, "_masks", lambda bits, count: masks(bits, planned_for))
    monkeypatch.setattr(likeness, "_CHUNK", 50)
    expected = [(i, j) for i, j in brute(hashes, hashes, bits) if i < j]
    assert near_pairs(hashes, bits).tolist() == [list(pair) for pair in expected]
    assert near(hashes, others, bits).tolist() == [list(pair) for pair in brute(hashes, others, bits)]


def test_none_and_one_hash_have_no_pairs():
    empty = np.array([], np.uint64)
    assert near_pairs(empty, 6).shape == (0, 2)
    assert near(empty, np.array([5], np.uint64), 6).shape == (0, 2)
    assert near_pairs(np.array([5], np.uint64), 6).shape == (0, 2)


def test_forty_thousand_hashes_are_compared_in_a_blink():
    hashes = clustered(40_000, 1)
    found = near_pairs(hashes, 6)
    apart = [(one ^ other).bit_count() for one, other in hashes[found].tolist()]
    assert max(apart) <= 6
    assert 10_000 < len(found) < 24_000


def test_more_bits_than_hashes_can_tell_are_refused():
    with pytest.raises(ValueError, match="up to 15 bits of 64, not 16"):
        near_pairs(np.array([1, 2], np.uint64), 16)


def test_a_folder_is_hashed_in_order_and_damaged_pictures_are_named(tmp_path, pictures):
    for number, name in enumerate(("b/two.jpg", "a.png", "b/one.tif")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        pictures[number].save(path)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    (tmp_path / "notes.txt").write_text("no picture")
    hashes, names, unreadable = of_folder(tmp_path)
    assert (names, unreadable) == (["a.png", "b/one.tif", "b/two.jpg"], ["broken.jpg"])
    assert hashes[0] == perceptual(pictures[1])
    assert hashes[1] == perceptual(pictures[2])
