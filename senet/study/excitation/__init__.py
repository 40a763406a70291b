"""The role of the excitation: explain what the gates do, and prune those that do nothing."""

from senet.study.excitation.explain import explain
from senet.study.excitation.explanation import Explanation
from senet.study.excitation.pruning import Pruned, prune
from senet.study.excitation.subject import Looking

__all__ = ["Explanation", "Looking", "Pruned", "explain", "prune"]
