"""The role of the excitation: explain what the gates do, and prune blocks that do nothing."""

from senet.study.explanation.explain import explain
from senet.study.explanation.explanation import Explanation
from senet.study.explanation.pruning import Pruned, prune

__all__ = ["Explanation", "Pruned", "explain", "prune"]
