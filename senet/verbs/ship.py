"""The verbs for deployment: export, bench, push, advise."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from torch import Tensor, nn

from senet import flags
from senet.console import display
from senet.console.progress import alive
from senet.console.streams import tell
from senet.errors import InputError
from senet.evaluation.options import PictureOptions
from senet.files.classes import class_pairs
from senet.files.paths import expanded
from senet.verbs.network import Network
from senet.verbs.place import Place, is_exported

if TYPE_CHECKING:
    from senet.study import Evaluation

__all__ = ["advise", "bench", "export", "push"]


def export(
    network: Network,
    out: str,
    classes: str | None = None,
    class_offset: int = 0,
    dynamic_size: bool = False,
    int8: bool = False,
    force: bool = False,
    **pictures: Unpack[PictureOptions],
) -> None:
    """Write a network to a file for ONNX Runtime (.onnx), OpenVINO (.xml) or PyTorch (.pt2).

    The file takes any batch size. It holds the network's inference form with its class names and
    preprocessing, if known, and its output is compared with PyTorch's. With --int8 (OpenVINO) it is
    calibrated on up to 300 images of --data, and measured on others before and after.

    Examples:
      senet export --model runs/se-0 --out se.onnx
      senet export --model torchvision:resnet50 --weights pretrained --dynamic-size --out resnet50.xml
      senet export --model runs/se-0 --int8 --data photos --out se.xml
    """
    from senet.export import export as exporting

    exporting.format_of(out).needed()  # before any long work
    if int8 and network.data is None:
        raise flags.UsageError("senet export --int8 needs --data: a folder of pictures to calibrate on and to measure")
    if not int8 and class_offset:
        raise flags.UsageError("senet export takes --class-offset with --int8 alone, for the classes of --data")
    if int8 and network.in_channels is not None:
        raise flags.UsageError("senet export --int8 takes the input channels of the network: leave --in-channels out")
    if int8 and Path(out).suffix != ".xml":
        raise flags.UsageError(f"senet export --int8 writes for OpenVINO: give --out {Path(out).with_suffix('.xml')}")
    names = [] if classes is None else _names(classes)
    if class_offset and names:
        raise flags.UsageError(
            "senet export writes the names of --classes from output 0 on: name each output there, the background "
            "class too, and leave --class-offset out"
        )
    if classes is not None and not names and not int8:
        raise InputError(f"the classes file {classes} does not name every output from 0 on: list their names in order")
    place = Place(out, force=force, ours=is_exported, files=exporting.format_of(out).files)
    if int8:
        _export_int8(network, place, classes, class_offset, dynamic_size, pictures)
        return
    from senet.evaluation.networks import NetworkSpec
    from senet.evaluation.open import OpenedNetwork

    spec = NetworkSpec(network.model, network.weights, make=network.make)
    opened = OpenedNetwork(network.model, network.open().eval(), spec, ())
    metadata: dict[str, Any] = {}
    stated = opened.stated_preprocessing is not None
    if pictures or stated:
        source = None
        if network.data is not None:
            from senet.data.sources import open_data  # needs the extra 'study'

            source = open_data(network.data, data_root=network.data_root)
        preprocessing = opened.preprocessing({**pictures, "size": network.size}, source)
        metadata["preprocessing"] = preprocessing.to_json()
        network = dataclasses.replace(network, size=preprocessing.size)
    example = network.example(opened.network)
    if known := names or opened.known_classes(_scores(opened.network, example) if stated else 0):
        metadata["classes"] = known
    with alive() as say, place.made() as path:
        found = exporting.export(
            opened.network, example, path, dynamic_size=dynamic_size, metadata=metadata, progress=say
        )
    display.show(str(found))


def _export_int8(
    network: Network, place: Place, classes: str | None, class_offset: int, dynamic_size: bool, pictures: PictureOptions
) -> None:
    """Export in INT8, and measure the network before and the file after."""
    from senet.data.calibration import calibration_batches
    from senet.data.unreadable import listed
    from senet.evaluation.evaluate import measure
    from senet.evaluation.open import open_labelled
    from senet.evaluation.options import MeasureOptions
    from senet.export.export import export as write
    from senet.export.runtimes import OpenVino
    from senet.recipe.options import known_options

    asked = {name: getattr(network, name) for name in ("weights", "num_classes", "make", "size", "data_root")}
    options = {**pictures, **asked, "classes": classes, "class_offset": class_offset, "devices": "cpu"}
    labelled = open_labelled(network.model, str(network.data), known_options(options, MeasureOptions, "export"))
    opened, source, how = labelled.opened, labelled.source, labelled.preprocessing
    for note in (*opened.notes, *source.notes):
        tell(note)
    metadata: dict[str, Any] = {"preprocessing": how.to_json()}
    if names := opened.known_classes(labelled.classes) if classes is None else _names(classes):
        metadata["classes"] = names
    before = measure(labelled)
    batches = calibration_batches(source, how)
    with alive() as say, place.made() as path:
        found = write(
            opened.network.eval(),
            batches[0],
            path,
            dynamic_size=dynamic_size,
            metadata=metadata,
            calibration=batches,
            progress=say,
        )
    runtime = OpenVino(path)
    batch_size = fixed if isinstance(fixed := runtime.sides[0], int) else 64
    written = dataclasses.replace(labelled, opened=dataclasses.replace(opened, network=runtime))
    after = measure(written, batch_size=batch_size)
    calibrated = f"Calibrated on {len(batches)} pictures of {source.name}."
    change = _change(before, after, len(batches) if source.train is None else 0)
    display.show(str(found), calibrated, change, *listed(before.skipped, recorded=False))


def bench(
    model: str,
    out: str,
    weights: str | None = None,
    size: int | None = None,
    batch_size: int | None = None,
    engines: list[str] | None = None,
    quick: bool = False,
    resume: bool = True,
) -> None:
    """Measure the cost of SE here: the network without SE, with a peer's and with ours in turn, per engine.

    The peer is timm's network if timm has the same, else the unfused block. In inference ours is
    what export writes. A figure and JSON are written beside the table. Called again with the same
    folder after an interruption, it resumes.

    Examples:
      senet bench --model resnet50_v1_5 --out runs/bench
      senet bench --model se_resnet20 --engines eager onnxruntime --quick --out runs/quick
    """
    from senet.bench import bench as measure
    from senet.bench.measurement import what_to_install

    named = with_se(model) if weights is None else model  # weights are of the network that is named
    plain, example = Network(model=named, weights=weights, size=size).built()
    result = measure(
        plain, example, out, name=model, engines=engines, batch_size=batch_size, quick=quick, resume=resume
    )
    names = ("report.html", "figure.svg", "figure.png", "table.txt", "table.md", "bench.json")
    written = [name for name in names if (expanded(out) / name).is_file()]
    display.show(*result.parts(), f"Written: {out} ({', '.join(written)})", *what_to_install(result))


def push(
    run: str = "", repository: str = "", public: bool = False, revision: str | None = None, out: str | None = None
) -> None:
    """Push a run's network with a model card to the Hugging Face Hub; the repository is private unless --public.

    Paths of this machine and names of its images are not uploaded. With --out the files go to a
    folder for inspection, and nothing leaves the machine. Log in once with `hf auth login`, or set
    HF_TOKEN.

    Examples:
      senet push runs/photos/se-0 --out card
      senet push runs/photos/se-0 me/se-photos
    """
    from senet import hub

    if not run or not (repository or out):
        raise flags.UsageError("senet push needs a run's folder, and OWNER/NAME or --out; see senet push --help")
    if out is not None:
        written = hub.prepare(run, out, name=hub.name_of(repository or "owner/name", revision))
        display.show(f"Written: {written}. Nothing was sent.")
        return
    display.show(str(hub.push(run, repository, public=public, revision=revision)))


def advise(
    network: Network,
    engine: str = "eager",
    budget: float = 1.02,
    placements: list[str] | None = None,
    reduction_ratio: int = 16,
    batch_size: int = 1,
    ablation: str | None = None,
    out: str | None = None,
    quick: bool = False,
) -> None:
    """Find where SE fits into a latency budget, from its measured cost by stage and placement.

    The network runs in turn without SE and with SE at some of its sites. The proposal has the most
    sites that fit. It is built and measured as a whole, and the command that inserts it is printed.

    Examples:
      senet advise --model torchvision:resnet50 --engine onnxruntime --budget 1.02
      senet advise --model nets.py:build --engine openvino --budget 1.05 --batch-size 16 --out runs/advice
    """
    from senet.bench import advise as find

    if network.make not in (None, "se"):
        raise InputError(f"advise measures SE: leave --make {network.make} out")
    plain, example = network.built()
    result = find(
        plain,
        example,
        engine=engine,
        budget=budget,
        batch_size=batch_size,
        placements=placements or ("standard", "inner"),
        reduction_ratio=reduction_ratio,
        ablation=ablation,
        out=out,
        name=network.model,
        flags=network.flags(),
        quick=quick,
    )
    display.show(*result.parts(), *([f"Written: {out} (advice.json, table.txt)"] if out else []))


def with_se(model: str) -> str:
    """The zoo's name for the network with the authors' SE, if there is one, else the given name."""
    from senet.zoo import list_models

    return f"se_{model}" if f"se_{model}" in list_models() else model


def _scores(network: nn.Module, example: Tensor) -> int:
    """The number of a classifier's scores; 0 for a network that returns something else."""
    from senet.insertion import run, untouched

    with untouched(network):
        output = run(network, example)
    return output.shape[1] if isinstance(output, Tensor) and output.dim() == 2 else 0


def _names(file: str) -> list[str]:
    """The names of a classes file in the order of the outputs; none if it leaves outputs out, as for folders it may."""
    pairs = sorted(class_pairs(file), key=lambda pair: pair[1])
    return [name for name, _ in pairs] if [index for _, index in pairs] == [*range(len(pairs))] else []


def _change(before: Evaluation, after: Evaluation, among: int) -> str:
    """INT8's effect on the accuracy, over images of which `among` were used for calibration."""
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
