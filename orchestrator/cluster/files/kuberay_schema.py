"""KubeRay's resources RayCluster and RayJob (ray.io/v1 as of KubeRay 1.7), and the node groups that they describe.

Fields have KubeRay's names. Pod templates, services and the like are Kubernetes' own: they are plain mappings here, and
`kuberay.check_resource` checks them.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal

from pydantic import Field

from orchestrator.cluster.findings import list_or_empty, mapping_or_empty
from orchestrator.config.cluster import MACHINE_LABEL, MARKET_LABEL, NodeGroup
from orchestrator.config.cluster import Market as ClusterMarket
from workloads.contract import Section

Mapping = dict[str, Any]
Texts = dict[str, str]
Market = Literal["spot", "on-demand"]


class Metadata(Section):
    """Name, namespace and labels of a resource."""

    name: str = Field(
        pattern=r"^[a-z]([a-z0-9-]{0,48}[a-z0-9])?$", description="At most 50 characters, or pods cannot be named."
    )
    namespace: str | None = Field(None, description="Kubernetes namespace.")
    labels: Texts = Field({}, description="Labels of the resource.")
    annotations: Texts = Field({}, description="Annotations of the resource.")


class AuthOptions(Section):
    """Authentication of Ray."""

    mode: Literal["token", "disabled"] = Field("token", description="Token authentication, or none.")
    secretName: str | None = Field(None, description="Secret with the key auth_token; null: KubeRay makes one.")
    enableK8sTokenAuth: bool | None = Field(None, description="Let Kubernetes check tokens.")


class TLSOptions(Section):
    """Encryption between Ray's processes."""

    enabled: bool | None = Field(None, description="Mutual TLS by cert-manager.")


class AutoscalerOptions(Section):
    """The autoscaler's container in the head's pod."""

    version: Literal["v1", "v2"] | None = Field(None, description="Version of the autoscaler.")
    upscalingMode: Literal["Default", "Aggressive", "Conservative"] | None = Field(
        None, description="How fast it grows."
    )
    idleTimeoutSeconds: int | None = Field(None, ge=0, description="How long a pod may idle.")
    image: str | None = Field(None, description="Image; null: the head's.")
    imagePullPolicy: Literal["Always", "IfNotPresent", "Never"] | None = Field(None, description="When to pull.")
    resources: Mapping | None = Field(None, description="Of its container.")
    env: tuple[Mapping, ...] = Field((), description="Of its container.")
    envFrom: tuple[Mapping, ...] = Field((), description="Of its container.")
    volumeMounts: tuple[Mapping, ...] = Field((), description="Of its container.")
    securityContext: Mapping | None = Field(None, description="Of its container.")
    command: tuple[str, ...] = Field((), description="Of its container.")
    args: tuple[str, ...] = Field((), description="Of its container.")


class PodTemplate(Section):
    """The template of a group's pods."""

    metadata: Mapping = Field({}, description="Labels and annotations of the pods.")
    spec: Mapping = Field(description="The pod's specification.")


class Group(Section):
    """The fields that the head's group and the workers' groups share."""

    rayStartParams: Texts = Field({}, description="Options of `ray start`, without dashes, as text.")
    resources: Texts = Field({}, description="Resources that Ray schedules, where they differ from the container's.")
    labels: Texts = Field({}, description="Labels of Ray's nodes.")
    template: PodTemplate = Field(description="The pods.")


class HeadGroup(Group):
    """The head's pod."""

    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] | None = Field(
        None, description="Service."
    )
    headService: Mapping | None = Field(None, description="The head's service.")
    enableIngress: bool | None = Field(None, description="Whether an ingress is made.")
    ingressOptions: Mapping | None = Field(None, description="Host, path and TLS of the ingress.")


class ScaleStrategy(Section):
    """Which pods are deleted first."""

    workersToDelete: tuple[str, ...] = Field((), description="Names of pods.")


class WorkerGroup(Group):
    """A group of identical workers."""

    groupName: str = Field(min_length=1, description="Name of the group.")
    replicas: int | None = Field(None, ge=0, description="Pods at the start.")
    minReplicas: int = Field(0, ge=0, description="Fewest pods.")
    maxReplicas: int = Field(2147483647, ge=0, description="Most pods.")
    numOfHosts: int = Field(1, ge=1, description="Pods of one replica.")
    idleTimeoutSeconds: int | None = Field(None, ge=0, description="How long a pod may idle.")
    priority: int | None = Field(None, description="The group with the highest priority is scaled up first.")
    suspend: bool | None = Field(None, description="Whether the group's pods are deleted.")
    scaleStrategy: ScaleStrategy | None = Field(None, description="Which pods are deleted first.")


class RayClusterSpec(Section):
    """A Ray cluster on Kubernetes."""

    rayVersion: str | None = Field(None, description="Version of Ray in the images.")
    authOptions: AuthOptions | None = Field(None, description="Authentication of Ray.")
    tlsOptions: TLSOptions | None = Field(None, description="Encryption.")
    enableInTreeAutoscaling: bool = Field(False, description="Whether the autoscaler runs.")
    autoscalerOptions: AutoscalerOptions | None = Field(None, description="How the autoscaler runs.")
    headGroupSpec: HeadGroup = Field(description="The head's pod.")
    workerGroupSpecs: tuple[WorkerGroup, ...] = Field((), description="The workers' pods.")
    headServiceAnnotations: Texts = Field({}, description="Annotations of the head's service.")
    gcsFaultToleranceOptions: Mapping | None = Field(
        None, description="Storage of the GCS, so that the head can be restarted."
    )
    historyServerOptions: Mapping | None = Field(None, description="What is kept after the cluster is deleted.")
    networkPolicy: Mapping | None = Field(None, description="Who may reach the pods.")
    upgradeStrategy: Mapping | None = Field(None, description="How pods are replaced when the manifest changes.")
    managedBy: Literal["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"] | None = Field(
        None, description="The controller that manages the resource."
    )
    suspend: bool | None = Field(None, description="Whether the pods are deleted.")


class SubmitterConfig(Section):
    """The Kubernetes job that submits."""

    backoffLimit: int | None = Field(None, ge=0, description="How often it is tried again.")


class RayJobSpec(Section):
    """A Ray cluster for one job."""

    rayClusterSpec: RayClusterSpec | None = Field(None, description="The cluster.")
    clusterSelector: Texts = Field({}, description="Labels of an existing cluster.")
    entrypoint: str | None = Field(None, description="The job's command.")
    runtimeEnvYAML: str | None = Field(None, description="The job's runtime environment.")
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"] = Field(
        "K8sJobMode", description="How the job is submitted."
    )
    submitterPodTemplate: PodTemplate | None = Field(None, description="The pod that submits.")
    submitterConfig: SubmitterConfig | None = Field(None, description="The Kubernetes job that submits.")
    entrypointNumCpus: float | None = Field(None, ge=0, description="CPUs for the job's command.")
    entrypointNumGpus: float | None = Field(None, ge=0, description="GPUs for the job's command.")
    entrypointResources: str | None = Field(None, description="Custom resources for it, as JSON.")
    jobId: str | None = Field(None, description="Ray's submission id of the job.")
    metadata: Texts = Field({}, description="Metadata of the Ray job.")
    backoffLimit: int | None = Field(None, ge=0, description="New clusters after a failure.")
    activeDeadlineSeconds: int | None = Field(None, ge=1, description="How long it may take.")
    preRunningDeadlineSeconds: int | None = Field(None, ge=1, description="How long it may take to start.")
    shutdownAfterJobFinishes: bool = Field(False, description="Whether the cluster is deleted after the job.")
    ttlSecondsAfterFinished: int = Field(0, ge=0, description="How long it stays after the job.")
    deletionStrategy: Mapping | None = Field(None, description="What is deleted when.")
    suspend: bool | None = Field(None, description="Whether to wait; Kueue sets this.")
    managedBy: Literal["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"] | None = Field(
        None, description="The controller that manages the resource."
    )


class RayClusterResource(Section):
    """A manifest of kind RayCluster."""

    apiVersion: Literal["ray.io/v1"] = Field(description="Version of KubeRay's resources.")
    kind: Literal["RayCluster"] = Field(description="Kind of the resource.")
    metadata: Metadata = Field(description="Name, namespace and labels.")
    spec: RayClusterSpec = Field(description="The cluster.")


class RayJobResource(Section):
    """A manifest of kind RayJob."""

    apiVersion: Literal["ray.io/v1"] = Field(description="Version of KubeRay's resources.")
    kind: Literal["RayJob"] = Field(description="Kind of the resource.")
    metadata: Metadata = Field(description="Name, namespace and labels.")
    spec: RayJobSpec = Field(description="The job and its cluster.")


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


def group_machine(group: Group) -> str | None:
    """Return the machine type: of the pods' nodeSelector, else of the group's label."""
    return selector_of(group).get(INSTANCE_TYPE) or group.labels.get(MACHINE_LABEL)


def group_market(group: Group) -> ClusterMarket:
    """Return how the machine is paid for; a machine of unknown type without a label counts as owned."""
    if requires_spot(group) or group.labels.get(MARKET_LABEL) == "spot":
        return "spot"
    return "on-demand" if group.labels.get(MARKET_LABEL) or group_machine(group) else "owned"


def requires_spot(group: Group) -> bool:
    """Return whether the pods' nodeSelector allows only spot machines."""
    selector = selector_of(group)
    return any(selector.get(key) == value for key, value in SPOT_SELECTORS.items())


def selector_of(group: Group) -> dict[str, Any]:
    """Return the pods' nodeSelector."""
    return mapping_or_empty(group.template.spec.get("nodeSelector"))


def limits_of(group: Group) -> dict[str, Any]:
    """Return the resource limits of the first container, which is Ray's."""
    container = next(iter(map(mapping_or_empty, list_or_empty(group.template.spec.get("containers")))), {})
    return mapping_or_empty(mapping_or_empty(container.get("resources")).get("limits"))


def _workers(group: WorkerGroup, autoscaled: bool) -> NodeGroup:
    fixed = group.minReplicas if group.replicas is None else group.replicas
    fewest, most = (group.minReplicas, group.maxReplicas) if autoscaled else (fixed, fixed)
    return _group(group.groupName, group, fewest * group.numOfHosts, most * group.numOfHosts)


def _group(name: str, group: Group, fewest: int, most: int, *, head: bool = False) -> NodeGroup:
    limits = limits_of(group)
    cpus = _declared(group, "CPU", "num-cpus", limits.get("cpu"))
    return NodeGroup(
        name=name,
        machine=group_machine(group),
        market=group_market(group),
        fewest=fewest,
        most=most,
        cpus=None if cpus is None else math.ceil(cpus),
        gpus=_declared(group, "GPU", "num-gpus", limits.get(GPU)) or 0,
        head=head,
    )


def _declared(group: Group, resource: str, option: str, limit: Any) -> float | None:
    for value in (group.resources.get(resource), group.rayStartParams.get(option), limit):
        if value is not None:
            return quantity(value)
    return None


QUANTITY = re.compile(r"^(?P<number>\d+(\.\d+)?)(?P<suffix>m|k|M|G|T|Ki|Mi|Gi|Ti)?$")
FACTORS = {
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
}


def quantity(value: Any) -> float | None:
    """Return a quantity such as 500m, 4 or 16Gi as a number; None when it is not a quantity."""
    match = QUANTITY.match(str(value))
    return float(match["number"]) * FACTORS.get(match["suffix"] or "", 1.0) if match else None
