"""The cost of a network: parameters, multiply-adds, kept activations, latency."""

from senet.cost.cost import BlockCost, Cost, cost

__all__ = ["BlockCost", "Cost", "cost"]
