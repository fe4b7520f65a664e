"""docs/architecture.md names files, functions and classes that exist."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "architecture.md"
TEXT = PAGE.read_text()
WALKS = 6
MOST_FILES = 19
"""Most files of a walk, on average."""


def _paths(text: str) -> list[str]:
    return re.findall(r"`((?:orchestrator|workloads)/[\w./]*|[\w.]+\.toml)`", text)


def _places(text: str) -> list[str]:
    """Return the numbered items and table rows that name a file."""
    parts = re.split(r"\n(?=\d+\. |\| |\n)", text)
    return [part for part in parts if re.match(r"\d+\. |\| ", part) and _paths(part)]


@pytest.mark.parametrize("path", sorted(set(_paths(TEXT))))
def test_paths_exist(path: str) -> None:
    assert (REPOSITORY / path).exists()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)]+)\)", TEXT))))
def test_links_lead_somewhere(target: str) -> None:
    assert (PAGE.parent / target).exists()


@pytest.mark.parametrize("place", _places(TEXT), ids=lambda place: " ".join(_paths(place)))
def test_names_are_in_the_files_beside_them(place: str) -> None:
    files = [REPOSITORY / path for path in _paths(place)]
    content = "\n".join(file.read_text() for file in files if file.is_file())
    names = re.findall(r"`(\w+)`", place)
    assert [name for name in names if not re.search(rf"\b{name}\b", content)] == []


def _walks(text: str) -> list[Sequence[str]]:
    sections = (_places(section) for section in text.split("\n## "))
    numbered = ([place for place in section if place[0].isdigit()] for section in sections)
    return [_paths("\n".join(items)) for items in numbered if items]


def test_walks_are_short() -> None:
    lengths = [len(walk) for walk in _walks(TEXT)]
    assert len(lengths) == WALKS
    assert sum(lengths) / WALKS <= MOST_FILES


def test_the_page_names_every_room() -> None:
    rooms = [
        folder.name
        for package in ("orchestrator", "workloads")
        for folder in (REPOSITORY / package).iterdir()
        if folder.is_dir() and not folder.name.startswith("_")
    ]
    drawing = TEXT.partition("## The rooms")[2].partition("\n## ")[0]
    assert [room for room in rooms if not re.search(rf"\b{room}\b", drawing)] == []
