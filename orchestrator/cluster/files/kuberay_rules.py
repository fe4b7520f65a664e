"""What has to hold for a Ray cluster on Kubernetes, beyond the fields of KubeRay."""

from __future__ import annotations

from importlib.metadata import version

from orchestrator.cluster.files.faults import Faults, listing
from orchestrator.cluster.files.kuberay_groups import (
    INSTANCE_TYPE,
    is_kept_to_spot,
    limits_of,
    market_of,
    selector_of,
)
from orchestrator.cluster.files.kuberay_models import Group, RayClusterSpec, WorkerGroup
from orchestrator.cluster.files.node_type_rules import SPOT_HEAD
from orchestrator.cluster.files.pods import check_pod_template
from orchestrator.cluster.files.quantities import quantity
from orchestrator.config.cluster import MACHINE_LABEL, MARKET_LABEL
from orchestrator.config.document import KeyPath

MARKETS = ("spot", "on-demand")


def check_cluster_spec(spec: RayClusterSpec, faults: Faults, key_path: KeyPath) -> None:
    """Note what would fail, cost without being counted, or stand open."""
    _check_auth(spec, faults, key_path)
    _check_version(spec, faults, key_path)
    head = (*key_path, "headGroupSpec")
    _check_group(spec.headGroupSpec, faults, head)
    if market_of(spec.headGroupSpec) == "spot":
        faults.add(head, SPOT_HEAD)
    seen: set[str] = set()
    for index, group in enumerate(spec.workerGroupSpecs):
        place = (*key_path, "workerGroupSpecs", index)
        _check_group(group, faults, place)
        _check_replicas(group, faults, place)
        if group.groupName in seen:
            faults.add((*place, "groupName"), f"{group.groupName!r} is the name of another group already")
        seen.add(group.groupName)


def _check_auth(spec: RayClusterSpec, faults: Faults, key_path: KeyPath) -> None:
    if spec.authOptions is None:
        faults.add((*key_path, "authOptions"), "Ray would be open to every pod; add `authOptions: {mode: token}`")
    elif spec.authOptions.mode != "token":
        faults.add((*key_path, "authOptions", "mode"), "Ray would be open to every pod; write `mode: token`")
    elif spec.authOptions.enableK8sTokenAuth:
        said = "leave this out, and KubeRay makes a token for the cluster; Fuseray has no use for Kubernetes' own"
        faults.add((*key_path, "authOptions", "enableK8sTokenAuth"), said)


def _check_version(spec: RayClusterSpec, faults: Faults, key_path: KeyPath) -> None:
    ours = version("ray")
    if spec.rayVersion is not None and spec.rayVersion.split(".")[:2] != ours.split(".")[:2]:
        said = f"is {spec.rayVersion}, but Fuseray has Ray {ours}; both sides need the same one"
        faults.add((*key_path, "rayVersion"), said)


def _check_group(group: Group, faults: Faults, key_path: KeyPath) -> None:
    check_pod_template(group.template.model_dump(), faults, (*key_path, "template"))
    if not listing(group.template.spec.get("containers")):
        faults.add((*key_path, "template", "spec", "containers"), "must name at least one container, Ray's first")
    elif "cpu" not in limits_of(group):
        place = (*key_path, "template", "spec", "containers", 0, "resources")
        faults.add(place, "set limits.cpu: Ray hands out what the limits say")
    for name, limit in limits_of(group).items():
        if quantity(limit) is None:
            place = (*key_path, "template", "spec", "containers", 0, "resources", "limits", name)
            faults.add(place, f"is no quantity (got {limit!r}); write 500m, 4 or 16Gi, for example")
    for option in ("labels", "resources"):
        if option in group.rayStartParams:
            place = (*key_path, "rayStartParams", option)
            faults.add(place, f"the autoscaler does not see these; set them as the group's own `{option}`")
    _check_labels(group, faults, key_path)


def _check_labels(group: Group, faults: Faults, key_path: KeyPath) -> None:
    asked, said = selector_of(group).get(INSTANCE_TYPE), group.labels.get(MACHINE_LABEL)
    if asked is not None and said is None:
        faults.add((*key_path, "labels"), f"add `{MACHINE_LABEL}: {asked}`, or nobody can tell what the node costs")
    elif asked is not None and said != asked:
        faults.add((*key_path, "labels", MACHINE_LABEL), f"says {said}, but the pods are kept to {asked}")
    market = group.labels.get(MARKET_LABEL)
    if market is not None and market not in MARKETS:
        faults.add((*key_path, "labels", MARKET_LABEL), f"must be spot or on-demand (got {market!r})")
    elif is_kept_to_spot(group) and market != "spot":
        said = f"the pods are kept to spot machines; add `{MARKET_LABEL}: spot`"
        faults.add((*key_path, "labels"), said)


def _check_replicas(group: WorkerGroup, faults: Faults, key_path: KeyPath) -> None:
    if group.minReplicas > group.maxReplicas:
        said = f"is {group.minReplicas}, more than maxReplicas ({group.maxReplicas})"
        faults.add((*key_path, "minReplicas"), said)
    elif group.replicas is not None and not group.minReplicas <= group.replicas <= group.maxReplicas:
        said = f"is {group.replicas}, outside minReplicas ({group.minReplicas}) to maxReplicas ({group.maxReplicas})"
        faults.add((*key_path, "replicas"), said)
