"""The page itself: seven regions of HTML in Gradio, each of which says to the server what a person did in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from senet.explore.pictures import MOST_BYTES
from senet.explore.session import Session, act, see
from senet.explore.view import REGIONS, regions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from senet.explore.network import Subject

__all__ = ["TITLE", "build", "css", "theme"]

TITLE = "senet explore"
_HERE = Path(__file__).parent
_INTRODUCTION = (
    "<h1>What do the gates do?</h1><p>Drop a picture, see how every Squeeze-and-Excitation block rescales its "
    "channels, hold the gates of a block, and watch what the network says. Pictures stay in this machine's memory "
    "and nothing leaves it.</p>"
)


def build(subjects: Mapping[str, Subject]) -> gr.Blocks:
    """The page on which `subjects`, by name, are looked at, as an application that nobody serves yet."""
    first = Session(next(iter(subjects)))

    def drawn(session: Session) -> list[Any]:
        found = regions(session, subjects, see(session, subjects[session.network]))
        return [session, *(found[name] for name in REGIONS)]

    def answer(session: Session, event: gr.EventData) -> list[Any]:
        act(session, subjects, event._data)
        return drawn(session)

    shown = drawn(Session(first.network))
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        state = gr.State(first, time_to_live=None)
        gr.HTML(_INTRODUCTION, apply_default_css=False, elem_classes="explore", js_on_load=None)
        parts: dict[str, gr.HTML] = {}

        def part(name: str) -> None:
            parts[name] = gr.HTML(
                shown[1 + REGIONS.index(name)],
                js_on_load=(_HERE / "page.js").read_text(encoding="utf-8"),
                apply_default_css=False,
                elem_id=name.replace("_", "-"),
                elem_classes="explore",
                limit=MOST_BYTES,
            )

        part("status")
        part("networks")
        with gr.Row():
            with gr.Column(scale=3, min_width=400, elem_id="side"):
                for name in ("picture_a", "picture_b"):
                    part(name)
            with gr.Column(scale=5, min_width=520):
                for name in ("controls", "strips", "detail"):
                    part(name)
        outputs = [state, *(parts[name] for name in REGIONS)]
        # `private`: no description for programs. One at a time, since a session is one thing.
        shared: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_id": "page"}
        for name, each in parts.items():
            # a slider says a hundred things, of which the last counts; elsewhere each does
            mode = "always_last" if name == "controls" else "multiple"
            each.select(answer, [state], outputs, trigger_mode=mode, **shared)
    return page  # type: ignore[no-any-return]


def css() -> str:
    """The page's own style sheet."""
    return (_HERE / "page.css").read_text(encoding="utf-8")


def theme() -> gr.themes.Base:
    """The machine's own fonts: Gradio's own theme would fetch some from elsewhere."""
    return gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
