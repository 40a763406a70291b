"""What a headless browser did with a page: tests ask, the fixture `chromium` is the browser."""

from __future__ import annotations

import base64
import json
import time
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


def printed(browser) -> bytes:
    """The open page as a PDF. Chromium sometimes answers that printing failed, and prints when it is asked again."""
    from selenium.common.exceptions import WebDriverException

    for attempt in range(3):
        try:
            made = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
            break
        except WebDriverException as error:
            if attempt == 2 or "Printing failed" not in str(error):
                raise
            address = browser.current_url
            browser.get("about:blank")  # what failed leaves its layout behind
            time.sleep(1)
            browser.get(address)
    return base64.b64decode(made["data"])


def requests(browser) -> list[str]:
    """The addresses that a page asked for, but for what is in the page itself (data:) and in the browser (chrome:)."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith(("data:", "chrome:", "chrome-untrusted:"))]
