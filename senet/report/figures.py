"""The style of figures: SVG adapts to the page's light or dark theme, and PNG has a white background."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import re
import unicodedata
import warnings
from typing import TYPE_CHECKING, Any

from senet.files.atomic import atomic_write
from senet.words import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "GREY", "INK", "Series", "drawing", "forest", "inline_svg", "panel", "save_figure", "short"]

INK = "#000000"
"""The colour of axes, text and reference lines; a page replaces it by its text colour."""

GREY = "#7f7f7f"
"""The colour of secondary marks, readable on light and dark."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito's colour-blind palette, without the yellow and black that vanish on light or dark pages."""

_STYLE: Any = {
    "text.parse_math": False,  # a class may be called "$x$"
    "svg.fonttype": "none",  # text stays text: searchable, readable aloud, small
    "svg.hashsalt": "senet",  # reproducible files
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "legend.frameon": False,
}
_FALLBACKS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Source Han Sans", "WenQuanYi Zen Hei"),
    *("Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic"),
    *("Arial Unicode MS", "Droid Sans Fallback", "Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Thai"),
    *("Noto Emoji", "Symbola", "Segoe UI Emoji", "Segoe UI Symbol"),
)
"""Fonts for scripts that matplotlib's own lacks; those that are installed are used."""

_REFERENCES = re.compile(r'(\bid="|xlink:href="#|\bhref="#|url\(#)')
_FINE = re.compile(r"(\d\.\d\d)\d+")
_NO_METADATA: Any = {"Date": None, "Creator": None, "Format": None, "Type": None}


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """A context that draws figures in the reports' style and restores matplotlib's settings."""
    import matplotlib as mpl

    with mpl.rc_context({**_STYLE, "font.family": _families()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"constrained_layout not applied", UserWarning)  # a long name
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)  # a class name in another script
        yield


@functools.cache
def _families() -> list[str]:
    """Matplotlib's own font and fallbacks; each letter uses the first font that has it."""
    from matplotlib import font_manager

    there = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in _FALLBACKS if name in there)]


@dataclasses.dataclass(frozen=True)
class Series:
    """The points of a forest plot that share a colour.

    Attributes:
        label: the legend's text; "" for none.
        points: for each row a value with the ends of its interval (None without one), or None for no point.
        colour: the colour of points and intervals.
        marker: matplotlib's marker.
        single: for each row, values drawn in grey behind the point.
    """

    label: str
    points: Sequence[tuple[float, float | None, float | None] | None]
    colour: str
    marker: str = "o"
    single: Sequence[Sequence[float]] = ()


@contextlib.contextmanager
def panel(height: float) -> Iterator[tuple[Figure, Axes]]:
    """A context with a figure of one panel, as wide as the page and `height` inches high, drawn in its style."""
    with drawing():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, height), layout="constrained")
        yield figure, figure.subplots()


def forest(names: Sequence[str], series: Sequence[Series], *, xlabel: str, at: float = 0, scale: float = 1) -> Figure:
    """A forest plot: one row per name with each series' value and interval, and a reference line at `at`.

    Values are multiplied by `scale`: 100 shows fractions in percentage points.
    """
    with panel(1.3 + (0.3 + 0.06 * len(series)) * len(names)) as (figure, axes):
        axes.axvline(at, color=INK, linewidth=1)
        labelled = set()
        for row in range(len(names)):
            here = [each for each in series if each.points[row] is not None]
            for number, each in enumerate(here):
                y = row + 0.22 * (number - (len(here) - 1) / 2)
                value, low, high = (None if x is None else scale * x for x in each.points[row] or (None,) * 3)
                assert value is not None
                ends = None if low is None or high is None else [[value - low], [high - value]]
                if each.single:
                    dots = [scale * x for x in each.single[row]]
                    axes.plot(dots, [y] * len(dots), color=GREY, marker="o", markersize=3.5, linestyle="none")
                look: Any = {"color": each.colour, "marker": each.marker, "markersize": 5, "linewidth": 1.4}
                label = each.label if each.label and each.label not in labelled else None
                labelled.add(label)
                axes.errorbar([value], [y], xerr=ends, capsize=3, linestyle="none", label=label, **look)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel(xlabel)
        axes.grid(axis="x", alpha=0.3)
        if labelled - {None}:
            figure.legend(loc="outside upper center", ncols=len(series))
        return figure


@functools.cache
def _drawable() -> frozenset[int]:
    """The characters that an installed font draws."""
    from matplotlib import font_manager

    fonts = [font_manager.get_font(font_manager.findfont(name)) for name in _families()]
    return frozenset().union(*(font.get_charmap() for font in fonts))


@contextlib.contextmanager
def _spelt_out(figure: Figure) -> Iterator[None]:
    """A context that spells out characters that no installed font has, which would be drawn as empty boxes.

    An emoji becomes its name, [dog face], and any other its code point, [U+732B]. SVG keeps the
    text, since the viewer may have a font.
    """
    from matplotlib.text import Text
    from matplotlib.ticker import FuncFormatter

    def wrapped(axis: Any) -> FuncFormatter:
        words = axis.get_major_formatter()
        return FuncFormatter(lambda value, position: _spelt(words(value, position)))

    texts = {each: each.get_text() for each in figure.findobj(Text)}
    # a tick's label is recomputed from its axis at each drawing
    axes = [axis for each in figure.axes for axis in (each.xaxis, each.yaxis)]
    ticks = {axis: axis.get_major_formatter() for axis in axes if _undrawable(axis.get_ticklabels())}
    for text, words in texts.items():
        text.set_text(_spelt(words))
    for axis in ticks:
        axis.set_major_formatter(wrapped(axis))
    try:
        yield
    finally:
        for text, words in texts.items():
            text.set_text(words)
        for axis, formatter in ticks.items():
            axis.set_major_formatter(formatter)


def _undrawable(texts: Sequence[Any]) -> bool:
    return any(_spelt(each.get_text()) != each.get_text() for each in texts)


def _spelt(text: str) -> str:
    return "".join(c if ord(c) in _drawable() or not c.isprintable() else f"[{_called(c)}]" for c in text)


def _called(character: str) -> str:
    name = unicodedata.name(character, "") if unicodedata.category(character) == "So" else ""
    return name.lower() or f"U+{ord(character):04X}"


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as .png or .svg atomically; the same figure gives the same file."""
    kind = path.suffix.lower().removeprefix(".")
    legible = _spelt_out(figure) if kind == "png" else contextlib.nullcontext()
    with drawing(), legible, atomic_write(path, follow=False) as temporary:
        figure.savefig(temporary, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)


def inline_svg(figure: Figure, name: str, title: str) -> str:
    """A figure as an inline SVG element in the page's text colour, with unique ids and `title` as its label."""
    from markupsafe import escape

    with drawing(), io.StringIO() as file:
        figure.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
        text = file.getvalue()
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = _REFERENCES.sub(lambda found: f"{found[1]}{name}-", svg)
    svg = _FINE.sub(r"\1", svg)  # a hundredth of a point is finer than any screen
    svg = svg.replace(INK, "currentColor")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)


def short(name: str, most: int = 32) -> str:
    """A name shortened to fit a figure, without control characters; tables have the full name."""
    name = printable(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"
