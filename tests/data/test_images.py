import numpy as np
import pytest
import torch
from PIL import Image

from senet.data.images import (
    ArrayImages,
    ChosenImages,
    FileImages,
    JoinedImages,
    TorchvisionImages,
    to_rgb,
)
from senet.errors import DataError

COLOUR = (200, 100, 50)


def _grey16() -> Image.Image:
    return Image.fromarray(np.full((4, 6), 40_000, dtype=np.uint16))


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (Image.new("RGB", (6, 4), COLOUR), COLOUR),
        (Image.new("RGBA", (6, 4), (*COLOUR, 128)), COLOUR),
        (Image.new("L", (6, 4), 77), (77, 77, 77)),
        (Image.new("LA", (6, 4), (77, 10)), (77, 77, 77)),
        (Image.new("1", (6, 4), 1), (255, 255, 255)),
        (Image.new("RGB", (6, 4), COLOUR).quantize(4), COLOUR),
        (Image.new("CMYK", (6, 4), (0, 0, 0, 0)), (255, 255, 255)),
        (_grey16(), (156, 156, 156)),  # 40,000 / 257
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_every_mode_becomes_rgb(image, pixel):
    found = to_rgb(image)
    assert (found.mode, found.size, found.getpixel((5, 3))) == ("RGB", (6, 4), pixel)


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path):
    image = Image.new("RGB", (6, 4), COLOUR).quantize(4)
    image.save(tmp_path / "a.png", transparency=bytes([0, 255, 255, 255]))
    assert FileImages([tmp_path / "a.png"], [0], tmp_path).load(0).mode == "RGB"


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "bmp", "gif", "tiff"])
def test_the_usual_formats_are_read(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    Image.new("RGB", (6, 4), COLOUR).save(path)
    found = FileImages([path], [1], tmp_path).load(0)
    assert (found.mode, found.size) == ("RGB", (6, 4))
    assert np.abs(np.asarray(found, dtype=int) - COLOUR).max() <= 8  # what compression loses


def test_a_photo_is_turned_as_its_camera_says(tmp_path):
    image = Image.new("RGB", (6, 4), COLOUR)
    image.putpixel((0, 0), (0, 0, 0))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned to the right
    image.save(tmp_path / "a.png", exif=exif)
    found = FileImages([tmp_path / "a.png"], [0], tmp_path).load(0)
    assert found.size == (4, 6)
    assert found.getpixel((3, 0)) == (0, 0, 0)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n then nothing"])
def test_a_file_that_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.png cannot be read as an image"):
        FileImages([path], [0], tmp_path).load(0)


def test_a_truncated_jpeg_is_named(tmp_path):
    path = tmp_path / "half.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(DataError, match=r"half\.jpg.*truncated"):
        FileImages([path], [0], tmp_path).load(0)


def test_lists_of_images_agree_on_length_labels_and_names():
    pixels = np.arange(5 * 2 * 2 * 3, dtype=np.uint8).reshape(5, 2, 2, 3)
    whole = ArrayImages(pixels, [0, 1, 0, 1, 2])
    some = ChosenImages(whole, [4, 1])
    both = JoinedImages([some, whole])
    torchvision = TorchvisionImages([(Image.fromarray(image), 0) for image in pixels], [0, 1, 0, 1, 2])
    assert (len(whole), len(some), len(both), len(torchvision)) == (5, 2, 7, 5)
    assert some.labels.tolist() == [2, 1]
    assert both.labels.tolist() == [2, 1, 0, 1, 0, 1, 2]
    assert list(both.names) == ["4", "1", "0", "1", "2", "3", "4"]
    for index, expected in [(0, 4), (1, 1), (2, 0), (6, 4)]:
        assert np.array_equal(np.asarray(both.load(index)), pixels[expected])
    assert np.array_equal(np.asarray(torchvision.load(3)), pixels[3])
    with pytest.raises(IndexError):
        both.load(7)


def test_fingerprints_change_with_what_decides_a_result(tmp_path):
    pixels = np.zeros((2, 2, 2, 3), dtype=np.uint8)
    lists = [
        ArrayImages(pixels, [0, 1]),
        ArrayImages(pixels, [1, 0]),
        ArrayImages(pixels + 1, [0, 1]),
        ChosenImages(ArrayImages(pixels, [0, 1]), [0]),
        ChosenImages(ArrayImages(pixels, [0, 1]), [1]),
        TorchvisionImages([(None, 0)] * 2, [0, 1]),
        JoinedImages([ArrayImages(pixels, [0, 1])] * 2),
    ]
    found = [images.fingerprint() for images in lists]
    for name, size in (("a", 3), ("b", 3), ("b", 4)):
        (tmp_path / name).write_bytes(b"x" * size)
        found.append(FileImages([tmp_path / name], [0], tmp_path).fingerprint())
    assert len(set(found)) == len(found)
    assert ArrayImages(pixels.copy(), [0, 1]).fingerprint() == found[0]
    assert all(torch.is_tensor(images.labels) for images in lists)
