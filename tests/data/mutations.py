"""Mutated JPEG and PNG files, the same for a number on every machine: what a fuzzer feeds the decoder with."""

from __future__ import annotations

import random
import struct
import zlib

import numpy as np
from PIL import Image

from tests.data.realfolder import encoded, odd_pictures, picture, png_chunk

MARKERS = bytes([*range(0xC0, 0xD0), *range(0xD8, 0xF0), 0xFE])


def seeds() -> list[bytes]:
    """Whole JPEG and PNG files, of every kind that the decoder knows."""
    odd = odd_pictures(0)
    kinds = [content for name, content in odd.items() if name.lower().endswith((".jpg", ".jpeg", ".png"))]
    small = [content for content in kinds if len(content) < 20_000]
    photo = picture(3, (40, 30))
    return [
        *small,
        encoded(photo, "JPEG", quality=30, restart_marker_blocks=1),
        encoded(photo, "JPEG", subsampling=0, optimize=True, progressive=True),
        encoded(photo, "PNG", compress_level=0),
        _interlaced(photo),
        encoded(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100), "PNG"),
    ]


def _interlaced(image: Image.Image) -> bytes:
    """An 8-bit RGB PNG in Adam7's seven passes, which PIL reads but does not write."""
    pixels = np.asarray(image)
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = b"".join(
        b"\0" + row.tobytes() for top, left, down, across in passes for row in pixels[top::down, left::across]
    )
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *image.size, 8, 2, 0, 0, 1))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def mutated(number: int, whole: list[bytes]) -> bytes:
    """Mutant `number`: one file of `whole`, damaged in one to six places."""
    draw = random.Random(number)
    content = bytearray(whole[number % len(whole)])
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        if content:
            draw.choice(_WAYS)(content, draw, whole)
    if content[:4] == b"\x89PNG" and draw.random() < 0.7:  # else no damage would pass the checksums
        _mend_checksums(content)
    return bytes(content)


def _flip(content: bytearray, draw: random.Random, _: list[bytes]) -> None:
    for _ in range(draw.choice((1, 1, 4, 32))):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def _overwrite(content: bytearray, draw: random.Random, _: list[bytes]) -> None:
    at = draw.randrange(len(content))
    content[at : at + draw.randrange(1, 9)] = draw.randbytes(draw.randrange(9))


def _extreme(content: bytearray, draw: random.Random, _: list[bytes]) -> None:
    """A whole number, such as a length or a size, becomes an extreme one."""
    at = draw.randrange(len(content))
    number = draw.choice((0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
    content[at : at + 4] = number.to_bytes(8, "big")[-draw.choice((1, 2, 4)) :]


def _cut(content: bytearray, draw: random.Random, _: list[bytes]) -> None:
    del content[draw.randrange(len(content)) :]


def _remove(content: bytearray, draw: random.Random, _: list[bytes]) -> None:
    at = draw.randrange(len(content))
    del content[at : at + draw.randrange(1, 200)]


def _repeat(content: bytearray, draw: random.Random, _: list[bytes]) -> None:
    at = draw.randrange(len(content))
    content[at:at] = content[at : at + draw.randrange(1, 400)] * draw.choice((1, 2, 20))


def _splice(content: bytearray, draw: random.Random, whole: list[bytes]) -> None:
    """Goes on as another file."""
    other = draw.choice(whole)
    content[draw.randrange(len(content)) :] = other[draw.randrange(len(other)) :]


def _marker(content: bytearray, draw: random.Random, _: list[bytes]) -> None:
    at = draw.randrange(len(content))
    content[at : at + draw.choice((0, 2))] = bytes([0xFF, draw.choice(MARKERS)])


def _header(content: bytearray, draw: random.Random, _: list[bytes]) -> None:
    """Damage where the sizes and tables stand."""
    content[draw.randrange(min(len(content), 64))] = draw.randrange(256)


_WAYS = (_flip, _overwrite, _extreme, _cut, _remove, _repeat, _splice, _marker, _header)


def _mend_checksums(content: bytearray) -> None:
    at = 8
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        end = at + 8 + length
        if end + 4 > len(content):
            return
        struct.pack_into(">I", content, end, zlib.crc32(content[at + 4 : end]))
        at = end + 4
