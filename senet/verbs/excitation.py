"""The verbs on the gates of a trained network: explain, prune."""

from __future__ import annotations

import contextlib
from typing import Unpack

from senet.console import display
from senet.evaluation.options import MeasureOptions
from senet.verbs.place import Place, is_pruned

__all__ = ["explain", "prune"]


def explain(model: str, data: str, out: str, tolerance: float = 0.001, **options: Unpack[MeasureOptions]) -> None:
    """Show what the gates of a network's SE blocks do on labelled images, and which blocks can go.

    For every block it measures the gates by class, their spread and class-specificity, and the
    accuracy with the gates held at their mean, with another image's gates, and with the block
    removed. The folder gets report.html.

    Examples:
      senet explain --model runs/digits/se-0 --data digits --out runs/digits/explained
      senet explain --model torchvision:mobilenet_v3_small --weights my.pth --data photos --out role
    """
    from senet.study import explain as look_into

    result = look_into(model, data, out=out, tolerance=tolerance, **options)
    display.show(*result.parts(), f"Report: {out}/report.html")


def prune(
    model: str,
    data: str,
    *,
    blocks: list[str] | None = None,
    advice: bool = False,
    explanation: str | None = None,
    tolerance: float = 0.001,
    out: str | None = None,
    force: bool = False,
    **options: Unpack[MeasureOptions],
) -> None:
    """Replace SE blocks' gates by constants folded into the weights, and measure the accuracy afterwards.

    Examples:
      senet prune --model runs/digits/se-0 --data digits --advice --out pruned.safetensors
      senet prune --model runs/photos/se-0 --data photos --blocks 'layer4*' --out pruned.safetensors
    """
    from senet.study import prune as cut

    how = {"blocks": blocks, "advice": advice, "explanation": explanation, "tolerance": tolerance, "out": out}
    with contextlib.nullcontext() if out is None else Place(out, force=force, ours=is_pruned).made():
        display.show(str(cut(model, data, **how, **options)))  # type: ignore[arg-type]
