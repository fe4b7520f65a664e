"""Checking a run's ledger against its recipe and its data."""

from __future__ import annotations

from orchestrator.config.loading import ResolvedRecipe
from orchestrator.storage.run_folder import RunError, RunFolder
from orchestrator.stream.ledger import Audit, check_ledger, read_ledger
from orchestrator.train.run_opening import reopened


def audit_run(run: RunFolder, resolved: ResolvedRecipe) -> Audit:
    """Compare a run's ledger, up to its newest checkpoint, with the order of its samples.

    Raises:
        RunError: the run keeps no ledger, has no checkpoint yet, or its data changed.
        StorageError: the store is failing.
        DataSetError: the data is missing or not indexed.
    """
    if not resolved.recipe.stream.audit:
        raise RunError(f"{run.root.uri}: the run keeps no ledger; train with stream.audit=true.")
    steps = run.newest_step()
    if steps == 0:
        raise RunError(f"{run.root.uri}: there is no checkpoint yet, so no step counts.")
    plan = reopened(run, resolved)
    return check_ledger(read_ledger(run.ledger), plan.reader, range(steps * resolved.recipe.batch.micro_batches))
