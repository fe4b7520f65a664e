"""Retrieval figures as a table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

CUTS = (1, 5, 10)
DIRECTIONS = {"text_to_image": "text -> image", "image_to_text": "image -> text"}
RANKINGS = {"": "contrastive", "reranked/": "re-ranked by matching"}


def print_table(metrics: Mapping[str, float], title: str) -> None:
    """Print recalls beside their chance level."""
    console = Console(highlight=False)
    console.print(title, soft_wrap=True, markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("direction", "ranking", *(f"R@{cut}" for cut in CUTS)):
        table.add_column(column, justify="right" if column.startswith("R@") else "left")
    for direction, name in DIRECTIONS.items():
        for prefix, ranking in RANKINGS.items():
            recalls = [metrics.get(f"{prefix}{direction}/recall@{cut}") for cut in CUTS]
            if None not in recalls:
                table.add_row(name, ranking, *(f"{recall:.1%}" for recall in recalls))
        table.add_row(
            name, "chance", *(f"{metrics.get(f'{direction}/chance@{cut}', 0.0):.1%}" for cut in CUTS), style="dim"
        )
    console.print(table)
