"""What explain says of a network, against the same found by hand with hooks."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import senet
from senet.console.progress import Progress
from senet.errors import SenetError
from senet.evaluation.logits import Predictions
from senet.files.run_folder import read_csv
from senet.insertion import remove
from senet.study import StudyError, evaluate, explain, open_data
from senet.study.explanation.explain import explain_subject, measured
from senet.study.explanation.pages import _by_class
from senet.study.explanation.subject import Subject, open_subject
from tests.browser import complaints, opened, requests
from tests.pages import undocumented

QUIET = {"devices": "cpu", "progress": False}


def _network(trained):
    name, folder = trained
    return senet.load(folder, senet.create(name, num_classes=10))


def _by_hand(network, source, preprocessing):
    """Labels, predictions, and each block's gates, computed by a forward hook from its weights."""
    gates = {name: [] for name in senet.blocks(network)}

    def look(name):
        def hook(block, args, output):
            z = args[0].double().mean((2, 3))
            hidden = torch.relu(z @ block.fc1.weight.double().T)
            gates[name].append(torch.sigmoid(hidden @ block.fc2.weight.double().T) * block.scale.double())

        return hook

    hooks = [block.register_forward_hook(look(name)) for name, block in senet.blocks(network).items()]
    with torch.no_grad():
        pixels = torch.stack([preprocessing(source.val.load(index)) for index in range(len(source.val))])
        said = network.eval()(preprocessing.normalise(pixels)).argmax(1)
    for hook in hooks:
        hook.remove()
    return source.val.labels, said, {name: torch.cat(each) for name, each in gates.items()}


def test_the_numbers_are_those_found_by_hand(trained, tmp_path):
    network = _network(trained)
    source = open_data("digits")
    found = explain(network, source, out=tmp_path / "explained", **QUIET)
    labels, said, gates = _by_hand(network, source, found.preprocessing)
    assert found.top1 == float((said == labels).double().mean())
    assert found.top1 == evaluate(network, source, **QUIET).top1
    assert [block.name for block in found.blocks] == list(gates)
    for block in found.blocks:
        hand = gates[block.name].numpy()
        np.testing.assert_allclose(block.gates.mean.numpy(), hand.mean(0), atol=1e-6)
        np.testing.assert_allclose(block.gates.low.numpy(), hand.min(0), atol=1e-6)
        means = np.stack([hand[labels.numpy() == c].mean(0) for c in range(10)])
        np.testing.assert_allclose(block.gates.class_means.numpy(), means, atol=1e-6)
        total = ((hand - hand.mean(0)) ** 2).sum()
        counts = torch.bincount(labels).numpy()
        between = (counts[:, None] * (means - hand.mean(0)) ** 2).sum()
        assert block.gates.specificity == pytest.approx(between / total, abs=1e-5)

    assert found.stages[-1].removed.top1 == evaluate(remove(network), source, **QUIET).top1  # all gates at 1
    assert found.stages[-1].stage is None
    assert [stage.stage for stage in found.stages[:-1]] == [1]
    for block in found.blocks:
        assert block.removed == block.at_one
        assert block.parameters == 2 * 8 * 4

    content = json.loads((tmp_path / "explained/explanation.json").read_text())
    assert content["top1"] == found.top1
    assert [block["name"] for block in content["blocks"]] == list(gates)
    rows = read_csv(tmp_path / "explained/channels.csv")
    assert len(rows) == 16
    assert not undocumented(tmp_path / "explained/explanation.json")
    effects = read_csv(tmp_path / "explained/gate_effects.csv")
    assert effects[0]["top-1 (fraction)"] == str(found.blocks[0].at_mean.top1)
    assert {name for name in effects[0] if "(fraction)" not in name} == {"block", "gates"}
    assert float(rows[3]["mean"]) == pytest.approx(float(gates["blocks.0.bn2.se"][:, 3].mean()), abs=1e-6)
    assert "SE blocks" in str(found)


def test_each_image_is_given_the_gates_of_another(trained):
    """Against a forward pass in which hooks multiply by the gates of the next image of the batch."""
    network = _network(trained)
    with open_subject(network, "digits", {"devices": "cpu", "batch_size": 50}) as subject:
        held = subject.predict(Progress(False), at={"blocks.0.bn2.se": lambda gates: gates.roll(1, 0)})
        swap = subject.network.blocks[0].bn2.se.register_forward_hook(
            lambda block, args, output: args[0] * block.gate(args[0]).roll(1, 0)
        )
        by_hook = subject.predict(Progress(False))
        swap.remove()
        plain = subject.predict(Progress(False))
    assert torch.equal(held.top, by_hook.top)
    assert not torch.equal(held.probability, plain.probability)


def test_the_batches_leave_no_image_alone(trained):
    for size, expected in ((64, 64), (358, 357), (2, 3), (500, 359)):  # 359 images
        with open_subject(_network(trained), "digits", {"devices": "cpu", "batch_size": size}) as subject:
            assert isinstance(subject, Subject)
            assert subject.batch_size == expected
            assert len(subject.labels) % subject.batch_size != 1


def test_a_network_that_was_given_stays_as_it_was(trained):
    network = _network(trained).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = torch.get_rng_state()
    explain(network, "digits", **QUIET)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all("forward" not in vars(block) for block in senet.blocks(network).values())


def test_a_picture_that_cannot_be_read_is_left_out_and_named(trained, tmp_path):
    for label in range(10):
        (tmp_path / f"val/{label}").mkdir(parents=True)
        for number in range(3):
            grey = np.full((8, 8, 3), 20 * label + number, np.uint8)
            Image.fromarray(grey).save(tmp_path / f"val/{label}/{number}.png")
    (tmp_path / "val/3/1.png").write_bytes(b"no picture")
    found = explain(_network(trained), tmp_path, **QUIET)
    assert found.images == evaluate(_network(trained), tmp_path, **QUIET).count == 29
    assert "1 file was skipped:" in found.notes
    assert "3/1.png" in found.notes[-1]


def test_advice_keeps_to_the_tolerance(trained):
    network = _network(trained)
    strict = explain(network, "digits", tolerance=0, **QUIET)
    assert strict.advice.effect.top1 >= strict.top1
    loose = explain(network, "digits", tolerance=1, **QUIET)
    assert loose.advice.blocks == tuple(senet.blocks(network))
    assert loose.advice.effect == loose.stages[-1].at_mean
    assert loose.advice.parameters == 2 * 64
    assert "2 of them can go" in str(loose)
    assert not loose.at_chance
    alike = dataclasses.replace(loose, classes=dict.fromkeys(loose.classes, "crane"))
    columns = list(_by_class(alike)[1].data[0])
    assert columns == ["channel", "all images", *(f"class crane ({index})" for index in (0, 2, 4, 6))]


def test_the_progress_ends_with_the_work(trained):
    progress = Progress(False)
    with open_subject(_network(trained), "digits", {"devices": "cpu", "batch_size": 359}) as subject:
        explain_subject(subject, tolerance=0.001, progress=progress)
    assert progress._done == progress._total == 1 + 2 * 4 + 2 * 2  # 2 blocks, and a stage beside the whole


def test_a_network_that_diverged_is_not_explained(trained):
    network = _network(trained)
    torch.nn.init.constant_(network.fc.bias, torch.nan)
    with pytest.raises(StudyError, match="scores of 359 of 359 images are not finite"):
        explain(network, "digits", **QUIET)


def test_what_is_to_be_known_of_the_images_is_said(pictures, tmp_path):
    data = shutil.copytree(pictures, tmp_path / "data")
    (data / "val/dark/notes.txt").write_text("of the light")
    network = senet.create("se_resnet20", num_classes=2)
    with open_subject(network, data, {"devices": "cpu", "size": 8}) as subject:
        assert subject.notes[0] == "1 file was skipped:"
        assert subject.notes[1].startswith("  val/dark/notes.txt: ")


def test_a_channel_that_is_constant_has_no_specificity(pictures, tmp_path):
    network = senet.insert(senet.create("resnet20", num_classes=2), torch.randn(1, 3, 8, 8), where="layer1.0*")
    explain(network, pictures, size=8, out=tmp_path / "out", **QUIET)
    assert {row["specificity"] for row in read_csv(tmp_path / "out/channels.csv")} == {""}


def test_a_network_of_torchvision(pictures):
    torchvision = pytest.importorskip("torchvision")
    network = torchvision.models.mobilenet_v3_small(num_classes=2)
    found = explain(network, pictures, size=32, tolerance=0, **QUIET)
    assert len(found.blocks) == 9
    assert [stage.stage for stage in found.stages] == [2, 4, 5, None]
    assert all(block.gates.top == 1 for block in found.blocks)
    assert (found.at_chance, found.guess) == (True, 0.5)
    assert "The network is at chance, as far as these images show: always naming" in " ".join(str(found).split())


EVIL = "<script>alert(1)<_script>$x^{&"


def test_the_report_in_a_browser(trained, chromium, tmp_path):
    network = _network(trained)
    data = tmp_path / "data" / "val"
    source = open_data("digits")
    for index in range(60):
        folder = data / (EVIL if index % 2 else f"{index % 4}")
        folder.mkdir(parents=True, exist_ok=True)
        source.val.load(index).save(folder / f"{index}.png")
    (tmp_path / "classes.json").write_text(json.dumps(["0", "2", EVIL]))
    how = {"classes": tmp_path / "classes.json", **QUIET}
    found = explain(network, tmp_path / "data", size=8, out=tmp_path / "report", **how)
    assert EVIL in found.classes.values()
    path = tmp_path / "report" / "report.html"
    opened(chromium, path)
    assert complaints(chromium) == []
    assert requests(chromium) == [path.as_uri()]
    assert EVIL in chromium.find_element("css selector", "figure svg").text
    axes = chromium.find_element("css selector", "main").text
    for label in ("gate", "channel", "points", "between-class / total variance"):
        assert label in axes
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    metrics = {"width": 1030, "height": 700, "deviceScaleFactor": 1, "mobile": False}  # A4 across, in CSS pixels
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    widths = chromium.execute_script(
        "return [...document.querySelectorAll('table, svg')].map(e => e.getBoundingClientRect().right)"
    )
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    assert max(widths) <= 1030  # nothing is cut off on paper


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"model": "resnet20"}, StudyError, "resnet20 holds no SE"),
        ({"model": "se_resnet20", "num_classes": 10, "tolerance": 2}, ValueError, "from 0 to 1, not 2"),
        ({"model": "se_resnet20", "num_classes": 10, "batch_size": 1}, ValueError, "at least 2, not 1"),
        ({"model": "se_resnet20", "num_clases": 10}, TypeError, "did you mean 'num_classes'"),
        ({"model": "se_resnet20", "num_classes": 3}, StudyError, "has 3 classes and the images have class 9"),
    ],
)
def test_what_cannot_be_explained(arguments, error, words):
    with pytest.raises(error, match=words):
        explain(data="digits", devices="cpu", progress=False, **arguments)


def test_the_folder_of_a_run_is_left_alone(trained):
    _, folder = trained
    with pytest.raises(StudyError, match="is the folder of a training or a study"):
        explain(_network(trained), "digits", out=folder, **QUIET)


def test_unreadable_pictures_are_skipped_as_where_it_was_trained(tiny, pictures, tmp_path, monkeypatch):
    (pictures / "val/dark/broken.png").write_bytes(b"no picture")
    network = senet.insert(senet.create(tiny, num_classes=2), torch.randn(1, 3, 8, 8), senet.SESpec(2))
    found = explain(network, pictures, out=tmp_path / "out", **QUIET)
    assert (found.images, found.top1) == (8, evaluate(network, pictures, **QUIET).top1)
    assert found.notes[0] == "1 file was skipped:"
    assert found.notes[1].startswith("  val/dark/broken.png: ")
    monkeypatch.setattr(sys.modules["senet.study.explanation.explain"], "write_csv", None)
    with pytest.raises(TypeError):
        explain(network, pictures, out=tmp_path / "out", **QUIET)
    assert not (tmp_path / "out/explanation.json").exists()  # of other gates than those beside it


def test_use_is_claimed_only_where_an_exact_test_corrected_for_all_blocks_shows_it(trained):
    found = explain(_network(trained), open_data("digits"), **QUIET)
    plain = Predictions(
        torch.ones(400, dtype=torch.int64), torch.ones(400, 1, dtype=torch.int64), torch.ones(400, 1), 0, 2
    )
    for lost, shown in ((0, False), (4, False), (5, False), (6, True)):
        effect = measured(plain, dataclasses.replace(plain, top=torch.tensor([0] * lost + [1] * (400 - lost))[:, None]))
        assert effect.shown == shown, lost
        if lost:
            assert effect.high < 0 or lost < 4  # the bootstrap alone would claim it of four pictures
    none = dataclasses.replace(found.blocks[0].at_mean, difference=0.0, p=1.0)
    six = dataclasses.replace(none, difference=-0.015, p=0.03125)
    ten = dataclasses.replace(none, difference=-0.025, p=0.002)
    blocks = [dataclasses.replace(block, at_mean=none, at_other=six) for block in found.blocks]
    assert dataclasses.replace(found, blocks=tuple(blocks)).dependent == []
    blocks[1] = dataclasses.replace(blocks[1], at_mean=ten)
    assert dataclasses.replace(found, blocks=tuple(blocks)).dependent == [blocks[1].name]


@pytest.mark.parametrize("verb", [explain, evaluate])
def test_a_mistake_leaves_no_empty_folder(trained, tmp_path, verb):
    with pytest.raises(SenetError, match="there is no data folder"):
        verb(_network(trained), tmp_path / "photos", out=tmp_path / "out", **QUIET)
    assert not (tmp_path / "out").exists()
