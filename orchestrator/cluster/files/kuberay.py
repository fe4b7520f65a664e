"""Reads and checks a cluster file of Kubernetes manifests: one RayCluster or RayJob, and other resources.

The fields of KubeRay's resources are in `kuberay_schema`. Kubernetes' own resources, pod templates among them, are
checked against Kubernetes' schemas where the package kubernetes-validate is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from orchestrator.cluster.files.kuberay_schema import (
    INSTANCE_TYPE,
    Group,
    RayClusterResource,
    RayClusterSpec,
    RayJobResource,
    WorkerGroup,
    group_market,
    groups_of,
    limits_of,
    quantity,
    requires_spot,
    selector_of,
)
from orchestrator.cluster.files.ray_launcher import SPOT_HEAD
from orchestrator.cluster.findings import Faults, list_or_empty, raise_faults
from orchestrator.config.cluster import MACHINE_LABEL, MARKET_LABEL, Cluster
from orchestrator.config.document import Document
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import unknown_key, validate
from orchestrator.config.yaml_text import KeyPath

API_GROUP = "ray.io/"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


def is_manifest(document: Document) -> bool:
    """Return whether a document has the keys that every Kubernetes manifest has."""
    return {"apiVersion", "kind"} <= document.to_dict().keys()


def read_kuberay(documents: Sequence[Document], file: Path, faults: Sequence[Faults]) -> Cluster:
    """Return the cluster of a file of manifests.

    Args:
        documents: the file's YAML documents.
        file: the file's path.
        faults: of each document, the faults collected so far.

    Raises:
        ConfigError: not exactly one of the manifests is a RayCluster or a RayJob.
        RecipeError: the file has faults; all of them are listed with file and line.
    """
    rays = [index for index, document in enumerate(documents) if _is_ray(document)]
    if len(rays) != 1:
        raise ConfigError(f"{file}: must hold one RayCluster or one RayJob, found {len(rays)}.")
    for index, (document, document_faults) in enumerate(zip(documents, faults, strict=True)):
        if index not in rays:
            _check_other(document, document_faults)
    ray = documents[rays[0]]
    spec = _checked_spec(ray, faults[rays[0]])
    if spec is None or any(faults):
        raise_faults(faults)
    manifest = ray.to_dict()
    name = str(manifest["metadata"]["name"])
    return Cluster(kind="kuberay", name=name, file=file, groups=groups_of(spec), settings=manifest)


def _is_ray(document: Document) -> bool:
    return str(document.to_dict().get("apiVersion")).startswith(API_GROUP)


def _check_other(document: Document, faults: Faults) -> None:
    manifest = document.to_dict()
    if not is_manifest(document):
        faults.add((), "every document needs apiVersion and kind")
    elif manifest["kind"] == "Secret":
        faults.add(("kind",), "keep secrets out of files: `kubectl create secret generic NAME --from-file=KEY=PATH`")
    else:
        check_resource(manifest, faults)


def _checked_spec(document: Document, faults: Faults) -> RayClusterSpec | None:
    manifest = document.to_dict()
    kind = manifest.get("kind")
    if kind == "RayCluster":
        cluster = validate(RayClusterResource, manifest, document)
        if not isinstance(cluster, list):
            check_cluster_spec(cluster.spec, faults, ("spec",))
            return cluster.spec
        faults.add_all(cluster)
    elif kind == "RayJob":
        job = validate(RayJobResource, manifest, document)
        if not isinstance(job, list):
            return _checked_job(job, faults)
        faults.add_all(job)
    else:
        faults.add(("kind",), f"must be RayCluster or RayJob (got {kind!r})")
    return None


def _checked_job(job: RayJobResource, faults: Faults) -> RayClusterSpec | None:
    spec = job.spec
    if spec.submitterPodTemplate is not None:
        check_pod_template(spec.submitterPodTemplate.model_dump(), faults, ("spec", "submitterPodTemplate"))
    if spec.ttlSecondsAfterFinished and not spec.shutdownAfterJobFinishes:
        message = "only counts with shutdownAfterJobFinishes: true"
        faults.add(("spec", "ttlSecondsAfterFinished"), message)
    if spec.submissionMode != "InteractiveMode" and not spec.entrypoint:
        faults.add(("spec", "entrypoint"), "this key is required, for example `fuseray train RECIPE --resume auto`.")
    if QUEUE_LABEL in job.metadata.labels and not spec.shutdownAfterJobFinishes:
        message = "Kueue only admits jobs that release their machines; write `shutdownAfterJobFinishes: true`"
        faults.add(("spec", "shutdownAfterJobFinishes"), message)
    if spec.rayClusterSpec is None:
        faults.add(("spec", "rayClusterSpec"), "this key is required: the specification of the job's cluster.")
        return None
    check_cluster_spec(spec.rayClusterSpec, faults, ("spec", "rayClusterSpec"))
    return spec.rayClusterSpec


MARKETS = ("spot", "on-demand")


def check_cluster_spec(spec: RayClusterSpec, faults: Faults, key_path: KeyPath) -> None:
    """Add faults for what would fail, cost money without being counted, or leave Ray open to others."""
    _check_auth(spec, faults, key_path)
    _check_version(spec, faults, key_path)
    head = (*key_path, "headGroupSpec")
    _check_group(spec.headGroupSpec, faults, head)
    if group_market(spec.headGroupSpec) == "spot":
        faults.add(head, SPOT_HEAD)
    seen: set[str] = set()
    for index, group in enumerate(spec.workerGroupSpecs):
        path = (*key_path, "workerGroupSpecs", index)
        _check_group(group, faults, path)
        _check_replicas(group, faults, path)
        if group.groupName in seen:
            faults.add((*path, "groupName"), f"{group.groupName!r} is the name of another group already")
        seen.add(group.groupName)


def _check_auth(spec: RayClusterSpec, faults: Faults, key_path: KeyPath) -> None:
    if spec.authOptions is None:
        faults.add((*key_path, "authOptions"), "Ray would be open to every pod; add `authOptions: {mode: token}`")
    elif spec.authOptions.mode != "token":
        faults.add((*key_path, "authOptions", "mode"), "Ray would be open to every pod; write `mode: token`")
    elif spec.authOptions.enableK8sTokenAuth:
        message = "leave this out, and KubeRay makes a token for the cluster; Fuseray does not use Kubernetes' tokens"
        faults.add((*key_path, "authOptions", "enableK8sTokenAuth"), message)


def _check_version(spec: RayClusterSpec, faults: Faults, key_path: KeyPath) -> None:
    installed = version("ray")
    if spec.rayVersion is not None and spec.rayVersion.split(".")[:2] != installed.split(".")[:2]:
        message = f"is {spec.rayVersion}, but Fuseray has Ray {installed}; both need the same version"
        faults.add((*key_path, "rayVersion"), message)


def _check_group(group: Group, faults: Faults, key_path: KeyPath) -> None:
    check_pod_template(group.template.model_dump(), faults, (*key_path, "template"))
    if not list_or_empty(group.template.spec.get("containers")):
        faults.add((*key_path, "template", "spec", "containers"), "must name at least one container, Ray's first")
    elif "cpu" not in limits_of(group):
        path = (*key_path, "template", "spec", "containers", 0, "resources")
        faults.add(path, "set limits.cpu: it is the number of CPUs that Ray schedules on")
    for name, limit in limits_of(group).items():
        if quantity(limit) is None:
            path = (*key_path, "template", "spec", "containers", 0, "resources", "limits", name)
            faults.add(path, f"is not a Kubernetes quantity (got {limit!r}); write 500m, 4 or 16Gi, for example")
    for option in ("labels", "resources"):
        if option in group.rayStartParams:
            path = (*key_path, "rayStartParams", option)
            faults.add(path, f"the autoscaler does not see these; set them as the group's own `{option}`")
    _check_labels(group, faults, key_path)


def _check_labels(group: Group, faults: Faults, key_path: KeyPath) -> None:
    required, labelled = selector_of(group).get(INSTANCE_TYPE), group.labels.get(MACHINE_LABEL)
    if required is not None and labelled is None:
        faults.add((*key_path, "labels"), f"add `{MACHINE_LABEL}: {required}`, or the cost of the node is not known")
    elif required is not None and labelled != required:
        faults.add(
            (*key_path, "labels", MACHINE_LABEL), f"says {labelled}, but the pods' nodeSelector requires {required}"
        )
    market = group.labels.get(MARKET_LABEL)
    if market is not None and market not in MARKETS:
        faults.add((*key_path, "labels", MARKET_LABEL), f"must be spot or on-demand (got {market!r})")
    elif requires_spot(group) and market != "spot":
        message = f"the pods' nodeSelector requires spot machines; add `{MARKET_LABEL}: spot`"
        faults.add((*key_path, "labels"), message)


def _check_replicas(group: WorkerGroup, faults: Faults, key_path: KeyPath) -> None:
    if group.minReplicas > group.maxReplicas:
        message = f"is {group.minReplicas}, more than maxReplicas ({group.maxReplicas})"
        faults.add((*key_path, "minReplicas"), message)
    elif group.replicas is not None and not group.minReplicas <= group.replicas <= group.maxReplicas:
        message = f"is {group.replicas}, outside minReplicas ({group.minReplicas}) to maxReplicas ({group.maxReplicas})"
        faults.add((*key_path, "replicas"), message)


UNEXPECTED = "Additional properties are not allowed"


def check_pod_template(template: dict[str, Any], faults: Faults, key_path: KeyPath) -> None:
    """Add the first fault of a pod template, if it has one."""
    check_resource({"apiVersion": "v1", "kind": "Pod", "metadata": {}} | template, faults, key_path)


def check_resource(resource: dict[str, Any], faults: Faults, key_path: KeyPath = ()) -> None:
    """Add the first fault of a Kubernetes resource, if it has one and the schema of its kind is available."""
    if find_spec("kubernetes_validate") is None:
        return
    import kubernetes_validate

    try:
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return
    except kubernetes_validate.ValidationError as error:
        path = (*key_path, *error.absolute_path)
        if error.validator == "additionalProperties":
            _add_unexpected_keys(error, faults, path)
        else:
            faults.add(path, f"Kubernetes refuses this: {error.message}")


def _add_unexpected_keys(error: Any, faults: Faults, key_path: KeyPath) -> None:
    known = error.schema.get("properties", {})
    for key in error.instance:
        if key not in known:
            faults.add((*key_path, key), unknown_key(str(key), known))
