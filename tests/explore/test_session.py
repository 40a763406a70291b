"""What a person does on the page, and what a program could send in its place."""

import base64
import dataclasses
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

import senet
from senet.explore.looking import Held, Look
from senet.explore.network import open_subject
from senet.explore.session import SLOTS, Seen, Session, act, differing, extremes, see
from senet.explore.view import REGIONS, _strip, _strips, _Zoom, regions
from tests.explore.conftest import CLASSES, HOSTILE


def dropped(seed, slot="A", name="photo.png", size=(50, 40)):
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return {"do": "picture", "slot": slot, "name": name, "data": base64.b64encode(stream.getvalue()).decode()}


@pytest.fixture
def page(subject):
    """Acts, and returns the session, what is seen, and the HTML."""
    session, subjects = Session(subject.name), {subject.name: subject}

    def do(*asked):
        for each in asked:
            act(session, subjects, each)
        seen = see(session, subject)
        return session, seen, regions(session, subjects, seen)

    return do


def rows(html):
    """The class names and probabilities of a region."""
    return [(name, float(p)) for name, p in re.findall(r'<th scope="row">(.*?)</th>.*?class="number">([\d.]+) %', html)]


def test_a_picture_is_predicted_as_the_api_predicts_it(page, subject):
    _, seen, html = page(dropped(1))
    image = Image.open(io.BytesIO(base64.b64decode(dropped(1)["data"])))
    with torch.no_grad():
        scores = subject.network(subject.preprocessing.normalise(subject.preprocessing(image)[None]))[0].softmax(0)
    found = rows(html["picture_a"])
    assert len(found) == len(CLASSES)
    for (name, shown), index in zip(found, scores.argsort(descending=True).tolist(), strict=True):
        assert shown == pytest.approx(100 * float(scores[index]), abs=0.005)
        assert name == {0: found[0][0] if index == 0 else "", 1: "an ordinary class"}.get(index, name) or index == 0
    assert "Picture A is photo.png, 50 × 40 pixels." in html["status"]
    assert html["strips"].count("gates of picture A") == len(subject.channels)
    assert seen.now is seen.computed


def test_a_hold_shows_both_probabilities(page, subject):
    name = list(subject.channels)[-1]
    session, seen, html = page(dropped(1), {"do": "hold", "value": "one"})
    expected = subject.look(session.pictures["A"].pixels[subject.name], held={name: Held("one")})
    torch.testing.assert_close(seen.now["A"].probabilities, expected.probabilities)
    assert not torch.equal(seen.now["A"].probabilities, seen.computed["A"].probabilities)
    assert rows(html["picture_a"])[0][1] == pytest.approx(100 * float(expected.probabilities.max()), abs=0.005)
    assert "as computed" in html["picture_a"]
    assert "held at 1" in html["strips"]
    assert "were its gates not held" in html["detail"]
    _, seen, html = page({"do": "all", "value": "computed"})
    assert seen.now is seen.computed
    assert "held at" not in html["strips"]


def test_a_slider_scales_and_all_blocks_can_be_held(page, subject):
    session, seen, html = page(dropped(1), {"do": "factor", "value": "0.25"})
    name = list(subject.channels)[-1]
    torch.testing.assert_close(seen.now["A"].gates[name], 0.25 * seen.computed["A"].gates[name])
    assert "scaled by 0.25" in html["strips"]
    assert session.message == f"The gates of {name} are scaled by 0.25."
    session, seen, _ = page({"do": "all", "value": "one"})
    assert all(float(gates.min()) == float(gates.max()) == 1 for gates in seen.now["A"].gates.values())
    assert session.message == "The gates of all blocks are held at 1."


def test_the_mean_is_over_the_pictures_seen(page, subject):
    session, _, html = page({"do": "hold", "value": "mean"})
    assert session.failed
    assert "drop a picture first" in html["status"]
    assert "disabled" in html["controls"]
    first, second = (page(dropped(seed))[1].computed["A"] for seed in (1, 2))
    _, seen, html = page(dropped(2), {"do": "hold", "value": "mean"})  # the second picture again
    name = list(subject.channels)[-1]
    torch.testing.assert_close(seen.now["A"].gates[name], (first.gates[name] + second.gates[name]) / 2)
    assert "over 2 pictures seen" in html["controls"]


def test_two_pictures_side_by_side(page, subject):
    _, seen, html = page(dropped(1), dropped(2, "B", "other.png"))
    name = list(subject.channels)[-1]
    apart = float((seen.now["A"].gates[name] - seen.now["B"].gates[name]).abs().mean())
    assert f"difference between A and B: mean {apart:.2f}" in html["strips"]
    assert f"{apart:.3f}" in html["strips"]
    assert "Where the gates of A and B differ most" in html["detail"]
    _, _, html = page({"do": "hold", "value": "one"})
    assert "The gates of A and B are the same here" in html["detail"]
    _, seen, html = page({"do": "clear", "slot": "A"})
    assert list(seen.now) == ["B"]
    assert "mean |A" not in html["strips"]


def test_another_block_is_looked_into(page, subject):
    first = next(iter(subject.channels))
    _, seen, html = page(dropped(1), {"do": "block", "block": first})
    assert seen.now["A"].maps.before.shape == (16, 32, 32)
    assert f'aria-label="Inside block {first}"' in html["detail"]
    gates = seen.now["A"].gates[first]
    assert f"channel {int(gates.argmax())}<br>gate {float(gates.max()):.2f}" in html["detail"]


HOSTILE_REQUESTS = [
    None,
    [],
    "picture",
    {},
    {"do": "eval", "value": "1"},
    {"do": ["picture"]},
    {"do": "picture"},
    {"do": "picture", "slot": "../A", "data": ""},
    {"do": "picture", "slot": "A", "name": {"path": "/etc/passwd"}, "data": {"path": "/etc/passwd"}},
    {"do": "picture", "slot": "A", "name": "x" * 10**6, "data": "AAAA"},
    {"do": "clear", "slot": "C"},
    {"do": "network", "value": "/etc/passwd"},
    {"do": "block", "block": "fc"},
    {"do": "hold", "value": "all"},
    {"do": "factor", "value": "1e9"},
    {"do": "factor", "value": "nan"},
    {"do": "factor", "value": 10**400},
    {"do": "factor", "value": None},
    {"do": "refuse", "slot": "A", "name": "big.png", "bytes": 10**9},
    {"do": "refuse", "bytes": "many"},
]


@pytest.mark.parametrize("asked", HOSTILE_REQUESTS, ids=lambda asked: str(asked)[:60])
def test_what_the_page_cannot_ask_for_changes_nothing(page, asked):
    before, seen, _ = page(dropped(1))
    session, after, html = page(asked)
    assert session.failed
    assert list(session.pictures) == ["A"]
    assert session.pictures["A"] is before.pictures["A"]
    assert not any(held.changes for blocks in session.held.values() for held in blocks.values())
    torch.testing.assert_close(after.now["A"].probabilities, seen.now["A"].probabilities)
    assert 'role="alert"' in html["status"]
    assert len(html["status"]) < 500


def test_names_are_shown_as_text(page, subject):
    """The names of classes, files, networks and blocks that hold HTML."""
    name = "<script>window.pwned=1</script>\x00\u202e.png"
    _, _, html = page(dropped(1, name=name), dropped(2, "B", name=name), {"do": "hold", "value": "one"})
    assert set(html) == set(REGIONS)
    joined = "".join(html.values())
    assert "&lt;img src=x onerror=" in joined
    assert HOSTILE not in joined
    assert "<script" not in joined
    assert "<b>bold" not in joined
    assert "\u202e" not in joined
    assert "<i>" not in joined  # of the network's file
    tags = set(re.findall(r"<(\w+)", joined))
    assert tags <= set(
        "p fieldset legend label input section span b figure img figcaption button table caption thead tbody tr th td "
        "div h2 h3 ul li br abbr".split()
    )
    assert not re.findall(r"<[^>]*\son\w+=(?![^<]*&)", re.sub(r'"[^"]*"', '""', joined))


def test_a_picture_that_a_network_cannot_take_is_refused(subject):
    """Of more than 8 bits, with values outside the range that the network's file states."""
    how = dataclasses.replace(subject.preprocessing, range=(0, 4095))
    session, subjects = Session(subject.name), {subject.name: dataclasses.replace(subject, preprocessing=how)}
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8), 5000, dtype=np.uint16)).save(stream, "PNG")
    data = base64.b64encode(stream.getvalue()).decode()
    act(session, subjects, {"do": "picture", "slot": "A", "name": "ct.png", "data": data})
    assert (session.failed, session.pictures) == (True, {})
    assert session.message.startswith("ct.png: a grey picture has values from 5000 to 5000, outside the range")


def test_gates_beyond_the_colours_are_said(subject):
    look = Look(torch.ones(4) / 4, {name: torch.full((count,), -0.5) for name, count in subject.channels.items()})
    html = str(_strips(Session(subject.name), subject, Seen({"A": look}, {"A": look})))
    assert ">0 or less<" in html
    assert ">2 or more<" in html


def test_channels_are_told_apart():
    gates, strength = torch.tensor([0.5, 0.0, 1.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 1.0, 9.0, 9.0])
    assert extremes(gates, strength, 2) == ([4, 2], [3, 1])
    assert extremes(gates, strength, 9)[0] == [4, 2, 0, 3, 1]
    assert differing(gates, torch.tensor([0.5, 0.9, 0.9, 0.0, 1.0]), 4) == [1, 2]
    assert SLOTS == ("A", "B")


def test_gates_that_are_all_1_say_why_and_gates_near_1_are_enlarged(page, subject, tmp_path):
    """A network into which SE was just inserted, and one that was trained for a moment."""
    _, _, html = page(dropped(1))
    assert 'class="note said"' not in html["strips"]
    assert ">0, closed<" in html["strips"]
    assert "Strongest closed" in html["detail"]
    _, _, html = page({"do": "all", "value": "one"})
    assert "Every gate is exactly 1, since gates are held" in html["strips"]
    assert "Strongest closed, were its gates not held" in html["detail"]
    senet.save(senet.insert(senet.create("resnet20"), torch.zeros(1, 3, 32, 32)), tmp_path / "net.safetensors")
    inserted = open_subject(str(tmp_path / "net.safetensors"), preprocessing={"size": 32})
    session, subjects = Session(inserted.name), {inserted.name: inserted}
    for slot in SLOTS:
        act(session, subjects, dropped(1, slot=slot))
    html = regions(session, subjects, see(session, inserted))
    assert "The strongest channels, picture A: every gate is the same here" in html["detail"]
    assert "Strongest" not in html["detail"]
    assert "|A − B|, which is 0 everywhere here." in html["strips"]


@pytest.mark.parametrize(
    ("gates", "words", "number"),
    [
        ([1.0, 1.0], "senet.insert starts blocks that way", "1.00 (1.00–1.00)"),
        ([0.9991, 1.0013], "the colours show 0.998 to 1.002 alone", "1.00020 (0.99910–1.00130)"),
        ([0.96, 1.02], "the colours show 0.95 to 1.05 alone", "0.9900 (0.9600–1.0200)"),
        ([0.4, 1.0], "", "0.70 (0.40–1.00)"),
        ([0.0, 2.5], "", "1.25 (0.00–2.50)"),
    ],
)
def test_the_colours_reach_as_far_as_the_gates(subject, gates, words, number):
    look = Look(torch.ones(4) / 4, {name: torch.tensor(gates) for name in subject.channels})
    zoom = _Zoom({"A": look})
    assert words in zoom.note(Session(subject.name), subject)
    drawn = _strip("A", torch.tensor(gates), zoom)
    assert drawn["number"] == number
    pixels = Image.open(io.BytesIO(base64.b64decode(drawn["address"].partition(",")[2]))).convert("RGB")
    assert len({pixels.getpixel((x, 0)) for x in range(2)}) == len(set(gates))
