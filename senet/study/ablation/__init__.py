"""The paper's ablations on any network and images."""

from senet.study.ablation.ablate import ablate
from senet.study.ablation.ablation import Ablation

__all__ = ["Ablation", "ablate"]
