"""Every fault of a file of manifests is refused with its line, its key and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cluster.files import kuberay
from orchestrator.cluster.files.read import read_cluster
from orchestrator.config.errors import ConfigError, RecipeError

FOLDER = Path(__file__).parents[4] / "clusters" / "kuberay"
CLUSTER, JOB, QUEUED = ((FOLDER / name).read_text() for name in ("raycluster.yaml", "rayjob.yaml", "rayjob-kueue.yaml"))
BOUNDS = "      minReplicas: 0\n      maxReplicas: 2\n"
LABEL = "        fuseray.io/machine: p5.48xlarge\n"
AUTH = "  authOptions:\n    mode: token\n"
HEAD_SELECTOR = "        nodeSelector: {node.kubernetes.io/instance-type: m7i.2xlarge}"
LIMITS = '              limits: {cpu: "6", memory: 24Gi}\n'

WRONG = {
    "unknown key": (
        "  enableInTreeAutoscaling: true\n",
        "  enableInTreeAutoscalling: true\n",
        "enableInTreeAutoscalling",
        "did you mean 'enableInTreeAutoscaling'?",
    ),
    "unknown key of a group": (
        BOUNDS,
        BOUNDS.replace("minReplicas", "minReplica"),
        "minReplica:",
        "spec.workerGroupSpecs.0.minReplica: unknown key 'minReplica'; did you mean 'minReplicas'?",
    ),
    "unknown choice": (
        "    version: v2\n",
        "    version: v3\n",
        "version: v3",
        "spec.autoscalerOptions.version: must be 'v1' or 'v2'",
    ),
    "a number for text": (
        '      num-cpus: "0"\n',
        "      num-cpus: 0\n",
        "num-cpus: 0",
        "must be a valid string (got 0)",
    ),
    "a number too large": (
        BOUNDS,
        BOUNDS.replace("maxReplicas: 2", "maxReplicas: two"),
        "maxReplicas: two",
        "must be a valid integer (got 'two')",
    ),
    "min over max": (
        BOUNDS,
        BOUNDS.replace("minReplicas: 0", "minReplicas: 3"),
        "minReplicas: 3",
        "is 3, more than maxReplicas (2)",
    ),
    "replicas outside": (
        BOUNDS,
        BOUNDS + "      replicas: 5\n",
        "replicas: 5",
        "is 5, outside minReplicas (0) to maxReplicas (2)",
    ),
    "two groups of one name": (
        "groupName: cpu",
        "groupName: gpu",
        "groupName: gpu",
        "'gpu' is the name of another group already",
    ),
    "no token": (
        AUTH,
        "",
        "spec:",
        "spec.authOptions: Ray would be open to every pod; add `authOptions: {mode: token}`",
    ),
    "no authentication": ("    mode: token\n", "    mode: disabled\n", "mode: disabled", "write `mode: token`"),
    "tokens of Kubernetes": (
        "    mode: token\n",
        "    mode: token\n    enableK8sTokenAuth: true\n",
        "enableK8sTokenAuth",
        "leave this out, and KubeRay makes a token",
    ),
    "another Ray": (
        "  rayVersion: 2.60.0\n",
        "  rayVersion: 2.41.0\n",
        "2.41.0",
        "is 2.41.0, but Fuseray has Ray 2.60",
    ),
    "wrong machine label": (
        LABEL,
        LABEL.replace("p5", "p4"),
        "p4.48xlarge",
        "says p4.48xlarge, but the pods' nodeSelector requires p5.48xlarge",
    ),
    "no machine label": (LABEL, "", "labels:", "add `fuseray.io/machine: p5.48xlarge`"),
    "wrong market": (
        "        ray.io/market-type: spot\n",
        "        ray.io/market-type: on-demand\n",
        "labels:",
        "the pods' nodeSelector requires spot machines; add `ray.io/market-type: spot`",
    ),
    "unknown market": (
        "        ray.io/market-type: spot\n",
        "        ray.io/market-type: cheap\n",
        "cheap",
        "must be spot or on-demand (got 'cheap')",
    ),
    "spot head": (
        HEAD_SELECTOR,
        HEAD_SELECTOR.replace("}", ", karpenter.sh/capacity-type: spot}"),
        "headGroupSpec:",
        "the head must not be a spot machine",
    ),
    "no limits": (LIMITS, "", "resources:", "set limits.cpu"),
    "not a quantity": (LIMITS, LIMITS.replace("24Gi", "24GiB"), "24GiB", "is not a Kubernetes quantity (got '24GiB')"),
    "labels for ray start": (
        '      num-cpus: "0"\n',
        '      num-cpus: "0"\n      labels: a=b\n',
        "labels: a=b",
        "set them as the group's own `labels`",
    ),
    "unknown key of a pod": (
        "        nodeSelector: {node.kubernetes.io/instance-type: c7i.8xlarge}",
        "        nodeSelectors: {a: b}",
        "nodeSelectors",
        "template.spec.nodeSelectors: unknown key 'nodeSelectors'; did you mean 'nodeSelector'?",
    ),
    "wrong type in a pod": (
        "        terminationGracePeriodSeconds: 120\n",
        "        terminationGracePeriodSeconds: soon\n",
        "soon",
        "Kubernetes refuses this",
    ),
    "unknown key of another resource": (
        "  policyTypes: [Ingress]\n",
        "  policyType: [Ingress]\n",
        "policyType:",
        "did you mean 'policyTypes'?",
    ),
    "name": (
        "  name: fuseray\nspec:\n  rayVersion",
        "  name: Fuseray\nspec:\n  rayVersion",
        "name: Fuseray",
        "metadata.name: String should match pattern",
    ),
    "a secret": (
        "---\n",
        "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: b}\n---\n",
        "kind: Secret",
        "keep secrets out of files",
    ),
    "neither manifest nor comment": ("---\n", "---\na: 1\n---\n", "a: 1", "every document needs apiVersion and kind"),
    "a kind that is not Ray's": (
        "kind: RayCluster\n",
        "kind: RayClutser\n",
        "RayClutser",
        "must be RayCluster or RayJob (got 'RayClutser')",
    ),
    "a word that is a truth": (
        '              requests: {cpu: "6"',
        "              requests: {cpu: on",
        "cpu: on",
        "requests.cpu: is read as True by Ray and Kubernetes",
    ),
}
WRONG_JOBS = {
    "no command": (
        "  entrypoint: fuseray train /etc/fuseray/recipe.yaml --resume auto\n",
        "",
        "spec:",
        "spec.entrypoint: this key is required",
    ),
    "time to live without an end": (
        "  shutdownAfterJobFinishes: true ",
        "  shutdownAfterJobFinishes: false ",
        "ttlSecondsAfterFinished",
        "only counts with shutdownAfterJobFinishes: true",
    ),
    "unknown key": ("  backoffLimit: 3 ", "  backofLimit: 3 ", "backofLimit", "did you mean 'backoffLimit'?"),
    "fault deep in the cluster": (
        "      mode: token\n",
        "      mode: disabled\n",
        "mode: disabled",
        "spec.rayClusterSpec.authOptions.mode",
    ),
}


def check(path: Path, base: str, old: str, new: str, mark: str, message: str) -> None:
    assert old in base, f"the shipped file has no {old!r} any more"
    text = base.replace(old, new, 1)
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_cluster(path)
    found = [str(finding) for finding in caught.value.findings]
    fault = next((fault for fault in found if message in fault), None)
    assert fault is not None, found
    line = int(fault.removeprefix(f"{path}:").split(":")[0])
    assert mark in text.splitlines()[line - 1]


@pytest.mark.parametrize("name", WRONG)
def test_a_fault_of_a_cluster_is_named_with_its_line(name: str, tmp_path: Path) -> None:
    check(tmp_path / "cluster.yaml", CLUSTER, *WRONG[name])


@pytest.mark.parametrize("name", WRONG_JOBS)
def test_a_fault_of_a_job_is_named_with_its_line(name: str, tmp_path: Path) -> None:
    check(tmp_path / "job.yaml", JOB, *WRONG_JOBS[name])


def test_kueue_wants_its_machines_back(tmp_path: Path) -> None:
    text = QUEUED.replace("  ttlSecondsAfterFinished: 600 ", "  # ")
    check(tmp_path / "job.yaml", text, "Finishes: true ", "Finishes: false ", "shutdownAfter", "Kueue only admits jobs")


def test_a_file_holds_one_cluster(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(f"{CLUSTER}---\n{CLUSTER}")
    with pytest.raises(ConfigError, match="must hold one RayCluster or one RayJob, found 2"):
        read_cluster(path)


def test_without_kubernetes_schemas_the_rest_is_still_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kuberay, "find_spec", lambda name: None)
    path = tmp_path / "cluster.yaml"
    path.write_text(
        CLUSTER.replace("nodeSelector: {node.kubernetes.io/instance-type: c7i.8xlarge}", "nodeSelectors: {a: b}")
    )
    assert len(read_cluster(path).groups) == 3
    path.write_text(CLUSTER.replace("mode: token", "mode: disabled"))
    with pytest.raises(RecipeError, match="mode: token"):
        read_cluster(path)


def test_without_an_autoscaler_the_number_of_pods_is_fixed(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    text = CLUSTER.replace("enableInTreeAutoscaling: true", "enableInTreeAutoscaling: false")
    path.write_text(text.replace(BOUNDS, BOUNDS + "      replicas: 1\n      numOfHosts: 2\n"))
    _, gpu, cpu = read_cluster(path).groups
    assert (gpu.fewest, gpu.most) == (2, 2)
    assert (cpu.fewest, cpu.most) == (0, 0)
