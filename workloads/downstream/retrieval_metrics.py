"""What retrieval reports: its metrics, and the tables that show them. Known without torch."""

from __future__ import annotations

from collections.abc import Iterator

from workloads.contract import Metric, Panel, Table, TableRow

RECALL_AT = (1, 5, 10)
HEADLINE_AT = 10

DIRECTIONS = {"text_to_image": "Text \N{RIGHTWARDS ARROW} image", "image_to_text": "Image \N{RIGHTWARDS ARROW} text"}
"""Direction of search as metrics name it, and as people read it."""

RERANKED = "reranked/"
"""Before the names of metrics whose ranking has its first items ordered by the matching head."""

R_MEAN = "r_mean"
"""Mean of the recalls at all K in both directions."""

PANEL = Panel(
    "Held-out retrieval over time",
    "Recall at K: the share of held-out queries whose right answer is among the first K results.",
)


def contrastive_metrics() -> tuple[Metric, ...]:
    """Return the metrics of a ranking by similarity, with the recalls that chance would reach."""
    chances = [
        Metric(name=f"{direction}/chance@{k}", title=title, share=True, label=f"chance@{k}")
        for direction, title in DIRECTIONS.items()
        for k in RECALL_AT
    ]
    skipped = Metric(name="skipped", title="Samples that cannot be used", goal="min")
    return (*_ranking_metrics("", ""), *chances, skipped)


def reranked_metrics() -> tuple[Metric, ...]:
    """Return the metrics of the ranking that the matching head refines."""
    return tuple(_ranking_metrics(RERANKED, ", re-ranked"))


def retrieval_tables(reranked: bool) -> tuple[Table, ...]:
    """Return a table per direction, with a row per ranking.

    Args:
        reranked: whether the matching head ranked again.
    """
    rankings = {"": "Contrastive"} | ({RERANKED: "Re-ranked with ITM"} if reranked else {})
    return tuple(
        Table(
            title,
            "Ranking",
            (*(f"R@{k}" for k in RECALL_AT), "Median rank"),
            tuple(TableRow(name, _row(f"{prefix}{direction}")) for prefix, name in rankings.items()),
            "R@K: the share of held-out queries whose right answer is among the first K results.",
        )
        for direction, title in DIRECTIONS.items()
    )


def _row(search: str) -> tuple[str, ...]:
    return (*(f"{search}/recall@{k}" for k in RECALL_AT), f"{search}/median_rank")


def _ranking_metrics(prefix: str, suffix: str) -> Iterator[Metric]:
    for direction, title in DIRECTIONS.items():
        for k in RECALL_AT:
            yield Metric(
                name=f"{prefix}{direction}/recall@{k}",
                title=title + suffix,
                unit="recall (%)",
                share=True,
                goal="max",
                panel=PANEL,
                label=f"R@{k}",
                headline=k == HEADLINE_AT,
                chance=f"{direction}/chance@{k}",
            )
        for kind in ("median", "mean"):
            yield Metric(
                name=f"{prefix}{direction}/{kind}_rank", title=title + suffix, goal="min", label=f"{kind} rank"
            )
    yield Metric(name=f"{prefix}{R_MEAN}", title="Mean of the recalls" + suffix, share=True, goal="max", label="R mean")
