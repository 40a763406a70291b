"""The pictures that INT8 is calibrated on."""

import numpy as np
import pytest

from senet.data.calibration import PICTURES, calibration_batches
from senet.data.images import ArrayImages
from senet.data.source import DataSource
from senet.data.sources import open_data
from senet.data.transforms import Preprocessing


@pytest.mark.parametrize("count", [2, 300, 599])
def test_they_are_of_all_classes(count):
    labels = [index >= count // 2 for index in range(count)]  # classes come one by one
    pixels = np.uint8(255) * np.array(labels, np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3)
    source = DataSource("light", ("dark", "light"), ArrayImages(pixels, labels), None, None, native_size=1)
    batches = calibration_batches(source, Preprocessing(1, 1))
    assert len(batches) == min(count, PICTURES)
    assert abs(sum(batch.mean() > 0 for batch in batches) - len(batches) / 2) <= 1


def test_an_unreadable_picture_is_left_out(pictures):
    (pictures / "train/dark/broken.png").write_bytes(b"no picture")
    assert len(calibration_batches(open_data(pictures), Preprocessing(8, 8))) == 24
