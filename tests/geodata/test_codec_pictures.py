"""Picture files kept as they came, against Pillow's own pixels, and against bytes that are none."""

import io

import numpy as np
import pytest
from PIL import Image
from shelf import picture

from geodata import codec
from geodata.codec import Encoded, decoded, images, pack_images, unpack
from geodata.errors import Corrupt


def rgb(file: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_unpacks_to_pillows_pixels_and_comes_back_byte_for_byte(kind):
    files = [picture(np.random.default_rng(number), 20, 30, kind) for number in range(2)]
    mime = codec.mime_of(files[0])
    kept = tuple(Encoded(mime, ((file,),)) for file in files)
    blob = pack_images(kept, (2, 3, 20, 30))
    assert codec.describe(blob) == (np.dtype("uint8"), (2, 3, 20, 30))
    assert images(blob) == kept
    assert np.array_equal(unpack(blob), np.stack([rgb(file) for file in files]))
    batch = np.zeros((3, 2, 3, 20, 30), np.uint8)
    unpack(blob, batch[1])
    assert np.array_equal(batch[1], unpack(blob)) and not batch[0].any() and not batch[2].any()


def test_tiles_are_stitched_by_row_and_column_whatever_their_sizes():
    heights, widths = (5, 9), (4, 8, 3)
    rng = np.random.default_rng(0)
    tiles = tuple(tuple(picture(rng, high, wide, "PNG") for wide in widths) for high in heights)
    whole = np.concatenate([np.concatenate([rgb(tile) for tile in row], axis=2) for row in tiles], axis=1)
    one = Encoded("image/png", tiles)
    assert np.array_equal(decoded(one), whole)
    assert np.array_equal(unpack(pack_images([one], (1, 3, 14, 15)))[0], whole)
    for shape in ((1, 3, 13, 15), (1, 3, 15, 15), (1, 3, 14, 14), (1, 3, 14, 16)):
        with pytest.raises(Corrupt, match="tile"):
            unpack(pack_images([one], shape))
    ragged = Encoded("image/png", ((tiles[0][0], tiles[1][0]), (tiles[0][0], tiles[0][0])))
    with pytest.raises(Corrupt, match="does not fit"):
        decoded(ragged)


def test_pictures_of_pixels_are_none():
    assert images(codec.pack(np.zeros((1, 3, 4, 4), np.uint8))) == ()


def test_what_is_no_picture_is_refused_in_a_sentence():
    good = picture(np.random.default_rng(1), 16, 16)
    for file, mime, said in (
        (good[:200], "image/jpeg", "no whole picture of type image/jpeg"),
        (good, "image/png", "no whole picture of type image/png"),
        (b"", "image/webp", "no whole picture"),
    ):
        with pytest.raises(Corrupt, match=said):
            decoded(Encoded(mime, ((file,),)))
    with pytest.raises(ValueError, match="pictures of type 'image/gif' are not kept"):
        Encoded("image/gif", ((good,),))
    with pytest.raises(ValueError, match="rows of equal length"):
        Encoded("image/jpeg", ((good, good), (good,)))
    with pytest.raises(ValueError, match=r"1 pictures do not unpack to \(2, 3, 16, 16\)"):
        pack_images([Encoded("image/jpeg", ((good,),))], (2, 3, 16, 16))


def test_damage_of_a_blob_of_pictures_is_named():
    blob = bytes(
        pack_images([Encoded("image/jpeg", ((picture(np.random.default_rng(1), 16, 16),),))], (1, 3, 16, 16))
    )
    head = 16 + 16
    for at, value, said in (
        (head, b"image/gif\0", "not as it was written"),  # the media type
        (head + 16, b"\x02", "not as it was written|where its tiles end"),  # a second row of tiles
        (head + 20, b"\xff\xff", "where its tiles end"),  # the size of the tile
        (16 + 4, b"\x04", "claims uint8"),  # four bands
    ):
        bad = blob[:at] + value + blob[at + len(value) :]
        with pytest.raises(Corrupt, match=said):
            unpack(bad)


@pytest.mark.parametrize(
    ("start", "mime"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\x10\0\0\0WAVEfmt ", None),
        (b"II*\0", "image/tiff"),
        (b"MM\0*", "image/tiff"),
        (b"GIF89a", None),
        (b"", None),
    ],
)
def test_the_type_of_a_picture_is_told_by_its_first_bytes(start, mime):
    assert codec.mime_of(start) == mime
