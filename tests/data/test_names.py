"""Names of data sets, and options that are for others."""

import pytest

from senet.data.sources import open_data
from senet.errors import DataError


def test_a_data_set_of_torchvision_is_suggested_with_its_library():
    with pytest.raises(DataError, match="did you mean torchvision:CIFAR10"):
        open_data("CIFAR10")


def test_a_root_of_torchvisions_data_is_refused_for_others(tmp_path):
    with pytest.raises(DataError, match="data_root"):
        open_data("digits", data_root=tmp_path)
