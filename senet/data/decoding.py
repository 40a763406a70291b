"""Decode files into images: any file of a real folder becomes RGB, or one error with the reason."""

from __future__ import annotations

import errno
import functools
import io
import stat
import time
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from senet.data.quiet import without_warnings
from senet.errors import BadImageError, DataError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["EXTENSIONS", "decode", "decode_bytes", "depth_of", "readable_formats", "reason_of", "to_mode", "upright"]

EXTENSIONS = frozenset(
    ".avif .bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()
)

MOST_PIXELS = 89_478_485
"""Larger images count as decompression bombs (PIL's limit, a quarter of a GiB as RGB). A JPEG may
have twice as many, because its format can be decoded at reduced size."""

MOST_SCANNED = 2**31
"""The most pixels times scans of a JPEG, since each scan is decoded over the whole image. A
progressive photo has about ten scans. A one-megabyte file can have thousands and take minutes."""

LARGE_JPEG = 2**25
"""The number of pixels above which a JPEG is decoded at 1/2, 1/4 or 1/8 of its sides."""

# Not PIL's whole list: opening an EPS file, under any name, would start Ghostscript.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")
_PASSING = frozenset({errno.EAGAIN, errno.EINTR, errno.EIO, errno.ESTALE, errno.ETIMEDOUT})
_WAITS = (0.1, 1.0)  # seconds before a network file system is tried again
_ORIENTATION = 0x0112


def decode(path: Path) -> Image.Image:
    """Decode a file's first frame, as `upright` returns it, in bounded memory.

    Truncated data is an error, never half an image. With broken EXIF data the image is used as stored.

    Raises:
        BadImageError: it is not an image of a supported format, is damaged, or has too many pixels.
    """
    for wait in (*_WAITS, None):
        try:
            info = path.stat()
            if not stat.S_ISREG(info.st_mode):  # opening a pipe would block for ever
                raise BadImageError(f"{path} is not a file", "not a file, but a folder, pipe or device")
            with path.open("rb") as file:
                return _decoded(file, info.st_size, path.suffix)
        except BadImageError as error:
            raise _named(path, error) from error
        except OSError as error:
            if wait is None or error.errno not in _PASSING:
                raise _named(path, BadImageError("", reason_of(error), lasting=False)) from error
            time.sleep(wait)
    raise AssertionError


def decode_bytes(content: bytes, name: str) -> Image.Image:
    """Decode `content` like `decode`. `name` stands in errors, and its suffix may select the format."""
    try:
        return _decoded(io.BytesIO(content), len(content), name[name.rfind(".") :])
    except BadImageError as error:
        raise _named(name, error) from error


def reason_of(error: BaseException) -> str:
    """The reason in one line why an image could not be read."""
    if isinstance(error, BadImageError):
        return error.reason
    if isinstance(error, UnidentifiedImageError):
        return "no image of a kind that is read"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def upright(image: Image.Image) -> Image.Image:
    """`image` rotated by its EXIF orientation, with 8 bits a channel: RGB, or RGBA if it is transparent.

    Grey of more bits keeps its values, in mode "I" (integers) or "F" (floats).
    """
    image.load()
    try:
        if image.getexif().get(_ORIENTATION, 1) != 1:  # otherwise it would be copied
            image = ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # broken EXIF data is ignored
        pass
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return image if image.mode == "I" else Image.fromarray(np.asarray(image).astype(np.int32))
    if image.mode == "F":
        return image
    if image.mode in ("LA", "PA", "La", "RGBa", "RGBA") or "transparency" in image.info:
        # PIL converts a palette with alpha, and premultiplied grey, to RGBA only through these modes.
        between = {"La": "LA"}.get(image.mode)
        image = (image.convert(between) if between else image).convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            return image
    return image.convert("RGB")


def to_mode(
    image: Image.Image, mode: str, transparency: str | None = "white", values: tuple[float, float] | None = None
) -> Image.Image:
    """`image` upright with 8 bits a channel, in colour, in grey, or with transparency.

    Args:
        image: an image of any mode.
        mode: "RGB"; "L" for grey, in which grey keeps its values; or "RGBA", opaque unless the
            image is transparent.
        transparency: "white" composites it on white; None drops the alpha channel, as earlier versions did.
        values: for grey of more than 8 bits, the values of black and white. None treats integers as
            16 bits, and floats as shares of 1.

    Raises:
        DataError: grey of more than 8 bits has values outside that range.
    """
    if image.mode == mode and "transparency" not in image.info:
        return image
    image = upright(image)
    if image.mode in ("I", "F"):
        image = _scaled(np.asarray(image).astype(np.float64), image.mode, values)
    elif image.mode == "RGBA" and mode != "RGBA" and transparency == "white":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB").convert(mode) if mode == "L" and image.mode == "RGBA" else image.convert(mode)


def _scaled(grey: np.ndarray[Any, np.dtype[np.float64]], mode: str, values: tuple[float, float] | None) -> Image.Image:
    if values is not None or mode == "F":
        low, high = values or (0.0, 1.0)
        least, greatest = float(grey.min()), float(grey.max())
        if not (low <= least and greatest <= high):  # also true for NaN
            raise DataError(
                f"a grey picture has values from {least:g} to {greatest:g}, outside the range {low:g} to {high:g} that "
                "becomes black to white: give another with range (--range LOW HIGH)"
            )
        grey = (grey - low) * (255 / (high - low))
    else:
        grey = grey.clip(0, 65535) / 257
    return Image.fromarray(grey.clip(0, 255).round().astype(np.uint8))


def depth_of(content: IO[bytes], name: str) -> str:
    """An image's mode from its header, "I" or "F" for grey of more than 8 bits; "" if it is not an image."""
    try:
        with without_warnings(), Image.open(content, formats=readable_formats(name.lower().endswith(".tga"))) as image:
            return image.mode[:1] if image.mode[:1] in "IF" else image.mode
    except Exception:  # unreadable files are found elsewhere
        return ""


def _named(name: Path | str, error: BadImageError) -> BadImageError:
    message = f"{name} cannot be read as an image ({error.reason}): mend or remove it"
    return BadImageError(message, error.reason, lasting=error.lasting)


def _decoded(file: IO[bytes], length: int, suffix: str) -> Image.Image:
    if length == 0:
        raise BadImageError("empty", "the file is empty")
    try:
        # PIL warns of broken EXIF data and of large images
        with without_warnings(), Image.open(file, formats=readable_formats(suffix.lower() == ".tga")) as image:
            size = image.size  # before reduced-size decoding, which does not reduce the cost of a scan
            _bound(image)
            if image.format in ("JPEG", "MPO"):
                _bound_scans(file, size)
            image.load()
            return upright(image)
    except BadImageError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError("bomb", f"more than {2 * MOST_PIXELS // 10**6} million pixels: scale it down") from error
    except OSError as error:
        if error.errno is not None:
            raise  # a system error; a decoder's own errors have no errno
        raise BadImageError("damaged", reason_of(error)) from error
    except Exception as error:  # a damaged file can raise any error in a decoder
        raise BadImageError("damaged", reason_of(error), lasting=not isinstance(error, MemoryError)) from error


def _bound(image: Image.Image) -> None:
    """Set a huge JPEG to reduced-size decoding, and refuse images that would take too much memory."""
    width, height = image.size
    scale = 1
    while (width // scale) * (height // scale) > LARGE_JPEG and scale < 8:
        scale *= 2
    if scale > 1 and image.format in ("JPEG", "MPO"):
        image.draft(image.mode, (width // scale, height // scale))
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise BadImageError(
            "bomb", f"{width} × {height} pixels, more than {MOST_PIXELS // 10**6} million: scale it down"
        )


def _bound_scans(file: IO[bytes], size: tuple[int, int]) -> None:
    """Refuse a JPEG with so many scans that decoding takes minutes; the file's position is restored."""
    begun = file.tell()
    file.seek(0)
    scans, last = 0, b""
    while chunk := file.read(2**20):
        scans += (last + chunk).count(b"\xff\xda")  # in image data 0xff is followed by 0 or a restart marker
        last = chunk[-1:]
    file.seek(begun)
    if scans * max(size[0] * size[1], 2**14) > MOST_SCANNED:
        raise BadImageError("bomb", f"{scans} scans of {size[0]} × {size[1]} pixels: save it again")


@functools.cache
def readable_formats(with_tga: bool = False) -> tuple[str, ...]:
    """The supported formats that this PIL has. Targa has no signature, so only a file's name can tell."""
    Image.init()
    return tuple(name for name in (*_FORMATS, *("TGA",) * with_tga) if name in Image.OPEN)
