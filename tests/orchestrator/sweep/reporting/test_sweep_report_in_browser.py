from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from made_sweeps import SWEEP, Made, build_sweep

from orchestrator.sweep.reporting.findings import gather
from orchestrator.sweep.reporting.page import Shared, render

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]

pytestmark = pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is on the PATH")

TWO = SWEEP.replace("mode: min}]", "mode: min}, {metric: held_out/recall@10, mode: max}]")


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("sweep")
    findings = gather(build_sweep(place, Made(text=TWO)))
    page = render(findings, Shared("name: best\n", "best.yaml", "name: sweep\n", None, ()))
    (place / "report.html").write_text(page, encoding="utf-8")
    return (place / "report.html").as_uri()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 360)])
def test_the_page_opens_without_errors_and_draws_everything(
    browser: playwright.Browser, address: str, scheme: str, width: int
) -> None:
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    faults: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    charts = page.locator("svg").evaluate_all("all => all.map(svg => svg.getBBox()).map(b => b.width * b.height)")
    overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    page.close()
    assert faults == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert len(charts) == 18
    assert min(charts) > 0
    assert overflow <= 0


def test_good_values_stand_out_from_light_and_dark_pages(browser: playwright.Browser, address: str) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(address)
        swatch = page.get_by_label("Colours of loss").first.locator(".swatch").first
        colour = swatch.evaluate("swatch => getComputedStyle(swatch).backgroundColor")
        shades[scheme] = sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
        page.close()
    assert shades["light"] < 3 * 96
    assert shades["dark"] > 3 * 160
