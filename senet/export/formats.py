"""The file formats of a graph: ONNX, OpenVINO's pair, and PyTorch's .pt2."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from senet.errors import ExportError
from senet.export.converting import File, quietly
from senet.export.description import FIRST
from senet.export.onnx_squeeze import branches, pool_squeezes
from senet.export.runtimes import OnnxRuntime, OpenVino, Runtime, openvino_core
from senet.extras import extra
from senet.inference.internals import drop_guards
from senet.running import as_call, untouched

if TYPE_CHECKING:
    from senet.export.tracing import Traced

__all__ = ["FORMATS", "Format", "openvino_model", "quantized", "read_openvino_model", "write_openvino_model"]

_PT2_KEY = "senet.json"
_aten = torch.ops.aten
_COPIES = (  # OpenVINO's converter confuses copies with their source
    _aten.alias.default,
    _aten.clone.default,
    _aten.contiguous.default,
    _aten.detach.default,
    _aten.detach_copy.default,
    _aten.dropout.default,
    _aten.lift_fresh_copy.default,
)
_ONNX_LIMIT = 2**31  # the largest size in bytes of one protocol buffer


@dataclasses.dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        name: its name.
        modules: the packages that write and run it; none for PyTorch's own.
        files: all paths for the user's path, which is the first.
        write: a function that writes the graph and its strings to those paths.
        run: a function that returns a runner of the files; its `metadata` has the strings.
        keeps_conditions: whether the loaded file checks conditions on sizes.
        keeps_buffers: whether the loaded file keeps the buffers that a call writes into.
        tensors_only: whether all outputs must be tensors.
    """

    name: str
    modules: tuple[str, ...]
    files: Callable[[Path], tuple[Path, ...]]
    write: Callable[[Traced, Mapping[str, str], Sequence[Path]], None]
    run: Callable[[Sequence[Path]], Runtime]
    keeps_conditions: bool = False
    keeps_buffers: bool = False
    tensors_only: bool = True

    def needed(self) -> None:
        """Import the packages that it needs.

        Raises:
            ImportError: one is not installed; the message has the command that installs it.
        """
        for module in self.modules:
            extra(module, "ship")


def _write_onnx(traced: Traced, texts: Mapping[str, str], paths: Sequence[Path]) -> None:
    with quietly():
        written = torch.onnx.export(traced.program, dynamo=True, verbose=False)
    assert written is not None  # for mypy: given a graph and no file, torch returns the program
    model = written.model_proto
    pool_squeezes(model.graph)
    _clean(model.graph, traced.symbols)
    _name_ports(model.graph, traced)
    for name, text in texts.items():
        model.metadata_props.add(key=f"{FIRST}.{name}", value=text)
    if model.ByteSize() >= _ONNX_LIMIT:
        raise ExportError("the network is larger than the 2 GiB that one ONNX file holds: write an .xml or .pt2 file")
    paths[0].write_bytes(model.SerializeToString())


def _clean(graph: Any, symbols: Mapping[str, str]) -> None:
    """Remove this machine's source paths from an ONNX graph, and name its symbols."""
    for entry in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del entry.metadata_props[:]
        entry.doc_string = ""
    del graph.metadata_props[:]
    for value in (*graph.input, *graph.output, *graph.value_info):
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param:
                side.dim_param = re.sub(r"\w+", lambda word: symbols.get(word[0], word[0]), side.dim_param)


def _name_ports(graph: Any, traced: Traced) -> None:
    """Name inputs and outputs; inner values with such names are renamed, since torch allows duplicates."""
    ports = [*graph.input, *graph.output]
    wanted = [*traced.inputs, *traced.outputs]
    inside = {name for node in graph.node for name in (*node.input, *node.output)}
    names = {name: f"{name}_inside" for name in inside if name in wanted}
    names |= {port.name: name for port, name in zip(ports, wanted, strict=True)}
    _rename(graph, names)


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for ends in (node.input, node.output):
            ends[:] = [names.get(name, name) for name in ends]
        for branch in branches(node):
            _rename(branch, names)
    for entry in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        entry.name = names.get(entry.name, entry.name)


def openvino_model(traced: Traced, texts: Mapping[str, str]) -> Any:
    """Convert a graph to an `openvino.Model` with the strings in its `rt_info` below "senet"."""
    openvino = extra("openvino", "ship")
    _tell_outputs_apart(traced.program)
    with quietly():
        model = openvino.convert_model(traced.program)
    for port in (*model.inputs, *model.outputs):
        port.get_tensor().set_names(set())
    for names, ports in ((traced.inputs, model.inputs), (traced.outputs, model.outputs)):
        for name, port in zip(names, ports, strict=True):
            port.get_tensor().add_names({name})  # a returned input has both names
    # The conversion leaves sides free that the graph holds for numbers, and the file would run where it is wrong.
    shapes = [
        openvino.PartialShape([side if isinstance(side, int) else -1 for side in sides])
        for _, sides in traced.shapes.inputs
    ]
    model.reshape(dict(zip(model.inputs, shapes, strict=True)))
    for name, text in texts.items():
        model.set_rt_info(text, [FIRST, name])
    return model


def _tell_outputs_apart(program: torch.export.ExportedProgram) -> None:
    """Give each output its own operation, because OpenVINO's converter rejects a tensor returned twice."""
    output = program.graph.output_node()
    nodes, seen = [*output.args[0]], set()
    for i, node in enumerate(nodes):
        if not isinstance(node, torch.fx.Node):
            continue
        root: Any = node
        while root.target in _COPIES:
            root = root.args[0]
        if root in seen:
            is_bool = node.meta["val"].dtype == torch.bool
            with program.graph.inserting_before(output):
                once = (_aten.bitwise_or.Tensor, (node, node)) if is_bool else (_aten.mul.Tensor, (node, 1))
                nodes[i] = program.graph.call_function(*once)
            nodes[i].meta["val"] = node.meta["val"]
            program.graph_signature.output_specs[i].arg.name = nodes[i].name
        seen.add(root)
    output.args = (tuple(nodes),)


def quantized(model: Any, calibration: Sequence[Tensor]) -> Any:
    """An `openvino.Model` with layers in INT8, using value ranges from the batches (NNCF)."""
    nncf = extra("nncf", "ship")
    batches = [batch.detach().contiguous().numpy() for batch in calibration]
    with quietly():
        return nncf.quantize(model, nncf.Dataset(batches), subset_size=len(batches))


def write_openvino_model(model: Any, paths: Sequence[Path]) -> None:
    """Write an `openvino.Model` to its two paths, with weights in full precision.

    Raises:
        OSError: the system refuses the write.
    """
    try:
        extra("openvino", "ship").serialize(model, str(paths[0]), str(paths[1]))
    except RuntimeError as error:  # OpenVINO reports only "iostream error"
        if "iostream" not in str(error):
            raise
        raise OSError(errno.EIO, "the system takes no more") from error


def read_openvino_model(paths: Sequence[Path]) -> Any:
    """Read the `openvino.Model` of an .xml and a .bin of any names."""
    return openvino_core().read_model(str(paths[0]), str(paths[1]))


def _write_pt2(traced: Traced, texts: Mapping[str, str], paths: Sequence[Path]) -> None:
    drop_guards(traced.program, traced.assumed.values())
    with quietly(), File(paths[0], "w") as file:
        torch.export.save(traced.program, file, extra_files={_PT2_KEY: json.dumps(dict(texts))})
        if file.failed is not None:
            raise file.failed


class _Pt2(Runtime):
    """A .pt2 file that was just written here; reading a foreign one may execute its content."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        found = {_PT2_KEY: ""}
        with quietly():
            self.network = torch.export.load(path, extra_files=found).module()
        self.metadata = json.loads(found[_PT2_KEY])

    def on(self, example: Any) -> Any:
        args, kwargs = as_call(example)
        with torch.no_grad(), untouched(self.network):
            return self.network(*args, **kwargs)


FORMATS: Mapping[str, Format] = {
    ".onnx": Format(
        name="ONNX",
        modules=("onnx", "onnxscript", "onnxruntime"),
        files=lambda path: (path,),
        write=_write_onnx,
        run=lambda paths: OnnxRuntime(paths[0]),
    ),
    ".xml": Format(
        name="OpenVINO",
        modules=("openvino",),
        files=lambda path: (path, path.with_suffix(".bin")),
        write=lambda traced, texts, paths: write_openvino_model(openvino_model(traced, texts), paths),
        run=lambda paths: OpenVino(read_openvino_model(paths)),
    ),
    ".pt2": Format(
        name="torch.export",
        modules=(),
        files=lambda path: (path,),
        write=_write_pt2,
        run=lambda paths: _Pt2(paths[0]),
        keeps_conditions=True,
        keeps_buffers=True,
        tensors_only=False,
    ),
}
"""The formats by suffix."""
