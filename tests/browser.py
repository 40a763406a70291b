"""What a headless browser did with a page: tests ask, the fixture `chromium` is the browser."""

from __future__ import annotations

import json
from pathlib import Path


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
