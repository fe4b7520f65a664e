"""A file of Kubernetes manifests with one RayCluster or RayJob among them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.cluster.files.faults import Faults, refuse_all
from orchestrator.cluster.files.kuberay_groups import groups_of
from orchestrator.cluster.files.kuberay_models import RayClusterResource, RayClusterSpec, RayJobResource
from orchestrator.cluster.files.kuberay_rules import check_cluster_spec
from orchestrator.cluster.files.pods import check_pod_template, check_resource
from orchestrator.config.cluster import Cluster
from orchestrator.config.document import Document
from orchestrator.config.errors import SpecError
from orchestrator.config.loading import validate

API_GROUP = "ray.io/"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


def is_manifest(document: Document) -> bool:
    """Return whether a document looks like something for Kubernetes."""
    return {"apiVersion", "kind"} <= document.plain().keys()


def read_kuberay(documents: Sequence[Document], file: Path, faults: Sequence[Faults]) -> Cluster:
    """Return the cluster of a file of manifests.

    Args:
        documents: the file's.
        file: the file.
        faults: for each of the documents, what is wrong with it so far.

    Raises:
        SpecError: not exactly one of the manifests is a RayCluster or a RayJob.
        RecipeError: the file is wrong; all faults are listed with file and line.
    """
    rays = [index for index, document in enumerate(documents) if _is_ray(document)]
    if len(rays) != 1:
        raise SpecError(f"{file}: must hold one RayCluster or one RayJob, found {len(rays)}.")
    for index, (document, noted) in enumerate(zip(documents, faults, strict=True)):
        if index not in rays:
            _check_other(document, noted)
    ray = documents[rays[0]]
    spec = _checked_spec(ray, faults[rays[0]])
    if spec is None or any(faults):
        refuse_all(faults)
    manifest = ray.plain()
    name = str(manifest["metadata"]["name"])
    return Cluster(kind="kuberay", name=name, file=file, groups=groups_of(spec), settings=manifest)


def _is_ray(document: Document) -> bool:
    return str(document.plain().get("apiVersion")).startswith(API_GROUP)


def _check_other(document: Document, faults: Faults) -> None:
    manifest = document.plain()
    if not is_manifest(document):
        faults.add((), "every document needs apiVersion and kind")
    elif manifest["kind"] == "Secret":
        faults.add(("kind",), "keep secrets out of files: `kubectl create secret generic NAME --from-file=KEY=PATH`")
    else:
        check_resource(manifest, faults)


def _checked_spec(document: Document, faults: Faults) -> RayClusterSpec | None:
    manifest = document.plain()
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
        said = "only counts with shutdownAfterJobFinishes: true"
        faults.add(("spec", "ttlSecondsAfterFinished"), said)
    if spec.submissionMode != "InteractiveMode" and not spec.entrypoint:
        faults.add(("spec", "entrypoint"), "this key is required, for example `fuseray train RECIPE --resume auto`.")
    if QUEUE_LABEL in job.metadata.labels and not spec.shutdownAfterJobFinishes:
        said = "Kueue only admits jobs that give their machines back; write `shutdownAfterJobFinishes: true`"
        faults.add(("spec", "shutdownAfterJobFinishes"), said)
    if spec.rayClusterSpec is None:
        faults.add(("spec", "rayClusterSpec"), "this key is required: what the job's cluster is made of.")
        return None
    check_cluster_spec(spec.rayClusterSpec, faults, ("spec", "rayClusterSpec"))
    return spec.rayClusterSpec
