"""The cases of a benchmark: what is measured, in which engine, at which batch size."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from senet.errors import InputError, whole_number
from senet.words import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["ENGINES", "INFERENCE", "KEPT", "LARGEST", "TRAINING", "Case", "Engine", "cases"]

INFERENCE, TRAINING, KEPT, LARGEST = "inference", "training step", "kept for backward", "largest batch"

SMALL = 64  # side in pixels of small images, which are measured in larger batches


@dataclasses.dataclass(frozen=True)
class Engine:
    """An engine that runs networks.

    Attributes:
        words: its name for readers.
        device: "cpu" or "cuda".
        modules: the packages that it needs.
        trains: whether it also runs training steps.
        usual: whether it is measured by default.
        folds: whether its converter folds normalisations itself.
        eager: whether it runs PyTorch's modules one by one, so that a network may also run as it was inserted.
        extra: the extra of senet that installs the packages.
    """

    words: str
    device: str = "cpu"
    modules: tuple[str, ...] = ()
    trains: bool = False
    usual: bool = True
    folds: bool = False
    eager: bool = False
    extra: str = "ship"


ENGINES: Mapping[str, Engine] = {
    "eager": Engine("PyTorch eager, NCHW", trains=True, eager=True),
    "channels-last": Engine("PyTorch eager, channels last", trains=True, eager=True),
    "bf16": Engine("PyTorch bf16, channels last", trains=True, eager=True),
    "compile": Engine("torch.compile", trains=True),
    "onnxruntime": Engine("ONNX Runtime", modules=("onnx", "onnxscript", "onnxruntime")),
    "openvino": Engine("OpenVINO f32", modules=("openvino",)),
    "openvino-bf16": Engine("OpenVINO bf16", modules=("openvino",)),
    "openvino-int8": Engine("OpenVINO INT8", modules=("openvino", "nncf"), usual=False),
    "executorch": Engine("ExecuTorch, XNNPACK", modules=("executorch",), usual=False, folds=True, extra="devices"),
    "litert": Engine("LiteRT", modules=("litert_torch", "ai_edge_litert"), usual=False, folds=True, extra="devices"),
    "ncnn": Engine("ncnn", modules=("ncnn", "pnnx"), usual=False, folds=True, extra="devices"),
    "cuda": Engine("CUDA bf16 eager, channels last", device="cuda", trains=True, eager=True),
    "cuda-compile": Engine("CUDA bf16 torch.compile", device="cuda", trains=True),
}
"""By the name that `--engines` takes. In inference torch.compile freezes the weights, and bf16 converts them; in
training bf16 is autocast's."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to measure; see `Row`."""

    what: str
    engine: str
    batch: int

    @property
    def key(self) -> tuple[str, str, int]:
        """Its key, as in `Row.key`."""
        return self.what, self.engine, self.batch

    @property
    def words(self) -> str:
        """Its description for readers."""
        batch = f", batch {self.batch}" if self.batch else ""
        return f"{self.what}, {ENGINES[self.engine].words}{batch}"


def cases(size: int, engines: str | Iterable[str] | None = None, batch_size: int | None = None) -> list[Case]:
    """The cases of a network on images of `size`: inference, training steps, and bytes kept for backward.

    Args:
        size: the images' side in pixels.
        engines: a name of `ENGINES` or several; None means the default ones.
        batch_size: the only batch size; None means 1 and 16 (128 for small images) for inference on
            the CPU, the larger one for training, and 256 on a GPU.

    Raises:
        ValueError: there is no such engine, and the message has the nearest; or the batch size is below 1.
    """
    if engines is not None:
        engines = [engines] if isinstance(engines, str) else list(engines)
    for name in engines or ():
        if name not in ENGINES:
            raise InputError(f"there is no engine {name!r}{did_you_mean(name, ENGINES)}")
    if batch_size is not None:
        batch_size = whole_number("batch_size", batch_size)
    chosen = [name for name, engine in ENGINES.items() if (engine.usual if engines is None else name in engines)]
    many = 128 if size <= SMALL else 16
    largest = {name: batch_size or (many if ENGINES[name].device == "cpu" else 256) for name in chosen}
    found = []
    for name in chosen:
        both = batch_size is None and ENGINES[name].device == "cpu"
        found += [Case(INFERENCE, name, batch) for batch in (*[1] * both, largest[name])]
    found += [Case(TRAINING, name, largest[name]) for name in chosen if ENGINES[name].trains]
    if "eager" in chosen:
        found.append(Case(KEPT, "eager", batch_size or many))
    if "cuda" in chosen:
        found.append(Case(LARGEST, "cuda", 0))
    return found
