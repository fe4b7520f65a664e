"""What a run's recipe says about its checkpoints."""

from __future__ import annotations

from orchestrator.config.document import Document
from orchestrator.config.errors import RecipeError
from orchestrator.config.loading import validate
from orchestrator.config.recipe import CheckpointSection
from orchestrator.storage.run_folder import RunFolder


def checkpoint_section(run: RunFolder) -> CheckpointSection:
    """Return the section `checkpoint` of the recipe that a run was started with; its workload need not be installed.

    Raises:
        SpecError: the recipe is damaged.
        StorageError: it cannot be read.
    """
    document = Document.parse(run.recipe.read().decode(), run.recipe.uri)
    section = validate(CheckpointSection, document.plain().get("checkpoint", {}), document)
    if isinstance(section, list):
        raise RecipeError(section)
    return section
