"""The pixel codec against numpy's own bytes, and against bytes that were damaged."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from geodata import codec
from geodata.errors import Corrupt


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
@pytest.mark.parametrize("compress", [True, False])
def test_any_array_comes_back_bit_for_bit(dtype, compress):
    rng = np.random.default_rng(0)
    for shape in ((), (0, 3), (5,), (2, 3, 7, 5)):
        raw = rng.bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        array = np.frombuffer(raw, dtype).reshape(shape)
        back = codec.unpack(codec.pack(array, compress=compress))
        assert back.dtype == array.dtype and back.shape == shape and back.tobytes() == raw


def test_the_payload_is_what_numpy_and_zstd_make_of_the_byte_planes():
    array = np.arange(1000, 1600, dtype=np.uint16).reshape(2, 300)
    blob = codec.pack(array)
    payload = blob[16 + 8 :]
    planes = pa.Codec("zstd").decompress(payload, array.nbytes, asbytes=True)
    assert planes == (array & 255).astype(np.uint8).tobytes() + (array >> 8).astype(np.uint8).tobytes()


def test_pixels_are_written_straight_into_the_buffer_given():
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4) - 12
    batch = np.zeros((5, 2, 3, 4), np.int16)
    assert codec.unpack(codec.pack(array), out=batch[3]) is not None
    assert np.array_equal(batch[3], array) and not batch[2].any() and not batch[4].any()
    with pytest.raises(ValueError, match="does not fit"):
        codec.unpack(codec.pack(array), out=batch[0].astype(np.uint16))


def test_a_header_tells_dtype_and_shape_without_unpacking():
    assert codec.describe(codec.pack(np.zeros((4, 2), np.float32))) == (np.dtype("float32"), (4, 2))


def test_damage_is_named():
    blob = bytearray(codec.pack(np.arange(4096, dtype=np.uint16)))
    with pytest.raises(Corrupt, match="bytes where its header says"):
        codec.unpack(bytes(blob[:-1]))
    with pytest.raises(Corrupt, match="shorter than its header"):
        codec.unpack(b"SWB")
    with pytest.raises(Corrupt, match="does not begin with"):
        codec.unpack(b"XXX" + bytes(blob[3:]))
    with pytest.raises(Corrupt, match="format version 9"):
        codec.unpack(bytes(blob[:3]) + b"\x09" + bytes(blob[4:]))
    for at in range(20, 24):  # the zstd magic; flips further in are for page checksums and pixel hashes
        bad = bytearray(blob)
        bad[at] ^= 0xFF
        with pytest.raises(Corrupt, match="do not unpack"):
            codec.unpack(bytes(bad))


def test_a_small_blob_cannot_claim_a_huge_shape():
    blob = bytearray(codec.pack(np.zeros((2, 2), np.uint8)))
    blob[16:24] = (2**31).to_bytes(4, "little") * 2
    with pytest.raises(Corrupt, match="claims the shape"):
        codec.unpack(bytes(blob))
    with pytest.raises(ValueError, match="cannot be stored"):
        codec.pack(np.zeros(3, np.complex64))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("quality", [30, 85, 98])
def test_a_jpeg_decodes_as_pillow_decodes_it_wherever_it_is_put(mode, quality):
    rng = np.random.default_rng(quality)
    image = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize(
        (70, 50), Image.Resampling.BICUBIC
    )
    file = io.BytesIO()
    image.convert(mode).save(file, "JPEG", quality=quality)
    expected = np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1)
    blob = codec.pack_images([codec.Encoded("image/jpeg", ((file.getvalue(),),))], (1, 3, 50, 70))
    last = np.empty((1, 50, 70, 3), np.uint8).transpose(0, 3, 1, 2)
    assert np.array_equal(codec.unpack(blob)[0], expected)
    assert np.array_equal(codec.unpack(blob, out=last)[0], expected)
    assert codec.keeps_files(bytes(blob[:32])) and not codec.keeps_files(bytes(codec.pack(expected)[:32]))


def test_pixels_unpack_into_memory_of_any_order():
    array = np.random.default_rng(0).integers(0, 60000, (2, 3, 4, 5)).astype(np.uint16)
    last = np.empty((2, 4, 5, 3), np.uint16).transpose(0, 3, 1, 2)
    assert codec.unpack(codec.pack(array), out=last) is last
    assert np.array_equal(last, array)
