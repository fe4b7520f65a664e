from __future__ import annotations

import pytest

from orchestrator.report import formats
from orchestrator.report.model import Curve
from orchestrator.report.panels import best_recall, tables


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
    (table,) = tables(metrics)
    assert (table.direction, table.depths, table.chances) == ("Text → image", (1, 5), (0.01, None))
    assert [row.recalls for row in table.rows] == [(0.1, 0.3), (None, 0.4)]
    assert [row.median_rank for row in table.rows] == [9.0, None]


def test_best_recall_looks_at_the_final_evaluation_and_at_those_before() -> None:
    metrics = {"text_to_image/recall@10": 0.3, "text_to_image/chance@10": 0.02}
    curves = {"held_out/text_to_image/recall@10": Curve((100, 200, 300), (0.2, 0.4, float("nan")))}
    final, during = best_recall(metrics, {}), best_recall(metrics, curves)
    assert final is not None
    assert (final.share, final.chance, final.where) == (0.3, 0.02, "text → image, contrastive")
    assert during is not None
    assert (during.share, during.chance, during.where) == (0.4, 0.02, "text → image, contrastive, at step 200")
    assert best_recall({"text_to_image/recall@1": 0.3}, {}) is None
