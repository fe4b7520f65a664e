"""MLflow's model registry: the exported model of a run under a name, each run's once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from orchestrator.storage.location import Location
from orchestrator.track.connection import TrackingError
from orchestrator.track.deliveries import Copy
from orchestrator.track.step_sender import metric_name
from orchestrator.track.tracked_run import TrackedRun

MODEL = "model"
"""The folder of a run's artifacts that holds its exported model."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A version of a model in the registry.

    Args:
        name: the model's name.
        version: from 1.
        new: whether it was not there before.
    """

    name: str
    version: int
    new: bool

    @property
    def uri(self) -> str:
        """Its address, as MLflow's tools take it."""
        return f"models:/{self.name}/{self.version}"


def register_model(run: TrackedRun, model: Location, name: str, tags: Mapping[str, str], alias: str) -> Registered:
    """Have a run's exported model as a version of a registered model; a run that has one keeps it.

    Args:
        run: the run; files of the model that it lacks are sent first.
        model: the exported model in the run's folder.
        name: of the registered model, which is made if there is none.
        tags: of a new version; in their names MLflow takes no `@`, as in those of metrics.
        alias: points to this version from now on.

    Raises:
        TrackingError: MLflow cannot be reached, or there is no exported model.
    """
    client = run.connection.client
    with run.explained():
        _complete(run, model)
        source = f"{client.get_run(run.run_id).info.artifact_uri}/{MODEL}"
        known = _known(client, name, run.run_id, source)
        version = known or _create(client, name, run.run_id, source, tags)
        client.set_registered_model_alias(name, alias, version.version)
    return Registered(name, int(version.version), known is None)


def _complete(run: TrackedRun, model: Location) -> None:
    exported = {f"{MODEL}/{file}" for file in model.sizes()}
    if not exported:
        raise TrackingError(f"{model.uri}: holds no exported model; `fuseray export` writes one from a checkpoint.")
    if exported - run.files(MODEL):
        copy = Copy(run.connection, model, MODEL)
        while not copy.attempt():
            pass


def _known(client: MlflowClient, name: str, run_id: str, source: str) -> ModelVersion | None:
    page: str | None = None
    while True:
        found = client.search_model_versions(f"name = '{name}'", page_token=page)
        for version in found:
            if (version.run_id, version.source) == (run_id, source):
                return version
        page = found.token
        if not page:
            return None


def _create(client: MlflowClient, name: str, run_id: str, source: str, tags: Mapping[str, str]) -> ModelVersion:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.create_model_version(name, source, run_id, {metric_name(key): tags[key] for key in tags})
