"""The page's colours: charts are drawn in the light ones, which become CSS variables with a dark twin.

The data colours are those of Okabe and Ito, "Color Universal Design" (2008), told apart under every common form of
colour blindness; the dark twins keep their hues and are lighter.
"""

from __future__ import annotations

LIGHT = {
    "paper": "#ffffff",
    "panel": "#f6f6f3",
    "ink": "#1c1c1a",
    "muted": "#62625d",
    "rule": "#deded8",
    "blue": "#0072b2",
    "vermillion": "#d55e00",
    "green": "#009e73",
    "orange": "#e69f00",
    "purple": "#cc79a7",
    "sky": "#56b4e9",
    "yellow": "#f0e442",
    "slate": "#4b5563",
    "grey": "#a8a8a2",
    "good": "#00664a",
    "bad": "#a83c00",
    "grade-1": "#d2d6c6",
    "grade-2": "#aecbb3",
    "grade-3": "#80bfa8",
    "grade-4": "#4ca5a2",
    "grade-5": "#2b859a",
    "grade-6": "#1e638c",
    "grade-7": "#1d3e76",
}
"""Colour name to hexadecimal value on a light page; the values are distinct."""

DARK = {
    "paper": "#161715",
    "panel": "#20211f",
    "ink": "#e9e8e3",
    "muted": "#a5a49d",
    "rule": "#3a3b37",
    "blue": "#5cb3e6",
    "vermillion": "#ff8a3d",
    "green": "#35c79c",
    "orange": "#f2b632",
    "purple": "#e29cc4",
    "sky": "#9bd6f7",
    "yellow": "#f5ec72",
    "slate": "#8b97a8",
    "grey": "#6d6d68",
    "good": "#4fd1a5",
    "bad": "#ff9a5c",
    "grade-1": "#38433f",
    "grade-2": "#365b5b",
    "grade-3": "#367a79",
    "grade-4": "#409a92",
    "grade-5": "#63bba3",
    "grade-6": "#9bd9b0",
    "grade-7": "#e2f5bf",
}
"""The same names on a dark page."""

PARTS = ("sky", "vermillion", "blue", "green", "orange", "purple", "yellow", "slate")
"""Colours for the parts of a whole, neighbours well apart."""


GRADES = tuple(f"grade-{number}" for number in range(1, 8))
"""Colours for values from bad to good: the better, the further from the colour of the page, light or dark."""


def part_colours(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return a colour name for each part of a whole, grey for the part called `other`."""
    return tuple("grey" if name == "other" else PARTS[i % len(PARTS)] for i, name in enumerate(names))


def as_variables(svg: str) -> str:
    """Replace the light colours in an SVG by the page's CSS variables."""
    for name, value in LIGHT.items():
        svg = svg.replace(value, f"var(--{name})")
    return svg


def css_variables(colours: dict[str, str]) -> str:
    """Return CSS declarations of one set of colours."""
    return " ".join(f"--{name}: {value};" for name, value in colours.items())
