"""What the groups of a KubeRay manifest say about machines."""

from __future__ import annotations

import math
from typing import Any

from orchestrator.cluster.files.faults import listing, mapping
from orchestrator.cluster.files.kuberay_models import Group, RayClusterSpec, WorkerGroup
from orchestrator.cluster.files.quantities import quantity
from orchestrator.config.cluster import MACHINE_LABEL, MARKET_LABEL, Market, NodeGroup

INSTANCE_TYPE = "node.kubernetes.io/instance-type"
SPOT_SELECTORS = {
    "cloud.google.com/gke-spot": "true",
    "cloud.google.com/gke-provisioning": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
    "karpenter.sh/capacity-type": "spot",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
GPU = "nvidia.com/gpu"


def groups_of(spec: RayClusterSpec) -> tuple[NodeGroup, ...]:
    """Return the head's group and those of the workers."""
    head = _group("head", spec.headGroupSpec, 1, 1, head=True)
    return (head, *(_workers(group, spec.enableInTreeAutoscaling) for group in spec.workerGroupSpecs))


def machine_of(group: Group) -> str | None:
    """Return the type of machine: what the pods are kept to, else what the label says."""
    return selector_of(group).get(INSTANCE_TYPE) or group.labels.get(MACHINE_LABEL)


def market_of(group: Group) -> Market:
    """Return how the machine is paid for; one of unknown type without a label is taken for one's own."""
    if is_kept_to_spot(group) or group.labels.get(MARKET_LABEL) == "spot":
        return "spot"
    return "on-demand" if group.labels.get(MARKET_LABEL) or machine_of(group) else "owned"


def is_kept_to_spot(group: Group) -> bool:
    """Return whether the pods may run on spot machines only."""
    selector = selector_of(group)
    return any(selector.get(key) == value for key, value in SPOT_SELECTORS.items())


def selector_of(group: Group) -> dict[str, Any]:
    """Return the labels of Kubernetes nodes that the pods are kept to."""
    return mapping(group.template.spec.get("nodeSelector"))


def limits_of(group: Group) -> dict[str, Any]:
    """Return the limits of the first container, which is Ray's."""
    container = next(iter(map(mapping, listing(group.template.spec.get("containers")))), {})
    return mapping(mapping(container.get("resources")).get("limits"))


def _workers(group: WorkerGroup, autoscaled: bool) -> NodeGroup:
    fixed = group.minReplicas if group.replicas is None else group.replicas
    fewest, most = (group.minReplicas, group.maxReplicas) if autoscaled else (fixed, fixed)
    return _group(group.groupName, group, fewest * group.numOfHosts, most * group.numOfHosts)


def _group(name: str, group: Group, fewest: int, most: int, *, head: bool = False) -> NodeGroup:
    limits = limits_of(group)
    cpus = _said(group, "CPU", "num-cpus", limits.get("cpu"))
    return NodeGroup(
        name=name,
        machine=machine_of(group),
        market=market_of(group),
        fewest=fewest,
        most=most,
        cpus=None if cpus is None else math.ceil(cpus),
        gpus=_said(group, "GPU", "num-gpus", limits.get(GPU)) or 0,
        head=head,
    )


def _said(group: Group, resource: str, option: str, limit: Any) -> float | None:
    for value in (group.resources.get(resource), group.rayStartParams.get(option), limit):
        if value is not None:
            return quantity(value)
    return None
