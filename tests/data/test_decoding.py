import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from senet.data import decoding
from senet.data.decoding import decode, decode_bytes, to_mode
from senet.errors import BadImageError
from tests.data.realfolder import bad_files, encoded, odd_pictures, picture, png_of

PLAIN = np.asarray(picture(0), dtype=int)


@pytest.mark.parametrize("name", odd_pictures(0))
def test_odd_pictures_are_read(name):
    found = to_mode(decode_bytes(odd_pictures(0)[name], name), "RGB")
    assert found.mode == "RGB"
    if found.size == (24, 20):
        mean = PLAIN.mean()
        assert abs(np.asarray(found, dtype=int).mean() - mean) < 12 or name == "one-bit.png"


@pytest.mark.parametrize("name", bad_files(0))
def test_bad_files_are_one_error_with_a_reason(name, tmp_path):
    content = bad_files(0)[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadImageError, match=r"cannot be read as an image \(.+\): mend or remove it") as from_file:
        decode(tmp_path / name)
    with pytest.raises(BadImageError) as from_bytes:
        decode_bytes(content, name)
    assert from_file.value.reason == from_bytes.value.reason
    assert str(tmp_path) not in from_file.value.reason  # which stands beside the name
    assert from_file.value.lasting


@pytest.mark.parametrize(("orientation", "corner"), [(2, (23, 0)), (3, (23, 19)), (6, (19, 0)), (8, (0, 23))])
def test_pictures_are_turned_upright(orientation, corner):
    image = Image.new("RGB", (24, 20))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        found = decode_bytes(encoded(image, kind, exif=exif, **options), "a")
        assert found.getpixel(corner) == (255, 255, 255), kind


def test_the_first_frame_counts():
    red, green = Image.new("RGB", (8, 8), (200, 0, 0)), Image.new("RGB", (8, 8), (0, 200, 0))
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        found = decode_bytes(encoded(red, kind, save_all=True, append_images=[green] * 3), "a")
        assert np.abs(np.subtract(found.getpixel((4, 4)), (200, 0, 0))).max() < 8, kind


def test_targa_is_read_where_the_name_says_so():
    content = encoded(picture(0), "TGA")
    assert np.array_equal(np.asarray(decode_bytes(content, "a.TGA")), PLAIN)
    with pytest.raises(BadImageError, match="no image of a kind that is read"):
        decode_bytes(content, "a.jpg")


def test_a_huge_jpeg_is_read_at_a_fraction_of_its_size(monkeypatch):
    content = encoded(picture(0, (640, 480)), "JPEG")
    monkeypatch.setattr(decoding, "LARGE_JPEG", 640 * 480)
    assert decode_bytes(content, "a.jpg").size == (640, 480)
    monkeypatch.setattr(decoding, "LARGE_JPEG", 640 * 480 - 1)
    assert decode_bytes(content, "a.jpg").size == (320, 240)
    monkeypatch.setattr(decoding, "LARGE_JPEG", 1)
    assert decode_bytes(content, "a.jpg").size == (80, 60)
    monkeypatch.setattr(decoding, "MOST_PIXELS", 80 * 60 - 1)
    with pytest.raises(BadImageError, match="80 × 60 pixels"):
        decode_bytes(content, "a.jpg")


BOMB = """
import resource, sys
from pathlib import Path
from senet.data.decoding import decode
from senet.errors import BadImageError
for path in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        told = str(decode(Path(path)).size)
    except BadImageError as error:
        told = error.reason
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, told)
"""


def test_decompression_bombs_and_huge_photos_take_little_memory(tmp_path):
    for name, side in (("a.png", 20_000), ("b.png", 12_000)):
        (tmp_path / name).write_bytes(png_of(side, side, b"\0" * (3 * side + 1) * 100))
    Image.new("L", (12_000, 12_000), 77).save(tmp_path / "c.jpg")
    words = [sys.executable, "-c", BOMB, *(str(tmp_path / name) for name in ("a.png", "b.png", "c.jpg"))]
    out = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    grown, told = zip(*(line.split(" ", 1) for line in out), strict=True)
    assert told[0] == "more than 178 million pixels: scale it down"
    assert told[1] == "12000 × 12000 pixels, more than 89 million: scale it down"
    assert told[2] == "(3000, 3000)"
    mebibytes = [int(each) for each in grown]  # whole, as RGB, they would take 1,144, 412 and 412
    assert max(mebibytes[:2]) < 30
    assert mebibytes[2] < 150


def test_a_file_system_that_is_away_for_a_moment_is_asked_again(tmp_path, monkeypatch):
    picture(0).save(tmp_path / "a.png")
    monkeypatch.setattr(decoding, "_WAITS", (0.0, 0.0))
    real, asked = Path.open, []

    def away(self, *words):
        asked.append(self)
        if len(asked) <= times:
            raise OSError(number, os.strerror(number))
        return real(self, *words)

    monkeypatch.setattr(Path, "open", away)
    times, number = 2, errno.ESTALE
    assert decode(tmp_path / "a.png").size == (24, 20)
    asked.clear()
    times = 3
    with pytest.raises(BadImageError, match="Stale file handle") as stale:
        decode(tmp_path / "a.png")
    assert not stale.value.lasting
    asked.clear()
    times, number = 1, errno.EACCES
    with pytest.raises(BadImageError, match="Permission denied"):
        decode(tmp_path / "a.png")
    assert len(asked) == 1


@pytest.mark.parametrize("mode", ["RGB", "P", "L"])
def test_a_transparent_colour_lies_on_white_in_every_mode(mode):
    colour = Image.new("RGB", (8, 8), (255, 0, 0)).convert(mode)
    index = colour.getpixel((0, 0))
    found = decode_bytes(encoded(colour, "PNG", transparency=index), "a.png")
    assert to_mode(found, "RGB").getpixel((4, 4)) == (255, 255, 255)
    assert to_mode(found, "L").getpixel((4, 4)) == 255
    assert to_mode(Image.open(io.BytesIO(encoded(colour, "PNG", transparency=index))), "RGB").getpixel((0, 0))[1] == 255
