"""The state of one tab: a network, up to two images, and the treatment of gates.

Input from the page is untrusted: every name in it must be on the page.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import TYPE_CHECKING, Any

from senet.errors import DataError, SenetError
from senet.explore.looking import AS_COMPUTED, WORDS, Held, Look, Means
from senet.explore.network import fingerprint
from senet.explore.pictures import PictureError, from_base64, read_picture, too_many_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from senet.explore.network import Subject

__all__ = ["SLOTS", "ActionError", "Picture", "Seen", "Session", "act", "see"]

SLOTS = ("A", "B")
_LONGEST_NAME = 80


class ActionError(SenetError, ValueError):
    """A request that the page cannot send."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A dropped image.

    Attributes:
        name: its file's name.
        pixels: the input of each network, (3, size, size) uint8, by the network's name.
        computed: the result of each network that ran on it with computed gates.
    """

    name: str
    pixels: Mapping[str, Tensor]
    computed: dict[str, Look] = dataclasses.field(default_factory=dict, compare=False)


@dataclasses.dataclass
class Session:
    """The state of one tab, which is lost when the tab is closed.

    Attributes:
        network: the name of the current network.
        pictures: the images by slot, "A" and "B".
        block: the inspected block, by network.
        held: the treatment of gates, by network and block.
        means: the mean gates over the images shown, by network.
        message: the latest message.
        failed: whether the message is an error.
    """

    network: str
    pictures: dict[str, Picture] = dataclasses.field(default_factory=dict)
    block: dict[str, str] = dataclasses.field(default_factory=dict)
    held: dict[str, dict[str, Held]] = dataclasses.field(default_factory=dict)
    means: dict[str, Means] = dataclasses.field(default_factory=dict)
    message: str = ""
    failed: bool = False


@dataclasses.dataclass(frozen=True)
class Seen:
    """The results of a session's network on its images, with held and with computed gates."""

    now: Mapping[str, Look]
    computed: Mapping[str, Look]


def see(session: Session, subject: Subject) -> Seen:
    """Run the session's network on its images, and count them in its mean gates."""
    held = {name: each for name, each in session.held.get(subject.name, {}).items() if each.changes}
    means = session.means.setdefault(subject.name, Means())
    block = chosen_block(session, subject)
    computed = {}
    for slot, picture in sorted(session.pictures.items()):
        pixels = picture.pixels[subject.name]
        if not held or subject.name not in picture.computed:  # a slider sends many requests
            picture.computed[subject.name] = subject.look(pixels, maps_of=None if held else block)
            means.add(fingerprint(pixels), picture.computed[subject.name].gates)
        computed[slot] = picture.computed[subject.name]
    if not held:
        return Seen(computed, computed)
    now = {
        slot: subject.look(picture.pixels[subject.name], held=held, means=means, maps_of=block)
        for slot, picture in sorted(session.pictures.items())
    }
    return Seen(now, computed)


def chosen_block(session: Session, subject: Subject) -> str:
    """The inspected block; by default the last, where gates are class-specific."""
    return session.block.get(subject.name) or list(subject.channels)[-1]


def means_of(session: Session, subject: Subject) -> Means:
    """The mean gates used by "held at the mean"."""
    return subject.means or session.means.get(subject.name) or Means()


def act(session: Session, subjects: Mapping[str, Subject], asked: object) -> None:
    """Carry out a request of the page; a failure changes only the session's message.

    Args:
        session: the session, changed in place.
        subjects: the networks on the page, by name.
        asked: an object with `do` and its arguments, as page.js sends it.
    """
    session.failed = False
    try:
        session.message = _done(session, subjects, asked)
    except SenetError as error:
        session.failed, session.message = True, str(error)


def _done(session: Session, subjects: Mapping[str, Subject], asked: object) -> str:
    if not isinstance(asked, dict):
        raise ActionError("the page asked for nothing")
    subject = subjects[session.network]
    match asked.get("do"):
        case "picture":
            return _take(session, subjects, asked)
        case "refuse":
            with _naming(asked):
                raise too_many_bytes(int(_number(asked.get("bytes"), 0, 2**53)))
        case "clear":
            slot = _one_of(asked.get("slot"), SLOTS, "picture")
            session.pictures.pop(slot, None)
            return f"Picture {slot} is taken away."
        case "network":
            session.network = _one_of(asked.get("value"), subjects, "network")
            return f"The network is {session.network}."
        case "block":
            session.block[subject.name] = _one_of(asked.get("block"), subject.channels, "block")
            return f"This is block {session.block[subject.name]}."
        case "hold":
            held = _held(session, subject, chosen_block(session, subject), asked.get("value"))
            return _hold(session, subject, [chosen_block(session, subject)], held)
        case "factor":
            held = Held("scaled", _number(asked.get("value"), 0, 2))
            return _hold(session, subject, [chosen_block(session, subject)], held)
        case "all":
            names = list(subject.channels)
            return _hold(session, subject, names, _held(session, subject, names[0], asked.get("value")))
    raise ActionError("the page asked for something that it does not do")


def _take(session: Session, subjects: Mapping[str, Subject], asked: Mapping[str, Any]) -> str:
    slot = _one_of(asked.get("slot"), SLOTS, "picture")
    with _naming(asked):
        image = read_picture(from_base64(asked.get("data")))
        pixels = {name: subject.pixels(image) for name, subject in subjects.items()}
    session.pictures[slot] = Picture(_file_name(asked), pixels)
    return f"Picture {slot} is {_file_name(asked)}, {image.width} × {image.height} pixels."


@contextlib.contextmanager
def _naming(asked: Mapping[str, Any]) -> Iterator[None]:
    """A context that adds the file's name to an error."""
    try:
        yield
    except (PictureError, DataError) as error:
        raise PictureError(f"{_file_name(asked)}: {error}") from None


def _file_name(asked: Mapping[str, Any]) -> str:
    name = asked.get("name")
    name = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name) if isinstance(name, str) else ""
    return (name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…") or "a file without a name"


def _held(session: Session, subject: Subject, block: str, kind: object) -> Held:
    held = Held(
        _one_of(kind, WORDS, "way to hold gates"), session.held.get(subject.name, {}).get(block, AS_COMPUTED).factor
    )
    if held.kind == "mean" and not means_of(session, subject).pictures:
        raise ActionError("there is no mean yet: drop a picture first")
    return held


def _hold(session: Session, subject: Subject, names: list[str], held: Held) -> str:
    at = session.held.setdefault(subject.name, {})
    for name in names:
        at[name] = held
    which = names[0] if len(names) == 1 else "all blocks"
    return f"The gates of {which} are {held}."


def _one_of(given: object, known: Any, what: str) -> str:
    if not isinstance(given, str) or given not in known:
        raise ActionError(f"there is no such {what} on this page")
    return given


def _number(given: object, least: float, most: float) -> float:
    try:
        value = float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not least <= value <= most:
        raise ActionError(f"that takes a number from {least:g} to {most:g}")
    return value


def differing(a: Tensor, b: Tensor, count: int) -> list[int]:
    """The `count` channels whose gates differ most between two images, largest first, without equal ones."""
    apart, channels = (a - b).abs().topk(min(count, len(a)))
    return [channel for channel, by in zip(channels.tolist(), apart.tolist(), strict=True) if by > 0]


def extremes(gates: Tensor, strength: Tensor, count: int) -> tuple[list[int], list[int]]:
    """The `count` channels with the highest and the lowest gates; among equal gates the stronger channels first."""
    by = list(zip(gates.tolist(), strength.tolist(), strict=True))
    opened = sorted(range(len(by)), key=lambda channel: (-by[channel][0], -by[channel][1]))
    closed = sorted(range(len(by)), key=lambda channel: (by[channel][0], -by[channel][1]))
    return opened[:count], closed[:count]
