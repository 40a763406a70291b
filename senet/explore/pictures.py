"""Decode a dropped image within bounds, in memory, and only with pixel decoders."""

from __future__ import annotations

import base64
import codecs
import io
import re

from PIL import Image, UnidentifiedImageError

from senet.data.decoding import decode_bytes, readable_formats, reason_of
from senet.data.quiet import without_warnings
from senet.errors import BadImageError, SenetError

__all__ = ["MOST_BYTES", "MOST_PIXELS", "PictureError", "from_base64", "read_picture", "too_many_bytes"]

MOST_BYTES = 16 * 2**20
MOST_PIXELS = 50_000_000
_LONGEST = 40
"""The largest ratio of sides: a very thin image, resized by its shorter side, would fill the memory."""


class PictureError(SenetError, ValueError):
    """A file that cannot be shown; the message says why, and what would work."""


def too_many_bytes(count: int) -> PictureError:
    """The error for a file of `count` bytes, which are too many."""
    return PictureError(
        f"this file has {count / 2**20:.0f} MiB; the page takes pictures of at most {MOST_BYTES // 2**20} MiB"
    )


def from_base64(text: object) -> bytes:
    """Decode a file's bytes as sent by the page.

    Raises:
        PictureError: there are too many, or it is not base64.
    """
    if not isinstance(text, str):
        raise PictureError("no file came: drop it again")
    if len(text) > 4 * -(-MOST_BYTES // 3):
        raise too_many_bytes(3 * len(text) // 4)
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise PictureError("the file came damaged: drop it again") from None


def read_picture(content: bytes) -> Image.Image:
    """Read an image upright, in a mode of `senet.data.decoding.upright`; of an animation the first frame.

    The number of pixels is read from its header before decoding.

    Raises:
        PictureError: it has too many bytes or pixels, is very thin, is damaged, or is not a pixel
            image (an SVG drawing, a document, a text).
    """
    if len(content) > MOST_BYTES:
        raise too_many_bytes(len(content))
    if not content:
        raise PictureError("this file is empty")
    width, height = _size(content)
    if width * height > MOST_PIXELS:
        raise PictureError(
            f"this picture has {width} × {height} pixels, {width * height / 1e6:.0f} million; the page takes at "
            f"most {MOST_PIXELS / 1e6:.0f} million: make it smaller first"
        )
    if max(width, height) > _LONGEST * min(width, height):
        raise PictureError(
            f"this picture has {width} × {height} pixels; the page takes none more than {_LONGEST} times as long "
            f"as it is wide: cut a part out of it first"
        )
    try:
        return decode_bytes(content, "")
    except BadImageError as error:
        raise PictureError(f"this picture cannot be decoded ({error.reason:.120}): mend it") from None


def _size(content: bytes) -> tuple[int, int]:
    """Width and height, from the header."""
    try:
        # PIL warns of large images
        with without_warnings(), Image.open(io.BytesIO(content), formats=readable_formats()) as image:
            return image.size
    except UnidentifiedImageError:
        raise PictureError(f"{_what(content)}; drop a picture: JPEG, PNG, WebP, AVIF, GIF, TIFF or BMP") from None
    except Image.DecompressionBombError:
        raise PictureError(
            f"this picture has too many pixels; the page takes at most {MOST_PIXELS / 1e6:.0f} million"
        ) from None
    except Exception as error:  # any error of a decoder on a damaged or hostile header
        raise PictureError(f"this picture cannot be decoded ({reason_of(error):.120}): mend it") from None


def _what(content: bytes) -> str:
    """The kind of a file that no pixel decoder knows, in words."""
    start = content[:4096].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if re.match(rb"<svg|<\?xml|<!doctype svg", start) and b"<svg" in content[:65536].lower():
        return "this is an SVG drawing, not a picture of pixels"
    if start.startswith(b"%pdf"):
        return "this is a PDF document, not a picture"
    return "this is a text, not a picture" if _is_text(content[:4096]) else "this is not a readable picture"


def _is_text(start: bytes) -> bool:
    if b"\0" in start:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return True
