"""The verbs that take a network to where it is used: export, bench."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet import flags
from senet.console import display
from senet.errors import InputError
from senet.files.atomic import check_writable
from senet.verbs.network import Network

if TYPE_CHECKING:
    from torch import nn

    from senet.data.sources import DataSource
    from senet.study import Evaluation, Preprocessing

__all__ = ["Pictures", "bench", "export"]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The flags that say how a picture becomes the network's input."""

    resize: int | None = None
    crop: float | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    interpolation: str | None = None
    channels: str | None = None


def export(
    network: Network,
    out: str,
    pictures: Pictures | None = None,
    classes: str | None = None,
    class_offset: int = 0,
    dynamic_size: bool = False,
    int8: bool = False,
) -> None:
    """Write a network to a file that ONNX Runtime (.onnx), OpenVINO (.xml) or PyTorch (.pt2) runs.

    It takes any batch. It is written in its inference form, with the names of its classes and the
    preprocessing that it was trained with where these are known, and compared with PyTorch. With --int8
    (OpenVINO) it is calibrated on 300 pictures of --data, and measured on others before and after.

    Examples:
      senet export --model runs/se-0 --out se.onnx
      senet export --model torchvision:resnet50 --weights pretrained --dynamic-size --out resnet50.xml
      senet export --model runs/se-0 --int8 --data photos --out se.xml
    """
    from senet.export import export as exporting

    exporting.format_of(out).needed()  # before anything that takes time
    if int8 and network.data is None:
        raise flags.UsageError("senet export --int8 needs --data: a folder of pictures to calibrate on and to measure")
    if not int8 and class_offset:
        raise flags.UsageError("senet export takes --class-offset with --int8 alone, for the classes of --data")
    if int8 and Path(out).suffix != ".xml":
        raise flags.UsageError(f"senet export --int8 writes for OpenVINO: give --out {Path(out).with_suffix('.xml')}")
    check_writable(out)
    source = _opened(network, classes, class_offset) if int8 else None
    metadata, preprocessing = _known(network, pictures, classes, source)
    if network.size is None and preprocessing is not None:
        network = dataclasses.replace(network, size=preprocessing.size)
    model, example = network.make()
    model.eval()
    if preprocessing is not None:
        metadata["preprocessing"] = preprocessing.to_json()
    if source is None or preprocessing is None:
        found = exporting.export(model, example, out, dynamic_size=dynamic_size, metadata=metadata)
        display.show(str(found))
        return
    from senet.data.calibration import calibration_batches
    from senet.export.runtimes import OpenVino

    before = _measured(model, source, network, preprocessing, classes)
    batches = calibration_batches(source, preprocessing)
    found = exporting.export(model, example, out, dynamic_size=dynamic_size, metadata=metadata, calibration=batches)
    after = _measured(OpenVino(out), source, network, preprocessing, classes)
    calibrated = f"Calibrated on {len(batches)} pictures of {source.name}."
    display.show(str(found), calibrated, _change(before, after, len(batches) if source.train is None else 0))


def bench(
    model: str,
    out: str,
    size: int | None = None,
    batch_size: int | None = None,
    engines: list[str] | None = None,
    quick: bool = False,
    resume: bool = True,
) -> None:
    """Measure what SE costs here: the network without SE, with a peer's and with ours, in turn, engine by engine.

    The peer is timm's network, where timm has the same, else the block as the equations stand. In inference ours
    is what export writes. Beside the table, a figure and JSON are written. Called again with the same
    folder after an interruption, it goes on where it was.

    Examples:
      senet bench --model resnet50_v1_5 --out runs/bench
      senet bench --model se_resnet20 --engines eager onnxruntime --quick --out runs/quick
    """
    from senet.bench import bench as measure

    plain, example = Network(model=with_se(model), size=size).make()
    result = measure(
        plain, example, out, name=model, engines=engines, batch_size=batch_size, quick=quick, resume=resume
    )
    display.show(*result.parts(), f"Written: {out} (table.txt, table.md, figure.svg, figure.png, bench.json)")


def with_se(model: str) -> str:
    """The zoo's name of a network with SE as the authors have it, where it has one; else the name as it is."""
    from senet.zoo import list_models

    return f"se_{model}" if f"se_{model}" in list_models() else model


def _known(
    network: Network, pictures: Pictures | None, classes: str | None, source: DataSource | None
) -> tuple[dict[str, Any], Preprocessing | None]:
    """What is known of a network beside its weights: the names of its classes, and how pictures become its input."""
    from senet.evaluation.evaluate import asked_preprocessing, trained_classes
    from senet.evaluation.networks import NetworkSpec, known_preprocessing

    arm = NetworkSpec(network.model, network.weights)
    names = trained_classes(arm) if classes is None else _names(classes)
    known = known_preprocessing(arm)
    if not (known is None and pictures is None and source is None):
        asked = dataclasses.asdict(pictures or Pictures())
        known = asked_preprocessing(known, source, size=network.size, **asked)
    return {"classes": names} if names else {}, known


def _names(file: str) -> list[str]:
    """The names of a classes file that lists them in order; a mapping is for looking folders up alone."""
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"the classes file {file} is not JSON: {error}") from error
    return found if isinstance(found, list) and all(isinstance(name, str) for name in found) else []


def _opened(network: Network, classes: str | None, class_offset: int) -> DataSource:
    from senet.data.sources import open_data

    return open_data(str(network.data), classes=classes, class_offset=class_offset, data_root=network.data_root)


def _measured(
    model: nn.Module, source: DataSource, network: Network, preprocessing: Preprocessing, classes: str | None
) -> Evaluation:
    """The accuracy of a network, or of the file that it became, on the pictures of the data that are held out."""
    from senet.study import evaluate
    from senet.zoo.names.naming import is_saved

    saved = next((name for name in (network.weights, network.model) if name and is_saved(name)), None)
    values = preprocessing.to_json()
    return evaluate(model, source, weights=saved, classes=classes, devices="cpu", **values)


def _change(before: Evaluation, after: Evaluation, among: int) -> str:
    """What INT8 did to the accuracy, on pictures `among` which are those that it was calibrated on."""
    points = 100 * (after.top1 - before.top1)
    sign = "+" if points > 0 else "−" if points < 0 else "±"
    if among:
        pictures = f"{before.count} pictures (split {before.split}), {among} of them those that it was calibrated on"
    else:
        pictures = f"{before.count} other pictures (split {before.split})"
    return (
        f"Top-1 accuracy on {pictures}: {before.top1:.2%} before (float32, PyTorch), {after.top1:.2%} after (INT8, "
        f"OpenVINO): {sign}{abs(points):.2f} points."
    )
