"""Run an .onnx file in a process of its own, because ONNX Runtime may end the process on sizes that a network refuses.

Inception v3 on 96 × 96 pixels is such a case: a pool of no positions divides by zero (SIGFPE).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from senet.errors import ExportError

__all__ = ["Apart", "EngineCrashError"]

# The child imports nothing of ours: it starts in tenths of a second.
_CHILD = """
import json, sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
options.log_severity_level = 4
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
names = [given.name for given in session.get_inputs()]
for line in sys.stdin:
    given, found = json.loads(line)
    with numpy.load(given, allow_pickle=False) as arrays:
        inputs = {name: arrays[f"arr_{index}"] for index, name in enumerate(names)}
    try:
        outputs = session.run(None, inputs)
    except Exception:
        print("refused", flush=True)
    else:
        numpy.savez(found, *outputs)
        print("ran", flush=True)
"""


class EngineCrashError(ExportError):
    """An engine ended its process."""


class Apart:
    """An .onnx file in a child process, which starts at the first call and again after each end.

    Args:
        path: the file.
        threads: the threads per layer.
    """

    def __init__(self, path: str, threads: int) -> None:
        self._command = [sys.executable, "-c", _CHILD, path, str(threads)]
        self._child: subprocess.Popen[str] | None = None

    def infer(self, arrays: Sequence[Any]) -> list[Any]:
        """The output arrays.

        Raises:
            EngineCrashError: the engine ends its process.
            ExportError: the engine refuses these inputs.
        """
        import numpy

        with tempfile.TemporaryDirectory() as folder:
            given, found = Path(folder) / "given.npz", Path(folder) / "found.npz"
            numpy.savez(given, *arrays)
            answer = self._ask(json.dumps([str(given), str(found)]))
            if not answer:
                raise EngineCrashError("ONNX Runtime ends its process on these sizes")
            if answer != "ran":
                raise ExportError("ONNX Runtime refuses these sizes")
            with numpy.load(found, allow_pickle=False) as outputs:
                return [outputs[f"arr_{index}"] for index in range(len(outputs.files))]

    def _ask(self, line: str) -> str:
        """The child's answer; "" if it has ended."""
        if self._child is None:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # Ctrl-C is for us; without us its standard input ends, and it too
            )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            print(line, file=self._child.stdin, flush=True)
            answer = self._child.stdout.readline().strip()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.close()
        return answer

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None
