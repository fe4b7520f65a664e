"""Opening a run again from its folder, with the data that it used."""

from __future__ import annotations

from orchestrator.config.loading import ResolvedRecipe
from orchestrator.storage.run_folder import RunError, RunFolder
from orchestrator.train.plan import Plan, training_data


def reopened(run: RunFolder, resolved: ResolvedRecipe) -> Plan:
    """Return the plan that a run followed, without its held-out samples.

    Args:
        run: the run.
        resolved: its recipe.

    Raises:
        RunError: there is no such run, or its data changed.
        StorageError: the store is failing.
        DataSetError: the data is missing or not indexed.
    """
    data, _ = training_data(resolved.recipe)
    if data.digest != run.read().index_digest:
        raise RunError(
            f"{run.root.uri}: the training data in {data.places} changed since the run, so which samples it used can "
            "no longer be told. Put the data back."
        )
    return Plan(resolved, data, None, None, run, ())
