"""The best configuration as a recipe that trains as it is."""

from __future__ import annotations

from orchestrator.sweep.reporting.configurations import Configuration
from orchestrator.sweep.reporting.findings import Findings
from orchestrator.sweep.reporting.words import score_text
from orchestrator.train.plan import recipe_yaml

POPULATION = (
    "Its values changed while it was trained (population based training); this recipe trains with the last ones from "
    "the start, which need not come to the same."
)


def best_recipe(findings: Findings, best: Configuration) -> str:
    """Return the recipe of a configuration as YAML, with the recipe's own seed, storage and tracking.

    Args:
        findings: of the sweep.
        best: the configuration.

    Raises:
        RecipeError: this version of Fuseray refuses its values.
    """
    sweep = findings.sweep
    recipe = sweep.recipe(best.assignment, {"name": f"{sweep.sweep.name}-best"})
    return "".join(f"# {' '.join(line.split())}\n" for line in _about(findings, best)) + recipe_yaml(recipe)


def _about(findings: Findings, best: Configuration) -> list[str]:
    reached = ", ".join(
        f"{metric} {score_text(score)}" for metric, score in zip(findings.metrics, best.scores, strict=True)
    )
    replicas = len(best.replicas)
    lines = [
        f"Configuration {best.number} of the sweep {findings.sweep.sweep.name}, the best by {findings.metrics[0]}.",
        f"It came to {reached} after {best.samples:,} samples, "
        + (f"mean and standard deviation over {replicas} seeds." if replicas > 1 else "with one seed."),
        f"Searched were {', '.join(one.key for one in findings.sweep.parameters)}.",
    ]
    lines += [POPULATION] if findings.sweep.sweep.scheduler.kind == "pbt" else []
    lines += ["The sweep was still running when this was written."] if findings.is_running else []
    return lines
