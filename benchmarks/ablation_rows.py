"""The rows of ALBEF's ablation (Li et al. 2021, table 1) with VILLA's on top, as overrides of one base recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from orchestrator.config.loading import ResolvedRecipe, load_recipe

BASE = Path(__file__).with_name("ablation.yaml")
"""The recipe of the row with every objective and both distillations, without adversarial steps."""

HARD, SOFT_ITC, SOFT_MLM = "matching.hard_negatives", "distillation.contrastive", "distillation.masked_language"

ROWS: Mapping[str, tuple[str, ...]] = {
    "mlm+itm": ("contrastive.enabled=false", f"{HARD}=false", f"{SOFT_ITC}=false", f"{SOFT_MLM}=false"),
    "+itc": (f"{HARD}=false", f"{SOFT_ITC}=false", f"{SOFT_MLM}=false"),
    "+hard-negatives": (f"{SOFT_ITC}=false", f"{SOFT_MLM}=false"),
    "+distilled-itc": (f"{SOFT_MLM}=false",),
    "+distilled-mlm": (),
    "+villa-text": ("adversarial.steps=2", "adversarial.perturb=[text]"),
    "+villa-image": ("adversarial.steps=2", "adversarial.perturb=[image]"),
    "+villa-both": ("adversarial.steps=2", "adversarial.perturb=[text,image]"),
}
"""What each row changes in the base recipe; a row adds one thing to the row above, VILLA's three to the fifth."""

NOISE = {"clean": 0.0, "swapped-40": 0.4}
"""Share of the training captions that are swapped with one another."""


@dataclass(frozen=True)
class Run:
    """One training run of the table.

    Args:
        row: a key of `ROWS`.
        noise: a key of `NOISE`.
        seed: of the weights, the order, the masks, the negatives, the perturbations and the swapped captions.
        overrides: of the base recipe, for every row alike.
    """

    row: str
    noise: str
    seed: int
    overrides: tuple[str, ...] = ()

    @cached_property
    def recipe(self) -> ResolvedRecipe:
        """The run's recipe.

        Raises:
            ConfigError: the overrides are wrong.
        """
        return load_recipe(BASE, [*ROWS[self.row], f"seed={self.seed}", *self.overrides])

    @property
    def steps(self) -> int:
        """Steps of the run, equal for all rows."""
        steps = self.recipe.recipe.length.steps
        if steps is None:
            raise SystemExit(f"length.steps: set it in {BASE} or with --set, so that all rows see as many samples")
        return steps

    def key(self, data: str) -> str:
        """Return what a result belongs to: the run's name and a digest of its recipe and data.

        Args:
            data: names the corpus and its versions.
        """
        made_of = json.dumps([self.recipe.digest(), NOISE[self.noise], data])
        return f"{self.row} {self.noise} {self.seed} {hashlib.sha256(made_of.encode()).hexdigest()[:16]}"


def runs(rows: Sequence[str], noises: Sequence[str], seeds: Sequence[int], overrides: Sequence[str]) -> Iterator[Run]:
    """Yield the runs of a table, seed by seed, so that an unfinished table has whole columns."""
    for seed in seeds:
        for noise in noises:
            for row in rows:
                yield Run(row, noise, seed, tuple(overrides))
