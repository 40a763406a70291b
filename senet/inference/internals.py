"""Private names of torch on which `optimize` and `export` depend.

They show which shape tests a capture passed. A torch without one of them must not lead to wrong
results: the graph is then only for the example's shapes, and its note says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import fx

__all__ = ["Guard", "drop_guards", "guards_of", "quiet_solver", "returns_one_tensor", "sizes_of_one"]


@dataclasses.dataclass(frozen=True, slots=True)
class Guard:
    """A condition on sizes under which a graph was captured.

    Attributes:
        code: Python code over the names of symbols.
        own: whether the network's code, or ours, tested it, rather than an operation of PyTorch.
    """

    code: str
    own: bool


@contextlib.contextmanager
def sizes_of_one() -> Iterator[bool]:
    """A context in which `torch.export` does not specialise size 1, so that a test for 1 is a guard; yields success."""
    try:
        from torch.fx.experimental import _config

        patch = _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    except (ImportError, AttributeError):
        yield False
        return
    with patch:
        yield True


def guards_of(program: torch.export.ExportedProgram) -> tuple[list[Guard], Mapping[str, str]] | None:
    """The guards of a capture, and each symbol's source, `L['x'].size()[0]`; None if torch does not expose them."""
    try:
        from torch.utils._sympy.printers import PythonPrinter

        environment = _shape_environment(program)
        if environment is None:
            return [], {}
        sources = {
            str(symbol): found[0].name() if callable(found[0].name) else found[0].name
            for symbol, found in environment.var_to_sources.items()
        }
        return [
            Guard(PythonPrinter().doprint(guard.expr), _is_own(guard.sloc)) for guard in environment.guards
        ], sources
    except (ImportError, AttributeError):
        return None


def drop_guards(program: torch.export.ExportedProgram, codes: Collection[str]) -> None:
    """Remove guards, given as `codes` from `guards_of`, from the checks of a saved program."""
    told, kept = guards_of(program), getattr(program, "_guards_code", None)
    if told is None or kept is None or len(kept) != len(told[0]):
        return
    program._guards_code = [words for words, guard in zip(kept, told[0], strict=True) if guard.code not in codes]


def _shape_environment(program: torch.export.ExportedProgram) -> Any:
    for node in program.graph.nodes:
        for side in getattr(node.meta.get("val"), "shape", ()):
            if isinstance(side, torch.SymInt):
                return side.node.shape_env
    return None


def _is_own(place: Any) -> bool:
    """Whether a guard arose outside torch's files; True if unknown."""
    name = getattr(getattr(place, "framework_loc", None), "filename", None)
    return not (isinstance(name, str) and name.startswith(os.path.dirname(torch.__file__) + os.sep))  # noqa: PTH120


@contextlib.contextmanager
def quiet_solver() -> Iterator[None]:
    """A context that silences torch's long messages on equations between sizes that it cannot solve."""
    solver = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    disabled, solver.disabled = solver.disabled, True
    try:
        yield
    finally:
        solver.disabled = disabled


def returns_one_tensor(graph: fx.Graph) -> bool:
    """Whether a captured graph returns a single bare value; False if torch does not expose it."""
    info = getattr(getattr(graph, "_codegen", None), "pytree_info", None)
    spec = getattr(info, "out_spec", None)
    return spec is not None and bool(spec.is_leaf())
