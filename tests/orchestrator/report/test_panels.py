from __future__ import annotations

import pytest

from orchestrator.report import formats
from orchestrator.report.model import Curve
from orchestrator.report.panels import best_evaluations, show_tables
from workloads.contract import Evaluation, Metric, ReportedMetrics
from workloads.downstream.retrieval_metrics import contrastive_metrics, reranked_metrics, retrieval_tables

REPORTED = ReportedMetrics(steps=(), evaluation=contrastive_metrics(), final_evaluation=reranked_metrics())


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (0.0, "0.000"),
        (0.123456789, "0.123"),
        (5.9371, "5.94"),
        (58.31, "58.3"),
        (-12.34, "-12.3"),
        (1234.5, "1,234"),
        (0.00012, "1.2 \N{MULTIPLICATION SIGN} 10⁻⁴"),
        (float("nan"), "not finite"),
    ],
)
def test_figures(number: float, written: str) -> None:
    assert formats.figure(number) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.84, "0.8 s"),
        (9.99, "10.0 s"),
        (59.7, "1 min 00 s"),
        (341, "5 min 41 s"),
        (3725, "1 h 02 min"),
        (97_000, "1 d 02 h"),
    ],
)
def test_durations(seconds: float, written: str) -> None:
    assert formats.duration(seconds) == written


def test_shares_sizes_and_ticks() -> None:
    assert [formats.percent(share) for share in (0, 0.0001, 0.0123, 1)] == ["0.0%", "<0.1%", "1.2%", "100.0%"]
    assert [formats.size(number) for number in (12, 1500, 123_456_789, 5 * 10**12)] == [
        "12 bytes",
        "1.5 kB",
        "123.5 MB",
        "5.0 TB",
    ]
    assert [formats.short_count(step) for step in (800, 1500, 20_000, 3e6)] == ["800", "1.5k", "20k", "3M"]


def test_tables_put_the_rankings_beside_chance() -> None:
    metrics = {"text_to_image/recall@1": 0.1, "text_to_image/recall@5": 0.3, "reranked/text_to_image/recall@5": 0.4}
    metrics |= {"text_to_image/chance@1": 0.01, "text_to_image/median_rank": 9.0}
    first, _ = show_tables(Evaluation(metrics, retrieval_tables(reranked=True)), REPORTED)
    assert (first.table.title, first.table.columns) == ("Text → image", ("R@1", "R@5", "R@10", "Median rank"))
    assert first.chances == ("1.0%", "", "", "")
    contrastive, reranked = first.rows
    assert [cell.text for cell in contrastive.cells] == ["10.0%", "30.0%", "", "9"]
    assert [cell.text for cell in reranked.cells] == ["", "40.0%", "", ""]
    assert contrastive.cells[0].times_chance == pytest.approx(10)
    assert contrastive.cells[1].times_chance is None


def test_metrics_without_a_table_are_listed() -> None:
    reported = ReportedMetrics(steps=(), evaluation=(Metric(name="accuracy", title="Accuracy", share=True),))
    (shown,) = show_tables(Evaluation({"accuracy": 0.25, "undeclared": 3.0}), reported)
    assert [(row.name, row.cells[0].text) for row in shown.rows] == [("Accuracy", "25.0%"), ("undeclared", "3")]
    assert shown.chances == ()


def test_best_recall_looks_at_the_final_evaluation_and_at_those_before() -> None:
    evaluation = Evaluation({"text_to_image/recall@10": 0.3, "text_to_image/chance@10": 0.02})
    curves = {"held_out/text_to_image/recall@10": Curve((100, 200, 300), (0.2, 0.4, float("nan")))}
    (final,), (during,) = (best_evaluations(measured, evaluation, REPORTED) for measured in ({}, curves))
    assert (final.value, final.chance, final.step, final.metric.title) == (0.3, 0.02, None, "Text → image")
    assert (during.value, during.chance, during.step, during.metric.title) == (0.4, 0.02, 200, "Text → image")
    assert best_evaluations({}, Evaluation({"text_to_image/recall@1": 0.3}), REPORTED) == []


def test_the_best_of_a_metric_to_minimise_is_the_least() -> None:
    error = Metric(name="error", title="Error", label="error", goal="min", headline=True)
    curves = {"held_out/error": Curve((1, 2, 3), (0.3, 0.1, 0.2))}
    (best,) = best_evaluations(curves, Evaluation({"error": 0.15}), ReportedMetrics(steps=(), evaluation=(error,)))
    assert (best.value, best.step) == (0.1, 2)
