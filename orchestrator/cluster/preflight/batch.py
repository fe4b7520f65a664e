"""Whether the shape of the batch is one that the workload takes, and that workers can share."""

from __future__ import annotations

import math
from collections.abc import Iterator

from orchestrator.cluster.findings import Finding, failed, passed, warned
from orchestrator.config.loading import ResolvedRecipe

NAME = "batch"


def check_batch(resolved: ResolvedRecipe) -> Iterator[Finding]:
    """Yield what the workload says about the batch, its queue among other things, and how it is shared out."""
    recipe, batch = resolved.recipe, resolved.recipe.batch
    shape = f"{batch.micro_batches} micro-batches of {batch.micro_batch_size}, {batch.samples} samples a step"
    problems = list(resolved.entry.check(resolved.workload, batch.shape))
    for problem in problems:
        yield failed(NAME, f"{problem.key}: {problem.message}", f"Change {problem.key} or the batch ({shape}).")
    if problems:
        return
    yield passed(NAME, f"{shape}; the workload {recipe.workload} takes it, with queue and objectives as they are")
    workers = recipe.scale.most_workers
    rounds = math.ceil(batch.micro_batches / workers)
    if rounds * workers != batch.micro_batches:
        idle = 1 - batch.micro_batches / (rounds * workers)
        fix = "Let scale.workers divide batch.micro_batches."
        yield warned(
            NAME, f"{batch.micro_batches} micro-batches on {workers} workers leave {idle:.0%} of them idle", fix
        )
