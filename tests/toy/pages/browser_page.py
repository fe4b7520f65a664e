"""A page as a browser shows it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@dataclass(frozen=True, slots=True)
class Shown:
    """What is to be said of a page that was opened.

    Args:
        faults: errors and messages of the page.
        requests: addresses that it asked for.
        images: widths of its pictures.
        charts: areas of its drawings.
        overflow: pixels by which it is wider than its window.
    """

    faults: list[str]
    requests: list[str]
    images: list[int]
    charts: list[float]
    overflow: int


@contextmanager
def launched(playwright: Any) -> Iterator[Any]:
    """Yield a browser that runs without a window."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        yield browser
        browser.close()


def shown(browser: Any, address: str, scheme: str, width: int) -> Shown:
    """Open a page and close it again."""
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    faults: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    images = page.locator("img").evaluate_all("all => all.map(image => image.naturalWidth)")
    charts = page.locator("svg").evaluate_all("all => all.map(svg => svg.getBBox()).map(b => b.width * b.height)")
    overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    page.close()
    return Shown(faults, requests, images, charts, overflow)


def brightness(colour: str) -> int:
    """Return the sum of the three parts of a colour as browsers write it, such as rgb(1, 2, 3)."""
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
