"""A name of a site may hold brackets, which are a class of characters in a pattern."""

import pytest

from senet.insertion.rules.site import matches


@pytest.mark.parametrize(
    ("name", "pattern", "same"),
    [
        ("a[0].conv", "a[0].conv", True),
        ("a0.conv", "a[0].conv", True),
        ("a[1]", "a[0]", False),
        ("layer1.0", "l*", True),
    ],
)
def test_a_name_is_taken_as_it_is_and_else_as_a_pattern(name, pattern, same):
    assert matches(name, pattern) is same
