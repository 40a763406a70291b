"""Render a session as HTML, region by region, with all outside text escaped."""

from __future__ import annotations

import functools
import math
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from senet.explore.drawing import difference_strip, feature_map, gate_colours, gradient, photo, strip
from senet.explore.looking import AS_COMPUTED, WORDS, Look, Maps
from senet.explore.pictures import MOST_BYTES
from senet.explore.session import SLOTS, Seen, Session, chosen_block, differing, extremes, means_of
from senet.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from senet.explore.network import Subject

__all__ = ["REGIONS", "asset", "document", "regions"]

REGIONS = ("status", "networks", "picture_a", "picture_b", "strips", "controls", "detail")
_CLASSES = 5  # that are named
_CHANNELS = 4  # that are shown opened, closed, and differing
_ACCEPT = ".jpg,.jpeg,.jfif,.png,.webp,.gif,.bmp,.tif,.tiff,.ppm,.pgm,.avif"  # what the browser's file dialog offers


def asset(name: str) -> str:
    """The text of page.js or page.css."""
    return (files("senet.explore") / name).read_text(encoding="utf-8")


def document(found: Mapping[str, str]) -> str:
    """The whole page with these regions."""
    return _environment().get_template("page.html").render(regions=found, limit=MOST_BYTES)


def regions(session: Session, subjects: Mapping[str, Subject], seen: Seen) -> dict[str, str]:
    """The HTML of every region, by the names in `REGIONS`."""
    subject = subjects[session.network]
    parts = _parts()
    found = {
        "status": parts.status(session),
        "networks": parts.networks(list(subjects), subject.name, subject.notes),
        "strips": _strips(session, subject, seen),
        "controls": _controls(session, subject),
        "detail": _detail(session, subject, seen),
    }
    for slot in SLOTS:
        found[f"picture_{slot.lower()}"] = _picture(session, subject, seen, slot)
    return {name: str(found[name]) for name in REGIONS}


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("senet.explore"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )


@functools.cache
def _parts() -> Any:
    return _environment().get_template("parts.html").module


class _Zoom:
    """The range of the gates' colours around 1, which is narrowed if all gates are near 1.

    Attributes:
        reach: 1, or a smaller round number (0.5, 0.2, 0.1, 0.05, ...) that covers every gate's distance from 1.
        digits: the decimals with which gates are written.
    """

    def __init__(self, looks: Mapping[str, Look]) -> None:
        apart = [float((gates - 1).abs().max()) for look in looks.values() for gates in look.gates.values()]
        self.furthest = max(apart, default=1.0)
        steps = (base * 10.0**-power for power in range(5, 0, -1) for base in (1, 2, 5))
        self.reach = next((step for step in steps if self.furthest <= step), 1.0) if self.furthest > 0 else 1.0
        self.digits = 2 + math.ceil(-math.log10(self.reach))
        self.colours = gate_colours(self.reach)

    def write(self, gate: float) -> str:
        return f"{gate:.{self.digits}f}"

    def note(self, session: Session, subject: Subject) -> str:
        """A note on why all strips look alike; "" if they do not."""
        if self.furthest == 0:
            held = [each.changes for each in session.held.get(subject.name, {}).values()]
            if any(held):
                return "Every gate is exactly 1, since gates are held: release them to see what the blocks compute."
            return (
                "Every gate is exactly 1: senet.insert starts blocks that way, so that the network computes what it "
                "did. Train it, and its gates open and close."
            )
        if self.reach < 1:
            low, high = (f"{1 + sign * self.reach:g}" for sign in (-1, 1))
            return f"Every gate is close to 1 here, so the colours show {low} to {high} alone."
        return ""


def _picture(session: Session, subject: Subject, seen: Seen, slot: str) -> Any:
    picture = session.pictures.get(slot)
    if picture is None:
        return _parts().picture(slot, "", "", [], False, _ACCEPT, "")
    now, computed = seen.now[slot], seen.computed[slot]
    rows = [
        {
            "name": subject.classes[index],
            "share": f"{100 * probability:.3f}",
            "probability": _percent(probability),
            "computed": _percent(float(computed.probabilities[index])),
        }
        for index, probability in now.top(_CLASSES)
    ]
    size = subject.preprocessing.size
    address = photo(picture.pixels[subject.name])
    words = f"as the network sees it, {size} × {size} pixels"
    return _parts().picture(slot, picture.name, address, rows, now is not computed, _ACCEPT, words)


def _strips(session: Session, subject: Subject, seen: Seen) -> Any:
    slots = sorted(seen.now)
    held = session.held.get(subject.name, {})
    apart = _apart(seen.now) if len(slots) == 2 else {}
    largest = max((float(values.max()) for values in apart.values()), default=0.0)
    zoom = _Zoom(seen.now)
    rows = []
    for name, channels in subject.channels.items():
        strips = [_strip(slot, seen.now[slot].gates[name], zoom) for slot in slots]
        if name in apart:
            words = f"difference between A and B: mean {zoom.write(float(apart[name].mean()))}"
            strips.append(
                {"which": "|A−B|", "address": difference_strip(apart[name], largest), "words": words, "number": ""}
            )
        each = held.get(name, AS_COMPUTED)
        rows.append(
            {
                "name": name,
                "channels": channels,
                "strips": strips,
                "held": str(each) if each.changes else "",
                "apart": f"{float(apart[name].mean()):.{zoom.digits + 1}f}" if name in apart else "",
            }
        )
    block = chosen_block(session, subject)
    beyond = zoom.furthest > 1  # gates of tanh or relu, which the colours cut off
    legend = {
        "colours": gradient(zoom.colours),
        "low": f"{1 - zoom.reach:g}" if zoom.reach < 1 else "0 or less" if beyond else "0, closed",
        "high": f"{1 + zoom.reach:g}{' or more' * beyond}",
    }
    note = zoom.note(session, subject) if slots else ""
    return _parts().strips(rows, slots, legend, note, zoom.write(largest) if largest else "", block)


def _strip(slot: str, gates: Tensor, zoom: _Zoom) -> dict[str, str]:
    mean, least, most = map(zoom.write, (float(gates.mean()), float(gates.min()), float(gates.max())))
    words = f"gates of picture {slot}: mean {mean}, from {least} to {most}"
    return {"which": slot, "address": strip(gates, zoom.colours), "words": words, "number": f"{mean} ({least}–{most})"}


def _apart(looks: Mapping[str, Look]) -> dict[str, Tensor]:
    a, b = looks["A"].gates, looks["B"].gates
    return {name: (a[name] - b[name]).abs() for name in a}


def _controls(session: Session, subject: Subject) -> Any:
    block = chosen_block(session, subject)
    held = session.held.get(subject.name, {}).get(block, AS_COMPUTED)
    means = means_of(session, subject)
    words = f"over {counted(means.pictures, 'picture')} {'of the data' if subject.means else 'seen'}"
    return _parts().controls(block, held, WORDS.items(), words, means.pictures > 0)


def _detail(session: Session, subject: Subject, seen: Seen) -> Any:
    block = chosen_block(session, subject)
    zoom = _Zoom(seen.now)
    looks = {slot: _Inside(slot, look, seen.computed[slot], block, zoom) for slot, look in seen.now.items()}
    groups = []
    if len(looks) == 2:
        a, b = looks.values()
        apart = differing(a.gates, b.gates, _CHANNELS)
        title = "Where the gates of A and B differ most, each map after its gate"
        if not apart:
            title = "The gates of A and B are the same here"
        groups.append({"title": title, "cards": [_pair(channel, a, b) for channel in apart]})
    for slot, look in looks.items():
        opened, closed = extremes(look.told_apart_by, look.maps.before.abs().mean((1, 2)), _CHANNELS)
        of = f", picture {slot}" if len(looks) > 1 else ""
        titled = [(f"Strongest opened{of}", opened), (f"Strongest closed{of}", closed)]
        if look.all_alike:
            titled = [(f"The strongest channels{of}: every gate is the same here", opened)]
        for title, channels in titled:
            words = title + ", were its gates not held" * (look.told_apart_by is not look.gates)
            groups.append({"title": words, "cards": [_card(channel, look) for channel in channels]})
    return _parts().detail(block, subject.channels[block], groups)


class _Inside:
    """A block on one image: gates and maps as held, and the computed gates."""

    def __init__(self, slot: str, now: Look, computed: Look, block: str, zoom: _Zoom) -> None:
        if now.maps is None:
            raise AssertionError("the maps of the chosen block are always asked for")
        self.slot = slot
        self.write = zoom.write
        self.gates = now.gates[block]
        self.computed = computed.gates[block]
        self.maps: Maps = now.maps

    @property
    def told_apart_by(self) -> Tensor:
        """The gates that order channels: the computed ones if all are held at one number."""
        return self.gates if float(self.gates.max() - self.gates.min()) > 0 else self.computed

    @property
    def all_alike(self) -> bool:
        """Whether the block has one gate for all channels, as inserted or dead blocks do, held or not."""
        gates = self.told_apart_by
        return float(gates.max() - gates.min()) == 0

    def words(self, channel: int) -> str:
        gate, computed = (self.write(float(gates[channel])) for gates in (self.gates, self.computed))
        return f"gate {gate}" + (f", not held {computed}" if gate != computed else "")

    def drawn(self, channel: int, when: str, largest: float, *, arrow: bool = False) -> dict[str, Any]:
        maps = self.maps.before if when == "before" else self.maps.after
        words = f"channel {channel} of picture {self.slot} {when} its gate"
        return {"address": feature_map(maps[channel], largest), "words": words, "arrow": arrow}


def _card(channel: int, inside: _Inside) -> dict[str, Any]:
    """A channel's gate with its map before and after."""
    largest = max(float(maps[channel].abs().max()) for maps in (inside.maps.before, inside.maps.after))
    maps = [inside.drawn(channel, "before", largest, arrow=True), inside.drawn(channel, "after", largest)]
    return {"channel": channel, "words": inside.words(channel), "maps": maps}


def _pair(channel: int, a: _Inside, b: _Inside) -> dict[str, Any]:
    """A channel's gates on two images with its maps after them."""
    largest = max(float(inside.maps.after[channel].abs().max()) for inside in (a, b))
    words = f"gate A {a.write(float(a.gates[channel]))}, B {b.write(float(b.gates[channel]))}"
    return {"channel": channel, "words": words, "maps": [inside.drawn(channel, "after", largest) for inside in (a, b)]}


def _percent(probability: float) -> str:
    return f"{100 * probability:.2f} %"
