"""The page in a browser, as a person meets it."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from senet.explore import Held, open_subject
from tests.explore.conftest import WEIGHTS

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --window-size=1400,1000""".split()


class Browser:
    """One page in Chromium, and how a test waits for it."""

    def __init__(self, driver, url):
        self.driver, self.url = driver, url

    def all(self, css):
        return self.driver.find_elements("css selector", css)

    def one(self, css):
        return self.driver.find_element("css selector", css)

    def text(self, css):
        return self.driver.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", css)

    def wait(self, until, what):
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        ignored = [StaleElementReferenceException]
        return WebDriverWait(self.driver, 60, 0.05, ignored).until(
            lambda _: until(), what + ": " + self.text("#status")
        )

    def open(self, fresh=True):
        self._load()
        if fresh:  # as in a new tab; once an answer that is under way has written its key
            self.driver.execute_script("sessionStorage.clear()")
            self._load()

    def _load(self):
        self.driver.get(self.url)
        self.wait(lambda: self.all("main[data-ready]"), "no page")

    def drop(self, file, slot="a"):
        self.one(f"#picture-{slot} input[type=file]").send_keys(str(file))
        self.wait(lambda: file.name[:20] in self.text("#status"), f"no answer to {file.name}")

    def choose(self, css, words):
        self.one(css).click()
        self.wait(lambda: words in self.text("#status"), f"no answer to {css}")

    def predictions(self, slot="a"):
        script = """return [...document.querySelectorAll(arguments[0])].map(
            row => [row.querySelector("th").textContent, row.querySelector(".number").textContent])"""
        return [tuple(row) for row in self.driver.execute_script(script, f"#picture-{slot} .predictions tbody tr")]

    def log(self, kind):
        return self.driver.get_log(kind)


@pytest.fixture(scope="module")
def chromium(served, tmp_path_factory):
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver on the path")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    from selenium.webdriver.chrome.service import Service

    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    browser = Browser(driver, served.url)
    yield browser
    driver.quit()


@pytest.fixture
def browser(chromium):
    """A page just opened; afterwards nothing has gone elsewhere, and nothing has gone wrong in it."""
    chromium.log("performance"), chromium.log("browser")
    chromium.open()
    yield chromium
    assert chromium.driver.execute_script("return window.pwned") is None
    messages = [json.loads(entry["message"])["message"] for entry in chromium.log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    sent += [m["params"]["url"] for m in messages if m["method"] == "Network.webSocketCreated"]
    assert any(url.startswith(chromium.url) for url in sent)
    assert [
        url for url in sent if not url.startswith((chromium.url, "data:", "chrome:", "chrome-untrusted:", "blob:"))
    ] == []
    assert [entry for entry in chromium.log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def picture(folder, seed=0, name="noise.png", size=(60, 50)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    file = folder / name
    Image.fromarray(pixels).save(file)
    return file


def expected(subject, file, held=None):
    pixels = subject.pixels(Image.open(file).convert("RGB"))
    seen = subject.look(pixels, held=held)
    return [(subject.classes[index], f"{100 * p:.2f} %") for index, p in seen.top(5)]


def close(shown, wanted):
    """Equal names, and percentages within the last digit: another process may add in another order."""
    assert [name for name, _ in shown] == [name for name, _ in wanted]
    for (_, a), (_, b) in zip(shown, wanted, strict=True):
        assert float(a.rstrip(" %")) == pytest.approx(float(b.rstrip(" %")), abs=0.011)


def test_a_picture_is_predicted_and_a_block_is_held(browser, subject, tmp_path):
    file = picture(tmp_path)
    browser.drop(file)
    close(browser.predictions(), expected(subject, file))
    assert len(browser.all("#strips .strip img")) == len(subject.channels)
    assert browser.driver.execute_script(
        "return [...document.querySelectorAll('#strips .strip img')].every(i => i.naturalHeight == 1)"
    )
    name = list(subject.channels)[2]
    browser.choose(f"#strips button[data-block='{name}']", f"block {name}")
    browser.choose("#controls input[value=one]", f"{name} are held at 1")
    close(browser.predictions(), expected(subject, file, {name: Held("one")}))
    assert browser.text("#strips .held") == "held at 1"

    slider = browser.one("#controls input[type=range]")
    browser.driver.execute_script(
        "arguments[0].value = 0.35; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))", slider
    )
    browser.wait(lambda: browser.text("#strips .held") == "scaled by 0.35", "not scaled")
    close(browser.predictions(), expected(subject, file, {name: Held("scaled", 0.35)}))
    assert browser.one("#controls input[value=scaled]").is_selected()
    browser.choose("#controls button[data-value=computed]", "all blocks are as computed")
    close(browser.predictions(), expected(subject, file))


def test_two_pictures_are_compared_and_one_taken_away(browser, subject, tmp_path):
    files = {slot: picture(tmp_path, seed, f"{slot}.png") for seed, slot in enumerate("ab")}
    for slot, file in files.items():
        browser.drop(file, slot)
        close(browser.predictions(slot), expected(subject, file))
    assert len(browser.all("#strips .strip img")) == 3 * len(subject.channels)
    assert "differ most" in browser.text("#detail")
    browser.choose("#picture-a button[data-do=clear]", "taken away")
    assert browser.driver.execute_script("return document.activeElement.dataset.slot") == "A"  # its button is gone
    assert browser.predictions("a") == []
    assert len(browser.all("#strips .strip img")) == len(subject.channels)


def test_a_server_that_no_longer_knows_the_page_is_told_of(browser, tmp_path):
    browser.drop(picture(tmp_path))
    browser.driver.execute_script("sessionStorage.setItem('senet-explore', 'of an earlier server')")
    browser.choose("#controls input[value=one]", "no longer has the pictures")
    assert browser.predictions() == []
    browser.drop(picture(tmp_path))
    assert browser.text("#status [role=alert]") == ""


DROP = """
const [target, name, base64] = arguments;
const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([bytes], name, {type: "image/png"}));
const passed = ["dragover", "drop"].map((kind) => document.querySelector(target).dispatchEvent(
    new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: transfer})));
return passed.some(Boolean);  // whether the browser would do with it what it always does: leave the page
"""


def test_a_file_is_dropped_on_its_place_and_beside_it(browser, subject, tmp_path):
    file = picture(tmp_path, 3, "dropped.png")
    content = base64.b64encode(file.read_bytes()).decode()
    assert not browser.driver.execute_script(DROP, "#picture-b .drop-words", file.name, content)
    browser.wait(lambda: "Picture B is dropped.png" in browser.text("#status"), "not dropped")
    close(browser.predictions("b"), expected(subject, file))
    assert not browser.driver.execute_script(DROP, "#strips", "beside.png", content)
    assert not browser.driver.execute_script(DROP, "body", "beside.png", content)
    assert "beside" not in browser.text("#status")


def test_files_that_are_no_pictures_harm_nothing(browser, subject, tmp_path):
    good = picture(tmp_path)
    browser.drop(good)
    text, svg, large, thread = (tmp_path / name for name in ("text.png", "drawing.svg", "large.png", "thread.png"))
    text.write_text("I am a picture, am I not?")
    svg.write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>window.pwned = 1</script><image href="http://'
                   'example.invalid/x.png" onload="window.pwned = 1"/></svg>')  # fmt: skip
    Image.new("1", (10_000, 10_000)).save(large)
    Image.new("L", (30_000, 2)).save(thread)
    hostile = tmp_path / "<img src=x onerror=window.pwned=1>.png"
    hostile.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    big = tmp_path / "big.png"
    with big.open("wb") as stream:
        stream.truncate(17 * 2**20)
    for file, words in (
        (text, "this is a text, not a picture"),
        (svg, "this is an SVG drawing, not a picture of pixels"),
        (large, "10000 × 10000 pixels, 100 million; the page takes at most 50 million"),
        (thread, "30000 × 2 pixels"),
        (hostile, "this is not a readable picture"),
        (big, "this file has 17 MiB; the page takes pictures of at most 16 MiB"),
    ):
        browser.drop(file)
        assert words in browser.text("#status [role=alert]")
        assert browser.text("#status [role=status]") == ""
    close(browser.predictions(), expected(subject, good))  # the picture from before, as before
    assert browser.all("#status img") == browser.all("svg image") == []
    other = picture(tmp_path, 5, "other.png")
    browser.drop(other)
    close(browser.predictions(), expected(subject, other))
    assert browser.text("#status [role=alert]") == ""


def test_a_class_name_with_html_is_text(browser, subject, tmp_path):
    browser.drop(picture(tmp_path))
    names = [name for name, _ in browser.predictions()]
    assert sorted(names) == sorted(subject.classes)
    assert browser.all(".predictions img") == browser.all(".predictions b") == browser.all("main script") == []


def test_it_can_be_used_with_the_keyboard_alone(browser, subject, tmp_path):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.drop(picture(tmp_path))
    browser.driver.execute_script("document.activeElement.blur(); window.getSelection().removeAllRanges()")

    def press(key):
        ActionChains(browser.driver).send_keys(key).perform()

    def focused(script="e => e.dataset.do ?? e.type"):
        return browser.driver.execute_script(f"return ({script})(document.activeElement)")

    def tab_to(what):
        for _ in range(40):
            press(Keys.TAB)
            if focused() == what:
                visible = focused("e => getComputedStyle(e.closest('.drop') ?? e).outlineStyle")
                assert visible != "none", f"{what} does not show that it has the focus"
                return
        pytest.fail(f"{what} cannot be reached")

    browser.one("#networks input").click()
    tab_to("file")
    tab_to("hold")
    press(Keys.ARROW_RIGHT)  # from "as computed" to "held at 1"
    last = list(subject.channels)[-1]
    browser.wait(lambda: f"{last} are held at 1" in browser.text("#status"), "not held")
    assert focused("e => e.value") == "one"  # the focus stays
    tab_to("factor")
    press(Keys.ARROW_LEFT)
    browser.wait(lambda: f"{last} are scaled by 0.95" in browser.text("#status"), "not scaled")
    tab_to("all")
    press(Keys.ENTER)
    browser.wait(lambda: "all blocks are held at 1" in browser.text("#status"), "not all held")
    tab_to("block")
    press(Keys.SPACE)
    first = next(iter(subject.channels))
    browser.wait(lambda: f"block {first}" in browser.text("#status"), "not chosen")
    assert focused("e => e.dataset.block") == first
    assert focused("e => e.getAttribute('aria-pressed')") == "true"


def test_a_screen_reader_finds_names_and_roles(browser, tmp_path):
    for slot in "ab":
        browser.drop(picture(tmp_path, name=f"{slot}.png"), slot)
    nodes = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", "").strip())
        for node in nodes
        if not node.get("ignored") and "role" in node
    ]
    needs_a_name = {"button", "radio", "slider", "image", "group", "table", "region", "heading", "textbox", "checkbox"}
    assert [role for role, name in found if role in needs_a_name - {"table", "group"} and not name] == []
    names = {role: [name for other, name in found if other == role] for role, _ in found}
    assert "What do the gates do?" in names["heading"]
    assert any(name.startswith("Scale the gates of") for name in names["slider"])
    assert {"as computed", "held at 1", "scaled"} <= set(names["radio"])
    assert "Gates of all blocks" in names["group"]
    assert "Picture A: choose a file" in names["button"]
    assert any("mean" in name and "from" in name for name in names["image"])
    assert {"status", "alert"} <= set(names)  # where messages come, which a screen reader then says
    assert len(browser.all("#status [role=status], #status [role=alert]")) == 2
    assert browser.driver.execute_script("return document.documentElement.lang") == "en"
    assert browser.driver.title == "senet explore"


@pytest.fixture
def shown(browser):
    """Shows the page in a width and a colour scheme."""

    def show(width, scheme):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    yield show
    browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("width", [1280, 390])
def test_it_can_be_used_on_a_phone_and_a_desk_in_light_and_dark(browser, shown, tmp_path, width):
    """Nothing off the screen, strips to be seen, no violation that axe-core finds, contrast at least 4.5."""
    axe_selenium = pytest.importorskip("axe_selenium_python", reason="needs axe-selenium-python (extra 'dev')")
    shown(width, "light")
    for slot in "ab":
        browser.drop(picture(tmp_path, name=f"{slot}.png"), slot)
    browser.choose("#controls input[value=one]", "held at 1")
    script = "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
    assert browser.driver.execute_script(script) == 0
    script = "return [...document.querySelectorAll('.strip img')].map(image => image.getBoundingClientRect().width)"
    assert min(browser.driver.execute_script(script)) > 120
    axe = axe_selenium.Axe(browser.driver)
    axe.inject()
    contrast = (Path(__file__).parent / "contrast.js").read_text()
    for scheme in ("light", "dark"):
        shown(width, scheme)
        assert [(each["id"], each["nodes"]) for each in axe.run()["violations"]] == []
        assert browser.driver.execute_script(contrast) == []


def test_a_reload_keeps_pictures_and_holds(browser, subject, tmp_path):
    file = picture(tmp_path)
    browser.drop(file)
    name = list(subject.channels)[-1]
    browser.choose("#controls input[value=one]", f"{name} are held at 1")
    before = browser.predictions()
    browser.open(fresh=False)
    assert browser.predictions() == before
    assert browser.text("#strips .held") == "held at 1"
    assert file.name in browser.text("#picture-a figcaption")
    browser.open()
    assert browser.predictions() == []


def test_a_network_of_timm_on_a_photo(browser, shared, imagenet100):
    subject = open_subject(
        "timm:tf_mobilenetv3_small_100",
        str(shared / WEIGHTS),
        classes=shared / "data" / "imagenet-wnids.json",
        class_offset=1,
    )
    browser.choose("#networks input[value^=timm]", "timm:tf_mobilenetv3_small_100")
    file = sorted(imagenet100.rglob("*.JPEG"))[0]
    browser.drop(file)
    wanted = expected(subject, file)
    close(browser.predictions(), wanted)
    identifiers = json.loads((shared / "data" / "imagenet-wnids.json").read_text())
    words = pytest.importorskip("torchvision").models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    assert wanted[0][0] == words[identifiers.index(file.parent.name)]
    name = list(subject.channels)[-1]
    browser.choose("#controls input[value=one]", f"{name} are held at 1")
    close(browser.predictions(), expected(subject, file, {name: Held("one")}))
    with torch.no_grad():  # and by nothing of ours but the preprocessing
        x = subject.preprocessing.normalise(subject.pixels(Image.open(file).convert("RGB"))[None])
        subject.network.get_submodule(name).forward = lambda u: u
        scores = subject.network(x)[0].softmax(0)
    assert browser.predictions()[0] == (subject.classes[int(scores.argmax())], f"{100 * float(scores.max()):.2f} %")
