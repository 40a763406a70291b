import pytest

from senet.saving import create
from tests.saving.test_saving import trained


@pytest.fixture(scope="module")
def se_resnet20():
    return trained(create("se_resnet20", num_classes=3))
