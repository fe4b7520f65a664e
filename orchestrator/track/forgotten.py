"""Runs in MLflow whose driver was lost before it could remember them."""

from __future__ import annotations

from collections.abc import Mapping

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

NAME = "mlflow.runName"


def forgotten_run(client: MlflowClient, experiment_id: str, name: str, tags: Mapping[str, str]) -> str | None:
    """Return the id of a run that was created with this name and these tags and never used; None when there is none.

    Args:
        client: MLflow.
        experiment_id: where to look.
        name: the run's name.
        tags: its first tags.
    """
    wanted = {NAME: name, **tags}
    if not tags or any("'" in value for value in wanted.values()):
        return None  # nothing tells runs apart, or not in a way that MLflow's filters can be told
    condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in wanted.items())
    found = client.search_runs([experiment_id], f"{condition} and attributes.status = 'RUNNING'")
    return next((run.info.run_id for run in found if _unused(run)), None)


def _unused(run: Run) -> bool:
    return not run.data.metrics and not run.data.params
