"""The verbs that look into the gates of a trained network: explain, prune."""

from __future__ import annotations

import dataclasses

from senet.console import display

__all__ = ["Look", "explain", "prune"]


@dataclasses.dataclass(frozen=True)
class Look:
    """The flags that name a network with SE, and say how its images are seen."""

    model: str
    data: str
    data_root: str | None = None
    weights: str | None = None
    num_classes: int | None = None
    size: int | None = None
    resize: int | None = None
    crop: float | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    interpolation: str | None = None
    channels: str | None = None
    classes: str | None = None
    class_offset: int = 0
    split: str | None = None
    batch_size: int | None = None
    devices: str = "auto"
    workers: int | None = None


def explain(look: Look, out: str, tolerance: float = 0.001) -> None:
    """Show what the gates of a network's SE blocks do on labelled images, and what can go.

    For every block: its gates by class, their spread, how class-specific they are, and the accuracy with
    the gates held at their mean, taken from another image, and with the block removed. The folder gets
    report.html.

    Examples:
      senet explain --model runs/digits/se-0 --data digits --out runs/digits/explained
      senet explain --model torchvision:mobilenet_v3_small --weights my.pth --data photos --out role
    """
    from senet.study import explain as look_into

    result = look_into(out=out, tolerance=tolerance, **dataclasses.asdict(look))
    display.show(*result.parts(), f"Report: {out}/report.html")


def prune(
    look: Look,
    blocks: list[str] | None = None,
    advice: bool = False,
    explanation: str | None = None,
    tolerance: float = 0.001,
    out: str | None = None,
) -> None:
    """Put constants in place of SE blocks' gates, folded into the weights, and prove the accuracy after.

    Examples:
      senet prune --model runs/digits/se-0 --data digits --advice --out pruned.safetensors
      senet prune --model runs/photos/se-0 --data photos --blocks 'layer4*' --out pruned.safetensors
    """
    from senet.study import prune as cut

    result = cut(
        blocks=blocks,
        advice=advice,
        explanation=explanation,
        tolerance=tolerance,
        out=out,
        **dataclasses.asdict(look),
    )
    display.show(str(result))
