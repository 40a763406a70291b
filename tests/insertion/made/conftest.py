import pytest

from tests.insertion.networks import randomise, small_resnet


@pytest.fixture
def plain():
    return randomise(small_resnet()).eval()
