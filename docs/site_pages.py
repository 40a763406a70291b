"""Parts of pages that are written from the code itself, so that they cannot say anything else.

Lines of a page, and what becomes of them:

- `<!-- verbs -->`: every verb's own `--help`;
- `<!-- recipes -->`: the recipes, and what each knob takes;
- `<!-- names: MODULE NAME ... -->`: the API of these names; with `...` for the names, that of all public ones that no
  such line of the page names;
- `<!-- pages: PATTERN -->`: the pages of this folder that match it; `<!-- pages -->`: those that no list has.
"""

import argparse
import contextlib
import dataclasses
import importlib
import inspect
import io
import re
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

HERE = Path(__file__).resolve().parent
PUBLIC = ("senet", "senet.study")
_NAMES = re.compile(r"^<!-- names: (\S+) (.*?) -->$", re.MULTILINE)


def written(text: str) -> str:
    """A page's text with these lines replaced."""
    named: dict[str, set[str]] = {}
    for module, names in _NAMES.findall(text):
        named.setdefault(module, set()).update(names.split())

    def api(found: re.Match[str]) -> str:
        module, names = found.groups()
        public = importlib.import_module(module).__all__
        wanted = [name for name in public if name not in named[module]] if names == "..." else names.split()
        return "\n".join(["```{eval-rst}", *(line for name in wanted for line in _directive(module, name)), "```"])

    text = _NAMES.sub(api, text)
    for line, make in {"verbs": verbs, "recipes": recipes}.items():
        if f"<!-- {line} -->" in text:
            text = text.replace(f"<!-- {line} -->", make())
    text = re.sub(r"<!-- pages: (\S+) -->", lambda found: "\n".join(_pages(found[1])), text)
    return text.replace("<!-- pages -->", "\n".join(_left(text)))


def _directive(module: str, name: str) -> Iterator[str]:
    value = getattr(importlib.import_module(module), name)
    if inspect.isclass(value):
        members = [] if issubclass(value, Exception) else [*_members(value)]
        yield f".. autoclass:: {module}.{name}"
        yield from [f"   :members: {', '.join(members)}"] * bool(members)
        yield from ["   :show-inheritance:"] * issubclass(value, Exception)
    elif callable(value):
        yield f".. autofunction:: {module}.{name}"
    else:
        yield from (f".. py:data:: {module}.{name}", "", "   The version of this package.")
    yield ""


def _members(value: type) -> Iterator[str]:
    """The methods and properties of a class itself; fields are in its docstring, nn.Module's are PyTorch's."""
    for name, member in vars(value).items():
        if not name.startswith("_") and (inspect.isroutine(member) or isinstance(member, property | classmethod)):
            yield name


def _left(text: str) -> list[str]:
    """The pages beside the index that no list of it names."""
    listed = {"index", *re.findall(r"^[\w./-]+$", text, re.MULTILINE)}
    return [page for page in _pages("*") if page not in listed]


def _pages(pattern: str) -> list[str]:
    return sorted(str(page.relative_to(HERE).with_suffix("")) for page in HERE.glob(f"{pattern}.md"))


def verbs() -> str:
    """Every verb with its help, as the command prints it."""
    from senet import cli

    parts = ["```text", _help(["--help"]), "```"]
    for verb in cli.VERBS:
        parts += ["", f"## senet {verb}", "", "```text", _help([verb, "--help"]), "```"]
    return "\n".join(parts)


def _help(words: list[str]) -> str:
    from senet import cli

    printed = io.StringIO()
    with (
        mock.patch.dict("os.environ", COLUMNS="92"),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit, argparse.ArgumentError),
    ):
        cli.main(words)
    return printed.getvalue().rstrip()


def recipes() -> str:
    """A table of the knobs, and each recipe that comes with senet as its file is."""
    from senet.recipe.file import _shipped
    from senet.recipe.recipe import Recipe
    from senet.study import recipes as shipped

    rows = ["| knob | it takes | where a recipe does not say |", "|---|---|---|"]
    for field in dataclasses.fields(Recipe):
        takes = " and ".join(allowed.words for allowed in field.metadata["allowed"])
        missing = field.default is dataclasses.MISSING
        default = "it must" if missing else f"`{'none' if field.default is None else _yaml(field.default)}`"
        rows.append(f"| `{field.name}` | {takes} | {default} |".replace("<", "&lt;"))
    parts = ["\n".join(rows)]
    for name in shipped():
        text = _shipped()[name].read_text(encoding="utf-8")
        parts.append(f"### {name}\n\n```yaml\n{text.rstrip()}\n```")
    return "\n\n".join(parts)


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(list(value)) if isinstance(value, tuple) else str(value)


def undocumented() -> list[str]:
    """Public names without a docstring."""
    return [
        f"{module}.{name}"
        for module in PUBLIC
        for name in importlib.import_module(module).__all__
        if name != "__version__" and not inspect.getdoc(getattr(importlib.import_module(module), name))
    ]


def setup(app):
    """Tell Sphinx: pages are completed when they are read, and public names are looked for at the end."""
    from sphinx.util import logging

    log = logging.getLogger(__name__)

    def complete(_app, _page, source):
        source[0] = written(source[0])

    def escape(_app, _what, _name, _value, _options, lines):  # (N, C, *space) is no emphasis
        lines[:] = [re.sub(r"(?<![\w*`\\])\*(?=\w)", r"\*", line) for line in lines]

    def check(_app, env):
        shown = {name for name, _, kind, *_ in env.get_domain("py").get_objects() if kind != "module"}
        wanted = {f"{module}.{name}" for module in PUBLIC for name in importlib.import_module(module).__all__}
        for name in sorted(wanted - shown):
            log.warning("the public name %s is on no page", name)
        for name in undocumented():
            log.warning("the public name %s has no docstring", name)

    def level(_app, _page, _template, context, _doctree):  # a heading for screen readers has a level
        for part in {"body", "furo_navigation_tree"} & context.keys():
            context[part] = context[part].replace('role="heading">', 'role="heading" aria-level="2">')

    app.connect("html-page-context", level, priority=900)  # after the theme
    app.connect("source-read", complete)
    app.connect("autodoc-process-docstring", escape)
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True}
