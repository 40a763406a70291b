"""The structure of the package: arrows point one way, no circles, small rooms. CONTRIBUTING.md draws it."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "senet"
ROOMS = """
_version _moved words errors extras activations files console report block running fused insertion cost zoo saving
integrations inference export recipe data evaluation training paper study hub bench explore flagtexts flags verbs cli
__main__
""".split()
"""From the ground up: a room imports from those before it. `fast` is a public name for parts of two of them."""

MODULES = {
    ".".join(("senet", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): file
    for file in ROOT.rglob("*.py")
}


def _without_types(tree: ast.Module) -> ast.Module:
    """The code that runs: nothing under `if TYPE_CHECKING:`."""
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")
    ]
    return tree


def imports(module: str, *, types: bool) -> set[str]:
    """The modules of senet that a module imports, anywhere in its code; with or without imports for types alone."""
    found = set()
    tree = ast.parse(MODULES[module].read_text())
    for node in ast.walk(tree if types else _without_types(tree)):
        if isinstance(node, ast.ImportFrom) and node.module:
            named = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        else:
            continue
        for name in named:
            while name not in MODULES and "." in name:
                name = name.rpartition(".")[0]
            if name in MODULES and name != module:
                found.add(name)
    return found


ARROWS = {module: imports(module, types=True) for module in MODULES}
AT_RUN_TIME = {module: imports(module, types=False) for module in MODULES}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one node (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in list(graph):
        if node not in index:
            visit(node)
    return found


def test_the_scanner_sees_circles():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert "senet.block" in ARROWS["senet.insertion.joining.attach"]


def test_every_room_is_in_the_plan():
    assert {room(module) for module in MODULES} - {"", "fast"} <= set(ROOMS)


def test_arrows_point_one_way():
    wrong = [
        f"{module} imports {other}"
        for module, others in ARROWS.items()
        for other in others
        if room(module) in ROOMS
        and (not room(other) or (room(other) in ROOMS and ROOMS.index(room(other)) > ROOMS.index(room(module))))
    ]
    assert not wrong, "\n".join(sorted(wrong))


def test_no_circle_of_files():
    assert not circles(AT_RUN_TIME)


def test_no_circle_of_folders():
    """An `__init__` only passes names on, and a folder may use its own parts, and they its files."""
    graph: dict[str, set[str]] = defaultdict(set)
    for module, others in ARROWS.items():
        for other in others:
            one, two = MODULES[module], MODULES[other]
            apart = one.parent not in (two.parent, *two.parent.parents) and two.parent not in one.parent.parents
            if apart and "__init__.py" not in (one.name, two.name):
                graph[str(one.parent.relative_to(ROOT))].add(str(two.parent.relative_to(ROOT)))
    assert not circles(graph)


def folders() -> list[Path]:
    return [ROOT, *(path for path in ROOT.rglob("*") if path.is_dir() and path.name != "__pycache__")]


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: str(folder.relative_to(ROOT.parent)))
def test_a_folder_is_small_and_its_files_are_short(folder):
    files = [file for file in folder.iterdir() if file.is_file() and file.suffix != ".pyc"]
    assert len(files) <= 15
    long = {file.name: n for file in files if (n := len(file.read_bytes().splitlines())) > 400}
    assert not long
