import os

import numpy as np
import pytest
import torch
from PIL import Image

from senet.data.decoding import to_mode
from senet.data.images import ArrayImages, ChosenImages, FileImages, JoinedImages, TorchvisionImages, twins_in
from senet.data.readable import Readable
from senet.data.source import DataSource
from senet.data.sources import open_data
from senet.data.transforms import Augmentation, Preprocessing
from senet.data.unreadable import check_range, value_range
from senet.errors import DataError

COLOUR = (200, 100, 50)


def _grey16() -> Image.Image:
    return Image.fromarray(np.full((4, 6), 40_000, dtype=np.uint16))


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (Image.new("RGB", (6, 4), COLOUR), COLOUR),
        (Image.new("RGBA", (6, 4), (*COLOUR, 128)), (227, 177, 152)),
        (Image.new("L", (6, 4), 77), (77, 77, 77)),
        (Image.new("LA", (6, 4), (77, 10)), (248, 248, 248)),
        (Image.new("1", (6, 4), 1), (255, 255, 255)),
        (Image.new("RGB", (6, 4), COLOUR).quantize(4), COLOUR),
        (Image.new("CMYK", (6, 4), (0, 0, 0, 0)), (255, 255, 255)),
        (_grey16(), (156, 156, 156)),  # 40,000 / 257
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_every_mode_becomes_rgb(image, pixel):
    found = to_mode(image, "RGB")
    assert (found.mode, found.size, found.getpixel((5, 3))) == ("RGB", (6, 4), pixel)


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path):
    image = Image.new("RGB", (6, 4), COLOUR).quantize(4)
    image.save(tmp_path / "a.png", transparency=bytes([0, 255, 255, 255]))
    found = FileImages([tmp_path / "a.png"], [0], tmp_path).load(0)
    assert to_mode(found, "RGB").mode == "RGB"


def _marks(mode):
    """A circle and a square, black on black, told apart by their transparency alone."""
    clear = np.zeros((2, 16, 16), dtype=np.uint8)
    rows, columns = np.ogrid[:16, :16]
    clear[0] = 255 * ((rows - 8) ** 2 + (columns - 8) ** 2 < 36)
    clear[1, 4:12, 4:12] = 255
    for alpha in clear:
        if mode == "P":
            image = Image.fromarray((alpha > 0).astype(np.uint8)).convert("P")
            image.putpalette([0] * 768)
            image.info["transparency"] = bytes([0, *[255] * 255])
        else:
            image = Image.new("RGB" if mode == "RGBA" else "L", (16, 16))
            image.putalpha(Image.fromarray(alpha))
        yield image, 255 - alpha


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_only_transparency_shows_is_seen_on_white(tmp_path, mode):
    for index, (image, seen) in enumerate(_marks(mode)):
        assert image.mode == mode
        path = tmp_path / f"{index}.png"
        image.save(path)
        loaded = FileImages([path], [0], tmp_path).load(0)
        how = Preprocessing(16, 16)
        assert np.array_equal(how(loaded).numpy(), np.stack([seen] * 3))
        assert np.array_equal(Augmentation(16, padding=1).base(loaded).numpy()[:, 1:-1, 1:-1], np.stack([seen] * 3))
        assert Preprocessing.from_json(how.to_json()) == how  # so training and evaluation agree
        earlier = Preprocessing.from_json({"size": 16, "resize": 16})  # a file that does not say
        assert int(earlier(loaded).max()) == 0


@pytest.mark.parametrize(
    ("values", "found", "levels"),
    [
        (np.arange(4096, dtype=np.uint16), (0, 4095), 256),  # 12 bits in a container of 16
        (np.arange(3000, dtype=np.uint16), (0, 4095), 188),
        (np.linspace(0, 1, 4096, dtype=np.float32), (0, 1), 256),
        (np.linspace(-1024, 3071, 4096, dtype=np.float32), (-1024, 3071), 256),  # Hounsfield units
        (np.arange(-100, 156, dtype=np.int32), (-100, 155), 256),
    ],
)
def test_deep_grey_has_one_scale_for_all_pictures(tmp_path, values, found, levels):
    low = np.resize(values[: len(values) // 2], (64, 64))  # a picture that does not have all values itself
    images = []
    for index, grey in enumerate((low, np.resize(values, (64, 64)))):
        Image.fromarray(grey).save(tmp_path / f"{index}.tif")
        images.append(tmp_path / f"{index}.tif")
    train, test = FileImages(images, [0, 1], tmp_path), FileImages(images[:1], [0], tmp_path)
    source = DataSource("grey", ("a", "b"), train, None, test, native_size=64)
    assert value_range(source) == found
    how = Preprocessing.from_json(Preprocessing(64, 64, range=found).to_json())
    for index, grey in enumerate((low, np.resize(values, (64, 64)))):
        expected = (grey.astype(np.float64) - found[0]) / (found[1] - found[0]) * 255
        assert np.abs(how(train.load(index)).numpy() - expected).max() <= 0.5 + 1e-6
    assert len(np.unique(how(train.load(1)).numpy())) == levels
    check_range(source, found)
    with pytest.raises(DataError, match=r"0\.tif: a grey picture has values .* outside the range .*--range LOW HIGH"):
        check_range(source, (found[0], found[0] + 1e-3))


def test_training_pictures_of_mixed_depths_are_an_error_that_names_the_option(tmp_path):
    _grey16().save(tmp_path / "a.png")
    Image.new("L", (6, 4)).save(tmp_path / "b.png")
    images = FileImages([tmp_path / "a.png", tmp_path / "b.png"], [0, 1], tmp_path)
    source = DataSource("grey", ("a", "b"), images, None, images, native_size=None)
    with pytest.raises(DataError, match=r"1 of the 2 pictures .*a\.png.*--range LOW HIGH"):
        value_range(source)


def test_byte_identical_files_are_found_by_their_content(tmp_path):
    content = {"a": b"x" * 5000, "b": b"x" * 4999 + b"y", "c": b"x" * 5000, "d": b"z", "e": b"", "f": b""}
    for name, each in content.items():
        (tmp_path / name).write_bytes(each)
    for name in ("pipe", "pipe too"):
        os.mkfifo(tmp_path / name)  # nobody writes to them
    (tmp_path / "gone").symlink_to("nowhere")
    images = FileImages([tmp_path / name for name in (*content, "pipe", "pipe too", "gone")], range(9), tmp_path)
    assert twins_in([images]) == [[(0, 0), (0, 2)]]
    assert twins_in([ChosenImages(images, [2, 1]), ChosenImages(images, [3, 0])]) == [[(0, 0), (1, 1)]]
    assert twins_in([ChosenImages(images, [0, 2]), ChosenImages(images, [1, 3])]) == []
    assert twins_in([ArrayImages(np.zeros((2, 1, 1, 3), dtype=np.uint8), [0, 1])]) == []


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


@pytest.mark.parametrize("workers", [0, 1])
def test_a_value_outside_the_stored_range_is_one_line_whoever_reads_it(tmp_path, workers):
    _grey16().save(tmp_path / "a.png")
    images = FileImages([tmp_path / "a.png"], [0], tmp_path)
    how = Preprocessing(4, 4, range=(0, 4095))
    with pytest.raises(DataError, match=r"^a\.png: a grey picture has values from 40000 .*--range LOW HIGH\)$"):
        list(Readable(images, how, 1, workers=workers))


def test_floats_that_are_no_shares_of_1_are_refused_until_their_range_is_given():
    shares = Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32))
    assert to_mode(shares, "L").getpixel((0, 0)) == 128
    beyond = np.full((4, 4), 0.5, dtype=np.float32)
    beyond[0, 0] = 1.02  # read as shares of 255, it would be black
    with pytest.raises(DataError, match=r"from 0.5 to 1.02, outside the range 0 to 1 .* range \(--range LOW HIGH\)"):
        to_mode(Image.fromarray(beyond), "L")
    assert to_mode(Image.fromarray(beyond), "L", values=(0, 2)).getpixel((3, 3)) == 64


@pytest.mark.parametrize(("dtype", "most", "found"), [(np.uint16, 4095, (0, 4095)), (np.float32, 1.02, (0, 1.02))])
def test_deep_grey_of_a_data_set_of_pytorch_has_one_scale_too(dtype, most, found):
    def pictures(*tops):
        maps = [np.array([[0, top], [top, 0]], dtype=dtype) for top in tops]
        return [(Image.fromarray(grey), label) for label, grey in enumerate(maps)]

    source = open_data((pictures(most / 2, most), pictures(most / 4, most)))
    assert value_range(source) == pytest.approx(found)
    how = Preprocessing(2, 2, range=value_range(source))
    assert [int(how(source.train.load(index)).max()) for index in range(2)] in ([127, 255], [128, 255])
