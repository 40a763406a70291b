"""The paper's ablation results on ImageNet with SE-ResNet-50 (tables 10 to 16), as printed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from senet.paper import figures as paper

__all__ = ["PLAIN", "Published", "published"]


@dataclasses.dataclass(frozen=True)
class Published:
    """A row of the paper.

    Attributes:
        top1: top-1 error on ImageNet's validation images, one 224² centre crop, in %.
        top5: top-5 error, likewise.
    """

    top1: float
    top5: float


PLAIN = Published(23.30, 6.55)
"""ResNet-50 without SE, as the ablations trained it."""

_STANDARD = Published(22.28, 6.03)
_STAGES = {row.value: Published(*row.error) for row in paper.STAGES}
_INNER, _UNSQUEEZED = (Published(*row.error) for row in paper.VARIANTS)
_BY_VALUE: Mapping[tuple[str, object], Published] = {
    **{("reduction_ratio", row.value): Published(*row.error) for row in paper.REDUCTIONS},
    ("squeeze", "avg"): _STANDARD,
    ("squeeze", "max"): Published(22.57, 6.09),
    ("squeeze", "none"): _UNSQUEEZED,
    ("gate", "sigmoid"): _STANDARD,
    ("gate", "relu"): Published(23.47, 6.98),
    ("gate", "tanh"): Published(23.00, 6.38),
    ("placement", "standard"): _STANDARD,
    ("placement", "pre"): Published(22.23, 6.00),
    ("placement", "post"): Published(22.78, 6.35),
    ("placement", "identity"): Published(22.20, 6.15),
    ("placement", "inner"): _INNER,
    **{("stages", (stage,)): row for stage, row in _STAGES.items()},
    ("stages", None): _STANDARD,
}


def published(axis: str, value: object) -> Published | None:
    """The paper's row for one value of one axis with standard options otherwise; None if it has none."""
    return _BY_VALUE.get((axis, value))
