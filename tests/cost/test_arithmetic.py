"""Multiply-adds of what PyTorch's own counter takes for none, by hand; quantised layers are refused."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from senet import cost
from senet.errors import InputError


class Doing(nn.Module):
    def __init__(self, what) -> None:
        super().__init__()
        self.what = what
        self.weight = nn.Parameter(torch.randn(10, 64))

    def forward(self, x):
        return self.what(x, self.weight)


@pytest.mark.parametrize(
    ("what", "multiply_adds"),
    [
        (lambda x, w: torch.addmv(torch.zeros(10), w, x[0]), 10 * 64),
        (lambda x, w: torch.addbmm(torch.zeros(3, 5), x.new_ones(4, 3, 7), x.new_ones(4, 7, 5)), 4 * 3 * 7 * 5),
        (lambda x, w: torch.dot(x[0], x[1]), 64),
        (lambda x, w: torch.cdist(x, w), 3 * 10 * 64),
        (lambda x, w: nn.functional.bilinear(x, x, w.new_ones(5, 64, 64)), 3 * 5 * 64 * 64),
    ],
    ids=["addmv", "addbmm", "dot", "cdist", "bilinear"],
)
def test_products_of_vectors_and_sums_of_products_are_counted(what, multiply_adds):
    assert cost(Doing(what), torch.randn(3, 64)).multiply_adds == multiply_adds


def test_a_quantised_network_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(10, 20)), {nn.Linear})
    with pytest.raises(InputError, match=r"0 is quantised, and its weights .* before it is quantised"):
        cost(network, torch.randn(3, 10))
