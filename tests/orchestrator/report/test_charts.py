from __future__ import annotations

import re

import numpy as np
import pytest

from orchestrator.report import html
from orchestrator.report.charts import curve_chart, ends, finite, lines_chart, smooth, thin, time_bar
from orchestrator.report.model import Curve
from orchestrator.report.panels import draw, draw_panels
from workloads.contract import Metric, ReportedMetrics
from workloads.downstream.retrieval_metrics import contrastive_metrics, reranked_metrics

NOISY = Metric(name="loss", title="Total loss", unit="loss (nats)", noisy=True)


def line(count: int) -> Curve:
    return Curve(tuple(range(count)), tuple(float(i % 7) for i in range(count)))


def test_text_stays_text_in_the_pages_font_and_colours() -> None:
    svg = curve_chart(line(50), NOISY, "a")
    assert re.search(r"<text[^>]*>loss \(nats\)</text>", svg)
    assert "font-family" not in svg
    assert re.findall(r"#[0-9a-f]{6}\b", re.sub(r'href="#[^"]*"|url\(#[^)]*\)', "", svg)) == []
    assert "var(--blue)" in svg


def test_ids_carry_their_prefix_and_the_figure_no_style_sheet() -> None:
    first, second = curve_chart(line(50), NOISY, "first"), curve_chart(line(50), NOISY, "second")
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert "<style" not in first


def test_charts_are_deterministic() -> None:
    assert curve_chart(line(500), NOISY, "a") == curve_chart(line(500), NOISY, "a")


@pytest.mark.parametrize("values", [(0.0,), (1.5,), (-2.0, -2.0), (0.0, 0.0, 0.0), (1e-9, 2e-9)])
def test_degenerate_curves_draw(values: tuple[float, ...]) -> None:
    style = Metric(name="x", title="x", unit="share", from_zero=True, share=True)
    assert curve_chart(Curve(tuple(range(len(values))), values), style, "a").startswith("<svg")


def test_tiny_values_move_their_power_of_ten_to_the_axis() -> None:
    svg = curve_chart(Curve((1, 2), (1e-4, 3e-4)), Metric(name="lr", title="Learning rate", unit="learning rate"), "lr")
    assert "learning rate \N{MULTIPLICATION SIGN} 10⁻⁴" in svg


def test_recall_labels_do_not_touch() -> None:
    lines = {f"R@{depth}": Curve((100,), (0.30 + depth / 1000,)) for depth in (10, 5, 1)}
    metric = Metric(name="r", title="Text to image", unit="recall (%)", share=True)
    svg = lines_chart(lines, 0.30, metric, "r")
    heights = sorted(float(y) for y in re.findall(r'y="([\d.]+)"[^>]*>(?:R@|chance)', svg))
    assert len(heights) == 4
    assert min(np.diff(heights)) >= 12


def test_time_bar_says_its_shares() -> None:
    assert "Where 40 s went: start-up 25.0%, other 75.0%" in time_bar({"start-up": 10.0, "other": 30.0}, "t")


def test_values_that_are_not_finite_are_left_out_and_counted() -> None:
    (drawing,) = draw({"loss": Curve((1, 2, 3), (2.0, float("nan"), 1.0))}, [NOISY])
    assert drawing.note == "1 of 3 logged values are not finite and are left out."
    assert "nan" not in drawing.svg
    assert draw({"loss": Curve((1,), (float("inf"),))}, [NOISY]) == []


def test_recalls_are_drawn_per_direction_and_ranking() -> None:
    names = ("reranked/text_to_image/recall@10", "image_to_text/recall@10", "text_to_image/recall@1")
    reported = ReportedMetrics(
        steps=(), evaluation=contrastive_metrics(), final_evaluation=reranked_metrics(), step_hooks=""
    )
    panels = draw_panels({f"held_out/{name}": Curve((1, 2), (0.1, 0.2)) for name in names}, reported)
    assert [drawing.title for drawing in panels[-1].drawings] == [
        "Text → image",
        "Image → text",
        "Text → image, re-ranked",
    ]


def test_thinning_keeps_the_peaks() -> None:
    values = np.zeros(100_000)
    values[[777, 54_321]] = 9.0, -9.0
    thinned = thin(Curve(tuple(range(len(values))), tuple(values.tolist())))
    assert len(thinned.values) <= 800
    assert {9.0, -9.0} <= set(thinned.values)
    assert list(thinned.steps) == sorted(set(thinned.steps))


def test_smoothing_keeps_constants_and_calms_noise() -> None:
    noise = np.random.default_rng(0).normal(size=1000)
    smoothed = smooth(Curve(tuple(range(1000)), tuple(noise.tolist())))
    assert np.std(smoothed.values) < 0.25 * np.std(noise)
    assert smooth(Curve(tuple(range(60)), (3.0,) * 60)).values == pytest.approx((3.0,) * 60)


def test_ends_average_two_percent() -> None:
    assert ends(Curve(tuple(range(100)), tuple(float(i) for i in range(100)))) == (0.5, 98.5)
    with pytest.raises(ValueError, match="empty curve"):
        ends(Curve((), ()))


def test_finite_keeps_steps_with_their_values() -> None:
    assert finite(Curve((1, 2, 3), (1.0, float("inf"), 2.0))) == Curve((1, 3), (1.0, 2.0))


def test_palettes_name_the_same_distinct_colours() -> None:
    assert html.LIGHT.keys() == html.DARK.keys()
    assert len(set(html.LIGHT.values())) == len(html.LIGHT)


@pytest.mark.parametrize("colours", [html.LIGHT, html.DARK])
@pytest.mark.parametrize(("name", "least"), [("ink", 7), ("muted", 4.5), ("good", 4.5), ("bad", 4.5), ("blue", 4.5)])
def test_text_colours_have_enough_contrast(colours: dict[str, str], name: str, least: float) -> None:
    light, dark = sorted((luminance(colours[name]), luminance(colours["paper"])), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= least


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
