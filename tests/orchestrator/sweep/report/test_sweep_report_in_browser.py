from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser_page import BROWSER, brightness, launched, shown
from made_sweeps import SWEEP, Made, build_sweep

from orchestrator.sweep.report.page import PageInputs, render
from orchestrator.sweep.report.sweep_results import read_results

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is on the PATH")

TWO = SWEEP.replace("mode: min}]", "mode: min}, {metric: held_out/recall@10, mode: max}]")


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with launched(playwright) as browser:
        yield browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("sweep")
    results = read_results(build_sweep(place, Made(text=TWO)))
    page = render(results, PageInputs("name: best\n", "best.yaml", "name: sweep\n", None, ()))
    (place / "report.html").write_text(page, encoding="utf-8")
    return (place / "report.html").as_uri()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 360)])
def test_the_page_opens_without_errors_and_draws_everything(
    browser: playwright.Browser, address: str, scheme: str, width: int
) -> None:
    page = shown(browser, address, scheme, width)
    assert page.faults == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []
    assert len(page.charts) == 18
    assert min(page.charts) > 0
    assert page.overflow <= 0


def test_good_values_stand_out_from_light_and_dark_pages(browser: playwright.Browser, address: str) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(address)
        swatch = page.get_by_label("Colours of loss").first.locator(".swatch").first
        colour = swatch.evaluate("swatch => getComputedStyle(swatch).backgroundColor")
        shades[scheme] = brightness(colour)
        page.close()
    assert shades["light"] < 3 * 96
    assert shades["dark"] > 3 * 160
