from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_page import BROWSER, brightness, launched, shown

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is on the PATH")


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with launched(playwright) as browser:
        yield browser


@pytest.fixture
def address(full_page: str, tmp_path: Path) -> str:
    path = tmp_path / "report.html"
    path.write_text(full_page, encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 360)])
def test_page_opens_without_errors_and_draws_everything(
    browser: playwright.Browser, address: str, scheme: str, width: int
) -> None:
    page = shown(browser, address, scheme, width)
    assert page.faults == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []
    assert len(page.images) == 8
    assert min(page.images) > 0
    assert len(page.charts) == 15
    assert min(page.charts) > 0
    assert page.overflow <= 0


def test_dark_mode_turns_text_light(browser: playwright.Browser, address: str) -> None:
    shades = []
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(address)
        colour = page.locator("svg text").first.evaluate("text => getComputedStyle(text).fill")
        shades.append(brightness(colour))
        page.close()
    assert shades[0] < 3 * 128 < shades[1]


def test_copy_button_gives_the_recipe(browser: playwright.Browser, address: str) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(address)
    page.get_by_role("button", name="Copy recipe").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith("steps: 300\nname: <script>")
    context.close()


def test_page_reads_without_javascript(browser: playwright.Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.get_by_role("heading", name="Losses").is_visible()
    assert not page.get_by_text("Copy recipe").is_visible()
    context.close()
