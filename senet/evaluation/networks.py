"""The network of one run: made by name, the same plain weights for a seed whether SE is then inserted or not."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from senet.data.transforms import Preprocessing, timm_preprocessing
from senet.errors import InputTypeError, WeightsError
from senet.files.run_folder import MODEL
from senet.insertion import insert, inserted
from senet.saving import create
from senet.zoo.names.naming import is_saved
from senet.zoo.weights.reading import read_preprocessing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from senet.block import SESpec
    from senet.insertion import Site, Where

__all__ = ["BuiltNetwork", "NetworkSpec", "known_preprocessing", "make"]


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """Which network, and with which SE.

    Attributes:
        model: its name.
        weights: that it starts from; None for its own initialisation. A run folder stands for its network.
        spec: the SE to insert; None for the network as it is.
        where: at which of its sites.
    """

    model: str
    weights: str | None = None
    spec: SESpec | None = None
    where: Where = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, str):
            raise InputTypeError(
                f"a study takes a network's name, not a {type(self.model).__name__}: runs are made anew for each "
                "seed; a network of your own is named path/to/file.py:function"
            )
        if self.weights is not None and (path := Path(self.weights) / MODEL).is_file():
            object.__setattr__(self, "weights", str(path))

    @property
    def pretrained(self) -> bool:
        """Whether the network starts from weights, or is a saved one."""
        return self.weights is not None or is_saved(self.model)

    def with_start(self, start: str | None) -> NetworkSpec:
        """The same, its SE's start decided: as asked, else identity from weights and the paper's from scratch.

        Raises:
            ValueError: on another start, and on an identity start with a gate that has none.
        """
        if self.spec is None:
            return self
        usual = "identity" if self.pretrained else "paper"
        return dataclasses.replace(self, spec=dataclasses.replace(self.spec, start=start or self.spec.start or usual))


@dataclasses.dataclass(frozen=True)
class BuiltNetwork:
    """A network that was made.

    Attributes:
        network: in training mode, on the CPU.
        sites: where SE was inserted.
        notes: what is worth saying of it, such as a classifier that starts fresh.
    """

    network: nn.Module
    sites: tuple[Site, ...]
    notes: tuple[str, ...]


def make(arm: NetworkSpec, *, num_classes: int, size: int, seed: int) -> BuiltNetwork:
    """Make the network of an arm; its random numbers are those of `seed`, and the caller's are left alone.

    Raises:
        ModelError, WeightsError, InsertionError: (all ValueErrors) where it cannot be made as asked.
    """
    with torch.random.fork_rng(devices=[]), heard() as notes:
        torch.default_generator.manual_seed(seed)
        network = create(arm.model, num_classes=num_classes, weights=arm.weights)
        if arm.spec is not None:
            network = insert(network, example_of(size), arm.spec, where=arm.where, inplace=True)
    found = tuple(site for site, _ in inserted(network).values())
    return BuiltNetwork(network.train(), found, tuple(notes))


def example_of(size: int) -> torch.Tensor:
    """One image of noise, (1, 3, size, size): an example for `insert` and `cost`, always the same."""
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))


def known_preprocessing(arm: NetworkSpec) -> Preprocessing | None:
    """What the weights that a network starts from were trained with, where their file or timm says."""
    for name in (arm.weights, arm.model):
        if name is not None and is_saved(name) and (metadata := metadata_of(name)).get("preprocessing"):
            return Preprocessing.from_json(metadata["preprocessing"])
    if arm.weights is not None and Path(arm.weights).is_file() and (found := read_preprocessing(arm.weights)):
        return Preprocessing.from_json(found)  # of a .caffemodel
    if arm.pretrained and arm.model.startswith("timm:"):
        import timm

        configuration = timm.get_pretrained_cfg(arm.model.removeprefix("timm:"))
        return timm_preprocessing(dataclasses.asdict(configuration)) if configuration else None
    return None


def metadata_of(name: str) -> dict[str, Any]:
    """What a run wrote beside the tensors of a saved network; nothing for a file of tensors alone."""
    from senet.saving.saving import read_metadata

    try:
        metadata: dict[str, Any] = read_metadata(name)["metadata"]
    except WeightsError:
        return {}
    return metadata


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """Within it what goes to the log "senet" is collected, and goes nowhere else: the study says it once."""
    logger, listener = logging.getLogger("senet"), _Listener()
    before = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.level, logger.propagate = [listener], logging.INFO, False
    try:
        yield listener.lines
    finally:
        logger.handlers, logger.level, logger.propagate = before
