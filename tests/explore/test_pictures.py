"""Files that people drop, and files that they should not have."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from senet.explore import pictures
from senet.explore.pictures import MOST_BYTES, PictureError, from_base64, read_picture


def file_of(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF", "JPEG", "WEBP"])
def test_pictures_are_read(kind):
    image = read_picture(file_of(PHOTO, kind))
    assert (image.mode, image.size) == ("RGB", PHOTO.size)
    if kind in ("PNG", "BMP", "TIFF", "PPM"):
        assert image.tobytes() == PHOTO.tobytes()


def test_a_picture_is_upright_and_has_three_colours():
    turned = Image.Exif()
    turned[0x0112] = 6
    assert read_picture(file_of(PHOTO, "JPEG", exif=turned)).size == (40, 60)
    assert read_picture(file_of(PHOTO.convert("L"))).mode == "RGB"
    assert read_picture(file_of(PHOTO.convert("RGBA"))).mode == "RGB"


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width, height, data=b""):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


BAD = {
    "text": (b"hello, I am a picture\n", "is a text, not a picture"),
    "text in another language": ("Größe: 3 µm".encode(), "is a text, not a picture"),
    "svg": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"><script>x</script></svg>', "SVG drawing"),
    "svg in capitals": (b"\xef\xbb\xbf <SVG onload='x'/>", "SVG drawing"),
    "html": (b"<!doctype html><script>alert(1)</script>", "is a text, not a picture"),
    "pdf": (b"%PDF-1.7\n\0\0", "PDF document"),
    "postscript, which PIL would hand to another program": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "text",
    ),
    "nothing": (b"", "is empty"),
    "noise": (bytes(range(256)) * 4, "not a readable picture"),
    "cut off": (file_of(PHOTO, "JPEG")[:400], "cannot be decoded"),
    "cut off png": (file_of(PHOTO)[:3000], "cannot be decoded"),
    "damaged png": (png_of(50, 50, b"x" * 10), "cannot be decoded"),
    "100 megapixels": (file_of(Image.new("1", (10_000, 10_000))), "10000 × 10000 pixels, 100 million; .* 50 million"),
    "a header that promises 4 billion": (png_of(65_000, 65_000), "too many pixels|4225 million"),
    "a thread": (file_of(Image.new("L", (30_000, 1))), "30000 × 1 pixels; .* 40 times"),
    "pickle": (b"\x80\x04\x95\x0b\0\0\0\0\0\0\0\x8c\x04os\x94.", "not a readable picture"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_gets_a_message(name):
    content, words = BAD[name]
    with pytest.raises(PictureError, match=words) as caught:
        read_picture(content)
    assert len(str(caught.value)) < 220


def test_pixels_are_counted_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(pictures, "decode_bytes", lambda *_: pytest.fail("decoded"))
    with pytest.raises(PictureError, match="100 million"):
        read_picture(BAD["100 megapixels"][0])


def test_bytes_are_counted():
    with pytest.raises(PictureError, match="has 16 MiB; the page takes pictures of at most 16 MiB"):
        read_picture(bytes(MOST_BYTES + 1))
    with pytest.raises(PictureError, match="at most 16 MiB"):
        from_base64("A" * (4 * MOST_BYTES // 3 + 8))
    assert len(from_base64(base64.b64encode(bytes(MOST_BYTES)).decode())) == MOST_BYTES


@pytest.mark.parametrize("text", [None, 3, {"path": "/etc/passwd"}, "no base64!", "QQ=", "ä"])
def test_what_is_no_base64_gets_a_message(text):
    with pytest.raises(PictureError, match="drop it again"):
        from_base64(text)
