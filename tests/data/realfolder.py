"""A folder as people have them: odd pictures that can be read, and files that cannot, of every kind."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("dark", "light")


def picture(index: int, size: tuple[int, int] = (24, 20)) -> Image.Image:
    """Noise whose brightness is that of its class."""
    noise = np.random.default_rng(index).integers(0, 60, (*size[::-1], 3))
    return Image.fromarray((noise + (40, 170)[index % 2]).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width: int, height: int, rows: bytes = b"") -> bytes:
    """An 8-bit RGB PNG that claims that size."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def odd_pictures(index: int) -> dict[str, bytes]:
    """Pictures that are unusual and whole, by file name."""
    image = picture(index)
    grey16 = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    frames = [picture(index + 2 * i) for i in range(1, 3)]
    animated = {"save_all": True, "append_images": frames}
    palette = image.quantize(16)
    broken_exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(range(40))
    return {
        "progressive.jpg": encoded(image, "JPEG", progressive=True),
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG"),
        "grey.jpeg": encoded(image.convert("L"), "JPEG"),
        "turned.jpg": encoded(image, "JPEG", exif=_exif(6)),
        "mirrored.JPG": encoded(image, "JPEG", exif=_exif(7)),
        "broken exif.jpg": encoded(image, "JPEG", exif=broken_exif),
        "palette.png": encoded(palette, "PNG"),
        "palette-transparent.png": encoded(palette, "PNG", transparency=bytes([0, *[255] * 15])),
        "sixteen.png": encoded(grey16, "PNG"),
        "sixteen.tif": encoded(grey16, "TIFF"),
        "float.tiff": encoded(Image.fromarray(np.asarray(image.convert("L"), dtype=np.float32) / 255), "TIFF"),
        "cmyk.tif": encoded(image.convert("CMYK"), "TIFF"),
        "alpha.png": encoded(image.convert("RGBA"), "PNG"),
        "grey-alpha.png": encoded(image.convert("LA"), "PNG"),
        "one-bit.png": encoded(image.convert("1"), "PNG"),
        "animated.gif": encoded(image, "GIF", **animated),
        "animated.png": encoded(image, "PNG", **animated),
        "animated.webp": encoded(image, "WEBP", **animated),
        "pages.tiff": encoded(image, "TIFF", **animated),
        "targa.tga": encoded(image, "TGA"),
        "a png really.jpg": encoded(image, "PNG"),
        "jpeg2000.jp2": encoded(image, "JPEG2000"),
        "bitmap.bmp": encoded(image, "BMP"),
        "portable.ppm": encoded(image, "PPM"),
        "large.jpg": encoded(picture(index, (1500, 1000)), "JPEG"),
        "one pixel.png": encoded(picture(index, (1, 1)), "PNG"),
        "very wide.png": encoded(picture(index, (400, 2)), "PNG"),
        "日本語 фото é.png": encoded(image, "PNG"),
        "e\u0301 \U0001f600 'quoted' \"twice\", comma.png": encoded(image, "PNG"),
    }


def bad_files(index: int) -> dict[str, bytes]:
    """Files called pictures that are none, or damaged, by name."""
    image = picture(index)
    jpeg, png = encoded(image, "JPEG"), encoded(image, "PNG")
    crc = bytearray(png)
    crc[png.index(b"IDAT") + 8] ^= 0xFF
    return {
        "zero.jpg": b"",
        "zero.png": b"",
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "truncated.png": png[: len(png) // 2],
        "truncated.gif": encoded(image, "GIF")[:100],
        "truncated.webp": encoded(image, "WEBP")[:60],
        "truncated.tif": encoded(image, "TIFF")[:80],
        "header only.jpg": jpeg[:20],
        "header only.png": png[:33],
        "damaged.png": bytes(crc),
        "text.jpg": b"this is no picture\n",
        "page.jpeg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "document.png": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 20\nshowpage\n",
        "bomb.png": png_of(60_000, 60_000),
        "smaller bomb.png": png_of(10_000, 10_000),
        "empty image.png": png_of(0, 0),
    }


def lay_real_folder(root: Path) -> tuple[list[str], list[str]]:
    """Write 200 good and 40 bad files in two classes, and return the names of both, sorted."""
    good, bad = [], []
    for index, name in enumerate(CLASSES):
        folder = root / name
        folder.mkdir(parents=True)
        for file, content in odd_pictures(index).items():
            (folder / file).write_bytes(content)
            good.append(f"{name}/{file}")
        for file, content in bad_files(index).items():
            (folder / file).write_bytes(content)
            bad.append(f"{name}/{file}")
        (folder / "nested").mkdir()
        picture(index).save(folder / "nested/deep.png")
        (folder / "nested/round").symlink_to(folder)  # a loop
        (folder / "link.png").symlink_to("palette.png")
        good += [f"{name}/nested/deep.png", f"{name}/link.png"]
        (folder / "link to nowhere.jpg").symlink_to("gone.jpg")
        bad.append(f"{name}/link to nowhere.jpg")
        (folder / ".hidden.jpg").write_bytes(b"")
        (folder / "Thumbs.db").write_bytes(b"litter")
    (root / "dark/link to itself.png").symlink_to("link to itself.png")
    os.mkfifo(root / "light/pipe.jpg")
    bad += ["dark/link to itself.png", "light/pipe.jpg"]
    for count in range(200 - len(good)):
        name = CLASSES[count % 2]
        picture(count).save(root / name / f"{count:03}.jpg")
        good.append(f"{name}/{count:03}.jpg")
    assert (len(good), len(bad)) == (200, 40)
    return sorted(good), sorted(bad)
