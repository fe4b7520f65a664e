"""Whether the places that a recipe names mean the same on every machine of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.cluster.doctor.services import SQLITE
from orchestrator.cluster.findings import Finding, failed, warned
from orchestrator.config.cluster import Cluster
from orchestrator.config.recipe import Recipe

NAME = "places"

UNNAMED = "not-named-yet"
"""Stands in a recipe for training data that it does not name, when a plan is made without any."""


def check_places(recipe: Recipe, cluster: Cluster) -> Iterator[Finding]:
    """Yield what would be written or looked for on the wrong machine.

    On a cluster, a job runs in a folder that goes when the job ends, and every machine has a disk of its own.
    """
    if cluster.kind == "local":
        return
    data = [(f"data.mix.{number}.uri", one.uri) for number, one in enumerate(recipe.data.mix or ())]
    data += [(f"data.{key}", uri) for key in ("train", "held_out") if (uri := getattr(recipe.data, key)) is not None]
    for key, uri in (*data, ("storage.uri", recipe.storage.uri)):
        if uri == UNNAMED:
            yield warned("data", "the recipe names no training data", "Set data.train before the run is submitted.")
        elif urlsplit(uri).scheme in ("", "file"):
            yield _local(key, uri.removeprefix("file://"))
    if recipe.tracking.uri.startswith(SQLITE):
        yield _sqlite(recipe.tracking.uri, sum(group.most for group in cluster.groups))


def _local(key: str, path: str) -> Finding:
    if not Path(path).expanduser().is_absolute():
        fix = "Name object storage (s3://, gs://), or the full path of a disk that all machines share."
        return failed(NAME, f"{key}: {path} lies in the job's own folder, which goes when the job ends", fix)
    fix = "Make sure that all machines share that disk, or name object storage (s3://, gs://)."
    return warned(NAME, f"{key}: {path} is a path, which every machine looks for on its own disk", fix)


def _sqlite(uri: str, machines: int) -> Finding:
    path = uri.removeprefix(SQLITE)
    fix = "Name an MLflow server (http://...) or a database server; MLFLOW_TRACKING_URI can hold a password."
    if not path.startswith("/"):
        return failed(NAME, f"tracking.uri: {uri} lies in the job's own folder, which goes when the job ends", fix)
    several = f"; the cluster has up to {machines}" if machines > 1 else ""
    return warned(NAME, f"tracking.uri: {uri} is a file on one machine's disk{several}, and goes with it", fix)
