import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as published

from senet.data import transforms
from senet.data.sources import open_data
from senet.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
    Preprocessing,
    augmentation_for,
    preprocessing_for,
    timm_configuration,
    timm_preprocessing,
    unlike_timm,
)
from senet.errors import InputError


def _photo(width=50, height=40):
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_preprocessing_is_that_of_torchvisions_reference(interpolation):
    how = Preprocessing(24, 32, interpolation=interpolation)
    reference = published.Compose(
        [
            published.Resize(32, interpolation=published.InterpolationMode(interpolation)),
            published.CenterCrop(24),
            published.ToTensor(),
            published.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    found = how.normalise(how(_photo())[None])[0]
    assert found.shape == (3, 24, 24)
    assert torch.allclose(found, reference(_photo()), atol=1e-6)


def test_a_picture_of_a_line_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr("senet.data.decoding.MOST_PIXELS", 2**20)
    resize, sizes = Image.Image.resize, []

    def watched(image, size, **how):
        sizes.append(size)
        return resize(image, size, **how)

    monkeypatch.setattr(Image.Image, "resize", watched)
    for line in ((1, 10_000), (10_000, 1)):
        assert Preprocessing()(Image.new("RGB", line, (9, 9, 9))).unique().tolist() == [9]
    assert sizes == [(256, 4096), (4096, 256)]


def test_channels_may_be_those_of_caffe():
    """(value in [0, 255], less the mean of its colour), blue first: what the authors' networks take."""
    how = Preprocessing(24, 32, [123 / 255, 117 / 255, 104 / 255], [1 / 255] * 3, channels="BGR")
    pixels = how(_photo())[None]
    means = torch.tensor([104.0, 117, 123])[:, None, None]
    torch.testing.assert_close(how.normalise(pixels)[0], pixels[0].float().flip(0) - means, atol=1e-4, rtol=0)
    assert Preprocessing.from_json(how.to_json()) == how
    with pytest.raises(ValueError, match="channels is 'RGB', 'BGR', 'grey' or 'RGBA', not 'rgb'"):
        Preprocessing(channels="rgb")


def test_preprocessing_survives_json():
    how = Preprocessing(96, 100, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")
    assert Preprocessing.from_json(json.loads(json.dumps(how.to_json()))) == how
    with pytest.raises(ValueError, match="not crop"):
        Preprocessing.from_json({**how.to_json(), "crop": 3})
    with pytest.raises(ValueError, match="its resize is 60000, more than 8192 pixels"):
        Preprocessing.from_json({**how.to_json(), "resize": 60000})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"size": 0}, "size is a whole number"),
        ({"size": 3.5}, "size is a whole number"),
        ({"resize": 100}, r"resize \(100\) is at least the size"),
        ({"mean": (0.5,)}, "mean is three numbers"),
        ({"mean": 0.5}, "mean is three numbers.*not 0.5"),
        ({"range": 5}, "range is two numbers, .*not 5"),
        ({"std": (0.5, 0, 0.5)}, "std is three numbers.*positive"),
        ({"mean": (0.5, float("nan"), 0)}, "mean is three numbers"),
        ({"interpolation": "bilinaer"}, "did you mean 'bilinear'"),
    ],
)
def test_preprocessing_that_makes_no_sense_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Preprocessing(**wrong)


def test_another_size_sees_the_same_part():
    assert Preprocessing().at(128) == Preprocessing(128, 146)
    assert Preprocessing().at(None) == Preprocessing()
    assert Preprocessing(32, 32).at(48) == Preprocessing(48, 48)


def test_what_is_usual_for_small_images_and_for_photos(paint):
    digits, photos = open_data("digits"), open_data(paint({"a": 2, "b": 2}, size=(50, 40)))
    known = Preprocessing(mean=(0.5, 0.5, 0.5), interpolation="bicubic")
    assert preprocessing_for(digits) == Preprocessing(8, 8)
    assert preprocessing_for(digits, size=32) == Preprocessing(32, 32)
    assert preprocessing_for(photos) == Preprocessing(224, 256)
    assert preprocessing_for(photos, size=128) == Preprocessing(128, 146)
    assert preprocessing_for(photos, size=112, known=known) == dataclasses.replace(known, size=112, resize=128)
    assert augmentation_for(digits, Preprocessing(8, 8)) == Augmentation(8, padding=1, flip=False)
    assert augmentation_for(digits, Preprocessing(32, 32)).padding == 4
    assert augmentation_for(photos, Preprocessing()) == Augmentation(224)


def test_a_small_image_is_shifted_and_mirrored():
    how = Augmentation(6, padding=1)
    image = _photo(6, 6)
    base = how.base(image)
    assert base.shape == (3, 8, 8)
    expected = torch.nn.functional.pad(torch.from_numpy(np.array(image)).permute(2, 0, 1), (1, 1, 1, 1))
    assert torch.equal(base, expected)
    views = {(top, left): base[:, top : top + 6, left : left + 6] for top in range(3) for left in range(3)}
    seen = set()
    for _ in range(200):
        view = how(base)
        where = [
            (at, flip)
            for at, v in views.items()
            for flip in (False, True)
            if torch.equal(v.flip(-1) if flip else v, view)
        ]
        assert len(where) == 1
        seen.add(where[0])
    assert len(seen) == 18


def test_a_digit_is_never_mirrored():
    how = Augmentation(6, padding=1, flip=False)
    base = how.base(_photo(6, 6))
    views = [base[:, top : top + 6, left : left + 6] for top in range(3) for left in range(3)]
    flipped = [v.flip(-1) for v in views]
    for _ in range(50):
        view = how(base)
        assert any(torch.equal(view, v) for v in views)
        assert not any(torch.equal(view, v) for v in flipped)


def test_a_photo_is_cropped_and_resized_and_large_ones_are_kept_smaller():
    how = Augmentation(16)
    assert how.base(_photo()).shape == (3, 32, 40)
    assert how.base(_photo(30, 25)).shape == (3, 25, 30)
    assert how(how.base(_photo())).shape == (3, 16, 16)


def test_what_timm_says_of_its_weights():
    timm = pytest.importorskip("timm")
    configuration = dataclasses.asdict(timm.get_pretrained_cfg("tf_mobilenetv3_small_100"))
    how = timm_preprocessing(configuration)
    assert (how.size, how.resize, how.mean, how.interpolation) == (224, 256, (0.5, 0.5, 0.5), "bilinear")
    assert timm_preprocessing({}) == Preprocessing()


@pytest.mark.parametrize("name", ["convnext_base.fb_in22k_ft_in1k_384", "resnet50"])
def test_a_picture_is_prepared_as_timm_does(name):
    timm = pytest.importorskip("timm")
    configuration = timm_configuration(f"timm:{name}")
    x, y = np.meshgrid(np.linspace(0, 255, 600), np.linspace(0, 255, 300))
    picture = Image.fromarray(np.stack([x, y, x], 2).astype(np.uint8))
    how = timm_preprocessing(configuration)
    theirs = timm.data.create_transform(**timm.data.resolve_data_config(configuration))(picture)
    assert (how.normalise(how(picture)[None])[0] - theirs).abs().max() < 1e-5
    assert Preprocessing.from_json(how.to_json()) == how
    assert ("crop_mode" in how.to_json()) == (how.crop_mode != "center")
    assert how.at(64).crop_mode == how.crop_mode
    assert unlike_timm(f"timm:{name}") == ""


def test_what_cannot_be_prepared_as_timm_does_is_said(monkeypatch):
    pytest.importorskip("timm")
    for stated, words in (({"crop_mode": "border"}, "by crop_mode 'border'"), ({"input_size": (3, 8, 6)}, "of 8 × 6")):
        monkeypatch.setattr(transforms, "timm_configuration", lambda _, stated=stated: stated)
        assert words in unlike_timm("timm:net")
    with pytest.raises(InputError, match="crop_mode is 'center' or 'squash', not 'border'"):
        Preprocessing(crop_mode="border")
