"""A browser without a screen, which tells what it did."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A headless Chromium that keeps its console's and its network's log; tests skip where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (extra 'dev')")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (found and driver):
        pytest.skip("needs Chromium and chromedriver, which are not on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for flag in (
        "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
        "disable-component-update disable-sync disable-dev-shm-usage window-size=1200,900"
    ).split():
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield browser
    finally:
        browser.quit()


def opened(browser, path: Path) -> None:
    """Open a file in the browser, what it logged before forgotten."""
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(path.resolve().as_uri())


def complaints(browser) -> list[str]:
    """What the browser's console says."""
    return [entry["message"] for entry in browser.get_log("browser")]


def requests(browser) -> list[str]:
    """The addresses that the browser asked for, but for what is in the page itself (data:)."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith("data:")]
