"""Kubernetes' own resources, held against Kubernetes' schemas where the package kubernetes-validate is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from orchestrator.cluster.files.faults import Faults
from orchestrator.config.document import KeyPath
from orchestrator.config.loading import unknown_key

UNEXPECTED = "Additional properties are not allowed"


def check_pod_template(template: dict[str, Any], faults: Faults, key_path: KeyPath) -> None:
    """Note what is wrong with the pod of a template."""
    check_resource({"apiVersion": "v1", "kind": "Pod", "metadata": {}} | template, faults, key_path)


def check_resource(resource: dict[str, Any], faults: Faults, key_path: KeyPath = ()) -> None:
    """Note the first fault of a resource; nothing is noted where the schemas, or that of its kind, are not there."""
    if find_spec("kubernetes_validate") is None:
        return
    import kubernetes_validate

    try:
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return
    except kubernetes_validate.ValidationError as error:
        place = (*key_path, *error.absolute_path)
        if error.validator == "additionalProperties":
            _name_unexpected(error, faults, place)
        else:
            faults.add(place, f"Kubernetes refuses this: {error.message}")


def _name_unexpected(error: Any, faults: Faults, key_path: KeyPath) -> None:
    known = error.schema.get("properties", {})
    for key in error.instance:
        if key not in known:
            faults.add((*key_path, key), unknown_key(str(key), known))
