"""Whole numbers as people have them: also NumPy's and PyTorch's."""

import numpy as np
import pytest
import torch

from senet.errors import InputError, whole_number


@pytest.mark.parametrize("given", [4, np.int64(4), np.array(4, np.uint8), torch.tensor(4)])
def test_a_whole_number_of_any_library_is_an_int(given):
    found = whole_number("seeds", given)
    assert found == 4
    assert type(found) is int


@pytest.mark.parametrize("given", [True, np.True_, 4.0, "4", None, 0, -1, torch.tensor([4, 4]), np.float32(4)])
def test_what_is_none_is_refused_by_name(given):
    with pytest.raises(InputError, match=r"^seeds is a whole number of at least 1, not "):
        whole_number("seeds", given)
