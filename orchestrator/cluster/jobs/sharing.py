"""Whether the machines of a cluster can find what a recipe names."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.cluster.jobs.places import Place, file_places
from orchestrator.config.errors import Finding, RecipeError
from orchestrator.config.loading import ResolvedRecipe

LOOPBACK = ("localhost", "127.0.0.1", "::1")
FIXES = {
    "data": "put the data into object storage (s3://, gs://), or give the absolute path of a file system that all "
    "machines of the cluster share",
    "storage": "set storage.uri to object storage (s3://BUCKET/runs, gs://BUCKET/runs), or to the absolute path of a "
    "file system that all machines of the cluster share",
    "tracking": "set tracking.uri to the address of an MLflow server (https://...), or to 'environment' when the "
    "cluster's machines have MLFLOW_TRACKING_URI",
    "start": "copy the checkpoint into object storage (s3://, gs://) and name it there",
    "recovery": "give the absolute path that the file has on every machine",
}
OTHERWISE = (
    "give a name on the hub instead, or the absolute path of a file system that all machines of the cluster share"
)


def check_shared(resolved: ResolvedRecipe, folder: Path) -> list[str]:
    """Refuse a recipe that names what this machine alone has; return warnings about what others may not have.

    Args:
        resolved: the recipe.
        folder: where relative paths start.

    Raises:
        RecipeError: it does; every such key is listed with the fix.
    """
    places = file_places(resolved, folder)
    findings = [_only_here(place) for place in places if not place.is_absolute]
    if findings:
        raise RecipeError(findings)
    return [*map(_must_be_shared, places), *_loopback(resolved), *_environment(resolved)]


def _only_here(place: Place) -> Finding:
    fix = FIXES.get(str(place.keys[0]), OTHERWISE)
    return Finding(place.key, f"{place.value} is a path that only this machine knows, not the cluster; {fix}.")


def _must_be_shared(place: Place) -> str:
    if place.keys[0] == "recovery":
        return f"{place.key}: {place.path} is looked for on every machine of the cluster."
    return f"{place.key}: {place.value} must be on a file system that all machines of the cluster share."


def _loopback(resolved: ResolvedRecipe) -> list[str]:
    recipe = resolved.recipe
    addresses = {"storage.endpoint": recipe.storage.endpoint, "tracking.uri": recipe.tracking.uri}
    return [
        f"{key}: {address} is the cluster's own machine there, not this one."
        for key, address in addresses.items()
        if address and urlsplit(address).hostname in LOOPBACK
    ]


def _environment(resolved: ResolvedRecipe) -> list[str]:
    if resolved.recipe.tracking.uri != "environment":
        return []
    return ["tracking.uri: MLFLOW_TRACKING_URI is read on the cluster; it must be set for Ray on its head."]
